"""A call that is given up closes its socket at once; the server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import logging
import os
import queue
import signal
import socket
import ssl
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
import urllib3
from support.leaving import HELD, LEAVE, Leave, by_garbage, by_shutdown, settled
from support.wire import END, SSE_HEAD, WAIT_S, Do, WireServer, answer, chunk, event, frame

from bailian_apps import (
    BailianApp,
    BailianError,
    Client,
    ConnectError,
    ConnectionLostError,
    RequestTimeoutError,
    StreamInterruptedError,
    TextDelta,
    Timeout,
)
from bailian_apps.core.history import Plan
from bailian_apps.run import Run

HELD_OPEN = [SSE_HEAD, chunk(event(frame("你好"))), Do.STALL]
WHOLE = [SSE_HEAD, chunk(event(frame("你好", "stop"))), END]


@contextlib.contextmanager
def full_listener() -> Generator[int]:
    """A port at which a connection is neither made nor refused."""
    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            caller = closing.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def app_of(server: WireServer, client: Client | None = None) -> BailianApp:
    return BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url, client=client)


def from_another_thread(function: Callable[[], object]) -> None:
    """Call a function in another thread, and wait for it."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_leaving_the_loop_closes_the_socket() -> None:
    with WireServer(HELD_OPEN) as server:
        events = app_of(server).stream("hi")
        assert any(isinstance(each, TextDelta) for each in events)  # any() stops at the first
        events.close()
        assert server.gone.wait(WAIT_S)


def test_dropping_the_stream_closes_the_socket() -> None:
    with WireServer(HELD_OPEN) as server:
        for _ in app_of(server).stream("hi"):
            break
        assert server.gone.wait(WAIT_S)


def test_another_thread_closes_the_socket() -> None:
    with WireServer(HELD_OPEN) as server:
        events = app_of(server).stream("hi")
        heard = threading.Event()
        seen: list[BaseException] = []

        def listen() -> None:
            try:
                for each in events:
                    if isinstance(each, TextDelta):
                        heard.set()
            except BailianError as error:
                seen.append(error)

        thread = threading.Thread(target=listen)
        thread.start()
        assert heard.wait(WAIT_S)
        events.close()
        assert server.gone.wait(WAIT_S)
        thread.join(WAIT_S)
        assert not thread.is_alive()
    (error,) = seen
    assert isinstance(error, StreamInterruptedError)
    assert error.partial is not None
    assert error.partial.text == "你好"


def test_a_read_while_another_thread_closes_ends_the_iteration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closing, have_read, close = threading.Event(), threading.Event(), urllib3.HTTPResponse.close

    def close_slowly(response: urllib3.HTTPResponse) -> None:
        closing.set()
        have_read.wait(WAIT_S)
        close(response)

    with WireServer(HELD_OPEN) as server:
        events = app_of(server).stream("hi")
        assert any(isinstance(each, TextDelta) for each in events)
        monkeypatch.setattr(urllib3.HTTPResponse, "close", close_slowly)
        closer = threading.Thread(target=events.close)
        closer.start()
        assert closing.wait(WAIT_S)
        assert list(events) == []
        have_read.set()
        closer.join(WAIT_S)
        assert not closer.is_alive()


def trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder / "ca.pem"))
    return context


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("part", ["no head", "half a head"])
def test_another_thread_closes_the_socket_before_the_answer_begins(
    part: str, tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = [Do.STALL] if part == "no head" else [SSE_HEAD[:20], Do.STALL]
    with WireServer(answer, tls=trusted(tmp_path, monkeypatch) if tls else None) as server:
        events = app_of(server).stream("hi")
        seen: list[BaseException] = []

        def listen() -> None:
            try:
                next(events)
            except BailianError as error:
                seen.append(error)

        thread = threading.Thread(target=listen)
        thread.start()
        assert server.asked.wait(WAIT_S)
        events.close()
        assert server.gone.wait(WAIT_S)
        thread.join(WAIT_S)
        assert not thread.is_alive()
        assert len(server.posts) == 1
    (error,) = seen
    assert isinstance(error, ConnectionLostError)
    assert error.partial is None


def test_a_call_that_is_closed_while_it_connects_sends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with WireServer(HELD_OPEN) as server:
        events = app_of(server).stream("hi")
        connect = socket.socket.connect

        def close_meanwhile(connecting: socket.socket, address: Any) -> None:
            connect(connecting, address)
            from_another_thread(events.close)

        monkeypatch.setattr(socket.socket, "connect", close_meanwhile)
        with pytest.raises(ConnectError):
            next(events)
        assert server.all_gone.wait(WAIT_S)
        assert server.posts == []
    assert caplog.records == []  # nothing is announced either, such as another attempt


def test_a_call_that_is_closed_as_its_answer_begins_does_not_wait_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WireServer(HELD_OPEN) as server:
        events = app_of(server).stream("hi")

        begin = http.client.HTTPResponse.begin

        def close_after_the_head(response: http.client.HTTPResponse) -> None:
            begin(response)
            from_another_thread(events.close)

        monkeypatch.setattr(http.client.HTTPResponse, "begin", close_after_the_head)
        with pytest.raises(ConnectionLostError):
            next(events)
        assert server.gone.wait(WAIT_S)


def test_a_connection_that_returned_to_the_pool_is_not_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be another call's already. Another thread closes the stream as it returns."""
    with WireServer(WHOLE, WHOLE) as server:
        app = app_of(server)
        events = app.stream("hi")
        release = urllib3.HTTPResponse.release_conn

        def close_meanwhile(response: urllib3.HTTPResponse) -> None:
            from_another_thread(events.close)
            release(response)

        with monkeypatch.context() as patched:
            patched.setattr(urllib3.HTTPResponse, "release_conn", close_meanwhile)
            assert [each.kind for each in events][-1] == "run_finished"
        assert app.invoke("again").text == "你好"
        assert server.connections == 1


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals")
def test_a_signal_handler_may_call_an_app_while_another_call_connects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WireServer(WHOLE, WHOLE) as server:
        app = app_of(server)
        connect = socket.socket.connect
        texts: list[str] = []

        def interrupted(connecting: socket.socket, address: Any) -> None:
            if not texts:
                signal.raise_signal(signal.SIGUSR1)
            connect(connecting, address)

        def answer_signal(*_: object) -> None:
            texts.append("")
            texts.append(app.invoke("from the handler").text)

        monkeypatch.setattr(socket.socket, "connect", interrupted)
        before = signal.signal(signal.SIGUSR1, answer_signal)
        try:
            assert app.invoke("hi").text == "你好"
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert texts == ["", "你好"]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_signal_handler_may_close_the_stream_it_interrupts(
    tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WireServer(HELD_OPEN, tls=trusted(tmp_path, monkeypatch) if tls else None) as server:
        events = app_of(server).stream("hi")
        interrupted, waiting = threading.Event(), threading.Event()

        def handle(_: int, interrupted_frame: Any) -> None:
            """Close the stream, unless the signal came before it waits for the second frame."""
            while interrupted_frame is not None:
                if interrupted_frame.f_code.co_filename.endswith(("socket.py", "ssl.py")):
                    interrupted.set()
                    events.close()
                    return
                interrupted_frame = interrupted_frame.f_back

        def send_signals(thread: int) -> None:
            waiting.wait(WAIT_S)
            while not interrupted.wait(0.02):
                signal.pthread_kill(thread, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, handle)
        sender = threading.Thread(target=send_signals, args=(threading.get_ident(),))
        sender.start()
        try:
            with pytest.raises(StreamInterruptedError):
                for each in events:
                    if isinstance(each, TextDelta):
                        waiting.set()
        finally:
            interrupted.set()
            sender.join()
            signal.signal(signal.SIGUSR1, before)
        assert server.gone.wait(WAIT_S)


def test_a_forgotten_stream_is_freed_while_the_pool_is_locked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The garbage collector may close it in any thread, at any moment."""
    with WireServer(HELD_OPEN, WHOLE) as server:
        app = app_of(server)
        cycle: list[Any] = [app.stream("hi")]
        next(cycle[0])
        cycle.append(cycle)
        gc.disable()
        del cycle
        take = queue.LifoQueue._get  # type: ignore[attr-defined]

        def collecting(pool: Any) -> Any:
            gc.collect()
            return take(pool)

        monkeypatch.setattr(queue.LifoQueue, "_get", collecting)
        texts: list[str] = []
        caller = threading.Thread(target=lambda: texts.append(app.invoke("hi").text), daemon=True)
        try:
            caller.start()
            caller.join(WAIT_S)
        finally:
            gc.enable()
        assert texts == ["你好"]
        assert server.gone.wait(WAIT_S)


def listening(events: Any) -> tuple[threading.Thread, list[BaseException]]:
    """A thread that waits for the first event, and the errors that it gets."""
    seen: list[BaseException] = []

    def listen() -> None:
        try:
            next(events)
        except BailianError as error:
            seen.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    return thread, seen


def test_another_thread_closes_a_call_that_waits_for_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with full_listener() as port:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=f"http://127.0.0.1:{port}/v1")
        connecting, connect = threading.Event(), socket.socket.connect

        def announced(waiting: socket.socket, address: Any) -> None:
            connecting.set()
            connect(waiting, address)

        monkeypatch.setattr(socket.socket, "connect", announced)
        events = app.stream("hi", timeout=Timeout(connect_s=600))
        thread, seen = listening(events)
        assert connecting.wait(WAIT_S)
        while thread.is_alive():  # its signal comes a moment before it waits
            events.close()
            thread.join(0.05)
    assert [type(each) for each in seen] == [ConnectError]
    assert "before the request was sent" in str(seen[0])


def test_another_thread_closes_a_call_that_waits_for_a_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        app = BailianApp(app_id="app", api_key="sk-test", base_url=f"https://127.0.0.1:{port}/v1")
        events = app.stream("hi", timeout=Timeout(connect_s=600))
        thread, seen = listening(events)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1)  # of the client's greeting
            events.close()
            thread.join(WAIT_S)
            assert not thread.is_alive()
    assert [type(each) for each in seen] == [ConnectError]


def keep_alive_s(port: int) -> float:
    """Seconds until the kernel probes an idle connection to a port of this machine."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, _, timer, *_ = line.split()
        kind, _, ticks = timer.partition(":")
        if int(remote.partition(":")[2], 16) == port and state == "01" and kind == "02":
            return int(ticks, 16) / os.sysconf("SC_CLK_TCK")
    raise AssertionError("the connection has no keep-alive timer")


@pytest.mark.skipif(sys.platform != "linux", reason="it shows the timers of connections")
async def test_a_silent_connection_is_probed_within_a_minute() -> None:
    """A NAT gateway drops an idle connection silently, and an app may take long to answer."""
    for path in ("sync", "async"):
        with WireServer(HELD_OPEN) as server:
            port = urlsplit(server.base_url).port or 0
            if path == "sync":
                with app_of(server).stream("hi") as events:
                    next(events)
                    assert keep_alive_s(port) <= 60
            else:
                stream = app_of(server).astream("hi")
                await anext(stream)
                assert keep_alive_s(port) <= 60
                await stream.aclose()


def open_things() -> tuple[int, int]:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


@pytest.mark.slow
def test_a_thousand_cancelled_streams_leave_no_file_task_or_thread() -> None:
    """However they end: left, closed, cancelled, timed out or garbage-collected."""
    with WireServer(*[HELD_OPEN] * 1005) as server:
        app = app_of(server)

        def left() -> None:
            with app.stream("hi") as events:
                next(events)

        def forgotten() -> None:
            for _ in app.stream("hi"):
                break

        async def closed() -> None:
            events = app.astream("hi")
            await anext(events)
            await events.aclose()

        async def cancelled() -> None:
            heard = asyncio.Event()

            async def listen() -> None:
                async for _ in app.astream("hi"):
                    heard.set()

            task = asyncio.create_task(listen())
            await heard.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        async def timed_out() -> None:
            with pytest.raises(BailianError):
                await app.ainvoke("hi", timeout=Timeout(between_frames_s=0.001))

        async def several(times: int) -> None:
            for _ in range(times):
                await closed()
                await cancelled()
                await timed_out()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        def all_of_them(times: int) -> None:
            for _ in range(times):
                left()
                forgotten()
            asyncio.run(several(times))
            # The server, in this process, closes its ends too, and ends their threads.
            assert server.all_gone.wait(WAIT_S)
            server.join_finished()

        all_of_them(1)
        before = open_things()
        all_of_them(200)
        assert open_things() == before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_closes_a_stream_does_not_end_the_parents() -> None:
    child_ended = threading.Event()
    halves = [chunk(event(frame("你"))), child_ended, chunk(event(frame("好", "stop")))]
    with WireServer([SSE_HEAD, *halves, END]) as server:
        events = app_of(server).stream("hi")
        next(events)
        child = os.fork()
        if child == 0:
            events.close()
            os._exit(0)
        os.waitpid(child, 0)
        child_ended.set()
        assert [each.kind for each in events][-1] == "run_finished"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_fork_the_child_has_its_own_connection() -> None:
    with WireServer(WHOLE, WHOLE) as server:
        app = app_of(server)
        assert app.invoke("hi").text == "你好"
        child = os.fork()
        if child == 0:
            os._exit(0 if app.invoke("hi").text == "你好" else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0
        assert server.connections == 2


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_goes_on_with_a_loop_has_its_own_connection() -> None:
    loop = asyncio.new_event_loop()
    with WireServer(WHOLE, WHOLE, WHOLE) as server, contextlib.closing(loop):
        app = app_of(server)
        assert loop.run_until_complete(app.ainvoke("parent")).text == "你好"
        child = os.fork()
        if child == 0:
            os._exit(0 if loop.run_until_complete(app.ainvoke("child")).text == "你好" else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert server.connections == 2
        assert loop.run_until_complete(app.ainvoke("parent")).text == "你好"
        assert server.connections == 2


async def test_aclose_of_a_stream_closes_the_socket() -> None:
    with WireServer(HELD_OPEN) as server:
        events = app_of(server).astream("hi")
        async for _ in events:
            break
        await events.aclose()
        assert await asyncio.to_thread(server.gone.wait, WAIT_S)


async def test_cancelling_a_task_closes_the_socket() -> None:
    with WireServer(HELD_OPEN) as server:
        heard = asyncio.Event()

        async def listen() -> None:
            async for _ in app_of(server).astream("hi"):
                heard.set()

        task = asyncio.create_task(listen())
        await asyncio.wait_for(heard.wait(), WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.gone.wait, WAIT_S)


async def test_cancelling_before_the_answer_closes_the_socket() -> None:
    with WireServer([Do.STALL]) as server:
        task = asyncio.create_task(app_of(server).ainvoke("hi"))
        await asyncio.to_thread(server.asked.wait, WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.gone.wait, WAIT_S)


def test_a_stream_that_nobody_reads_sends_nothing() -> None:
    with WireServer() as server:
        app_of(server).stream("hi").close()
        assert not server.posts


def test_every_event_loop_gets_and_ends_its_own_connections() -> None:
    """`asyncio.run` again and again leaves no thread behind, and no socket (warnings are errors)."""
    with WireServer(*[WHOLE] * 101) as server:

        def call() -> None:
            assert asyncio.run(app_of(server).ainvoke("hi")).text == "你好"
            assert server.all_gone.wait(WAIT_S)
            server.join_finished()

        call()
        before = open_things()
        for _ in range(100):
            call()
        assert server.connections == 101
        assert open_things() == before


def test_a_loop_that_ended_is_not_kept() -> None:
    with WireServer(*[WHOLE] * 3) as server:
        loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

        async def call() -> None:
            loops.append(weakref.ref(asyncio.get_running_loop()))
            await app_of(server).ainvoke("hi")

        for _ in range(3):
            asyncio.run(call())
        gc.collect()
        assert [loop() for loop in loops] == [None] * 3


def test_closing_before_the_first_event_sends_nothing() -> None:
    """As another thread may, while this one is about to ask for the first event."""
    with WireServer() as server:
        app = app_of(server)
        run = Run(app.settings, Plan.for_prompt("app", "hi"))
        events = run.stream()
        run.close()
        with pytest.raises(BailianError):
            next(events)
        assert not server.posts


def test_an_answer_of_known_length_leaves_a_clean_connection() -> None:
    """Its last byte does not close the response object, which the next request must not find open."""
    body = b'{"output":{"text":"one","finish_reason":"stop"}}'
    json_answer = answer("200 OK", body)
    with WireServer(json_answer, json_answer) as server:
        first = app_of(server).stream("hi")
        next(first)
        assert app_of(server).invoke("hi").text == "one"
        assert [each.kind for each in first][-1] == "run_finished"


def test_connections_are_used_again() -> None:
    with WireServer(*[WHOLE] * 6) as server:
        app = app_of(server)
        for _ in range(3):
            app.invoke("hi")
        assert server.connections == 1

        async def three() -> None:
            for _ in range(3):
                await app.ainvoke("hi")

        asyncio.run(three())
        assert server.connections == 2


@pytest.mark.parametrize("leave", [*LEAVE, by_garbage, by_shutdown])
def test_leaving_an_async_stream_early_frees_its_slot_and_logs_nothing(
    leave: Leave, caplog: pytest.LogCaptureFixture
) -> None:
    times = 1 if leave is by_shutdown else 3

    async def main(app: BailianApp) -> None:
        await app.ainvoke("hi")  # one that is cancelled at once may not even connect
        for _ in range(times):
            spoke = asyncio.Event()
            spoke.set()
            await leave(app.astream("hi", max_concurrency=1), spoke)
            if leave is not by_shutdown:
                await settled()

    with WireServer(WHOLE, *[HELD_OPEN] * times) as server, caplog.at_level(logging.WARNING):
        asyncio.run(main(app_of(server)))
        HELD.clear()
        assert server.all_gone.wait(WAIT_S)
    assert not caplog.messages


@contextlib.contextmanager
def forked_child() -> Generator[None]:
    """A child process that holds all connections and does nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        os.waitpid(child, 0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("leave", ["close", "cancel", "time out"])
async def test_an_async_stream_ends_though_a_forked_child_holds_it(leave: str) -> None:
    limits = Timeout(between_frames_s=0.1 if leave == "time out" else 60)
    with WireServer(HELD_OPEN) as server:
        events = app_of(server).astream("hi", timeout=limits)
        while (await anext(events)).kind != "text_delta":  # the last before the silence
            pass
        with forked_child():
            if leave == "close":
                await events.aclose()
            elif leave == "cancel":
                reading = asyncio.ensure_future(anext(events))
                await asyncio.sleep(0)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            else:
                with pytest.raises(RequestTimeoutError):
                    await anext(events)
            assert await asyncio.to_thread(server.gone.wait, WAIT_S)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("give_up", ["cancel", "time out"])
async def test_an_async_call_without_an_answer_ends_though_a_forked_child_holds_it(
    give_up: str,
) -> None:
    limits = Timeout(first_frame_s=0.5 if give_up == "time out" else 60)
    with WireServer([Do.STALL]) as server:
        calling = asyncio.create_task(app_of(server).ainvoke("hi", timeout=limits))
        assert await asyncio.to_thread(server.asked.wait, WAIT_S)
        with forked_child():
            if give_up == "cancel":
                calling.cancel()
            with pytest.raises((asyncio.CancelledError, RequestTimeoutError)):
                await calling
            assert await asyncio.to_thread(server.gone.wait, WAIT_S)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_child_that_closes_an_async_stream_does_not_end_the_parents() -> None:
    child_ended = threading.Event()
    halves = [chunk(event(frame("你"))), child_ended, chunk(event(frame("好", "stop")))]
    with WireServer([SSE_HEAD, *halves, END]) as server:
        events = app_of(server).astream("hi")
        await anext(events)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(StopIteration):
                events.aclose().send(None)
            os._exit(0)
        await asyncio.to_thread(os.waitpid, child, 0)
        child_ended.set()
        assert [each.kind async for each in events][-1] == "run_finished"


def test_more_threads_than_idle_connections_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    together = threading.Barrier(8)
    with WireServer(*[[SSE_HEAD, together.wait, *WHOLE[1:]]] * 8) as server:
        app = app_of(server, Client(max_idle_connections=1))
        threads = [threading.Thread(target=app.invoke, args=["hi"]) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(WAIT_S)
        assert len(server.posts) == 8
    assert [record.getMessage() for record in caplog.records] == []
