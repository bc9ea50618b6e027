"""Reads recorded answers: `.sse`, `.json` and `.jsonl` files.

A recording is replayed as it is: one that was cut off stays cut off. A malformed one is refused
with its file and line.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bailian_apps.emulator.models import CutOff, Failure, ReceivedRequest
from bailian_apps.emulator.wire.cumulative import as_deltas
from bailian_apps.emulator.wire.frames import (
    MAX_NESTING,
    Frame,
    JsonObject,
    as_object,
    is_true,
    parse_json,
)
from bailian_apps.emulator.wire.rendering import DEFAULT_MODE, detect_mode

RECORDINGS = Path(__file__).parents[1] / "recordings"
"""The folder of the recordings in this package."""

SUFFIXES = (".sse", ".json", ".jsonl")
"""The file name suffixes of recordings."""

_PAYLOAD_KEYS = {"output", "usage", "request_id", "code", "message"}
_CLOCK = "%Y-%m-%d %H:%M:%S:%f"


class RecordingError(ValueError):
    """A recording cannot be read; the message has its file and line."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded answer.

    Attributes:
        path: The file.
        frames: Its frames, as deltas; a JSON answer has one.
        request: The recorded request, without secrets; None if the recorder did not write the file.
        response_headers: The headers of its response, if the recorder wrote the file.
        cut_ms: When after the request the connection was lost; None if the answer is complete.
    """

    path: Path
    frames: tuple[Frame, ...]
    request: ReceivedRequest | None = None
    response_headers: dict[str, str] = field(default_factory=dict[str, str])
    cut_ms: float | None = None

    @property
    def session_id(self) -> str | None:
        """The recorded session id."""
        return next((id_ for frame in self.frames if (id_ := frame.output.get("session_id"))), None)

    @property
    def request_id(self) -> str | None:
        """The recorded request id."""
        return next(
            (id_ for frame in self.frames if (id_ := frame.payload.get("request_id"))), None
        )

    @property
    def flow_stream_mode(self) -> str | None:
        """The mode of the recorded request, or else the one that the frames show, if any."""
        if self.request is not None:
            return self.request.parameters.get("flow_stream_mode")
        return detect_mode(self.frames)

    def paced(self, every_ms: float) -> "Recording":
        """Return the same answer with one frame every `every_ms` milliseconds."""
        frames = enumerate(self.frames)
        return replace(
            self, frames=tuple(replace(f, offset_ms=index * every_ms) for index, f in frames)
        )

    def with_ids(
        self, *, session_id: str, request_id: str, headers: Mapping[str, str]
    ) -> Iterator[Frame]:
        """Yield the frames with the ids of a call, and with headers for its response.

        Raises:
            Failure: The recording is an HTTP error.
            CutOff: After the last frame, if the connection was lost there.
        """
        if self.request and not self.streamed and self.cut_ms is None:
            (frame,) = self.frames
            if frame.status != 200 or frame.raw is not None:
                raise _RecordedFailure(frame, {**self.response_headers, **headers})
        for frame in self.frames:
            payload = {**frame.payload, "request_id": request_id}
            if frame.output:
                payload["output"] = {**frame.output, "session_id": session_id}
            whole = frame.cumulative_output
            whole = None if whole is None else {**whole, "session_id": session_id}
            yield replace(frame, payload=payload, cumulative_output=whole, headers=headers)
        if self.cut_ms is not None:
            raise CutOff(self.cut_ms)

    def missing_features(self, parameters: JsonObject) -> str | None:
        """Return what a request asks for that the recording does not have, or None."""
        if self.request is None:
            return None
        if self.other_mode(parameters.get("flow_stream_mode")):
            mode = self.flow_stream_mode
            return f"recorded with flow_stream_mode={mode}; it is replayed in that mode"
        recorded_thoughts = is_true(self.request.parameters.get("has_thoughts"))
        if (
            is_true(parameters.get("has_thoughts"))
            and not recorded_thoughts
            and any(frame.output for frame in self.frames)
            and not any(_has_steps(frame.output) for frame in self.frames)
        ):
            return "recorded without has_thoughts; the replay has no steps"
        return None

    def other_mode(self, asked: object) -> bool:
        """Return whether the stream was recorded in a mode that cannot be turned into `asked`."""
        recorded = self.flow_stream_mode or DEFAULT_MODE
        return self.streamed and recorded not in (DEFAULT_MODE, asked or DEFAULT_MODE)

    @property
    def streamed(self) -> bool:
        """Whether the recorder wrote a stream."""
        return self.response_headers.get("content-type", "").startswith("text/event-stream")


class _RecordedFailure(Failure):
    def __init__(self, frame: Frame, headers: dict[str, str]) -> None:
        super().__init__(
            status=frame.status,
            code=str(frame.payload.get("code")),
            message=str(frame.payload.get("message")),
            headers=headers,
        )
        self._frame = frame

    def as_frame(self, request_id: str) -> Frame:
        return replace(self._frame, payload={**self._frame.payload, "request_id": request_id})


def _has_steps(output: JsonObject) -> bool:
    return bool(output.get("thoughts") or output.get("workflow_message"))


def load_recording(path: str | os.PathLike[str]) -> Recording:
    """Read a recorded answer.

    Args:
        path: An `.sse`, `.json` or `.jsonl` file.

    Raises:
        RecordingError: The file is missing, malformed or not a recording.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise RecordingError(f"{path}: not a recording; its name must end in {', '.join(SUFFIXES)}")
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    try:
        if path.suffix == ".jsonl":
            recording = _read_jsonl(path, text)
        elif path.suffix == ".sse":
            recording = Recording(path, tuple(_read_sse(text)))
        else:
            recording = Recording(path, (_frame(_parse(text, 1)),))
        if not recording.frames and not recording.request:
            raise _LineError(1, "the recording is empty; it needs at least one frame")
    except _LineError as error:
        raise RecordingError(f"{path}:{error.line}: {error}") from error
    request = recording.request
    if request and recording.streamed and not request.parameters.get("incremental_output"):
        return replace(recording, frames=as_deltas(recording.frames))
    return recording


