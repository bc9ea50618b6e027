"""What the models of scenarios share: their base class, the types of their fields, conditions."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from bailian_apps.emulator.apps.templates import check_placeholders
from bailian_apps.emulator.credentials import MASK, redacted
from bailian_apps.emulator.errors import suggestion
from bailian_apps.emulator.models import Call
from bailian_apps.emulator.wire.frames import as_list, as_object, to_json

_CHUNK_CHARS = 4


def _check_text(value: object) -> object:
    if value != [] and not all(isinstance(piece, str) for piece in as_list(value) or [value]):
        raise ValueError(
            "must be a string (quoted if it looks like a number) or a list of its pieces"
        )
    return value


def _check_output(value: object) -> object:
    if value is None or all(map(is_object, as_list(value) or [value])):
        return value
    return _check_text(value)


def _check_no_nodes(value: object) -> object:
    check_placeholders(value)
    return value


Text: TypeAlias = Annotated[str | list[str], BeforeValidator(_check_text)]
"""A text with placeholders, as one string or as the pieces in which it streams."""

AgentText: TypeAlias = Annotated[Text, BeforeValidator(_check_no_nodes)]
Output: TypeAlias = Annotated[
    str | list[str] | list[dict[str, Any]] | dict[str, Any] | None, BeforeValidator(_check_output)
]
"""What a node puts out: a text or its pieces, a JSON object or a list of JSON objects."""

Arguments: TypeAlias = Annotated[dict[str, Any] | str | list[str], BeforeValidator(_check_no_nodes)]
"""A JSON object or its text; or the pieces in which that text streams."""

Observation: TypeAlias = Annotated[
    dict[str, Any] | str | list[Any], BeforeValidator(_check_no_nodes)
]
Milliseconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=0)]


class UnknownFieldError(ValueError):
    """A description has a field that does not exist; `name` is its name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        """Create the error."""
        hint = suggestion(name, known) or "."
        super().__init__(f"unknown field {name!r}{hint} The fields are: {', '.join(known)}")
        self.name = name


class Description(BaseModel):
    """Base of all scenario models: frozen, without type coercion and unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, value: object) -> object:
        for name in as_object(value) or {}:
            if name not in cls.model_fields:
                raise UnknownFieldError(str(name), cls.model_fields)
        return value


class When(Description):
    """The condition of a rule; all fields that are given must match.

    Attributes:
        prompt: A substring of the prompt.
        matches: A regular expression to search in the prompt.
        biz_params: Values that the call's `biz_params` must have.
        round: The round of the session; the first is 1.
    """

    prompt: str | None = None
    matches: str | None = None
    biz_params: dict[str, Any] = Field(default_factory=dict)
    round: Annotated[int, Field(ge=1)] | None = None

    @field_validator("matches")
    @classmethod
    def _check_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return value

    def matches_call(self, call: Call) -> bool:
        """Return whether a call meets the condition."""
        if self.prompt is not None and self.prompt not in call.prompt:
            return False
        if self.matches is not None and not re.search(self.matches, call.prompt):
            return False
        if self.round not in (None, len(call.turns) + 1):
            return False
        missing = object()
        params = call.biz_params
        return all(agree(item, params.get(key, missing)) for key, item in self.biz_params.items())


def agree(wanted: Any, given: Any) -> bool:
    """Return whether two JSON values are equal; what a recording has masked, any agrees with."""
    if isinstance(wanted, dict) and isinstance(given, dict):
        fields, others = cast("dict[str, Any]", wanted), cast("dict[str, Any]", given)
        return fields.keys() == others.keys() and all(agree(fields[k], others[k]) for k in fields)
    if isinstance(wanted, list) and isinstance(given, list):
        items, others = cast("list[Any]", wanted), cast("list[Any]", given)
        return len(items) == len(others) and all(map(agree, items, others))
    if isinstance(wanted, str) and isinstance(given, str) and MASK in wanted:
        pattern = ".*".join(map(re.escape, wanted.split(MASK)))
        return bool(re.fullmatch(pattern, given, re.DOTALL)) or wanted == redacted(given)
    return wanted in (given, redacted(given))


def split_pieces(text: Any, *, whole: bool = False) -> list[str]:
    """Return the pieces in which an output streams, none of them empty.

    JSON is one piece, and so is a text if `whole`.
    """
    if as_object(text) is not None or any(map(is_object, as_list(text))):
        return [to_json(text)]
    if not isinstance(text, str):
        return [piece for piece in as_list(text) if piece]
    size = len(text) or 1 if whole else _CHUNK_CHARS
    return [text[start : start + size] for start in range(0, len(text), size)]


def is_object(value: object) -> bool:
    """Return whether a value is a JSON object."""
    return isinstance(value, dict)


def check_one_of(description: BaseModel, names: Iterable[str]) -> None:
    """Raise ValueError unless exactly one of the fields is given."""
    given = [name for name in names if getattr(description, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"give exactly one of {', '.join(names)}; given: {', '.join(given) or 'none'}"
        )
