"""No call passes by a test's double unseen: what intercepts calls, what is refused, and how."""

from __future__ import annotations

import contextlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import dashscope
import pytest
from support.paths import PATHS

from bailian_apps import BailianApp, ConnectError
from bailian_apps.emulator import Agent, Emulator

pytest.importorskip("vcr", reason="only .venv has test doubles")
import aiohttp
import aioresponses
import httpx
import pytest_httpx
import requests
import requests_mock
import responses
import respx
import vcr

CLOUD = "http://cloud.invalid/api/v1"  # a look-up of it fails, with another error


@contextlib.contextmanager
def monkeypatched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dashscope.Application, "call", lambda **_: None)
        yield


def fake(*_: object, **__: object) -> None:
    """A test's own stand-in."""


@contextlib.contextmanager
def monkeypatched_post() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.sessions.Session, "post", fake)
        yield


@contextlib.contextmanager
def httpx_mock() -> Iterator[None]:
    """The fixture of pytest-httpx, which replaces the methods of httpx's transports."""
    make: Any = pytest_httpx.httpx_mock
    make = getattr(make, "_get_wrapped_function", lambda: make.__wrapped__)()
    node = mock.Mock()
    node.node.iter_markers = lambda _: []
    with pytest.MonkeyPatch.context() as patch:
        fixture = make(patch, node)
        next(fixture)
        yield
        next(fixture, None)


DOUBLES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "responses": responses.RequestsMock,
    "respx": lambda: respx.mock,
    "respx with httpx": lambda: respx.mock(using="httpx"),
    "mock": lambda: mock.patch("dashscope.Application.call"),
    "autospec": lambda: mock.patch("dashscope.Application.call", autospec=True),
    "monkeypatch": monkeypatched,
    "monkeypatch of a method": monkeypatched_post,
    "requests-mock": requests_mock.Mocker,
    "pytest-httpx": httpx_mock,
    **{
        name: lambda name=name: mock.patch(name)
        for name in (
            "requests.Session.send",
            "requests.Session.request",
            "requests.Session.post",
            "requests.sessions.Session.get_adapter",
            "requests.Session",
            "requests.post",
            "requests.adapters.HTTPAdapter.send",
            "httpx.AsyncClient.send",
            "aiohttp.ClientSession.get",
            "urllib3.util.connection.create_connection",
            "dashscope.app.application._build_api_request",
            "dashscope.client.base_api.BaseApi.call",
            "dashscope.api_entities.http_request.HttpRequest.call",
        )
    },
}


def app_at(base_url: str) -> BailianApp:
    return BailianApp(app_id="a", api_key="sk-test", base_url=base_url)


@pytest.mark.parametrize("path", ["invoke", "astream"])
@pytest.mark.parametrize("double", DOUBLES.values(), ids=DOUBLES)
def test_a_call_that_a_double_cannot_see_is_refused(
    path: str, double: Callable[[], AbstractContextManager[Any]]
) -> None:
    with double():
        error = PATHS[path](app_at(CLOUD), "hi").error
    assert isinstance(error, ConnectError)
    assert (error.request_state, error.attempts) == ("not_sent", 1)
    assert str(error).startswith("a test has replaced ")
    assert "cloud.invalid" in str(error)
    assert "emulator" in str(error)
    assert "BAILIAN_LIVE=1" in str(error)


