"""Runs an ASGI app in this process: a port, a thread, and an orderly end."""

import asyncio
import logging
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

LOOPBACK = "127.0.0.1"
PATIENCE_S = 5.0

if sys.platform == "linux":
    import fcntl
    import termios

_TRANSPORT = "bailian_apps.transport"

logger = logging.getLogger("bailian_apps.emulator")


class RunningServer:
    """A server in its thread, from its first breath to its last."""

    def __init__(self, app: ASGIApp, *, host: str, port: int) -> None:
        """Start; clients are answered when this returns.

        Args:
            app: What answers.
            host: The address to listen on.
            port: The port; 0 takes a free one.

        Raises:
            OSError: The port is taken, or the address is none of this machine.
        """
        # Bound and listening here, so that the port is known and no client comes too early.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=2048)
        # Its connections inherit this; asyncio sees to it only where a socket names its protocol.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self._socket.getsockname()[1]
        self._host = host
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._server = _Server(app, self._ready)
        name = f"bailian-emulator-{self.port}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise RuntimeError("the emulator could not start") from self._error

    @property
    def origin(self) -> str:
        """The scheme, the address and the port, as a client on this machine can reach them."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self._host, self._host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._server.stop()
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        except BaseException as error:
            self._error = error
        finally:
            self._socket.close()
            self._ready.set()


def logged(app: ASGIApp) -> ASGIApp:
    """Wrap an app so that it logs one line per request: no key, no words of a user."""

    async def with_log(scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        status, whole = 0, False

        async def noting(message: Message) -> None:
            nonlocal status, whole
            status = message.get("status", status)
            whole = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await app(scope, receive, noting)
        finally:
            # The raw path is percent-encoded: nothing in it can steer a terminal.
            path = scope["raw_path"].decode("ascii").partition("/apps/")
            mode = "stream" if (b"x-dashscope-sse", b"enable") in scope["headers"] else "json"
            logger.info(
                "%s  %s  %s  %.0f ms%s",
                path[2].removesuffix("/completion") or path[0],
                mode,
                status or "-",
                (time.monotonic() - started) * 1000,
                "" if whole else "  cut off",
            )

    return with_log


async def hang_up(receive: Receive) -> None:
    """Wait until the client has gone, or has its whole answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


def transport_of(scope: Mapping[str, Any]) -> asyncio.Transport:
    """Return the connection that a request came on, for an app that must say what HTTP cannot.

    Whoever closes it waits for ASGI's `http.disconnect` before it returns.
    """
    return cast("asyncio.Transport", scope["extensions"][_TRANSPORT])


def unsent_bytes(connection: socket.socket) -> int:
    """Return how much of what was written the other side's machine does not have yet.

    It is known on Linux alone; elsewhere it is 0.
    """
    if sys.platform != "linux":
        return 0
    return struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]


class _Protocol(H11Protocol):
    """HTTP without an access log; uvicorn's own switch for it acts on the whole process.

    It puts its transport into each request's scope.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False
        app = cast("ASGIApp", self.app)

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"] = {_TRANSPORT: self.transport}
            await app(scope, receive, send)

        self.app = cast("Any", with_transport)


class _Server(uvicorn.Server):
    """A server that is told when to stop; uvicorn's own looks ten times a second, and naps twice.

    Not being in the main thread, it installs no signal handlers.
    """

    def __init__(self, app: ASGIApp, ready: threading.Event) -> None:
        config = uvicorn.Config(
            cast("Any", app),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
        )
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so to the thread that waits for it."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._ready.set()

    async def main_loop(self) -> None:
        """Serve until `stop`."""
        await self._stopping.wait()

    def stop(self) -> None:
        """End the server; called from another thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections at once; every open answer then ends as if its client had left."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # a connection that was aborted is lost in the loop's next round
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=PATIENCE_S)
