"""Each wait of a call has its own limit, and the error names it.

Only what never arrives may time out here: on a slow machine the tests take longer, and still pass.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.clock import Clock, moving_clock
from support.paths import PATHS, STREAMING
from support.wire import END, SSE_HEAD, WAIT_S, Do, WireServer, chunk, event, frame, stream

from bailian_apps import (
    AppSettings,
    BailianApp,
    BailianError,
    ConnectError,
    RequestTimeoutError,
    TextDelta,
    Timeout,
)
from bailian_apps.transport.request_builder import HTTPRequest, build_request
from bailian_apps.transport.timeouts import within

GOOD = stream(event(frame("你好", "stop")))
HELLO, STOP = chunk(event(frame("你好"))), chunk(event(frame("", "stop")))
PATIENT = {"connect_s": 300, "first_frame_s": 300, "between_frames_s": 300}


def app_of(server: WireServer, **limits: Any) -> BailianApp:
    timeout = Timeout(**(PATIENT | limits))
    return BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url, timeout=timeout)


def read(path: str, app: BailianApp, on_delta: Any) -> str:
    """Stream a call, sync or async; return its text. `on_delta` is called for each delta."""

    async def read_async() -> str:
        text = ""
        async for each in app.astream("hi"):
            if isinstance(each, TextDelta):
                text += each.text
                on_delta()
                for _ in range(3):  # timers of the loop that are due run while this has a frame
                    await asyncio.sleep(0)
        return text

    if path == "astream":
        return asyncio.run(read_async())
    text = ""
    for each in app.stream("hi"):
        if isinstance(each, TextDelta):
            text += each.text
            on_delta()
    return text


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("limits", "answer", "message"),
    [
        ({"first_frame_s": 0.2}, [Do.STALL], "no frame arrived within first_frame_s=0.2 s"),
        ({"first_frame_s": 0.2}, [SSE_HEAD, Do.STALL], "within first_frame_s=0.2 s"),
        ({"first_frame_s": 0.2}, [SSE_HEAD, chunk(b": wait\n\n"), Do.STALL], "first_frame_s=0.2 s"),
        ({"between_frames_s": 0.2}, [SSE_HEAD, HELLO, Do.STALL], "for between_frames_s=0.2 s"),
        ({"between_frames_s": 0.2}, [SSE_HEAD, HELLO, HELLO[:40], Do.STALL], "between_frames_s=0.2 s"),
    ],
)  # fmt: skip
def test_each_wait_has_its_own_limit(
    path: str, limits: dict[str, Any], answer: Any, message: str
) -> None:
    with WireServer(answer) as server:
        error = PATHS[path](app_of(server, **limits), "hi").error
        assert server.gone.wait(WAIT_S)
    assert isinstance(error, RequestTimeoutError)
    assert isinstance(error, TimeoutError)
    assert message in str(error)
    assert (error.partial is not None) == (HELLO in answer)


@pytest.mark.parametrize("path", sorted(STREAMING))
def test_frames_do_not_extend_the_limit_of_the_whole_call(path: str) -> None:
    with moving_clock() as clock, WireServer([SSE_HEAD, HELLO, Do.STALL]) as server:
        app = app_of(server, total_s=500)
        # The time left is 0.2 s, less than any other limit of this call.
        with pytest.raises(RequestTimeoutError, match=r"longer than total_s=500 s") as caught:
            read(path, app, lambda: clock.advance(499.8))
        assert server.gone.wait(WAIT_S)
    assert caught.value.partial is not None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "begin", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 103 \r\n\r\n"], ids=repr
)
def test_a_head_that_drips_does_not_extend_the_wait(path: str, begin: bytes) -> None:
    """A byte every 20 ms until the client gives up: no single wait is long."""
    drip = b"HTTP/1.1 103 \r\n\r\n" if b"103" in begin else b"x"
    with WireServer(itertools.chain([begin], itertools.cycle([Do.PAUSE, drip]))) as server:
        error = PATHS[path](app_of(server, first_frame_s=0.2), "hi").error
        assert isinstance(error, RequestTimeoutError)
        assert "first_frame_s=0.2 s" in str(error)
        assert server.gone.wait(WAIT_S)
        assert len(server.posts) == 1


@pytest.mark.parametrize("path", PATHS)
def test_the_wait_for_the_first_frame_may_be_longer_than_between_frames(path: str) -> None:
    late = [*[Do.PAUSE] * 10, *stream(event(frame("你好", "stop")))]
    with WireServer(late) as server:
        assert PATHS[path](app_of(server, between_frames_s=0.05), "hi").text == "你好"


@pytest.mark.parametrize("path", sorted(STREAMING))
def test_a_slow_consumer_is_not_mistaken_for_a_silent_server(path: str) -> None:
    """The time that the consumer takes for a frame does not count as the server's silence."""
    handled = threading.Event()
    head, first, *rest = stream(event(frame("你")), event(frame("好")), event(frame("", "stop")))

    def handle() -> None:
        clock.advance(1000)
        handled.set()

    # The second frame is sent while the client waits for it, and not before.
    answer = [head, first, handled, *[Do.PAUSE] * 10, *rest]
    with moving_clock() as clock, WireServer(answer) as server:
        app = app_of(server, first_frame_s=500, between_frames_s=500)
        assert read(path, app, handle) == "你好"


