"""Fields of JSON values; an error names the path of a value that JSON cannot represent. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    GetPydanticSchema,
    SecretBytes,
    SecretStr,
    ValidationInfo,
)

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.redaction import MAX_DEPTH, SECRET_FIELDS, reveal, unwrap_params

_OUTSIDE_BODY = ("app_id", "api_key", "base_url", "workspace")
_HINTS_BY_TYPE = {
    "datetime": "Pass .isoformat()",
    "date": "Pass .isoformat()",
    "time": "Pass .isoformat()",
    "Decimal": "Pass str(value) or float(value)",
    "bytes": "Pass base64 text",
    "set": "Pass a list",
    "frozenset": "Pass a list",
    "UUID": "Pass str(value)",
    "SecretStr": "Pass .get_secret_value()",
}


def _check_json_object(value: object, info: ValidationInfo) -> object:
    field = info.field_name or "value"
    value = unwrap_params(value)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidInputError(field, f"must be a dict of JSON values, not {kind_of(value)}")
    fields = dict(cast("Mapping[object, object]", value))
    _require_json(fields, field, secrets=field in SECRET_FIELDS)
    return fields


def _require_json(value: object, path: str, *, secrets: bool, within: tuple[int, ...] = ()) -> None:
    if isinstance(value, str):
        _require_utf8(value, path)
    elif secrets and isinstance(value, (SecretStr, SecretBytes)):
        try:
            _require_utf8(reveal(value), path)
        except UnicodeDecodeError:
            raise InvalidInputError(path, "is not UTF-8", "Pass base64 text") from None
    elif value is None or isinstance(value, int):  # bool is an int
        return
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInputError(path, f"is {value}, which JSON cannot represent", "Pass None")
    elif isinstance(value, (dict, list, tuple)):
        within = _entered(cast("object", value), path, within)
        if isinstance(value, dict):
            for key, item in cast("dict[object, object]", value).items():
                if not isinstance(key, str):
                    raise InvalidInputError(path, f"must have str keys, not {kind_of(key)}")
                _require_utf8(key, f"a key of {path}")
                _require_json(item, f"{path}.{key}", secrets=secrets, within=within)
            return
        for index, item in enumerate(cast("Sequence[object]", value)):
            _require_json(item, f"{path}[{index}]", secrets=secrets, within=within)
    else:
        hint = _HINTS_BY_TYPE.get(
            type(value).__name__, "Pass a str, number, bool, None, list or dict"
        )
        raise InvalidInputError(path, f"is {kind_of(value)}, which JSON cannot represent", hint)


def _entered(value: object, path: str, within: tuple[int, ...]) -> tuple[int, ...]:
    """Return the ids of what a value is nested in, and its own."""
    if id(value) in within:
        raise InvalidInputError(path, "refers to itself, which JSON cannot represent")
    if len(within) == MAX_DEPTH:
        field = re.split(r"[.\[]", path, maxsplit=1)[0]
        raise InvalidInputError(field, f"is nested too deeply: in more than {MAX_DEPTH} values")
    return (*within, id(value))


def _require_utf8(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            path,
            "has half of a surrogate pair, which cannot be sent",
            'Pass value.encode("utf-8", "replace").decode()',
        ) from None


def check_text(value: str | None, info: ValidationInfo) -> str | None:
    """Return the text of a field if UTF-8 can represent it."""
    if value is not None:
        _require_utf8(value, info.field_name or "text")
    return value


def kind_of(value: object) -> str:
    """Return the name of a value's type, with its article, for messages."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _check_extra_body(value: dict[str, Any]) -> dict[str, Any]:
    for name, part in value.items():
        if name not in ("input", "parameters"):
            hint = f'Pass extra_body={{"parameters": {{{name!r}: …}}}}'
            raise InvalidInputError(
                "extra_body",
                f"has the key {name!r}, and takes only 'input' and 'parameters'",
                f"Pass {name}= itself" if name in _OUTSIDE_BODY else hint,
            )
        if not isinstance(part, dict):
            raise InvalidInputError(f"extra_body.{name}", f"must be a dict, not {kind_of(part)}")
        if cast("dict[str, Any]", part).get("incremental_output", True) is not True:
            field = f"extra_body.{name}.incremental_output"
            raise InvalidInputError(field, "must be True, because answers are read as deltas")
    return value


JsonObject: TypeAlias = Annotated[dict[str, Any], BeforeValidator(_check_json_object)]
Text: TypeAlias = Annotated[str, AfterValidator(check_text)]
Texts: TypeAlias = Annotated[
    list[str] | tuple[str, ...],  # what a type checker accepts
    GetPydanticSchema(lambda _, schema_of: schema_of(tuple[Text, ...])),
]
"""Texts in a list or a tuple; held as a tuple."""
ExtraBody: TypeAlias = Annotated[JsonObject, AfterValidator(_check_extra_body)]
