"""`BackgroundAttempt`: one attempt of a prompt as a background run, in place of a `Run`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from typing_extensions import override

from bailian_apps.background.run import BackgroundRun
from bailian_apps.background.submission import Submission
from bailian_apps.client import Client
from bailian_apps.core.errors import BailianError, ConnectionLostError
from bailian_apps.core.history import Plan
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import AppSettings


class RecordFailedError(Exception):
    """A run was submitted, and the journal could not be written: the batch ends with `error`."""

    def __init__(self, error: Exception) -> None:
        """Hold the journal's error, which is no failure of the prompt."""
        super().__init__(str(error))
        self.error = error


class BackgroundAttempt:
    """Submits a run, or picks one up, and waits for its end."""

    def __init__(
        self,
        settings: AppSettings,
        options: Mapping[str, Any],
        record: Callable[[str | None], Future[bool] | None],
        *,
        client: Client | None,
        run_id: str | None,
    ) -> None:
        """Check the arguments; nothing is sent yet.

        Args:
            settings: The settings of the call.
            options: What only a call has.
            record: Records the id of a run that was submitted, before it is waited for, and None
                when it has ended: a further attempt is a new run.
            client: The connections to use; None for the default client's.
            run_id: The run of an earlier attempt; None to submit one.

        Raises:
            InvalidInputError: An argument cannot be sent.
        """
        plan = Plan(app_id=settings.app_id)
        self._submission = Submission(settings, plan, options, client=client)
        self._settings = settings
        self._client = client
        self._record = record
        self._closed = threading.Event()
        self._run_id = run_id
        self._recorded: Future[bool] | None = None

    def invoke(self) -> AppResult:
        """Return the result of the run.

        Raises:
            BailianError: It failed, or was not submitted, or asking for it failed.
        """
        run_id = self._run_id or self._submission.submit(self._submitted).id
        if self._recorded is not None:
            try:
                self._recorded.result()
            except Exception as error:
                raise RecordFailedError(error) from None
        try:
            run = self._run(run_id)
            run.wait()
        except BailianError as error:
            raise _goes_on(error, run_id) from None
        return self._result(run)

    async def ainvoke(self) -> AppResult:
        """As `invoke`, natively async."""
        run_id = self._run_id or (await self._submission.asubmit(self._submitted)).id
        if self._recorded is not None:
            try:
                await asyncio.wrap_future(self._recorded)
            except Exception as error:
                raise RecordFailedError(error) from None
        try:
            run = self._run(run_id)
            await run.await_end()
        except BailianError as error:
            raise _goes_on(error, run_id) from None
        return self._result(run)

    def close(self) -> None:
        """End the wait when the request in flight, if any, has ended; the run goes on."""
        self._closed.set()

    def _submitted(self, run_id: str) -> None:
        self._recorded = self._record(run_id)

    def _run(self, run_id: str) -> BackgroundRun:
        return _Abortable(self._settings, run_id, client=self._client, closed=self._closed)

    def _result(self, run: BackgroundRun) -> AppResult:
        self._record(None)
        return run.result()


def _goes_on(error: BailianError, run_id: str) -> BailianError:
    """Return an error of asking, whatever it is: what became of the run is unknown."""
    error.request_state, error.run_id = "unknown", run_id
    return error


class _Abortable(BackgroundRun):
    """A run whose wait ends when an event is set."""

    def __init__(self, *args: Any, closed: threading.Event, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._closed = closed

    @override
    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            error = ConnectionLostError("the batch ended while the run went on")
            error.run_id = self.id
            raise error
