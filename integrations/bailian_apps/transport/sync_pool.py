"""The pooled urllib3 connections of sync calls.

Compared with urllib3's own: connecting takes a bounded time however many addresses a host has, a
head that drips does not prolong a timeout, informational responses are skipped, and each connection
shows its socket to the call that uses it, so that the call can be ended from outside. The private
names that this needs are listed in `private_names`.
"""

from __future__ import annotations

import _socket
import contextlib
import http.client
import io
import queue
import socket
import ssl
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast

import requests
import urllib3
import urllib3.connection
from typing_extensions import override
from urllib3 import make_headers
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from bailian_apps.core.errors import BailianError
from bailian_apps.transport.doubles import is_cassette_active, without_cassette
from bailian_apps.transport.environment import Environment, tls_context, uses_tls
from bailian_apps.transport.http_answer import environment_error, spoke_first_error
from bailian_apps.transport.name_lookup import look_up
from bailian_apps.transport.request_builder import HTTPRequest
from bailian_apps.transport.timeouts import TimeoutBudget

if TYPE_CHECKING:
    from bailian_apps.transport.sync_http import SyncCall

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

# Not a `threading.local`: if gevent patches threads after this import, its greenlets share one.
current: ContextVar[SyncCall] = ContextVar("current")
"""The call that this thread, or greenlet, is sending."""


def shut_down(connected: Any) -> None:
    """End a socket's connection, also where another thread or process holds it; closes nothing.

    It is not TLS's own shutdown, which would remove the session under a reading thread.
    """
    # Closed already; of a socket that gevent closed, each name raises.
    with contextlib.suppress(OSError, ValueError):
        # gevent and eventlet wrap a socket; those from before they patched the module are plain.
        plain = getattr(connected, "fd", None) or getattr(connected, "_sock", connected)
        if isinstance(plain, _socket.socket):
            _socket.socket.shutdown(plain, socket.SHUT_RDWR)
        elif hasattr(plain, "fileno"):  # uvloop's, which can only be asked for its number
            borrowed = _socket.socket(fileno=plain.fileno())
            try:
                borrowed.shutdown(socket.SHUT_RDWR)
            finally:
                borrowed.detach()


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
        self._deadline_io = _DeadlineRawIO(sock, self.fp.detach(), current.get().budget)
        self.fp = io.BufferedReader(self._deadline_io)

    @override
    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = self.msg = cast("Any", None)  # makes http.client read another head
            super().begin()
        self._deadline_io.budget = None


if TYPE_CHECKING:
    _HTTPConnection, _HTTPSConnection = (
        urllib3.connection.HTTPConnection,
        urllib3.connection.HTTPSConnection,
    )
else:
    _HTTPConnection = without_cassette(urllib3.connection.HTTPConnection)
    _HTTPSConnection = without_cassette(urllib3.connection.HTTPSConnection)


class _Connection(_HTTPConnection):
    """A connection that gives each socket it uses to its call, so that the call can be ended."""

    response_class = _Response

    @override
    def connect(self) -> None:
        super().connect()
        self._track()
        if not self.is_connected:
            raise spoke_first_error()

    @property
    @override
    def is_connected(self) -> bool:
        """Whether nothing has arrived since the last answer: the next call would read it.

        A socket of TLS is readable, too, where there is only a session ticket; and what it has
        decrypted already, the kernel does not know of.
        """
        connected: Any = self.sock
        if connected is None or type(connected) is socket.socket:
            try:
                return super().is_connected
            except (OSError, ValueError):
                # The garbage collector closed it together with an abandoned stream. LangChain read
                # that stream to its end meanwhile, which gave this connection back to the pool.
                return False
        limit_s = connected.gettimeout()
        try:
            connected.settimeout(0.0)
            connected.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError, TimeoutError):  # the last is eventlet's
            connected.settimeout(limit_s)
            return True
        except OSError:  # the connection was lost
            pass
        return False

    @override
    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # a pooled connection
            self._track()
        super().request(*args, **kwargs)

    def _track(self) -> None:
        # With TLS in TLS (an https proxy), `sock` is not a socket but has one.
        current.get().track_socket(getattr(self.sock, "socket", self.sock))

    @override
    def _new_conn(self) -> socket.socket:
        """Connect to the first address of the host that answers; the addresses share the time.

        urllib3 would give each address all of it.
        """
        budget = current.get().budget
        try:
            host = self._dns_host.strip("[]")
            addresses = look_up(host, self.port, budget.remaining_s())
        except TimeoutError:
            raise budget.error() from None
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
            current.get().track_socket(connected)
            for option in self.socket_options or ():
                connected.setsockopt(*option)
            connected.settimeout(limit_s)
            connected.connect(address)
            connected.settimeout(current.get().budget.remaining_s())
        except BaseException:
            connected.close()
            raise
        return connected


class _TLSConnection(_Connection, _HTTPSConnection):
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


class _IdleConnections(queue.LifoQueue[Any]):
    """Closes a connection that is one too many; urllib3 would log a warning for each."""

    @override
    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        try:
            super().put(item, block=False)
        except queue.Full:
            item.close()


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls: Any = _Connection
    QueueCls = _IdleConnections


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls: Any = _TLSConnection
    QueueCls = _IdleConnections


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
        self._made_with: object = None
        self._closed = False
        self._lock = threading.RLock()  # a signal handler may make a call while one starts

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
        self._closed = True

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = self.environment.proxy_for(url)
        secure = uses_tls(url, proxy)
        trusted = self.environment.certificates() if secure else None
        key = (proxy, trusted)
        # gevent and pytest-socket replace the class of sockets, and vcrpy that of connections. They
        # do not see a connection from before: it would block gevent's hub, or pass by the test.
        classes = (socket.socket, urllib3.HTTPConnectionPool.ConnectionCls)
        if self._made_with != classes:
            self._managers, self._made_with = {}, classes
        manager = self._managers.get(key)
        if manager is None:
            made = self._new_manager(proxy, trusted)
            if self._closed:  # a retry of a call that began before; its connection is not kept
                return made
            with self._lock:
                manager = self._managers.setdefault(key, made)
        return manager

    def _new_manager(self, proxy: str | None, trusted: str | None) -> urllib3.PoolManager:
        context = tls_context(trusted) if trusted else None
        options: dict[str, Any] = {
            "maxsize": self._max_idle,
            "socket_options": KEEP_ALIVE,
            "ssl_context": context,
        }
        user, password = requests.utils.get_auth_from_url(proxy or "")
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        elif not proxy.startswith("socks"):
            headers = make_headers(proxy_basic_auth=f"{user}:{password}") if user else None
            manager = urllib3.ProxyManager(
                proxy, proxy_headers=headers, proxy_ssl_context=context, **options
            )
        else:
            try:
                from urllib3.contrib.socks import SOCKSProxyManager
            except ImportError:
                raise environment_error("for a SOCKS proxy, PySocks must be installed") from None
            # It has connections of its own.
            return SOCKSProxyManager(
                proxy, username=user or None, password=password or None, **options
            )
        if not is_cassette_active():  # else vcrpy's connections, which it puts into urllib3's pools
            manager.pool_classes_by_scheme = _POOLS
        return manager
