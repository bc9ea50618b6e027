"""A limit on how many calls of an app are under way at once, in this process.

It counts per app and not per object, because adapters make their objects anew for each call: sync
and async calls, of all threads and event loops, whose settings say `max_concurrency`. Who finds no
place waits in line, within the time that it has to connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator

from typing_extensions import Self

from bailian_apps.core.errors import BailianError, ConnectError, RequestTimeoutError
from bailian_apps.core.settings import AppSettings


class _Line:
    """The calls of one app: who has a place, and who waits.

    Nobody waits for a lock here, because the garbage collector may end a forgotten stream at any
    moment, also while its thread is at work in this very line. Who comes or goes leaves word, and
    whoever is at work reads on until there is no more.
    """

    def __init__(self) -> None:
        self.inside: set[Place] = set()
        self.waiting: deque[Place] = deque()
        self._words: deque[tuple[Place, bool]] = deque()
        self._at_work = threading.Lock()

    def tell(self, place: Place, *, comes: bool) -> None:
        """Let a call come or go, and let in whom there is a place for."""
        self._words.append((place, comes))
        while self._words and self._at_work.acquire(blocking=False):
            try:
                while self._words:
                    self._hear(*self._words.popleft())
            finally:
                self._at_work.release()

    def _hear(self, place: Place, comes: bool) -> None:
        if comes:
            self.waiting.append(place)
        elif place in self.waiting:
            self.waiting.remove(place)
        else:
            self.inside.discard(place)
        while self.waiting:
            if len(self.inside) >= self.waiting[0].limit:
                self.inside -= {each for each in self.inside if each.forsaken}
                if len(self.inside) >= self.waiting[0].limit:
                    return
            first = self.waiting.popleft()
            self.inside.add(first)
            first.wake()


# An app's line stays: there are few apps, and who would remove it could not know that nobody comes.
_lines: dict[tuple[str | None, str], _Line] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lines.clear)  # the calls under way are the parent's


class Place:
    """One call's place, as a context manager, sync or async.

    Attributes:
        limit: How many calls may be under way, this one included.
        wake: Ends the waiting: the place is there, or the call was closed.
    """

    def __init__(
        self,
        settings: AppSettings,
        limit: int,
        *,
        deadline: float | None,
        attach: Callable[[Callable[[], object]], None] | None = None,
    ) -> None:
        """Prepare; entering asks for the place.

        Args:
            settings: Whose app and timeout count.
            limit: How many calls may be under way, this one included.
            deadline: When the call has to end, by `time.monotonic`; None for no limit.
            attach: Is given the function with which another thread may end the waiting.
        """
        self.limit = limit
        self.wake: Callable[[], object]
        self._line = _lines.setdefault((settings.base_url, settings.app_id), _Line())
        self._limits = settings.limits
        self._deadline = float("inf") if deadline is None else deadline
        self._attach = attach
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def forsaken(self) -> bool:
        """Whether the call can never end: its event loop was closed without being shut down."""
        return self._loop is not None and self._loop.is_closed()

    def __enter__(self) -> Self:
        """Wait for the place.

        Raises:
            RequestTimeoutError: None became free in time; nothing was sent.
            ConnectError: Another thread closed the call.
        """
        woken = queue.SimpleQueue[None]()
        self.wake = lambda: woken.put(None)
        with self._in_line() as left_s:
            if self._attach is not None:
                self._attach(self.wake)
            with contextlib.suppress(queue.Empty):
                woken.get(timeout=left_s)
                if self not in self._line.inside:
                    raise ConnectError(
                        "the call was closed while it waited for a free place; nothing was sent"
                    )
        return self

    async def __aenter__(self) -> Self:
        """As `__enter__`, natively async."""
        self._loop = loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed, with the call in it
                loop.call_soon_threadsafe(woken.set_result, None)

        self.wake = wake
        with self._in_line() as left_s:
            if self not in self._line.inside:
                await asyncio.wait([woken], timeout=left_s)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the place, or the line, to the next."""
        self._line.tell(self, comes=False)

    async def __aexit__(self, *_: object) -> None:
        """As `__exit__`; it never waits."""
        self.__exit__()

    @contextlib.contextmanager
    def _in_line(self) -> Generator[float]:
        """Stand in line for as long as the body waits; it is told how many seconds it may."""
        until = min(time.monotonic() + self._limits.connect_s, self._deadline)
        self._line.tell(self, comes=True)
        try:
            yield max(until - time.monotonic(), 0)
            if self not in self._line.inside:
                raise self._error(until)
        except BaseException:
            self.__exit__()
            raise

    def _error(self, until: float) -> BailianError:
        name = "total_s" if until == self._deadline else "connect_s"
        error = RequestTimeoutError(
            f"no place became free within {name}={getattr(self._limits, name):g} s: "
            f"max_concurrency={self.limit} calls of this app were under way; nothing was sent"
        )
        error.resend, error.attempts = "not_started", 0
        return error
