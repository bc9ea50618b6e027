"""`Call`: one prompt of a batch that is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bailian_apps.batch.values import BatchFailure, BatchResult, BatchStatus, Prompt, status_of
from bailian_apps.core.errors import BailianError
from bailian_apps.core.retry import did_not_start
from bailian_apps.core.settings import AppSettings


@dataclass(slots=True, kw_only=True)
class Call:
    """One prompt that is asked.

    Attributes:
        prompt: The prompt.
        settings: Its settings, those of the app with its own.
        options: What only a call has.
        stored: What earlier runs of the batch know of it.
        attempts: How many times it was sent, in all runs of the batch.
        refusals: How many attempts of this run certainly did not start the app.
        repeats: How many other attempts of this run failed.
        sent_at: When the newest was sent, by the monotonic clock.
        error: What the newest attempt of this run failed with.
        may_have_run: Whether an attempt, also of an earlier run, may have run the app.
        run_id: The background run of an earlier attempt, which may still have a result.
        run_ended: Whether the newest attempt was a background run that came to its end.
        has_failed: Whether one of this run was, and failed.
    """

    prompt: Prompt
    settings: AppSettings
    options: dict[str, Any]
    stored: BatchResult | None = None
    attempts: int = 0
    refusals: int = 0
    repeats: int = 0
    sent_at: float = 0.0
    error: BailianError | None = None
    may_have_run: bool = False
    run_id: str | None = None
    run_ended: bool = False
    has_failed: bool = False

    @property
    def did_not_start(self) -> bool:
        """Whether the newest attempt certainly did not start the app."""
        return self.error is not None and did_not_start(self.error)

    @property
    def continues_run(self) -> bool:
        """Whether it waits for a background run that an earlier run of the batch submitted."""
        stored = self.stored.error if self.stored is not None else None
        return stored is not None and self.run_id is not None and stored.run_id == self.run_id

    def status_of(self, error: BailianError) -> BatchStatus:
        """Return what became of the prompt if the newest attempt failed with an error."""
        return "failed" if self.run_ended else status_of(error)

    def result(self, status: BatchStatus, error: BailianError | None = None) -> BatchResult:
        """Return what the batch reports of the prompt, without an answer."""
        if self.may_have_run and status != "answered":
            status = "unknown"  # whatever the newest attempt came to
        elif self.has_failed and status == "not_started":
            status = "failed"  # only its repetition was not
        return BatchResult(
            id=self.prompt.id,
            position=self.prompt.position,
            status=status,
            error=None if error is None else BatchFailure.of(error, self.run_id),
            attempts=self.attempts,
        )
