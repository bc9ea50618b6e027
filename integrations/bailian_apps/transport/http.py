"""The HTTP connections handed to the SDK: one POST each, and nothing behind the user's back.

The SDK takes a session from outside and asks little of it, so a `SyncCall` here, and an `AsyncCall`
in `async_http`, is both the session and the response of one request, over connections that all
calls share. Against
the SDK's own sessions: no resend, no redirect, no cookie or `.netrc` that crosses keys, no limit on
a line's length, connecting in bounded time, no linger after `close`, and a typed error for all that
can go wrong. Proxies and certificates are taken from the environment, as everywhere.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, cast

import requests
import requests.adapters
import requests.utils
import urllib3.exceptions
from typing_extensions import override

from bailian_apps.core.errors import BailianError
from bailian_apps.transport.answer import (
    Answer,
    Patience,
    frame_lines,
    is_stream,
    lost,
    media_type,
    not_connected,
    read_answer,
)
from bailian_apps.transport.sse import FrameLine, SSEReader

CHUNK: Final = 65536
_POOLED_CONNECTIONS: Final = 100  # kept open for reuse; more may be open at a time

# A connection that a NAT gateway dropped without a word is noticed after some two minutes.
KEEP_ALIVE: Final[list[tuple[int, int, int]]] = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, cast("int", getattr(socket, name)), value)
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address, by the rules of requests."""
    return requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))


class _Adapter(requests.adapters.HTTPAdapter):
    @override
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, socket_options=KEEP_ALIVE)

    @override
    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, **proxy_kwargs, socket_options=KEEP_ALIVE)


class _SyncSession(requests.Session):
    def __init__(self) -> None:
        super().__init__()
        # Some authentication must be set, or requests replaces our Bearer key by a .netrc entry.
        self.auth = _keep_headers
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        # A compressed stream is held back until a block is full.
        self.headers["Accept-Encoding"] = "identity"
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(pool_maxsize=_POOLED_CONNECTIONS))

    @override
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None  # it would be parsed even where it is not followed


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


class _Body(io.BytesIO):
    """A request's body that knows whether it was asked for.

    It is sent after the head, so until then the server cannot have run anything. The library's
    exceptions do not tell: behind a proxy a reset after sending looks like one before.
    """

    def __init__(self, data: bytes, patience: Patience) -> None:
        super().__init__(data)
        self.asked_for = False
        self._patience = patience

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        if not self.asked_for:
            self.asked_for = True
            self._patience.connected()
        return super().read(size)


class SyncCall:
    """One POST, as the SDK sees a `requests.Session` and its response."""

    def __init__(self, patience: Patience) -> None:
        """Prepare a call; `post` makes it."""
        self.headers: Mapping[str, str] = {}
        self.status_code = 0
        self._patience = patience
        self._response: requests.Response | None = None
        self._plain: http.client.HTTPResponse | None = None
        self._socket: socket.socket | None = None
        self._read1: Callable[[int], bytes] = lambda _: b""
        self._answer: Answer | None = None
        self._closed = False

    def post(self, url: str, *, data: bytes, headers: dict[str, str], **_: object) -> SyncCall:
        """Send the request and read the head of the answer.

        Raises:
            BailianError: No answer, or an answer that is an error.
        """
        body = _Body(data, self._patience)
        if self._closed:
            raise lost(sent=False)
        try:
            response = _shared_sync_session().post(
                url,
                data=body,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=self._patience.limits_s(),
            )
        except BailianError:
            raise
        except (OSError, ValueError) as error:  # the library's own are OSErrors
            if isinstance(error, requests.exceptions.Timeout):
                raise self._patience.error() from None
            if not body.asked_for:
                raise not_connected(url, error, proxy=proxy_for(url)) from None
            raise lost(sent=True) from None
        self._response = response
        self._choose_source(response)
        self.status_code, self.headers = response.status_code, response.headers
        response.headers["Content-Type"] = media_type(response.headers)  # the SDK minds capitals
        if self._closed:  # by another thread, meanwhile
            self.close()
            raise lost(sent=True)
        if not is_stream(self.status_code, self.headers):
            self._answer = read_answer(self.status_code, self.headers, self._read_body())
        return self

    def iter_lines(self) -> Iterator[FrameLine]:
        """The events of the stream, as lines."""
        reader = SSEReader()
        while chunk := self._read():
            if events := reader.feed(chunk):
                self._patience.pause()
                yield from frame_lines(events, self.headers)
                self._patience.resume()
        yield from frame_lines(reader.close(), self.headers)

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

    def _choose_source(self, response: requests.Response) -> None:
        """Find what to read from, and the socket behind it.

        urllib3 wraps each read in 4 µs of its own, a third of what a small frame costs in all.
        Where the private names that lead past it have gone, or the body is compressed all the same,
        it is read through urllib3, and the timeout given on sending still bounds every wait.
        """
        plain = getattr(response.raw, "_fp", None)
        if isinstance(plain, http.client.HTTPResponse) and not response.headers.get(
            "Content-Encoding"
        ):
            found = getattr(getattr(plain.fp, "raw", None), "_sock", None)
            self._socket = found if isinstance(found, socket.socket) else None
            self._plain, self._read1 = plain, plain.read1
        else:
            chunks = response.raw.stream(CHUNK, decode_content=True)
            self._read1 = lambda _: next(chunks, b"")

    def _read(self) -> bytes:
        left_s = self._patience.remaining_s()
        try:
            if self._socket is not None:
                self._socket.settimeout(left_s)
            chunk = self._read1(CHUNK)
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
            raise lost(sent=True, streaming=True) from None
        if not chunk:
            self._end()
        return chunk

    def _end(self) -> None:
        """The body is over: give the connection back, unless the body was cut short."""
        if self._plain is not None:
            if self._plain.length:
                raise lost(sent=True, streaming=True)
            self._plain.close()  # or the connection's next response would find this one open
        cast("requests.Response", self._response).raw.release_conn()

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