@pytest.mark.parametrize("path", ["invoke", "astream"])
@pytest.mark.parametrize("double", DOUBLES.values(), ids=DOUBLES)
def test_a_test_may_let_its_calls_leave_beside_any_double(
    path: str,
    double: Callable[[], AbstractContextManager[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BAILIAN_LIVE", "1")
    with double():
        error = PATHS[path](app_at(CLOUD), "hi", max_retries=0).error
    assert "could not connect to cloud.invalid" in str(error)


@pytest.mark.parametrize("host", ["[::ffff:203.0.114.9]", "169.254.169.254", "8.8.8.8"])
def test_an_address_outside_the_local_network_is_refused_in_any_form(host: str) -> None:
    with responses.RequestsMock():
        error = PATHS["invoke"](app_at(f"http://{host}/api/v1"), "hi").error
    assert "a test has replaced" in str(error)


@pytest.mark.parametrize("path", ["invoke", "astream"])
@pytest.mark.parametrize("double", DOUBLES.values(), ids=DOUBLES)
def test_the_emulator_is_called_beside_any_double(
    path: str, double: Callable[[], AbstractContextManager[Any]]
) -> None:
    with Emulator(apps={"a": lambda _: "ok"}) as cloud:
        with double():
            assert PATHS[path](app_at(cloud.base_url), "hi").text == "ok"
        error = PATHS[path](app_at(CLOUD), "hi", max_retries=0).error
    assert error is not None
    assert "could not connect" in str(error)  # no double is active any more


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
@pytest.mark.parametrize("path", ["invoke", "astream"])
def test_a_call_that_pytest_socket_forbids_was_not_sent(path: str) -> None:
    error = PATHS[path](app_at("http://10.255.255.1/api/v1"), "hi").error
    assert isinstance(error, ConnectError)
    assert (error.request_state, error.attempts) == ("not_sent", 1)
    assert str(error) == (
        "a test forbids this call: SocketConnectBlockedError: A test tried to use "
        'socket.socket.connect() with host "10.255.255.1" (allowed: "127.0.0.1,::1"); '
        "nothing was sent"
    )


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
def test_pytest_socket_also_forbids_the_use_of_an_open_connection() -> None:
    from pytest_socket import disable_socket, enable_socket

    with Emulator(apps={"a": lambda _: "ok"}) as cloud:
        app = app_at(cloud.base_url)
        assert app.invoke("hi").text == "ok"
        disable_socket()
        try:
            with pytest.raises(ConnectError, match="SocketBlockedError"):
                app.invoke("hi")
        finally:
            enable_socket()
        assert len(cloud.requests) == 1


@pytest.mark.parametrize("path", ["invoke", "astream"])
def test_vcrpy_records_and_replays_calls(path: str, tmp_path: Path) -> None:
    cassette = str(tmp_path / "cassette.yaml")
    with Emulator(apps={"a": Agent(text=["one ", "two"])}) as cloud:
        app = app_at(cloud.base_url)
        assert PATHS[path](app, "hi").text == "one two"  # leaves a connection in the pool
        with vcr.use_cassette(cassette, record_mode="once") as recorded:
            assert PATHS[path](app, "hi").text == "one two"
            assert len(recorded) == 1
        asked = len(cloud.requests)
        with vcr.use_cassette(cassette, record_mode="none"):
            assert PATHS[path](app, "hi").text == "one two"
            error = PATHS[path](app, "another").error
        assert len(cloud.requests) == asked
        assert PATHS[path](app, "hi").text == "one two"
        assert len(cloud.requests) == asked + 1
    assert isinstance(error, ConnectError)
    assert (error.request_state, error.attempts) == ("not_sent", 1)
    assert str(error).startswith(
        "a test forbids this call: CannotOverwriteExistingCassetteException: "
    )


FIRST_CALL_IN_A_CASSETTE = """
import sys
import vcr
from bailian_apps import BailianApp

app = BailianApp(app_id="a", api_key="sk-test", base_url=sys.argv[1])
with vcr.use_cassette(sys.argv[2]) as cassette:
    app.invoke("hi")  # imports the transport
with app.stream("hi") as events:
    next(events)
print(len(cassette))
"""


@pytest.mark.process
def test_a_first_call_in_a_cassette_leaves_nothing_behind(tmp_path: Path) -> None:
    with Emulator(apps={"a": lambda _: "ok"}) as cloud:
        done = subprocess.run(
            [sys.executable, "-c", FIRST_CALL_IN_A_CASSETTE, cloud.base_url, tmp_path / "c.yaml"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout.strip(), done.stderr) == ("1", "")
        assert len(cloud.requests) == 2


@pytest.mark.parametrize("path", ["invoke", "stream", "ainvoke", "astream"])
@pytest.mark.parametrize("ignoring", [{"ignore_localhost": True}, {"ignore_hosts": ["127.0.0.1"]}])
def test_vcrpy_lets_through_what_it_is_to_ignore(
    path: str, ignoring: dict[str, Any], tmp_path: Path
) -> None:
    with Emulator(apps={"a": lambda _: "ok"}) as cloud:
        cassette = vcr.use_cassette(str(tmp_path / "c.yaml"), record_mode="none", **ignoring)
        with cassette as recorded:
            assert PATHS[path](app_at(cloud.base_url), "hi").text == "ok"
        assert (len(recorded), len(cloud.requests)) == (0, 1)


ANSWER = {"output": {"text": "doubled", "finish_reason": "stop", "session_id": "s"}}
STREAM = f"event:result\ndata:{json.dumps(ANSWER)}\n\n"


class Response(aiohttp.ClientResponse):
    """aioresponses does not pass `stream_writer`, which newer versions of aiohttp require."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        required = inspect.signature(aiohttp.ClientResponse).parameters.keys() & {"stream_writer"}
        super().__init__(*args, **dict.fromkeys(required, mock.Mock()), **kwargs)


@pytest.mark.parametrize("path", ["ainvoke", "astream"])
@pytest.mark.parametrize("beside", [contextlib.nullcontext, responses.RequestsMock])
@pytest.mark.parametrize("media_type", ["application/json", "text/event-stream"])
def test_aioresponses_answers_async_calls(
    path: str, beside: Callable[[], AbstractContextManager[Any]], media_type: str
) -> None:
    body = STREAM if "stream" in media_type else json.dumps(ANSWER)
    with beside(), aioresponses.aioresponses() as double:
        double.post(
            f"{CLOUD}/apps/a/completion",
            body=body,
            content_type=media_type,
            response_class=Response,
        )
        assert PATHS[path](app_at(CLOUD), "hi").text == "doubled"
        error = PATHS[path](app_at(CLOUD), "another", max_retries=0).error
    assert error is not None
    assert error.request_state == "not_sent"
    assert "could not connect" in str(error)


@pytest.mark.parametrize("path", ["invoke", "stream"])
def test_aioresponses_does_not_see_sync_calls(path: str) -> None:
    with aioresponses.aioresponses():
        error = PATHS[path](app_at(CLOUD), "hi").error
    assert "a test has replaced aiohttp.ClientSession._request" in str(error)


def test_aioresponses_passes_on_what_it_is_to_pass_on() -> None:
    with (
        Emulator(apps={"a": lambda _: "ok"}) as cloud,
        aioresponses.aioresponses(passthrough=[cloud.base_url]),
    ):
        assert PATHS["astream"](app_at(cloud.base_url), "hi").text == "ok"


async def test_a_replaced_method_of_the_async_client_sees_async_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise aiohttp.ClientConnectionError("refused")

    monkeypatch.setattr(aiohttp.ClientSession, "_request", refuse)
    with responses.RequestsMock(), pytest.raises(ConnectError, match="could not connect"):
        await app_at(CLOUD).ainvoke("hi", max_retries=0)


def test_the_fixture_of_pytest_httpx_does_not_see_calls(
    httpx_mock: pytest_httpx.HTTPXMock,
) -> None:
    httpx_mock.add_response(json=ANSWER)
    for path in ("invoke", "stream", "ainvoke", "astream"):
        error = PATHS[path](app_at(CLOUD), "hi").error
        assert "a test has replaced httpx." in str(error)
        assert "(pytest_httpx)" in str(error)
    assert httpx.get(CLOUD).json() == ANSWER
