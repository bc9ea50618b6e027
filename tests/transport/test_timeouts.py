"""Timeouts mean what they say: each wait has its own limit, and the error names it."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.paths import PATHS
from support.wire import END, SSE_HEAD, Do, WireServer, chunk, event, frame, stream

from bailian_apps import (
    AppSettings,
    BailianApp,
    ConnectError,
    RequestTimeoutError,
    TextDelta,
    Timeout,
)

HELLO, STOP = chunk(event(frame("你好"))), chunk(event(frame("", "stop")))
PATIENT = {"connect_s": 30, "first_frame_s": 30, "between_frames_s": 30}


def app_of(server: WireServer, **limits: Any) -> BailianApp:
    timeout = Timeout(**(PATIENT | limits))
    return BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url, timeout=timeout)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("limits", "answer", "says"),
    [
        ({"first_frame_s": 0.2}, [Do.STALL], "no frame arrived within first_frame_s=0.2 s"),
        ({"first_frame_s": 0.2}, [SSE_HEAD, Do.STALL], "no frame arrived within first_frame_s=0.2 s"),
        ({"first_frame_s": 0.2}, [SSE_HEAD, chunk(b": wait\n\n"), Do.STALL], "first_frame_s=0.2 s"),
        ({"between_frames_s": 0.2}, [SSE_HEAD, HELLO, Do.STALL], "for between_frames_s=0.2 s"),
        ({"between_frames_s": 0.2}, [SSE_HEAD, HELLO, HELLO[:40], Do.STALL], "between_frames_s=0.2 s"),
        ({"total_s": 0.2}, [SSE_HEAD, HELLO, Do.STALL], "longer than total_s=0.2 s"),
        ({"total_s": 0.2}, [Do.STALL], "longer than total_s=0.2 s"),
    ],
)  # fmt: skip
def test_each_wait_has_its_limit(path: str, limits: dict[str, Any], answer: Any, says: str) -> None:
    with WireServer(answer) as server:
        error = PATHS[path](app_of(server, **limits), "hi").error
        assert server.gone.wait(60)
    assert isinstance(error, RequestTimeoutError)
    assert isinstance(error, TimeoutError)
    assert says in str(error)
    assert (error.partial is not None) == (HELLO in answer)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "begin", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 103 \r\n\r\n"], ids=repr
)
def test_a_head_that_drips_does_not_prolong_the_wait(path: str, begin: bytes) -> None:
    """A byte every 20 ms: no single wait is long."""
    drips = [Do.PAUSE, b"HTTP/1.1 103 \r\n\r\n" if b"103" in begin else b"x"]
    with WireServer([begin, *drips * 100, Do.RESET]) as server:
        error = PATHS[path](app_of(server, first_frame_s=0.2), "hi").error
        assert isinstance(error, RequestTimeoutError)
        assert "first_frame_s=0.2 s" in str(error)
        assert len(server.posts) == 1


@pytest.mark.parametrize("path", PATHS)
def test_a_silence_before_the_first_frame_may_be_longer_than_one_between_frames(path: str) -> None:
    """The first wait has its own limit: 0.2 s apply only after the first frame."""
    asked = threading.Event()

    class Late(WireServer):
        def _next(self) -> Any:
            asked.wait(
                0.4
            )  # nobody sets it: the answer is late, and the wait is the test's subject
            return super()._next()

    with Late(stream(event(frame("你好", "stop")))) as server:
        assert PATHS[path](app_of(server, between_frames_s=0.2), "hi").text == "你好"


@pytest.mark.parametrize("path", ["sync", "async"])
def test_a_slow_consumer_is_not_a_silent_server(path: str) -> None:
    """Only the server's silence counts: the consumer may take as long as it likes."""
    head, first, *rest = stream(event(frame("你")), event(frame("好")), event(frame("", "stop")))
    # The second frame is a read of its own, after the consumer was busy with the first.
    whole = [head, first, *[Do.PAUSE] * 70, *(part for each in rest for part in (each, Do.PAUSE))]

    def busy() -> None:
        threading.Event().wait(1.2)  # longer than the server may be silent

    async def read(app: BailianApp) -> str:
        text = ""
        async for each in app.astream("hi"):
            if isinstance(each, TextDelta):
                await asyncio.to_thread(busy)
                text += each.text
        return text

    with WireServer(whole) as server:
        app = app_of(server, between_frames_s=1)
        if path == "async":
            assert asyncio.run(read(app)) == "你好"
        else:
            text = ""
            for each in app.stream("hi"):
                if isinstance(each, TextDelta):
                    busy()
                    text += each.text
            assert text == "你好"


