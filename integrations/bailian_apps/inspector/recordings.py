"""Reads recordings, and frames with times, as runs. Pure but for reading files.

The formats are those that the emulator replays: `.sse`, a stream's bytes; `.json`, one answer;
`.jsonl`, one frame a line, with its `offset_ms` and a head with the request where the recorder
wrote it. This module shares no code with the emulator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from bailian_apps.core.decoder import Decoder, finish_reason
from bailian_apps.core.language import N_
from bailian_apps.core.text import new_suffix
from bailian_apps.core.values import as_text, json_object, parse_json, text_or_none
from bailian_apps.inspector.view import JsonObject, Run, TimedFrames

SUFFIXES = (".sse", ".json", ".jsonl")
"""How the names of recordings end."""

_PAYLOAD_KEYS = {"output", "usage", "request_id", "code", "message"}
_CLOCK = "%Y-%m-%d %H:%M:%S:%f"


def run_of_frames(
    frames: TimedFrames,
    *,
    request: JsonObject | None = None,
    name: str | None = None,
    timed: bool = True,
) -> Run:
    """Decode the frames of one answer.

    Args:
        frames: Each with the milliseconds since the request.
        request: The request's body, or an object with its `body` and `app_id`.
        name: What to call the run.
        timed: Whether the milliseconds mean anything.
    """
    body = _body(request or {})
    given, parameters = _object(body.get("input")) or {}, _object(body.get("parameters")) or {}
    now_ms: float | None = None
    decoder = Decoder(
        flow_stream_mode=text_or_none(parameters.get("flow_stream_mode")),
        clock=lambda: now_ms,
    )
    if len(frames) > 1 and parameters and not parameters.get("incremental_output"):
        frames = [*_deltas(frames)]
    error: tuple[str | None, str] | None = None
    for at_ms, frame in frames:
        now_ms = float(at_ms) if timed else None
        if frame.get("code") and not frame.get("output"):
            error = (str(frame["code"]), as_text(frame.get("message")))
            break
        decoder.feed(frame)
    result, app_id = decoder.partial(), text_or_none((request or {}).get("app_id"))
    return Run(
        result=result,
        name=name,
        app_id=app_id,
        prompt=_prompt(given),
        request=body or None,
        error=error,
        finished=decoder.finished,
    )


def runs_in(path: Path) -> list[Run]:
    """Read a recording, or all recordings of a folder in the order of their names.

    Raises:
        ValueError: One cannot be read, or the folder has none.
        OSError: A file cannot be read.
    """
    if not path.is_dir():
        return [_read(path)]
    paths = [each for each in sorted(path.iterdir()) if each.suffix in SUFFIXES and each.is_file()]
    if not paths:
        raise ValueError(
            N_("{path}: has no recording; their names end in {names}").format(
                path=path, names=", ".join(SUFFIXES)
            )
        )
    return [_read(each) for each in paths]


def _read(path: Path) -> Run:
    if path.suffix not in SUFFIXES:
        raise ValueError(
            N_("{path}: not a recording; its name must end in {names}").format(
                path=path, names=", ".join(SUFFIXES)
            )
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(N_("{path}: not UTF-8 text").format(path=path)) from None
    request: JsonObject | None = None
    timed = False
    frames: list[tuple[float, JsonObject]] = []
    if path.suffix == ".jsonl":
        request, frames, timed = _read_lines(path, text)
    elif path.suffix == ".sse":
        for line, content in enumerate(text.split("\n"), 1):
            if content.startswith("data:"):
                frames.append((0.0, _payload(_parse(path, line, content[5:]))))
    else:
        frames = [(0.0, _payload(_parse(path, 1, text)))]
    return run_of_frames(frames, request=request, name=path.name, timed=timed)


def _read_lines(path: Path, text: str) -> tuple[JsonObject | None, list[tuple[float, Any]], bool]:
    request: JsonObject | None = None
    frames: list[tuple[float, JsonObject]] = []
    started: datetime | None = None
    timed = False
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        record = _parse(path, line, content)
        if "request" in record:
            request = request or _object(record["request"])
            continue
        if "cut" in record or "raw" in record:
            continue
        at_ms: object = record.get("offset_ms")
        if "printed_before_data_at" in record:
            at = _clock(path, line, record["printed_before_data_at"])
            started = started or at
            at_ms = (at - started) / timedelta(milliseconds=1)
        known = isinstance(at_ms, (int, float)) and not isinstance(at_ms, bool)
        timed = timed or known
        data = _object(record["data"]) if "data" in record else record
        if data is None:
            raise ValueError(
                N_("{path}:{line}: `data` must be a JSON object").format(path=path, line=line)
            )
        frames.append((float(cast("float", at_ms)) if known else 0.0, _payload(data)))
    return request, frames, timed


def _parse(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        at = ""
        if isinstance(error, json.JSONDecodeError):
            at = N_(" at column {column}").format(column=error.colno)
        raise ValueError(
            N_("{path}:{line}: not JSON{at}").format(path=path, line=line, at=at)
        ) from None
    if not isinstance(value, dict):
        raise ValueError(N_("{path}:{line}: must be a JSON object").format(path=path, line=line))
    return cast("dict[str, Any]", value)


def _clock(path: Path, line: int, value: object) -> datetime:
    try:
        return datetime.strptime(str(value), _CLOCK)
    except ValueError:
        raise ValueError(
            N_("{path}:{line}: not a time like 2025-07-23 10:43:13:323").format(
                path=path, line=line
            )
        ) from None


def _payload(value: JsonObject) -> JsonObject:
    """Return a frame's object; a bare output, or the SDK's response object, becomes one."""
    if isinstance(value.get("status_code"), int) and value["status_code"] == 200:
        value = {k: v for k, v in value.items() if k not in ("status_code", "code", "message")}
    return value if _PAYLOAD_KEYS & value.keys() else {"output": value}


def _object(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, Mapping) else None


def _body(request: JsonObject) -> dict[str, Any]:
    if "body" in request:
        return _object(request["body"]) or {}
    return {k: v for k, v in request.items() if k not in ("app_id", "headers")}


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _prompt(given: JsonObject) -> str | None:
    last = _object((_list(given.get("messages")) or [None])[-1]) or {}
    return as_text(given.get("prompt") or last.get("content")) or None


def _deltas(frames: TimedFrames) -> Iterator[tuple[float, JsonObject]]:
    """Yield frames that repeat their texts from the start as frames with what is new in them.

    A request without `incremental_output` is answered so.
    """
    said: dict[object, list[str]] = {}

    def new(fields: dict[str, Any], name: str, key: object) -> None:
        if isinstance(text := fields.get(name), str) and text:
            known = said.setdefault((key, name), [])
            fields[name] = new_suffix(known, text)
            known.append(fields[name])

    for at_ms, frame in frames:
        output = dict(_object(frame.get("output")) or {})
        if not output:
            yield at_ms, frame
            continue
        has_node = False
        thoughts: list[object] = []
        for position, each in enumerate(_list(output.get("thoughts"))):
            entry = dict(_object(each) or {})
            node = json_object(entry.get("response")) or {}
            if result := json_object(node.get("nodeResult")):
                for name in result:
                    new(result, name, node.get("nodeId"))
                entry["response"] = json.dumps({**node, "nodeResult": json.dumps(result)})
            elif entry.get("action_type") == "reasoning":
                for name in ("thought", "response"):
                    new(entry, name, position)
            has_node = has_node or "nodeId" in node
            thoughts.append(entry or each)
        if thoughts:
            output["thoughts"] = thoughts
        # The last frame of a workflow has the whole answer in every form of the stream.
        if not (has_node and finish_reason(output)):
            new(output, "text", "answer")
        yield at_ms, {**frame, "output": output}
