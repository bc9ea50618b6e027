"""The limit `max_concurrency`: how many calls of an app may run at once, sync and async together.

A call without a free slot waits in a queue, so that a batch of any size may be started at once.

What else of a call needs asyncio is here too: this module is imported only where it is needed,
because asyncio takes 40 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator

from typing_extensions import Self

from bailian_apps.core.errors import BailianError, ConnectError, RequestTimeoutError
from bailian_apps.core.language import N_
from bailian_apps.core.settings import Timeout

logger = logging.getLogger(__name__)

# A wait has an end, whose timer keeps a task that only waits here; the loop itself does not. (The
# timers of some loops hold 24 days at most.)
_DAY_S = 86_400.0


class WaitQueue:
    """The calls of one app: those that hold a slot, and those that wait for one.

    No thread blocks on the lock, because the garbage collector may end an abandoned stream at any
    moment, also while its own thread holds it. Arrivals and departures are appended to a queue, and
    whichever thread holds the lock drains it.
    """

    def __init__(self) -> None:
        """Start without calls."""
        self.holders: set[ConcurrencySlot] = set()
        self.waiting: deque[ConcurrencySlot] = deque()
        self._pending: deque[tuple[ConcurrencySlot, bool]] = deque()
        self._draining = threading.Lock()
        self.has_warned = False  # of a long wait; once is enough for a batch

    def enqueue(self, slot: ConcurrencySlot, *, arrives: bool) -> None:
        """Record that a call arrives or leaves, and give free slots to waiting calls."""
        self._pending.append((slot, arrives))
        while self._pending and self._draining.acquire(blocking=False):
            try:
                while self._pending:
                    self._apply(*self._pending.popleft())
            finally:
                self._draining.release()

    def _apply(self, slot: ConcurrencySlot, arrives: bool) -> None:
        if arrives:
            self.waiting.append(slot)
        elif slot in self.waiting:
            self.waiting.remove(slot)
        else:
            self.holders.discard(slot)
        while self.waiting:
            if len(self.holders) >= self.waiting[0].limit:
                self.holders -= {each for each in self.holders if each.is_orphaned}
                if len(self.holders) >= self.waiting[0].limit:
                    return
            first = self.waiting.popleft()
            self.holders.add(first)
            first.notify()


class ConcurrencySlot:
    """One call's slot, as a context manager, sync or async.

    Attributes:
        limit: How many calls may run, this one included.
        notify: Ends the waiting: the slot is free, or the call was closed.
    """

    def __init__(
        self,
        calls: WaitQueue,
        limit: int,
        timeouts: Timeout,
        *,
        deadline: float | None,
        register_abort: Callable[[Callable[[], object]], None] | None = None,
    ) -> None:
        """Prepare; entering waits for the slot.

        Args:
            calls: The other calls of the app.
            limit: How many calls may run, this one included.
            timeouts: Its `pool_s` bounds the waiting; one longer than `connect_s` is logged.
            deadline: When the call has to end, by `time.monotonic`; None for no limit.
            register_abort: Receives the function with which another thread may end the waiting.
        """
        self.limit = limit
        self.notify: Callable[[], object]
        self._calls = calls
        self._timeouts = timeouts
        self._deadline = math.inf if deadline is None else deadline
        self._register_abort = register_abort
        # Weak: the queue would keep a loop that was dropped with the call in it, and its sockets.
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None

    @property
    def is_orphaned(self) -> bool:
        """Whether the call can never end: its event loop was closed or dropped with it."""
        if self._loop is None:
            return False
        loop = self._loop()
        return loop is None or loop.is_closed()

    def __enter__(self) -> Self:
        """Wait for the slot.

        Raises:
            RequestTimeoutError: None became free in time; nothing was sent.
            ConnectError: Another thread closed the call.
        """
        notified = queue.SimpleQueue[None]()
        self.notify = lambda: notified.put(None)
        with self._queued() as waits:
            if self._register_abort is not None:
                self._register_abort(self.notify)
            for left_s in waits:
                with contextlib.suppress(queue.Empty):
                    notified.get(timeout=left_s)
                    if self not in self._calls.holders:
                        raise ConnectError(
                            "the call was closed while it waited for a free slot; nothing was sent"
                        )
                    break
        return self

    async def __aenter__(self) -> Self:
        """As `__enter__`, natively async."""
        loop = asyncio.get_running_loop()
        notified = loop.create_future()
        self._loop, waiting = weakref.ref(loop), weakref.ref(notified)

        def notify() -> None:
            if (future := waiting()) is not None:
                with contextlib.suppress(RuntimeError):  # the loop was closed, with the call in it
                    future.get_loop().call_soon_threadsafe(future.set_result, None)

        self.notify = notify
        with self._queued() as waits:
            for left_s in () if self in self._calls.holders else waits:
                if (await asyncio.wait([notified], timeout=left_s))[0]:
                    break
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the slot, or the queue, to the next call."""
        self._calls.enqueue(self, arrives=False)

    async def __aexit__(self, *_: object) -> None:
        """As `__exit__`; it never waits."""
        self.__exit__()

    @contextlib.contextmanager
    def _queued(self) -> Generator[Iterator[float]]:
        """Queue for as long as the body waits; yields its waits, of so many seconds."""
        pool_s = self._timeouts.pool_s
        until = min(math.inf if pool_s is None else time.monotonic() + pool_s, self._deadline)
        self._calls.enqueue(self, arrives=True)
        try:
            yield self._waits(until)
            if self not in self._calls.holders:
                raise self._timeout_error(until)
        except BaseException:
            self.__exit__()
            raise

    def _waits(self, until: float) -> Iterator[float]:
        """A wait until the warning, and one until the limit; without a limit, days."""
        warning_s = self._timeouts.connect_s
        if not self._calls.has_warned and until - time.monotonic() > warning_s:
            yield warning_s
            if not self._calls.has_warned and self not in self._calls.holders:
                self._calls.has_warned = True
                logger.warning(
                    "a call has waited %g s for a free slot: max_concurrency=%d calls of this app "
                    "are running; close streams that are no longer read, raise max_concurrency, or "
                    "limit the wait with Timeout(pool_s=…)",
                    warning_s,
                    self.limit,
                )
        while until == math.inf:
            yield _DAY_S
        yield max(until - time.monotonic(), 0)

    def _timeout_error(self, until: float) -> BailianError:
        name = "total_s" if until == self._deadline else "pool_s"
        error = RequestTimeoutError(
            N_(
                "no slot became free within {name}={seconds:g} s: "
                "max_concurrency={limit} calls of this app were running; nothing was "
                "sent; raise {name} or max_concurrency, or close streams that are no "
                "longer read"
            ).format(name=name, seconds=getattr(self._timeouts, name), limit=self.limit)
        )
        error.request_state, error.attempts = "not_sent", 0
        return error


def require_asyncio() -> None:
    """Check that the running event loop is one of asyncio.

    Raises:
        ConnectError: It is not, or none is running.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        error = ConnectError(
            "async calls need an event loop of asyncio, and none is running; under trio, make the "
            "sync call in a thread (trio.to_thread.run_sync); nothing was sent"
        )
        error.permanent, error.attempts = True, 0
        raise error from None
