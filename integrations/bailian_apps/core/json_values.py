"""Fields of JSON values, text and ids; an error names the path of what cannot be sent. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from typing import Annotated, Any, TypeAlias, cast
from unicodedata import category

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    GetPydanticSchema,
    SecretBytes,
    SecretStr,
    ValidationInfo,
)

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_
from bailian_apps.core.redaction import (
    MAX_DEPTH,
    MAX_INT_BITS,
    SECRET_FIELDS,
    reveal,
    unwrap_params,
)

_OUTSIDE_BODY = ("app_id", "api_key", "base_url", "workspace")
_CONTROLS = frozenset("\r\n\0")
_INVISIBLE = frozenset({"Cc", "Cf", "Zl", "Zp"})
_HINTS_BY_TYPE = {
    "datetime": N_("Pass .isoformat()"),
    "date": N_("Pass .isoformat()"),
    "time": N_("Pass .isoformat()"),
    "Decimal": N_("Pass str(value) or float(value)"),
    "bytes": N_("Pass base64 text"),
    "set": N_("Pass a list"),
    "frozenset": N_("Pass a list"),
    "UUID": N_("Pass str(value)"),
    "SecretStr": N_("Pass .get_secret_value()"),
}


def _check_json_object(value: object, info: ValidationInfo) -> object:
    field = info.field_name or "value"
    value = unwrap_params(value)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidInputError(
            field, N_("must be a dict of JSON values, not {kind}").format(kind=kind_of(value))
        )
    fields = dict(cast("Mapping[object, object]", value))
    _require_json(fields, field, secrets=field in SECRET_FIELDS)
    return fields


def _require_json(
    value: object,
    path: str,
    *,
    secrets: bool,
    single_line: bool = False,
    within: tuple[int, ...] = (),
) -> None:
    if isinstance(value, str):
        _require_text(value, path, single_line=single_line)
    elif secrets and isinstance(value, (SecretStr, SecretBytes)):
        try:
            _require_text(reveal(value), path, single_line=single_line)
        except UnicodeDecodeError:
            raise InvalidInputError(path, "is not UTF-8", "Pass base64 text") from None
    elif value is None or isinstance(value, bool):
        return
    elif isinstance(value, (int, float)):
        _require_number(value, path)
    elif isinstance(value, (dict, list, tuple)):
        within = _entered(cast("object", value), path, within)
        if isinstance(value, dict):
            for key, item in cast("dict[object, object]", value).items():
                if not isinstance(key, str):
                    raise InvalidInputError(
                        path, N_("must have str keys, not {kind}").format(kind=kind_of(key))
                    )
                require_utf8(key, path, in_key=True)
                # A plugin gets its user's token in a header.
                single = single_line or key == "user_defined_tokens"
                item_path = f"{path}.{key}"
                _require_json(item, item_path, secrets=secrets, single_line=single, within=within)
            return
        for index, item in enumerate(cast("Sequence[object]", value)):
            item_path = f"{path}[{index}]"
            _require_json(item, item_path, secrets=secrets, single_line=single_line, within=within)
    else:
        raise InvalidInputError(
            path,
            N_("is {kind}, which JSON cannot represent").format(kind=kind_of(value)),
            _hint_for(value),
        )


def _require_number(value: float, path: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInputError(
                path, N_("is {value}, which JSON cannot represent").format(value=value), "Pass None"
            )
    elif value.bit_length() > MAX_INT_BITS:
        raise InvalidInputError(path, "is an int of more than 4,300 digits", "Pass it as a str")


def _hint_for(value: object) -> str:
    if isinstance(value, Mapping):
        return N_("Pass dict(value)")
    if isinstance(value, Enum):
        return N_("Pass .value")
    if isinstance(value, BaseModel):
        return N_('Pass .model_dump(mode="json")')
    if is_dataclass(value) and not isinstance(value, type):
        return N_("Pass dataclasses.asdict(value)")
    default = N_("Pass a str, number, bool, None, list or dict")
    return _HINTS_BY_TYPE.get(type(value).__name__, default)


def _entered(value: object, path: str, within: tuple[int, ...]) -> tuple[int, ...]:
    """Return the ids of what a value is nested in, and its own."""
    if id(value) in within:
        raise InvalidInputError(path, "refers to itself, which JSON cannot represent")
    if len(within) == MAX_DEPTH:
        field = re.split(r"[.\[]", path, maxsplit=1)[0]
        raise InvalidInputError(
            field, N_("is nested too deeply: in more than {depth} values").format(depth=MAX_DEPTH)
        )
    return (*within, id(value))


def _require_text(value: str, path: str, *, single_line: bool) -> None:
    require_utf8(value, path)
    if single_line and not _CONTROLS.isdisjoint(value):
        raise InvalidInputError(path, "has a line break or a NUL", "Pass the value in one line")


def require_utf8(value: str, path: str, *, in_key: bool = False) -> None:
    """Refuse a text, or a key, that UTF-8 cannot represent."""
    try:
        value.encode()
    except UnicodeEncodeError:
        problem = N_("has half of a surrogate pair, which cannot be sent")
        if in_key:
            problem = N_("has a key with half of a surrogate pair, which cannot be sent")
        hint = N_('Pass value.encode("utf-8", "replace").decode()')
        raise InvalidInputError(path, problem, hint) from None


def check_text(value: str | None, info: ValidationInfo) -> str | None:
    """Return the text of a field if UTF-8 can represent it."""
    if value is not None:
        require_utf8(value, info.field_name or "text")
    return value


def check_id(value: str, info: ValidationInfo) -> str:
    """Return an id in a field if it is one, or empty.

    An id is copied, so what cannot be seen in it is a mistake, which the cloud's answer hides.
    """
    field = info.field_name or "id"
    require_utf8(value, field)
    if value and not value.strip():
        raise InvalidInputError(field, "is blank", "Pass the id, or leave it out")
    if not value.isprintable() and any(category(each) in _INVISIBLE for each in value):
        raise InvalidInputError(
            field,
            "has a line break, or a control or invisible character, which no id has",
            "Pass the id as it was given to you",
        )
    return value


def kind_of(value: object) -> str:
    """Return the name of a value's type, with its article, for messages."""
    name = type(value).__name__ or "object"
    named = N_("an {type}") if name[0] in "aeiouAEIOU" else N_("a {type}")
    return named.format(type=name)


