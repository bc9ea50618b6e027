"""The HTTP connections handed to the SDK: one POST each, and nothing behind the user's back.

The SDK takes a session from outside and asks little of it, so a `SyncCall` or `AsyncCall` is both
the session and the response of one request, over a connection pool that all calls share. Against
the SDK's own sessions: no resend, no redirect, no cookie or `.netrc` that crosses keys, no limit on
a line's length, connecting in bounded time, no linger after `close`, and a typed error for all that
can go wrong. Proxies are taken from the environment, as everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
import time
import urllib.request
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, TypeAlias, cast
from urllib.parse import urlsplit

import aiohttp
import certifi
import requests
import requests.adapters
import urllib3.exceptions
from typing_extensions import Self

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

_CHUNK: Final = 65536
_POOLED_CONNECTIONS: Final = 100  # kept open for reuse; more may be open at a time
# Once the run has finished, how long to wait for the stream's own end before the socket is dropped.
_SETTLE_S: Final = 0.5


# --------------------------------------------------------------- pure, shared


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
        ProtocolError: A redirect, or a body that is no answer object.
    """
    content_type = headers.get("Content-Type", "no content type")
    if 300 <= status_code < 400:
        raise ProtocolError(
            "the server answered with a redirect, which is not followed because the key would go "
            "along; base_url: pass the address it ends at",
            status_code=status_code,
        )
    answer = _json_object(body)
    if answer is not None and status_code == 200 and isinstance(answer.get("output"), dict):
        # A whole HTTP body is a finished run, whatever its null fields say.
        if answer["output"].get("finish_reason") in (None, "", "null"):
            answer["output"]["finish_reason"] = "stop"
        return answer
    if answer is not None and (status_code != 200 or answer.get("code")):
        raise _error_in(answer, None if status_code == 200 else status_code, headers)
    if status_code == 200:
        if not body:
            raise _lost(after_headers=False)
        raise ProtocolError(
            f"the server answered 200 with {content_type}, which is no answer of this API; "
            "base_url: check that it is the API's address",
            status_code=status_code,
        )
    raise api_error(
        None,
        f"the server answered with {content_type} instead of JSON"
        + ("" if body.strip() else ", and an empty body")
        + "; it may come from a proxy before the API",
        status_code=status_code,
        retry_after_s=retry_after_s(headers),
    )


def _frame_lines(
    events: list[FrameLine | ErrorEvent], headers: Mapping[str, str]
) -> Iterator[FrameLine]:
    for event in events:
        if type(event) is FrameLine:
            yield event
        elif type(event) is ErrorEvent:
            answer = _json_object(event.data)
            if answer is None:
                text = event.data.decode("utf-8", "replace")
                raise api_error(None, text, status_code=event.status_code)
            raise _error_in(answer, event.status_code, headers)


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


def _json_object(body: bytes) -> Answer | None:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return cast("Answer", parsed) if isinstance(parsed, dict) else None


def _is_stream(status_code: int, headers: Mapping[str, str]) -> bool:
    return status_code == 200 and "text/event-stream" in headers.get("Content-Type", "")


def _lost(after_headers: bool) -> BailianError:
    if after_headers:
        return StreamInterruptedError("the connection was lost before the run finished")
    return ConnectionLostError(
        "the connection was lost after the request was sent; the run may have happened"
    )


