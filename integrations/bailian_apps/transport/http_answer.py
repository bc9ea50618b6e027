"""What an HTTP response means: frames, an answer object or a typed error. Pure."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from typing import Final, cast
from urllib.parse import urlsplit

from bailian_apps.core.api_errors import api_error
from bailian_apps.core.decoder import Decoder, finish_reason
from bailian_apps.core.errors import (
    BailianError,
    ConnectError,
    ConnectionLostError,
    ProtocolError,
    StreamInterruptedError,
    retry_after_s,
)
from bailian_apps.core.language import N_
from bailian_apps.core.values import json_object
from bailian_apps.transport.sse import (
    ErrorEvent,
    Frame,
    SSEReader,
    first_field,
    holds_error,
    spelt_alike,
)

MAX_ERROR_BYTES: Final = 1 << 20
"""How much of an error's body is read."""


def is_stream(status_code: int, headers: Mapping[str, str]) -> bool:
    """Whether a response is an event stream with frames."""
    return status_code == 200 and media_type(headers) == "text/event-stream"


def media_type(headers: Mapping[str, str]) -> str:
    """Return a response's media type, without parameters."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def asked_of(url: str, workspace: str | None) -> str:
    """Return which host and workspace a request asks, for an error's hint."""
    return (urlsplit(url).hostname or "") + (f", workspace {workspace}," if workspace else "")


def read_answer(
    status_code: int, headers: Mapping[str, str], body: bytes, *, asked: str = ""
) -> Frame:
    """Read a response that is not an event stream; of an error's body, at least its beginning.

    Args:
        status_code: The HTTP status.
        headers: The headers of the response.
        body: Its body.
        asked: Which host and workspace were asked, see `asked_of`.

    Returns:
        The answer object, as the one frame of a run that finished.

    Raises:
        APIError: The cloud, or a proxy before it, answered with an error.
        TransportError: A redirect, or a body that is not an answer object.
    """
    _refuse_redirect(status_code)
    if status_code != 200 and media_type(headers) == "text/event-stream":
        answer = _first_event(body)
    else:
        answer = json_object(body)
    if answer is not None and (status_code != 200 or holds_error(answer)):
        error = _error_in(answer, None if status_code == 200 else status_code, headers, asked)
        if answer.get("output"):  # whatever the status, something ran
            decoder = Decoder()
            decoder.feed(answer)
            error.partial, error.request_state = decoder.partial(), "unknown"
        raise error
    if answer is not None and isinstance(answer.get("output"), dict):
        # A complete HTTP body is a finished run, even with a null finish_reason.
        if finish_reason(answer["output"]) is None:
            answer["output"]["finish_reason"] = "stop"
        return answer
    if status_code == 200:
        raise _not_an_answer(status_code, headers, body)
    raise _foreign_error(status_code, headers, body, asked)


def read_object(
    status_code: int, headers: Mapping[str, str], body: bytes, *, asked: str = ""
) -> Frame:
    """Read a response whose body is one JSON object, such as a background run.

    Args:
        status_code: The HTTP status.
        headers: The headers of the response.
        body: Its body.
        asked: Which host and workspace were asked, see `asked_of`.

    Raises:
        APIError: The cloud, or a proxy before it, answered with an error.
        TransportError: A redirect, or a body that is not a JSON object.
    """
    _refuse_redirect(status_code)
    answer = json_object(body)
    if answer is not None and (status_code >= 300 or ("id" not in answer and holds_error(answer))):
        raise _error_in(answer, None if status_code == 200 else status_code, headers, asked)
    if answer is None and status_code >= 300:
        raise _foreign_error(status_code, headers, body, asked)
    if answer is None:
        raise _not_an_answer(status_code, headers, body)
    return answer


def _not_an_answer(status_code: int, headers: Mapping[str, str], body: bytes) -> BailianError:
    if not body:
        return connection_lost_error(sent=True)
    return ProtocolError(
        N_(
            "the server answered {status_code} with {what}, which is not an answer of "
            "this API; check that base_url is the API's address"
        ).format(status_code=status_code, what=_kind(headers)),
        status_code=status_code,
    )


def _refuse_redirect(status_code: int) -> None:
    if 300 <= status_code < 400:
        raise ProtocolError(
            "the server answered with a redirect, which is not followed because it would send the "
            "API key to another address; pass the final address as base_url",
            status_code=status_code,
        )


def _foreign_error(
    status_code: int, headers: Mapping[str, str], body: bytes, asked: str
) -> BailianError:
    message = N_(
        "the server answered with {what} instead of JSON; it may come from a proxy before the API"
    )
    if not body.strip():
        message = N_(
            "the server answered with {what} instead of JSON, and an empty body; it may come from "
            "a proxy before the API"
        )
    return api_error(
        None,
        message.format(what=_kind(headers)),
        status_code=status_code,
        retry_after_s=retry_after_s(headers),
        asked=asked,
    )


def _kind(headers: Mapping[str, str]) -> str:
    return media_type(headers) or N_("no content type")


