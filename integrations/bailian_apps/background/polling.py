"""When a run's status is asked for, and which failures of asking are waited out. Pure but for time.

Times are those of `time.monotonic`.
"""

from __future__ import annotations

import random
import time

from bailian_apps.background.requests import RunRequest
from bailian_apps.core.errors import BailianError, InvalidInputError, RequestTimeoutError
from bailian_apps.core.language import N_, joined
from bailian_apps.core.retry import is_retryable
from bailian_apps.core.settings import MAX_SECONDS, AppSettings
from bailian_apps.transport.responses_api import RunCall

MAX_PAUSE_S = 15.0
"""The longest pause between two questions, unless the first is longer."""

_GROWTH = 1.5  # of each pause over the one before
_SPREAD = 0.2  # by which share a pause varies, so that many runs are not asked for at once
_QUESTION_S = 30.0  # the longest wait for the answer to a question


class Polling:
    """One wait for the end of a run."""

    def __init__(
        self, run_id: str, settings: AppSettings, timeout_s: float | None, poll_s: float
    ) -> None:
        """Start the clock; for the arguments see `BackgroundRun.wait`.

        Raises:
            InvalidInputError: A time is not a positive number of seconds.
        """
        timeout_s = settings.timeouts.total_s if timeout_s is None else timeout_s
        for name, value in (("timeout_s", timeout_s), ("poll_s", poll_s)):
            if value is not None:
                _require_seconds(name, value)
        self._run_id = run_id
        # Each question is sent once: what is waited out is decided here.
        limits = settings.timeouts.model_copy(update={"total_s": None})
        self._settings = settings.model_copy(update={"max_retries": 0, "timeout": limits})
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + (MAX_SECONDS if timeout_s is None else timeout_s)
        self._silent_until = time.monotonic() + limits.between_frames_s
        self._pause_s = poll_s
        self._max_pause_s = max(MAX_PAUSE_S, poll_s)
        self._asks_not_before = 0.0
        self._failure: BailianError | None = None  # of the newest question

    def question(self) -> RunRequest:
        """Return the next question for the run's status."""
        deadline = max(
            self._deadline, time.monotonic() + 1.0
        )  # the last question is asked at the deadline
        call = RunCall("retrieve", run_id=self._run_id)
        timeout_s = min(_QUESTION_S, self._settings.timeouts.first_frame_s)
        return RunRequest(
            call, self._settings, repeats=True, timeout_s=timeout_s, deadline=deadline
        )

    def answered(self) -> None:
        """The question was answered: failures may last as long again."""
        self._failure = None
        self._silent_until = time.monotonic() + self._settings.timeouts.between_frames_s

    def tolerate(self, error: BailianError) -> None:
        """Go on after a failure that may pass.

        Raises:
            BailianError: This one, if it does not pass, or failures have lasted too long.
        """
        if not is_retryable(error, idempotent=True) or time.monotonic() >= self._silent_until:
            raise error.with_traceback(None)
        self._failure = error
        self._asks_not_before = time.monotonic() + (error.retry_after_s or 0.0)

    def pause_s(self) -> float:
        """Return how long to wait before the next question; the last one is at the deadline.

        Raises:
            RequestTimeoutError: The deadline has passed.
        """
        now = time.monotonic()
        if now >= self._deadline:
            raise self._timeout_error()
        pause_s = self._pause_s * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311
        self._pause_s = min(self._pause_s * _GROWTH, self._max_pause_s)
        pause_s = max(pause_s, self._asks_not_before - now)
        until = self._deadline if self._failure is None else max(self._silent_until, now)
        return min(pause_s, self._deadline - now, max(until - now, 0.0))

    def _timeout_error(self) -> RequestTimeoutError:
        message = N_(
            "the run has not ended within timeout_s={seconds:g} s; it goes on, and can be waited "
            "for again by its id"
        ).format(seconds=self._timeout_s or MAX_SECONDS)
        if self._failure is not None:
            why = N_("asking failed at last: {failure}").format(failure=self._failure)
            message = joined((message, why))
        error = RequestTimeoutError(message)
        error.run_id, error.request_state = self._run_id, "answered"
        return error


def _require_seconds(name: str, value: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not (number and 0 < value <= MAX_SECONDS):
        raise InvalidInputError(name, "must be a positive number of seconds, at most 1e9")
