"""The common base of `Emulator` and `Recorder`: serves an ASGI app in a thread of this process.

It knows neither the emulator's endpoint nor the recorder.
"""

import asyncio
import logging
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from bailian_apps.emulator.server.refusals import checked_hosts, without_web_pages

LOOPBACK = "127.0.0.1"
SHUTDOWN_TIMEOUT_S = 5.0
MAX_ERROR_CHARS = 2000
"""How much of an error answer an outcome keeps."""

if sys.platform == "linux":
    import fcntl
    import termios

if TYPE_CHECKING:
    from typing_extensions import Self

    from bailian_apps.emulator.models import ReceivedRequest

_TRANSPORT = "bailian_apps.transport"
_OUTCOME = "bailian_apps.outcome"

LOGGED: ContextVar["Outcome | None"] = ContextVar("LOGGED", default=None)
"""The outcome of the request that is being logged, for a handler that shows prompts to people.

A record does not have it: other handlers may store records, or send them somewhere.
"""

logger = logging.getLogger("bailian_apps.emulator")


class LocalServer:
    """Serves an ASGI app with uvicorn, in a thread, while its `with` block runs."""

    def __init__(
        self,
        app: ASGIApp,
        base_path: str,
        *,
        host: str,
        port: int,
        allowed_hosts: Sequence[str] = (),
        shows_pages: bool = True,
    ) -> None:
        """Prepare the server; nothing listens before `start`.

        Args:
            app: What it serves.
            base_path: The path of the API, and of `base_url`.
            host: The address to listen on.
            port: The port; 0 takes a free one.
            allowed_hosts: See `Emulator`.
            shows_pages: Whether GET outside of the base path shows something to people.

        Raises:
            ValueError: An allowed host is not a host name.
        """
        hosts = checked_hosts(allowed_hosts) | ({host.lower()} - {""})
        api_path = base_path if shows_pages else ""
        self._app = without_web_pages(app, hosts, api_path=api_path)
        self._base_path = base_path
        self._host = host
        self._port = port
        self._running: tuple[_Server, threading.Thread] | None = None
        self._base_url = ""

    @property
    def base_url(self) -> str:
        """The base address for clients on this machine.

        Raises:
            RuntimeError: The server is not running.
        """
        if self._running is None:
            name = type(self).__name__
            raise RuntimeError(
                f"the {name.lower()} is not running; use it as `with {name}(…) as server:`"
            )
        return self._base_url

    @property
    def page_url(self) -> str:
        """The address of the page for a browser on this machine.

        Raises:
            RuntimeError: The server is not running.
        """
        return f"{self.base_url[: len(self.base_url) - len(self._base_path)]}/"

    def start(self) -> None:
        """Start to listen; the server accepts requests at `base_url` when this returns.

        Raises:
            RuntimeError: The server is already running.
            OSError: The port is taken, or the address does not belong to this machine.
        """
        if self._running is not None:
            name = type(self).__name__.lower()
            raise RuntimeError(f"the {name} is already running at {self.base_url}")
        # Bound and listening here, so that the port is known and no client connects too early.
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self._port), family=family, backlog=2048)
        # Accepted connections inherit this; asyncio sets it only if the socket has a protocol.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = listener.getsockname()[1]
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self._host, self._host)  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        self._base_url = f"http://{host}:{port}{self._base_path}"
        server = _Server(self._app)
        thread = threading.Thread(
            target=server.run_in_thread,
            args=(listener,),
            name=f"bailian-emulator-{port}",
            daemon=True,
        )
        thread.start()
        server.ready.result()
        self._running = server, thread

    def stop(self) -> None:
        """Abort all connections and end the thread; does nothing if it is not running."""
        if self._running is not None:
            server, thread = self._running
            server.stop()
            thread.join()
            self._running = None

    def __enter__(self) -> "Self":
        """Start the server."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        self.stop()


@dataclass(slots=True)
class Outcome:
    """What became of a request, for the log.

    Attributes:
        stream: Whether the client asked for a stream.
        status: The HTTP status; None if none was sent.
        event_status: The status in an error event of a stream.
        fault: The name of the injected fault.
        complete: Whether the response was written to its end.
        request: The call, if it is one.
        session_id: The session of the answer.
        nearest: Of a call that was not recorded: the recording that answered, and what differs.
        recorded: Whether the answer was recorded; None for a call that was not passed on.
        error: The code and the message of an error answer. It may quote prompts.
    """

    stream: bool = False
    status: int | None = None
    event_status: int | None = None
    fault: str | None = None
    complete: bool = False
    request: "ReceivedRequest | None" = field(default=None, repr=False)
    session_id: str | None = None
    nearest: str = ""
    recorded: bool | None = None
    error: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Return the parts that are worth a note."""
        notes = [
            f"  error event {self.event_status}" if self.event_status else "",
            f"  fault {self.fault}" if self.fault else "",
            f"  nearest {self.nearest}" if self.nearest else "",
            {None: "", True: "  passed on, recorded", False: "  passed on, not recorded"}[
                self.recorded
            ],
            "" if self.complete else "  cut off",
        ]
        return "".join(notes)


