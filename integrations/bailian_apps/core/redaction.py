"""What is secret in a call's arguments, for reprs, dumps, pickles, traces and cache keys. Pure.

Two arguments can hold a secret: `api_key`, and `biz_params`. In `biz_params` these are secret:

- at any depth, a value whose name is a credential's (`is_credential_name`), so also everything
  under `user_defined_tokens`;
- at any depth, a pydantic `SecretStr` or `SecretBytes`, which is sent in the clear;
- what the setting `secret_biz_params` names.

Each is shown as `MASK`, so a trace still shows that there was a value.

Images in `image_list` are no secret, but megabytes: their type and size stand for them.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast, get_args

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from bailian_apps.core.attachments import images_digest, shorten_images, with_short_images
from bailian_apps.core.errors import BailianError

MASK = "**********"
"""What is shown in place of a secret; pydantic shows a `SecretStr` in the same way."""

_SECRET_KWARGS = ("api_key", "biz_params", "image_list")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_CREDENTIALS = frozenset({"auth", "oauth", "authentication", "bearer", "jwt", "otp", "pwd"})
_CREDENTIAL_ENDINGS = tuple(
    word + plural
    for word in (
        "authorization", "secret", "password", "passwd", "passphrase", "cookie", "credential",
        "apikey", "accesskey", "privatekey", "secretkey",
    )
    for plural in ("", "s")
)  # fmt: skip
_KEYS = frozenset({
    "api", "access", "private", "secret", "app", "auth", "signing", "encryption", "subscription",
    "account", "ssh",
})  # fmt: skip
"""A key is a credential after one of these words, and not in `sort_key` or `keyword`."""
_COUNTS = frozenset({
    "max", "min", "num", "number", "count", "total", "limit", "used", "usage", "budget", "per",
    "input", "output", "prompt", "completion", "reasoning", "cached", "remaining",
})  # fmt: skip
"""Tokens are a model's, not a user's, beside one of these words, as in `max_tokens`."""

P = ParamSpec("P")
R = TypeVar("R")


@functools.lru_cache(maxsize=4096)
def is_credential_name(name: str) -> bool:
    """Return whether a name is a credential's, by its words.

    The words may be joined as in `user_token`, `apiKey`, `X-Api-Key` or `clientsecret`. The plural
    counts too, except where tokens are counted (`max_tokens`).
    """
    words = [word.lower() for word in _WORD.findall(name)]
    if any(of in _KEYS and key in ("key", "keys") for of, key in itertools.pairwise(words)):
        return True
    endings = _CREDENTIAL_ENDINGS
    if _COUNTS.isdisjoint(words):
        endings += ("token", "tokens")
    return any(word in _CREDENTIALS or word.endswith(endings) for word in [*words, "".join(words)])


def redact_biz_params(biz_params: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Return `biz_params` with its secrets masked.

    Args:
        biz_params: The parameters.
        names: The setting `secret_biz_params`.
    """
    return cast("dict[str, Any]", _redacted(biz_params, names, ""))


def _redacted(value: object, names: Sequence[str], path: str) -> object:
    if isinstance(value, (SecretStr, SecretBytes)):
        return MASK
    if isinstance(value, Mapping):
        fields: dict[object, object] = {}
        for name, item in cast("Mapping[object, object]", value).items():
            here = f"{path}.{name}" if path else str(name)
            secret = here in names or str(name) in names or is_credential_name(str(name))
            hidden = secret and not (
                item is None or isinstance(item, bool) or _is_count(name, item)
            )
            fields[name] = MASK if hidden else _redacted(item, names, here)
        return fields
    if isinstance(value, (list, tuple)):
        shown = [_redacted(item, names, path) for item in cast("Sequence[object]", value)]
        return shown if isinstance(value, list) else tuple(shown)
    return value


def _is_count(name: object, value: object) -> bool:
    return isinstance(value, (int, float)) and str(name).lower().endswith("tokens")


