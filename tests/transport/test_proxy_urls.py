"""URLs of proxies and certificates: how they may be written."""

from __future__ import annotations

from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest
import trustme
import urllib3
from support.paths import PATHS
from support.wire import WireServer, event, frame, stream
from urllib3.contrib.socks import SOCKSProxyManager

from bailian_apps import BailianApp, Client, ConnectError, InvalidInputError
from bailian_apps.transport.environment import Environment, proxy_url, uses_tls
from bailian_apps.transport.sync_pool import SyncConnections

GOOD = stream(event(frame("你好", "stop")))


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("HTTP://Host:80", "http://Host:80"),
        ("SOCKS5h://me:p%40ss@host:1080", "socks5h://me:p%40ss@host:1080"),
        ("ftp://host", None),
        ("http://", None),
        ("http://host:0", None),
        ("http://host:99999", None),
        ("http://[::bad", None),
    ],
)
def test_a_proxy_is_a_url_with_a_scheme_in_lower_case(value: str, url: str | None) -> None:
    assert proxy_url(value) == url


def test_tls_is_used_to_a_url_or_to_a_proxy() -> None:
    assert uses_tls("https://host/", None)
    assert uses_tls("http://host/", "https://proxy")
    assert not uses_tls("http://host/", "http://proxy")
    assert not uses_tls("http://host/", None)


@pytest.mark.parametrize("path", PATHS)
def test_an_address_in_upper_case_uses_the_certificates_that_are_named(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = trustme.CA(), SSLContext(PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with WireServer(GOOD, tls=context) as server:
        base_url = server.base_url.replace("https:", "HTTPS:")
        app = BailianApp(app_id="app", api_key="k", base_url=base_url)
        assert PATHS[path](app, "hi").text == "你好"


def test_an_address_with_a_fragment_or_a_space_is_refused() -> None:
    for base_url in ("http://host/api/v1#x", "http://ho st/api/v1"):
        with pytest.raises(InvalidInputError, match="base_url is not an http"):
            BailianApp(app_id="app", api_key="k", base_url=base_url)


def test_the_name_and_password_of_a_socks_proxy_are_decoded() -> None:
    connections = SyncConnections(Environment("socks5://us%40er:p%3Aw%40d@127.0.0.1:9"), 1)
    manager = connections._manager("http://example.invalid/")
    assert isinstance(manager, SOCKSProxyManager)
    options: Any = manager.connection_pool_kw["_socks_options"]
    assert (options["username"], options["password"]) == ("us@er", "p:w@d")


def test_managers_are_made_once_for_a_proxy_and_certificates() -> None:
    connections = SyncConnections(Environment(), 1)
    plain = connections._manager("http://example.invalid/")
    assert connections._manager("http://example.invalid/other") is plain
    secure = connections._manager("https://example.invalid/")
    assert secure is not plain
    assert isinstance(secure, urllib3.PoolManager)


@pytest.mark.parametrize("path", PATHS)
def test_a_proxy_that_does_not_answer_is_not_attributed_to_the_environment(path: str) -> None:
    client = Client(proxy="http://127.0.0.1:9")
    app = BailianApp(
        app_id="app",
        api_key="k",
        base_url="http://example.invalid/v1",
        client=client,
        max_retries=0,
    )
    error = PATHS[path](app, "hi").error
    assert isinstance(error, ConnectError)
    assert "through a proxy: Connection refused" in str(error)
