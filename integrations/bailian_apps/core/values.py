"""Readers of wire values: any of them may be null, missing or of another type. Pure."""

from __future__ import annotations

import json
from typing import Any, TypeAlias, cast

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
            return float(text[:-2])
        return float(text[:-1]) * 1000 if text.endswith("s") else float(text)
    except ValueError:
        return None


def node_result(value: object) -> tuple[str, str]:
    """Split a `nodeResult`, a JSON string, into output and reasoning; what is unreadable is output.

    Recorded as `{"result": …, "reasoningContent": …}`, the latter of reasoning models only
    (workflow-deep-thinking-streamed-end-head.jsonl).
    """
    if value is None:
        return "", ""
    result = cast("JsonObject", value) if isinstance(value, dict) else json_object(value)
    if result is None:
        return as_text(cast("object", value)), ""
    reasoning = as_text(result.get("reasoningContent"))
    output = result.get("result")
    if isinstance(output, str):
        return output, reasoning
    if isinstance(value, str):
        result = cast("JsonObject", json.loads(value))  # its numbers become text: keep every digit
    if "result" in result:
        return as_text(result["result"]), reasoning
    rest = {key: part for key, part in result.items() if key != "reasoningContent"}
    return (as_text(rest) if rest else ""), reasoning


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
        for name in ("action_input", "arguments", "action_input_stream"):
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

    @property
    def so_far(self) -> Any:
        """The value; incomplete JSON as text."""
        return self._text if self.incomplete else self.value

    def settle(self) -> None:
        """The step has ended: JSON that is still incomplete is text."""
        self.value = self.so_far

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
        elif self._text.rstrip().endswith(("}", "]")):
            value = parsed_json(self._text)
            self.value = value if _is_json_container(value) else None
        else:
            self.value = None


def _is_json_container(value: object) -> bool:
    return isinstance(value, (dict, list))