@pytest.mark.parametrize("path", PATHS)
def test_no_second_attempt_that_cannot_end_in_time(path: str) -> None:
    busy = b"HTTP/1.1 503 X\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
    with WireServer([busy], [SSE_HEAD, STOP, END]) as server:
        error = PATHS[path](app_of(server, total_s=2), "hi").error
        assert len(server.posts) == 1
    assert error is not None
    assert (error.status_code, error.retry_after_s) == (503, 5.0)


@pytest.mark.parametrize("path", ["invoke", "ainvoke"])
def test_the_whole_time_counts_from_the_first_attempt(path: str) -> None:
    """The second could wait 1.9 s for its first frame, and has less: 0.2 s have passed."""
    busy = b"HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    with WireServer([*[Do.PAUSE] * 10, busy], [Do.STALL]) as server:
        error = PATHS[path](app_of(server, first_frame_s=1.9, total_s=2), "hi").error
        assert len(server.posts) == 2
    assert isinstance(error, RequestTimeoutError)
    assert "longer than total_s=2 s" in str(error)


def test_one_number_sets_sensible_ones() -> None:
    settings = AppSettings(app_id="app", timeout=20)
    assert settings.timeouts == Timeout(
        connect_s=10, first_frame_s=20, between_frames_s=20, total_s=None
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
        said = PATHS["invoke"](app, "hi", timeout=Timeout(connect_s=8), max_retries=0)
        if alive:
            assert said.text == "你好"
        else:
            assert type(said.error) is ConnectError
            assert len(given_s) == 4
            assert server.connections == 0
    # Each had a share of what was left, as if those before had used up theirs.
    assert given_s == [pytest.approx(8 / n, rel=0.1) for n in (4, 3, 2, 1)][: len(given_s)]


@pytest.mark.parametrize(
    "begin", [[], [SSE_HEAD], [SSE_HEAD, HELLO]], ids=["no head", "head", "frame"]
)
def test_what_arrives_while_something_else_holds_up_the_loop_is_read(begin: list[bytes]) -> None:
    rest = [each for each in (SSE_HEAD, HELLO, STOP, END) if each not in begin]

    async def call(server: WireServer) -> str:
        calling = asyncio.create_task(app_of(server, **limits).ainvoke("hi"))
        await asyncio.to_thread(server.asked.wait, 60)
        threading.Event().wait(0.5)  # as a computation would
        return (await calling).text

    limits = {"first_frame_s": 0.3, "between_frames_s": 0.3}
    with WireServer([*begin, Do.PAUSE, Do.PAUSE, *rest]) as server:
        assert asyncio.run(call(server)) == "你好"


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_task_that_is_cancelled_just_as_its_time_runs_out_is_cancelled(idempotent: bool) -> None:
    async def call(server: WireServer) -> bool:
        app = app_of(server, first_frame_s=0.2)
        task = asyncio.create_task(app.ainvoke("hi", idempotent=idempotent))
        await asyncio.to_thread(server.asked.wait, 60)
        loop = asyncio.get_running_loop()
        # Both fall in one turn of the loop.
        loop.call_later(0.17, threading.Event().wait, 0.04)
        loop.call_later(0.175, task.cancel)
        await asyncio.wait([task])
        return task.cancelled()

    with WireServer([Do.STALL], [Do.STALL], [Do.STALL]) as server:
        assert asyncio.run(call(server))
        assert len(server.posts) == 1
