"""Sync HTTP: one POST a call over pooled urllib3 connections, and nothing else behind it.

Compared with a plain urllib3 or requests call: nothing is sent twice, no redirect is followed, no
cookie or `.netrc` crosses keys, connecting takes a bounded time however many addresses a host has,
a head that drips does not prolong a timeout, and another thread, a signal handler or the garbage
collector may end a call wherever it stands. The private names that this needs are listed in
`private_names`.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import threading
from collections.abc import Generator, Mapping
from typing import Any, Final, cast

import urllib3
import urllib3.connection
from requests.utils import get_auth_from_url
from typing_extensions import override
from urllib3 import make_headers
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as PoolTimeoutError

from bailian_apps.core.errors import BailianError
from bailian_apps.transport.body import ResponseBody
from bailian_apps.transport.environment import Environment, diagnose_connect_failure
from bailian_apps.transport.http_answer import (
    MAX_ERROR_BYTES,
    FrameReader,
    connection_lost_error,
    environment_error,
    is_stream,
    read_answer,
)
from bailian_apps.transport.request_builder import HTTPRequest
from bailian_apps.transport.sse import Frame
from bailian_apps.transport.timeouts import TimeoutBudget

# TCP keep-alive: a connection that a NAT gateway dropped silently is noticed after two minutes.
KEEP_ALIVE: Final[list[tuple[int, int, int]]] = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, cast("int", getattr(socket, name)), value)
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]

_current = threading.local()
"""`call`: the `SyncCall` that this thread is sending."""


class _DeadlineRawIO(io.RawIOBase):
    """Reads a socket, bounding the time of the whole head and not only of each read.

    A socket's own timeout starts again with every byte.

    Attributes:
        budget: How long to wait; None once the head was read, because `ResponseBody` takes over.
    """

    def __init__(self, connected: socket.socket, raw: Any, budget: TimeoutBudget) -> None:
        self._sock = connected  # `ResponseBody` finds it by this name, as in a `socket.SocketIO`
        self._raw = raw
        self.budget: TimeoutBudget | None = budget

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int | None:
        if self.budget is not None:
            self._sock.settimeout(self.budget.remaining_s())
        return self._raw.readinto(buffer)

    @override
    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response, without the informational ones (1xx) before it.

    http.client takes a 103 for the response; the real one would stay on the connection and be read
    as the response to the next call.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._deadline_io = _DeadlineRawIO(sock, self.fp.detach(), _current.call.budget)
        self.fp = io.BufferedReader(self._deadline_io)

    @override
    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = self.msg = cast("Any", None)  # makes http.client read another head
            super().begin()
        self._deadline_io.budget = None


class _Connection(urllib3.connection.HTTPConnection):
    """A connection that gives each socket it uses to its call, so that the call can be ended."""

    response_class = _Response

    @override
    def connect(self) -> None:
        super().connect()
        self._track()

    @override
    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # a pooled connection
            self._track()
        super().request(*args, **kwargs)

    def _track(self) -> None:
        # With TLS in TLS (an https proxy), `sock` is not a socket but has one.
        _current.call.track_socket(getattr(self.sock, "socket", self.sock))

    @override
    def _new_conn(self) -> socket.socket:
        """Connect to the first address of the host that answers; the addresses share the time.

        urllib3 would give each address all of it.
        """
        budget: TimeoutBudget = _current.call.budget
        try:
            host = self._dns_host.strip("[]")
            addresses = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NewConnectionError(self, "no address was found") from error
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                return self._connect_to(address, budget.remaining_s() / left)
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
            _current.call.track_socket(connected)
            for option in self.socket_options or ():
                connected.setsockopt(*option)
            connected.settimeout(limit_s)
            connected.connect(address)
            connected.settimeout(_current.call.budget.remaining_s())
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
        # TLS detaches the socket that it wraps, and shows its own only after the handshake. So the
        # call tracks this one until then.
        self._connected = super()._new_conn()
        return self._connected.dup()


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls: Any = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls: Any = _TLSConnection


_POOLS: Final[dict[str, Any]] = {"http": _Pool, "https": _TLSPool}


class SyncConnections:
    """The pooled connections of a client: a pool manager for each proxy and set of certificates."""

    def __init__(self, environment: Environment, max_idle_connections: int) -> None:
        """Start without connections.

        Args:
            environment: Which proxy and certificates to use.
            max_idle_connections: How many connections a host may keep open for reuse.
        """
        self.environment = environment
        self._max_idle = max_idle_connections
        self._managers: dict[tuple[str | None, str | None], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def post(self, request: HTTPRequest, body: io.BytesIO, limits: urllib3.Timeout) -> Any:
        """Send a request and read the head of the response. Errors are urllib3's own."""
        return self._manager(request.url).urlopen(
            "POST",
            request.url,
            body=body,
            # A compressed stream is held back until a block is full.
            headers={**request.headers, "Accept-Encoding": "identity",
                     "Content-Length": str(len(request.body))},
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=False,
            timeout=limits,
        )  # fmt: skip

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their calls end."""
        with self._lock:
            managers, self._managers = list(self._managers.values()), {}
        for manager in managers:
            manager.clear()

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = self.environment.proxy_for(url)
        secure = "https:" in (url[:6], (proxy or "")[:6])
        trusted = self.environment.certificates() if secure else None
        with self._lock:
            manager = self._managers.get((proxy, trusted))
            if manager is None:
                manager = self._new_manager(proxy, secure=secure)
                self._managers[proxy, trusted] = manager
            return manager

    def _new_manager(self, proxy: str | None, *, secure: bool) -> urllib3.PoolManager:
        context = self.environment.tls_context() if secure else None
        options: dict[str, Any] = {
            "maxsize": self._max_idle,
            "socket_options": KEEP_ALIVE,
            "ssl_context": context,
        }
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        elif proxy.startswith("socks"):
            try:
                from urllib3.contrib.socks import SOCKSProxyManager
            except ImportError:
                raise environment_error(
                    "the environment names a SOCKS proxy, for which PySocks must be installed"
                ) from None
            return SOCKSProxyManager(proxy, **options)  # it has connections of its own
        else:
            user = ":".join(get_auth_from_url(proxy))
            manager = urllib3.ProxyManager(
                proxy,
                proxy_headers=make_headers(proxy_basic_auth=user) if user != ":" else None,
                proxy_ssl_context=context,
                **options,
            )
        manager.pool_classes_by_scheme = _POOLS
        return manager


class _TrackedBody(io.BytesIO):
    """A request body that knows whether sending it was started.

    It is sent after the head, so until then the server cannot have run anything. The library's
    exceptions do not show this: behind a proxy, a reset after sending looks like one before.
    """

    def __init__(self, data: bytes, budget: TimeoutBudget) -> None:
        super().__init__(data)
        self.started = False
        self._budget = budget

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        if not self.started:
            self.started = True
            self._budget.request_started()
        return super().read(size)


class SyncCall:
    """One POST and its response.

    Attributes:
        budget: How long it waits.
    """

    def __init__(self, connections: SyncConnections, budget: TimeoutBudget) -> None:
        """Prepare a call; `frames` sends it."""
        self.budget = budget
        self._connections = connections
        self._response: Any = None
        self._body: ResponseBody | None = None
        # The socket that the call uses, until someone takes it out: to shut it down, or because the
        # connection returns to the pool, and may be another call's a moment later.
        self._socket_ref: list[socket.socket] = []
        self._closed = False
        self._process = os.getpid()

    def frames(self, request: HTTPRequest) -> Generator[list[Frame]]:
        """Send the request and yield its frames: in one list those that arrived together.

        Raises:
            BailianError: No answer, an answer that is an error, or a stream that broke off. Closing
                the generator closes the socket.
        """
        try:
            yield from self._frames(request)
        finally:
            self.close()

    def _frames(self, request: HTTPRequest) -> Generator[list[Frame]]:
        status, headers = self._send(request)
        if not is_stream(status, headers):
            yield [read_answer(status, headers, self._read_all(status))]
            return
        reader, draining = FrameReader(headers), False
        while True:
            try:
                chunk = self._read()
            except BailianError:
                if reader.run_ended:  # only the end of the stream was lost
                    return
                raise
            for frames in reader.feed(chunk) if chunk else reader.close():
                self.budget.stop_clock()
                yield frames
                self.budget.start_clock()
            if reader.error is not None:
                raise reader.error
            if not chunk:
                return
            if reader.run_ended and not draining:
                draining = True
                self.budget.enter_drain_phase()

    def track_socket(self, connected: socket.socket) -> None:
        """Remember the socket that the call uses from now on.

        Raises:
            ConnectError: The call was closed; nothing is sent.
        """
        self._socket_ref[:] = [connected]
        if self._closed:
            raise connection_lost_error(sent=False)

    def abort(self) -> None:
        """End the call from outside: from any thread, or in a signal handler.

        It takes no lock and frees nothing that may be in use. The thread that is sending or reading
        finds the connection lost, and closes the call.
        """
        self._closed = True
        # A forked child holds the parent's connection, too; it may only release it.
        if os.getpid() == self._process:
            with contextlib.suppress(IndexError, OSError):  # none, or closed already
                # Not TLS's own shutdown, which would remove the session under a reading thread.
                socket.socket.shutdown(self._socket_ref.pop(), socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, unless it returned to the pool after the last byte.

        Never by way of the pool, which has a lock: the garbage collector, which closes an abandoned
        stream, may have interrupted the very thread that holds it.
        """
        self.abort()
        if self._response is not None:
            self._response.close()

    def _send(self, request: HTTPRequest) -> tuple[int, Mapping[str, str]]:
        """Send the request and read the head of the response."""
        body = _TrackedBody(request.body, self.budget)
        interrupted = getattr(_current, "call", None)  # this may be a signal handler's call
        _current.call = self
        try:
            limits = urllib3.Timeout(*self.budget.connect_and_read_s())
            response = self._connections.post(request, body, limits)
        except BailianError:
            raise
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if self._closed:
                raise connection_lost_error(sent=body.started) from None
            late = isinstance(error, (PoolTimeoutError, TimeoutError))
            if late and not isinstance(error, NewConnectionError):
                raise self.budget.error() from None
            if not body.started:
                environment = self._connections.environment
                raise diagnose_connect_failure(environment, request.url, error) from None
            raise connection_lost_error(sent=True) from None
        finally:
            _current.call = interrupted
        self._response, self._body = response, ResponseBody(response)
        if self._body.socket is not None:
            self._socket_ref[:] = [self._body.socket]
        if self._closed:  # meanwhile
            raise connection_lost_error(sent=True)
        return response.status, response.headers

    def _read(self) -> bytes:
        assert self._body is not None, "the head was read"  # noqa: S101
        try:
            chunk = self._body.read(self.budget)
        except (PoolTimeoutError, TimeoutError):
            raise self.budget.error() from None
        except BailianError:
            raise
        except (HTTPError, OSError, ValueError):
            raise connection_lost_error(sent=True, streaming=True) from None
        if not chunk and self._body.clean:
            self._release()
        return chunk

    def _release(self) -> None:
        """Return the connection to the pool, unless the call is being aborted."""
        with contextlib.suppress(IndexError):
            self._socket_ref.pop()
            self._response.release_conn()

    def _read_all(self, status: int) -> bytes:
        parts: list[bytes] = []
        if status != 200:
            self.budget.enter_error_phase()
        try:
            while chunk := self._read():
                parts.append(chunk)
                if status != 200 and sum(map(len, parts)) > MAX_ERROR_BYTES:
                    break
        except BailianError:
            if status == 200:
                raise
            # The status alone says what failed; the part of the body that arrived may explain it.
        return b"".join(parts)