def _check_extra_body(value: dict[str, Any]) -> dict[str, Any]:
    for name, part in value.items():
        if name not in ("input", "parameters"):
            hint = N_('Pass extra_body={{"parameters": {{{name!r}: …}}}}').format(name=name)
            raise InvalidInputError(
                "extra_body",
                N_("has the key {name!r}, and takes only 'input' and 'parameters'").format(
                    name=name
                ),
                N_("Pass {name}= itself").format(name=name) if name in _OUTSIDE_BODY else hint,
            )
        if not isinstance(part, dict):
            raise InvalidInputError(
                f"extra_body.{name}", N_("must be a dict, not {kind}").format(kind=kind_of(part))
            )
        if cast("dict[str, Any]", part).get("incremental_output", True) is not True:
            field = f"extra_body.{name}.incremental_output"
            raise InvalidInputError(field, "must be True, because answers are read as deltas")
    return value


JsonObject: TypeAlias = Annotated[dict[str, Any], BeforeValidator(_check_json_object)]
Text: TypeAlias = Annotated[str, AfterValidator(check_text)]
Id: TypeAlias = Annotated[str, AfterValidator(check_id)]
Texts: TypeAlias = Annotated[
    list[str] | tuple[str, ...],  # what a type checker accepts
    GetPydanticSchema(lambda _, schema_of: schema_of(tuple[Text, ...])),
]
"""Texts in a list or a tuple; held as a tuple."""
Ids: TypeAlias = Annotated[
    list[str] | tuple[str, ...], GetPydanticSchema(lambda _, schema_of: schema_of(tuple[Id, ...]))
]
"""Ids in a list or a tuple; held as a tuple."""
ExtraBody: TypeAlias = Annotated[JsonObject, AfterValidator(_check_extra_body)]
