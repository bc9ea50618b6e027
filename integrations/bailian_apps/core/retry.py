"""What may be sent again, and after how long. Pure; the waiting is the caller's.

An app may send mail or place an order. So a request is sent again only when it certainly did not
start (not connected, 429, 503), or when its app was declared `idempotent`. Never after a frame.
"""

from __future__ import annotations

from typing import Any, cast

from bailian_apps.core.errors import BailianError
from bailian_apps.core.settings import AppSettings

MAX_WAIT_S = 30.0
"""The longest wait between two attempts, whatever the server asks for."""


def wait_before_retry(
    error: BailianError, *, attempt: int, started: bool, settings: AppSettings
) -> float | None:
    """Say whether a failed request may be sent again.

    Args:
        error: What the attempt failed with.
        attempt: Which attempt that was, counted from 1.
        started: Whether any frame had come.
        settings: Whose `max_retries` and `idempotent` count.

    Returns:
        The seconds to wait first, or None when the error is final. The server's `Retry-After`
        counts when it gave one; else the wait is drawn from a window that doubles (full jitter).
    """
    if started or attempt > settings.max_retries or error.resend == "never":
        return None
    if error.resend == "may_have_run" and not settings.idempotent:
        return None
    if error.retry_after_s is not None:
        # A server that wants more patience than we have gets no second request before its time.
        return error.retry_after_s if error.retry_after_s <= MAX_WAIT_S else None
    # Imported where it is needed: it costs 30 ms, and most processes never retry.
    from tenacity import RetryCallState, wait_random_exponential

    state = RetryCallState(cast("Any", None), None, (), {})
    state.attempt_number = attempt
    return wait_random_exponential(multiplier=0.5, max=8)(state)
