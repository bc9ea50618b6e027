"""The common base of `Emulator` and `Recorder`: a context manager that serves an ASGI app."""

from types import TracebackType
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from bailian_apps.emulator.server.uvicorn_thread import UvicornThread

if TYPE_CHECKING:
    from typing_extensions import Self


class LocalServer:
    """Serves an ASGI app in a thread while its `with` block runs."""

    def __init__(self, app: ASGIApp, *, base_path: str, host: str, port: int) -> None:
        """Prepare the server; nothing listens before `start` or the `with` block.

        Args:
            app: The ASGI app.
            base_path: The path of `base_url`.
            host: The address to listen on.
            port: The port; 0 takes a free one.
        """
        self._app = app
        self._base_path = base_path
        self._host = host
        self._port = port
        self._running: UvicornThread | None = None

    @property
    def base_url(self) -> str:
        """The base address for clients.

        Raises:
            RuntimeError: The server is not running.
        """
        if self._running is None:
            name = type(self).__name__
            raise RuntimeError(
                f"the {name.lower()} is not running; use it as `with {name}(…) as server:`"
            )
        return self._running.origin + self._base_path

    def start(self) -> None:
        """Start to listen; `base_url` can be used when this returns.

        Raises:
            RuntimeError: The server is already running.
            OSError: The port is taken, or the address does not belong to this machine.
        """
        if self._running is not None:
            name = type(self).__name__.lower()
            raise RuntimeError(f"the {name} is already running at {self.base_url}")
        self._running = UvicornThread(self._app, host=self._host, port=self._port)

    def stop(self) -> None:
        """Abort all connections and end the thread; does nothing if it is not running."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def __enter__(self) -> "Self":
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()
