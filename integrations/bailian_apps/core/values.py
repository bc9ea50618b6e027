"""Values of the wire, read without trust: any of them may be null, missing or of another type."""

from __future__ import annotations

import json
import re
from typing import Any, TypeAlias, cast

JsonObject: TypeAlias = dict[str, Any]

_SURROGATE = re.compile("[\ud800-\udfff]")


def json_object(value: object) -> JsonObject | None:
    """An object in a JSON string; None for anything else."""
    if not isinstance(value, str) or not value.startswith("{"):
        return None
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return cast("JsonObject", parsed) if isinstance(parsed, dict) else None


def parsed_json(value: object) -> Any:
    """A JSON string as what it says; anything else as it is."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def as_text(value: object) -> str:
    """Text as it is, null as `""`, anything else as JSON text."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False)


def text_or_none(value: object) -> str | None:
    """As `as_text`, with None for `""`."""
    return as_text(value) or None


def first_text(fields: JsonObject, *keys: str) -> str | None:
    """The first of some fields that holds anything, as text."""
    return next((text for key in keys if (text := as_text(fields.get(key)))), None)


def whole_characters(text: str) -> str:
    """Text that can be encoded: halves of surrogate pairs side by side are joined, others U+FFFD.

    An app's server may cut its answer between the two, and JSON can say each half.
    """
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Characters:
    """Text in pieces, cut anywhere, in; pieces of whole characters out."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        """Start at the beginning of a text."""
        self._half = ""

    def take(self, piece: str, *, last: bool = False) -> str:
        """Take a piece; half of a character at its end waits for the other half, or the last."""
        piece = self._half + piece
        self._half = "" if last or not "\ud800" <= piece[-1:] <= "\udbff" else piece[-1]
        return whole_characters(piece.removesuffix(self._half))

    def drop(self) -> None:
        """Forget the half that waits: what is taken next repeats it."""
        self._half = ""


def grown(known: list[str], value: str) -> str:
    """What `value` adds to the pieces `known`, whether it is the whole so far or a delta."""
    size = sum(map(len, known))
    return value[size:] if len(value) >= size and value.startswith("".join(known)) else value


def milliseconds(value: object) -> float | None:
    """`"1332ms"` as 1332.0."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = str(value).strip()
    try:
        if text.endswith("ms"):
            return float(text[:-2])
        return float(text[:-1]) * 1000 if text.endswith("s") else float(text)
    except ValueError:
        return None


def node_result(value: object) -> tuple[str, str]:
    """The output and reasoning in a `nodeResult`, a JSON string; an unreadable one stays raw."""
    if value is None:
        return "", ""
    result = cast("JsonObject", value) if isinstance(value, dict) else json_object(value)
    if result is None:
        return as_text(cast("object", value)), ""
    reasoning = as_text(result.get("reasoningContent"))
    if "result" in result:
        return as_text(result["result"]), reasoning
    rest = {key: part for key, part in result.items() if key != "reasoningContent"}
    return (as_text(rest) if rest else ""), reasoning


def call_input(entry: JsonObject, known: Any) -> Any:
    """The input of a tool call: whole, or streamed as text. What is `known` stays where it ends."""
    for key in ("action_input", "arguments"):
        given = entry.get(key)
        if given not in (None, "", {}):
            return parsed_json(given)
    text = known if isinstance(known, str) else ""
    streamed = grown([text], as_text(entry.get("action_input_stream")))
    return text + streamed if streamed else known