@pytest.mark.parametrize("path", PATHS)
def test_an_attempt_that_would_start_too_late_is_not_made(path: str) -> None:
    busy = b"HTTP/1.1 503 X\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"
    with WireServer([busy], [SSE_HEAD, STOP, END]) as server:
        error = PATHS[path](app_of(server, total_s=29), "hi").error
        assert len(server.posts) == 1
    assert error is not None
    assert (error.status_code, error.retry_after_s) == (503, 30.0)


@pytest.mark.parametrize("path", PATHS)
def test_the_limit_of_the_whole_call_counts_from_the_first_attempt(path: str) -> None:
    """The second attempt has taken less than any limit when the time of the call is up."""
    busy = b"HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    with moving_clock() as clock:
        answers = (
            [lambda: clock.advance(200), busy],
            # With half a head the client looks at the clock again.
            [lambda: clock.advance(200), SSE_HEAD[:20], Do.STALL],
        )
        with WireServer(*answers) as server:
            error = PATHS[path](app_of(server, total_s=390), "hi").error
            assert len(server.posts) == 2
    assert isinstance(error, RequestTimeoutError)
    assert "longer than total_s=390 s" in str(error)


def test_one_number_sets_the_limits_of_silence() -> None:
    settings = AppSettings(app_id="app", timeout=20)
    assert settings.timeouts == Timeout(
        connect_s=10, first_frame_s=20, between_frames_s=20, pool_s=None, total_s=None
    )
    assert AppSettings(app_id="app", timeout=2).timeouts.connect_s == 2
    assert AppSettings(app_id="app").timeouts.first_frame_s == 300
    given = AppSettings.model_validate({"app_id": "app", "timeout": {"total_s": 5}})
    assert given.timeouts == Timeout(total_s=5)


