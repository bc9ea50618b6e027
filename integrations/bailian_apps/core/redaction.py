"""What is secret in a call's arguments, for reprs, dumps, pickles, traces and cache keys. Pure.

Two arguments can hold a secret: `api_key`, and `biz_params`. In `biz_params` these are secret:

- at any depth, a value whose name is a credential's (`is_credential_name`), so also everything
  under `user_defined_tokens`;
- at any depth, a pydantic `SecretStr` or `SecretBytes`, which is sent in the clear;
- what the setting `secret_biz_params` names.

Each is shown as `MASK`, so a trace still shows that there was a value.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast, get_args

from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter

from bailian_apps.core.errors import BailianError

MASK = "**********"
"""What is shown in place of a secret; pydantic shows a `SecretStr` in the same way."""

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

_ANY = TypeAdapter[Any](Any)

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
    """Return `biz_params` with its secrets masked, in JSON texts too.

    Args:
        biz_params: The parameters.
        names: The setting `secret_biz_params`.
    """
    return cast("dict[str, Any]", _redacted(biz_params, names, ""))


def redact_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return headers with every value masked: any may identify a user."""
    return dict.fromkeys(headers, MASK)


def _redacted(value: Any, names: Sequence[str], path: str) -> Any:
    if isinstance(value, (SecretStr, SecretBytes)):
        return MASK
    if isinstance(value, str):
        parsed = _parsed(value)
        redacted = _redacted(parsed, names, path)
        return value if redacted == parsed else json.dumps(redacted, ensure_ascii=False)
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        fields: dict[Any, Any] = {}
        for name, item in cast("Mapping[Any, Any]", value).items():
            here = f"{path}.{name}" if path else str(name)
            secret = here in names or name in names or _is_credential(str(name), item)
            hidden = secret and item is not None
            fields[name] = MASK if hidden else _redacted(item, names, here)
        return fields
    if isinstance(value, (list, tuple)):
        items: list[Any] = []
        for item in cast("Sequence[Any]", value):  # a comprehension doubles the depth of the stack
            items.append(_redacted(item, names, path))
        return items if isinstance(value, list) else tuple(items)
    return value


def _is_credential(name: str, value: object) -> bool:
    """Return whether a value is a credential by its name. A bool and a number of tokens are not."""
    is_count = isinstance(value, (int, float)) and name.lower().endswith("tokens")
    return not isinstance(value, bool) and not is_count and is_credential_name(name)


def _parsed(text: str) -> Any:
    """Return the value of a JSON text, if it is an object or an array; otherwise None."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def masked_path(value: Any, path: str) -> str | None:
    """Return where a value holds `MASK`, as one from a dump or pickle does; None if nowhere."""
    if isinstance(value, str):
        masked = value == MASK or (f'"{MASK}"' in value and _parsed(value) is not None)
        return path if masked else None
    items: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        items = ((f".{name}", item) for name, item in cast("dict[str, Any]", value).items())
    elif isinstance(value, (list, tuple)):
        items = ((f"[{at}]", item) for at, item in enumerate(cast("Sequence[Any]", value)))
    found = (masked_path(item, path + at) for at, item in items)
    return next((each for each in found if each is not None), None)


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


def to_json_values(value: Any, *, exclude_none: bool = False) -> Any:
    """Return a value, such as a model of start variables, as JSON values under their aliases.

    A `SecretStr` in it stays one: pydantic's JSON has `MASK` in its place, which would be sent.
    """
    dump = functools.partial(_ANY.dump_python, value, by_alias=True, exclude_none=exclude_none)
    return _with_secrets(dump(mode="json"), dump())


def _with_secrets(dumped: Any, value: Any) -> Any:
    """Return a dump in JSON values with the secrets of the same dump in Python objects."""
    if dumped == MASK and isinstance(value, (SecretStr, SecretBytes)):
        return value
    if isinstance(dumped, dict) and isinstance(value, dict):
        fields, secrets = cast("dict[str, Any]", dumped), cast("dict[str, Any]", value)
        return {name: _with_secrets(item, secrets.get(name)) for name, item in fields.items()}
    if isinstance(dumped, list) and isinstance(value, (list, tuple)):
        items, others = cast("list[Any]", dumped), cast("Sequence[Any]", value)
        if len(items) == len(others):
            return list(map(_with_secrets, items, others))
    return cast("Any", dumped)


def secret_fields(schema: object) -> tuple[str, ...]:
    """Return the names and aliases of fields that are secret by their type, in nested models too.

    Args:
        schema: A pydantic model; anything else has none.
    """
    names: list[str] = []
    types = [schema]
    for each in types:
        if isinstance(each, type(BaseModel)):  # `list[int]` is a `type` in Python 3.10
            for name, field in each.model_fields.items():
                parts = list(_parts(field.annotation))
                types += [part for part in parts if part not in types]
                if SecretStr in parts or SecretBytes in parts:
                    aliases = (field.alias, field.validation_alias, field.serialization_alias)
                    names += [name, *(alias for alias in aliases if isinstance(alias, str))]
    return tuple(names)


def _parts(annotation: object) -> Iterator[object]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def secret_names(kwargs: Mapping[str, Any], names: Sequence[str]) -> Sequence[str]:
    """Return the names that the setting `secret_biz_params` and the arguments of a call have."""
    given: object = kwargs.get("secret_biz_params")
    return [*names, *cast("Sequence[str]", given)] if isinstance(given, (list, tuple)) else names


def redact_kwargs(kwargs: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Return the arguments of a call without the key, with other secrets masked, models as JSON.

    Args:
        kwargs: The arguments.
        names: The setting `secret_biz_params`; one among the arguments adds to it.
    """
    public = {name: as_json(value) for name, value in kwargs.items() if name != "api_key"}
    if (biz_params := public.get("biz_params")) is not None:
        public["biz_params"] = dict(wrap_params(biz_params, secret_names(kwargs, names)))
    return public