def reveal(value: Any) -> Any:
    """Return a value as it is sent: with every `SecretStr` and `SecretBytes` in the clear.

    Raises:
        UnicodeDecodeError: A `SecretBytes` is not UTF-8.
    """
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, SecretBytes):
        return value.get_secret_value().decode()
    if isinstance(value, dict):
        return {name: reveal(item) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [reveal(item) for item in cast("Sequence[Any]", value)]
    return value


def to_json_values(
    value: Any, *, exclude_none: bool = False, exclude: set[str] | None = None
) -> Any:
    """Return a value, such as a model of start variables, as JSON values under their aliases.

    A `SecretStr` in it stays one: pydantic would turn it into asterisks, which would be sent.
    """
    dumped: Any = to_jsonable_python(
        value, by_alias=True, exclude_none=exclude_none, exclude=exclude
    )
    if exclude:
        value = value.model_dump(by_alias=True, exclude_none=exclude_none, exclude=exclude)
    return _with_secrets(dumped, value, exclude_none)


def _with_secrets(dumped: Any, value: Any, exclude_none: bool) -> Any:
    if isinstance(value, (SecretStr, SecretBytes)):
        return value
    if isinstance(value, BaseModel):
        value = value.model_dump(by_alias=True, exclude_none=exclude_none)
    if not isinstance(dumped, (dict, list)) or not isinstance(value, (Mapping, list, tuple)):
        return cast("Any", dumped)
    if len(dumped) != len(value):  # pyright: ignore[reportUnknownArgumentType]
        return cast("Any", dumped)  # its own serializer has another shape in JSON
    if isinstance(dumped, dict) and isinstance(value, Mapping):
        originals = cast("Mapping[str, Any]", value).values()
        pairs = zip(cast("dict[str, Any]", dumped).items(), originals, strict=True)
        return {name: _with_secrets(item, each, exclude_none) for (name, item), each in pairs}
    items = zip(cast("list[Any]", dumped), cast("Sequence[Any]", value), strict=True)
    return [_with_secrets(item, each, exclude_none) for item, each in items]


def secret_fields(schema: object) -> tuple[str, ...]:
    """Return the names and aliases of a model's fields that are secret by their type."""
    return tuple(dict.fromkeys(_secret_fields(schema, set())))


def _secret_fields(schema: object, seen: set[object]) -> Iterator[str]:
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)) or schema in seen:
        return
    seen.add(schema)
    for name, field in schema.model_fields.items():
        parts = list(_parts(field.annotation))
        if SecretStr in parts or SecretBytes in parts:
            aliases = (field.alias, field.validation_alias, field.serialization_alias)
            yield from (each for each in (name, *aliases) if isinstance(each, str))
        for part in parts:
            yield from _secret_fields(part, seen)


def _parts(annotation: object) -> Iterator[object]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def masked_path(value: object, path: str) -> str | None:
    """Return where a value holds `MASK`, as one from a dump or pickle does; None if nowhere."""
    if isinstance(value, str):
        return path if value == MASK else None
    found: Iterable[str | None] = ()
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value).items()
        found = (masked_path(item, f"{path}.{name}") for name, item in fields)
    elif isinstance(value, (list, tuple)):
        items = enumerate(cast("Sequence[object]", value))
        found = (masked_path(item, f"{path}[{index}]") for index, item in items)
    return next((each for each in found if each is not None), None)