class FrameReader:
    """Bytes of an event stream in, frames out, grouped by arrival.

    Attributes:
        run_ended: Whether a frame ended the run. Errors after it are of no consequence.
        error: The error event that ended the stream, if any. It comes after the frames before it.
    """

    def __init__(self, headers: Mapping[str, str], *, asked: str = "") -> None:
        """Start at the beginning of a stream that came with `headers`; `asked` as `read_answer`."""
        self.run_ended = False
        self.error: BailianError | None = None
        self._headers = headers
        self._asked = asked
        self._reader = SSEReader()
        self._begun = False

    def feed(self, chunk: bytes) -> Sequence[list[Frame]]:
        """Read a chunk; return its frames in lists of at least one.

        The first frame of a stream is a list of its own, so that nothing delays it.
        """
        return self._batches(self._reader.feed(chunk))

    def close(self) -> Sequence[list[Frame]]:
        """The stream is over: return the frame that it ended in the middle of, if any."""
        return self._batches(self._reader.close())

    def _batches(self, events: list[Frame | ErrorEvent]) -> Sequence[list[Frame]]:
        frames: list[Frame] = []
        for event in events:
            if type(event) is ErrorEvent:
                if not self.run_ended:
                    self.error = _stream_error(event, self._headers, self._asked)
                break
            frame = cast("Frame", event)
            frames.append(frame)
            if not self.run_ended:
                output = frame.get("output")
                self.run_ended = type(output) is dict and (
                    finish_reason(cast("Frame", output)) is not None
                )
        if not frames:
            return ()
        if self._begun or len(frames) == 1:
            self._begun = True
            return (frames,)
        self._begun = True
        return (frames[:1], frames[1:])


def _stream_error(event: ErrorEvent, headers: Mapping[str, str], asked: str) -> BailianError:
    answer = json_object(event.data) or {"message": event.data.decode("utf-8", "replace")}
    error = _error_in(answer, event.status_code, headers, asked)
    # Whatever the code, the run may have happened: a node of a workflow can be throttled after
    # another one has sent mail.
    error.request_state = "unknown"
    return error


def _error_in(
    answer: Frame, status_code: int | None, headers: Mapping[str, str], asked: str
) -> BailianError:
    # The models' API nests an error under `error`, the console's gateway under `data`.
    inner = spelt_alike(answer.get("error"))
    layers = [inner, spelt_alike(answer), spelt_alike(answer.get("data"))]
    message = first_field(layers, "message", "msg", "errormessage", "errormsg")
    error = answer.get("error")
    return api_error(
        first_field(layers, "errorcode", "code") or first_field([inner], "type"),
        message or (error if isinstance(error, str) else None),
        status_code=status_code,
        request_id=first_field(layers, "requestid") or headers.get("X-Request-Id"),
        retry_after_s=retry_after_s(headers),
        asked=asked,
    )


def _first_event(body: bytes) -> Frame | None:
    """Read the first error event, where an error comes as an event stream.

    If a frame with an output comes before it, the output is added: something ran.
    """
    reader = SSEReader()
    output: object = None
    for event in reader.feed(body) + reader.close():
        if isinstance(event, ErrorEvent):
            answer = json_object(event.data)
            return {"output": output, **answer} if answer and output else answer
        output = output or event.get("output")
    return None


def connection_lost_error(*, sent: bool, streaming: bool = False) -> BailianError:
    """Make the error for a lost connection: before or after sending, or while streaming."""
    if streaming:
        return StreamInterruptedError("the connection was lost before the run finished")
    if sent:
        return ConnectionLostError(
            "the connection was lost after the request was sent; the run may have happened"
        )
    return ConnectError("the connection was lost before the request was sent")


def connect_error(url: str, error: BaseException, *, proxy: str | None) -> ConnectError:
    """Make the error for a connection that was not made. Of the URL it names only the host."""
    parts = urlsplit(url)
    host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    cause = root_cause(error)
    message = N_("could not connect to {host}: {cause}; nothing was sent")
    if proxy:
        message = N_("could not connect to {host} through a proxy: {cause}; nothing was sent")
    failed = ConnectError(message.format(host=host, cause=_describe(cause)))
    failed.permanent = isinstance(cause, ValueError)  # a refused certificate, or a host name
    return failed


def spoke_first_error() -> ConnectError:
    """Make the error for a server that sent something, or hung up, before a request was sent."""
    return ConnectError(
        "the server answered or closed the new connection before it was asked; nothing was sent"
    )


def environment_error(problem: str) -> ConnectError:
    """Make the error for an environment in which no attempt can connect."""
    error = ConnectError(N_("{problem}; nothing was sent").format(problem=N_(problem)))
    error.permanent = True
    return error


def root_cause(error: BaseException) -> BaseException:
    """Return the innermost of the errors that a library has wrapped in each other."""
    cause = error
    while True:
        inner = (
            getattr(cause, "reason", None)
            or cause.__cause__
            or (cause.args[0] if cause.args else 0)
        )
        if not isinstance(inner, BaseException):
            return cause
        cause = inner


def _describe(cause: BaseException) -> str:
    """Describe a cause in a few words. The library's own text would name objects in memory."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return N_("certificate verify failed, {reason}").format(reason=cause.verify_message)
    if isinstance(cause, ssl.SSLError):
        reason = cause.reason or type(cause).__name__
        return N_("the TLS handshake failed, {reason}").format(reason=reason)
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    if isinstance(cause, OSError) and not isinstance(cause, ValueError):
        return str(cause).rpartition(": ")[2] or type(cause).__name__
    if status := getattr(cause, "status", None):
        return N_("the proxy answered with HTTP {status}").format(status=status)
    return type(cause).__name__  # its text may quote a header, and so the key
