"""Event loops end in many ways; none leaves a connection, a log line or a warning of ours."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import ssl
import sys
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import trustme
from support.wire import END, SSE_HEAD, WAIT_S, Do, WireServer, chunk, event, frame

from bailian_apps import BailianApp, Client

WHOLE = [SSE_HEAD, chunk(event(frame("你好", "stop"))), END]
HELD_OPEN = [SSE_HEAD, chunk(event(frame("你好"))), Do.STALL]

Work: TypeAlias = Callable[[BailianApp], Awaitable[object]]
Finish: TypeAlias = Callable[[asyncio.AbstractEventLoop], None]


async def a_call(app: BailianApp) -> None:
    assert (await app.ainvoke("hi")).text == "你好"


async def three_calls(app: BailianApp) -> None:
    await asyncio.gather(*(a_call(app) for _ in range(3)))


HELD: list[object] = []


async def a_stream_that_is_held(app: BailianApp) -> None:
    events = app.astream("hold")
    await anext(events)
    HELD.append(events)


async def a_stream_that_is_closed(app: BailianApp) -> None:
    events = app.astream("hold")
    await anext(events)
    await events.aclose()


def shut_down(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def closed(loop: asyncio.AbstractEventLoop) -> None:
    loop.close()


def dropped(_: asyncio.AbstractEventLoop) -> None:
    """Nothing: the garbage collector finds it."""


ENDS: list[Finish] = [shut_down, closed, dropped]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return context, path


@pytest.fixture
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged or warned of, but by Python of a loop that was not closed and its parts."""
    caplog.set_level(logging.WARNING)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
        gc.collect()
    messages = [str(each.message) for each in warned]
    # uvloop closes them itself.
    messages = [each for each in messages if not each.startswith("unclosed resource <TCPTransport")]
    if sys.version_info < (3, 11):  # its TLS closes the socket in a later turn of the loop
        messages = [each for each in messages if not each.startswith("unclosed transport")]
    if any(each.startswith("unclosed event loop") for each in messages):
        messages = [each for each in messages if not each.startswith("unclosed ")]
    assert messages == []
    assert caplog.messages == []


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(
    ("work", "finish"),
    [
        *itertools.product([a_call, three_calls, a_stream_that_is_closed], ENDS),
        (a_stream_that_is_held, shut_down),
        (a_stream_that_is_held, closed),  # of one in a loop that is dropped, aiohttp warns rightly
    ],
)
def test_a_loop_leaves_nothing_however_it_ends(
    work: Work, finish: Finish, secure: bool, tls: tuple[ssl.SSLContext, Path]
) -> None:
    context, trusted = tls
    answers = [WHOLE if "call" in work.__name__ else HELD_OPEN] * 9
    with WireServer(*answers, tls=context if secure else None) as server:
        client = Client(ca_bundle=trusted)
        app = BailianApp(app_id="app", api_key="k", base_url=server.base_url, client=client)
        loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []
        for _ in range(2):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(work(app))
            finish(loop)
            HELD.clear()
            if finish is closed:  # at once, whatever the collector does
                assert server.all_gone.wait(WAIT_S)
            loops.append(weakref.ref(loop))
            del loop
        gc.collect()
        assert [loop() for loop in loops] == [None] * 2
        assert server.all_gone.wait(WAIT_S)


@pytest.mark.usefixtures("_quiet")
def test_a_client_that_is_dropped_leaves_nothing_in_a_loop_that_runs() -> None:
    async def calls(server: WireServer) -> None:
        for _ in range(3):
            client = Client()
            await a_call(
                BailianApp(app_id="a", api_key="k", base_url=server.base_url, client=client)
            )
            del client
        gc.collect()
        assert await asyncio.to_thread(server.all_gone.wait, WAIT_S)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with WireServer(*[WHOLE] * 3) as server:
        asyncio.run(calls(server))


@pytest.mark.usefixtures("_quiet")
def test_closing_a_client_may_be_cancelled(tls: tuple[ssl.SSLContext, Path]) -> None:
    """Closing connections of TLS waits for the servers."""
    context, trusted = tls

    async def call_and_close(server: WireServer, client: Client) -> None:
        await a_call(BailianApp(app_id="a", api_key="k", base_url=server.base_url, client=client))
        assert client._async is not None
        [session] = client._async.sessions.values()
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        del closing
        assert await asyncio.to_thread(server.all_gone.wait, WAIT_S)
        gc.collect()
        assert session() is None

    with WireServer(WHOLE, tls=context) as server:
        asyncio.run(call_and_close(server, Client(ca_bundle=trusted)))


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_of_a_loop_that_is_closed_with_calls_in_it_only_python_complains(
    secure: bool, tls: tuple[ssl.SSLContext, Path], caplog: pytest.LogCaptureFixture
) -> None:
    context, trusted = tls

    async def begin(app: BailianApp) -> list[asyncio.Future[object]]:
        streams = [app.astream("hold") for _ in range(2)]
        for each in streams:
            await anext(each)
        tasks = [asyncio.ensure_future(anext(each)) for each in streams]
        await asyncio.sleep(0)  # now they wait for what never comes
        return tasks

    with WireServer(HELD_OPEN, HELD_OPEN, tls=context if secure else None) as server:
        app = BailianApp(
            app_id="app", api_key="k", base_url=server.base_url, client=Client(ca_bundle=trusted)
        )
        loop = asyncio.new_event_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = WAIT_S
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            loop.run_until_complete(begin(app))
            loop.close()
            assert server.all_gone.wait(WAIT_S)
            gc.collect()
        # Python 3.13 also complains of the outermost generator, which no loop can close any more.
        complaint = "coroutine method 'aclose' of 'Run.astream' was never awaited"
        assert {str(each.message) for each in warned} <= {complaint}
        assert {each.partition("\n")[0] for each in caplog.messages} <= {
            "Task was destroyed but it is pending!"
        }


@pytest.mark.usefixtures("_quiet")
def test_a_connection_is_used_again_while_its_loop_pauses() -> None:
    """As in a notebook, or in a framework that runs one loop a cell at a time."""
    loop = asyncio.new_event_loop()
    with WireServer(*[WHOLE] * 3) as server:
        app = BailianApp(app_id="app", api_key="k", base_url=server.base_url)
        for _ in range(3):
            loop.run_until_complete(a_call(app))
        assert server.connections == 1
        loop.close()
        assert server.all_gone.wait(WAIT_S)