class Patience:
    """What a call waits for, and until when. Times are those of `time.monotonic`."""

    __slots__ = ("_deadline", "_limits", "_phase", "_until")

    def __init__(self, limits: Timeout, deadline: float | None) -> None:
        """Begin to wait for the first frame.

        Args:
            limits: How long each wait may be.
            deadline: When the whole call has to end, or None.
        """
        self._limits = limits
        self._deadline = deadline
        self._wait("first_frame_s", limits.first_frame_s)

    def frame_came(self) -> None:
        """Begin to wait for the next frame."""
        self._wait("between_frames_s", self._limits.between_frames_s)

    def run_ended(self) -> None:
        """Wait only a moment: the run has finished, its stream is still to end."""
        self._wait("between_frames_s", _SETTLE_S)

    def remaining_s(self) -> float:
        """Seconds left to wait.

        Raises:
            RequestTimeoutError: There are none.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    def connect_s(self) -> float:
        """Seconds left to connect in."""
        return min(self._limits.connect_s, self.remaining_s())

    def error(self) -> RequestTimeoutError:
        """The error for a wait that was too long."""
        if self._until == self._deadline:
            what = f"the call took longer than total_s={self._limits.total_s:g} s"
        elif self._phase == "first_frame_s":
            what = f"no frame came within first_frame_s={self._limits.first_frame_s:g} s"
        else:
            what = f"no further frame came for between_frames_s={self._limits.between_frames_s:g} s"
        return RequestTimeoutError(f"{what}; timeout: raise it if the app needs longer")

    def _wait(self, phase: str, limit_s: float) -> None:
        self._phase = phase
        self._until = time.monotonic() + limit_s
        if self._deadline is not None and self._deadline < self._until:
            self._until = self._deadline


def _not_connected(url: str, error: BaseException) -> BailianError:
    proxied = " through the proxy in the environment" if _proxy_for(url) else ""
    return ConnectError(
        f"could not connect to {urlsplit(url).netloc}{proxied}: {_reason(error)}; nothing was sent"
    )


def _reason(error: BaseException) -> str:
    """The innermost cause in few words. The library's own text would name objects in memory."""
    seen = error
    while True:
        inner = (
            getattr(seen, "reason", None) or seen.__cause__ or (seen.args[0] if seen.args else 0)
        )
        if not isinstance(inner, BaseException):
            break
        seen = inner
    if isinstance(seen, ssl.SSLCertVerificationError):
        return f"certificate verify failed, {seen.verify_message}"
    if isinstance(seen, OSError) and seen.errno:
        return os.strerror(seen.errno) if seen.errno > 0 else str(seen.strerror)
    return str(seen).rpartition(": ")[2] or type(seen).__name__


# ----------------------------------------------------------------------- sync


class _SyncSession(requests.Session):
    def __init__(self) -> None:
        super().__init__()
        # Some authentication must be set, or requests replaces our Bearer key by a .netrc entry.
        self.auth = _keep_headers
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        # A compressed stream is held back until a block is full.
        self.headers["Accept-Encoding"] = "identity"
        for scheme in ("http://", "https://"):
            self.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=_POOLED_CONNECTIONS))


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


_sync_session: _SyncSession | None = None
_sync_lock = threading.Lock()


def _shared_sync_session() -> _SyncSession:
    global _sync_session
    with _sync_lock:
        if _sync_session is None:
            _sync_session = _SyncSession()
        return _sync_session


def _forget_after_fork() -> None:
    # Parent and child would read each other's answers from one socket.
    global _sync_session, _sync_lock
    _sync_session, _sync_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


