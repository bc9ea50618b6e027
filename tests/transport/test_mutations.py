"""Recordings, mutated and cut at random: the right events, or a typed error.

The number of examples is `BAILIAN_EXAMPLES` (default 150 for each property); 100,000 were run once,
see docs/en/benchmarks.md.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable

import httpx
import httpx_sse
from hypothesis import given, settings
from hypothesis import strategies as st
from support import recordings
from support.events import rows
from support.paths import PATHS
from support.wire import SSE_HEAD, Do, WireServer, chunk, event

from bailian_apps import AppEvent, AppResult, BailianApp, BailianError, RunFinished, TextDelta
from bailian_apps.core.decoder import Decoder
from bailian_apps.transport.sse import ErrorEvent, SSEReader

EXAMPLES = int(os.environ.get("BAILIAN_EXAMPLES", "150"))
NAMES = [path.name for path in recordings.ALL if path.name not in recordings.ERRORS]
BODIES = {name: b"".join(event(each) for each in recordings.frames(name)) for name in NAMES}


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A recording's bytes with a few bytes replaced, inserted, removed, doubled or cut off."""
    name = draw(st.sampled_from(NAMES))
    body = bytearray(BODIES[name])
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 40)))
        change = draw(st.sampled_from(["replace", "remove", "double", "cut"]))
        if change == "replace":
            body[start:end] = draw(
                st.binary(max_size=8) | st.sampled_from([b"\n", b"\r", b"\n\n", b'"', b"\\"])
            )
        elif change == "remove":
            del body[start:end]
        elif change == "double":
            body[end:end] = body[start:end]
        else:
            del body[start:]
    return name, bytes(body)


def pieces(body: bytes, borders: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(body), *(border % (len(body) + 1) for border in borders)})
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def read(chunks: list[bytes], mode: str | None) -> tuple[list[AppEvent], AppResult | None]:
    """Read a body with the transport and the core, without sockets between them."""
    reader, decoder, events = SSEReader(), Decoder(flow_stream_mode=mode), []
    arriving = [event for each in chunks for event in reader.feed(each)]
    for each in arriving + reader.close():
        if isinstance(each, ErrorEvent):
            return events, None
        events += decoder.feed(each)
    try:
        return events, decoder.finish()
    except BailianError:
        return events, None


@settings(max_examples=EXAMPLES)
@given(mutated(), st.lists(st.integers(min_value=0), max_size=20))
def test_a_mutated_recording_is_read_the_same_in_any_pieces(
    mutation: tuple[str, bytes], borders: list[int]
) -> None:
    name, body = mutation
    mode = recordings.MODES.get(name)
    events, result = read(pieces(body, borders), mode)
    assert (events, result) == read([body], mode)
    if result is not None:
        streamed = "".join(each.text for each in events if isinstance(each, TextDelta))
        assert streamed == result.text


@settings(max_examples=max(20, EXAMPLES // 20))
@given(mutated(), st.lists(st.integers(min_value=0), max_size=8), st.sampled_from(sorted(PATHS)))
def test_a_mutated_recording_over_a_socket_is_read_the_same(
    mutation: tuple[str, bytes], borders: list[int], path: str
) -> None:
    name, body = mutation
    mode = recordings.MODES.get(name)
    parts = [
        SSE_HEAD,
        *(chunk(each) for each in pieces(body, borders) if each),
        chunk(b"\n\n"),
        b"0\r\n\r\n",
    ]
    with WireServer([*parts, Do.CLOSE]) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url, max_retries=0)
        outcome = PATHS[path](app, "hi", flow_stream_mode=mode)
        assert len(server.posts) == 1
    events, result = read([body, b"\n\n"], mode)
    assert (outcome.result is None) == (result is None)
    assert (outcome.error is None) == (result is not None)
    if result is not None and outcome.result is not None:
        assert outcome.result.text == result.text
        assert outcome.result.steps == result.steps
    if path in ("stream", "astream"):
        delivered = [each for each in outcome.events if not isinstance(each, RunFinished)]
        assert rows(delivered) == rows(events)


LINES = st.lists(
    st.sampled_from(
        [b"data:{}", b"data: {}", b"data:", b'data:{"a":1}', b"event:result", b"event: error", b"event:error",
         b"id:1", b":HTTP_STATUS/200", b": comment", b"retry:5", b"data", b"other:1", b""]
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=EXAMPLES)
@given(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_the_reader_agrees_with_httpx_sse(lines: list[bytes], newline: bytes) -> None:
    body = newline.join([*lines, b"", b""])
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    theirs = [
        (each.event == "error", each.data.strip())
        for each in httpx_sse.EventSource(response).iter_sse()
        if each.data.strip().startswith("{")
    ]
    reader = SSEReader()
    ours: list[tuple[bool, object]] = [
        (True, each.data.decode()) if isinstance(each, ErrorEvent) else (False, each)
        for each in reader.feed(body) + reader.close()
    ]
    assert [each for each in ours if each != (True, "")] == [
        (is_error, data if is_error else object_or_text(data)) for is_error, data in theirs
    ]


def object_or_text(data: str) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return {"data": data}
