"""An answer that is JSON as an object of a pydantic model. Pure."""

from __future__ import annotations

import json
import re
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from bailian_apps.core.answer_text import CITATION, OPENING_TAG, AnswerFilter
from bailian_apps.core.errors import InvalidInputError, InvalidOutputError
from bailian_apps.core.events import TextDelta
from bailian_apps.core.invalid_input import field_path
from bailian_apps.core.language import N_, joined
from bailian_apps.core.result import AppResult

ModelT = TypeVar("ModelT", bound=BaseModel)

_FENCES = (re.compile(r"```json\b\s*", re.IGNORECASE), re.compile(r"```\s*"))  # the best first
_CLOSED_FENCE = re.compile(r"\n\s*```")
# A string, perhaps not whole yet, as group 1; or what is to be taken out where it is in no string.
_MARKS, _LAST_NUMBER = (
    re.compile(rf'("[^"\\]*(?:\\.[^"\\]*)*"?)|{what}', re.DOTALL)
    for what in (CITATION.pattern, r"[-\d][-+.\deE]*\Z")
)
_MAX_PROBLEMS = 10  # in a message
_IN_PARTIAL = N_(". The answer is in .partial.text")


def check_output_schema(schema: object, field: str = "output_schema") -> object:
    """Return an `output_schema`.

    Args:
        schema: What was given.
        field: Its name in an error.

    Raises:
        InvalidInputError: It is neither None nor a pydantic model.
    """
    if schema is not None and not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        raise InvalidInputError(field, "must be a pydantic model class")
    return cast("object", schema)


def typed_output(result: AppResult, schema: type[ModelT], field: str = "output_schema") -> ModelT:
    """Return the answer of a run as an object.

    The answer is JSON, or text with JSON in a Markdown fence, as models write it. If Output nodes
    have spoken, the End node's part is read. Citation marks around the JSON's values are left out;
    those in its strings stay, unless the answer has none (`citation_marks="strip"`).

    Args:
        result: The finished run.
        schema: The class of the object.
        field: The argument that it was given as, for an error.

    Raises:
        InvalidOutputError: The answer is not JSON, or does not fit. `partial` is the result.
    """
    try:
        return _validated(_json_part(_spoken(result, last=True)), schema)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
    shown = [_describe(problem) for problem in problems[:_MAX_PROBLEMS]]
    if more := len(problems) - len(shown):
        shown.append(N_("and {count} more").format(count=more))
    invalid = InvalidOutputError(
        N_("the app ran, but its answer does not fit {field} {schema}: {problems}{advice}").format(
            field=field, schema=schema.__name__, problems=joined(shown), advice=_IN_PARTIAL
        ),
        request_id=result.request_id,
    )
    invalid.fields = tuple(field_path(problem["loc"]) for problem in problems if problem["loc"])
    invalid.partial, invalid.session_id = result, result.session_id
    invalid.attempts = result.attempts
    raise invalid


def agent_message(error: InvalidOutputError) -> str:
    """Return what an agent's model reads if the answer of its tool does not fit.

    It has the answer, so that the model need not call the tool again: the app would run again.
    """
    answer = "" if error.partial is None else error.partial.text
    problem = error.message.removesuffix(str(_IN_PARTIAL))
    return f"{problem}. Do not call it again for this: it would run again. Its answer:\n{answer}"


def partial_output(partial: AppResult, schema: type[ModelT]) -> ModelT | None:
    """Return the object that the beginning of an answer makes; None if it makes none yet.

    A string grows. A number counts once what follows it has come.
    """
    text = _json_part(_spoken(partial, last=False))
    if text[-1:].isdigit():
        text = _outside_strings(_LAST_NUMBER, text)
    try:
        return schema.model_validate_json(
            to_json(from_json(text, allow_partial="trailing-strings"))
        )
    except ValueError:  # also pydantic's ValidationError
        return None


def _spoken(result: AppResult, *, last: bool) -> str:
    """Return the part of an answer that should have the JSON: the End node's, if that has any."""
    text = result.text
    said = [step.output for step in result.steps if (step.type or "").casefold() == "end"]
    end = next(filter(None, reversed(said)), "")
    if "<" in end:  # a step has its text as it came: take out what is not in the answer
        answer = AnswerFilter(
            "strip" if CITATION.search(end) and not CITATION.search(text) else "keep",
            "reasoning" if OPENING_TAG in end and OPENING_TAG not in text else "keep",
        )
        events = answer.feed([TextDelta(end)], last=last)
        end = "".join(event.text for event in events if isinstance(event, TextDelta))
    return end if _starts_json(end.strip()) or _FENCES[1].search(end) else text


def _starts_json(text: str) -> bool:
    return text.startswith(("{", "["))


def _json_part(text: str) -> str:
    """Return the JSON of an answer: all of it, or what its best Markdown fence holds."""
    text = text.strip()
    if not text.startswith(("{", "[", '"')):
        fence = next(filter(None, (each.search(text) for each in _FENCES)), None)
        if fence is not None:
            text = _CLOSED_FENCE.split(text[fence.end() :], maxsplit=1)[0].rstrip("` \r\n\t")
    return _outside_strings(_MARKS, text) if "<" in text else text


def _outside_strings(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda found: found[1] or "", text)


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
    field = field_path(problem["loc"]) or N_("the answer")
    if problem["type"] == "missing":
        return joined((field, N_("is missing")), " ")
    words = N_(problem["msg"].replace("Input should", "must"))
    return joined((field, words), " " if words.startswith("must") else ": ")
