"""What an app is asked, and what a callable app may answer.

These are the emulator's own words for its users: the request as it came in, the call an app is
given, and the failure it may answer with.
"""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bailian_apps.emulator.sessions import Turn
from bailian_apps.emulator.wire.frames import Frame, JsonObject, as_list, as_object, error_frame


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """One request as the emulator received it. Its `repr` shows neither the key nor user tokens.

    Attributes:
        app_id: The app that was asked for, whether the emulator has it or not.
        body: The JSON body; empty when it was not a JSON object.
        headers: The headers under their lower-case names, with the key masked.
        fault: The name of the fault that was staged for it, if one was.
        gone: Set when the client has hung up before the answer was whole, or the emulator has
            stopped. A callable app that waits for it holds its stream open until then.
    """

    app_id: str
    body: JsonObject
    headers: dict[str, str]
    fault: str | None = None
    gone: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

    def __repr__(self) -> str:
        """Show what was asked."""
        return (
            f"{type(self).__name__}(app_id={self.app_id!r}, body={self.shown_body!r}, "
            f"headers={self.headers!r}, fault={self.fault!r})"
        )

    @property
    def shown_body(self) -> JsonObject:
        """The body as it may be shown: without what is in `user_defined_tokens`."""
        if "user_defined_tokens" not in self.biz_params:
            return self.body
        biz_params = {**self.biz_params, "user_defined_tokens": "***"}
        return {**self.body, "input": {**self.input, "biz_params": biz_params}}

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
        """The session the client named."""
        named = self.input.get("session_id")
        return named if named and isinstance(named, str) else None

    @property
    def biz_params(self) -> JsonObject:
        """The app's own parameters."""
        return as_object(self.input.get("biz_params")) or {}

    @property
    def messages(self) -> list[JsonObject]:
        """The conversation the client sent; a prompt beside it is its last message."""
        messages = [as_object(message) or {} for message in as_list(self.input.get("messages"))]
        if messages and self.input.get("prompt"):
            messages.append({"role": "user", "content": self.input["prompt"]})
        return messages

    @property
    def prompt(self) -> str:
        """What the user says now: the prompt, or the text of the last message."""
        if self.input.get("prompt"):
            return str(self.input["prompt"])
        return _text_of(self.messages[-1].get("content")) if self.messages else ""

    @property
    def stream(self) -> bool:
        """Whether the client asked for server-sent events."""
        return asks_for_stream(self.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a callable app is given.

    Attributes:
        request: The request as it came in.
        session_id: The session the answer belongs to.
        request_id: The id of this request.
        turns: What was said in the session before.
    """

    request: ReceivedRequest
    session_id: str
    request_id: str
    turns: tuple[Turn, ...] = ()

    @property
    def prompt(self) -> str:
        """What the user says now."""
        return self.request.prompt

    @property
    def messages(self) -> list[JsonObject]:
        """The conversation the client sent instead of a session; mostly empty."""
        return self.request.messages

    @property
    def biz_params(self) -> JsonObject:
        """The app's own parameters."""
        return self.request.biz_params

    @property
    def gone(self) -> threading.Event:
        """Set when nobody waits for the answer any more; see `ReceivedRequest.gone`."""
        return self.request.gone


class Failure(Exception):
    """An error answer of the cloud.

    Returned or raised by an app before its first frame, it is a JSON answer with this HTTP status;
    yielded, or raised later, it is an `event:error` frame. Raising ends the stream.
    """

    def __init__(
        self,
        *,
        status: int,
        code: str,
        message: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the failure.

        Args:
            status: The HTTP status.
            code: The cloud's code, such as `Throttling`.
            message: What the cloud says about it.
            headers: Further headers of a JSON answer, such as `Retry-After`.

        Raises:
            ValueError: HTTP has no such status, or cannot carry such a header.
        """
        if not 200 <= status <= 599:
            raise ValueError(f"status={status} is no status of an answer; give 200 to 599")
        for name, value in (headers or {}).items():
            if not isinstance(value, str) or set(value) & set("\r\n\0"):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ValueError(f"headers[{name!r}] is {value!r}; give a text of one line")
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def as_frame(self, request_id: str) -> Frame:
        """Return the failure as the cloud reports it."""
        return error_frame(
            status=self.status, code=self.code, message=self.message, request_id=request_id
        )


class CutOff(Exception):
    """Ends an answer as a lost connection does; what was sent of it stays sent."""

    def __init__(self, offset_ms: float) -> None:
        """Cut it.

        Args:
            offset_ms: When it is due after the request, at the recorded pace.
        """
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
"""What a callable app may answer: a text, one payload, all frames' payloads, or a generator."""

AppFunction: TypeAlias = Callable[[Call], Answer | Awaitable[Answer]]
"""A callable app; a plain one runs in a thread of its own, so it may block."""


def asks_for_stream(headers: Mapping[str, str]) -> bool:
    """Whether a request with these headers asks for server-sent events."""
    return headers.get("x-dashscope-sse", "").lower() == "enable"


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [as_object(part) or {} for part in as_list(content)]
    return "".join(str(part.get("text", "")) for part in parts)
