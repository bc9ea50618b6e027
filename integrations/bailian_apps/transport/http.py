"""The HTTP connections handed to the SDK: one POST each, and nothing behind the user's back.

The SDK takes a session from outside and asks little of it, so a `SyncCall` here, and an `AsyncCall`
in `async_http`, is both the session and the response of one request, over connections that all
calls share. Against the SDK's own sessions: no resend, no redirect, no cookie or `.netrc` that
crosses keys, no limit on a line's length, connecting in bounded time, no linger after `close`, and
a typed error for all that can go wrong. Proxies and certificates are taken from the environment, as
everywhere.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, cast

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.exceptions
from typing_extensions import override
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from bailian_apps.core.errors import BailianError
from bailian_apps.transport.answer import (
    MAX_ERROR_BYTES,
    Answer,
    EventLines,
    Patience,
    is_stream,
    lost,
    media_type,
    read_answer,
)
from bailian_apps.transport.body import Body
from bailian_apps.transport.environment import unreachable
from bailian_apps.transport.sse import FrameLine

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


_calling = threading.local()
"""`call`: the `SyncCall` that this thread is sending."""


class _Arriving(io.RawIOBase):
    """What arrives at a socket; the head of an answer in the call's time, however slowly it drips.

    A socket's own timeout begins anew with every byte.

    Attributes:
        patience: How long to wait; None once the head was read, for `Body` has its own way.
    """

    def __init__(self, connected: socket.socket, raw: Any, patience: Patience) -> None:
        self._sock = connected  # by this name `Body` finds it, as in a `socket.SocketIO`
        self._raw = raw
        self.patience: Patience | None = patience

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int | None:
        if self.patience is not None:
            self._sock.settimeout(self.patience.remaining_s())
        return self._raw.readinto(buffer)

    @override
    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer, without what a server says before it.

    http.client takes a 103 for the answer: then the real one would be left on the connection, to be
    read as the answer to the next call.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._arriving = _Arriving(sock, self.fp.detach(), _calling.call.patience)
        self.fp = io.BufferedReader(self._arriving)

    @override
    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = self.msg = cast("Any", None)  # what makes it read a head again
            super().begin()
        self._arriving.patience = None


class _Connection(urllib3.connection.HTTPConnection):
    """A connection that shows each socket it uses to its call, which another thread may end."""

    response_class = _Response

    @override
    def connect(self) -> None:
        super().connect()
        _calling.call.hold(getattr(self.sock, "socket", self.sock))  # TLS within TLS is no socket

    @override
    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # used before
            _calling.call.hold(getattr(self.sock, "socket", self.sock))
        super().request(*args, **kwargs)

    @override
    def _new_conn(self) -> socket.socket:
        """Connect to the first of the host's addresses that answers; they share the time there is.

        urllib3 would give each of them all of it.
        """
        patience: Patience = _calling.call.patience
        try:
            host = self._dns_host.strip("[]")
            found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NewConnectionError(self, "no address was found") from error
        for left, address in zip(range(len(found), 0, -1), found, strict=True):
            try:
                return self._connect_to(address, patience.remaining_s() / left)
            except BailianError:
                raise
            except OSError as error:
                if left == 1:
                    late = isinstance(error, TimeoutError)
                    failed = ConnectTimeoutError if late else NewConnectionError
                    raise failed(self, "no address answered") from error
        raise NewConnectionError(self, "no address was found")

    def _connect_to(self, found: Any, limit_s: float) -> socket.socket:
        family, kind, protocol, _, address = found
        connected = socket.socket(family, kind, protocol)
        try:
            _calling.call.hold(connected)
            for option in self.socket_options or ():
                connected.setsockopt(*option)
            connected.settimeout(limit_s)
            connected.connect(address)
            connected.settimeout(_calling.call.patience.remaining_s())
        except BaseException:
            connected.close()
            raise
        return connected


class _TLSConnection(_Connection, urllib3.connection.HTTPSConnection):
    _connected: socket.socket | None = None

    @override
    def connect(self) -> None:
        try:
            super().connect()
        finally:
            if self._connected is not None:
                self._connected.close()

    @override
    def _new_conn(self) -> socket.socket:
        # TLS takes the socket that it gets apart, and shows its own only after the handshake. So
        # the call holds this one until then.
        self._connected = super()._new_conn()
        return self._connected.dup()


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls: Any = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls: Any = _TLSConnection


_POOLS: Final[dict[str, Any]] = {"http": _Pool, "https": _TLSPool}


class _Adapter(requests.adapters.HTTPAdapter):
    @override
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, socket_options=KEEP_ALIVE)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    @override
    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **proxy_kwargs, socket_options=KEEP_ALIVE)
        if type(manager) is urllib3.ProxyManager:  # the one for SOCKS has connections of its own
            manager.pool_classes_by_scheme = _POOLS
        return manager


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


class _Sent(io.BytesIO):
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
    """One POST, as the SDK sees a `requests.Session` and its response.

    Attributes:
        patience: How long it waits.
        lines: Its events.
    """

    def __init__(self, patience: Patience) -> None:
        """Prepare a call; `post` makes it."""
        self.headers: Mapping[str, str] = {}
        self.status_code = 0
        self.patience = patience
        self.lines = EventLines({})
        self._response: requests.Response | None = None
        self._body: Body | None = None
        # The socket that the call uses, until someone takes it out: to hang it up, or because the
        # connection goes back to the pool, and may be another call's a moment later.
        self._held: list[socket.socket] = []
        self._answer: Answer | None = None
        self._closed = False
        self._process = os.getpid()

    def post(self, url: str, *, data: bytes, headers: dict[str, str], **_: object) -> SyncCall:
        """Send the request and read the head of the answer.

        Raises:
            BailianError: No answer, or an answer that is an error.
        """
        body = _Sent(data, self.patience)
        interrupted = getattr(_calling, "call", None)  # this may be a signal handler's call
        _calling.call = self
        try:
            response = _shared_sync_session().post(
                url,
                data=body,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=self.patience.limits_s(),
            )
        except BailianError:
            raise
        except (OSError, ValueError) as error:  # the library's own are OSErrors
            if self._closed:
                raise lost(sent=body.asked_for) from None
            if isinstance(error, requests.exceptions.Timeout):
                raise self.patience.error() from None
            if not body.asked_for:
                raise unreachable(url, error) from None
            raise lost(sent=True) from None
        finally:
            _calling.call = interrupted
        self._response, self._body = response, Body(response.raw)
        if self._body.socket is not None:
            self._held[:] = [self._body.socket]
        self.status_code, self.headers = response.status_code, response.headers
        response.headers["Content-Type"] = media_type(response.headers)  # the SDK minds capitals
        if self._closed:  # meanwhile
            raise lost(sent=True)
        if not is_stream(self.status_code, self.headers):
            self._answer = read_answer(self.status_code, self.headers, self._read_body())
        return self

    def iter_lines(self) -> Iterator[FrameLine]:
        """The events of the stream, as lines."""
        self.lines = EventLines(self.headers)
        while chunk := self._read():
            if lines := self.lines.feed(chunk):
                self.patience.pause()
                yield from lines
                self.patience.resume()
        yield from self.lines.close()

    def json(self) -> Answer:
        """The answer, when it was not a stream."""
        return self._answer or {}

    def settle(self) -> None:
        """The run has finished: wait only a moment for the end of the stream."""
        self.patience.run_ended()

    def hold(self, connected: socket.socket) -> None:
        """Remember the socket that the call uses from now on.

        Raises:
            ConnectError: The call was closed; nothing is sent.
        """
        self._held[:] = [connected]
        if self._closed:
            raise lost(sent=False)

    def hang_up(self) -> None:
        """End the call from outside: from any thread, or in a signal handler.

        It waits for no lock and frees nothing that may be in use. Who is in `post`, or reads, finds
        the connection lost, and then closes the call.
        """
        self._closed = True
        # A child that was forked off holds the parent's connection, too; it may only let go of it.
        if os.getpid() == self._process:
            with contextlib.suppress(IndexError, OSError):  # there is none; it is closed already
                # Not TLS's own shutdown, which takes the session away from under a reading thread.
                socket.socket.shutdown(self._held.pop(), socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, unless it went back to the pool after the last byte.

        Never by way of the pool, which has a lock: the garbage collector, which closes a forgotten
        stream, may have interrupted the very thread that holds it.
        """
        self.hang_up()
        if self._response is not None:
            self._response.raw.close()

    def _read(self) -> bytes:
        assert self._body is not None, "the head was read"  # noqa: S101
        try:
            chunk = self._body.read(self.patience)
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError):
            raise self.patience.error() from None
        except BailianError:
            raise
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            raise lost(sent=True, streaming=True) from None
        if not chunk and self._body.clean:
            self._give_back()
        return chunk

    def _give_back(self) -> None:
        """Give the connection back to the pool, unless it is being hung up."""
        try:
            self._held.pop()
        except IndexError:
            return
        assert self._response is not None, "the body was read"  # noqa: S101
        self._response.raw.release_conn()

    def _read_body(self) -> bytes:
        parts: list[bytes] = []
        if self.status_code != 200:
            self.patience.failed()
        try:
            while chunk := self._read():
                parts.append(chunk)
                if self.status_code != 200 and sum(map(len, parts)) > MAX_ERROR_BYTES:
                    break
        except BailianError:
            if self.status_code == 200:
                raise
            # The status alone says what failed; what came of the body may say why.
        return b"".join(parts)
