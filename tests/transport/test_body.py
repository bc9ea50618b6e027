"""The body of a response: the same content however its bytes are cut, or an error."""

from __future__ import annotations

import asyncio
import http.client
import io
import itertools
import json
import threading
import zlib
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from support.clock import moving_clock
from support.paths import PATHS
from support.wire import (
    END,
    SSE_HEAD,
    WAIT_S,
    Do,
    WireServer,
    answer,
    chunk,
    event,
    frame,
    stream,
)

from bailian_apps import (
    BailianApp,
    BailianError,
    RateLimitError,
    RequestTimeoutError,
    StreamInterruptedError,
    TextDelta,
    Timeout,
)
from bailian_apps.transport.body import ChunkedDecoder, ResponseBody
from bailian_apps.transport.http_answer import is_stream
from bailian_apps.transport.sync_http import SyncCall
from bailian_apps.transport.timeouts import TimeoutBudget


def pieces(body: bytes, borders: list[int]) -> list[bytes]:
    edges = sorted({0, len(body), *(border % (len(body) + 1) for border in borders)})
    return [body[start:end] for start, end in itertools.pairwise(edges)]


SIZES = st.sampled_from(
    [b"%x\r\n", b"%X\r\n", b"000%x\r\n", b"%x ;name=value\r\n", b"%x \t\r\n", b"%x\n"]
)
ENDS = st.sampled_from([b"0\r\n\r\n", b"0;last\r\nName: value\r\n\r\n", b"0\n\n"])


@given(
    st.lists(st.tuples(SIZES, st.binary(min_size=1, max_size=40)), max_size=5),
    ENDS,
    st.lists(st.integers(min_value=0), max_size=8),
)
def test_a_chunked_body_is_decoded_as_http_client_does(
    chunks: list[tuple[bytes, bytes]], end: bytes, borders: list[int]
) -> None:
    body = b"".join(size % len(data) + data + b"\r\n" for size, data in chunks) + end
    decoder = ChunkedDecoder()
    content = b"".join(decoder.feed(piece) for piece in pieces(body, borders))
    assert content == read_by_http_client(body)
    assert (decoder.done, decoder.trailing_data) == (True, False)


def read_by_http_client(body: bytes) -> bytes:
    class Connected:
        def makefile(self, _mode: str) -> io.BytesIO:
            return io.BytesIO(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    response = http.client.HTTPResponse(Connected())  # type: ignore[arg-type]
    response.begin()
    return response.read()


def test_content_before_a_malformed_chunk_is_read_first() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"2\r\nab\r\nxyz\r\n") == b"ab"
    with pytest.raises(ValueError, match="malformed"):
        decoder.feed(b"2\r\ncd\r\n")


SIZES_OF_NONE = ["zz", "-1", "+1", "0x1", "1_0", " 1", ""]
MALFORMED = [*(f"{each}\r\n".encode() for each in SIZES_OF_NONE), b"1\r\nab\r\n", b"1" * 70_000]


@pytest.mark.parametrize("body", MALFORMED, ids=repr)
def test_a_malformed_chunk_is_an_error(body: bytes) -> None:
    decoder = ChunkedDecoder()
    with pytest.raises(ValueError, match=r"int|hexadecimal|longer|too long|malformed"):
        for _ in range(2):
            decoder.feed(body)


def test_data_after_the_body_is_not_read_as_the_next_answer() -> None:
    """The connection is not used again; the answer itself is complete."""
    whole = chunk(event(frame("你好", "stop"))) + END
    with WireServer([SSE_HEAD + whole + b"HTTP/1.1 500 X\r\n\r\n"], [SSE_HEAD + whole]) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        assert app.invoke("one").text == app.invoke("two").text == "你好"
        assert server.connections == 2


THROTTLED = event({"code": "Throttling", "message": "slow down"}, name="error", status=429)


@pytest.mark.parametrize("one_chunk", [True, False])
def test_frames_of_one_read_are_merged_and_come_before_its_error(one_chunk: bool) -> None:
    """The first frame is delivered alone, the next ones as one delta, and then comes the error."""
    events: list[Any] = [*(event(frame(text)) for text in "西湖醋鱼"), THROTTLED]
    arriving = chunk(b"".join(events)) if one_chunk else b"".join(map(chunk, events))
    with WireServer([SSE_HEAD + arriving, Do.STALL]) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        texts: list[str] = []
        with pytest.raises(RateLimitError) as caught:
            texts.extend(each.text for each in app.stream("hi") if isinstance(each, TextDelta))
    assert texts == ["西", "湖醋鱼"]
    assert caught.value.partial is not None
    assert caught.value.partial.text == "西湖醋鱼"


