"""Reads recorded answers: `.sse`, `.json` and `.jsonl` files into frames.

A recording is taken as it is. One that was cut off stays cut off, and one that cannot be read is
refused with its file and line.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bailian_apps.emulator.wire import Frame, JsonObject, as_object

RECORDINGS = Path(__file__).parent / "recordings"
"""The folder of the recordings that come with the package."""

_PAYLOAD_KEYS = {"output", "usage", "request_id", "code", "message"}
_CLOCK = "%Y-%m-%d %H:%M:%S:%f"


class RecordingError(ValueError):
    """A recording cannot be read; the message names its file and line."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded answer.

    Attributes:
        path: Where it was read from.
        frames: Its frames; a JSON answer has one.
    """

    path: Path
    frames: tuple[Frame, ...]

    @property
    def session_id(self) -> str | None:
        """The session it was recorded in."""
        return next((id_ for frame in self.frames if (id_ := frame.output.get("session_id"))), None)

    @property
    def request_id(self) -> str | None:
        """The request it answered."""
        return next(
            (id_ for frame in self.frames if (id_ := frame.payload.get("request_id"))), None
        )


def load_recording(path: str | os.PathLike[str]) -> Recording:
    """Read a recorded answer.

    Args:
        path: An `.sse`, `.json` or `.jsonl` file.

    Raises:
        RecordingError: It is missing, of another kind, or malformed.
    """
    path = Path(path)
    readers = {".sse": _read_sse, ".json": _read_json, ".jsonl": _read_jsonl}
    reader = readers.get(path.suffix)
    if reader is None:
        raise RecordingError(f"{path}: not a recording; its name must end in {', '.join(readers)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    try:
        frames = tuple(reader(text))
        if not frames:
            raise _LineError(1, "the recording is empty; it needs at least one frame")
    except _LineError as error:
        raise RecordingError(f"{path}:{error.line}: {error}") from error
    return Recording(path, frames)


def as_payload(value: JsonObject) -> JsonObject:
    """Return a payload, putting a bare output into one."""
    return value if _PAYLOAD_KEYS & value.keys() else {"output": value}


class _LineError(ValueError):
    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def _read_json(text: str) -> Iterator[Frame]:
    yield _frame(_parse(text, 1))


def _read_jsonl(text: str) -> Iterator[Frame]:
    started: datetime | None = None
    latest_ms = 0.0
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        record = _parse(content, line)
        if "data" not in record:
            yield _frame(record)
            continue
        data = as_object(record["data"])
        if data is None:
            raise _LineError(line, "`data` must be a JSON object, the payload of a frame")
        offset_ms = record.get("offset_ms")
        if "printed_before_data_at" in record:
            at = _clock(record["printed_before_data_at"], line)
            started = started or at
            offset_ms = (at - started) / timedelta(milliseconds=1)
        if not isinstance(offset_ms, (int, float)) or isinstance(offset_ms, bool) or offset_ms < 0:
            raise _LineError(line, "give `data` an `offset_ms`, the milliseconds since the request")
        if offset_ms < latest_ms:
            raise _LineError(line, "this frame is earlier than the one before it; sort the lines")
        latest_ms = float(offset_ms)
        yield replace(_frame(data), offset_ms=latest_ms)


def _read_sse(text: str) -> Iterator[Frame]:
    # Not str.splitlines: it would also split inside the JSON, at U+2028.
    lines = text.split("\n")
    block: dict[str, Any] = {}
    for line, content in enumerate([*lines, ""], 1):
        if not content:
            if block:
                yield _sse_frame(block, line - 1)
            block = {}
            continue
        name, _, value = content.partition("/" if content.startswith(":") else ":")
        if name == "data":
            block["data"] = _parse(value, line)
        elif name == "event" and value.strip() in ("result", "error"):
            block["event"] = value.strip()
        elif name in ("id", ":HTTP_STATUS") and value.strip().isdecimal():
            block[name] = int(value)
        else:
            raise _LineError(
                line,
                f"cannot read {content[:60]!r}; a frame is made of `id:n`, `event:result` or "
                "`event:error`, `:HTTP_STATUS/n` and `data:{…}`",
            )


def _sse_frame(block: dict[str, Any], line: int) -> Frame:
    if "data" not in block:
        raise _LineError(line, "this frame has no `data:` line; delete it or complete it")
    event = block.get("event", "result")
    status = block.get(":HTTP_STATUS", 200 if event == "result" else 400)
    return Frame(payload=block["data"], event=event, status=status, id=block.get("id"))


def _frame(value: JsonObject) -> Frame:
    """Make a frame of an answer, a bare output, an error, or the SDK's response object."""
    status = value.get("status_code")
    if isinstance(status, int):
        dropped = {"status_code"} | ({"code", "message"} if status == 200 else {"output", "usage"})
        value = {key: item for key, item in value.items() if key not in dropped}
    if value.get("code") and not value.get("output"):
        error_status = status if isinstance(status, int) else 400
        return Frame(payload=value, event="error", status=error_status)
    return Frame(payload=as_payload(value))


def _parse(text: str, first_line: int) -> JsonObject:
    try:
        value = as_object(json.loads(text))
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise _LineError(line, f"not JSON: {error.msg} at column {error.colno}") from error
    if value is None:
        raise _LineError(first_line, "expected a JSON object")
    return value


def _clock(value: object, line: int) -> datetime:
    try:
        return datetime.strptime(str(value), _CLOCK)
    except ValueError as error:
        raise _LineError(line, f"{value!r} is not a time like 2025-07-23 10:43:13:323") from error
