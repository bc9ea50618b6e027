"""`Client`: its own connections, limits and session rounds, and their end."""

from __future__ import annotations

import asyncio
import base64
import copy
import pickle
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest
import trustme
from support.paths import PATHS
from support.wire import WAIT_S, Do, WireServer, answer, event, frame, stream

from bailian_apps import (
    BailianApp,
    Client,
    ConnectError,
    InvalidInputError,
    RateLimitError,
    RequestTimeoutError,
)
from bailian_apps.core.history import plan_request
from bailian_apps.core.turns import Turn
from bailian_apps.emulator import Emulator
from bailian_apps.run import Run

GOOD = stream(event(frame("你好", "stop")))
HELD_OPEN = [*stream(event(frame("你好")))[:2], Do.STALL]


def app_of(server: WireServer, client: Client | None, **settings: object) -> BailianApp:
    fields = {"app_id": "app", "api_key": "sk-test", "base_url": server.base_url, **settings}
    return BailianApp(client=client, **fields)


@pytest.mark.parametrize("path", ["invoke", "stream"])
def test_a_client_keeps_connections_of_its_own_and_closes_them(path: str) -> None:
    with WireServer(*[GOOD] * 4) as server:
        with Client() as client:
            for _ in range(2):
                assert PATHS[path](app_of(server, client), "hi").text == "你好"
            assert server.connections == 1
            with Client() as other:
                assert PATHS[path](app_of(server, other), "hi").text == "你好"
            assert server.connections == 2
        assert server.all_gone.wait(WAIT_S)
        with pytest.raises(InvalidInputError, match="client is closed"):
            app_of(server, client).invoke("hi")
        assert len(server.posts) == 3


async def test_a_client_closes_the_async_connections_of_its_loop() -> None:
    with WireServer(*[GOOD] * 3) as server:
        async with Client() as client:
            for _ in range(2):
                assert (await app_of(server, client).ainvoke("hi")).text == "你好"
            assert server.connections == 1
        assert await asyncio.to_thread(server.all_gone.wait, WAIT_S)
        with pytest.raises(InvalidInputError, match="client is closed"):
            await app_of(server, client).ainvoke("hi")


@pytest.mark.parametrize("path", PATHS)
def test_a_clients_proxy_is_used_with_its_password(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the client's own comes first
    with WireServer(GOOD) as server:
        address = server.base_url.removesuffix("/api/v1").replace("//", "//me:pass%40word@")
        app = BailianApp(
            app_id="app",
            api_key="sk-test",
            base_url="http://example.invalid/api/v1",
            client=Client(proxy=address),
        )
        assert PATHS[path](app, "hi").text == "你好"
        head = server.heads[0]
    assert head.startswith(b"POST http://example.invalid/api/v1/apps/app/completion ")
    credentials = base64.b64encode(b"me:pass@word")
    assert b"proxy-authorization: basic " + credentials.lower() in head.lower()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"proxy": "ftp://x"}, "proxy"),
        ({"proxy": "http://host:99999"}, "proxy"),
        ({"max_idle_connections": 0}, "max_idle_connections"),
        ({"max_idle_connections": None}, "max_idle_connections"),
        ({"max_idle_connections": True}, "max_idle_connections"),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused(arguments: Any, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Client(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("path", PATHS)
def test_a_clients_certificates_are_trusted(path: str, tmp_path: Path) -> None:
    authority, context = trustme.CA(), SSLContext(PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with WireServer(GOOD, GOOD, tls=context) as server:
        trusting = app_of(server, Client(ca_bundle=tmp_path / "ca.pem"))
        assert PATHS[path](trusting, "hi").text == "你好"
        error = PATHS[path](app_of(server, None), "hi").error
        assert isinstance(error, ConnectError)
        assert "certificate verify failed" in str(error)
        missing = app_of(server, Client(ca_bundle=tmp_path / "none.pem"))
        assert "ca_bundle names certificates that do not exist" in str(
            PATHS[path](missing, "hi").error
        )


def test_a_limit_counts_the_calls_of_one_client() -> None:
    with WireServer(HELD_OPEN, GOOD) as server:
        client = Client()
        limited = app_of(server, client, max_concurrency=1)
        with limited.stream("one") as first:
            next(first)
            with pytest.raises(RequestTimeoutError, match="no slot became free"):
                limited.invoke("two", timeout={"pool_s": 0.05})
            other = app_of(server, Client(), max_concurrency=1)
            assert other.invoke("three").text == "你好"


def test_a_session_round_is_claimed_within_one_client() -> None:
    with Emulator(apps={"app": lambda call: "ok"}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        first = plan_request([Turn(role="user", text="one")], app.settings)
        result = Run(app.settings, first).invoke()
        answer = Turn(role="assistant", text=result.text, marker=first.marker(result))
        turns = [Turn(role="user", text="one"), answer, Turn(role="user", text="two")]
        plan = plan_request(turns, app.settings)
        clients = [Client(), Client()]
        histories = [Run(app.settings, plan, client=each).invoke() for each in clients * 2]
        assert [each.whole_history for each in histories] == [False, False, True, True]


def test_copies_share_a_client_and_a_pickle_of_one_is_refused() -> None:
    client = Client()
    assert copy.deepcopy({"client": client})["client"] is client
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(client)


async def test_closing_a_client_lets_an_async_call_that_runs_end() -> None:
    head, first, *rest = stream(event(frame("你")), event(frame("好", "stop")))
    with WireServer([head, first, Do.PAUSE, *rest]) as server:
        client = Client()
        events = app_of(server, client).astream("hi")
        await anext(events)
        await client.aclose()
        kinds = [each.kind async for each in events]
        assert kinds[-1] == "run_finished"
        assert await asyncio.to_thread(server.all_gone.wait, WAIT_S)


@pytest.mark.parametrize("path", PATHS)
def test_a_retry_after_its_client_was_closed_keeps_no_connection(path: str) -> None:
    client = Client()
    busy = b'{"code":"Throttling"}'
    head = b"HTTP/1.1 429 X\r\nRetry-After: 0\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"

    def close() -> None:  # the server closes it from its own thread, so not its loop's connections
        asyncio.run(client.aclose())

    with WireServer([close, head % len(busy) + busy], GOOD) as server:
        assert PATHS[path](app_of(server, client), "hi").text == "你好"
        assert server.all_gone.wait(WAIT_S)


@pytest.mark.parametrize(
    ("field", "value"), [("proxy", 8080), ("ca_bundle", ""), ("max_idle_connections", True)]
)
def test_a_client_names_the_argument_that_is_wrong(field: str, value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Client(**{field: value})
    assert caught.value.field == field


def test_closing_a_client_between_two_attempts_does_not_hide_the_error() -> None:
    class ClosingClient(Client):
        def frames(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().frames(*args, **kwargs)
            finally:
                self.close()

    busy = answer("429 X", b'{"code":"Throttling"}', "application/json", "Retry-After: 0")
    with WireServer(busy, busy, busy) as server:
        with pytest.raises(RateLimitError) as caught:
            app_of(server, ClosingClient()).invoke("hi")
        assert caught.value.attempts == len(server.posts) == 3