async def test_frames_of_one_read_come_before_its_error_async() -> None:
    events: list[Any] = [*(event(frame(text)) for text in "西湖醋鱼"), THROTTLED]
    with WireServer([SSE_HEAD + b"".join(map(chunk, events)), Do.STALL]) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        texts: list[str] = []
        with pytest.raises(BailianError, match="slow down"):
            async for each in app.astream("hi"):
                if isinstance(each, TextDelta):
                    texts.append(each.text)
    assert texts[0] == "西"
    assert "".join(texts) == "西湖醋鱼"


async def test_frames_that_arrived_before_the_connection_was_lost_are_read() -> None:
    """They arrive, and the connection is lost, while the caller handles the frame before them."""
    handling = threading.Event()
    first, second = (chunk(event(frame(text))) for text in "你好")
    with WireServer([SSE_HEAD, first, handling, second, Do.CLOSE]) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        texts: list[str] = []
        with pytest.raises(StreamInterruptedError):
            async for each in app.astream("hi"):
                if isinstance(each, TextDelta):
                    texts.append(each.text)
                    handling.set()
                    assert await asyncio.to_thread(server.all_gone.wait, WAIT_S)
                    for _ in range(4):  # turns of the loop, in which it reads all that is there
                        await asyncio.sleep(0)
        assert texts == ["你", "好"]


@pytest.mark.parametrize("path", PATHS)
def test_informational_responses_before_the_answer_are_skipped(path: str) -> None:
    """Taken for the answer, it would leave the real one to be read by the next call."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    answers = [[early * 2, *stream(event(frame(text, "stop")))] for text in ("one", "two")]
    with WireServer(*answers) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        assert [PATHS[path](app, "hi").text for _ in range(2)] == ["one", "two"]
        assert len(server.posts) == 2


@pytest.mark.parametrize("drip", [b"0", b"0\r\n", b"1;"], ids=repr)
def test_bytes_without_content_do_not_extend_the_wait(drip: bytes) -> None:
    """A server that sends a chunk's head, or trailers, byte by byte until the client gives up."""
    first = SSE_HEAD + chunk(event(frame("你好"))) + drip
    with WireServer(itertools.chain([first], itertools.cycle([Do.PAUSE, b"0"]))) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        with pytest.raises(RequestTimeoutError, match=r"between_frames_s=0\.2 s"):
            app.invoke("hi", timeout=Timeout(between_frames_s=0.2))
        assert server.gone.wait(WAIT_S)


