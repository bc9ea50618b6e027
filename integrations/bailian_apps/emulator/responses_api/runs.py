"""The background runs of one emulator, on a clock that tests can advance.

Nothing here knows of HTTP.
"""

import asyncio
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from bailian_apps.emulator.models import Failure, ReceivedRequest
from bailian_apps.emulator.responses_api.objects import Output, response_object
from bailian_apps.emulator.wire.frames import JsonObject

KEPT_RUNS = 10_000
"""How many runs are kept; the oldest that have ended are forgotten first."""

KEPT_CHARS = 128 * 1024 * 1024
"""How many characters the answers of all runs may have together."""

Answering = Callable[["Run"], Awaitable[None]]


@dataclass(slots=True, eq=False, kw_only=True)
class Run:
    """One response.

    Attributes:
        id: Its id.
        app_id: The app that answers.
        request: The request, as the app reads it.
        background: Whether it was asked for in the background.
        starts_s: When it leaves the queue, by the emulator's clock.
        ends_s: When it ends at the earliest.
        output: What the app has said.
        failure: How the app failed, if it did.
        answered: Whether the app has ended.
        cancelled: Whether it was cancelled.
    """

    app_id: str
    request: ReceivedRequest
    background: bool
    starts_s: float
    ends_s: float
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    created_at: int = field(default_factory=lambda: int(time.time()))
    output: Output = field(default_factory=Output)
    failure: Failure | None = None
    answered: bool = False
    cancelled: bool = False
    task: "asyncio.Task[None] | None" = None

    @property
    def size(self) -> int:
        """About how much memory its texts occupy; the answer's once it has ended."""
        said = len(self.output.text) + len(self.output.reasoning) if self.answered else 0
        return self.request.body_bytes + said

    def status(self, now_s: float) -> str:
        """Return the status at a time."""
        if self.cancelled:
            return "cancelled"
        if now_s < self.starts_s:
            return "queued"
        if now_s < self.ends_s or not self.answered:
            return "running"
        return "completed" if self.failure is None else "failed"

    def as_object(self, status: str) -> JsonObject:
        """Return the response as an object with a status."""
        failure = self.failure if status == "failed" else None
        return response_object(
            self.id,
            model=self.app_id,
            created_at=self.created_at,
            status=status,
            background=self.background,
            output=self.output.items() if status == "completed" else None,
            error=failure and {"code": failure.code, "message": failure.message},
        )


class RunStore:
    """All runs of one emulator; used by the server's thread and, to advance, by the test's."""

    def __init__(self, *, queue_s: float, run_s: float) -> None:
        """Create a store without runs; see `Emulator` for the arguments and errors."""
        for name, value in (("background_queue_s", queue_s), ("background_run_s", run_s)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value} must be a number of seconds, 0 or more")
        self._queue_s = queue_s
        self._run_s = run_s
        self._ahead_s = 0.0
        self._runs: dict[str, Run] = {}
        self._chars = 0
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    def now_s(self) -> float:
        """Return the time of the emulator's clock."""
        return time.monotonic() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Move the clock forward; see `Emulator.advance`."""
        self._ahead_s += seconds
        with self._lock:
            waiting = list(self._waiting)
        for loop, moved in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(moved.set)

    def submit(self, request: ReceivedRequest, answer: Answering) -> Run:
        """Store a run that `answer` answers in a task of its own, once it leaves the queue."""
        now_s = self.now_s()
        starts_s = now_s + self._queue_s
        run = Run(
            app_id=request.app_id,
            request=request,
            background=True,
            starts_s=starts_s,
            ends_s=starts_s + self._run_s,
        )
        self._keep(run)
        run.task = asyncio.create_task(self._answer(run, answer))
        return run

    def get(self, app_id: str, run_id: str) -> Run | None:
        """Return a run of an app; None if there is none with that id."""
        run = self._runs.get(run_id)
        return run if run is not None and run.app_id == app_id else None

    def cancel(self, run: Run) -> bool:
        """Cancel a run; return False if it has ended."""
        if run.status(self.now_s()) not in ("queued", "running"):
            return False
        run.cancelled = True
        run.request.disconnected.set()
        if run.task is not None:
            run.task.cancel()
        return True

    def delete(self, run: Run) -> bool:
        """Forget a run; return False if it has not ended."""
        if run.status(self.now_s()) in ("queued", "running"):
            return False
        self._forget(run)
        return True

    def clear(self) -> None:
        """Forget all runs, and end those that go on. Called by the server or the test's thread."""
        runs, self._runs, self._chars = list(self._runs.values()), {}, 0
        for run in runs:
            if run.task is not None and not run.task.done():
                run.request.disconnected.set()
                loop = run.task.get_loop()
                if not loop.is_closed():
                    loop.call_soon_threadsafe(run.task.cancel)

    async def _answer(self, run: Run, answer: Answering) -> None:
        try:
            await self._sleep_until(run.starts_s)
            await answer(run)
        except asyncio.CancelledError:
            run.cancelled = True  # by a client, or because the emulator stops
            run.request.disconnected.set()
            raise
        finally:
            run.answered = True
            if run.id in self._runs:
                self._chars += run.size - run.request.body_bytes

    async def _sleep_until(self, at_s: float) -> None:
        moved, loop = asyncio.Event(), asyncio.get_running_loop()
        waiter = loop, moved
        with self._lock:
            self._waiting.add(waiter)
        try:
            while (left_s := at_s - self.now_s()) > 0:
                moved.clear()
                # Not `wait_for`: before Python 3.12 it loses a cancellation as the clock moves.
                timer = loop.call_later(left_s, moved.set)
                try:
                    await moved.wait()
                finally:
                    timer.cancel()
        finally:
            with self._lock:
                self._waiting.discard(waiter)

    def _keep(self, run: Run) -> None:
        self._runs[run.id] = run
        self._chars += run.request.body_bytes
        if len(self._runs) <= KEPT_RUNS and self._chars <= KEPT_CHARS:
            return
        now_s = self.now_s()
        for old in list(self._runs.values()):
            if old.status(now_s) not in ("queued", "running"):
                self._forget(old)
                if len(self._runs) <= KEPT_RUNS and self._chars <= KEPT_CHARS:
                    return

    def _forget(self, run: Run) -> None:
        if self._runs.pop(run.id, None) is not None:
            self._chars -= run.size
