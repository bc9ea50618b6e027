"""Over TLS, with a certificate authority of the test's own: sync and async trust the same."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trustme
from support.paths import PATHS
from support.wire import SSE_HEAD, Do, WireServer, chunk, event, frame, stream

from bailian_apps import BailianApp, ConnectError, ConnectionLostError, StreamInterruptedError

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
def test_a_server_that_nobody_vouches_for_gets_nothing(path: str, tls: ssl.SSLContext) -> None:
    with WireServer(GOOD, tls=tls) as server:
        error = PATHS[path](app_of(server), "hi").error
        assert not server.posts
    assert type(error) is ConnectError
    assert "certificate verify failed" in str(error)


@pytest.mark.usefixtures("_trusted")
def test_break_closes_a_tls_connection(tls: ssl.SSLContext) -> None:
    with WireServer([SSE_HEAD, chunk(event(frame("你好"))), Do.STALL], tls=tls) as server:
        with app_of(server).stream("hi") as events:
            next(events)
        assert server.gone.wait(5)


@pytest.mark.parametrize("path", PATHS)
def test_a_proxy_that_is_not_there_is_said(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_lost_behind_a_proxy_is_not_sent_again(
    path: str, ending: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """urllib3 takes it for an error in reaching the proxy."""
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
def test_certificates_that_are_not_there(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    app = BailianApp(
        app_id="app", api_key="sk-test", base_url="https://127.0.0.1:9/api/v1", max_retries=0
    )
    assert type(PATHS[path](app, "hi").error) is ConnectError


@pytest.mark.parametrize("path", PATHS)
def test_a_socks_proxy_is_refused_before_anything_is_sent(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    app = BailianApp(
        app_id="app", api_key="sk-test", base_url="http://example.invalid/api/v1", max_retries=0
    )
    assert type(PATHS[path](app, "hi").error) is ConnectError


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
def test_certificates_are_asked_for_only_over_tls(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with WireServer(GOOD) as server:
        assert PATHS[path](app_of(server), "hi").text == "你好"


@pytest.mark.parametrize("path", PATHS)
def test_a_file_without_certificates(
    path: str, tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none.pem").write_text("nothing\n")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with WireServer(GOOD, tls=tls) as server:
        assert type(PATHS[path](app_of(server), "hi").error) is ConnectError
        assert not server.posts


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.skipif(shutil.which("openssl") is None, reason="it names the files")
def test_a_folder_of_certificates(
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
@pytest.mark.parametrize("said", [b"", b"SSH-2.0-x\r\n\r\n"], ids=["nothing", "garbage"])
def test_a_proxy_that_ends_before_it_made_the_tunnel_was_sent_nothing(
    path: str, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def serve() -> None:
            connection, _ = proxy.accept()
            with connection:
                connection.recv(65536)  # CONNECT …
                connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        app = BailianApp(
            app_id="app", api_key="sk-test", base_url="https://example.invalid/v1", max_retries=0
        )
        error = PATHS[path](app, "hi").error
        thread.join(5)
    assert type(error) is ConnectError
    assert error.resend == "not_started"


@pytest.mark.parametrize("path", PATHS)
def test_a_host_that_cannot_be_is_sent_nothing(path: str) -> None:
    app = BailianApp(
        app_id="app", api_key="sk-test", base_url=f"http://{'a' * 70}.invalid/v1", max_retries=0
    )
    assert type(PATHS[path](app, "hi").error) is ConnectError
