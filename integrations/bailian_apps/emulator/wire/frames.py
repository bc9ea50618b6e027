"""The cloud's bytes: frames, error bodies, and how both are written.

What is here is the shape of the wire alone. It knows no app, no session and no request, and it is
written from recorded answers, not from the client it is there to test.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.client import responses
from typing import Any, Literal, TypeAlias, cast

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object as `json.loads` gives it."""

STREAM_CONTENT_TYPE = "text/event-stream;charset=UTF-8"
JSON_CONTENT_TYPE = "application/json;charset=UTF-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One event of an answer.

    Attributes:
        payload: The JSON object that follows `data:`.
        event: What follows `event:`.
        status: The number in the comment line `:HTTP_STATUS/n`.
        id: The number after `id:`; None counts on from the frame before.
        offset_ms: When the frame is due after the request, at the recorded pace.
        raw: The bytes themselves, where they were none of the cloud's.
        whole: The output as a recording without deltas has it.
    """

    payload: JsonObject
    event: Literal["result", "error"] = "result"
    status: int = 200
    id: int | None = None
    offset_ms: float = 0.0
    raw: bytes | None = None
    whole: JsonObject | None = None

    @property
    def output(self) -> JsonObject:
        """The payload's `output`; empty when there is none, or when it is no object."""
        return as_object(self.payload.get("output")) or {}

    @property
    def finished(self) -> bool:
        """Whether this frame ends an answer that was told to its end."""
        return self.output.get("finish_reason") == "stop"

    def with_output(self, output: JsonObject) -> "Frame":
        """Return the same frame with another output; frames are shared and never changed."""
        return replace(self, payload={**self.payload, "output": output}, whole=None)

    @property
    def body(self) -> bytes:
        """The frame as a whole answer."""
        return encode_json(self.payload) if self.raw is None else self.raw

    def encode(self, number: int) -> bytes:
        """Write the frame the way the cloud does, as frame `number` of its stream."""
        if self.raw is not None:
            return self.raw
        return (
            f"id:{number}\nevent:{self.event}\n:HTTP_STATUS/{self.status}\ndata:"
        ).encode() + encode_json(self.payload, end="\n\n")


def error_frame(*, status: int, code: str, message: str, request_id: str) -> Frame:
    """Make the frame, or with its status the JSON answer, that reports an error."""
    return Frame(
        event="error",
        status=status,
        payload={"code": code, "message": message, "request_id": request_id},
    )


def http_head(status: int, headers: Mapping[str, str]) -> bytes:
    """Write the head of an HTTP answer."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status} {responses.get(status, '')}", *lines, "", ""]).encode()


def to_json(value: object, *, ascii_only: bool = False) -> str:
    """Write JSON without spaces and with its characters as they are, as the cloud does.

    Raises:
        TypeError: JSON has no such value.
        ValueError: JSON has no such number.
    """
    return json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":"), allow_nan=False)


def encode_json(value: object, *, end: str = "") -> bytes:
    """Write JSON as UTF-8."""
    try:
        return (to_json(value) + end).encode()
    except UnicodeEncodeError:  # half of a surrogate pair can only travel escaped
        return (to_json(value, ascii_only=True) + end).encode()


def as_object(value: object) -> JsonObject | None:
    """Return `value` when it is a JSON object, else None."""
    return cast("JsonObject", value) if isinstance(value, dict) else None


def as_list(value: object) -> list[Any]:
    """Return `value` when it is a JSON array, else an empty list."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def parse_object(text: object) -> JsonObject | None:
    """Read a JSON object out of a string, as the wire nests them; None when it is not one."""
    if not isinstance(text, str) or not text.startswith("{"):
        return None
    try:
        return as_object(json.loads(text))
    except ValueError:
        return None
