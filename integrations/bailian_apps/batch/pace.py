"""`Pace`: when the next request of an app may be sent, for all batches of a process together."""

from __future__ import annotations

import random
import threading
import time
import weakref

from bailian_apps.concurrency import WaitQueue

MAX_PAUSE_S = 300.0
"""The longest pause, whatever the server asks for; a batch that is asked for a longer one ends."""

MAX_PAUSES = 10
"""After so many pauses without one answer between them a batch ends."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0  # without Retry-After; it doubles from pause to pause
_FIRST_SPACING_S, _LONGEST_SPACING_S = 0.01, 10.0
_SLOWER, _FASTER = 1.5, 0.95  # factors of the spacing: at each pause, and with each answer


class Pace:
    """The pace of one app's batches in this process. Safe to use from any thread.

    A request that the cloud refuses (HTTP 429, 503, no connection) shows that all requests come too
    fast, so it delays all of them: for as long as `Retry-After` asks, or for a pause that doubles
    until an answer comes. After it, requests are spaced out, and come closer with each answer.

    Attributes:
        slots: The calls that run; see `ConcurrencySlot`.
    """

    def __init__(self) -> None:
        """Start at full pace."""
        self.slots = WaitQueue()
        self.slots.has_warned = True  # a batch is there to wait
        self._lock = threading.Lock()
        self._next_at = 0.0
        self._paused_at = self._paused_until = 0.0
        self._spacing_s = 0.0
        self._pauses = 0  # since the last answer

    def wait_s(self, requests_per_minute: float | None) -> float:
        """Take the turn of one request: 0 if it may be sent now, else seconds to wait and ask."""
        with self._lock:
            now = time.monotonic()
            start_at = max(self._next_at, self._paused_until)
            if start_at > now:
                return start_at - now
            own_s = 60 / requests_per_minute if requests_per_minute else 0.0
            # A turn that was late does not move those after it, but no two are made up for.
            late = now - self._next_at
            spacing_s = max(own_s, self._spacing_s)
            self._next_at = (self._next_at if late < spacing_s else now) + spacing_s
            return 0.0

    @property
    def pause_s(self) -> float:
        """Seconds until requests are sent again."""
        return max(0.0, self._paused_until - time.monotonic())

    def refused(self, sent_at: float, retry_after_s: float | None) -> bool:
        """Record that a request which was sent at `sent_at` was refused; pause all.

        Returns:
            Whether to go on: False after `MAX_PAUSES` pauses, or if the server asks for more than
            `MAX_PAUSE_S`.
        """
        with self._lock:
            now = time.monotonic()
            if retry_after_s is not None and retry_after_s > MAX_PAUSE_S:
                return False
            if sent_at > self._paused_at:  # others were in flight when the pause began
                self._pauses += 1
                self._paused_at = now
                slower_s = max(self._spacing_s * _SLOWER, _FIRST_SPACING_S)
                self._spacing_s = min(slower_s, _LONGEST_SPACING_S)
                if retry_after_s is None:
                    pause_s = min(_FIRST_PAUSE_S * 2 ** (self._pauses - 1), _LONGEST_PAUSE_S)
                    retry_after_s = pause_s * random.uniform(0.5, 1)  # noqa: S311 - not for secrets
            self._paused_until = max(self._paused_until, now + (retry_after_s or 0.0))
            return self._pauses < MAX_PAUSES

    def answered(self) -> None:
        """Record an answer: the cloud takes requests."""
        with self._lock:
            self._pauses = 0
            self._spacing_s *= _FASTER
            if self._spacing_s < _FIRST_SPACING_S / 2:
                self._spacing_s = 0.0


_paces: weakref.WeakValueDictionary[tuple[str | None, str], Pace] = weakref.WeakValueDictionary()
_paces_lock = threading.Lock()


def pace_of(base_url: str | None, app_id: str) -> Pace:
    """Return the pace that all batches of an app share in this process."""
    with _paces_lock:
        pace = _paces.get((base_url, app_id))
        if pace is None:
            pace = _paces[base_url, app_id] = Pace()
        return pace
