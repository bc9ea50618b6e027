"""The emulator starts and stops in order, with open streams too, and keeps the pace."""

import asyncio
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from bailian_apps.emulator import RECORDINGS, Agent, Call, Emulator, Paced
from bailian_apps.emulator.server.local_server import LocalServer, transport_of

TRAVEL = RECORDINGS / "travel-workflow.jsonl"
PATH = "/api/v1/apps/app/completion"
DELTAS = {"incremental_output": True, "has_thoughts": True}
FIRST = {"output": {"text": "甲", "finish_reason": "null"}}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def endless(call: Call) -> Iterator[dict[str, Any]]:
    yield FIRST
    call.disconnected.wait(120)


async def endless_async(call: Call) -> AsyncIterator[dict[str, Any]]:
    yield FIRST
    await asyncio.Event().wait()


@pytest.mark.parametrize(("pace", "times"), [(1.0, 1), (2.0, 0.5), (0.5, 2)])
def test_the_recorded_pace_is_kept(
    post: Callable[..., Any], pace: float, times: float, sleep: Any
) -> None:
    with Emulator(apps={"app": TRAVEL}, pace=pace, sleep=sleep) as cloud:
        post(cloud, stream=True, parameters=DELTAS)
    offsets = [json.loads(line)["offset_ms"] for line in TRAVEL.read_text().splitlines()]
    gaps = [later - earlier for earlier, later in pairwise([0, *offsets]) if later > earlier]
    assert len(gaps) == 10  # the second frame came with the first
    assert sleep.waits == pytest.approx([gap / 1000 * times for gap in gaps])


def test_a_json_answer_waits_as_long_as_the_last_frame(
    post: Callable[..., Any], sleep: Any
) -> None:
    with Emulator(apps={"app": TRAVEL}, pace=1, sleep=sleep) as cloud:
        post(cloud)
    assert sleep.waits == [3.081]


@pytest.mark.parametrize("mode", ["message_format", "message_format_plus", "agent_format"])
def test_other_stream_modes_keep_the_pace(post: Callable[..., Any], mode: str, sleep: Any) -> None:
    with Emulator(apps={"app": TRAVEL}, pace=1, sleep=sleep) as cloud:
        post(cloud, stream=True, parameters={"flow_stream_mode": mode})
    assert sum(sleep.waits) == pytest.approx(3.081)


def test_without_a_pace_or_without_times_nothing_waits(
    recordings: Path, post: Callable[..., Any], sleep: Any
) -> None:
    with Emulator(apps={"app": TRAVEL}, sleep=sleep) as cloud:
        post(cloud, stream=True)
    with Emulator(apps={"app": recordings / "workflow-two-llm.sse"}, pace=1, sleep=sleep) as cloud:
        post(cloud, stream=True)
    assert sleep.waits == []


