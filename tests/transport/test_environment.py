"""Addresses, proxies and certificates, as the environment names them."""

from __future__ import annotations

import socket
from typing import Any

import certifi
import pytest
from support.paths import PATHS
from support.wire import WireServer, event, frame, stream

from bailian_apps import BailianApp, ConnectError
from bailian_apps.transport.environment import Environment


@pytest.mark.parametrize("path", PATHS)
def test_a_host_in_no_proxy_is_called_directly(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with WireServer(stream(event(frame("你好", "stop")))) as server:
        app = BailianApp(app_id="app", api_key="k", base_url=server.base_url, max_retries=0)
        assert PATHS[path](app, "hi").text == "你好"


@pytest.mark.parametrize("path", PATHS)
def test_a_host_without_an_address_is_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    app = BailianApp(app_id="app", api_key="k", base_url="http://api.invalid/api/v1", max_retries=0)
    error = PATHS[path](app, "hi").error
    assert type(error) is ConnectError
    assert error.request_state == "not_sent"
    assert "could not connect to api.invalid" in str(error)


def test_certificates_are_certifis_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    assert Environment().certificates() == certifi.where()
    assert Environment(ca_bundle=certifi.where()).certificates() == certifi.where()