@pytest.mark.parametrize("alive", [False, True], ids=["all dead", "the last alive"])
def test_the_addresses_of_a_host_share_the_time_to_connect(
    alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WireServer(stream(event(frame("你好", "stop")))) as server:
        port = urlsplit(server.base_url).port or 0
        resolve, connect = socket.getaddrinfo, socket.socket.connect
        given_s: list[float] = []

        def several(host: str, *args: Any, **kwargs: Any) -> Any:
            hosts = ["127.0.0.4", "127.0.0.3", "127.0.0.2", "127.0.0.1"]
            assert host == "api.invalid"
            return [found for each in hosts for found in resolve(each, *args, **kwargs)]

        def dead(connecting: socket.socket, address: Any) -> None:
            if alive and address[0] == "127.0.0.1":
                return connect(connecting, address)
            given_s.append(connecting.gettimeout() or 0.0)
            raise TimeoutError("timed out")

        monkeypatch.setattr(socket, "getaddrinfo", several)
        monkeypatch.setattr(socket.socket, "connect", dead)
        app = BailianApp(
            app_id="app", api_key="sk-test", base_url=f"http://api.invalid:{port}/api/v1"
        )
        limit = Timeout(connect_s=8000)
        outcome = PATHS["invoke"](app, "hi", timeout=limit, max_retries=0)
        if alive:
            assert outcome.text == "你好"
        else:
            assert type(outcome.error) is ConnectError
            assert len(given_s) == 4
            assert server.connections == 0
    # Each had an equal share of the time left; those before it took none of theirs.
    assert given_s == [pytest.approx(8000 / n, rel=0.1) for n in (4, 3, 2, 1)][: len(given_s)]


@pytest.mark.parametrize(
    "begin", [[], [SSE_HEAD], [SSE_HEAD, HELLO]], ids=["no head", "head", "frame"]
)
def test_what_arrives_while_the_event_loop_is_blocked_is_read(begin: list[bytes]) -> None:
    rest = [each for each in (SSE_HEAD, HELLO, STOP, END) if each not in begin]
    blocked, sent = threading.Event(), threading.Event()

    async def call(server: WireServer, clock: Clock) -> str:
        limits = {"first_frame_s": 50, "between_frames_s": 50}
        calling = asyncio.create_task(app_of(server, **limits).ainvoke("hi"))
        assert await asyncio.to_thread(server.asked.wait, WAIT_S)
        blocked.set()
        assert sent.wait(WAIT_S)  # blocks the loop, as a computation would
        clock.advance(100)
        return (await calling).text

    with moving_clock() as clock, WireServer([*begin, blocked, *rest, sent.set]) as server:
        assert asyncio.run(call(server, clock)) == "你好"


@pytest.mark.parametrize("first", ["the cancellation", "the timeout"])
@pytest.mark.parametrize("idempotent", [False, True])
def test_a_task_that_is_cancelled_as_its_time_runs_out_is_cancelled(
    idempotent: bool, first: str
) -> None:
    async def call(server: WireServer, clock: Clock) -> bool:
        app = app_of(server, first_frame_s=50)
        task = asyncio.create_task(app.ainvoke("hi", idempotent=idempotent))
        assert await asyncio.to_thread(server.asked.wait, WAIT_S)
        clock.advance(100)
        for _ in range(3):  # a loop that was blocked gets a moment to read what has arrived
            await asyncio.sleep(0)
        clock.advance(100)  # and now both fall into one turn of the loop
        if first == "the timeout":
            asyncio.get_running_loop().call_later(0, task.cancel)
        else:
            task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    with moving_clock() as clock, WireServer([Do.STALL], [Do.STALL], [Do.STALL]) as server:
        assert asyncio.run(call(server, clock))
        assert len(server.posts) == 1


@pytest.mark.parametrize("limit", ["connect_s", "total_s"])
def test_a_call_without_time_to_connect_sent_nothing(limit: str) -> None:
    """The clock moves as the connection is made, so the connection comes too late."""
    connect = socket.socket.connect

    def late(connecting: socket.socket, address: Any) -> None:
        connect(connecting, address)
        clock.advance(1000)

    with moving_clock() as clock, WireServer() as server, pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket.socket, "connect", late)
        with pytest.raises(BailianError) as caught:
            app_of(server, **{limit: 200}).invoke("hi", max_retries=0)
        assert server.posts == []
    assert isinstance(caught.value, ConnectError)
    assert caught.value.request_state == "not_sent"
    assert f"{limit}=200 s" in str(caught.value)


@pytest.mark.parametrize("path", PATHS)
def test_a_call_whose_time_is_up_before_it_connects_sends_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moving_clock() as clock, WireServer(GOOD) as server:

        def build_slowly(*args: Any) -> HTTPRequest:  # as where the SDK has to be imported
            clock.advance(100)
            return build_request(*args)

        monkeypatch.setattr("bailian_apps.transport.request_builder.build_request", build_slowly)
        error = PATHS[path](app_of(server, total_s=50), "hi").error
        assert type(error) is ConnectError
        assert "total_s=50" in str(error)
        assert server.connections == 0


@pytest.mark.parametrize("limit_s", [None, 300])
async def test_what_is_cancelled_by_itself_is_not_late(limit_s: float | None) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await within(limit_s, cancelled())


@pytest.mark.parametrize("turns", range(1, 6))
@pytest.mark.parametrize("again_after", [None, 0, 1, 2])
async def test_a_cancellation_is_not_lost(turns: int, again_after: int | None) -> None:
    """Whenever it comes, also once more; the value arrives after four turns of the loop."""

    async def arrives() -> None:
        for _ in range(2):
            await asyncio.sleep(0)

    waiting = asyncio.ensure_future(within(300, arrives()))
    for _ in range(turns):
        await asyncio.sleep(0)
    is_cancelled = waiting.cancel()
    if again_after is not None:
        for _ in range(again_after):
            await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled() == is_cancelled
