"""No call passes by a test's double unseen: what intercepts calls, what is refused, and how."""

from __future__ import annotations

import contextlib
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
import responses
import respx
import vcr

CLOUD = "http://cloud.invalid/api/v1"  # a look-up of it fails, with another error


@contextlib.contextmanager
def monkeypatched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dashscope.Application, "call", lambda **_: None)
        yield


DOUBLES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "responses": responses.RequestsMock,
    "respx": lambda: respx.mock,
    "respx with httpx": lambda: respx.mock(using="httpx"),
    "mock": lambda: mock.patch("dashscope.Application.call"),
    "autospec": lambda: mock.patch("dashscope.Application.call", autospec=True),
    "monkeypatch": monkeypatched,
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


def test_a_mock_of_the_async_client_sees_async_calls() -> None:
    """As aioresponses does it, beside a double of another client."""
    import aiohttp

    sent = mock.patch.object(
        aiohttp.ClientSession,
        "_request",
        side_effect=aiohttp.ClientConnectionError("Connection refused"),
        autospec=True,
    )
    with contextlib.ExitStack() as doubles:
        doubles.enter_context(responses.RequestsMock())
        doubles.enter_context(sent)
        error = PATHS["ainvoke"](app_at(CLOUD), "hi", max_retries=0).error
    assert error is not None
    assert error.request_state == "not_sent"
    assert "could not connect" in str(error)
