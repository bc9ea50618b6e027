"""What may be sent again, and after how long. Pure; the caller waits.

An app may send mail or place an order. So a request is sent again only when it certainly did not
start (not connected, HTTP 429, HTTP 503), or when its app was declared `idempotent`. Never after a
frame.
"""

from __future__ import annotations

import random
import re
import time

from pydantic import SecretStr

from bailian_apps.core.endpoint import KeyProvider, aread_api_key, read_api_key
from bailian_apps.core.errors import (
    AppFailedError,
    BadRequestError,
    BailianError,
    ConnectError,
    ConnectionLostError,
    ContentBlockedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ServiceUnavailableError,
)
from bailian_apps.core.settings import AppSettings

MAX_WAIT_S = 30.0
"""The longest wait between two attempts, whatever the server asks for."""

_BACKOFF_S = 0.5  # the window of the first wait; it doubles with each attempt
_MAX_BACKOFF_S = 8.0
# HTTP statuses with which the cloud refuses a request, and errors that a run leads to all the same.
_REFUSED = (401, 429, 503)
_MAY_HAVE_RUN = (AppFailedError, ContentBlockedError, ServerError)
_TRANSIENT = (
    ConnectError,
    ConnectionLostError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ServiceUnavailableError,
)


# "Required parameter(Prompt) missing or invalid, please check the request parameters.", of an app
# that was sent `messages` alone. The message has to begin with the parameter and to say directly
# that it is missing: a node that ran may report its own prompt, or that the prompt lacks a value.
_PROMPT_MISSING = re.compile(
    r"\W*(the )?(required )?((request )?(parameter|field)\b)?\W*(input\.)?prompt\b\W*"
    r"((is|was|(must|can|should|may) ?not be) )?(required|missing|empty|null|blank)( or \w+)?"
    r"\s*([.,;]|$)"
    r"|\W*missing (required )?(parameter|field)\W+(input\.)?prompt\W*$",
    re.IGNORECASE,
)


def asks_for_prompt(error: BailianError) -> bool:
    """Whether the cloud refused a request because it had no prompt. The app did not run."""
    return (
        isinstance(error, BadRequestError)
        and error.code == "InvalidParameter"
        and error.status_code in (400, None)
        and error.partial is None
        and _PROMPT_MISSING.match(error.message) is not None
    )


def did_not_start(error: BailianError) -> bool:
    """Whether it is certain that the app did not run."""
    if asks_for_prompt(error):
        return True
    if error.request_state == "answered":
        return error.status_code in _REFUSED and not isinstance(error, _MAY_HAVE_RUN)
    return error.request_state == "not_sent"


def is_retryable(error: BailianError, *, idempotent: bool = False) -> bool:
    """Whether sending the request again may help, and cannot run the app twice unasked.

    Args:
        error: What the request failed with.
        idempotent: Whether running the app twice does no harm.
    """
    if error.partial is not None or not isinstance(error, _TRANSIENT):
        return False
    if isinstance(error, ConnectError) and error.permanent:
        return False
    if error.status_code == 401:  # whatever its code: the same key is refused again
        return False
    return idempotent or did_not_start(error)


def retry_delay_s(error: BailianError, *, attempt: int, settings: AppSettings) -> float | None:
    """How long to wait before a failed request is sent again.

    Args:
        error: What the attempt failed with, before any frame.
        attempt: Which attempt that was, counted from 1.
        settings: Its `max_retries` and `idempotent` are used.

    Returns:
        Seconds, or None when the error is final. The server's `Retry-After` decides where there
        is one; else the delay is drawn from a window that doubles (full jitter).
    """
    if attempt > settings.max_retries or not is_retryable(error, idempotent=settings.idempotent):
        return None
    if error.retry_after_s is not None:
        # A server that asks for a longer wait gets no second request before its time.
        return error.retry_after_s if error.retry_after_s <= MAX_WAIT_S else None
    window_s = min(_MAX_BACKOFF_S, _BACKOFF_S * 2 ** (attempt - 1))
    return random.uniform(0, window_s)  # noqa: S311 - not for secrets


class KeyReader:
    """Reads a callable `api_key` for each attempt of one call, and once more after HTTP 401.

    A temporary key may have expired. A 401 did not start the app, so the request is sent again if
    the callable then returns another key.
    """

    def __init__(self, provider: KeyProvider) -> None:
        """Start without a key."""
        self._provider = provider
        self._key: SecretStr | None = None
        self._refusal: BailianError | None = None  # of that key, until another one is known
        self._has_asked_again = False

    def read(self) -> SecretStr:
        """Return the key of the next attempt.

        Raises:
            BailianError: There is none, or it is the one that the cloud has refused.
        """
        return self._use(read_api_key(self._provider))

    async def aread(self, deadline: float | None) -> SecretStr:
        """As `read`, for an async call; at `deadline`, by the monotonic clock, it fails."""
        import asyncio  # costs 40 ms, which a program without a loop does not pay

        left_s = None if deadline is None else deadline - time.monotonic()
        try:
            key = await asyncio.wait_for(aread_api_key(self._provider), left_s)
        except asyncio.TimeoutError:
            raise ConnectError("the callable api_key took longer than total_s") from None
        return self._use(key)

    def _use(self, key: SecretStr) -> SecretStr:
        if self._refusal is not None and key == self._key:
            raise self._refusal
        self._key, self._refusal = key, None
        return key

    def asks_again_after(self, error: BailianError) -> bool:
        """Whether the key is read once more after this error, before another attempt."""
        if self._has_asked_again or error.status_code != 401 or not did_not_start(error):
            return False
        self._has_asked_again, self._refusal = True, error
        return True
