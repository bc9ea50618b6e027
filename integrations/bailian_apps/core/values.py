"""Readers of wire values: any of them may be null, missing or of another type. Pure."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import orjson

from bailian_apps.core.text import new_suffix

JsonObject: TypeAlias = dict[str, Any]


def parse_json(data: str | bytes) -> Any:
    """Parse JSON with orjson, and with the standard library what orjson refuses.

    orjson refuses NaN, lone surrogates, bytes that are not UTF-8 (here they become U+FFFD) and very
    deep nesting. Integers of more than 64 bits become floats.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data if isinstance(data, str) else data.decode("utf-8-sig", "replace"))


def json_object(value: object) -> JsonObject | None:
    """Parse JSON text or bytes that hold an object; return None for anything else."""
    if not (isinstance(value, bytes) or (isinstance(value, str) and value.startswith("{"))):
        return None
    try:
        parsed = parse_json(value)
    except (ValueError, RecursionError):
        return None
    return cast("JsonObject", parsed) if isinstance(parsed, dict) else None


def parsed_json(value: object) -> Any:
    """Parse a JSON string; return anything else, and text that is not JSON, unchanged."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def is_other_json(before: str, after: str) -> bool:
    """Whether two texts are whole JSON objects or lists that differ."""
    if after.startswith(before) or not (_may_be_json(before) and _may_be_json(after)):
        return False
    values = parsed_json(before), parsed_json(after)
    return all(map(_is_json_container, values)) and values[0] != values[1]


def as_text(value: object) -> str:
    """Return text unchanged, null as `""`, anything else as JSON text."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False)


def text_or_none(value: object) -> str | None:
    """As `as_text`, but None for `""`."""
    return as_text(value) or None


def first_text(fields: JsonObject, *keys: str) -> str | None:
    """Return the first field that is not empty, as text."""
    return next((text for key in keys if (text := as_text(fields.get(key)))), None)


def milliseconds(value: object) -> float | None:
    """Read `nodeExecTime`: `"1332ms"` (workflow-timed.jsonl), with `s` or without a unit too."""
    if not isinstance(value, (str, int, float)):
        return None
    text = str(value).strip()
    try:
        if text.endswith("ms"):
            ms = float(text[:-2])
        else:
            ms = float(text[:-1]) * 1000 if text.endswith("s") else float(text)
    except ValueError:
        return None
    return ms if math.isfinite(ms) else None


_JSON = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_RESULT_KEYS = {"result", "reasoningContent"}


def member_text(text: str, name: str) -> str:
    """Return the value of an object's member as it stands in JSON text: no digit or space changes.

    Args:
        text: The text of an object.
        name: The member.

    Returns:
        The text of its value; all of `text` if the member cannot be found.
    """
    found = text
    try:
        at = _skip(text, text.index("{") + 1)
        while text[at] != "}":
            key, at = _JSON.raw_decode(text, at)
            start = _skip(text, _skip(text, at) + 1)  # after the colon
            _, at = _JSON.raw_decode(text, start)
            if key == name:
                found = text[start:at]
            at = _skip(text, at)
            at = _skip(text, at + 1) if text[at] == "," else at
    except (ValueError, IndexError, RecursionError):
        return found
    return found


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return at if space is None else space.end()


class Piece(NamedTuple):
    """The newest piece of what a node says.

    `form` is None for a delta of text. It is `"wrapped"` for a JSON object that holds text and
    reasoning, as a delta or as all so far; `"object"` for text that is a JSON object; `"value"` for
    any other JSON value, which cannot be a delta.
    """

    output: str
    reasoning: str
    form: Literal["wrapped", "object", "value"] | None = None


