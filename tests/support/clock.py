"""A clock that a test moves, so that no test has to wait out a timeout."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from unittest.mock import patch


class Clock:
    """`time.monotonic` plus the seconds that the test has added."""

    def __init__(self) -> None:
        self._real = time.monotonic
        self._added_s = 0.0

    def __call__(self) -> float:
        """Return the time, as `time.monotonic` does."""
        return self._real() + self._added_s

    def advance(self, seconds: float) -> None:
        """Let time pass; what waits already does not notice until it looks at the clock again."""
        self._added_s += seconds


@contextmanager
def moving_clock() -> Generator[Clock]:
    """Replace `time.monotonic`, which budgets, event loops and urllib3 read."""
    clock = Clock()
    with patch.object(time, "monotonic", clock):
        yield clock
