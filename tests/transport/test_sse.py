"""The reader of event streams: the same events wherever the bytes are cut."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import recordings

from bailian_apps.core.values import parse_json
from bailian_apps.transport.sse import ErrorEvent, SSEReader

SSE_FILES = [path for path in recordings.ALL if path.suffix == ".sse"]


def read(*chunks: bytes) -> list[dict[str, Any] | tuple[str, int | None]]:
    reader = SSEReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)] + reader.close()
    return [
        (event.data.decode(), event.status_code) if isinstance(event, ErrorEvent) else event
        for event in events
    ]


def cut(body: bytes, borders: list[int]) -> list[bytes]:
    edges = sorted({0, len(body), *(border % (len(body) + 1) for border in borders)})
    return [body[start:end] for start, end in itertools.pairwise(edges)]


@given(
    st.sampled_from(SSE_FILES),
    st.lists(st.integers(min_value=0), max_size=30),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_chunk_borders_do_not_change_the_events(path, borders, newline) -> None:  # type: ignore[no-untyped-def]
    body = path.read_text(encoding="utf-8").replace("\n", newline).encode()
    events = read(*cut(body, borders))
    if path.name in recordings.ERRORS:
        [line] = [each for each in body.decode().splitlines() if each.startswith("data:")]
        assert events == [(line[5:], 400)]
    else:
        assert events == recordings.frames(path.name)


FIELD = st.sampled_from(
    [b"data:", b"data: ", b"data", b"event:", b"event: ", b"id:", b":", b"retry:", b"x"]
)
VALUE = st.sampled_from(
    [
        b"",
        b"{}",
        b'{"a":1}',
        b"error",
        b"result",
        b"[DONE]",
        b"1",
        b"HTTP_STATUS/400",
        b"\xff",
        b" ",
    ]
)
LINE = st.builds(
    lambda *parts: b"".join(parts), FIELD, VALUE, st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n"])
)


@given(st.lists(LINE, max_size=12), st.lists(st.integers(min_value=0), max_size=8))
def test_any_lines_read_the_same_in_any_pieces(lines, borders) -> None:  # type: ignore[no-untyped-def]
    body = b"".join(lines)
    reader = SSEReader()
    whole = reader.feed(body) + reader.close()
    reader = SSEReader()
    pieces = [e for chunk in cut(body, borders) for e in reader.feed(chunk)] + reader.close()
    assert pieces == whole


def test_data_before_the_next_event_belongs_to_one_event() -> None:
    assert read(b'data:{"a":\ndata: 1}\n\ndata:{}\n\n') == [{"a": 1}, {}]


def test_an_error_and_its_status_do_not_leak_into_the_next_event() -> None:
    body = b"event:error\n:HTTP_STATUS/429\ndata:{}\n\ndata:{}\n\n"
    assert read(body) == [("{}", 429), {}]


def test_data_that_is_not_an_object_is_kept_as_text() -> None:
    assert read(b"data:[1]\n\ndata:\n\ndata: \n\ndata:[DONE]\n\n") == [{"data": "[1]"}]
    assert read(b'data: {"output":\n\n') == [{"data": '{"output":'}]


def test_a_frame_with_a_code_is_an_error_whatever_its_event_is_called() -> None:
    assert read(b'event:result\ndata:{"code":"X","output":{}}\n\n') == [
        ('{"code":"X","output":{}}', None)
    ]
    assert read(b'data:{"code":"","output":{}}\n\n') == [{"code": "", "output": {}}]
    # An error that was cut off is not JSON.
    assert read(b':HTTP_STATUS/400\ndata:{"code":"X","mess\n\n') == [('{"code":"X","mess', 400)]


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":NaN}', {"a": math.nan}),
        (b'{"a":"\\ud83d"}', {"a": "\ud83d"}),
        (b'{"a":"\xff"}', {"a": "\ufffd"}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b"[" * 900 + b"]" * 900, None),
    ],
)
def test_what_orjson_refuses_is_parsed_by_the_standard_library(data: bytes, value: Any) -> None:
    parsed = parse_json(data)
    assert value is None or str(parsed) == str(value)


PASSAGE = "西湖" * 1000
REFERENCES = [{"index_id": "1", "text": PASSAGE}, {"index_id": "2", "text": '"doc_references":[]'}]
OUTPUTS = st.fixed_dictionaries(
    {"text": st.sampled_from(["", "好", '"doc_references":', PASSAGE])},
    optional={
        "doc_references": st.sampled_from([REFERENCES, REFERENCES[:1], [], None, "x", {"a": 1}]),
        "nested": st.just({"doc_references": REFERENCES}),
    },
)
FRAMES = st.lists(
    st.one_of(
        st.builds(lambda output: {"output": output}, OUTPUTS),
        st.builds(lambda output, rest: {"doc_references": rest, "output": output, "z": PASSAGE},
                  OUTPUTS, st.sampled_from([REFERENCES, None])),
    ),
    max_size=6,
)  # fmt: skip


@given(FRAMES, st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_references_listed_again_are_read_as_if_each_frame_was_parsed(
    frames: list[dict[str, Any]], escaped: bool, separators: tuple[str, str]
) -> None:
    bodies = [json.dumps(each, ensure_ascii=escaped, separators=separators) for each in frames]
    assert read("".join(f"data:{each}\n\n" for each in bodies).encode()) == frames


def test_references_that_every_frame_lists_again_are_parsed_once() -> None:
    body = json.dumps({"output": {"doc_references": REFERENCES}}, separators=(",", ":"))
    frames = read(f"data:{body}\n\n".encode() * 4)
    lists = [each["output"]["doc_references"] for each in frames if isinstance(each, dict)]
    assert lists == [REFERENCES] * 4
    assert lists[1] is lists[2] is lists[3]
