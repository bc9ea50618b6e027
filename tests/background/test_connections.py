"""Submitting over TLS, through proxies, and to servers that answer with something else."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
import trustme
from support.wire import Do, WireServer, answer

from bailian_apps import (
    BackgroundRun,
    BailianApp,
    BailianError,
    Client,
    ConnectError,
    ConnectionLostError,
    ProtocolError,
    RequestTimeoutError,
    ServerError,
    Timeout,
)

QUEUED = answer("200 OK", json.dumps({"id": "resp_1", "status": "queued"}).encode())
ABROAD = "http://example.invalid/api/v1"
Way = Callable[[BailianApp], BackgroundRun]
WAYS: dict[str, Way] = {
    "sync": lambda app: app.submit("hi"),
    "async": lambda app: asyncio.run(app.asubmit("hi")),
}


@pytest.fixture(params=WAYS)
def submit(request: Any) -> Way:
    return WAYS[request.param]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def app_at(base_url: str, **fields: Any) -> BailianApp:
    return BailianApp(app_id="app", api_key="sk-test", base_url=base_url, max_retries=0, **fields)


def error_of(submit: Way, app: BailianApp) -> BailianError:
    with pytest.raises(BailianError) as raised:
        submit(app)
    assert "sk-test" not in repr(raised.value.__dict__)
    assert raised.value.__cause__ is None
    return raised.value


def test_a_bundle_of_certificates_is_trusted_and_nothing_else(
    submit: Way, authority: trustme.CA, tls: ssl.SSLContext, tmp_path: Path, monkeypatch: Any
) -> None:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with WireServer(QUEUED, tls=tls) as server:
        error = error_of(submit, app_at(server.base_url))
        assert not server.posts
        assert type(error) is ConnectError
        assert "certificate verify failed" in str(error)
    with WireServer(QUEUED, QUEUED, tls=tls) as server:
        client = Client(ca_bundle=bundle)
        assert submit(app_at(server.base_url, client=client)).status == "queued"
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        assert submit(app_at(server.base_url)).status == "queued"


def test_a_proxy_of_the_client_or_of_the_environment_is_used(submit: Way, monkeypatch: Any) -> None:
    with WireServer(QUEUED, QUEUED) as proxy:
        address = proxy.base_url.removesuffix("/api/v1")
        assert submit(app_at(ABROAD, client=Client(proxy=address))).id == "resp_1"
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert submit(app_at(ABROAD)).id == "resp_1"
        path = b"POST http://example.invalid/api/v2/apps/agent/app/compatible-mode/v1/responses "
        assert all(head.startswith(path) for head in proxy.heads)


@pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:9", "socks5://u:pa55@127.0.0.1:9"])
def test_a_proxy_that_the_openai_client_cannot_use_is_refused(submit: Way, proxy: str) -> None:
    error = error_of(submit, app_at(ABROAD, client=Client(proxy=proxy)))
    assert type(error) is ConnectError
    assert error.request_state == "not_sent"
    assert "pa55" not in str(error)


@pytest.mark.parametrize(
    ("scripted", "kind"),
    [
        ([Do.CLOSE], ConnectionLostError),
        ([Do.RESET], ConnectionLostError),
        ([b"SSH-2.0-x\r\n\r\n"], ProtocolError),
        (answer("200 OK", b"<html>", "text/html"), ProtocolError),
        (answer("200 OK", b"{}"), ProtocolError),
        (answer("200 OK", b'{"code": "InternalError", "message": "m"}'), ServerError),
        (answer("502 Bad Gateway", b"<html>", "text/html"), ServerError),
        (answer("302 Found", b"", "text/html", "Location: http://127.0.0.1:1/"), ProtocolError),
    ],
)
def test_a_failure_of_the_wire_is_typed_and_sent_once(
    submit: Way, scripted: Any, kind: type[BailianError]
) -> None:
    with WireServer(scripted, QUEUED) as server:
        error = error_of(submit, app_at(server.base_url))
        assert len(server.posts) == 1
    assert type(error) is kind
    assert not error.is_retryable


@pytest.mark.parametrize(
    "described",
    [{"id": "run/1=", "status": "queued"}, {"id": "run/1="}, {"id": "run/1=", "status": 1}],
)
def test_the_id_of_a_submitted_run_is_never_lost(submit: Way, described: dict[str, Any]) -> None:
    with WireServer(answer("200 OK", json.dumps(described).encode()), QUEUED) as server:
        error = error_of(submit, app_at(server.base_url))
        assert len(server.posts) == 1
    assert type(error) is ProtocolError
    assert (error.run_id, error.request_state) == ("run/1=", "unknown")
    assert "run/1=" in str(error)


def test_a_submission_that_a_replaced_sdk_cannot_see_is_refused(submit: Way) -> None:
    app = app_at("https://example.invalid/api/v1")
    with mock.patch("dashscope.Application.call"):
        error = error_of(submit, app)
    assert "a test has replaced dashscope.Application.call" in str(error)
    assert error.request_state == "not_sent"


def test_a_double_of_httpx_sees_a_submission() -> None:
    body = {"id": "resp_1", "status": "queued"}
    answered = httpx.Response(200, json=body, request=httpx.Request("POST", ABROAD))
    with mock.patch("httpx.HTTPTransport.handle_request", return_value=answered) as seen:
        assert app_at(ABROAD).submit("hi").id == "resp_1"
    assert seen.call_count == 1


@pytest.mark.process
def test_the_first_submission_imports_nothing_in_the_loop() -> None:
    code = (
        "import sys\n"
        "from bailian_apps.transport.responses_api import load_openai\n"
        "load_openai()\n"
        "print('openai.resources.responses.responses' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_server_that_says_nothing_is_waited_for_as_long_as_timeout_allows(submit: Way) -> None:
    with WireServer([Do.STALL]) as server:
        error = error_of(submit, app_at(server.base_url, timeout=Timeout(first_frame_s=0.1)))
    assert type(error) is RequestTimeoutError
    assert not error.is_retryable


async def test_a_server_that_drips_its_answer_does_not_prolong_the_wait() -> None:
    drops = itertools.chain.from_iterable((b" ", Do.PAUSE) for _ in itertools.count())
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
    with WireServer(itertools.chain([head], drops)) as server:
        app = app_at(server.base_url, timeout=Timeout(total_s=0.2))
        with pytest.raises(RequestTimeoutError) as raised:
            await asyncio.wait_for(app.asubmit("hi"), 30)
    assert raised.value.request_state == "unknown"
    assert raised.value.__cause__ is None