def test_the_pace_is_real_time(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": TRAVEL}, pace=20) as cloud:
        started = time.monotonic()
        post(cloud, stream=True)
        elapsed = time.monotonic() - started
    assert elapsed >= 3.081 / 20


def test_connections_have_tcp_nodelay_set() -> None:
    options: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection = transport_of(scope).get_extra_info("socket")
        options.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with LocalServer(app, base_path="", host="127.0.0.1", port=0) as server:
        assert httpx.get(server.base_url, trust_env=False).status_code == 204
    assert options == [1]


@pytest.mark.parametrize("pace", [-1, float("nan"), float("inf")])
def test_a_pace_that_is_not_a_finite_number_is_refused(pace: float) -> None:
    with pytest.raises(ValueError, match=f"pace={pace} must be 0"):
        Emulator(apps={}, pace=pace)
    with pytest.raises(ValueError, match=f"pace={pace} must be 0"):
        Paced(Agent(text="x"), pace)


@pytest.fixture
def stops_in_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test must not take as long as a server would wait for a stream that does not end."""
    patience_s = 60
    monkeypatch.setattr("bailian_apps.emulator.server.local_server.SHUTDOWN_TIMEOUT_S", patience_s)
    started = time.monotonic()
    yield
    assert time.monotonic() - started < patience_s


@pytest.mark.usefixtures("stops_in_time")
@pytest.mark.parametrize("app", [endless, endless_async])
def test_stopping_cuts_an_open_stream(open_stream: Callable[..., Any], app: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        opened = open_stream(cloud)
        response = opened.__enter__()
        assert response.readline() == b"id:1\n"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    opened.__exit__(None, None, None)
    assert cloud.requests[0].disconnected.is_set()


def test_stopping_cuts_a_paced_replay() -> None:
    entered = threading.Event()

    async def never(seconds: float) -> None:
        entered.set()
        await asyncio.Event().wait()

    with Emulator(apps={"app": TRAVEL}, pace=1, sleep=never) as cloud:
        connection = http.client.HTTPConnection("127.0.0.1", _port(cloud), timeout=60)
        headers = {"Authorization": "Bearer k", "X-DashScope-SSE": "enable"}
        connection.request("POST", PATH, b'{"input":{"prompt":"hi"}}', headers)
        assert entered.wait(60)
    with pytest.raises(ConnectionError):
        connection.getresponse()
    connection.close()
    assert cloud.requests[0].disconnected.is_set()


@pytest.mark.parametrize("app", [endless, endless_async])
def test_a_disconnect_of_the_client_is_reported(open_stream: Callable[..., Any], app: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        with open_stream(cloud) as response:
            assert response.readline() == b"id:1\n"
            assert not cloud.requests[0].disconnected.is_set()
        assert cloud.requests[0].disconnected.wait(60)


@pytest.mark.parametrize("how", ["plain", "async"])
def test_a_generator_is_closed_when_its_client_disconnects(
    open_stream: Callable[..., Any], how: str
) -> None:
    closed = threading.Event()

    def plain(call: Call) -> Iterator[dict[str, Any]]:
        try:
            yield from endless(call)
        finally:
            closed.set()

    async def asynchronous(call: Call) -> AsyncIterator[dict[str, Any]]:
        try:
            async for item in endless_async(call):
                yield item
        finally:
            closed.set()

    with Emulator(apps={"app": plain if how == "plain" else asynchronous}) as cloud:
        with open_stream(cloud) as response:
            assert response.readline() == b"id:1\n"
        assert closed.wait(60)


@pytest.mark.usefixtures("stops_in_time")
def test_an_idle_connection_does_not_delay_the_stop() -> None:
    with Emulator(apps={"app": TRAVEL}) as cloud:
        idle = http.client.HTTPConnection("127.0.0.1", _port(cloud), timeout=60)
        body, headers = b'{"input":{"prompt":"hi"}}', {"Authorization": "Bearer k"}
        idle.request("POST", PATH, body, headers)
        with idle.getresponse() as response:
            assert response.status == 200
            response.read()
        assert idle.sock is not None  # kept alive
    idle.close()


def test_an_app_that_still_blocks_is_warned_of(
    open_stream: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def stubborn(call: Call) -> Iterator[dict[str, Any]]:
        yield FIRST
        released.wait(60)

    monkeypatch.setattr("bailian_apps.emulator.emulator.SHUTDOWN_TIMEOUT_S", 0.01)
    cloud = Emulator(apps={"app": stubborn})
    cloud.start()
    before = {thread for thread in threading.enumerate() if "emulator-app" not in thread.name}
    with open_stream(cloud) as response:
        assert response.readline() == b"id:1\n"
        with pytest.warns(ResourceWarning, match=r"1 app function.*wait for `call\.disconnected`"):
            cloud.stop()
    released.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)


def test_two_emulators_run_at_the_same_time(post: Callable[..., Any]) -> None:
    with (
        Emulator(apps={"app": lambda call: "一"}) as one,
        Emulator(apps={"app": lambda call: "二"}) as two,
    ):
        assert one.base_url != two.base_url
        assert [post(cloud).output["text"] for cloud in (one, two)] == ["一", "二"]
        assert len(one.requests) == len(two.requests) == 1


def test_it_listens_on_loopback_alone() -> None:
    with Emulator(apps={}) as cloud:
        assert cloud.base_url == f"http://127.0.0.1:{_port(cloud)}/api/v1"
        port = _port(cloud)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=60)


def test_it_can_be_started_again_on_the_same_port(post: Callable[..., Any]) -> None:
    cloud = Emulator(apps={"app": lambda call: "好"})
    with cloud:
        port = _port(cloud)
        session_id = post(cloud).output["session_id"]
    again = Emulator(apps={"app": lambda call: "好"}, port=port)
    with again:
        assert _port(again) == port
    with cloud:
        assert post(cloud, session_id=session_id).output["session_id"] == session_id
    assert len(cloud.requests) == 2


def test_an_emulator_cannot_be_started_twice() -> None:
    cloud = Emulator(apps={})
    with pytest.raises(RuntimeError, match="not running; use it as `with Emulator"):
        _ = cloud.base_url
    with cloud, pytest.raises(RuntimeError, match="already running at http://127"):
        cloud.start()
    cloud.stop()  # does nothing


def test_it_touches_neither_signals_nor_logging(
    post: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(kind) for kind in kinds]
    names = ("uvicorn", "uvicorn.error", "uvicorn.access")
    loggers = [logging.getLogger(name) for name in names]
    settings = [(log.level, log.propagate, list(log.handlers)) for log in loggers]
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        post(cloud)
        assert [signal.getsignal(kind) for kind in kinds] == before
    assert [(log.level, log.propagate, list(log.handlers)) for log in loggers] == settings
    assert not [record for record in caplog.records if record.name == "uvicorn.access"]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "yaml"])
def test_a_missing_extra_says_how_to_install_it(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import bailian_apps.emulator"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=_env()
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith('pip install "bailian-apps[emulator]"')
    assert "ImportError: the emulator needs starlette, uvicorn and pyyaml" in done.stderr


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def _port(cloud: Emulator) -> int:
    return int(cloud.base_url.removeprefix("http://127.0.0.1:").removesuffix("/api/v1"))
