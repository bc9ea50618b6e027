"""Requests and answers as the emulator's users see them: what an app is given and may return."""

import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, cast

from bailian_apps.emulator.credentials import redacted
from bailian_apps.emulator.media import shortened
from bailian_apps.emulator.sessions import Turn
from bailian_apps.emulator.wire.frames import (
    Frame,
    JsonObject,
    as_list,
    as_object,
    parse_json,
)


class _Body:
    """The field `body` of a request: a JSON object, or the bytes of one, parsed on each access.

    Many requests are kept, and the objects of parsed JSON take up to 24 times its bytes.
    """

    def __get__(self, request: "ReceivedRequest | None", owner: object) -> JsonObject:
        if request is None:
            raise AttributeError("body")  # so the dataclass knows no default
        body: JsonObject | bytes = request.__dict__.get("parsed") or request.__dict__["body"]
        if not isinstance(body, bytes):
            return body
        try:
            return as_object(parse_json(body.decode())) or {}
        except ValueError:
            return {}

    def __set__(self, request: "ReceivedRequest", body: JsonObject | bytes) -> None:
        request.__dict__["body"] = body


@dataclass(frozen=True, kw_only=True)
class ReceivedRequest:
    """One request as the emulator received it. Its `repr` redacts the key and user tokens.

    Attributes:
        app_id: The requested app id, even if the emulator has no such app.
        body: The JSON body; empty if it is not a JSON object. After the answer it is parsed on
            each access.
        headers: The headers by their lower-case names, with the key masked.
        fault: The name of the fault that was injected into the answer, if any.
        body_bytes: The length of the body on the wire.
        method: The HTTP method; only requests about background runs have others than POST.
        path: The path of the address.
        disconnected: Set when the client disconnects before the answer is complete, or the
            emulator stops. A callable app that waits for it keeps its stream open until then.
    """

    app_id: str
    body: _Body = _Body()
    headers: dict[str, str]
    fault: str | None = None
    body_bytes: int = field(default=0, compare=False, repr=False)
    method: str = field(default="POST", repr=False)
    path: str = field(default="", repr=False)
    disconnected: threading.Event = field(
        default_factory=threading.Event, compare=False, repr=False
    )

    def __repr__(self) -> str:
        """Show the request without secrets."""
        return (
            f"{type(self).__name__}(app_id={self.app_id!r}, body={self.redacted_body!r}, "
            f"headers={self.headers!r}, fault={self.fault!r}, method={self.method!r})"
        )

    @contextmanager
    def parsed_once(self) -> Generator[None]:
        """Keep the parsed body for a block, which reads it often."""
        self.__dict__["parsed"] = self.body
        try:
            yield
        finally:
            del self.__dict__["parsed"]

    @cached_property
    def size(self) -> int:
        """About how many bytes of memory its body, as received, and its headers occupy."""
        texts = (text for header in self.headers.items() for text in header)
        return self.body_bytes + sys.getsizeof(self.headers) + sum(map(sys.getsizeof, texts))

    @property
    def redacted_body(self) -> JsonObject:
        """The body with the credentials of the app's users masked, and images by their size."""
        return shortened(cast("JsonObject", redacted(self.body)))

    @property
    def input(self) -> JsonObject:
        """The body's `input`."""
        return as_object(self.body.get("input")) or {}

    @property
    def parameters(self) -> JsonObject:
        """The body's `parameters`."""
        return as_object(self.body.get("parameters")) or {}

    @property
    def session_id(self) -> str | None:
        """The requested session, if any."""
        session_id = self.input.get("session_id")
        return session_id if session_id and isinstance(session_id, str) else None

    @property
    def biz_params(self) -> JsonObject:
        """The app's own parameters."""
        return as_object(self.input.get("biz_params")) or {}

    @property
    def messages(self) -> list[JsonObject]:
        """The `messages` of the request; a prompt beside them is the last one."""
        messages = [as_object(message) or {} for message in as_list(self.input.get("messages"))]
        if messages and self.input.get("prompt"):
            messages.append({"role": "user", "content": self.input["prompt"]})
        return messages

    @property
    def prompt(self) -> str:
        """The prompt, or the text of the last message."""
        if self.input.get("prompt"):
            return str(self.input["prompt"])
        return _text_of(self.messages[-1].get("content")) if self.messages else ""

    @property
    def stream(self) -> bool:
        """Whether the client asked for server-sent events, by either of the documented headers."""
        accepted = self.headers.get("accept", "").lower()
        asked = self.headers.get("x-dashscope-sse", "").lower()
        return asked == "enable" or "text/event-stream" in accepted

    @property
    def accepts_gzip(self) -> bool:
        """Whether the answer may be compressed."""
        codings = self.headers.get("accept-encoding", "").lower().split(",")
        return any(coding.split(";")[0].strip() == "gzip" for coding in codings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The argument of a callable app.

    Attributes:
        request: The request.
        session_id: The session of the answer.
        request_id: The id of this request.
        turns: The earlier turns of the session.
    """

    request: ReceivedRequest
    session_id: str
    request_id: str
    turns: tuple[Turn, ...] = ()

    @property
    def prompt(self) -> str:
        """See `ReceivedRequest.prompt`."""
        return self.request.prompt

    @property
    def messages(self) -> list[JsonObject]:
        """See `ReceivedRequest.messages`; usually empty."""
        return self.request.messages

    @property
    def biz_params(self) -> JsonObject:
        """See `ReceivedRequest.biz_params`."""
        return self.request.biz_params

    @property
    def disconnected(self) -> threading.Event:
        """See `ReceivedRequest.disconnected`."""
        return self.request.disconnected


class Failure(Exception):
    """An error answer of the cloud.

    Returned or raised by an app before its first frame, it is a JSON response with this HTTP
    status. Yielded, or raised later, it is an `event:error` frame; raising also ends the stream.
    """

    def __init__(
        self, *, status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Create the failure.

        Args:
            status: The HTTP status.
            code: The cloud's error code, such as `Throttling`.
            message: The error message.
            headers: Additional headers of a JSON response, such as `Retry-After`.

        Raises:
            ValueError: The status is not an HTTP status from 200 to 599, or a header value is
                not a single-line string.
        """
        if not 200 <= status <= 599:
            raise ValueError(f"status={status} must be an HTTP status from 200 to 599")
        for name, value in (headers or {}).items():
            if not isinstance(value, str) or set(value) & set("\r\n\0"):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ValueError(f"headers[{name!r}] must be a single-line string, not {value!r}")
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def as_frame(self, request_id: str) -> Frame:
        """Return the failure as an error frame."""
        payload = {"code": self.code, "message": self.message, "request_id": request_id}
        return Frame(event="error", status=self.status, payload=payload)


class CutOff(Exception):
    """Ends an answer by closing the connection, after the frames already sent."""

    def __init__(self, offset_ms: float) -> None:
        """Create it, due `offset_ms` after the request at the recorded pace."""
        super().__init__(offset_ms)
        self.offset_ms = offset_ms


Answer: TypeAlias = (
    str
    | JsonObject
    | list[JsonObject]
    | Failure
    | Iterator[JsonObject | Failure]
    | AsyncIterator[JsonObject | Failure]
)
"""What a callable app may return: a text, one payload, all payloads, or a generator of them."""

AppFunction: TypeAlias = Callable[[Call], Answer | Awaitable[Answer]]
"""A callable app. A synchronous function runs in its own thread, so it may block."""


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [as_object(part) or {} for part in as_list(content)]
    return "".join(str(part.get("text", "")) for part in parts)
