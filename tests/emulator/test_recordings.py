"""Every recording can be read, and a malformed one is refused with its file and line."""

import re
from pathlib import Path

import pytest

from bailian_apps.emulator import RECORDINGS, RecordingError, load_recording

FRAMES = {
    "agent-deep-thinking-elided-head.sse": 3,
    "agent-deep-thinking-elided-tail.sse": 4,
    "agent-hello.json": 1,
    "agent-mcp-thoughts-third-party-abridged.json": 1,
    "agent-plain-stream.sse": 5,
    "agent-plugin-business-params.json": 1,
    "agent-rag-citations.json": 1,
    "agent2-file-list.json": 1,
    "agent2-sdk-response-object.json": 1,
    "error-app-id-invalid-elided.sse": 1,
    "workflow-biz-params.json": 1,
    "workflow-deep-thinking-streamed-end-head.jsonl": 22,
    "workflow-deep-thinking-streamed-end-tail.jsonl": 20,
    "workflow-file-input-no-thoughts.sse": 10,
    "workflow-full-thoughts-retrieval-node-one-frame.json": 1,
    "workflow-message-format-arrival-times.jsonl": 9,
    "workflow-message-format-plus-elided.sse": 6,
    "workflow-message-format-text-in-completion-frame.sse": 12,
    "workflow-message-format.sse": 11,
    "workflow-multi-turn-messages.json": 1,
    "workflow-multi-turn-session-round-1.json": 1,
    "workflow-multi-turn-session-round-2.json": 1,
    "workflow-timed.jsonl": 11,
    "workflow-two-llm-fixed-end.sse": 12,
    "workflow-two-llm.sse": 12,
}


@pytest.mark.parametrize(("name", "frames"), FRAMES.items())
def test_every_recording_can_be_read(recordings: Path, name: str, frames: int) -> None:
    assert len(load_recording(recordings / name).frames) == frames


def test_no_recording_is_left_out(recordings: Path) -> None:
    there = {path.name for path in recordings.iterdir() if path.suffix != ".md"}
    assert there == FRAMES.keys()


def test_the_package_contains_the_timed_workflow(recordings: Path) -> None:
    brought = RECORDINGS / "travel-workflow.jsonl"
    assert brought.read_bytes() == (recordings / "workflow-timed.jsonl").read_bytes()


def test_an_sse_file_keeps_ids_events_and_statuses(recordings: Path) -> None:
    tail = load_recording(recordings / "agent-deep-thinking-elided-tail.sse")
    assert [frame.id for frame in tail.frames] == [320, 321, 322, 323]
    assert tail.session_id == "ea188f5f795a485f8956e3af0212ba29"
    assert tail.request_id == "b4b0b65f-4378-93b6-8ca2-7936b2725bc8"
    (error,) = load_recording(recordings / "error-app-id-invalid-elided.sse").frames
    assert (error.event, error.status, error.payload["code"]) == ("error", 400, "InvalidParameter")


def test_the_offsets_of_frames_are_read(recordings: Path) -> None:
    frames = load_recording(recordings / "workflow-timed.jsonl").frames
    assert [frame.offset_ms for frame in frames][:4] == [310, 310, 508, 1110]


def test_clock_values_become_offsets(recordings: Path) -> None:
    frames = load_recording(recordings / "workflow-message-format-arrival-times.jsonl").frames
    offsets = [frame.offset_ms for frame in frames]
    assert offsets[:4] == [0, 47, 48, 93]
    assert offsets[-1] == 804


def test_bare_thoughts_are_an_output_without_an_end(recordings: Path) -> None:
    recording = load_recording(recordings / "workflow-deep-thinking-streamed-end-tail.jsonl")
    assert all(frame.payload.keys() == {"output"} for frame in recording.frames)
    assert all(frame.output.keys() == {"thoughts"} for frame in recording.frames)
    assert not any(frame.finished for frame in recording.frames)
    assert recording.session_id is None


def test_a_bare_output_and_an_sdk_object_are_answers(recordings: Path) -> None:
    (bare,) = load_recording(recordings / "agent-rag-citations.json").frames
    assert bare.output["doc_references"][0]["index_id"] == "1"
    (sdk,) = load_recording(recordings / "agent2-sdk-response-object.json").frames
    assert sdk.payload.keys() == {"request_id", "output", "usage"}


def test_an_sdk_object_of_an_error_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "throttled.json"
    path.write_text(
        '{"status_code":429,"request_id":"r","code":"Throttling","message":"slow","output":null}'
    )
    (frame,) = load_recording(path).frames
    assert (frame.event, frame.status) == ("error", 429)
    assert frame.payload == {"request_id": "r", "code": "Throttling", "message": "slow"}


def test_line_separators_inside_the_json_do_not_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "separators.sse"
    path.write_bytes('event:result\r\ndata:{"output":{"text":"a\u2028b\u0085c"}}\r\n\r\n'.encode())
    (frame,) = load_recording(path).frames
    assert frame.output["text"] == "a\u2028b\u0085c"


@pytest.mark.parametrize(
    ("name", "text", "line", "problem"),
    [
        ("a.json", '{\n"output": {\n"text": }}', 3, "not JSON"),
        ("a.json", "[]", 1, "expected a JSON object"),
        ("a.jsonl", '{"thoughts":[]}\n\n{"thoughts":', 3, "not JSON"),
        ("a.jsonl", '{"data":{"output":{}}}', 1, "offset_ms"),
        ("a.jsonl", '{"offset_ms":1,"data":[]}', 1, "must be a JSON object"),
        ("a.jsonl", '{"offset_ms":true,"data":{}}', 1, "offset_ms"),
        ("a.jsonl", '{"offset_ms":9,"data":{}}\n{"offset_ms":8,"data":{}}', 2, "sort the lines"),
        ("a.jsonl", '{"printed_before_data_at":"noon","data":{}}', 1, "is not a time like"),
        ("a.jsonl", "\n", 1, "the recording is empty"),
        ("a.sse", "id:1\nevent:result\n\n", 2, "has no `data:` line"),
        ("a.sse", 'id:1\ndata:{"output":{}}\n\nid:2\ndata:{"out\n\n', 5, "not JSON"),
        ("a.sse", "event:done\ndata:{}\n\n", 1, "cannot read 'event:done'"),
        ("a.sse", "hello\n\n", 1, "cannot read 'hello'"),
    ],
)
def test_a_malformed_recording_names_its_file_and_line(
    tmp_path: Path, name: str, text: str, line: int, problem: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(RecordingError, match=rf"{re.escape(f'{path}:{line}: ')}.*{problem}"):
        load_recording(path)


def test_a_missing_file_and_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"gone\.sse: cannot be read"):
        load_recording(tmp_path / "gone.sse")
    with pytest.raises(RecordingError, match=r"must end in \.sse, \.json, \.jsonl"):
        load_recording(tmp_path / "answer.txt")


@pytest.mark.parametrize("offset_ms", ['"soon"', "null", "true", "-1"])
def test_a_cut_without_a_time_names_its_line(tmp_path: Path, offset_ms: str) -> None:
    path = tmp_path / "cut.jsonl"
    frame = '{"offset_ms": 0, "data": {"output": {"text": "a"}}}'
    path.write_text(f'{frame}\n{{"cut": "lost", "offset_ms": {offset_ms}}}\n', encoding="utf-8")
    with pytest.raises(RecordingError, match=rf"{re.escape(f'{path}:2: ')}.*`offset_ms`"):
        load_recording(path)
