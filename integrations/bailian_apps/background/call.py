"""`BackgroundCall`: a run that is submitted and waited for, in place of a `Run` in an adapter."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Any

from bailian_apps.background.run import BackgroundRun
from bailian_apps.background.submission import Submission
from bailian_apps.client import Client
from bailian_apps.core.errors import BailianError
from bailian_apps.core.events import AppEvent, RunFinished
from bailian_apps.core.history import Plan
from bailian_apps.core.responses_api import StatusChanged
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.tracebacks import hides_arguments


class BackgroundCall:
    """Submits a run, waits for it, and yields its events, all at its end.

    Whoever leaves early leaves the run behind: it goes on in the cloud.
    """

    @hides_arguments
    def __init__(
        self,
        settings: AppSettings,
        plan: Plan,
        options: Mapping[str, Any],
        *,
        client: Client | None = None,
    ) -> None:
        """Check the arguments; the run is submitted when the first event is asked for.

        Raises:
            InvalidInputError: An argument cannot be sent.
        """
        self._submission = Submission(settings, plan, options, client=client)

    def stream(self) -> Generator[AppEvent | StatusChanged]:
        """Submit the run and wait for it; the last event is `RunFinished`.

        Raises:
            BailianError: Submitting or asking failed, or the run did; `run_id` names it.
        """
        run = self._submission.submit()
        try:
            yield StatusChanged(run.id, str(run.status))
            with closing(run.watch()) as statuses:
                for status in statuses:
                    yield StatusChanged(run.id, status)
            yield from self._events(run)
        except BailianError as error:
            raise _after_submission(error) from None

    async def astream(self) -> AsyncGenerator[AppEvent | StatusChanged]:
        """As `stream`, natively async."""
        run = await self._submission.asubmit()
        try:
            yield StatusChanged(run.id, str(run.status))
            async with aclosing(run.awatch()) as statuses:
                async for status in statuses:
                    yield StatusChanged(run.id, status)
            for event in self._events(run):
                yield event
        except BailianError as error:
            raise _after_submission(error) from None

    def _events(self, run: BackgroundRun) -> list[AppEvent]:
        *events, finished = run.events()
        assert isinstance(finished, RunFinished)  # noqa: S101 - always the last
        history_format = self._submission.history_format
        result = replace(
            finished.result,
            whole_history=history_format is not None,
            history_format=history_format,
        )
        return [*events, RunFinished(result)]


def _after_submission(error: BailianError) -> BailianError:
    """Return an error of asking: the call must not be repeated, because its run goes on."""
    error.request_state = "unknown"
    return error
