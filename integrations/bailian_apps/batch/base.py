"""What the drivers of a batch have in common; see `threads.py` and `tasks.py`."""

from __future__ import annotations

from collections.abc import Sized

from bailian_apps.batch.conductor import Conductor
from bailian_apps.batch.progress import Progress


class BaseBatch:
    """What `Batch` and `AsyncBatch` have in common.

    Attributes:
        counts: How far the batch is. It changes while the batch runs.
    """

    def __init__(self, conductor: Conductor, prompts: object, progress: Progress) -> None:
        """Drive a conductor, which is not open yet."""
        self.counts = conductor.counts
        if isinstance(prompts, Sized):
            self.counts.total = len(prompts)
        self._conductor = conductor
        self._progress = progress
        self._failure: BaseException | None = None

    @property
    def stopped_by(self) -> str | None:
        """Why prompts were not sent.

        `"stop"`, `"budget"`, or the class of an error that every prompt would get, such as
        `"AuthenticationError"`. None if all were sent.
        """
        return self._conductor.stopped_by

    def stop(self) -> None:
        """Send no further prompt; those in flight finish, and the rest is `not_started`.

        It may be called from any thread, and in a signal handler.
        """
        self._conductor.stop("stop")

    def _fail(self, error: BaseException) -> None:
        """End the batch by an error that is no prompt's. It is raised when all calls have ended."""
        self._failure = self._failure or error
        self._conductor.stop(type(error).__name__)
