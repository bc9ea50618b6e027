"""The fault matrix: each way a call can go wrong, on all four paths.

For each: the exact error, what had been delivered, and how often the server was asked.
"""

from __future__ import annotations

import asyncio
import gzip
import pickle
import socket
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from support.paths import PATHS, STREAMING
from support.wire import (
    END,
    SSE_HEAD,
    Answer,
    Do,
    WireServer,
    answer,
    chunk,
    event,
    frame,
    stream,
)

from bailian_apps import (
    APIError,
    AppFailedError,
    AuthenticationError,
    BadRequestError,
    BailianApp,
    BailianError,
    BillingError,
    ConnectError,
    ConnectionLostError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ServiceUnavailableError,
    StreamInterruptedError,
    UnknownFrame,
)
from bailian_apps.transport.http_answer import connect_error

HELLO, BYE, STOP = event(frame("你好")), event(frame("。")), event(frame("", "stop"))
GOOD = stream(HELLO, BYE, STOP)
TIMEOUT_S = 0.25


def failure(code: str, message: str = "no", request_id: str = "r-1") -> bytes:
    body = f'{{"code":"{code}","message":"{message}","request_id":"{request_id}"}}'
    return body.encode()


def broken(*parts: bytes | Do) -> Answer:
    """A stream that goes wrong after its head and these parts."""
    return [SSE_HEAD, *parts]


def error_event(
    data: str, *, name: str = "event:error", status: str = ":HTTP_STATUS/400"
) -> Answer:
    lines = "\n".join(["id:2", name, status, f"data:{data}", "", ""])
    return broken(chunk(HELLO), chunk(lines.encode()), END)


def sse_answer(status: str, code: str) -> Answer:
    body = b"id:1\nevent:error\n:HTTP_STATUS/400\ndata:" + failure(code) + b"\n\n"
    return answer(status, body, "text/event-stream;charset=UTF-8")


def gzipped(body: bytes) -> Answer:
    head = SSE_HEAD[:-2] + b"Content-Encoding: gzip\r\n\r\n"
    packed = gzip.compress(body)
    return [head, chunk(packed[:10]), chunk(packed[10:40]), chunk(packed[40:]), END]


@dataclass(frozen=True)
class Fault:
    """One row: what the server does, and what the caller must see."""

    name: str
    answers: tuple[Answer, ...]
    error: type[BailianError] | None = None
    text: str = ""
    posts: int = 1
    code: str | None = None
    status: int | None = None
    request_id: str | None = None
    says: str = ""
    unknown_frames: int = 0
    settings: dict[str, Any] | None = None


def fails(name: str, *answers: Answer, error: type[BailianError], **expected: Any) -> Fault:
    return Fault(name, answers, error, **expected)


def works(name: str, *answers: Answer, text: str = "你好。", **expected: Any) -> Fault:
    return Fault(name, answers, text=text, **expected)


JSON_500 = answer("500 Internal Server Error", failure("InternalError"))
TOO_MANY = answer(
    "429 Too Many Requests", failure("Throttling.RateQuota"), "application/json", "Retry-After: 0"
)
BUSY = answer(
    "503 Service Unavailable", failure("ModelUnavailable"), "application/json", "Retry-After: 0"
)
GIVE_UP = {"max_retries": 0}

