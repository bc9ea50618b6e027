"""Calls over TLS, with a certificate authority of the test, and through proxies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias, cast

import pytest
import trustme
from support.paths import PATHS
from support.wire import SSE_HEAD, WAIT_S, Do, WireServer, chunk, event, frame, stream

from bailian_apps import (
    BailianApp,
    ConnectError,
    ConnectionLostError,
    RequestTimeoutError,
    StreamInterruptedError,
    TextDelta,
    Timeout,
)

# Python 3.10's own TLS transport warns when it is reset, even of a connection that was closed.
_PYTHON_310 = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning" if sys.version_info < (3, 11) else "error"
)

GOOD = stream(event(frame("你好")), event(frame("", "stop")))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def _trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))


def app_of(server: WireServer) -> BailianApp:
    return BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url, max_retries=0)


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("path", PATHS)
def test_a_trusted_server_answers(path: str, tls: ssl.SSLContext) -> None:
    with WireServer(GOOD, tls=tls) as server:
        assert PATHS[path](app_of(server), "hi").text == "你好"


@_PYTHON_310
@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("path", PATHS)
def test_a_connection_that_is_lost_is_an_interrupted_stream(path: str, tls: ssl.SSLContext) -> None:
    with WireServer([SSE_HEAD, chunk(event(frame("你好"))), Do.CLOSE], tls=tls) as server:
        error = PATHS[path](app_of(server), "hi").error
    assert isinstance(error, StreamInterruptedError)
    assert error.partial is not None
    assert error.partial.text == "你好"


@pytest.mark.parametrize("path", PATHS)
def test_a_server_with_an_untrusted_certificate_is_sent_nothing(
    path: str, tls: ssl.SSLContext
) -> None:
    with WireServer(GOOD, tls=tls) as server:
        error = PATHS[path](app_of(server), "hi").error
        assert not server.posts
    assert type(error) is ConnectError
    assert "certificate verify failed" in str(error)
    assert error.permanent  # a second attempt finds the same certificate


@pytest.mark.usefixtures("_trusted")
def test_break_closes_a_tls_connection(tls: ssl.SSLContext) -> None:
    with WireServer([SSE_HEAD, chunk(event(frame("你好"))), Do.STALL], tls=tls) as server:
        with app_of(server).stream("hi") as events:
            next(events)
        assert server.gone.wait(WAIT_S)


@pytest.mark.usefixtures("_trusted")
def test_an_async_stream_that_is_left_over_tls_logs_nothing(
    tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave(app: BailianApp) -> None:
        stream = app.astream("hi")
        async for _ in stream:
            break
        await stream.aclose()

    caplog.set_level("DEBUG", "asyncio")
    with WireServer([SSE_HEAD, chunk(event(frame("你好"))), Do.STALL], tls=tls) as server:
        asyncio.run(leave(app_of(server)), debug=True)
        assert server.gone.wait(WAIT_S)
    assert not any("rror" in message for message in caplog.messages)


@pytest.mark.parametrize("path", PATHS)
def test_a_proxy_that_refuses_connections_is_named(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    app = BailianApp(
        app_id="app", api_key="sk-test", base_url="http://example.invalid/api/v1", max_retries=0
    )
    error = PATHS[path](app, "hi").error
    assert type(error) is ConnectError
    assert "Connection refused" in str(error)
    assert "proxy" in str(error)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ending", [Do.RESET, Do.CLOSE])
def test_a_request_lost_behind_a_proxy_is_not_sent_again(
    path: str, ending: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """urllib3 reports it as an error in reaching the proxy."""
    with WireServer([ending], GOOD) as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/api/v1"))
        app = BailianApp(app_id="app", api_key="sk-test", base_url="http://example.invalid/api/v1")
        error = PATHS[path](app, "hi").error
        assert len(proxy.posts) == 1
    assert type(error) is ConnectionLostError
    assert error.attempts == 1


@pytest.mark.parametrize("path", PATHS)
def test_a_handshake_that_fails_sent_nothing(path: str) -> None:
    with WireServer(GOOD) as server:  # speaks no TLS
        app = BailianApp(
            app_id="app",
            api_key="sk-test",
            base_url=server.base_url.replace("http:", "https:"),
            max_retries=0,
            timeout=0.3,
        )
        error = PATHS[path](app, "hi").error
    assert type(error) is ConnectError
    assert "connect_s=0.3" in str(error)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem", "REQUESTS_CA_BUNDLE names certificates"),
        ("CURL_CA_BUNDLE", "/nowhere/ca.pem", "CURL_CA_BUNDLE names certificates"),
        ("https_proxy", "http://[::bad", "http://127.0.0.1:8080"),
        ("https_proxy", "127.0.0.1:99999", "http://127.0.0.1:8080"),
        ("https_proxy", "ftp://user:pa55@127.0.0.1:9", "http://127.0.0.1:8080"),
    ],
)
def test_a_wrong_setting_in_the_environment_is_named_at_once(
    path: str, variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)  # it comes first
    monkeypatch.setenv(variable, value)
    app = BailianApp(app_id="app", api_key="sk-test", base_url="https://example.invalid/v1")
    error = PATHS[path](app, "hi").error
    assert type(error) is ConnectError
    assert message in str(error)
    assert "nothing was sent" in str(error)
    assert "pa55" not in str(error)
    assert error.attempts == 1


@pytest.mark.parametrize("path", PATHS)
def test_a_proxy_without_a_scheme_is_an_http_proxy(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WireServer(GOOD) as proxy:
        address = proxy.base_url.removesuffix("/api/v1").removeprefix("http://")
        monkeypatch.setenv("http_proxy", address)
        app = BailianApp(app_id="app", api_key="sk-test", base_url="http://example.invalid/api/v1")
        assert PATHS[path](app, "hi").text == "你好"


@pytest.mark.parametrize("path", PATHS)
def test_a_proxy_from_the_environment_is_used(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with WireServer(GOOD) as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/api/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        app = BailianApp(app_id="app", api_key="sk-test", base_url="http://example.invalid/api/v1")
        assert PATHS[path](app, "hi").text == "你好"
        assert proxy.heads[0].startswith(b"POST http://example.invalid/api/v1/apps/app/completion ")


@pytest.mark.parametrize("path", PATHS)
def test_certificates_are_needed_only_for_tls(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with WireServer(GOOD) as server:
        assert PATHS[path](app_of(server), "hi").text == "你好"


@pytest.mark.parametrize("path", PATHS)
def test_a_file_without_certificates_trusts_no_server(
    path: str, tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none.pem").write_text("nothing\n")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with WireServer(GOOD, tls=tls) as server:
        error = PATHS[path](app_of(server), "hi").error
        assert type(error) is ConnectError
        assert "not certificates in PEM form; nothing was sent" in str(error)
        assert error.attempts == 1
        assert not server.posts


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl names the files")
def test_a_folder_of_certificates_is_trusted(
    path: str,
    authority: trustme.CA,
    tls: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    with WireServer(GOOD, tls=tls) as server:
        assert PATHS[path](app_of(server), "hi").text == "你好"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("response", "message"),
    [
        (b"", ""),
        (b"SSH-2.0-x\r\n\r\n", ""),
        (b"HTTP/1.1 407 Log In\r\nContent-Length: 0\r\n\r\n", "407"),
    ],
    ids=["nothing", "garbage", "407"],
)
def test_a_proxy_that_makes_no_tunnel_is_sent_nothing(
    path: str, response: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def serve() -> None:
            connection, _ = proxy.accept()
            with connection:
                connection.recv(65536)  # CONNECT …
                connection.sendall(response)

        thread = threading.Thread(target=serve)
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        app = BailianApp(
            app_id="app", api_key="sk-test", base_url="https://example.invalid/v1", max_retries=0
        )
        error = PATHS[path](app, "hi").error
        thread.join(WAIT_S)
    assert type(error) is ConnectError
    assert error.request_state == "not_sent"
    assert message in str(error)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _join(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
) -> None:
    there, back = await asyncio.open_connection(host, port)
    await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    host, port = head.split()[1].decode().split(":")
    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
    await _join(reader, writer, host, int(port))


async def _socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """SOCKS 5 without authentication, to an IPv4 address (RFC 1928)."""
    _, methods = await reader.readexactly(2)
    await reader.readexactly(methods)
    writer.write(b"\x05\x00")
    *_, kind = await reader.readexactly(4)
    assert kind == 1
    host = socket.inet_ntoa(await reader.readexactly(4))
    port = int.from_bytes(await reader.readexactly(2), "big")
    writer.write(b"\x05\x00\x00\x01" + bytes(6))
    await _join(reader, writer, host, port)


Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.contextmanager
def proxy(handler: Handler, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A proxy on a port of its own."""
    listening: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = queue.Queue()

    async def serve() -> None:
        over = asyncio.Event()
        open_: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = cast("asyncio.Task[None]", asyncio.current_task())
            open_[task] = writer
            try:
                await handler(reader, writer)
            finally:
                writer.close()
                del open_[task]

        async with await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls) as server:
            port = server.sockets[0].getsockname()[1]
            listening.put((asyncio.get_running_loop(), over, port))
            await over.wait()
            for writer in open_.values():
                writer.transport.abort()
            await asyncio.gather(*open_, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, over, port = listening.get(timeout=WAIT_S)
    yield port
    loop.call_soon_threadsafe(over.set)
    thread.join(WAIT_S)
    assert not thread.is_alive()


@pytest.fixture
def _tls_proxy(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with proxy(_tunnel, tls) as port:
        monkeypatch.setenv("https_proxy", f"https://127.0.0.1:{port}")
        yield


@pytest.fixture
def _socks_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with proxy(_socks) as port:
        monkeypatch.setenv("all_proxy", f"socks5://127.0.0.1:{port}")
        yield


@_PYTHON_310
@pytest.mark.usefixtures("_trusted", "_tls_proxy")
@pytest.mark.parametrize("path", PATHS)
def test_tls_inside_tls_is_read(path: str, tls: ssl.SSLContext) -> None:
    with WireServer(GOOD, tls=tls) as server:
        seen = PATHS[path](app_of(server), "hi")
    if path.startswith("a") and sys.version_info < (3, 11):  # asyncio cannot
        assert isinstance(seen.error, ConnectError)
        assert "on Python 3.10 async calls cannot use an https:// proxy" in str(seen.error)
    else:
        assert seen.text == "你好"


@pytest.mark.usefixtures("_trusted", "_tls_proxy")
def test_tls_inside_tls_is_closed_from_another_thread(tls: ssl.SSLContext) -> None:
    with WireServer([SSE_HEAD, chunk(event(frame("你好"))), Do.STALL], tls=tls) as server:
        stream_ = app_of(server).stream("hi")
        next(each for each in stream_ if isinstance(each, TextDelta))
        threading.Thread(target=stream_.close).start()
        with contextlib.suppress(StreamInterruptedError):  # it may close before the read begins
            list(stream_)
        assert server.gone.wait(WAIT_S)


@pytest.mark.usefixtures("_trusted", "_socks_proxy")
@pytest.mark.parametrize("path", ["invoke", "stream"])
def test_a_sync_call_through_a_socks_proxy(path: str, tls: ssl.SSLContext) -> None:
    with WireServer(GOOD, tls=tls) as server:
        assert PATHS[path](app_of(server), "hi").text == "你好"


@pytest.mark.parametrize("path", ["ainvoke", "astream"])
def test_an_async_call_refuses_a_socks_proxy(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    app = BailianApp(app_id="app", api_key="sk-test", base_url="https://example.invalid/v1")
    error = PATHS[path](app, "hi").error
    assert type(error) is ConnectError
    assert "call synchronously" in str(error)
    assert error.attempts == 1


@pytest.mark.process
def test_a_socks_proxy_without_pysocks_is_an_error() -> None:
    script = """
import sys
sys.modules["socks"] = None
from bailian_apps import BailianApp, ConnectError
try:
    BailianApp(app_id="app", api_key="sk-test", base_url="http://example.invalid/v1").invoke("hi")
except ConnectError as error:
    print(error)
"""
    environment = {**os.environ, "all_proxy": "socks5://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert "PySocks must be installed; nothing was sent" in done.stdout


@pytest.mark.usefixtures("_socks_proxy")
def test_a_stream_through_a_socks_proxy_is_closed_from_another_thread() -> None:
    with WireServer([SSE_HEAD, chunk(event(frame("你好"))), Do.STALL]) as server:
        stream_ = app_of(server).stream("hi")
        next(each for each in stream_ if isinstance(each, TextDelta))
        threading.Thread(target=stream_.close).start()
        with contextlib.suppress(StreamInterruptedError):  # it may close before the read begins
            list(stream_)
        assert server.gone.wait(WAIT_S)


@pytest.mark.usefixtures("_trusted", "_tls_proxy")
@pytest.mark.parametrize("path", ["invoke", "stream"])
def test_silence_inside_tls_inside_tls_times_out(path: str, tls: ssl.SSLContext) -> None:
    with WireServer([SSE_HEAD, chunk(event(frame("你好"))), Do.STALL], tls=tls) as server:
        app = BailianApp(
            app_id="app",
            api_key="sk-test",
            base_url=server.base_url,
            timeout=Timeout(connect_s=300, first_frame_s=300, between_frames_s=0.2),
        )
        error = PATHS[path](app, "hi").error
        assert type(error) is RequestTimeoutError
        assert server.gone.wait(WAIT_S)
