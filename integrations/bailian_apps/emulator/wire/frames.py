"""Frames, error bodies and JSON as the cloud encodes them."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from http.client import responses
from math import isfinite
from typing import Any, Literal, NoReturn, TypeAlias, cast

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object as `json.loads` returns it."""

NodeContent: TypeAlias = Literal["text", "deltas", "snapshots"]
"""How a node speaks in `message_format_plus`: in text, or in JSON of what is new or all so far."""

MAX_NESTING = 128
"""How many objects and arrays may be inside each other in a request or an answer."""

EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
"""The end of an event, in any of the forms that the specification of event streams allows."""

STREAM_CONTENT_TYPE = "text/event-stream;charset=UTF-8"
JSON_CONTENT_TYPE = "application/json;charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Traits:
    """What a scenario decides of its answer's rendering, beyond what its frames show.

    Attributes:
        contents: How nodes speak in `message_format_plus`, by their `nodeId`.
        unasked: Whether a JSON answer has `thoughts` and `workflow_message` without being asked.
    """

    contents: Mapping[str, NodeContent] = field(default_factory=dict[str, NodeContent])
    unasked: bool = False


NO_TRAITS = Traits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One event of an answer.

    Attributes:
        payload: The JSON object after `data:`.
        event: The value of `event:`.
        status: The number in the comment line `:HTTP_STATUS/n`.
        id: The value of `id:`; None continues the numbering of the stream.
        offset_ms: When the frame is due after the request, at the recorded pace.
        raw: The bytes themselves, if they are not a frame of the cloud.
        cumulative_output: The output of a cumulative stream, if it is not what the deltas add up
            to: as recorded, or a snapshot.
        last: Whether this frame completes the answer whatever its `finish_reason`.
        traits: How its answer is rendered.
        headers: Headers of the response, if this is its first frame.
    """

    payload: JsonObject
    event: Literal["result", "error"] = "result"
    status: int = 200
    id: int | None = None
    offset_ms: float = 0.0
    raw: bytes | None = None
    cumulative_output: JsonObject | None = None
    last: bool = False
    traits: Traits = NO_TRAITS
    headers: Mapping[str, str] | None = None

    @property
    def output(self) -> JsonObject:
        """The payload's `output`; empty if it is missing or not an object."""
        return as_object(self.payload.get("output")) or {}

    @property
    def finished(self) -> bool:
        """Whether this frame completes the answer."""
        return self.last or self.output.get("finish_reason") not in (None, "", "null")

    def with_output(self, output: JsonObject) -> "Frame":
        """Return a copy with another output. Frames are shared and never changed in place."""
        return replace(self, payload={**self.payload, "output": output}, cumulative_output=None)

    @property
    def body(self) -> bytes:
        """The frame as the body of a JSON response."""
        return encode_json(self.payload) if self.raw is None else self.raw

    def encode(self, number: int) -> bytes:
        """Encode the frame as event `number` of its stream.

        The order and the spacing of the lines are the cloud's: see
        tests/recordings/agent-plain-stream.sse and error-app-id-invalid-elided.sse.
        """
        if self.raw is not None:
            return self.raw
        return (
            f"id:{number}\nevent:{self.event}\n:HTTP_STATUS/{self.status}\ndata:"
        ).encode() + encode_json(self.payload, end="\n\n")


def http_head(status: int, headers: Mapping[str, str]) -> bytes:
    """Encode the status line and the headers of an HTTP/1.1 response."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status} {responses.get(status, '')}", *lines, "", ""]).encode()


def to_json(value: object, *, ascii_only: bool = False) -> str:
    """Encode JSON as the cloud does: compact, and without escaping non-ASCII characters.

    Raises:
        TypeError: The value has a type that JSON does not support.
        ValueError: The value contains NaN or an infinity.
    """
    return json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":"), allow_nan=False)


def encode_json(value: object, *, end: str = "") -> bytes:
    """Encode JSON as UTF-8, followed by `end`."""
    try:
        return (to_json(value) + end).encode()
    except UnicodeEncodeError:  # UTF-8 cannot encode a lone surrogate, but JSON can escape it
        return (to_json(value, ascii_only=True) + end).encode()


def as_object(value: object) -> JsonObject | None:
    """Return `value` if it is a JSON object, else None."""
    return cast("JsonObject", value) if isinstance(value, dict) else None


def as_list(value: object) -> list[Any]:
    """Return `value` if it is a JSON array, else an empty list."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def is_true(value: object) -> bool:
    """Whether a flag is set: true, or `"true"`, as the vendor's page has it for Node.js."""
    return value is True or (isinstance(value, str) and value.lower() == "true")


class NestingError(ValueError):
    """JSON has too many levels."""

    def __init__(self, levels: int) -> None:
        """Create the error for more than `levels`."""
        super().__init__(f"nested more than {levels} levels deep")


def parse_json(text: str, max_nesting: int = MAX_NESTING, *, lenient: bool = False) -> Any:
    """Parse JSON that can be encoded again: without NaN, infinity and very deep nesting.

    Args:
        text: The JSON.
        max_nesting: How many objects and arrays may be inside each other.
        lenient: Whether to keep a number that cannot be encoded again as text. For what is only
            masked and written down, where no secret may be missed.

    Raises:
        json.JSONDecodeError: It is not JSON.
        NestingError: It is nested too deeply.
        ValueError: It has a number that cannot be encoded again, and `lenient` is false.
    """
    try:
        value = (_LENIENT_DECODER if lenient else _DECODER).decode(text)
    except RecursionError:
        raise NestingError(max_nesting) from None
    if text.count("[") + text.count("{") > max_nesting and _is_deep(value, max_nesting):
        raise NestingError(max_nesting)
    return value


def parse_object(text: object) -> JsonObject | None:
    """Parse a JSON object nested in a string; return None if it is not one."""
    if not isinstance(text, str) or not text.startswith("{"):
        return None
    try:
        return as_object(parse_json(text))
    except ValueError:
        return None


def _is_deep(value: Any, max_nesting: int) -> bool:
    level: list[Any] = [value]
    for _ in range(max_nesting + 1):
        inner = [_items(each) for each in level if isinstance(each, dict | list)]
        if not inner:
            return False
        level = [item for items in inner for item in items]
    return True


def _items(value: Any) -> Iterable[Any]:
    return cast("JsonObject", value).values() if isinstance(value, dict) else value


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")  # the json module accepts NaN by default


def _finite(digits: str) -> float:
    if (value := float(digits)) in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _finite_or_text(digits: str) -> float | str:
    return float(digits) if isfinite(float(digits)) else digits


def _int_or_text(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # it has more digits than Python converts
        return digits


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_LENIENT_DECODER = json.JSONDecoder(
    parse_constant=str, parse_float=_finite_or_text, parse_int=_int_or_text
)
