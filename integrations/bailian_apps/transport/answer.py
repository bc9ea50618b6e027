"""What an HTTP answer means, and how long to wait for it. Pure; shared by sync and async."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias, cast
from urllib.parse import urlsplit

from bailian_apps.core.errors import (
    BailianError,
    ConnectError,
    ConnectionLostError,
    ProtocolError,
    RequestTimeoutError,
    StreamInterruptedError,
    api_error,
    retry_after_s,
)
from bailian_apps.core.settings import Timeout
from bailian_apps.transport.sse import ErrorEvent, FrameLine, SSEReader

Answer: TypeAlias = dict[str, Any]

# Once the run has finished, how long to wait for the stream's own end before the socket is dropped.
_SETTLE_S: Final = 0.5

# How long to wait for the body of an error, whose status is known already; how much of it to read.
_ERROR_S: Final = 5.0
MAX_ERROR_BYTES: Final = 1 << 20


def is_stream(status_code: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer is an event stream."""
    return status_code == 200 and media_type(headers) == "text/event-stream"


def media_type(headers: Mapping[str, str]) -> str:
    """An answer's media type, without parameters."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def read_answer(status_code: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """Read an answer that is not an event stream.

    Args:
        status_code: Its HTTP status.
        headers: Its HTTP headers.
        body: Its body; for an error, at least its beginning.

    Returns:
        The answer object of a call that succeeded.

    Raises:
        APIError: The cloud, or something before it, answered with an error.
        TransportError: A redirect, or a body that is no answer object.
    """
    if 300 <= status_code < 400:
        raise ProtocolError(
            "the server answered with a redirect, which is not followed because the key would go "
            "along; base_url: pass the address it ends at",
            status_code=status_code,
        )
    if status_code != 200 and media_type(headers) == "text/event-stream":
        body = _first_data(body)
    answer = _json_object(body)
    if answer is not None and (status_code != 200 or answer.get("code")):
        raise _error_in(answer, None if status_code == 200 else status_code, headers)
    if answer is not None and isinstance(answer.get("output"), dict):
        # A whole HTTP body is a finished run, whatever its null fields say.
        if answer["output"].get("finish_reason") in (None, "", "null"):
            answer["output"]["finish_reason"] = "stop"
        return answer
    kind = media_type(headers) or "no content type"
    if status_code == 200:
        if not body:
            raise lost(sent=True)
        raise ProtocolError(
            f"the server answered 200 with {kind}, which is no answer of this API; "
            "base_url: check that it is the API's address",
            status_code=status_code,
        )
    error = api_error(
        None,
        f"the server answered with {kind} instead of JSON"
        + ("" if body.strip() else ", and an empty body")
        + "; it may come from a proxy before the API",
        status_code=status_code,
        retry_after_s=retry_after_s(headers),
    )
    raise error


class EventLines:
    """Bytes of an event stream in, the lines for the SDK out, as they are asked for.

    Attributes:
        waiting: How many events are here that were not asked for yet.
    """

    __slots__ = ("_headers", "_reader", "waiting")

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Start at the beginning of a stream that came with `headers`."""
        self._headers = headers
        self._reader = SSEReader()
        self.waiting = 0

    def feed(self, chunk: bytes) -> Iterator[FrameLine] | None:
        """Read a chunk; give the lines that it completes, or None.

        Raises:
            APIError: While iterating, for an error event.
        """
        events = self._reader.feed(chunk)
        return self._lines(events) if events else None

    def close(self) -> Iterator[FrameLine]:
        """The stream is over: give what it ended in the middle of."""
        return self._lines(self._reader.close())

    def _lines(self, events: list[FrameLine | ErrorEvent]) -> Iterator[FrameLine]:
        self.waiting = len(events)
        for event in events:
            self.waiting -= 1
            if type(event) is FrameLine:
                yield event
            elif type(event) is ErrorEvent:
                raise _stream_error(event, self._headers)


def _stream_error(event: ErrorEvent, headers: Mapping[str, str]) -> BailianError:
    answer = _json_object(event.data) or {"message": event.data.decode("utf-8", "replace")}
    error = _error_in(answer, event.status_code, headers)
    if error.resend == "not_started":
        # Whatever the code, the run may have happened: a node of a workflow can be throttled after
        # another one has sent mail.
        error.resend = "may_have_run"
    return error


def _error_in(answer: Answer, status_code: int | None, headers: Mapping[str, str]) -> BailianError:
    code, message = answer.get("code"), answer.get("message") or answer.get("msg")
    request_id = answer.get("request_id") or headers.get("X-Request-Id")
    return api_error(
        str(code) if code else None,
        str(message) if message else None,
        status_code=status_code,
        request_id=str(request_id) if request_id else None,
        retry_after_s=retry_after_s(headers),
    )


def _first_data(body: bytes) -> bytes:
    """What the first event says, where an error comes as the stream that was asked for."""
    reader = SSEReader()
    for event in reader.feed(body) + reader.close():
        return event.data if isinstance(event, ErrorEvent) else event.raw[5:]
    return body


