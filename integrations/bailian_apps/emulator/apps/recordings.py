"""Reads recorded answers: `.sse`, `.json` and `.jsonl` files into frames.

A recording is taken as it is. One that was cut off stays cut off, and one that cannot be read is
refused with its file and line.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bailian_apps.emulator.models import CutOff, Failure, ReceivedRequest
from bailian_apps.emulator.wire.cumulative import as_deltas
from bailian_apps.emulator.wire.frames import Frame, JsonObject, as_object

RECORDINGS = Path(__file__).parents[1] / "recordings"
"""The folder of the recordings that come with the package."""

SUFFIXES = (".sse", ".json", ".jsonl")
"""How the names of recordings end."""

_PAYLOAD_KEYS = {"output", "usage", "request_id", "code", "message"}
_CLOCK = "%Y-%m-%d %H:%M:%S:%f"


class RecordingError(ValueError):
    """A recording cannot be read; the message names its file and line."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded answer.

    Attributes:
        path: Where it was read from.
        frames: Its frames, with deltas; a JSON answer has one.
        head: What the recorder noted of the request and of the answer's head; else empty.
        cut_ms: When after the request the connection was lost; None when the answer is whole.
    """

    path: Path
    frames: tuple[Frame, ...]
    head: JsonObject = field(default_factory=JsonObject)
    cut_ms: float | None = None

    @property
    def request(self) -> ReceivedRequest | None:
        """What was asked, without secrets; only the recorder notes it."""
        asked = as_object(self.head.get("request"))
        if asked is None:
            return None
        return ReceivedRequest(
            app_id=str(asked.get("app_id")),
            body=as_object(asked.get("body")) or {},
            headers=as_object(asked.get("headers")) or {},
        )

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

    def paced(self, every_ms: float) -> "Recording":
        """Return the same answer at a steady pace: a frame each `every_ms` milliseconds."""
        frames = enumerate(self.frames)
        return replace(
            self, frames=tuple(replace(f, offset_ms=place * every_ms) for place, f in frames)
        )

    def under(self, *, session_id: str, request_id: str) -> Iterator[Frame]:
        """Yield the frames under the ids of a call.

        Raises:
            Failure: The answer was none of a run, but an HTTP error.
            CutOff: After the last frame, where the connection was lost.
        """
        if self.head and not self._streamed and self.cut_ms is None:
            (frame,) = self.frames
            if frame.status != 200 or frame.raw is not None:
                raise _RecordedFailure(frame, self._answer_headers)
        for frame in self.frames:
            payload = {**frame.payload, "request_id": request_id}
            if frame.output:
                payload["output"] = {**frame.output, "session_id": session_id}
            whole = None if frame.whole is None else {**frame.whole, "session_id": session_id}
            yield replace(frame, payload=payload, whole=whole)
        if self.cut_ms is not None:
            raise CutOff(self.cut_ms)

    @property
    def cumulative(self) -> bool:
        """Whether it was asked for without `incremental_output`: each frame has all so far."""
        asked = self.request
        return bool(asked and self._streamed and not asked.parameters.get("incremental_output"))

    def lacks(self, parameters: JsonObject) -> str | None:
        """Return what a call asks for and the recording does not have, if there is such a thing."""
        if self.request is None or not self._streamed:
            return None
        recorded = self.request.parameters
        mode, asked_mode = (
            each.get("flow_stream_mode") or "full_thoughts" for each in (recorded, parameters)
        )
        if mode not in ("full_thoughts", asked_mode):
            return f"it was recorded with flow_stream_mode={mode} and is told so"
        if parameters.get("has_thoughts") is True and recorded.get("has_thoughts") is not True:
            return "it was recorded without has_thoughts, so it has no steps"
        return None

    @property
    def _answer_headers(self) -> dict[str, str]:
        response = as_object(self.head.get("response")) or {}
        return as_object(response.get("headers")) or {}

    @property
    def _streamed(self) -> bool:
        return self._answer_headers.get("content-type", "").startswith("text/event-stream")


class _RecordedFailure(Failure):
    def __init__(self, frame: Frame, headers: dict[str, str]) -> None:
        about = frame.payload
        super().__init__(
            status=frame.status,
            code=str(about.get("code")),
            message=str(about.get("message")),
            headers=headers,
        )
        self._frame = frame

    def as_frame(self, request_id: str) -> Frame:
        return replace(self._frame, payload={**self._frame.payload, "request_id": request_id})


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
        head, cut_ms = _head_and_cut(text) if path.suffix == ".jsonl" else ({}, None)
        if not frames and not head:
            raise _LineError(1, "the recording is empty; it needs at least one frame")
    except _LineError as error:
        raise RecordingError(f"{path}:{error.line}: {error}") from error
    recording = Recording(path, frames, head, cut_ms)
    return replace(recording, frames=as_deltas(frames)) if recording.cumulative else recording


def read_event(content: bytes) -> JsonObject | None:
    """Read one event of a stream, as a line of a `.jsonl` recording has it.

    Returns:
        `data`, and where they say something `id`, `event` and `status`; None when it is no frame
        of the cloud's kind.
    """
    try:
        (frame,) = _read_sse(content.decode())
    except ValueError:
        return None
    told: JsonObject = {} if frame.id is None else {"id": frame.id}
    if frame.event == "error":
        told |= {"event": "error", "status": frame.status}
    return {**told, "data": frame.payload}


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
        if "request" in record or "cut" in record:
            continue
        if "raw" in record:
            record = {"data": JsonObject(), **record}
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
        yield replace(_frame(data), offset_ms=latest_ms, **_told_with(record, line))


def _head_and_cut(text: str) -> tuple[JsonObject, float | None]:
    """Read what the recorder noted before the frames, and after them."""
    lines = enumerate(text.split("\n"), 1)
    records = [(line, _parse(content, line)) for line, content in lines if content.strip()]
    head = records[0][1] if records and "request" in records[0][1] else {}
    for line, record in records:
        if "cut" in record:
            cut_ms = record.get("offset_ms", 0.0)
            if not isinstance(cut_ms, (int, float)) or isinstance(cut_ms, bool) or cut_ms < 0:
                raise _LineError(line, "give `cut` an `offset_ms`, milliseconds since the request")
            return head, float(cut_ms)
    return head, None


def _told_with(record: JsonObject, line: int) -> dict[str, Any]:
    """Read what the recorder noted beside the data of a frame."""
    told = {name: record[name] for name in ("id", "event", "status") if name in record}
    kinds = {"id": int, "event": str, "status": int}
    if wrong := [name for name in told if not isinstance(told[name], kinds[name])]:
        raise _LineError(line, f"`{wrong[0]}` is a {type(told[wrong[0]]).__name__}; record it anew")
    if isinstance(record.get("raw"), str):
        told["raw"] = record["raw"].encode(errors="surrogateescape")
    return told


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
