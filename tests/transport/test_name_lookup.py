"""Looking up a name is part of connecting: bounded by `connect_s`, whatever the name server does."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.paths import PATHS
from support.wire import WAIT_S, WireServer, event, frame, stream

from bailian_apps import BailianApp, Client, ConnectError, Timeout
from bailian_apps.transport.name_lookup import Resolver, _running, look_up

GOOD = stream(event(frame("你好", "stop")))
HURRIED = Timeout(connect_s=0.05)


class NameServer:
    """Replaces `socket.getaddrinfo` for `host.invalid`, which is this machine.

    Attributes:
        answers: Set while it answers.
        asked: The threads that asked.
    """

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked: list[threading.Thread] = []
        self._resolve = socket.getaddrinfo

    def __call__(self, host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "host.invalid":
            return self._resolve(host, *args, **kwargs)
        self.asked.append(threading.current_thread())
        assert self.answers.wait(WAIT_S)
        return self._resolve("127.0.0.1", *args, **kwargs)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    yield server
    server.answers.set()
    for thread in server.asked:
        if thread is not threading.main_thread():
            thread.join(WAIT_S)
            assert not thread.is_alive()


def app_of(server: WireServer, host: str = "host.invalid", **settings: Any) -> BailianApp:
    url = f"http://{host}:{urlsplit(server.base_url).port}/api/v1"
    return BailianApp(app_id="app", api_key="k", base_url=url, max_retries=0, **settings)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("through_proxy", [False, True], ids=["direct", "proxy"])
def test_a_name_server_that_is_silent_costs_no_more_than_the_time_to_connect(
    path: str, through_proxy: bool, name_server: NameServer
) -> None:
    with WireServer(GOOD, GOOD) as server:
        app = app_of(server)
        if through_proxy:
            proxy = (app.settings.base_url or "").removesuffix("/api/v1")
            app = app_of(server, "api.invalid", client=Client(proxy=proxy))
        error = PATHS[path](app, "hi", timeout=HURRIED).error
        assert not name_server.answers.is_set()  # with its event loop, too, the call has ended
        assert type(error) is ConnectError
        assert "within connect_s=0.05 s; nothing was sent" in str(error)
        name_server.answers.set()
        assert PATHS[path](app, "hi").text == "你好"


async def test_calls_at_once_share_one_look_up(name_server: NameServer) -> None:
    looking = [asyncio.create_task(Resolver().resolve("host.invalid", 9)) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(look_up, "host.invalid", 9, 0.01)
    name_server.answers.set()
    assert [[each["host"] for each in await task] for task in looking] == [["127.0.0.1"]] * 8
    assert len(name_server.asked) == 1


@pytest.mark.parametrize("path", PATHS)
def test_a_name_without_an_address_is_an_error_that_names_it(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    app = BailianApp(
        app_id="app", api_key="k", base_url="http://nowhere.invalid/api/v1", max_retries=0
    )
    error = PATHS[path](app, "hi").error
    assert type(error) is ConnectError
    assert "nowhere.invalid: Name or service not known; nothing was sent" in str(error)


@pytest.mark.parametrize("path", PATHS)
def test_an_address_is_not_looked_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bailian_apps.transport.name_lookup._start", None)
    with WireServer(GOOD) as server:
        assert PATHS[path](app_of(server, "127.0.0.1"), "hi").text == "你好"


@pytest.mark.parametrize("path", ["invoke", "ainvoke"])
def test_where_no_thread_can_start_a_name_is_looked_up_without(
    path: str, name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the exit of the interpreter."""
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name.startswith("look up"):
            raise RuntimeError("can't start new thread")
        start(thread)

    name_server.answers.set()
    monkeypatch.setattr(threading.Thread, "start", refused)
    with WireServer(GOOD) as server:
        assert PATHS[path](app_of(server), "hi").text == "你好"
    assert name_server.asked == [threading.current_thread()]


@pytest.mark.parametrize("has_started", [True, False])
def test_a_look_up_whose_start_was_interrupted_disturbs_no_other(
    has_started: bool, name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-C: nobody knows whether its thread runs."""
    start, started = threading.Thread.start, list[threading.Thread]()

    def interrupted(thread: threading.Thread) -> None:
        if has_started:
            start(thread)
            started.append(thread)
            thread.join(WAIT_S)
        raise KeyboardInterrupt

    name_server.answers.set()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            look_up("host.invalid", 9, WAIT_S)
    name_server.answers.clear()

    def interrupted_before_its_end(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted_before_its_end)
        with pytest.raises(KeyboardInterrupt):
            look_up("host.invalid", 9, WAIT_S)
    name_server.answers.set()
    assert look_up("host.invalid", 9, WAIT_S)
    assert _running == {}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_look_up_of_its_parent(name_server: NameServer) -> None:
    with pytest.raises(TimeoutError):
        look_up("host.invalid", 9, 0.05)
    child = os.fork()
    if child == 0:
        name_server.answers.set()
        os._exit(0 if look_up("host.invalid", 9, WAIT_S) else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