class SyncCall:
    """One POST, as the SDK sees a `requests.Session` and its response."""

    def __init__(self, patience: Patience) -> None:
        """Prepare a call; `post` makes it."""
        self.headers: Mapping[str, str] = {}
        self.status_code = 0
        self._patience = patience
        self._response: requests.Response | None = None
        self._read1: Callable[[int], bytes] = lambda _: b""
        self._socket: socket.socket | None = None
        self._answer: Answer | None = None
        self._closed = False

    def post(self, url: str, *, data: bytes, headers: dict[str, str], **_: object) -> SyncCall:
        """Send the request and read the head of the answer.

        Raises:
            BailianError: No answer, or an answer that is an error.
        """
        try:
            response = _shared_sync_session().post(
                url,
                data=data,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=(self._patience.connect_s(), self._patience.remaining_s()),
            )
        except requests.exceptions.ReadTimeout:
            raise self._patience.error() from None
        except requests.exceptions.RequestException as error:
            if _certainly_not_sent(error):
                raise _not_connected(url, error) from None
            raise _lost(after_headers=False) from None
        self._response = response
        self._read1, self._socket = _source_of(response)
        if self._closed:  # by another thread, meanwhile
            self.close()
            raise _lost(after_headers=False)
        self.status_code, self.headers = response.status_code, response.headers
        if not _is_stream(self.status_code, self.headers):
            self._answer = read_answer(self.status_code, self.headers, self._read_body())
        return self

    def iter_lines(self) -> Iterator[FrameLine]:
        """The events of the stream, as lines."""
        reader = SSEReader()
        while chunk := self._read():
            if events := reader.feed(chunk):
                self._patience.frame_came()
                yield from _frame_lines(events, self.headers)
        yield from _frame_lines(reader.close(), self.headers)

    def json(self) -> Answer:
        """The answer, when it was not a stream."""
        return self._answer or {}

    def settle(self) -> None:
        """The run has finished: wait only a moment for the end of the stream."""
        self._patience.run_ended()

    def close(self) -> None:
        """Free the connection: back to the pool after the last byte, else closed at once.

        Another thread may call this while one reads: the reader then finds the connection lost.
        """
        self._closed = True
        if self._response is None:
            return
        if self._socket is not None and self._response.raw.connection is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._response.close()

    def _read(self) -> bytes:
        left_s = self._patience.remaining_s()
        try:
            if self._socket is not None:
                self._socket.settimeout(left_s)
            chunk = self._read1(_CHUNK)
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError):
            raise self._patience.error() from None
        except (
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            ValueError,
            AttributeError,
        ):
            # The last two are what a response says that another thread closed.
            raise _lost(after_headers=True) from None
        if not chunk:
            cast("requests.Response", self._response).raw.release_conn()
        return chunk

    def _read_body(self) -> bytes:
        parts: list[bytes] = []
        try:
            while chunk := self._read():
                parts.append(chunk)
        except BailianError:
            if self.status_code == 200:
                raise
            # The status alone says what failed; what came of the body may say why.
        return b"".join(parts)


def _certainly_not_sent(error: requests.exceptions.RequestException) -> bool:
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    cause = getattr(reason, "args", (None,))[0]
    return (
        isinstance(
            error,
            (
                requests.exceptions.ConnectTimeout,
                requests.exceptions.ProxyError,  # urllib3 says so only before it reached the proxy
                requests.exceptions.InvalidURL,
                requests.exceptions.InvalidHeader,
            ),
        )
        or isinstance(reason or cause, urllib3.exceptions.NewConnectionError)
        or isinstance(cause, ssl.SSLCertVerificationError)
    )


def _source_of(
    response: requests.Response,
) -> tuple[Callable[[int], bytes], socket.socket | None]:
    """What to read a response with, and the socket behind it.

    urllib3 wraps each read in 4 µs of its own, a third of what a small frame costs in all. Where
    the private names that lead past it have gone, or the body is compressed, it is read through it,
    and the timeout given on sending still bounds every wait.
    """
    plain = getattr(response.raw, "_fp", None)
    if not isinstance(plain, http.client.HTTPResponse) or "Content-Encoding" in response.headers:
        return response.raw.read1, None
    found = getattr(getattr(plain.fp, "raw", None), "_sock", None)
    return plain.read1, found if isinstance(found, socket.socket) else None


# ---------------------------------------------------------------------- async


_loop_sessions: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[aiohttp.ClientSession]]
] = weakref.WeakKeyDictionary()


async def _session_until_loop_ends() -> AsyncGenerator[aiohttp.ClientSession]:
    """Open a session, and close it when the loop shuts down.

    A loop closes the async generators that were begun in it (`asyncio.run` does), so the session
    needs no closing by the user and leaves no socket behind.
    """
    # The certificates that requests trusts, so that sync and async reach the same servers.
    trusted = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    session = aiohttp.ClientSession(
        # No limit: one that queues silently would not be bounded by any timeout.
        connector=aiohttp.TCPConnector(limit=0, ssl=_ssl_context(trusted or certifi.where())),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
    )
    try:
        yield session
    finally:
        await session.close()


@cache
def _ssl_context(cafile: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=cafile)  # 20 ms


async def _shared_async_session() -> aiohttp.ClientSession:
    loop = asyncio.get_running_loop()
    known = _loop_sessions.get(loop)
    if known is None or known[0].closed:
        keeper = _session_until_loop_ends()
        known = _loop_sessions[loop] = (await anext(keeper), keeper)
    return known[0]


def _proxy_for(url: str) -> str | None:
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)


