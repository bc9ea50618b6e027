"""Answers that only a byte-exact server can give, and which failures are sent again.

On all four ways to call an app: the exact error, the text delivered before it, and how many
requests were sent. What the emulator can inject is tested in tests/emulator/test_faults.py.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import socket
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from support.paths import PATHS, STREAMING
from support.wire import (
    END,
    SSE_HEAD,
    Answer,
    Do,
    Part,
    WireServer,
    answer,
    chunk,
    event,
    frame,
    stream,
)

from bailian_apps import (
    AppFailedError,
    BadRequestError,
    BailianApp,
    BailianError,
    BillingError,
    ConnectError,
    ConnectionLostError,
    InvalidInputError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ServiceUnavailableError,
    StreamInterruptedError,
    Timeout,
    UnknownFrame,
)
from bailian_apps.transport.http_answer import connect_error, connection_lost_error, read_answer

HELLO, BYE, STOP = event(frame("你好")), event(frame("。")), event(frame("", "stop"))
GOOD = stream(HELLO, BYE, STOP)
IDEMPOTENT = {"idempotent": True}
FAILED_APP = {"code": "AppProcessFailed", "message": "node X", "request_id": "r-1"}


def failure(status: str, code: str, *headers: str) -> Answer:
    """An error of the cloud, as JSON."""
    body = f'{{"code":"{code}","message":"no","request_id":"r-1"}}'
    return answer(status, body.encode(), "application/json", *headers)


def failure_as_stream(status: str, code: str, before: bytes = b"") -> Answer:
    """An error with an HTTP status of its own, written as the event stream that was asked for."""
    error = event({"code": code, "message": "no", "request_id": "r-1"}, name="error", status=400)
    return answer(status, before + error, "text/event-stream;charset=UTF-8")


def broken(*parts: Part) -> Answer:
    """A stream that fails after its first frame and these parts."""
    return [SSE_HEAD, chunk(HELLO), *parts]


THROTTLED = failure("429 Too Many Requests", "Throttling.RateQuota", "Retry-After: 0")
UNAVAILABLE = failure("503 Service Unavailable", "ModelUnavailable", "Retry-After: 0")
INTERNAL = failure("500 Internal Server Error", "InternalError")
THROTTLED_EVENT = event({"code": "Throttling", "request_id": "r-1"}, name="error", status=429)


@dataclass(frozen=True)
class Fault:
    """What the server answers, request by request, and what the caller must get."""

    name: str
    answers: list[Answer]
    error: type[BailianError] | None = None
    text: str = ""
    posts: int = 1
    code: str | None = None
    status: int | None = None
    request_id: str | None = None
    message: str = ""
    unknown_frames: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


def fails(name: str, *answers: Answer, error: type[BailianError], **expected: Any) -> Fault:
    return Fault(name, list(answers), error, **expected)


def works(name: str, *answers: Answer, text: str = "你好。", **expected: Any) -> Fault:
    return Fault(name, list(answers), text=text, **expected)


def error_of(code: str, status: int | None) -> dict[str, Any]:
    return {"code": code, "status": status, "request_id": "r-1"}


# Where a frame has arrived, its request id is known.
AFTER_HELLO = {"text": "你好", "request_id": "request-1"}
APP_FAILED = {"text": "你好", **error_of("AppProcessFailed", None)}

RETRIES = [
    fails("lost before the answer", [Do.RESET], GOOD, error=ConnectionLostError),
    works("lost, an idempotent app", [Do.RESET], GOOD, posts=2, settings=IDEMPOTENT),
    fails("interrupted, an idempotent app", broken(Do.RESET), GOOD,
          error=StreamInterruptedError, settings=IDEMPOTENT, **AFTER_HELLO),
    fails("silent after a frame, an idempotent app", broken(Do.STALL), GOOD,
          error=RequestTimeoutError,
          settings={**IDEMPOTENT, "timeout": Timeout(between_frames_s=0.2)}, **AFTER_HELLO),
    fails("429 three times", THROTTLED, THROTTLED, THROTTLED, error=RateLimitError, posts=3,
          message="3 attempts", **error_of("Throttling.RateQuota", 429)),
    works("429 once", THROTTLED, GOOD, posts=2),
    fails("429 for an hour", failure("429 X", "Throttling", "Retry-After: 3600"), GOOD,
          error=RateLimitError, **error_of("Throttling", 429)),
    fails("429 for an overdue bill", failure("429 X", "PostpaidBillOverdue"), GOOD,
          error=BillingError, **error_of("PostpaidBillOverdue", 429)),
    fails("429 as the first event: a node may have run", stream(THROTTLED_EVENT), GOOD,
          error=RateLimitError, **error_of("Throttling", 429)),
    works("429 as the first event, an idempotent app", stream(THROTTLED_EVENT), GOOD,
          posts=2, settings=IDEMPOTENT),
    fails("429 after a frame, an idempotent app", broken(chunk(THROTTLED_EVENT), END), GOOD,
          error=RateLimitError, text="你好", settings=IDEMPOTENT, **error_of("Throttling", 429)),
    fails("500", INTERNAL, GOOD, error=ServerError, **error_of("InternalError", 500)),
    works("500 of an idempotent app", INTERNAL, GOOD, posts=2, settings=IDEMPOTENT),
    fails("500 of an app that failed", failure("500 X", "AppProcessFailed"), GOOD,
          error=AppFailedError, settings=IDEMPOTENT, **error_of("AppProcessFailed", 500)),
    works("503 once", UNAVAILABLE, GOOD, posts=2),
]  # fmt: skip

ANSWERS = [
    fails("no frame", stream(), error=StreamInterruptedError, message="no readable frame"),
    fails("400 as a stream", failure_as_stream("400 Bad Request", "InvalidParameter"),
          error=BadRequestError, **error_of("InvalidParameter", 400)),
    *(fails(f"503 as a stream after {before!r}", failure_as_stream("503 X", "AppProcessFailed", before),
            GOOD, error=AppFailedError, **error_of("AppProcessFailed", 503))
      for before in (b":ping\n\n", b"\n\n", b"retry:3\n\n")),
    fails("429 as a stream", failure_as_stream("429 X", "PostpaidBillOverdue"), GOOD,
          error=BillingError, **error_of("PostpaidBillOverdue", 429)),
    fails("400 as an empty stream", answer("400 Bad Request", b"", "text/event-stream"),
          error=BadRequestError, status=400, message="empty"),
    fails("error event", broken(chunk(THROTTLED_EVENT)), error=RateLimitError, text="你好",
          **error_of("Throttling", 429)),
    fails("error event that is not JSON", broken(chunk(event("kaputt", name="error", status=500))),
          error=ServerError, status=500, message="kaputt", **AFTER_HELLO),
    fails("error in a result event", stream(HELLO, event(FAILED_APP)), error=AppFailedError,
          message="node X", **APP_FAILED),
    fails("a code beside an output", stream(HELLO, event(frame("", "stop") | FAILED_APP)),
          error=AppFailedError, message="node X", **APP_FAILED),
    fails("a code beside output null",
          stream(HELLO, event({"output": None, **FAILED_APP}, status=400)),
          error=AppFailedError, **APP_FAILED | {"status": 400}),
    fails("a long message before the code",
          stream(HELLO, event({"output": None, "message": "x" * 9000, "code": "AppProcessFailed",
                               "request_id": "r-1"})),
          error=AppFailedError, **APP_FAILED),
    works("reset after the stop frame", broken(chunk(BYE), chunk(STOP), Do.RESET)),
    works("silence after the stop frame", broken(chunk(BYE), chunk(STOP), Do.STALL)),
    works("an error event after the stop frame", stream(HELLO, BYE, STOP, THROTTLED_EVENT)),
    works("an empty code", stream(event({"code": "", "message": ""} | frame("你好")), BYE, STOP)),
    works("an empty code without an output",
          stream(HELLO, event({"code": "", "message": ""}), BYE, STOP), unknown_frames=1),
    works("a heartbeat", stream(HELLO, event({"heartbeat": {"code": 0}}), BYE, STOP),
          unknown_frames=1),
    works("200 with JSON that is not marked as finished",
          answer("200 OK", '{"output":{"text":"你好。","finish_reason":null}}'.encode())),
    works("a long line in the head",
          [SSE_HEAD[:-2] + b"X-Long: " + b"x" * 10_000 + b"\r\n\r\n", *GOOD[1:]]),
    works("a byte order mark before the data",
          stream('\ufeffdata:{"output":{"text":"你好"}}\n\n'.encode(), BYE, STOP)),
    works("a line separator in the text", stream(event(frame("你\u2028好\x85。")), STOP),
          text="你\u2028好\x85。"),
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", RETRIES + ANSWERS, ids=lambda fault: fault.name)
def test_an_answer_is_read_or_a_typed_error(fault: Fault, path: str) -> None:
    with WireServer(*fault.answers) as server:
        app = BailianApp(
            app_id="app", api_key="sk-test", base_url=server.base_url, **fault.settings
        )
        outcome = PATHS[path](app, "hi")
        assert len(server.posts) == fault.posts
    error = outcome.error
    if fault.error is None:
        assert error is None
        assert outcome.result is not None
        assert outcome.result.text == fault.text
        assert outcome.result.attempts == fault.posts
    else:
        assert type(error) is fault.error
        assert (error.code, error.status_code) == (fault.code, fault.status)
        assert error.request_id == fault.request_id
        assert error.attempts == fault.posts
        assert fault.message in str(error)
        assert (error.partial.text if error.partial else "") == fault.text
        assert error.session_id == ("session-1" if fault.text else None)
        assert "sk-test" not in repr(error) + str(error)
    if path in STREAMING:
        assert outcome.text == fault.text
        unknown = [e for e in outcome.events if isinstance(e, UnknownFrame)]
        assert len(unknown) == fault.unknown_frames


@pytest.mark.parametrize("path", PATHS)
def test_the_body_of_an_error_is_not_waited_for_long(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bailian_apps.transport.timeouts._ERROR_BODY_S", 0.1)
    with WireServer([b"HTTP/1.1 503 X\r\nContent-Length: 9\r\n\r\n{", Do.STALL]) as server:
        app = BailianApp(app_id="app", api_key="k", base_url=server.base_url, max_retries=0)
        error = PATHS[path](app, "hi").error
    assert type(error) is ServiceUnavailableError
    assert error.status_code == 503


@pytest.mark.parametrize("path", PATHS)
def test_of_the_body_of_an_error_only_the_beginning_is_read(path: str) -> None:
    """A server may send an endless one."""
    head = b"HTTP/1.1 500 X\r\nContent-Length: 999999999999\r\n\r\n"
    with WireServer(itertools.chain([head], itertools.repeat(b"x" * 65536))) as server:
        app = BailianApp(app_id="app", api_key="k", base_url=server.base_url)
        error = PATHS[path](app, "hi").error
    assert type(error) is ServerError
    assert error.status_code == 500


@pytest.mark.parametrize(
    ("status", "content_type", "body", "error", "message"),
    [
        (302, "text/html", b"", ProtocolError, "pass the final address as base_url"),
        (200, "text/html", b"<html>login</html>", ProtocolError, "check that base_url is"),
        (200, "", b"x", ProtocolError, "no content type"),
        (200, "application/json", b"", ConnectionLostError, "the run may have happened"),
        (502, "text/html", b"<html>bad</html>", ServerError, "text/html instead of JSON"),
        (503, "application/json", b" ", ServiceUnavailableError, "and an empty body"),
        (403, "application/json", b'{"code":"App.AccessDenied"}', PermissionDeniedError, "app_id"),
    ],
)
def test_the_error_for_an_unusable_answer_explains_it(
    status: int, content_type: str, body: bytes, error: type[BailianError], message: str
) -> None:
    with pytest.raises(BailianError, match=message) as caught:
        read_answer(status, {"Content-Type": content_type}, body)
    assert type(caught.value) is error


@pytest.mark.parametrize("path", PATHS)
def test_a_refused_connection_is_named(path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    app = BailianApp(
        app_id="app", api_key="sk-test", base_url=f"http://127.0.0.1:{port}/api/v1", max_retries=0
    )
    error = PATHS[path](app, "hi").error
    assert type(error) is ConnectError
    assert (
        str(error) == f"could not connect to 127.0.0.1:{port}: Connection refused; nothing was sent"
    )


def test_the_text_of_a_librarys_error_is_not_repeated() -> None:
    """It may quote a header."""
    invalid = requests.exceptions.InvalidHeader("bad header: sk-test")
    error = connect_error("http://host:1/x", invalid, proxy=None)
    assert str(error) == "could not connect to host:1: InvalidHeader; nothing was sent"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["half\nkey: sk-s3cret", "钥sk-s3cret"])
def test_a_key_in_the_environment_that_is_not_valid_in_a_header_is_refused(
    key: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "k")
    with WireServer(GOOD) as server:
        stored = pickle.dumps(BailianApp(app_id="app", base_url=server.base_url))
        monkeypatch.setenv("DASHSCOPE_API_KEY", key)
        unpickled = PATHS[path](pickle.loads(stored), "hi").error
        with pytest.raises(InvalidInputError) as made:
            BailianApp(app_id="app", base_url=server.base_url)
        assert server.posts == []
    for error in (unpickled, made.value):
        assert isinstance(error, InvalidInputError)
        assert error.field == "api_key"
        assert "s3cret" not in str(error)


def test_nothing_is_shared_between_calls() -> None:
    """A cookie of one call is not sent with the next; and none accepts a compressed answer."""
    cookie = stream(STOP)
    cookie[0] = SSE_HEAD[:-2] + b"Set-Cookie: who=me; Path=/\r\n\r\n"

    async def twice(app: BailianApp) -> None:
        for _ in range(2):
            await app.ainvoke("hi")

    with WireServer(*[cookie] * 4) as server:
        # Clients keep no cookies of an IP address in any case.
        base_url = server.base_url.replace("127.0.0.1", "localhost")
        app = BailianApp(app_id="app", api_key="sk-test", base_url=base_url)
        for _ in range(2):
            app.invoke("hi")
        asyncio.run(twice(app))
        assert len(server.heads) == 4
        # A compressed stream is held back until a block is full.
        assert all(b"accept-encoding: identity\r\n" in head.lower() for head in server.heads)
    assert not any(b"cookie" in head.lower() for head in server.heads)


def test_netrc_does_not_replace_the_key(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password mine\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with WireServer(GOOD, GOOD) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        assert PATHS["invoke"](app, "hi").text == PATHS["ainvoke"](app, "hi").text == "你好。"
    assert all(b"Authorization: Bearer sk-test\r\n" in head for head in server.heads)


@pytest.mark.parametrize("path", PATHS)
def test_a_long_prompt_is_sent_whole_and_without_a_warning(path: str) -> None:
    prompt = "好" * 700_000
    with WireServer(GOOD) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        assert PATHS[path](app, prompt).text == "你好。"
        assert server.posts[0]["input"]["prompt"] == prompt


@pytest.mark.parametrize(
    ("status", "known_status", "error"), [(200, None, RateLimitError), (500, 500, RateLimitError)]
)
def test_a_code_in_a_json_answer_is_an_error_whatever_the_status(
    status: int, known_status: int | None, error: type[BailianError]
) -> None:
    body = b'{"code":"Throttling","message":"slow down","output":{}}'
    with pytest.raises(BailianError, match="slow down") as caught:
        read_answer(status, {"Content-Type": "application/json", "X-Request-Id": "r-2"}, body)
    assert type(caught.value) is error
    assert (caught.value.status_code, caught.value.request_id) == (known_status, "r-2")


@pytest.mark.parametrize("field", ["message", "msg"])
def test_an_error_without_a_code_keeps_its_words(field: str) -> None:
    with pytest.raises(RateLimitError, match="slow down") as caught:
        read_answer(429, {}, json.dumps({field: "slow down", "request_id": "r-1"}).encode())
    assert (caught.value.code, caught.value.request_id) == (None, "r-1")


def test_a_lost_connection_says_how_far_the_request_came() -> None:
    kinds = [
        type(connection_lost_error(sent=False)),
        type(connection_lost_error(sent=True)),
        type(connection_lost_error(sent=True, streaming=True)),
    ]
    assert kinds == [ConnectError, ConnectionLostError, StreamInterruptedError]