def _json_object(body: bytes) -> Answer | None:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return cast("Answer", parsed) if isinstance(parsed, dict) else None


def lost(*, sent: bool, streaming: bool = False) -> BailianError:
    """The error for a connection that was lost.

    Args:
        sent: Whether the request may have reached the server whole.
        streaming: Whether the answer had begun.
    """
    if streaming:
        return StreamInterruptedError("the connection was lost before the run finished")
    if sent:
        return ConnectionLostError(
            "the connection was lost after the request was sent; the run may have happened"
        )
    return ConnectError("the connection was lost before the request was sent")


def not_connected(url: str, error: BaseException, *, proxy: str | None) -> ConnectError:
    """The error for a connection that was not made. It names no more of the address than the host.

    Args:
        url: What was asked for.
        error: Why it failed.
        proxy: The proxy that was to be used, if any.
    """
    parts = urlsplit(url)
    host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    through = " through the proxy in the environment" if proxy else ""
    seen = _innermost(error)
    failed = ConnectError(
        f"could not connect to {host}{through}: {_reason(seen)}; nothing was sent"
    )
    if isinstance(seen, ValueError):  # a certificate or a name is refused, as it will be again
        failed.resend = "never"
    return failed


def unusable(problem: str) -> ConnectError:
    """The error for an environment in which no attempt can connect."""
    error = ConnectError(f"{problem}; nothing was sent")
    error.resend = "never"
    return error


def _innermost(error: BaseException) -> BaseException:
    seen = error
    while True:
        inner = (
            getattr(seen, "reason", None) or seen.__cause__ or (seen.args[0] if seen.args else 0)
        )
        if not isinstance(inner, BaseException):
            return seen
        seen = inner


def _reason(seen: BaseException) -> str:
    """A cause in few words. The library's own text would name objects in memory."""
    if isinstance(seen, ssl.SSLCertVerificationError):
        return f"certificate verify failed, {seen.verify_message}"
    if isinstance(seen, ssl.SSLError):
        return f"the TLS handshake failed, {seen.reason or type(seen).__name__}"
    if isinstance(seen, OSError) and seen.errno:
        return os.strerror(seen.errno) if seen.errno > 0 else str(seen.strerror)
    if isinstance(seen, OSError) and not isinstance(seen, ValueError):
        return str(seen).rpartition(": ")[2] or type(seen).__name__
    if status := getattr(seen, "status", None):
        return f"the proxy answered with HTTP {status}"
    return type(seen).__name__  # its text may quote a header, and so the key


class Patience:
    """What a call waits for, and until when. Times are those of `time.monotonic`.

    Only the cloud's silence counts: while the caller is busy with a frame, nothing but the deadline
    of the whole call runs on.
    """

    __slots__ = ("_deadline", "_limits", "_phase", "until")

    def __init__(self, limits: Timeout, deadline: float | None) -> None:
        """Begin to wait for a connection.

        Args:
            limits: How long each wait may be.
            deadline: When the whole call has to end, or None.
        """
        self._limits = limits
        self._deadline = float("inf") if deadline is None else deadline
        self._wait("connect_s", limits.connect_s)

    def connected(self) -> None:
        """Begin to wait for the first frame: the request is being sent."""
        self._wait("first_frame_s", self._limits.first_frame_s)

    def pause(self) -> None:
        """A frame came; the caller has it."""
        if self._phase != "ended":
            self._phase = "between_frames_s"
            self.until = self._deadline

    def resume(self) -> None:
        """The caller wants the next frame."""
        if self._phase != "ended":
            self._wait("between_frames_s", self._limits.between_frames_s)

    def run_ended(self) -> None:
        """Wait only a moment: the run has finished, its stream is still to end."""
        self._wait("ended", _SETTLE_S)

    def failed(self) -> None:
        """The status says that the call failed: wait only a while for what the body says of it."""
        self._wait("ended", _ERROR_S)

    def _wait(self, phase: str, limit_s: float) -> None:
        self._phase = phase
        self.until = min(time.monotonic() + limit_s, self._deadline)

    def remaining_s(self) -> float:
        """Seconds left to wait.

        Raises:
            BailianError: There are none.
        """
        left = self.until - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    def limits_s(self) -> tuple[float, float]:
        """Seconds to connect in, and then to wait for the head of the answer."""
        until_deadline = self._deadline - time.monotonic()
        return self.remaining_s(), min(self._limits.first_frame_s, max(until_deadline, 0.001))

    def error(self) -> BailianError:
        """The error for a wait that was too long."""
        if self.until == self._deadline:
            what = f"the call took longer than total_s={self._limits.total_s:g} s"
        elif self._phase == "connect_s":
            what = f"no connection was made within connect_s={self._limits.connect_s:g} s"
        elif self._phase == "first_frame_s":
            what = f"no frame came within first_frame_s={self._limits.first_frame_s:g} s"
        else:
            what = f"no further frame came for between_frames_s={self._limits.between_frames_s:g} s"
        if self._phase == "connect_s":
            return ConnectError(f"{what}; nothing was sent")
        return RequestTimeoutError(f"{what}; timeout: raise it if the app needs longer")
