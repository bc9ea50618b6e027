"""`Conductor`: decides what a batch sends, what it sends again and when it ends.

It never waits and does no I/O but the journal's: `threads.py` and `tasks.py` do. What may be sent
again is decided in `core.retry`; the calls themselves repeat nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Protocol, cast

from bailian_apps.app import BailianApp
from bailian_apps.batch.background import BackgroundAttempt
from bailian_apps.batch.call import Call
from bailian_apps.batch.journal import Journal
from bailian_apps.batch.pace import Pace, pace_of
from bailian_apps.batch.values import (
    BatchCounts,
    BatchFailure,
    BatchResult,
    Budget,
    Prompt,
    identity,
    repeated_id,
    unread,
)
from bailian_apps.concurrency import ConcurrencySlot
from bailian_apps.core import errors
from bailian_apps.core.errors import BailianError, InvalidInputError
from bailian_apps.core.history import Plan
from bailian_apps.core.invalid_input import require_type
from bailian_apps.core.responses_api import refuse_unsent
from bailian_apps.core.result import AppResult
from bailian_apps.core.retry import did_not_start, is_retryable, retry_delay_s
from bailian_apps.core.settings import MAX_SECONDS, Timeout
from bailian_apps.run import Run

# Errors that every prompt would get.
_OF_EVERY_PROMPT = (
    errors.AuthenticationError,
    errors.BillingError,
    errors.NotFoundError,
    errors.PermissionDeniedError,
)
STEP_S = 0.1
"""How long a call sleeps at most before it looks whether the batch was stopped."""

_MAX_IN_A_ROW = 3  # of these, without an answer between them; one may be a prompt's own fault
_MAX_REFUSALS = 20  # of one prompt, while others are answered


class Record(Protocol):
    """What `Journal` does, for another one in its place. The futures fail with the error."""

    def claim(self, prompt: Prompt) -> Future[BatchResult | None]:
        """Record that the input has a prompt; see `Journal`."""
        ...

    def start(self, prompt: Prompt, run_id: str | None = None) -> Future[bool]:
        """Record that a request is about to be sent; the future is whether it may be."""
        ...

    def finish(self, prompt: Prompt, result: BatchResult) -> Future[bool]:
        """Record what became of a prompt, so far."""
        ...

    def close(self) -> None:
        """End the record."""
        ...


class Conductor:
    """The decisions of one run of a batch. Safe to use from any thread.

    Attributes:
        counts: How far the batch is.
        concurrency: How many requests may be in flight.
        stopped_by: Why no further prompt is sent: `"stop"`, `"budget"`, the class of the error that
            every prompt would get; None while prompts are sent.
        journal: The journal, between `open` and `close`, if there is one.
    """

    def __init__(
        self,
        app: BailianApp,
        *,
        journal: str | PathLike[str] | None,
        concurrency: int,
        requests_per_minute: float | None,
        budget: Budget | None,
        retry_failed: bool,
        background: bool = False,
        pace: Pace | None = None,
    ) -> None:
        """Check the arguments; see `run_batch`."""
        require_type(app, BailianApp, "app")
        if type(concurrency) is not int or concurrency < 1:
            raise InvalidInputError("concurrency", "must be a positive integer")
        rate = cast("object", requests_per_minute)
        if rate is not None and (
            isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e9
        ):
            raise InvalidInputError("requests_per_minute", "must be a positive number")
        if not isinstance(cast("object", budget), Budget | None):
            raise InvalidInputError("budget", "must be a Budget")
        app.settings.require_secrets()
        self.counts = BatchCounts()
        self.concurrency = min(concurrency, app.settings.max_concurrency or concurrency)
        self.stopped_by: str | None = None
        self.journal: Record | None = None
        self._app = app
        self._once = app.settings.model_copy(update={"max_retries": 0})
        self._journal_path = journal
        self._rate = requests_per_minute
        self._budget = budget or Budget()
        self._retry_failed = retry_failed
        self._background = background
        self.refusal: InvalidInputError | None = None  # of the newest prompt that cannot be sent
        self._pace = pace or pace_of(app.settings.base_url, app.settings.app_id)
        self._lock = threading.Lock()
        self._ends_at = float("inf")
        self._closed = False
        self._position = 0
        self._ids: set[str] = set()
        self._in_a_row = 0

    def open(self) -> None:
        """Open the journal and start the clock.

        Raises:
            InvalidInputError: The journal is in use, or belongs to another batch.
        """
        if self._journal_path is not None:
            self.journal = Journal(self._journal_path, identity(self._app.settings))
        if self._budget.time_s is not None:
            self._ends_at = time.monotonic() + self._budget.time_s

    def end(self) -> None:
        """Send no further prompt: the batch is at its end, or was closed."""
        self._closed = True

    def close(self) -> None:
        """Close the journal."""
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def stop(self, reason: str) -> None:
        """Send no further prompt; those in flight finish."""
        self.stopped_by = self.stopped_by or reason

    @property
    def stopped(self) -> bool:
        """Whether no further prompt is sent."""
        if self.stopped_by is None and (
            self.counts.calls >= (self._budget.calls or float("inf"))
            or self.counts.tokens >= (self._budget.tokens or float("inf"))
            or time.monotonic() >= self._ends_at
        ):
            self.stop("budget")
        return self._closed or self.stopped_by is not None

    def read(self, given: object) -> Prompt | BatchResult:
        """Read the next item of the input; one that is no prompt has failed.

        Raises:
            InvalidInputError: Its id is used twice.
        """
        self._position += 1
        try:
            prompt = Prompt.of(given, self._position, self._app.settings.secret_biz_params)
        except InvalidInputError as error:
            self.refusal = error
            return _invalid(str(self._position), self._position, error)
        named = prompt.id != str(self._position)
        if self.journal is None and (named or self._ids):  # a journal knows the ids
            if not self._ids:  # without a name, positions need no memory
                self._ids.update(map(str, range(1, self._position)))
            if prompt.id in self._ids:
                raise repeated_id(prompt.id)
            self._ids.add(prompt.id)
        return prompt

    def call(self, prompt: Prompt, stored: BatchResult | None) -> Call | BatchResult:
        """Return the call of a prompt, or what is reported without one.

        Args:
            prompt: The prompt.
            stored: What the journal knows of it.
        """
        if stored is not None and stored.status == "answered":
            return stored
        try:
            if self._background:
                refuse_unsent(prompt.options)
            settings, options = self._app.settings.split(prompt.options)
        except InvalidInputError as error:
            if stored is not None and stored.status == "unknown":
                return stored
            self.refusal = error
            return _invalid(prompt.id, prompt.position, error)
        run_id = None
        if stored is not None:
            if self._background and stored.status == "unknown" and stored.error is not None:
                run_id = stored.error.run_id
            asked_again = {
                "failed": self._retry_failed,
                "unknown": settings.idempotent or run_id is not None,
                "not_started": True,
            }
            if not asked_again[stored.status]:
                return stored
        call = Call(prompt=prompt, settings=settings, options=options, stored=stored, run_id=run_id)
        if stored is not None:
            call.attempts = stored.attempts
            call.may_have_run = stored.status == "unknown" and run_id is None
        return self.ended(call) if self.stopped else call

    def slot(
        self, register_abort: Callable[[Callable[[], object]], None] | None = None
    ) -> ConcurrencySlot:
        """Return the context in which a call is made; all batches of the app share its slots."""
        return ConcurrencySlot(
            self._pace.slots,
            self.concurrency,
            Timeout(connect_s=MAX_SECONDS),
            deadline=None,
            register_abort=register_abort,
        )

    def wait_s(self, call: Call) -> float | None:
        """Return 0 if the call may be sent now, else seconds after which to ask; None: never."""
        with self._lock:
            if self.stopped:
                return None
            self.counts.pause_s = self._pace.pause_s
            wait_s = 0.0 if call.run_id else self._pace.wait_s(self._rate)
            if not wait_s:
                self.counts.calls += call.run_id is None
                self.counts.in_flight += 1
            return wait_s

    def steps_s(self, delay_s: float) -> Iterator[float]:
        """Yield the sleeps of which a delay consists; it ends with the batch."""
        until = time.monotonic() + delay_s
        while not self.stopped and (left_s := until - time.monotonic()) > 0:
            yield min(left_s, STEP_S)

    def run(self, call: Call) -> Run | BackgroundAttempt:
        """Return one attempt of a call, which repeats nothing by itself.

        Raises:
            InvalidInputError: The call cannot be sent.
        """
        call.run_ended = False
        once = self._once
        if call.settings is not self._app.settings:
            once = call.settings.model_copy(update={"max_retries": 0})
        client = self._app.client
        if self._background:
            record = partial(self._record_run, call)
            return BackgroundAttempt(once, call.options, record, client=client, run_id=call.run_id)
        return Run(once, Plan(app_id=once.app_id), call.options, client=client)

    def _record_run(self, call: Call, run_id: str | None) -> Future[bool] | None:
        call.run_id, call.run_ended = run_id, run_id is None
        if run_id is None:
            return None
        self._pace.answered()
        with self._lock:
            self._in_a_row = 0
        call.attempts += 1
        return None if self.journal is None else self.journal.start(call.prompt, run_id)

    def answered(self, call: Call, result: AppResult) -> BatchResult:
        """Return the result of a call that was answered."""
        self._pace.answered()
        with self._lock:
            self.counts.in_flight -= 1
            self.counts.tokens += result.usage.total_tokens
            self._in_a_row = 0
        if not self._background:
            call.attempts += result.attempts
        return replace(call.result("answered"), result=replace(result, raw={}))

    def failed(self, call: Call, error: BailianError) -> BatchResult | float:
        """Return the result of an attempt that failed, or seconds until the next attempt."""
        with self._lock:
            self.counts.in_flight -= 1
        status = call.status_of(error)
        call.error = error
        call.has_failed |= call.run_ended
        if not (call.run_id or call.run_ended):  # a run was counted when it was submitted
            call.attempts += error.attempts
            call.may_have_run |= status == "unknown"
        idempotent, max_retries = call.settings.idempotent, call.settings.max_retries
        if did_not_start(error) and is_retryable(error) and max_retries:
            call.refusals += 1
            if not self._pace.refused(call.sent_at, error.retry_after_s):
                self.stop(type(error).__name__)
                return self.ended(call)
            if call.refusals < _MAX_REFUSALS:
                return 0.0  # the pace makes it wait
        elif is_retryable(unread(error), idempotent=idempotent):
            call.repeats += 1
            delay_s = retry_delay_s(unread(error), attempt=call.repeats, settings=call.settings)
            if delay_s is not None:
                return delay_s
        elif call.run_id and isinstance(error, errors.NotFoundError):
            # The cloud has deleted the run. An earlier batch's prompt is asked as if it had none.
            if idempotent and (call.continues_run or call.repeats < max_retries):
                call.run_id, call.may_have_run = None, True
                call.repeats += 1
                return 0.0
        elif isinstance(error, _OF_EVERY_PROMPT) or getattr(error, "permanent", False):
            with self._lock:
                self._in_a_row += 1
                if self._in_a_row >= _MAX_IN_A_ROW:
                    self.stop(type(error).__name__)
        return call.result(status, error)

    def ended(self, call: Call) -> BatchResult:
        """Return the result of a call that waits for its turn, if the batch ends."""
        if call.error is None:
            return call.stored or call.result("not_started")
        status = "not_started" if call.did_not_start else call.status_of(call.error)
        return call.result(status, call.error)

    def held_back(self, call: Call) -> BatchResult:
        """Return the result of a call that its record did not let start."""
        with self._lock:
            self.counts.in_flight -= 1
            self.counts.calls -= 1
        return self.ended(call)

    def invalid(self, call: Call, error: InvalidInputError) -> BatchResult:
        """Return the result of a call that cannot be sent."""
        return call.result("failed", error)


def _invalid(prompt_id: str, position: int, error: InvalidInputError) -> BatchResult:
    return BatchResult(
        id=prompt_id, position=position, status="failed", error=BatchFailure.of(error)
    )
