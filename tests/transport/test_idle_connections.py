"""A call reads only what was sent for it: a connection that had anything else to read is not used."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pytest
import trustme
from support.paths import PATHS
from support.wire import SSE_HEAD, WAIT_S, Do, Part, WireServer, answer, chunk, event, frame, stream

from bailian_apps import BailianApp, BailianError, Client, ConnectError

YOURS = stream(event(frame("yours", "stop")))
ANOTHER: bytes = answer(  # type: ignore[assignment]
    "200 OK", b'{"output":{"text":"ANOTHER USER\'S","finish_reason":"stop"}}'
)[0]
CLOSING = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

STRAY: dict[str, list[Part]] = {
    "an answer": [ANOTHER],
    "half a head": [b"HTTP/1.1 2"],
    "a 408 and the end": [CLOSING, Do.CLOSE],
    "the end": [Do.CLOSE],
    "a reset": [Do.RESET],
}


class Moment:
    """Lets the server send something unasked once the client has its first answer."""

    def __init__(self, parts: list[Part]) -> None:
        self.first_is_read, self.sent = threading.Event(), threading.Event()
        # The end of a connection comes after `sent`, and is waited for by `all_gone`.
        said = [part for part in parts if isinstance(part, bytes)]
        ends = [part for part in parts if not isinstance(part, bytes)]
        self.answer: list[Part] = [
            *YOURS, self.first_is_read, *said, self.sent.set, *(ends or [Do.STALL])
        ]  # fmt: skip

    def wait(self, server: WireServer, *, ends: bool) -> None:
        self.first_is_read.set()
        assert self.sent.wait(WAIT_S)
        if ends:  # by the server; where it only said something, its client is to hang up
            assert server.all_gone.wait(WAIT_S)


def sync_calls(app: BailianApp, wait: Callable[[], None]) -> list[str]:
    """Two calls, with a wait between them: their texts, or the names of their errors."""
    texts: list[str] = []
    for prompt in ("1", "2"):
        try:
            texts.append(app.invoke(prompt).text)
        except BailianError as error:
            texts.append(type(error).__name__)
        if prompt == "1":
            wait()
    return texts


def async_calls(app: BailianApp, wait: Callable[[], None]) -> list[str]:
    """As `sync_calls`. The event loop is busy with the wait, and reads nothing meanwhile."""

    async def calls() -> list[str]:
        texts: list[str] = []
        for prompt in ("1", "2"):
            try:
                texts.append((await app.ainvoke(prompt)).text)
            except BailianError as error:
                texts.append(type(error).__name__)
            if prompt == "1":
                wait()
        return texts

    return asyncio.run(calls())


Calls: TypeAlias = Callable[[BailianApp, Callable[[], None]], "list[str]"]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "host.invalid").configure_cert(context)
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return context, path


@pytest.mark.parametrize("way", ["direct", "TLS", "proxy"])
@pytest.mark.parametrize("stray", STRAY)
@pytest.mark.parametrize("calls", [sync_calls, async_calls])
def test_what_came_to_an_idle_connection_is_nobodys_answer(
    calls: Calls, stray: str, way: str, tls: tuple[ssl.SSLContext, Path]
) -> None:
    moment = Moment(STRAY[stray])
    ends = any(isinstance(part, Do) for part in STRAY[stray])
    context, trusted = tls
    with WireServer(moment.answer, YOURS, tls=context if way == "TLS" else None) as server:
        address = server.base_url
        client = Client(
            proxy=address.removesuffix("/api/v1") if way == "proxy" else None, ca_bundle=trusted
        )
        app = BailianApp(
            app_id="app",
            api_key="sk-test",
            base_url="http://host.invalid/api/v1" if way == "proxy" else address,
            max_retries=0,
            client=client,
        )
        texts = calls(app, lambda: moment.wait(server, ends=ends))
        client.close()
        assert texts == ["yours", "yours"]
        assert server.connections == len(server.posts) == 2


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("stray", ["an answer", "half a head"])
def test_an_event_loop_closes_an_idle_connection_on_which_something_arrives(
    stray: str, secure: bool, tls: tuple[ssl.SSLContext, Path]
) -> None:
    moment = Moment(STRAY[stray])
    context, trusted = tls

    async def calls(server: WireServer) -> list[str]:
        async with Client(ca_bundle=trusted) as client:
            app = BailianApp(
                app_id="app", api_key="k", base_url=server.base_url, client=client, max_retries=0
            )
            texts = [(await app.ainvoke("1")).text]
            moment.first_is_read.set()
            assert await asyncio.to_thread(server.all_gone.wait, WAIT_S)
            return [*texts, (await app.ainvoke("2")).text]

    with WireServer(moment.answer, YOURS, tls=context if secure else None) as server:
        assert asyncio.run(calls(server)) == ["yours", "yours"]


@pytest.mark.parametrize("calls", [sync_calls, async_calls])
@pytest.mark.parametrize(
    "stray",
    [ANOTHER, CLOSING, CLOSING[:1], CLOSING[:12], CLOSING[:40], ANOTHER[:60]],
    ids=["an answer", "a 408", "a byte", "a status", "half a 408", "half a head"],
)
@pytest.mark.parametrize("body", [b'{"output":{"text":"yours","finish_reason":"stop"}}', b""])
def test_what_came_with_the_end_of_an_answer_is_not_the_next(
    calls: Calls, body: bytes, stray: bytes
) -> None:
    first = answer("200 OK" if body else "404 Not Found", body)[0]
    assert isinstance(first, bytes)
    with WireServer([first + stray], YOURS) as server:
        app = BailianApp(app_id="app", api_key="k", base_url=server.base_url, max_retries=0)
        assert calls(app, lambda: None) == ["yours" if body else "NotFoundError", "yours"]
        assert server.connections == len(server.posts) == 2


@pytest.mark.parametrize("calls", [sync_calls, async_calls])
def test_headers_after_the_last_chunk_do_not_cost_a_connection(calls: Calls) -> None:
    body = event(frame("yours", "stop"))
    parts: list[Part] = [SSE_HEAD, chunk(body), b"0\r\nX-Time: 1\r\n\r\n"]
    with WireServer(parts, YOURS) as server:
        app = BailianApp(app_id="app", api_key="k", base_url=server.base_url)
        assert calls(app, lambda: None) == ["yours", "yours"]
        assert server.connections == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("calls", [sync_calls, async_calls])
def test_a_session_ticket_of_tls_does_not_cost_a_connection(
    calls: Calls, version: ssl.TLSVersion, tls: tuple[ssl.SSLContext, Path]
) -> None:
    """TLS 1.3 sends tickets after the handshake, which make the socket readable."""
    context, trusted = tls
    context.maximum_version = version
    with Client(ca_bundle=trusted) as client, WireServer(YOURS, YOURS, tls=context) as server:
        app = BailianApp(app_id="app", api_key="k", base_url=server.base_url, client=client)
        assert calls(app, lambda: None) == ["yours", "yours"]
        assert server.connections == 1
    context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED


@contextlib.contextmanager
def speaks_first(parts: list[bytes]) -> Iterator[tuple[int, threading.Event, list[bytes]]]:
    """A server that sends, or closes, as soon as a connection is made."""
    heard: list[bytes] = []
    spoke = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            spoke.set()
            with contextlib.suppress(ConnectionResetError):  # the client did not read it all
                while data := connection.recv(65536):
                    heard.append(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], spoke, heard
        thread.join(WAIT_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("parts", [[ANOTHER], [b"SSH-2.0-x\r\n"], []], ids=["answer", "SSH", "end"])
def test_a_server_that_speaks_before_it_is_asked_is_sent_nothing(
    path: str, parts: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.socket.connect

    with speaks_first(parts) as (port, spoke, heard):

        def until_it_spoke(connecting: socket.socket, address: Any) -> None:
            try:
                connect(connecting, address)
            finally:  # an event loop's socket does not wait
                assert spoke.wait(WAIT_S)

        monkeypatch.setattr(socket.socket, "connect", until_it_spoke)
        app = BailianApp(
            app_id="app", api_key="k", base_url=f"http://127.0.0.1:{port}/api/v1", max_retries=0
        )
        error = PATHS[path](app, "hi").error
    assert type(error) is ConnectError
    assert "before it was asked; nothing was sent" in str(error)
    assert error.request_state == "not_sent"
    assert heard == []


def test_a_socket_that_the_garbage_collector_closed_is_not_used() -> None:
    """A dropped stream may be read to its end while the collector finalizes it and its socket."""
    with WireServer(YOURS, YOURS) as server:
        app = BailianApp(
            app_id="app",
            api_key="sk-test",
            base_url=server.base_url,
            client=Client(),
            max_retries=0,
        )
        assert app.invoke("1").text == "yours"
        port = urlsplit(server.base_url).port
        (idle,) = [
            each
            for each in gc.get_objects()
            if type(each) is socket.socket and each.fileno() >= 0 and leads_to(each, port)
        ]
        idle.close()
        assert app.invoke("2").text == "yours"


def leads_to(connected: socket.socket, port: int | None) -> bool:
    with contextlib.suppress(OSError):  # it is not connected
        return connected.getpeername()[1:2] == (port,)
    return False
