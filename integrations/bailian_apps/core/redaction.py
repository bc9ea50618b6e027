"""What is secret in a call's arguments, for reprs, dumps, pickles, traces and cache keys. Pure.

Four arguments can hold a secret: `api_key`, `extra_headers` (every value), `biz_params` and
`extra_body`. In the last two these are secret:

- at any depth, a value whose name is a credential's (`core/credentials.py`), so also everything
  under `user_defined_tokens`;
- at any depth, a pydantic `SecretStr` or `SecretBytes`, which is sent in the clear;
- what the setting `secret_biz_params` names.

Each is shown as `MASK`, so a trace still shows that there was a value. Images in `image_list` are
no secret, but megabytes: a trace shows their type and size.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast, get_args

from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter
from typing_extensions import Self

from bailian_apps.core.attachments import images_digest, with_short_images
from bailian_apps.core.credentials import is_credential, may_name_credentials

MASK = "**********"
"""What is shown in place of a secret; pydantic shows a `SecretStr` in the same way."""

SECRET_FIELDS = frozenset({"biz_params", "extra_body", "extra_headers"})
"""The arguments of which some values are secret. The key is not among them: it is left out."""

MAX_DEPTH = 100
"""How deep dicts and lists of one argument may be nested."""

MAX_INT_BITS = 14_284
"""The longest number of an argument: about 4,300 digits. Python writes no longer ones."""

_ANY = TypeAdapter[Any](Any)


def redact_biz_params(biz_params: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Return `biz_params` with its secrets masked, in JSON texts too.

    Args:
        biz_params: The parameters.
        names: The setting `secret_biz_params`.
    """
    return cast("dict[str, Any]", _redacted(biz_params, names, ""))


def redact_value(value: Any) -> Any:
    """Return any value of a run, such as a step's input, with its secrets masked as above."""
    return _redacted(value, (), "")


def redact_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return headers with every value masked: any may identify a user."""
    return dict.fromkeys(headers, MASK)


def _redacted(value: Any, names: Sequence[str], path: str, within: tuple[int, ...] = ()) -> Any:
    if value is None or isinstance(value, (int, float)):
        too_long = isinstance(value, int) and value.bit_length() > MAX_INT_BITS
        return MASK if too_long else value  # nothing can show it, and it is refused later
    if isinstance(value, str):
        try:
            parsed = _parsed(value) if _may_hold_secrets(value, names) else None
        except RecursionError:
            return MASK  # nested too deeply to be searched
        redacted = _redacted(parsed, names, path, within)
        return value if redacted == parsed else json.dumps(redacted, ensure_ascii=False)
    if isinstance(value, (SecretStr, SecretBytes)):
        return MASK
    if not isinstance(value, (dict, list, tuple)):  # an ABC's check costs more
        if isinstance(value, BaseModel):
            value = value.model_dump()
        if not isinstance(value, (Mapping, list, tuple)):
            return value
    if id(cast("object", value)) in within or len(within) == MAX_DEPTH:
        return MASK  # it is refused later
    within = (*within, id(cast("object", value)))
    if not isinstance(value, (list, tuple)):
        fields: dict[Any, Any] = {}
        for name, item in cast("Mapping[Any, Any]", value).items():
            here = f"{path}.{name}" if path else str(name)
            secret = here in names or name in names or is_credential(str(name), item)
            hidden = secret and item is not None
            fields[name] = MASK if hidden else _redacted(item, names, here, within)
        return fields
    items: list[Any] = []
    for item in cast("Sequence[Any]", value):  # a comprehension doubles the depth of the stack
        items.append(_redacted(item, names, path, within))
    return items if isinstance(value, list) else tuple(items)


def _may_hold_secrets(text: str, names: Sequence[str]) -> bool:
    """Return whether a text can be JSON with a secret's name. Parsing it would cost far more."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    return may_name_credentials(text) or any(name.rpartition(".")[2] in text for name in names)


def _parsed(text: str) -> Any:
    """Return the value of a JSON text, if it is an object or an array; may raise RecursionError."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    for integer in (int, str):  # Python converts none of more than 4,300 digits
        with suppress(ValueError):
            return json.loads(text, parse_int=integer)
    return None


def masked_path(value: Any, path: str) -> str | None:
    """Return where a value holds `MASK`, as one from a dump or pickle does; None if nowhere."""
    if isinstance(value, str):
        if value != MASK and f'"{MASK}"' in value:
            with suppress(RecursionError):  # a dump has the mask in place of such a text
                return None if _parsed(value) is None else path
        return path if value == MASK else None
    # Every call asks, so a path is only made of what was found.
    if isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            if (found := masked_path(item, "")) is not None:
                return f"{path}.{name}{found}"
    elif isinstance(value, (list, tuple)):
        for at, item in enumerate(cast("Sequence[Any]", value)):
            if (found := masked_path(item, "")) is not None:
                return f"{path}[{at}]{found}"
    return None


def reveal(value: Any) -> Any:
    """Return a value as it is sent: with every `SecretStr` and `SecretBytes` in the clear.

    Raises:
        UnicodeDecodeError: A `SecretBytes` is not UTF-8.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
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

    A `SecretStr` in it stays one: pydantic's JSON has `MASK` in its place, which would be sent.
    """
    dump = functools.partial(
        _ANY.dump_python, value, by_alias=True, exclude_none=exclude_none, exclude=exclude
    )
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
    if isinstance(given, str):  # it is refused later
        return [*names, given]
    if not isinstance(given, Collection):
        return names
    return [*names, *(name for name in cast("Collection[object]", given) if isinstance(name, str))]


def redacted(field: str, value: Any, names: Sequence[str] = ()) -> dict[str, Any] | None:
    """Return an argument that is one of `SECRET_FIELDS` with its secrets masked.

    Args:
        field: The argument's name.
        value: The argument.
        names: The setting `secret_biz_params`.
    """
    return None if value is None else dict(wrap_params(value, names, field=field))


def redact_kwargs(kwargs: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Return the arguments of a call without the key, with other secrets masked, models as JSON.

    Args:
        kwargs: The arguments.
        names: The setting `secret_biz_params`; one among the arguments adds to it.
    """
    names = secret_names(kwargs, names)
    public = {
        name: redacted(name, value, names) if name in SECRET_FIELDS else value
        for name, value in _without_misspelt(kwargs).items()
        if name != "api_key"
    }
    return with_short_images(public)


