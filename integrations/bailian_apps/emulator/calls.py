"""What an app is asked, and what a callable app may answer.

These are the emulator's own words for its users: the request as it came in, the call an app is
given, and the failure it may answer with.
"""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bailian_apps.emulator.sessions import Turn
from bailian_apps.emulator.wire import Frame, JsonObject, as_list, as_object, error_frame


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """One request as the emulator received it.

    Attributes:
        app_id: The app that was asked for, whether the emulator has it or not.
        body: The JSON body; empty when it was not a JSON object.
        headers: The headers under their lower-case names, with the key masked.
        gone: Set when the client has hung up before the answer was whole, or the emulator has
            stopped. A callable app that waits for it holds its stream open until then.
    """

    app_id: str
    body: JsonObject
    headers: dict[str, str]
    gone: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

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
        return self.input.get("session_id") or None

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
        return self.headers.get("x-dashscope-sse", "").lower() == "enable"


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
        """
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


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [as_object(part) or {} for part in as_list(content)]
    return "".join(str(part.get("text", "")) for part in parts)
