"""Bytes of an event stream in, frames out; no I/O.

The rules are those of the HTML standard, 9.2.6 "Interpreting an event stream": lines end with
CR LF, LF or CR only (JSON may hold U+2028), several `data:` lines are one event, and a byte order
mark and comments are skipped. The cloud adds `:HTTP_STATUS/n`, a comment that holds the status of
an error (tests/recordings/error-app-id-invalid-elided.sse). Each byte is looked at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from bailian_apps.core.values import parse_json

Frame: TypeAlias = dict[str, Any]
"""One response object of the API: `output`, `usage`, `request_id`. An event that is not a JSON
object becomes `{"data": its text}`, which the decoder reports as an unknown frame."""

_BOM = b"\xef\xbb\xbf"
_STATUS = b":HTTP_STATUS/"


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """An `event:error` of the stream, or a frame that holds an error code.

    Attributes:
        data: Its data, usually JSON.
        status_code: The status in its `:HTTP_STATUS/n` comment, or None.
    """

    data: bytes
    status_code: int | None


def holds_error(answer: Frame) -> bool:
    """Whether an answer, or a frame, that came with status 200 is an error."""
    output = answer.get("output")
    if output and isinstance(output, dict):
        return "code" in answer and first_field([answer], "code") is not None
    layers = [spelt_alike(answer), spelt_alike(answer.get("data"))]
    return bool(answer.get("error")) or first_field(layers, "errorcode", "code") is not None


def spelt_alike(value: object) -> Frame:
    """Return an object's fields with `request_id`, `requestId` and `RequestId` as one name."""
    if not isinstance(value, dict):
        return {}
    fields = cast("Frame", value)
    return {name.replace("_", "").lower(): item for name, item in fields.items()}


def first_field(layers: Sequence[Frame], *names: str) -> str | None:
    """Return the first of some fields that says something. The codes 200 and 0 do not."""
    for layer in layers:
        for name in names:
            value = layer.get(name)
            if isinstance(value, (str, int)) and value and str(value) not in ("200", "0"):
                return str(value)
    return None


class _FrameParser:
    """Parses frames, and the `doc_references` that every frame of an agent relists only once.

    They are most of such a frame's bytes. Once two frames in a row had the same, the next ones are
    compared byte for byte, and parsed without them.
    """

    _KEY = b'"doc_references":'
    _STAND_IN = "\0references"  # stands for them while the rest is parsed
    _LARGE = 4096  # bytes; below, parsing costs less than this does

    def __init__(self) -> None:
        self._references: object = None
        self._raw = b""  # their bytes with the key before them, once they were listed twice

    def parse(self, data: bytes) -> Any:
        """Parse one frame; raises as `parse_json` does."""
        if len(data) < self._LARGE or (start := data.find(self._KEY)) < 0:
            return parse_json(data)
        if self._raw and data.startswith(self._raw, start):
            rest = data[start + len(self._raw) :]
            frame = parse_json(data[:start] + self._KEY + b'"\\u0000references"' + rest)
            output = _output(frame)
            if output.get("doc_references") == self._STAND_IN:
                output["doc_references"] = self._references
                return frame
        frame = parse_json(data)
        references: object = _output(frame).get("doc_references")
        if not isinstance(references, list):
            return frame
        self._raw = b""
        if references == self._references:
            text = data[start + len(self._KEY) :].decode("utf-8", "replace")
            value, end = json.JSONDecoder().raw_decode(text, len(text) - len(text.lstrip()))
            raw = self._KEY + text[:end].encode()
            # The first key of this name in the frame may be another object's.
            if value == references and data.startswith(raw, start):
                self._raw = raw
        self._references = cast("object", references)
        return frame


def _output(frame: object) -> Frame:
    output: object = cast("Frame", frame).get("output") if isinstance(frame, dict) else None
    return cast("Frame", output) if isinstance(output, dict) else {}


class SSEReader:
    """Reads one event stream: `feed` it what arrives, `close` it at the end of the body."""

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        self._pending: list[bytes] = []  # the pieces of a line whose end has not arrived
        self._data: list[bytes] = []  # the data lines of the event being read
        self._is_error = False
        self._status: int | None = None
        self._first = True
        self._skip_lf = False  # the CR that ended the last chunk may be half of a CR LF
        self._parser = _FrameParser()

    def feed(self, chunk: bytes) -> list[Frame | ErrorEvent]:
        """Read a chunk, cut anywhere, and return the events that it completes."""
        if self._skip_lf and chunk:
            self._skip_lf = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._skip_lf = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
        if first < 0:
            self._pending.append(chunk)
            return []
        # A large frame is one long line: finding its ends is faster than splitting it.
        lines = [chunk[:first]]
        if first < last:
            lines += chunk[first + 1 : last].split(b"\n")
        if self._pending:
            self._pending.append(lines[0])
            lines[0] = b"".join(self._pending)
            self._pending.clear()
        if tail := chunk[last + 1 :]:
            self._pending.append(tail)
        if self._first:
            self._first = False
            lines[0] = lines[0].removeprefix(_BOM)
        events: list[Frame | ErrorEvent] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif not line:
                self._dispatch(events)
            # These three come with every frame.
            elif line == b"event:result":
                self._is_error = False
            elif line == b":HTTP_STATUS/200":
                self._status = 200
            elif not line.startswith(b"id:"):
                self._read_field(line)
        return events

    def close(self) -> list[Frame | ErrorEvent]:
        """Return the event that the stream ended in the middle of, if any.

        The standard would discard it. A frame without its blank line is still an answer, and one
        that was cut off is not JSON.
        """
        return self.feed(b"\n\n") if self._pending or self._data else []

    def _read_field(self, line: bytes) -> None:
        if line.startswith(_STATUS):
            status = line[len(_STATUS) :].strip()
            self._status = int(status) if status.isdigit() else None
        elif line.startswith(b"event:"):
            self._is_error = line[6:].strip() == b"error"
        elif line == b"data":  # a field without a colon is an empty one
            self._data.append(b"")

    def _dispatch(self, events: list[Frame | ErrorEvent]) -> None:
        if self._data:
            data = self._data[0]
            if len(self._data) > 1:
                data = b"\n".join([part.removeprefix(b" ") for part in self._data])
            self._data.clear()
            if self._is_error:
                events.append(ErrorEvent(data.strip(), self._status))
            elif (event := self._parse(data)) is not None:
                events.append(event)
        self._is_error = False
        self._status = None

    def _parse(self, data: bytes) -> Frame | ErrorEvent | None:
        try:
            frame = self._parser.parse(data)
        except (ValueError, RecursionError):
            # An error that was cut off has a code and no output; `[DONE]` ends other APIs' streams.
            data = data.strip()
            if data.startswith(b"{") and b'"code"' in data and b'"output"' not in data:
                return ErrorEvent(data, None if self._status == 200 else self._status)
            text = data.decode("utf-8", "replace")
            return {"data": text} if text and text != "[DONE]" else None
        if not isinstance(frame, dict):
            return {"data": data.decode("utf-8", "replace").strip()}
        fields = cast("Frame", frame)
        if holds_error(fields):
            return ErrorEvent(data.strip(), None if self._status == 200 else self._status)
        return fields