class AsyncCall:
    """One POST, as the SDK sees an `aiohttp.ClientSession` and its response."""

    # The SDK tells the two kinds of session apart by isinstance, and takes an unknown one for
    # requests'. Inheriting from aiohttp's is discouraged by aiohttp.
    __class__ = property(lambda _self: aiohttp.ClientSession)  # type: ignore[assignment]

    def __init__(self, patience: Patience) -> None:
        """Prepare a call; `request` makes it."""
        self.headers: Mapping[str, str] = {}
        self.status = 0
        self._patience = patience
        self._alarm: asyncio.TimerHandle | None = None
        self._rang = False
        self._response: aiohttp.ClientResponse | None = None
        self._answer: Answer | None = None

    async def request(
        self, method: str, *, url: str, data: bytes, headers: dict[str, str], **_: object
    ) -> AsyncCall:
        """Send the request and read the head of the answer.

        Raises:
            BailianError: No answer, or an answer that is an error.
        """
        session = await _shared_async_session()
        connect_s = self._patience.connect_s()
        try:
            response = await session.request(
                method,
                url,
                data=data,
                headers=headers,
                allow_redirects=False,
                proxy=_proxy_for(url),
                timeout=aiohttp.ClientTimeout(
                    connect=connect_s,
                    sock_connect=connect_s,
                    sock_read=self._patience.remaining_s(),
                ),
                read_bufsize=_CHUNK,
            )
        except aiohttp.SocketTimeoutError:
            raise self._patience.error() from None
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.InvalidURL,
        ) as error:
            raise _not_connected(url, error) from None
        except (aiohttp.ClientError, OSError):
            raise _lost(after_headers=False) from None
        self._response = response
        self.status, self.headers = response.status, response.headers
        if (held := response.connection) is not None and held.protocol is not None:
            # aiohttp's timeout is between reads; from here on the alarm rings, between frames.
            held.protocol.read_timeout = None
            held.protocol.start_timeout()
        self._set_alarm()
        if not _is_stream(self.status, self.headers):
            self._answer = read_answer(self.status, self.headers, await self._read_body())
        return self

    @property
    def content_type(self) -> str:
        """The answer's media type, without parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def content(self) -> AsyncIterator[FrameLine]:
        """The events of the stream, as lines."""
        return self._lines()

    async def json(self) -> Answer:
        """The answer, when it was not a stream."""
        return self._answer or {}

    async def __aenter__(self) -> Self:
        """Enter; the SDK uses a response as a context."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave."""
        self.close()

    def close(self) -> None:
        """Free the connection: back to the pool after the last byte, else closed at once."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._response is not None:
            self._response.close()

    def _set_alarm(self) -> None:
        """Ring when patience has run out.

        A frame only moves the moment; the alarm itself looks again, which costs nothing per frame.
        """
        if self._alarm is not None:
            self._alarm.cancel()
        try:
            left_s = self._patience.remaining_s()
        except RequestTimeoutError:
            self._rang = True
            self.close()
        else:
            self._alarm = asyncio.get_running_loop().call_later(left_s, self._set_alarm)

    def settle(self) -> None:
        """The run has finished: wait only a moment for the end of the stream."""
        self._patience.run_ended()
        self._set_alarm()

    async def _lines(self) -> AsyncGenerator[FrameLine]:
        reader = SSEReader()
        begun = False
        while chunk := await self._read():
            if events := reader.feed(chunk):
                self._patience.frame_came()
                if not begun:
                    begun = True
                    self._set_alarm()  # the wait between frames may be the shorter one
                for line in _frame_lines(events, self.headers):
                    yield line
        for line in _frame_lines(reader.close(), self.headers):
            yield line

    async def _read(self) -> bytes:
        try:
            chunk = await cast("aiohttp.ClientResponse", self._response).content.readany()
        except (aiohttp.ClientError, OSError):
            if self._rang:
                raise self._patience.error() from None
            raise _lost(after_headers=True) from None
        if self._rang:
            raise self._patience.error()
        return chunk

    async def _read_body(self) -> bytes:
        parts: list[bytes] = []
        try:
            while chunk := await self._read():
                parts.append(chunk)
        except BailianError:
            if self.status == 200:
                raise
        return b"".join(parts)