def secrets_digest(
    settings: Mapping[str, Any], kwargs: Mapping[str, Any], names: Sequence[str] = ()
) -> str:
    """Return a digest of all arguments with secret values, and of images; `""` if there are none.

    A cache key needs it: a user with other tokens, or another image of the same size, must not get
    the cached answer.

    Args:
        settings: The settings.
        kwargs: The arguments of the call.
        names: The setting `secret_biz_params`; one among the arguments adds to it.
    """
    names = secret_names(kwargs, names)
    secret: list[Any] = []
    for given in (settings, kwargs):
        for field in sorted(SECRET_FIELDS & given.keys()):
            value = unwrap_params(given[field])
            if value and redacted(field, value, names) != value:
                secret.append(value)
    if images := images_digest(kwargs.get("image_list")):
        secret.append(images)
    if not secret:
        return ""
    try:
        text = json.dumps(reveal(secret), sort_keys=True, default=str)
    except (RecursionError, ValueError):  # it is refused later
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


def as_json(value: Any) -> Any:
    """Return a pydantic model, such as a `Timeout`, as a dict; other values unchanged."""
    if type(value) in (str, bool, int, float, dict, list, tuple, type(None)):
        return value  # the check below costs more
    return value.model_dump() if isinstance(value, BaseModel) else value


def _without_misspelt(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments, models as JSON; a misspelt key, such as `apikey`, is masked.

    It is refused later, by its name.
    """
    known = ("api_key", "secret_biz_params")
    return {
        name: MASK if name not in known and is_credential(name, value) else as_json(value)
        for name, value in kwargs.items()
    }


class _KeptWhenCopied:
    """What a copy of a bound call, also a deep one, has in common with it."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


class _RedactedParams(_KeptWhenCopied, dict[str, Any]):
    """A dict that exposes redacted parameters and keeps the original for the request."""

    original: Any

    @classmethod
    def of(cls, original: object) -> Self:
        """Return a dict for a value of which nothing is shown."""
        made = cls()
        made.original = original
        return made

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


class _WrappedKey(_KeptWhenCopied, SecretStr):
    """A key whose pickle holds none."""

    def __reduce__(self) -> tuple[type[SecretStr], tuple[str]]:
        return SecretStr, (MASK,)


def wrap_secrets(kwargs: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """Return arguments that a framework may publish and a call still takes, models as JSON.

    Args:
        kwargs: The arguments.
        names: The setting `secret_biz_params`; one among the arguments adds to it.
    """
    wrapped = _without_misspelt(kwargs)
    key = wrapped.get("api_key")
    if isinstance(key, (str, SecretStr)):
        wrapped["api_key"] = _WrappedKey(reveal(key))
    elif key is not None and not callable(key):  # it is refused later, and may hold a key
        wrapped["api_key"] = _RedactedParams.of(key)
    names = secret_names(kwargs, names)
    for field in SECRET_FIELDS & wrapped.keys():
        if (value := wrapped[field]) is not None:
            wrapped[field] = wrap_params(value, names, field=field)
    return with_short_images(wrapped)


def wrap_params(
    params: Any, names: Sequence[str] = (), *, field: str = "biz_params"
) -> dict[str, Any]:
    """Return parameters in redacted form, from which `unwrap_params` takes the original.

    Nothing is shown of what is not a dict: it is refused, and may be the JSON text of one.

    Args:
        params: The parameters.
        names: The setting `secret_biz_params`.
        field: The argument that they are, one of `SECRET_FIELDS`.
    """
    if isinstance(params, _RedactedParams):
        return params
    wrapped = _RedactedParams.of(params)
    if isinstance(params, Mapping):
        fields = cast("Mapping[str, Any]", params)
        is_headers = field == "extra_headers"
        public = redact_headers(fields) if is_headers else redact_biz_params(fields, names)
        wrapped.update(with_short_images(public))
    return wrapped


def unwrap_params(value: Any) -> Any:
    """Return the original of what `wrap_params` returned; any other value unchanged."""
    return value.original if isinstance(value, _RedactedParams) else value
