"""Requests that no program of the user sends: of web pages, for other hosts, and far too long."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import logging
import pickle
import re
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.wire import WireServer, answer, frame

from bailian_apps.emulator import Call, Emulator, Failure, Recorder
from bailian_apps.emulator.page import exchanges
from bailian_apps.emulator.server import endpoint, refusals

PATH = "/api/v1/apps/app/completion"
BODY = json.dumps({"input": {"prompt": "hi"}, "parameters": {}}).encode()


class Servers:
    """An emulator, and a recorder in front of it."""

    def __init__(self, cloud: Emulator, proxy: Recorder, folder: Path) -> None:
        self.cloud = cloud
        self.by_name = {"emulator": cloud, "recorder": proxy}
        self.folder = folder

    def ask(
        self, name: str, target: str, headers: dict[str, str], body: bytes = BODY, **changes: str
    ) -> bytes:
        """Send one request, and return the whole answer."""
        url = urlsplit(self.by_name[name].base_url)
        version, method = changes.get("version", "1.1"), changes.get("method", "POST")
        own = {"Host": url.netloc, "Authorization": "Bearer k", "Connection": "close"}
        fields = {**own, "Content-Length": str(len(body)), **headers}
        lines = [f"{each}: {value}" for each, value in fields.items() if value]
        head = "\r\n".join([f"{method} {target} HTTP/{version}", *lines, "", ""])
        with socket.create_connection((str(url.hostname), int(url.port or 0)), 60) as client:
            client.sendall(head.encode() + body)
            return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    folder = tmp_path / "recordings"
    with (
        Emulator(apps={"app": lambda call: "hello"}) as cloud,
        Recorder(folder, upstream=cloud.base_url) as proxy,
    ):
        yield Servers(cloud, proxy, folder)


@contextmanager
def listening() -> Iterator[tuple[int, list[str]]]:
    """A port that nobody may connect to, and the connections that it got."""
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                connection, address = server.accept()
                with connection:
                    if connection.recv(1) == b"!":
                        return
                    seen.append(str(address))

        thread = threading.Thread(target=accept)
        thread.start()
        port = server.getsockname()[1]
        yield port, seen
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"!")
        thread.join(60)


@pytest.mark.parametrize("name", ["emulator", "recorder"])
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "http://127.0.0.1:{port}" + PATH),
        ("POST", "@127.0.0.1:{port}" + PATH),
        ("GET", ":{port}/x"),
        ("GET", ".evil.example:{port}/x"),
        ("OPTIONS", "*"),
        ("CONNECT", "127.0.0.1:{port}"),
        ("GET", "?a=http://127.0.0.1:{port}/"),
    ],
)
def test_a_target_that_is_not_a_path_reaches_nobody(
    servers: Servers, name: str, method: str, target: str
) -> None:
    with listening() as (port, seen):
        got = servers.ask(name, target.format(port=port), {}, method=method)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"must be a path" in got
    assert (seen, servers.cloud.requests, list(servers.folder.iterdir())) == ([], [], [])


@pytest.mark.parametrize("target", ["//127.0.0.1:1" + PATH, "/@127.0.0.1:1/x", "/\\127.0.0.1:1"])
def test_a_path_that_looks_like_an_address_goes_to_the_upstream(
    servers: Servers, target: str
) -> None:
    got = servers.ask("recorder", target, {})
    assert got.startswith(b"HTTP/1.1 404 ")
    assert b"is not served; POST" in got  # the emulator's own words


FOREIGN = [
    {"Origin": "https://page.example", "Authorization": "", "Content-Type": "text/plain"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1.page.example"},
    {"Origin": "http://192.0.2.1"},
    {"Origin": "http://[::"},
    {"Host": "page.example:8790"},  # its name was made to lead here
    {"Host": "127.0.0.1.page.example"},
    {"Host": "[::"},
    {"Sec-Fetch-Site": "cross-site"},  # an <img>, without an Origin
]


@pytest.mark.parametrize("name", ["emulator", "recorder"])
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_request_of_a_web_page_is_refused(
    servers: Servers, name: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    for method in ("POST", "GET", "OPTIONS"):
        got = servers.ask(name, PATH, headers, method=method)
        assert got.startswith(b"HTTP/1.1 403 ")
    assert servers.cloud.requests == []
    assert list(servers.folder.iterdir()) == []
    assert "refused a request with 403: not available" in caplog.text


@pytest.mark.parametrize("name", ["emulator", "recorder"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "app.localhost:80"},
        {"Host": "[::1]:80"},
        {"Host": "192.0.2.7:8790"},  # a forwarded port; a page cannot fake an address
        {"Host": "host.docker.internal:8790"},
        {"Host": "localhost.localdomain:8790"},
        {"Host": "ip6-localhost."},
        {"Host": "IP6-loopback"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost:5173"},  # a page that is developed on this machine
        {"Origin": "http://[::1]:5173", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Mode": "cors"},  # Node.js
    ],
    ids=str,
)
def test_programs_of_this_machine_are_answered(
    servers: Servers, name: str, headers: dict[str, str]
) -> None:
    assert servers.ask(name, PATH, headers).startswith(b"HTTP/1.1 200 ")
    assert len(servers.cloud.requests) == 1


PROGRAM = {"Host": "localhost:8790"}
OWN = {**PROGRAM, "Origin": "http://localhost:8790"}
PROXIED = {"Host": "127.0.0.1", "Origin": "http://localhost:5173", "Sec-Fetch-Site": "same-origin"}
LOCAL = {**PROGRAM, "Origin": "http://localhost:5173", "Sec-Fetch-Site": "same-site"}
LOCAL_IMAGE = {**PROGRAM, "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}
FOREIGN_IMAGE = {**LOCAL_IMAGE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
LINK = {**FOREIGN_IMAGE, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
FORM = {**LINK, "Origin": "https://page.example"}
FRAME = {**LINK, "Sec-Fetch-Dest": "iframe"}
REBOUND = {**LINK, "Host": "page.example", "Sec-Fetch-Site": "same-origin"}


@pytest.mark.parametrize(
    ("headers", "shows", "changes", "calls"),
    [
        (PROGRAM, True, True, True),
        (OWN, True, True, True),
        ({**OWN, "Sec-Fetch-Site": "same-origin"}, True, True, True),
        ({**PROGRAM, "Sec-Fetch-Site": "none"}, True, True, True),
        (PROXIED, True, True, True),  # a development server that passes requests on
        (LOCAL, True, False, True),
        ({**PROGRAM, "Origin": LOCAL["Origin"]}, True, False, True),  # an old browser
        (LOCAL_IMAGE, True, False, True),
        (LINK, True, False, False),
        (FORM, True, False, False),
        (FRAME, False, False, False),
        (FOREIGN_IMAGE, False, False, False),
        (REBOUND, False, False, False),
    ],
    ids=str,
)
def test_what_a_request_may_do_depends_on_the_page_that_sent_it(
    servers: Servers, headers: dict[str, str], shows: bool, changes: bool, calls: bool
) -> None:
    def allowed(name: str, method: str, target: str) -> bool:
        body = BODY if target == PATH else b""
        status = servers.ask(name, target, headers, body, method=method).split(b" ")[1]
        assert status in (b"200", b"403", b"404")
        return status != b"403"

    assert allowed("emulator", "POST", PATH) == allowed("recorder", "POST", PATH) == calls
    assert len(servers.cloud.requests) == 2 * calls
    assert allowed("emulator", "GET", "/__emulator__/requests") == shows
    assert allowed("recorder", "GET", "/") == calls  # it has nothing to show
    assert allowed("emulator", "DELETE", "/__emulator__/requests") == changes
    assert allowed("emulator", "POST", "/__emulator__/reset") == changes
    assert len(servers.cloud.requests) == 2 * (calls and not changes)


def test_a_page_at_an_address_of_the_network_is_the_servers_own(servers: Servers) -> None:
    own = {"Host": "192.0.2.7:8790", "Origin": "http://192.0.2.7:8790"}
    other = {**own, "Origin": "http://192.0.2.7:5173"}
    for method, target in [("POST", PATH), ("DELETE", "/__emulator__/requests")]:
        assert servers.ask("emulator", target, own, method=method).startswith(b"HTTP/1.1 200 ")
        assert servers.ask("emulator", target, other, method=method).startswith(b"HTTP/1.1 403 ")


def test_further_hosts_can_be_allowed_by_name_or_address(tmp_path: Path) -> None:
    hosts = ["Emulator.test", "192.0.2.1"]
    with (
        Emulator(apps={"app": lambda call: "hello"}, allowed_hosts=hosts) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url, allowed_hosts=hosts) as proxy,
    ):
        servers = Servers(cloud, proxy, tmp_path)
        for name in servers.by_name:
            for own in (
                {"Host": "emulator.TEST:8790"},
                {"Host": "emulator.test", "Origin": "https://emulator.test"},
                {"Origin": "https://emulator.test:444"},
                {"Origin": "http://192.0.2.1:5173"},
            ):
                assert servers.ask(name, PATH, own).startswith(b"HTTP/1.1 200 ")
            for foreign in (
                {"Host": "my.emulator.test"},
                {"Origin": "http://192.0.2.2:5173"},
                {"Host": "emulator.test", "Origin": "null"},
            ):
                assert servers.ask(name, PATH, foreign).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("name", ["emulator", "recorder"])
@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({"Host": "emulator.test:80"}, "at the host 'emulator.test:80': use localhost or an IP"),
        ({"Host": "caf\u00e9"}, r"'caf\xc3\xa9'"),
        ({"Host": "h" * 500}, f"'{'h' * 60}...'"),
        ({"Origin": "https://emulator.test"}, "web pages of the Origin 'https://emulator.test'"),
        ({"Origin": "o" * 500}, f"'{'o' * 60}...'"),
    ],
)
def test_a_refusal_quotes_the_host_and_names_the_setting(
    servers: Servers, name: str, headers: dict[str, str], shown: str
) -> None:
    got = servers.ask(name, PATH, headers)
    message = json.loads(got.partition(b"\r\n\r\n")[2])["message"]
    assert shown in message
    assert "allowed_hosts=[…] (serve and record: --allow-host)" in message
    assert message.isprintable()
    assert len(message) < 250


@pytest.mark.parametrize("host", ["http://a", "a:80", "a/b", "*.a", "", "a b", "[::1]", "应用"])
def test_what_is_no_host_name_cannot_be_allowed(host: str, tmp_path: Path) -> None:
    for make in (lambda **kw: Emulator({}, **kw), lambda **kw: Recorder(tmp_path, **kw)):
        with pytest.raises(ValueError, match=r"allowed_hosts\[1\] must be a host name or an IP"):
            make(allowed_hosts=["fd00::1", host])
        with pytest.raises(TypeError, match="must be a list of host names, not one str"):
            make(allowed_hosts="emulator.test")


def test_a_client_of_http_1_0_needs_no_host(servers: Servers) -> None:
    got = servers.ask("emulator", PATH, {"Host": ""}, version="1.0")
    assert b" 200 " in got.splitlines()[0]


def test_the_name_to_listen_on_is_a_host_name_of_the_server() -> None:
    name = socket.gethostname()
    try:
        cloud = Emulator(apps={"app": lambda call: "hello"}, host=name)
        cloud.start()
    except OSError:
        pytest.skip("this machine has no address for its own name")
    with contextlib.ExitStack() as stack:
        stack.callback(cloud.stop)
        url = urlsplit(cloud.base_url)
        with socket.create_connection((str(url.hostname), int(url.port or 0)), 60) as client:
            head = f"GET /api/v1 HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n"
            client.sendall(head.encode())
            assert client.recv(65536).startswith(b"HTTP/1.1 404 ")


# ---------------------------------------------------------------------- deep and long bodies

DEEP = b'{"input":{"prompt":"hi","biz_params":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}}"


@pytest.mark.parametrize("name", ["emulator", "recorder"])
def test_a_deep_body_is_refused_with_the_reason(servers: Servers, name: str) -> None:
    got = servers.ask(name, PATH, {}, DEEP)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"128 levels deep" in got
    assert list(servers.folder.iterdir()) == []
    assert len(servers.cloud.requests) == (name == "emulator")


@pytest.mark.parametrize("name", ["emulator", "recorder"])
def test_a_body_that_is_too_long_is_refused_and_not_kept(
    servers: Servers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusals.MAX_BODY_BYTES == 128 * 1024**2
    monkeypatch.setattr(refusals, "MAX_BODY_BYTES", 100_000)
    got = servers.ask(name, PATH, {}, BODY.ljust(1_000_000))
    assert got.startswith(b"HTTP/1.1 413 ")
    assert b"the request body has more than" in got
    assert servers.cloud.requests == []
    assert servers.ask(name, PATH, {}, BODY.ljust(100_000)).startswith(b"HTTP/1.1 200 ")


def test_kept_requests_and_sessions_have_a_bounded_size(
    post: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "KEPT_BYTES", 14_000)
    monkeypatch.setattr("bailian_apps.emulator.sessions.MAX_CHARS", 13_000)
    with Emulator(apps={"app": lambda call: "hello"}) as cloud:
        for index in range(8):
            post(cloud, prompt=f"{index}".ljust(3000))
        assert [each.prompt.strip() for each in cloud.requests] == ["5", "6", "7"]
        turns = [session.turns[0].user.strip() for session in cloud.sessions.values()]
        assert turns == ["5", "6", "7"]
        post(cloud, prompt="x" * 20_000)
        assert [each.prompt[0] for each in cloud.requests] == ["x"]  # the newest is always kept
        assert len(cloud.sessions) == 1
        cloud.requests.clear()
        cloud.forget()
        for index in range(3):
            post(cloud, prompt=f"{index}".ljust(3000))
        assert len(cloud.requests) == len(cloud.sessions) == 3


@pytest.mark.parametrize("part", ["body", "headers", "many headers"])
def test_what_is_kept_of_requests_takes_little_more_memory_than_their_bytes(
    part: str, post: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {
        "body": {"biz_params": {"a": [{}] * 8_000}},
        "headers": {"headers": {"X-Long": "x" * 30_000}},
        "many headers": {"headers": {f"X{n}": "" for n in range(400)}},
    }[part]
    limit = 200_000
    for keeper in (endpoint, exchanges):
        monkeypatch.setattr(keeper, "KEPT_BYTES", limit)
    with Emulator(apps={"app": lambda call: "hello"}) as cloud:
        post(cloud, **fields)  # imports and caches are not counted
        cloud.reset()
        tracemalloc.start()
        try:
            for _ in range(20):
                assert post(cloud, **fields).status == 200
            cloud.stop()  # so that no request is being answered
            gc.collect()
            kept = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert 1 < len(cloud.requests) < 20
        assert limit / 2 < kept < 2 * limit
        if part == "body":
            assert cloud.requests[-1].biz_params == {"a": [{}] * 8_000}
        assert cloud.requests[0] == replace(cloud.requests[0])


def test_json_texts_inside_of_json_texts_can_be_shown(post: Callable[..., Any]) -> None:
    inner = json.dumps({"token": "s-1"})
    for _ in range(8):
        inner = json.dumps({"a": inner})
    for _ in range(90):
        inner = "[" + inner + "]"
    text = inner
    for _ in range(3):
        text = "[" * 95 + json.dumps(text) + "]" * 95
    with Emulator(apps={"app": lambda call: "hello"}) as cloud:
        assert post(cloud, biz_params={"a": text}).status == 200
        assert "s-1" not in repr(cloud.requests)


def test_a_deep_or_endless_number_in_an_answer_is_recorded_as_it_is(tmp_path: Path) -> None:
    usual = json.dumps(frame("hi", "stop"))
    odd = [usual[:-1] + f', "odd": {value}}}' for value in ("NaN", "1e999", "[" * 900 + "]" * 900)]
    with (
        WireServer(*(answer("200 OK", each.encode()) for each in odd)) as server,
        Recorder(tmp_path, upstream=server.base_url) as proxy,
    ):
        servers = Servers(Emulator(apps={}), proxy, tmp_path)
        for each in odd:
            assert servers.ask("recorder", PATH, {}).endswith(each.encode())
    assert len(proxy.recordings) == 3
    for path, each in zip(proxy.recordings, odd, strict=True):
        with Emulator(apps={"app": path}) as cloud:
            again = Servers(cloud, proxy, tmp_path).ask("emulator", PATH, {})
        assert again.endswith(each.encode())


def test_an_answer_that_is_too_long_is_relayed_but_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bailian_apps.emulator.recorder.exchange.MAX_ANSWER_BYTES", 100_000)
    body = json.dumps(frame("x" * 500_000, "stop")).encode()
    with (
        WireServer(answer("200 OK", body)) as server,
        Recorder(tmp_path, upstream=server.base_url) as proxy,
    ):
        assert Servers(Emulator(apps={}), proxy, tmp_path).ask("recorder", PATH, {}).endswith(body)
    assert list(tmp_path.iterdir()) == []
    assert "is not recorded: its answer has more than" in caplog.text


# -------------------------------------------------------------------------------- the log


def failing(call: Call) -> Iterator[Any]:
    yield frame("a")
    raise Failure(status=429, code="Throttling")


@pytest.mark.parametrize(
    ("fault", "stream", "logged"),
    [
        (None, True, "app  stream  200  ms  error event 429"),
        (None, False, "app  json  429  ms"),
        ("throttled", False, "app  json  429  ms  fault throttled"),
        ("http_500_cut", False, "app  json  500  ms  fault http_500_cut  cut off"),
        ("garbage", True, "app  stream  -  ms  fault garbage"),
        ("throttled_event", True, "app  stream  200  ms  error event 429  fault throttled_event"),
        ("close_between_frames", True, "app  stream  200  ms  fault close_between_frames  cut off"),
        ("reset_before_headers", True, "app  stream  -  ms  fault reset_before_headers  cut off"),
        ("done_marker", True, "app  stream  200  ms  error event 429  fault done_marker"),
        ("json_instead_of_stream", True, "app  stream  429  ms  fault json_instead_of_stream"),
    ],
)
def test_the_log_has_the_status_and_the_fault(
    fault: str | None, stream: bool, logged: str, post: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bailian_apps.emulator")
    with Emulator(apps={"app": failing}) as cloud:
        if fault:
            cloud.fail(fault)
        with contextlib.suppress(OSError, http.client.HTTPException):
            post(cloud, stream=stream)
    (line,) = [each for each in caplog.messages if each.startswith("app  ")]
    assert re.sub(r"\d+ ms", "ms", line) == logged


def test_a_record_of_the_log_can_be_stored_and_has_no_prompt(
    post: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "bailian_apps.emulator")
    with Emulator(apps={"app": failing}) as cloud:
        post(cloud, prompt="private-words", stream=True)
    (record,) = [each for each in caplog.records if each.getMessage().startswith("app  ")]
    assert pickle.loads(pickle.dumps(record)).getMessage() == record.getMessage()
    assert {type(value) for value in record.__dict__.values()} <= {
        str, int, float, tuple, type(None)
    }  # fmt: skip
    assert "private-words" not in repr(record.__dict__)
