"""An answer that is JSON as an object of a pydantic model. Pure."""

from __future__ import annotations

import json
import re
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from bailian_apps.core.errors import InvalidInputError, InvalidOutputError
from bailian_apps.core.invalid_input import field_path
from bailian_apps.core.result import AppResult

ModelT = TypeVar("ModelT", bound=BaseModel)

_FENCE = re.compile(r"```(?:json)?\s*", re.IGNORECASE)
_CLOSED_FENCE = re.compile(r"\n\s*```")
_MAX_PROBLEMS = 10  # in a message


def check_output_schema(schema: object) -> object:
    """Return an `output_schema`.

    Raises:
        InvalidInputError: It is neither None nor a pydantic model.
    """
    if schema is not None and not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        raise InvalidInputError("output_schema", "must be a pydantic model class")
    return cast("object", schema)


def typed_output(result: AppResult, schema: type[ModelT]) -> ModelT:
    """Return the answer of a run as an object.

    The answer is JSON, or text with JSON in a Markdown fence, as models write it.

    Args:
        result: The finished run.
        schema: The class of the object.

    Raises:
        InvalidOutputError: The answer is not JSON, or does not fit. `partial` is the result.
    """
    try:
        return _validated(_json_part(_end_value(result) or result.text), schema)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
    shown = [_describe(problem) for problem in problems[:_MAX_PROBLEMS]]
    if more := len(problems) - len(shown):
        shown.append(f"and {more} more")
    invalid = InvalidOutputError(
        f"the app ran, but its answer does not fit output_schema {schema.__name__}: "
        f"{'; '.join(shown)}. The answer is in .partial.text",
        request_id=result.request_id,
    )
    invalid.fields = tuple(field_path(problem["loc"]) for problem in problems if problem["loc"])
    invalid.partial, invalid.session_id = result, result.session_id
    invalid.attempts = result.attempts
    raise invalid


def _end_value(result: AppResult) -> str | None:
    """Return the JSON of the End node, where Output nodes have said something before it."""
    nodes = [step for step in result.steps if step.kind == "node" and step.output]
    ends = [step.output.strip() for step in nodes if (step.type or "").casefold() == "end"]
    value = ends[-1] if ends else ""
    is_json = value.startswith(("{", "["))
    return value if is_json and value != result.text.strip() else None


def partial_output(text: str, schema: type[ModelT]) -> ModelT | None:
    """Return the object that the beginning of an answer makes; None if it makes none yet."""
    try:
        value = from_json(_json_part(text), allow_partial="trailing-strings")
        return schema.model_validate_json(to_json(value))
    except ValueError:  # also pydantic's ValidationError
        return None


def _json_part(text: str) -> str:
    """Return the JSON of an answer: all of it, or what its first Markdown fence holds."""
    text = text.strip()
    fence = None if text.startswith(("{", "[", '"')) else _FENCE.search(text)
    if fence is None:
        return text
    return _CLOSED_FENCE.split(text[fence.end() :], maxsplit=1)[0].rstrip("` \r\n\t")


def _validated(text: str, schema: type[ModelT]) -> ModelT:
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] != "json_invalid":
            raise
        try:
            value = json.loads(text, strict=False)  # models write line breaks into strings
        except (ValueError, RecursionError):
            raise error from None
        return schema.model_validate_json(to_json(value))


def _describe(problem: ErrorDetails) -> str:
    field = field_path(problem["loc"])
    if problem["type"] == "missing":
        return f"{field} is missing"
    words = problem["msg"].replace("Input should", "must")
    separator = " " if words.startswith("must") else ": "
    return f"{field or 'the answer'}{separator}{words}"
