"""How long a call waits; shared by sync and async. Times are those of `time.monotonic`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pydantic import SecretStr

from bailian_apps.core.errors import BailianError, ConnectError, RequestTimeoutError
from bailian_apps.core.language import N_
from bailian_apps.core.settings import Timeout

T = TypeVar("T")

# How long to wait for the end of the stream after the run has finished; then the socket is closed.
_DRAIN_S: Final = 0.5

# How long to wait for the body of an error, whose status is already known.
_ERROR_BODY_S: Final = 5.0


class Stopwatch:
    """Measures the time since a request was sent."""

    def __init__(self) -> None:
        """Start now."""
        self.restart()

    def restart(self) -> None:
        """Start again: a request is being sent."""
        self._started = time.monotonic()

    def __call__(self) -> float:
        """Return the milliseconds since the start, to a tenth."""
        return round((time.monotonic() - self._started) * 1000, 1)


class TimeoutBudget:
    """What a call is waiting for, and until when.

    Only the cloud's silence counts: while the caller handles a frame, nothing but the deadline of
    the whole call is running.

    Attributes:
        until: When the current wait ends.
    """

    __slots__ = ("_deadline", "_limits", "_on_sent", "_phase", "until")

    def __init__(
        self,
        limits: Timeout,
        deadline: float | None,
        on_sent: Callable[[], object] = lambda: None,
    ) -> None:
        """Start to wait for a connection; the whole call has to end by `deadline`.

        `on_sent` is called when the request is being sent.
        """
        self._on_sent = on_sent
        self._limits = limits
        self._deadline = float("inf") if deadline is None else deadline
        self._wait("connect_s", limits.connect_s)

    def request_started(self) -> None:
        """Start to wait for the first frame: the request is being sent."""
        self._on_sent()
        self._wait("first_frame_s", self._limits.first_frame_s)

    def stop_clock(self) -> None:
        """The caller has a frame."""
        if self._phase != "ended":
            self._phase = "between_frames_s"
            self.until = self._deadline

    def start_clock(self) -> None:
        """The caller wants the next frame."""
        if self._phase != "ended":
            self._wait("between_frames_s", self._limits.between_frames_s)

    def enter_drain_phase(self) -> None:
        """The run has finished: wait only a moment for the end of its stream."""
        self._wait("ended", _DRAIN_S)

    def enter_error_phase(self) -> None:
        """The status is an error: wait only a while for the body that explains it."""
        self._wait("ended", _ERROR_BODY_S)

    def _wait(self, phase: str, limit_s: float) -> None:
        self._phase = phase
        self.until = min(time.monotonic() + limit_s, self._deadline)

    def remaining_s(self) -> float:
        """Seconds left in the current wait.

        Raises:
            BailianError: There are none.
        """
        left = self.until - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    def connect_and_read_s(self) -> tuple[float, float]:
        """Seconds to connect in, and then to wait for the head of the response."""
        until_deadline = self._deadline - time.monotonic()
        return self.remaining_s(), min(self._limits.first_frame_s, max(until_deadline, 0.001))

    def error(self) -> BailianError:
        """Make the error for a wait that was too long."""
        if self.until == self._deadline:
            what = N_("the call took longer than total_s={seconds:g} s").format(
                seconds=self._limits.total_s
            )
        elif self._phase == "connect_s":
            what = N_("no connection was made within connect_s={seconds:g} s").format(
                seconds=self._limits.connect_s
            )
        elif self._phase == "first_frame_s":
            what = N_("no frame arrived within first_frame_s={seconds:g} s").format(
                seconds=self._limits.first_frame_s
            )
        else:
            what = N_("no frame arrived for between_frames_s={seconds:g} s").format(
                seconds=self._limits.between_frames_s
            )
        if self._phase == "connect_s":
            return ConnectError(N_("{what}; nothing was sent").format(what=what))
        return RequestTimeoutError(
            N_("{what}; raise timeout if the app needs longer").format(what=what)
        )


async def within(seconds: float | None, awaited: Awaitable[T]) -> T:
    """Do as `asyncio.wait_for`, which before Python 3.12 can lose a cancellation.

    It does so if the value arrives at the same moment; the cancelled task then goes on.

    Args:
        seconds: The limit; None for none.
        awaited: What is awaited. It is cancelled at the limit, and with its waiter, who waits for
            its end unless cancelled once more.

    Raises:
        asyncio.TimeoutError: The limit has passed.
    """
    import asyncio  # 40 ms, which a program without a loop does not pay

    if seconds is None:
        return await awaited
    task = asyncio.ensure_future(awaited)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    in_time = False
    try:
        await asyncio.wait({task}, timeout=max(seconds, 0))
        in_time = task.done()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled() and not in_time:  # else it was cancelled by something else
        raise asyncio.TimeoutError
    return task.result()


async def key_before(deadline: float | None, key: Awaitable[SecretStr]) -> SecretStr:
    """Wait for the key of an attempt until `deadline`, by the monotonic clock; None: for ever.

    Raises:
        ConnectError: It did not come in time.
    """
    import asyncio

    left_s = None if deadline is None else deadline - time.monotonic()
    try:
        return await within(left_s, key)
    except asyncio.TimeoutError:
        raise ConnectError("the callable api_key took longer than total_s") from None
