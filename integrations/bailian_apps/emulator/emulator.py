"""Runs the cloud's stand-in in this process: a port, a thread, and an orderly end."""

import asyncio
import socket
import threading
import warnings
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from bailian_apps.emulator.apps import AppSource, as_app
from bailian_apps.emulator.calls import ReceivedRequest
from bailian_apps.emulator.server import BASE_PATH, Cloud, asgi_app
from bailian_apps.emulator.sessions import Session
from bailian_apps.emulator.workers import Workers

if TYPE_CHECKING:
    from typing_extensions import Self

_HOST = "127.0.0.1"
_PATIENCE_S = 5.0


class Emulator:
    """A local stand-in for the Bailian application API, on the loopback interface.

    A context manager: the server runs in a thread of its own while the `with` block does, and
    leaving the block cuts the streams that are still open.

    Example:
        ```python
        with Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}) as cloud:
            dashscope.Application.call(
                app_id="travel", prompt="杭州", api_key="any", base_address=cloud.base_url
            )
            print(cloud.requests[0].prompt)
        ```
    """

    def __init__(
        self,
        apps: Mapping[str, AppSource],
        *,
        api_key: str | None = None,
        pace: float = 0.0,
        port: int = 0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Read the recordings; nothing listens before `start`, or before the `with` block.

        Args:
            apps: What stands behind each app id: the path of a recording (`.sse`, `.json`,
                `.jsonl`), or a function that gets a `Call` and returns a text, a payload, a list of
                payloads, or a generator of payloads; it may be async. It fails by returning or
                raising `Failure`.
            api_key: The only key that is let in. By default every key is, but no empty one.
            pace: How many times faster than recorded to answer: 1 is the recorded pace, 2 is twice
                as fast, 0 does not wait at all.
            port: The port to listen on; 0 takes a free one.
            sleep: How to wait for the next frame, in seconds; a test may give its own clock.

        Raises:
            RecordingError: A recording cannot be read.
            ValueError: The pace is negative.
            TypeError: An app is neither a path nor a function.
        """
        if pace < 0:
            raise ValueError(f"pace={pace} is negative; 0 answers at once, 1 at the recorded pace")
        self._workers = Workers()
        ready_apps = {app_id: as_app(source, self._workers) for app_id, source in apps.items()}
        self._cloud = Cloud(ready_apps, api_key=api_key, pace=pace, sleep=sleep)
        self._port = port
        self._running: _Running | None = None

    @property
    def base_url(self) -> str:
        """What to give a client as its base address.

        Raises:
            RuntimeError: The emulator is not running.
        """
        if self._running is None:
            raise RuntimeError(
                "the emulator is not running; use it as `with Emulator(…) as cloud:`"
            )
        return f"http://{_HOST}:{self._running.port}{BASE_PATH}"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """All requests to any app so far, the refused ones too, in the order of their arrival."""
        return self._cloud.requests

    @property
    def sessions(self) -> dict[str, Session]:
        """The sessions there are now, by their ids."""
        return self._cloud.sessions.snapshot()

    def forget(self, session_id: str | None = None) -> None:
        """Forget a session, as the cloud does after an hour; without an id, forget all.

        Raises:
            KeyError: There is no such session.
        """
        self._cloud.sessions.forget(session_id)

    def start(self) -> None:
        """Begin to listen; `base_url` is good when this returns.

        Raises:
            RuntimeError: The emulator is already running.
            OSError: The port is taken.
        """
        if self._running is not None:
            raise RuntimeError(f"the emulator is already running at {self.base_url}")
        self._running = _Running(asgi_app(self._cloud), self._port)

    def stop(self) -> None:
        """Cut all open streams and end the server's thread; does nothing when it does not run.

        Warns:
            ResourceWarning: A function of an app still blocks. It should wait for `Call.gone`,
                or the test should release it before the emulator ends.
        """
        if self._running is None:
            return
        self._running.stop()
        self._running = None
        left = self._workers.join(_PATIENCE_S)
        if left:
            warnings.warn(
                f"{len(left)} app function(s) of the emulator still run {_PATIENCE_S:g} s after "
                f"its end: {', '.join(left)}; let them wait for `call.gone`, or release them first",
                ResourceWarning,
                stacklevel=2,
            )

    def __enter__(self) -> "Self":
        """Start, and return the emulator."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()


class _Running:
    """A server in its thread, from its first breath to its last."""

    def __init__(self, app: Any, port: int) -> None:
        # Bound and listening here, so that the port is known and no client comes too early.
        self._socket = socket.create_server((_HOST, port), backlog=2048)
        self.port: int = self._socket.getsockname()[1]
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

    def stop(self) -> None:
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


class _QuietProtocol(H11Protocol):
    """HTTP without an access log; uvicorn's own switch for it acts on the whole process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False


class _Server(uvicorn.Server):
    """A server that is told when to stop; uvicorn's own looks ten times a second, and naps twice.

    Not being in the main thread, it installs no signal handlers.
    """

    def __init__(self, app: Any, ready: threading.Event) -> None:
        config = uvicorn.Config(
            app,
            http=_QuietProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            server_header=False,
            date_header=False,
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
            await asyncio.wait(self.server_state.tasks, timeout=_PATIENCE_S)