def secrets_digest(biz_params: object, kwargs: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """Return a digest of all `biz_params` that hold secrets; `""` if none does.

    A cache key needs it: a user with other tokens must not get the cached answer.

    Args:
        biz_params: The setting.
        kwargs: The arguments of the call.
        names: The setting `secret_biz_params`; one among the arguments adds to it.
    """
    given = [unwrap_params(each) for each in (biz_params, kwargs.get("biz_params"))]
    names = secret_names(kwargs, names)
    secret = [reveal(each) for each in given if each and wrap_params(each, names) != each]
    if not secret:
        return ""
    return hashlib.sha256(json.dumps(secret, sort_keys=True, default=str).encode()).hexdigest()


def as_json(value: Any) -> Any:
    """Return a pydantic model, such as a `Timeout`, as a dict; other values unchanged."""
    return value.model_dump() if isinstance(value, BaseModel) else value


class _RedactedParams(dict[str, Any]):
    """A dict that exposes redacted parameters and keeps the original for the request."""

    __slots__ = ("original",)

    original: Any

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


class _WrappedKey(SecretStr):
    """A key whose pickle holds none."""

    def __reduce__(self) -> tuple[type[SecretStr], tuple[str]]:
        return SecretStr, (MASK,)


def wrap_secrets(kwargs: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Return arguments that a framework may publish and a call still takes, models as JSON.

    Args:
        kwargs: The arguments.
        names: The setting `secret_biz_params`; one among the arguments adds to it.
    """
    wrapped = {name: as_json(value) for name, value in kwargs.items()}
    key = reveal(wrapped.get("api_key"))
    if isinstance(key, str):
        wrapped["api_key"] = _WrappedKey(key)
    if wrapped.get("biz_params") is not None:
        wrapped["biz_params"] = wrap_params(wrapped["biz_params"], secret_names(kwargs, names))
    return wrapped


def wrap_params(params: Any, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return parameters in redacted form, from which `unwrap_params` takes the original.

    Nothing is shown of what is not a dict: it is refused, and may be the JSON text of one.
    """
    if isinstance(params, _RedactedParams):
        return params
    wrapped = _RedactedParams()
    wrapped.original = params
    if isinstance(params, Mapping):
        wrapped.update(redact_biz_params(cast("Mapping[str, Any]", params), names))
    return wrapped


def unwrap_params(value: Any) -> Any:
    """Return the original of what `wrap_params` returned; any other value unchanged."""
    return value.original if isinstance(value, _RedactedParams) else value


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