FAILED = answer("429 X", b'{"code":"Throttling","message":"slow down"}')
WHOLE = stream(event(frame("你好")), event(frame("", "stop")))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("response", [FAILED, WHOLE], ids=["error", "stream"])
def test_what_arrives_while_the_process_is_suspended_is_read(
    path: str, response: Sequence[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrived in time, and the time ran out before the process could read it."""
    head, _, rest = b"".join(response).partition(b"\r\n\r\n")
    suspended, sent = threading.Event(), threading.Event()

    def suspend(*arguments: Any) -> bool:
        suspended.set()
        assert sent.wait(WAIT_S)
        clock.advance(100)
        return is_stream(*arguments)

    monkeypatch.setattr("bailian_apps.transport.sync_http.is_stream", suspend)
    monkeypatch.setattr("bailian_apps.transport.async_http.is_stream", suspend)
    parts = [head + b"\r\n\r\n", suspended, rest, sent.set]
    with moving_clock() as clock, WireServer(parts) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url, max_retries=0)
        outcome = PATHS[path](app, "hi", timeout=Timeout(first_frame_s=50))
    if response is FAILED:
        assert isinstance(outcome.error, RateLimitError)
        assert outcome.error.code == "Throttling"
    else:
        assert outcome.error is None
        assert outcome.text == "你好"


def test_a_read_after_a_late_one_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read but the last finds its frame there; before the third and the fifth, time is up."""
    texts = "西湖醋鱼！"
    wanted, sent = ([threading.Event() for _ in texts] for _ in range(2))
    parts: list[Any] = [SSE_HEAD]
    for text, before, after in zip(texts, wanted, sent, strict=True):
        parts += [before, chunk(event(frame(text))), after.set]
    parts += [*[Do.PAUSE] * 10, chunk(event(frame("", "stop"))), END]
    reads, read = itertools.count(1), SyncCall._read

    def suspended(call: SyncCall) -> bytes:
        number = next(reads)
        if number <= len(texts):
            wanted[number - 1].set()
            assert sent[number - 1].wait(WAIT_S)
        if number in (3, 5):
            clock.advance(100)
        return read(call)

    monkeypatch.setattr(SyncCall, "_read", suspended)
    with moving_clock() as clock, WireServer(parts) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        assert app.invoke("hi", timeout=Timeout(between_frames_s=50)).text == texts


@pytest.mark.parametrize("path", ["invoke", "ainvoke"])
def test_a_flood_without_frames_does_not_extend_the_wait(path: str) -> None:
    """There is always something to read, and never a frame."""
    flood = chunk(b": x\n\n" * 1000)
    with WireServer(itertools.chain([SSE_HEAD], itertools.repeat(flood))) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        error = PATHS[path](app, "hi", timeout=Timeout(first_frame_s=0.2)).error
        assert server.gone.wait(WAIT_S)
    assert isinstance(error, RequestTimeoutError)


HEAD = SSE_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")


def compressed(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


def test_a_compressed_stream_has_the_same_time_limits() -> None:
    """A server may compress although the request forbids it; then urllib3 reads the body."""
    with WireServer([HEAD, chunk(compressed(event(frame("你好")))), Do.STALL]) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        with pytest.raises(RequestTimeoutError, match=r"between_frames_s=0\.05 s") as caught:
            app.invoke("hi", timeout=Timeout(first_frame_s=600, between_frames_s=0.05))
    assert caught.value.partial is not None
    assert caught.value.partial.text == "你好"


def test_another_thread_closes_a_compressed_stream() -> None:
    with WireServer([HEAD, chunk(compressed(event(frame("你好")))), Do.STALL]) as server:
        events = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url).stream("hi")
        assert next(events).kind == "run_started"
        seen: list[BaseException] = []

        def listen() -> None:
            try:
                for _ in events:
                    heard.set()
            except BailianError as error:
                seen.append(error)

        heard = threading.Event()
        thread = threading.Thread(target=listen)
        thread.start()
        assert heard.wait(WAIT_S)
        events.close()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        assert server.gone.wait(WAIT_S)
    assert [type(each) for each in seen] == [StreamInterruptedError]


def test_closing_a_compressed_stream_does_not_end_another() -> None:
    """urllib3 returns the connection to its pool with the last piece of the body."""
    closed = threading.Event()
    packed = compressed(event(frame("你好")))
    whole = answer("200 OK", packed, "text/event-stream", "Content-Encoding: gzip")
    halves = [chunk(event(frame("你"))), closed, chunk(event(frame("好", "stop")))]
    with WireServer(whole, [SSE_HEAD, *halves, END]) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        first, second = app.stream("hi"), app.stream("hi")
        assert [next(first).kind, next(first).kind] == ["run_started", "text_delta"]
        assert next(second).kind == "run_started"
        first.close()
        closed.set()
        assert [each.kind for each in second][-1] == "run_finished"


def test_the_socket_never_waits_much_longer_than_the_budget() -> None:
    first, second = (chunk(event(frame(text))) for text in "你好")
    budget = Mock(TimeoutBudget)
    with (
        WireServer([SSE_HEAD, first, sent := threading.Event(), second, END]) as server,
        urllib3.PoolManager() as pool,
        pool.request("POST", server.base_url, body=b"{}", preload_content=False) as response,
    ):
        body = ResponseBody(response)
        assert body.socket is not None
        budget.remaining_s.return_value = 100.0
        assert body.read(budget)
        assert 100 <= (body.socket.gettimeout() or 0) <= 101
        budget.remaining_s.return_value = 60.0
        sent.set()
        assert body.read(budget)
        assert 60 <= (body.socket.gettimeout() or 0) <= 60.6


@pytest.mark.parametrize("path", PATHS)
def test_a_body_without_a_length_ends_with_the_connection(path: str) -> None:
    body = json.dumps(frame("你好", "stop")).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    with WireServer([head + body, Do.CLOSE]) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        assert PATHS[path](app, "hi", timeout=Timeout(first_frame_s=WAIT_S)).text == "你好"


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_shorter_than_its_length_is_an_interrupted_answer(path: str) -> None:
    [whole] = answer("200 OK", json.dumps(frame("你好", "stop")).encode())
    assert isinstance(whole, bytes)
    with WireServer([whole[:-1], Do.CLOSE]) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        assert type(PATHS[path](app, "hi").error) is StreamInterruptedError