def path_inside(written: str | os.PathLike[str], folder: Path, root: Path | None) -> Path:
    """Return the path for one that a file in `folder` has, relative to that folder.

    Links are followed: whoever made them can write to the folder, and build tools link each file
    into its place. What is written in the file must not leave the folder or the trusted `root`.

    Raises:
        RecordingError: It does.
    """
    # Normalised first: on disk, `link/..` is not the folder that has the link.
    relative = Path(os.path.normpath(written))
    if not relative.is_absolute() and ".." not in relative.parts:
        return folder / relative
    path = Path(os.path.abspath(folder / relative))  # noqa: PTH100  # resolve() follows links
    inside = any(
        path.is_relative_to(os.path.abspath(each))  # noqa: PTH100
        or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(each))
        for each in ([folder] if root is None else [folder, root])
    )
    if not inside:
        raise RecordingError(
            f"{path}: leads out of the folder of the file that names it; copy it into {folder}, or "
            "pass a folder that has both as load_apps(…, root=…)"
        )
    return path


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        OSError: It cannot be read, or is no regular file: a pipe or a device may never end.
        UnicodeDecodeError: It is not UTF-8 text.
    """
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    return path.read_text(encoding="utf-8")


def read_event(content: bytes) -> JsonObject | None:
    """Parse one event of a stream into the fields of a `.jsonl` line.

    Returns:
        `data`, and `id`, `event` and `status` where they differ from the default; None if it is
        not a frame of the cloud.
    """
    try:
        (frame,) = _read_sse(content.decode())
    except ValueError:
        return None
    fields: JsonObject = {} if frame.id is None else {"id": frame.id}
    if frame.event == "error":
        fields |= {"event": "error", "status": frame.status}
    return {**fields, "data": frame.payload}


def as_payload(value: JsonObject) -> JsonObject:
    """Return a payload; a bare output is wrapped into one."""
    return value if _PAYLOAD_KEYS & value.keys() else {"output": value}


class _LineError(ValueError):
    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def _read_jsonl(path: Path, text: str) -> Recording:
    frames: list[Frame] = []
    head: JsonObject = {}
    cut_ms: float | None = None
    started: datetime | None = None
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        record = _parse(content, line, MAX_NESTING + 2)  # with the recorder's own levels
        if "request" in record:
            head = head or ({} if frames else record)
        elif "cut" in record:
            at_ms = _milliseconds(record.get("offset_ms", 0.0), line, "cut")
            cut_ms = at_ms if cut_ms is None else cut_ms
        elif not {"data", "raw"} & record.keys():
            frames.append(_frame(record))
        else:
            data = as_object(record.get("data", {}))
            if data is None:
                raise _LineError(line, "`data` must be a JSON object, the payload of a frame")
            offset_ms = record.get("offset_ms")
            if "printed_before_data_at" in record:
                at = _clock(record["printed_before_data_at"], line)
                started = started or at
                offset_ms = (at - started) / timedelta(milliseconds=1)
            offset_ms = _milliseconds(offset_ms, line, "data")
            if frames and offset_ms < frames[-1].offset_ms:
                raise _LineError(line, "this frame is earlier than the one before; sort the lines")
            frames.append(replace(_frame(data), offset_ms=offset_ms, **_envelope(record, line)))
    fields = as_object((as_object(head.get("response")) or {}).get("headers")) or {}
    headers = {name: value for name, value in fields.items() if isinstance(value, str)}
    return Recording(path, tuple(frames), _request_of(head), headers, cut_ms)


def _request_of(head: JsonObject) -> ReceivedRequest | None:
    request = as_object(head.get("request"))
    if request is None:
        return None
    return ReceivedRequest(
        app_id=str(request.get("app_id")),
        body=as_object(request.get("body")) or {},
        headers=as_object(request.get("headers")) or {},
    )


def _milliseconds(value: object, line: int, field: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
        raise _LineError(line, f"`{field}` needs an `offset_ms`: milliseconds since the request")
    return float(value)


def _envelope(record: JsonObject, line: int) -> dict[str, Any]:
    """Return what the recorder wrote beside the data of a frame."""
    fields = {name: record[name] for name in ("id", "event", "status") if name in record}
    kinds = {"id": int, "event": str, "status": int}
    if wrong := [name for name in fields if not isinstance(fields[name], kinds[name])]:
        name = wrong[0]
        raise _LineError(
            line, f"`{name}` must be {kinds[name].__name__}, not {type(fields[name]).__name__}"
        )
    if isinstance(record.get("raw"), str):
        fields["raw"] = record["raw"].encode(errors="surrogateescape")
    return fields


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
                f"cannot read {content[:60]!r}; a frame consists of `id:n`, `event:result` or "
                "`event:error`, `:HTTP_STATUS/n` and `data:{…}`",
            )


def _sse_frame(block: dict[str, Any], line: int) -> Frame:
    if "data" not in block:
        raise _LineError(line, "this frame has no `data:` line; delete it or complete it")
    event = block.get("event", "result")
    status = block.get(":HTTP_STATUS", 200 if event == "result" else 400)
    return Frame(payload=block["data"], event=event, status=status, id=block.get("id"))


def _frame(value: JsonObject) -> Frame:
    """Return the frame for a payload, a bare output, an error, or the SDK's response object."""
    status = value.get("status_code")
    if isinstance(status, int):
        dropped = {"status_code"} | ({"code", "message"} if status == 200 else {"output", "usage"})
        value = {key: item for key, item in value.items() if key not in dropped}
    if value.get("code") and not value.get("output"):
        error_status = status if isinstance(status, int) else 400
        return Frame(payload=value, event="error", status=error_status)
    return Frame(payload=as_payload(value))


def _parse(text: str, first_line: int, max_nesting: int = MAX_NESTING) -> JsonObject:
    try:
        value = as_object(parse_json(text, max_nesting))
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise _LineError(line, f"not JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:
        raise _LineError(first_line, f"cannot be read: {error}") from error
    if value is None:
        raise _LineError(first_line, "expected a JSON object")
    return value


def _clock(value: object, line: int) -> datetime:
    try:
        return datetime.strptime(str(value), _CLOCK)
    except ValueError as error:
        raise _LineError(line, f"{value!r} is not a time like 2025-07-23 10:43:13:323") from error
