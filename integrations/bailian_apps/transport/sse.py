"""Bytes of an event stream in, lines in the SDK's dialect out; pushed, without I/O.

Splits only on CR LF, LF and CR (the standard's line ends; JSON may hold U+2028), joins several
`data:` lines, drops a byte order mark, comments and `[DONE]`, and looks at every byte once. The SDK
then gets one line per event. Errors do not go through the SDK, which loses their code and status:
they come out as `ErrorEvent`, and so does a frame that holds a code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"
_STATUS = b":HTTP_STATUS/"
_EDGE = 1024  # bytes at the start and end of a frame that are searched for a code


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """An `event:error` of the stream.

    Attributes:
        data: Its data, mostly JSON.
        status_code: The status in its `:HTTP_STATUS/n` comment, or None.
    """

    data: bytes
    status_code: int | None


class FrameLine:
    """One event's data as a line, in the one shape the SDK uses: it calls `decode` on it.

    Bytes that are not UTF-8 become U+FFFD, as the event stream standard says; the SDK would raise.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        """Wrap `raw`, which starts with `data:`."""
        self.raw = raw

    def decode(self, _encoding: str = "utf-8") -> str:
        """The line as text."""
        return self.raw.decode("utf-8", "replace")


def _is_error(line: bytes) -> bool:
    """Whether an event that does not call itself an error has a code.

    The SDK would keep nothing of it, and where it has an output too, it would be a success.
    """
    if line.find(b'"code"', 0, _EDGE) < 0 and line.find(b'"code"', max(len(line) - _EDGE, 0)) < 0:
        return False
    try:
        return bool(json.loads(line[5:]).get("code"))
    except (ValueError, RecursionError):
        return b'"output"' not in line


class SSEReader:
    """Reads one event stream. `feed` it what arrives, `close` it at the end of the body."""

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        self._pending: list[bytes] = []  # the pieces of a line whose end has not come
        self._data: list[bytes] = []  # the data lines of the event being read
        self._is_error = False
        self._status: int | None = None
        self._first = True
        self._skip_lf = False  # the CR that ended the chunk before may be half of a CR LF

    def feed(self, chunk: bytes) -> list[FrameLine | ErrorEvent]:
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
        # A large frame is one long line: finding its ends is quicker than splitting it.
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
        events: list[FrameLine | ErrorEvent] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line)
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

    def close(self) -> list[FrameLine | ErrorEvent]:
        """Return what the stream ended in the middle of, if that is an event.

        The standard would discard it. A frame without its blank line is still an answer; if it was
        cut, it is no JSON, and whoever reads it will say so.
        """
        return self.feed(b"\n\n") if self._pending or self._data else []

    def _read_field(self, line: bytes) -> None:
        if line.startswith(_STATUS):
            status = line[len(_STATUS) :].strip()
            self._status = int(status) if status.isdigit() else None
        elif line.startswith(b"event:"):
            self._is_error = line[6:].strip() == b"error"
        elif line == b"data":  # a field without a colon is an empty one
            self._data.append(b"data:")

    def _dispatch(self, events: list[FrameLine | ErrorEvent]) -> None:
        if self._data:
            line = self._data[0]
            if len(self._data) > 1:
                line = b"data:" + b"\n".join(part[5:].removeprefix(b" ") for part in self._data)
            if self._is_error:
                events.append(ErrorEvent(line[5:].strip(), self._status))
            elif (data := line[5:9].lstrip()[:1] or line[5:].lstrip()[:1]) == b"{":
                if _is_error(line):
                    status = None if self._status == 200 else self._status
                    events.append(ErrorEvent(line[5:].strip(), status))
                else:
                    events.append(FrameLine(line))
            elif data and line[5:].strip() != b"[DONE]":
                # Not an object: the SDK would lose it. "!" makes it no JSON at all, and the SDK
                # hands on the text of what it cannot read.
                events.append(FrameLine(b"data:!" + line[5:]))
            self._data.clear()
        self._is_error = False
        self._status = None