def with_access_log(app: ASGIApp) -> ASGIApp:
    """Wrap an app so that it logs one line per request, without keys and user input."""

    async def logging_app(scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        outcome = scope["extensions"][_OUTCOME] = Outcome()

        async def observed_send(message: Message) -> None:
            outcome.status = message.get("status", outcome.status)
            is_body = message["type"] == "http.response.body"
            outcome.complete = is_body and not message.get("more_body")
            await send(message)

        try:
            await app(scope, receive, observed_send)
        finally:
            # The raw path is percent-encoded, so it has no control characters for a terminal.
            path = scope["raw_path"].decode("ascii")
            app_id = path.partition("/apps/")[2].removesuffix("/completion")
            is_call = app_id and path.endswith("/completion")
            took_ms = (time.monotonic() - started) * 1000
            target = f"{scope['method']} {path}"
            logged = LOGGED.set(outcome)
            logger.log(
                logging.INFO if is_call or outcome.status == 404 else logging.DEBUG,
                "%s  %s  %s  %.0f ms%s",
                app_id if is_call else path,
                "stream" if outcome.stream else "json",
                outcome.status or "-",
                took_ms,
                str(outcome),
                extra={"took_ms": took_ms, "target": target},
            )
            LOGGED.reset(logged)

    return logging_app


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client has disconnected or has its whole response."""
    while (await receive())["type"] != "http.disconnect":
        pass


def transport_of(scope: Mapping[str, Any]) -> asyncio.Transport:
    """Return the connection of a request, for responses that ASGI cannot express.

    An app that closes it must wait for ASGI's `http.disconnect` before it returns.
    """
    return cast("asyncio.Transport", scope["extensions"][_TRANSPORT])


def outcome_of(scope: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a request of `with_access_log`, to be completed."""
    return scope["extensions"][_OUTCOME]


def unacked_bytes(connection: socket.socket) -> int:
    """Return how many written bytes the peer has not acknowledged; 0 outside Linux."""
    if sys.platform != "linux":
        return 0
    return struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]


class _Protocol(H11Protocol):
    """HTTP/1.1 with the transport in each request's scope.

    The access log is off here, because uvicorn's own setting changes a logger of the process.
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
    """A server that stops on an event; uvicorn's own polls a flag ten times a second.

    Outside the main thread, uvicorn installs no signal handlers.
    """

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            cast("Any", app),
            interface="asgi3",  # uvicorn takes a method for ASGI 2
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
        self.ready: Future[None] = Future()

    def run_in_thread(self, listener: socket.socket) -> None:
        """Serve until `stop`; `ready` has the result of the start."""
        with listener:
            try:
                asyncio.run(self.serve(sockets=[listener]))
            except BaseException as error:
                if self.ready.done():
                    raise
                self.ready.set_exception(error)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.ready.set_result(None)

    async def main_loop(self) -> None:
        """Serve until `stop`."""
        await self._stopping.wait()

    def stop(self) -> None:
        """Stop the server; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Abort all connections; every open response then ends as if its client had left."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # connection_lost runs in the next iteration of the loop
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=SHUTDOWN_TIMEOUT_S)