def redact_kwargs(kwargs: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Return the arguments of a call without the key, with other secrets masked, models as JSON.

    Args:
        kwargs: The arguments.
        names: The setting `secret_biz_params`; one among the arguments adds to it.
    """
    public = {name: as_json(value) for name, value in kwargs.items() if name != "api_key"}
    if (biz_params := public.get("biz_params")) is not None:
        public["biz_params"] = _shown(biz_params, secret_names(kwargs, names))
    return with_short_images(public)


def _shown(biz_params: object, names: Sequence[str]) -> Any:
    """Return redacted `biz_params`; `MASK` for what is refused, a JSON text perhaps."""
    if isinstance(biz_params, _RedactedParams):
        return dict(biz_params)
    if isinstance(biz_params, Mapping):
        return redact_biz_params(cast("Mapping[str, Any]", biz_params), names)
    return MASK


def secret_names(kwargs: Mapping[str, Any], names: Sequence[str]) -> Sequence[str]:
    """Return the names that the setting `secret_biz_params` and the arguments of a call have."""
    given: object = kwargs.get("secret_biz_params")
    return [*names, *cast("Sequence[str]", given)] if isinstance(given, (list, tuple)) else names


def secret_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that `redact_kwargs` takes something from, unchanged."""
    return {name: kwargs[name] for name in _SECRET_KWARGS if name in kwargs}


def secrets_digest(biz_params: object, kwargs: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """Return a digest of all `biz_params` that hold secrets, and of images; `""` for none.

    A cache key needs it: a user with other tokens, or an image of the same size, must not get the
    cached answer.

    Args:
        biz_params: The setting.
        kwargs: The arguments of the call.
        names: The setting `secret_biz_params`; one among the arguments adds to it.
    """
    names = secret_names(kwargs, names)
    secret: list[Any] = [
        reveal(given)
        for given in (biz_params, kwargs.get("biz_params"))
        if isinstance(given, Mapping)
        and redact_biz_params(cast("Mapping[str, Any]", given), names) != given
    ]
    if images := images_digest(kwargs.get("image_list")):
        secret.append(images)
    if not secret:
        return ""
    return hashlib.sha256(json.dumps(secret, sort_keys=True, default=str).encode()).hexdigest()


def as_json(value: Any) -> Any:
    """Return a pydantic model, such as a `Timeout`, as a dict; other values unchanged."""
    return value.model_dump() if isinstance(value, BaseModel) else value


class _ShortImages(list[Any]):
    """A list that exposes shortened images and keeps the original for the request."""

    __slots__ = ("original",)

    def __init__(self, images: object) -> None:
        super().__init__(cast("list[Any]", shorten_images(images)))
        self.original = images

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, (list(self),)


class _RedactedParams(dict[str, Any]):
    """A dict that exposes redacted `biz_params` and keeps the original for the request."""

    __slots__ = ("original",)

    def __init__(self, original: Any, redacted: Mapping[str, Any]) -> None:
        super().__init__(redacted)
        self.original = original

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


def wrap_secrets(kwargs: dict[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Return arguments that a framework may publish; `unwrap_params` restores them.

    Args:
        kwargs: The arguments.
        names: The setting `secret_biz_params`; one among the arguments adds to it.
    """
    key, biz_params = kwargs.get("api_key"), kwargs.get("biz_params")
    if isinstance(key, str):
        kwargs = kwargs | {"api_key": SecretStr(key)}
    if biz_params is not None and not isinstance(biz_params, _RedactedParams):
        shown = _shown(biz_params, secret_names(kwargs, names))
        kwargs = kwargs | {"biz_params": wrap_params(biz_params, {} if shown == MASK else shown)}
    images: object = kwargs.get("image_list")
    if isinstance(images, (list, tuple)) and not isinstance(images, _ShortImages):
        kwargs = kwargs | {"image_list": _ShortImages(cast("object", images))}
    return kwargs


def wrap_params(original: Any, redacted: Mapping[str, Any]) -> dict[str, Any]:
    """Return redacted parameters from which `unwrap_params` takes the original."""
    return _RedactedParams(original, redacted)


def unwrap_params(value: Any) -> Any:
    """Return the original of what `wrap_params` and `wrap_secrets` replace; any other value."""
    return value.original if isinstance(value, (_RedactedParams, _ShortImages)) else value


def take(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a call's arguments and empty the given dict.

    The dict is a variable of the frame that was called. That frame stays on the traceback when the
    call fails, for any error reporter to collect with its variables.
    """
    taken = dict(kwargs)
    kwargs.clear()
    return taken


def hides_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate what checks arguments: the errors it raises come without the frames that hold them.

    An error names its field, so little is lost.
    """

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BailianError as error:
            del args, kwargs
            error.__context__ = None
            raise error.with_traceback(None)  # noqa: B904 - it is the same error

    return checked