def node_result(text: str) -> Piece:
    """Read a `nodeResult`, which is JSON text; what is not an object is output.

    Recorded as `{"result": …, "reasoningContent": …}`, the latter of reasoning models only
    (workflow-deep-thinking-streamed-end-head.jsonl). An End node in JSON mode has an object as its
    `result`, or in its place.
    """
    result = json_object(text)
    if result is None:
        return Piece(text, "")
    reasoning = as_text(result.get("reasoningContent"))
    output = result.get("result")
    if isinstance(output, str):
        return Piece(output, reasoning)
    if output is not None:
        return Piece(member_text(text, "result"), reasoning, "value")
    if result.keys() <= _RESULT_KEYS:
        return Piece("", reasoning)
    return Piece(text, reasoning, "value")


def message_content(text: str, node_type: str | None) -> Piece:
    """Read the content of a node's message in a mode where it may be JSON.

    An object of `result` and `reasoningContent` wraps what the node says. An End node's is its own
    text, and so is an Output node's unless it has both.
    """
    inner = json_object(text)
    if not inner:
        return Piece(text, "")
    kind = (node_type or "").casefold()
    own = kind == "end" or ("output" in kind and len(inner) < 2)
    if own or not inner.keys() <= _RESULT_KEYS:
        return Piece(text, "", "object")
    output, reasoning = inner.get("result"), as_text(inner.get("reasoningContent"))
    if output is None or isinstance(output, str):
        return Piece(output or "", reasoning, "wrapped")
    return Piece(member_text(text, "result"), reasoning, "value")


_ARGUMENT_KEYS = ("action_input", "arguments", "action_input_stream")


class CallInput:
    """The input of a tool call, which its entries carry whole or in pieces.

    Attributes:
        value: The input so far: parsed JSON, or text. None while JSON is incomplete.
    """

    __slots__ = ("_field", "_piece", "_text", "value")

    def __init__(self) -> None:
        """Start without an input."""
        self.value: Any = None
        self._field: str = ""  # where the text comes from
        self._piece: str = ""  # the newest one
        self._text: str = ""  # what its pieces make

    @property
    def incomplete(self) -> bool:
        """Whether the text so far is the beginning of a JSON value."""
        return self.value is None and bool(self._text)

    def read(self, entry: JsonObject) -> None:
        """Read an entry of `thoughts`; one without an input changes nothing."""
        for name in _ARGUMENT_KEYS:
            given = entry.get(name)
            if given in (None, "", {}):
                continue
            if given == "{}" and not self.incomplete:  # a placeholder for others
                self.value = {} if self.value is None else self.value
            elif not isinstance(given, str):
                self.value, self._text = given, ""
                return
            else:
                self._add(name, given)
                return

    def differs_from(self, entry: JsonObject) -> bool:
        """Whether an entry has other arguments than these, which are complete."""
        found = (entry.get(name) for name in _ARGUMENT_KEYS)
        given = next((each for each in found if each not in (None, "", {}, "{}")), None)
        given = given or entry.get(self._field)  # a placeholder in their place
        if not given or self.value is None or given in (self._piece, self._text):
            return False
        return parsed_json(given) != self.value

    @property
    def so_far(self) -> Any:
        """The value; incomplete JSON as text."""
        return self._text if self.incomplete else self.value

    def settle(self) -> None:
        """The step has ended: JSON that is still incomplete is text."""
        if self.value is None and self._text:
            self.value = self._text

    def _add(self, name: str, piece: str) -> None:
        if name != self._field:
            self._field, self._text = name, ""
        elif _is_json_container(self.value) and piece in (self._piece, self._text):
            return  # it is listed again
        elif _is_json_container(self.value):
            self._text = ""
        self._piece = piece
        self._text += new_suffix([self._text], piece)
        if not self._text.lstrip().startswith(("{", "[")):
            self.value = parsed_json(self._text)
        elif _may_be_json(self._text):
            value = parsed_json(self._text)
            self.value = value if _is_json_container(value) else None
        else:
            self.value = None


def _may_be_json(text: str) -> bool:
    return text.lstrip().startswith(("{", "[")) and text.rstrip().endswith(("}", "]"))


def _is_json_container(value: object) -> bool:
    return isinstance(value, (dict, list))
