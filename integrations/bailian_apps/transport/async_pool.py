"""The pooled aiohttp connections of async calls, for each event loop.

Compared with aiohttp's own: a connection on which anything arrived while no call used it is not
used again, looking up a name takes a bounded time, and an event loop may end in any way without
leaving a connection or a warning. The private names that this needs are listed in `private_names`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import weakref
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from typing_extensions import override
from urllib3.util import wait_for_read

from bailian_apps.transport.environment import Environment
from bailian_apps.transport.http_answer import spoke_first_error
from bailian_apps.transport.name_lookup import Resolver
from bailian_apps.transport.sync_pool import KEEP_ALIVE

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

_READ_SIZE: Final = 1 << 16
_DAY_S: Final = 86_400.0  # the timers of some event loops (Qt's) hold 24 days at most
_PROBE: Final = b"HTTP/1.1 299 Probe\r\nContent-Length: 0\r\n\r\n"

on_connected: ContextVar[list[Callable[[asyncio.Transport], None]]] = ContextVar("on_connected")
"""What to call with the connection on which the current task sends its request, once.

It is taken out: the connection, which lives longer, keeps the context in which it was made.
"""


class _IdleProtocol(asyncio.Protocol):
    """Replaces the protocol of a connection while no call uses it: whatever arrives closes it."""

    def __init__(
        self, connector: _Connector, transport: asyncio.Transport, protocol: ResponseHandler
    ) -> None:
        self._connector = connector
        self._transport = transport
        self._protocol = protocol

    @override
    def data_received(self, data: bytes) -> None:
        self._transport.abort()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._connector.open.pop(self._transport, None)
        self._protocol.connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class _Connector(aiohttp.TCPConnector):
    """Gives a call only a connection on which nothing has arrived that no call asked for.

    Attributes:
        open: The transports of all connections, each with aiohttp's object for its last use.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # No limit: waiting for a free connection would not be bounded by any timeout. No cache, as
        # in sync calls: filling it is a task that a cancelled call would leave behind.
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            limit=0, resolver=Resolver(), use_dns_cache=False
        )
        self.open: dict[asyncio.Transport, weakref.ref[Connection]] = {}
        # Known before anything that the loop keeps is finalized, where it is dropped.
        self._dropped: list[bool] = []
        self._loop_watch = weakref.finalize(loop, self._dropped.append, True)
        self._loop_watch.atexit = False

    def __del__(self, _warnings: object = None) -> None:
        """Warn of nothing: `LoopSession` closes what is open."""

    @property
    @override
    def closed(self) -> bool:
        """Whether a session must not use it; a session that may would warn when it is garbage."""
        return bool(super().closed or self._dropped)

    @override
    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        while True:
            connection = await super().connect(req, [], timeout)
            transport, protocol = connection.transport, connection.protocol
            if transport is None or protocol is None:
                connection.close()
                raise spoke_first_error()
            reused = isinstance(transport.get_protocol(), _IdleProtocol)
            if reused:
                transport.set_protocol(protocol)
            self.open[transport] = weakref.ref(connection)
            connection.add_callback(functools.partial(self._watch_idle, transport, protocol))
            if not self._has_input(transport, protocol, reused=reused, proxy=bool(req.proxy)):
                break
            connection.close()
            if not reused:
                raise spoke_first_error()
        if not reused:
            _keep_alive(transport)
        on_connected.get().pop()(transport)
        return connection

    def _watch_idle(self, transport: asyncio.Transport, protocol: ResponseHandler) -> None:
        if protocol.transport is None:  # lost while a call used it
            self.open.pop(transport, None)
        else:
            transport.set_protocol(_IdleProtocol(self, transport, protocol))

    def drop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close all connections at once, whether or not the loop can still run."""
        self._loop_watch.detach()
        for transport, last_use in list(self.open.items()):
            if not loop.is_closed():
                transport.abort()
                continue
            _close_without_loop(transport)
            if connection := last_use():
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    connection.close()

    def _has_input(
        self, transport: asyncio.Transport, protocol: ResponseHandler, *, reused: bool, proxy: bool
    ) -> bool:
        """Whether something arrived already: data, or the end of the connection."""
        # What came with the end of the last answer, or before the first request. An older aiohttp
        # marks each connection of a proxy, which it then does not use again.
        if transport.is_closing() or (protocol.should_close and (reused or not proxy)):
            return True
        if reused and _has_begun_answer(protocol):
            return True
        if not reused and transport.get_extra_info("sslcontext"):
            return False  # TLS 1.3 sends its session tickets after the handshake
        # What the event loop has not read yet.
        opened = transport.get_extra_info("socket")
        return opened is not None and wait_for_read(opened, timeout=0.0)


class LoopSession:
    """The connections of one event loop, until the loop ends, or the client is closed or dropped.

    A loop that is shut down, as `asyncio.run` does it, closes the async generators that were
    started in it; one of them closes the connections. A loop that is only closed, or is dropped,
    frees its timers; one of them has the only reference to a `_LoopEnd`, which closes them without
    the loop. So the user does not have to close anything, and no socket is left behind.

    uvloop differs: a loop that is closed closes its connections itself, each with a ResourceWarning
    (off by default); one that ran and is dropped unclosed is never freed, and keeps them.

    Attributes:
        session: The aiohttp session.
        closing: Whether the call that ends last closes the connections.
        responses: Those of calls that run; one that nobody closes warns in debug mode.
        timer: The timer that holds the `_LoopEnd`.
        process: The process that made the connections.
    """

    def __init__(self, connections: AsyncConnections) -> None:
        """Open a session in the running event loop.

        Args:
            connections: Those of all loops; this one is in its `sessions` until it is closed.
        """
        self._loop = asyncio.get_running_loop()
        self.process = os.getpid()
        self._connections = weakref.ref(connections, self._on_client_dropped)
        self._ref = connections.sessions[self._loop] = weakref.ref(self)
        self._connector = _Connector(self._loop)
        self.session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            read_bufsize=_READ_SIZE,
            max_line_size=_READ_SIZE,  # as http.client reads them
            max_field_size=_READ_SIZE,
        )
        self._calls = 0
        self.closing = False
        self.responses = weakref.WeakSet[aiohttp.ClientResponse]()
        self._guard = self._close_with_loop()
        self.timer: weakref.ref[asyncio.TimerHandle]
        _LoopEnd(self, self._loop)()

    async def acquire(self) -> None:
        """Start one call's use."""
        self._calls += 1
        if self._calls == 1:
            await anext(self._guard, None)

    async def release(self) -> None:
        """End one call's use."""
        self._calls -= 1
        if self.closing:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; where calls run, the last one of them does it."""
        self.closing = True
        self._forget()
        if not self._calls:
            await self._guard.aclose()

    def drop(self) -> None:
        """Close the connections at once, whether or not the loop can still run."""
        self._forget()
        self.session.detach()
        self._connector.drop(self._loop)
        for response in list(self.responses) if self._loop.is_closed() else ():
            for _ in range(2):  # the first fails where a task waits for the response
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    response.close()
        if (timer := self.timer()) and not self._loop.is_closed():
            self._loop.call_soon(timer.cancel)  # after the loop has closed what was aborted

    async def _close_with_loop(self) -> AsyncGenerator[None]:
        try:
            while True:
                yield
        finally:
            self._forget()
            try:
                await self.session.close()
            finally:  # also where this is cancelled while connections of TLS close
                self.drop()

    def _forget(self) -> None:
        connections = self._connections()
        if connections is not None and connections.sessions.get(self._loop) is self._ref:
            del connections.sessions[self._loop]

    def _on_client_dropped(self, _: object) -> None:
        # Not `contextlib`: as the interpreter exits, the names of this module may be gone.
        try:  # noqa: SIM105
            self._loop.call_soon_threadsafe(self.drop)
        except RuntimeError:  # the loop is closed
            pass


class _LoopEnd:
    """Closes the connections of an event loop that ends without being shut down, see `LoopSession`.

    Called, it makes the timer that holds it: a day at a time, for as long as the loop runs.
    """

    def __init__(self, session: LoopSession, loop: asyncio.AbstractEventLoop) -> None:
        self._session = session
        self._loop = loop

    def __call__(self) -> None:
        # In a context of its own: that of the first call would live as long as the timer.
        timer = self._loop.call_later(_DAY_S, self, context=contextvars.Context())
        self._session.timer = weakref.ref(timer)

    def __del__(self) -> None:
        self._session.drop()


class AsyncConnections:
    """The connections of a client, for each event loop.

    Attributes:
        environment: Which proxy and certificates to use.
        sessions: Those of each loop; the loop keeps its own alive, see `LoopSession`.
    """

    def __init__(self, environment: Environment) -> None:
        """Start without connections.

        Args:
            environment: Which proxy and certificates to use.
        """
        self.environment = environment
        self.sessions: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, weakref.ref[LoopSession]
        ] = weakref.WeakKeyDictionary()
        self._closed = False

    async def acquire(self) -> LoopSession:
        """Return the connections of the running event loop, for one call."""
        known = self._of_running_loop() or LoopSession(self)
        known.closing = known.closing or self._closed  # a retry of a call that began before
        await known.acquire()
        return known

    async def aclose(self) -> None:
        """Close the connections of the running event loop; calls that run end first."""
        self._closed = True
        known = self._of_running_loop()
        if known is not None:
            await known.aclose()

    def _of_running_loop(self) -> LoopSession | None:
        known = self.sessions.get(asyncio.get_running_loop())
        session = None if known is None else known()
        if session is None or session.process != os.getpid():
            return None  # a forked child that goes on with its parent's loop has its own
        return session


def _has_begun_answer(protocol: ResponseHandler) -> bool:
    """Whether part of another answer's head came with the end of the last answer.

    aiohttp's parser holds it unseen. So it is given a whole answer, which it returns unchanged only
    where it held nothing.
    """
    protocol.data_received(_PROBE)
    reading = protocol.read()
    try:
        reading.send(None)
    except StopIteration as done:
        message = done.value[0]
        return (message.code, message.reason, len(message.headers)) != (299, "Probe", 1)
    except Exception:  # the two are no answer together
        return True
    reading.close()
    return True


def _keep_alive(transport: asyncio.Transport) -> None:
    opened = transport.get_extra_info("socket")
    if opened is not None:
        with contextlib.suppress(OSError):  # already lost; reading will report it
            for option in KEEP_ALIVE:
                opened.setsockopt(*option)


def _close_without_loop(transport: Any) -> None:
    """Close a transport whose event loop is closed: it would leave its socket to a later turn."""
    lowest = transport
    while tls := getattr(lowest, "_ssl_protocol", None):
        lowest = tls._transport

    def close_socket() -> None:
        lowest._call_connection_lost(None)

    # Each fails where it would leave the rest to a later turn. Python 3.10 marks TLS as closed only
    # when its socket is.
    for close in (transport.abort, close_socket, transport.abort):
        with contextlib.suppress(Exception):
            close()