FAULTS = [
    # ------------------------------------------------------------ before any answer
    fails("reset before headers", [Do.RESET], error=ConnectionLostError),
    fails("closed before headers", [Do.CLOSE], error=ConnectionLostError),
    fails("closed inside headers", [b"HTTP/1.1 200 OK\r\nContent-", Do.CLOSE], error=ConnectionLostError),
    fails("garbage instead of HTTP", [b"SSH-2.0-x\r\n\r\n", Do.CLOSE], error=ConnectionLostError),
    fails("stall before headers", [Do.STALL], error=RequestTimeoutError, says="timeout"),
    # ------------------------------------------------------------ inside the stream
    fails("reset after headers", broken(Do.RESET), error=StreamInterruptedError),
    fails("closed after headers", broken(Do.CLOSE), error=StreamInterruptedError),
    fails("reset between frames", broken(chunk(HELLO), Do.RESET), error=StreamInterruptedError, text="你好", request_id="request-1"),
    fails("closed between frames", broken(chunk(HELLO), Do.CLOSE), error=StreamInterruptedError, text="你好", request_id="request-1"),
    fails("closed inside a frame", broken(chunk(HELLO), chunk(BYE[:60]), Do.CLOSE), error=StreamInterruptedError, text="你好", request_id="request-1"),
    fails("closed inside a chunk", broken(chunk(HELLO), chunk(BYE)[:60], Do.CLOSE), error=StreamInterruptedError, text="你好", request_id="request-1"),
    fails("stall after headers", broken(Do.STALL), error=RequestTimeoutError),
    fails("stall between frames", broken(chunk(HELLO), Do.STALL), error=RequestTimeoutError, text="你好", request_id="request-1"),
    fails("no frame at all", stream(), error=StreamInterruptedError, says="no readable frame"),
    fails("only comments", stream(b": hello\n\n", b":\n\n"), error=StreamInterruptedError),
    fails("no stop frame", stream(HELLO, BYE), error=StreamInterruptedError, text="你好。", request_id="request-1"),
    works("lost after the stop frame", broken(chunk(HELLO), chunk(BYE), chunk(STOP), Do.RESET)),
    works("stall after the stop frame", broken(chunk(HELLO), chunk(BYE), chunk(STOP), Do.STALL)),
    # ------------------------------------------------------------ answers of the cloud
    fails("400", answer("400 Bad Request", failure("InvalidParameter")), error=BadRequestError, code="InvalidParameter", status=400, request_id="r-1"),
    fails("401", answer("401 Unauthorized", failure("InvalidApiKey")), error=AuthenticationError, code="InvalidApiKey", status=401, request_id="r-1", says="DASHSCOPE_API_KEY"),
    fails("403", answer("403 Forbidden", failure("App.AccessDenied")), error=PermissionDeniedError, code="App.AccessDenied", status=403, request_id="r-1", says="app_id"),
    fails("403 free quota used up", answer("403 Forbidden", failure("AllocationQuota.FreeTierOnly")), error=BillingError, status=403, code="AllocationQuota.FreeTierOnly", request_id="r-1"),
    fails("404", answer("404 Not Found", failure("WorkSpaceNotFound")), error=NotFoundError, code="WorkSpaceNotFound", status=404, request_id="r-1"),
    fails("429 for good", TOO_MANY, TOO_MANY, TOO_MANY, error=RateLimitError, posts=3, code="Throttling.RateQuota", status=429, request_id="r-1", says="3 attempts"),
    works("429, then well", TOO_MANY, GOOD, posts=2),
    fails("429 not retried when told so", TOO_MANY, GOOD, error=RateLimitError, code="Throttling.RateQuota", status=429, request_id="r-1", settings=GIVE_UP),
    fails("429 asks for an hour", answer("429 Too Many Requests", failure("Throttling"), "application/json", "Retry-After: 3600"), error=RateLimitError, code="Throttling", status=429, request_id="r-1"),
    fails("429 bill overdue", answer("429 Too Many Requests", failure("PostpaidBillOverdue")), GOOD, error=BillingError, code="PostpaidBillOverdue", status=429, request_id="r-1"),
    fails("500", JSON_500, GOOD, error=ServerError, code="InternalError", status=500, request_id="r-1"),
    works("500 of an idempotent app", JSON_500, GOOD, posts=2, settings={"idempotent": True}),
    works("lost, an idempotent app", [Do.RESET], GOOD, posts=2, settings={"idempotent": True}),
    fails("interrupted, an idempotent app", broken(chunk(HELLO), Do.RESET), GOOD, error=StreamInterruptedError, text="你好", request_id="request-1", settings={"idempotent": True}),
    fails("stall between frames, an idempotent app", broken(chunk(HELLO), Do.STALL), GOOD, error=RequestTimeoutError, text="你好", request_id="request-1", settings={"idempotent": True}),
    fails("429 after a frame, an idempotent app", error_event('{"code":"Throttling","request_id":"r-1"}', status=":HTTP_STATUS/429"), GOOD, error=RateLimitError, text="你好", code="Throttling", status=429, request_id="r-1", settings={"idempotent": True}),
    fails("the app failed", answer("500 Internal Server Error", failure("AppProcessFailed")), GOOD, error=AppFailedError, code="AppProcessFailed", status=500, request_id="r-1", settings={"idempotent": True}),
    works("503, then well", BUSY, GOOD, posts=2),
    # ------------------------------------------------------------ answers of something else
    fails("502 HTML", answer("502 Bad Gateway", b"<html>bad</html>", "text/html"), error=ServerError, status=502, says="text/html"),
    fails("503 empty, called JSON", answer("503 Service Unavailable", b"", "application/json"), error=ServiceUnavailableError, status=503, says="empty", settings=GIVE_UP),
    fails("500 in GBK", answer("500 Internal Server Error", "失败".encode("gbk"), "text/plain; charset=GBK"), error=ServerError, status=500),
    fails("500, body cut", [b"HTTP/1.1 500 X\r\nContent-Length: 99\r\n\r\n{", Do.CLOSE], error=ServerError, status=500),
    fails("redirect", answer("302 Found", b"", "text/html", "Location: http://127.0.0.1:1/"), error=ProtocolError, status=302, says="base_url"),
    fails("200 HTML", answer("200 OK", b"<html>login</html>", "text/html"), error=ProtocolError, status=200, says="base_url"),
    fails("200 with a JSON error", answer("200 OK", failure("Throttling")), error=RateLimitError, code="Throttling", request_id="r-1", settings=GIVE_UP),
    fails("output null beside a code", broken(chunk(HELLO), chunk(b':HTTP_STATUS/400\ndata:{"output":null,"code":"AppProcessFailed","message":"no","request_id":"r-1"}\n\n'), END), error=AppFailedError, code="AppProcessFailed", status=400, request_id="r-1", text="你好"),
    fails("200 with output null", answer("200 OK", b'{"output":null}'), error=ProtocolError, status=200),
    works("200 JSON answer", answer("200 OK", b'{"output":{"text":"\xe4\xbd\xa0\xe5\xa5\xbd\xe3\x80\x82","finish_reason":null}}')),
    # ------------------------------------------------------------ the cloud's error events
    fails("error event", error_event('{"code":"InvalidParameter","message":"no","request_id":"r-1"}'), error=BadRequestError, text="你好", code="InvalidParameter", status=400, request_id="r-1"),
    fails("error event with a space", error_event('{"code":"App.AccessDenied","message":"no"}', name="event: error"), error=PermissionDeniedError, text="你好", request_id="request-1", code="App.AccessDenied", status=400),
    fails("error event without a code", error_event('{"message":"no"}', status=":HTTP_STATUS/503"), error=ServiceUnavailableError, text="你好", request_id="request-1", status=503),
    fails("error event without code and status", error_event('{"message":"no"}', status=":x"), error=APIError, text="你好", request_id="request-1"),
    fails("error event that is no JSON", error_event("kaputt", status=":HTTP_STATUS/500"), error=ServerError, text="你好", request_id="request-1", status=500, says="kaputt"),
    fails("429 as the first event", stream(event({"code": "Throttling", "message": "no"}, name="error", status=429)), error=RateLimitError, code="Throttling", status=429, settings=GIVE_UP),
    fails("429 as the first event: a node may have run", stream(event({"code": "Throttling"}, name="error", status=429)), GOOD, error=RateLimitError, code="Throttling", status=429),
    works("429 as the first event, an idempotent app", stream(event({"code": "Throttling"}, name="error", status=429)), GOOD, posts=2, settings={"idempotent": True}),
    fails("500 with a code of 503", answer("500 X", failure("ModelUnavailable")), GOOD, error=ServiceUnavailableError, code="ModelUnavailable", status=500, request_id="r-1"),
    fails("error in a result event", stream(HELLO, event({"code": "AppProcessFailed", "message": "node X", "request_id": "r-1"})), error=AppFailedError, text="你好", code="AppProcessFailed", request_id="r-1", says="node X"),
    fails("200 with a JSON error and an output", answer("200 OK", b'{"code":"InvalidApiKey","message":"no","output":{}}'), error=AuthenticationError, code="InvalidApiKey"),
    fails("200 JSON, cut", [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{", Do.CLOSE], error=StreamInterruptedError),
    works("ended by another word, then lost", broken(chunk(HELLO), chunk(BYE), chunk(event(frame("", "length"))), Do.RESET)),
    works("frames after the stop frame", stream(HELLO, BYE, STOP, event(frame("late"))), unknown_frames=1),
    works("media type in capitals", [SSE_HEAD.replace(b"text/event-stream", b"Text/Event-Stream"), chunk(HELLO), chunk(BYE), chunk(STOP), END]),
    works("compressed all the same", gzipped(HELLO + BYE + STOP)),
    fails("redirect to nonsense", answer("302 Found", b"", "text/html", "Location: http://[:"), error=ProtocolError, status=302),
    fails("400 as the stream that was asked for", sse_answer("400 Bad Request", "InvalidParameter"), error=BadRequestError, code="InvalidParameter", status=400, request_id="r-1"),
    fails("429 bill overdue, as a stream", sse_answer("429 Too Many Requests", "PostpaidBillOverdue"), GOOD, error=BillingError, code="PostpaidBillOverdue", status=429, request_id="r-1"),
    fails("400 as an empty stream", answer("400 Bad Request", b"", "text/event-stream"), error=BadRequestError, status=400, says="empty"),
    fails("a code beside an output", stream(HELLO, event({"code": "AppProcessFailed", "message": "node X", "request_id": "r-1"} | frame("", "stop", request_id="r-1"))), error=AppFailedError, text="你好", code="AppProcessFailed", request_id="r-1", says="node X"),
    fails("output null beside a long message", stream(HELLO, event({"output": None, "code": "AppProcessFailed", "message": "x" * 9000, "request_id": "r-1"})), error=AppFailedError, text="你好", code="AppProcessFailed", request_id="r-1"),
    fails("output null beside a long message and a late code", stream(HELLO, event({"output": None, "message": "x" * 9000, "code": "AppProcessFailed", "request_id": "r-1"})), error=AppFailedError, text="你好", code="AppProcessFailed", request_id="r-1"),
    fails("503 whose body stalls", [b"HTTP/1.1 503 X\r\nContent-Length: 9\r\n\r\n{", Do.STALL], error=ServiceUnavailableError, status=503, settings=GIVE_UP),
    works("an empty code", stream(event({"code": "", "message": ""} | frame("你好")), BYE, STOP)),
    works("an empty code, no output", stream(HELLO, event({"code": "", "message": ""}), BYE, STOP), unknown_frames=1),
    works("a heartbeat", stream(HELLO, event({"heartbeat": {"code": 0}}), BYE, STOP), unknown_frames=1),
    works("a long line in the head", [SSE_HEAD[:-2] + b"X-Long: " + b"x" * 10_000 + b"\r\n\r\n", *GOOD[1:]]),
    # ------------------------------------------------------------ odd streams that are still answers
    works("event:done", broken(chunk(HELLO), chunk(BYE), chunk(event(frame("", "stop"), name="done")), END)),
    works("[DONE]", stream(HELLO, BYE, STOP, b"data:[DONE]\n\n")),
    works("byte order mark", stream(b"\xef\xbb\xbf" + HELLO, BYE, STOP)),
    works("byte order mark before the data", stream(b'\xef\xbb\xbfdata:{"output":{"text":"\xe4\xbd\xa0\xe5\xa5\xbd"}}\n\n', BYE, STOP)),
    works("CR LF", stream(*(event(frame(t, f), newline="\r\n") for t, f in (("你好", "null"), ("。", "null"), ("", "stop"))))),
    works("CR", stream(*(event(frame(t, f), newline="\r") for t, f in (("你好", "null"), ("。", "null"), ("", "stop"))))),
    works("several data lines", stream(b'data:{"output":\ndata: {"text":"\xe4\xbd\xa0\xe5\xa5\xbd\xe3\x80\x82",\ndata:"finish_reason":"stop"}}\n\n')),
    works("no blank line at the end", broken(chunk(HELLO), chunk(BYE), chunk(STOP.rstrip() + b"\n"), END)),
    works("no line end at the end", broken(chunk(HELLO), chunk(BYE), chunk(STOP.rstrip()), END)),
    works("not chunked", [SSE_HEAD.replace(b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"), HELLO, BYE, STOP, Do.CLOSE]),
    works("invalid UTF-8", stream(HELLO.replace("好".encode(), b"\xff"), BYE, STOP), text="你\ufffd。"),
    works("2 MB in one frame", stream(event(frame("好" * 700_000)), STOP), text="好" * 700_000),
    works("line separators in the text", stream(event(frame("你\u2028好\x85。")), STOP), text="你\u2028好\x85。"),
    works("malformed frame", stream(HELLO, b'data:{"output":\n\n', BYE, STOP), unknown_frames=1),
    works("frame that is a list", stream(HELLO, b"data:[1]\n\n", BYE, STOP), unknown_frames=1),
    works("frame with output null", stream(HELLO, b'data:{"output":null}\n\n', BYE, STOP), unknown_frames=1),
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault: Fault, path: str) -> None:
    with WireServer(*fault.answers) as server:
        app = BailianApp(
            app_id="app", api_key="sk-test", base_url=server.base_url,
            # Where all came that had to, not even the end of the stream is waited for.
            timeout=TIMEOUT_S if fault.error and any(Do.STALL in each for each in fault.answers) else 300,
            **(fault.settings or {}),
        )  # fmt: skip
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
        assert fault.says in str(error)
        assert (error.partial.text if error.partial else "") == fault.text
        assert error.session_id == ("session-1" if fault.text else None)
        assert "sk-test" not in repr(error) + str(error)
    if path in STREAMING:
        assert outcome.text == fault.text
        unknown = [e for e in outcome.events if isinstance(e, UnknownFrame)]
        assert len(unknown) == fault.unknown_frames


@pytest.mark.parametrize("path", PATHS)
def test_refused(path: str) -> None:
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


def test_what_a_library_says_is_not_repeated() -> None:
    """It may quote a header."""
    said = requests.exceptions.InvalidHeader("bad header: sk-test")
    error = connect_error("http://host:1/x", said, proxy=None)
    assert str(error) == "could not connect to host:1: InvalidHeader; nothing was sent"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["half\nkey: sk-s3cret", "钥sk-s3cret"])
def test_a_key_of_the_environment_that_no_header_can_hold_is_refused(
    key: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", key)
    with WireServer(GOOD) as server:
        stored = pickle.dumps(BailianApp(app_id="app", api_key="k", base_url=server.base_url))
        unpickled = PATHS[path](pickle.loads(stored), "hi").error
        with pytest.raises(InvalidInputError) as made:
            BailianApp(app_id="app", base_url=server.base_url)
        assert server.posts == []
    for error in (unpickled, made.value):
        assert isinstance(error, InvalidInputError)
        assert error.field == "api_key"
        assert "s3cret" not in str(error)


def test_nothing_is_shared_between_calls() -> None:
    """A cookie of one call does not reach the next; and none asks for a compressed answer."""
    cookie = stream(STOP)
    cookie[0] = SSE_HEAD[:-2] + b"Set-Cookie: who=me; Path=/\r\n\r\n"

    async def twice(app: BailianApp) -> None:
        for _ in range(2):
            await app.ainvoke("hi")

    with WireServer(*[cookie] * 4) as server:
        # An IP address has no cookies in any case.
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
