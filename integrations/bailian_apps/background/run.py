"""`BackgroundRun`: a run in the cloud, by its id."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

from typing_extensions import Self

from bailian_apps.background.polling import Polling
from bailian_apps.background.requests import RunRequest
from bailian_apps.client import Client, default_client
from bailian_apps.core.errors import (
    BailianError,
    InvalidInputError,
    NotFoundError,
    ProtocolError,
)
from bailian_apps.core.events import AppEvent, RunFinished
from bailian_apps.core.json_values import kind_of
from bailian_apps.core.language import N_
from bailian_apps.core.responses_api import RunState, failure_of, read_state, result_events
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.tracebacks import hides_arguments
from bailian_apps.transport.responses_api import (
    AsyncRuns,
    RunAnswer,
    RunCall,
    SyncRuns,
    run_endpoint,
)

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")  # it becomes part of the address


class BackgroundRun:
    """A run in the cloud, which goes on whatever becomes of this process.

    Made by `BailianApp.submit` and `BailianApp.background_run`. It can be pickled like the settings
    of an app: without a key of its own, which then has to be in the environment.

    Example:
        ```python
        run = app.submit("Write a long report")
        store(run.id)
        print(app.background_run(run.id).wait(timeout_s=3600).result().text)
        ```

    Attributes:
        id: The cloud's id of the run, a string to be stored anywhere.
    """

    @hides_arguments
    def __init__(
        self,
        settings: AppSettings,
        run_id: str,
        *,
        client: Client | None = None,
        state: RunState | None = None,
    ) -> None:
        """Name a run; nothing is sent.

        Args:
            settings: The settings of its app.
            run_id: Its id.
            client: The connections to use; None for the default client's.
            state: The run as the cloud has described it, if it has.

        Raises:
            InvalidInputError: The id is none.
        """
        if not isinstance(run_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(
                "run_id", N_("must be a str, not {kind}").format(kind=kind_of(run_id))
            )
        if not _RUN_ID.fullmatch(run_id):
            raise InvalidInputError(
                "run_id",
                "is empty, or has a character that a run's id cannot have",
                "Pass the id that BackgroundRun.id had",
            )
        settings.require_secrets()
        self.id = run_id
        self._settings = settings
        self._client = client
        self._state = state

    def __repr__(self) -> str:
        """Show the ids and the status; settings may hold secrets."""
        app_id = self._settings.app_id
        return f"BackgroundRun(id={self.id!r}, app_id={app_id!r}, status={self.status!r})"

    @property
    def status(self) -> str | None:
        """The status when the cloud was last asked; None if it was not.

        `"queued"`, `"running"`, `"completed"`, `"failed"`, `"cancelled"` or, for an answer that was
        cut off, `"incomplete"`.
        """
        return None if self._state is None else self._state.status

    @property
    def ended(self) -> bool:
        """Whether the run had ended when the cloud was last asked."""
        return self._state is not None and self._state.ended

    def result(self) -> AppResult:
        """Return the result of a run that has ended. Nothing is asked of the cloud.

        Returns:
            The answer; usage and steps only where the API gives them, and no session.

        Raises:
            NoResultError: The run has not ended, as far as is known, or was cancelled.
            BailianError: The run failed, see `docs/en/errors.md`.
        """
        finished = self.events()[-1]
        assert isinstance(finished, RunFinished)  # noqa: S101 - always the last
        return finished.result

    def events(self) -> list[AppEvent]:
        """Return the result as the events of a run, as `BailianApp.stream` has them.

        Raises:
            BailianError: As for `result`.
        """
        state = self._state or RunState(id=self.id, status="not known", raw={})
        if (error := failure_of(state)) is not None:
            error.idempotent = self._settings.idempotent
            raise error
        return result_events(state, self._settings)

    def refresh(self) -> Self:
        """Ask for the status, again after failures that may pass.

        Raises:
            NotFoundError: The cloud does not know the run, or not any more.
            BailianError: Asking failed; the run goes on.
        """
        self._state = self._read(self._ask("retrieve"))
        return self

    async def arefresh(self) -> Self:
        """As `refresh`, natively async."""
        self._state = self._read(await self._aask("retrieve"))
        return self

    def cancel(self) -> Self:
        """Cancel the run if it has not ended; `status` is what it is then.

        Raises:
            BailianError: As for `refresh`.
        """
        return self if self._cancelled(self._ask("cancel")) else self.refresh()

    async def acancel(self) -> Self:
        """As `cancel`, natively async."""
        return self if self._cancelled(await self._aask("cancel")) else await self.arefresh()

    def delete(self) -> None:
        """Delete a run that has ended, and its result, from the cloud.

        Raises:
            BailianError: It was not deleted.
        """
        request = self._request("delete")
        try:
            with self._open() as connection:
                answer = request.send(connection)
        except NotFoundError:
            if not request.may_have_been_done:
                raise
            return  # the answer to an earlier attempt was lost
        self._check_deleted(answer)

    async def adelete(self) -> None:
        """As `delete`, natively async."""
        request = self._request("delete")
        try:
            async with await self._aopen() as connection:
                answer = await request.asend(connection)
        except NotFoundError:
            if not request.may_have_been_done:
                raise
            return
        self._check_deleted(answer)

    def wait(self, timeout_s: float | None = None, *, poll_s: float = 1.0) -> Self:
        """Wait until the run has ended.

        Lost connections and failures of the cloud are waited out, for as long as `timeout` allows
        for silence.

        Args:
            timeout_s: Seconds to wait; None for `Timeout.total_s`, or no limit without that.
            poll_s: Seconds until the cloud is asked the second time. The pauses grow, to 15 s.

        Raises:
            RequestTimeoutError: The run had not ended in time. It goes on, and can be waited for
                again.
            BailianError: Asking failed; the run goes on.
        """
        for _ in self.watch(timeout_s, poll_s=poll_s):
            pass
        return self

    async def await_end(self, timeout_s: float | None = None, *, poll_s: float = 1.0) -> Self:
        """As `wait`, natively async."""
        async for _ in self.awatch(timeout_s, poll_s=poll_s):
            pass
        return self

    def watch(self, timeout_s: float | None = None, *, poll_s: float = 1.0) -> Generator[str]:
        """Wait until the run has ended, and yield its status now and whenever it has changed.

        Args:
            timeout_s: As for `wait`.
            poll_s: As for `wait`.

        Raises:
            BailianError: As for `wait`.
        """
        polling = Polling(self.id, self._settings, timeout_s, poll_s)
        if self.ended:
            yield str(self.status)
            return
        shown = None
        with self._open() as connection:
            while not self.ended:
                try:
                    self._state = self._read(polling.question().send(connection))
                except BailianError as error:
                    polling.tolerate(error)
                else:
                    polling.answered()
                    if self.status != shown:
                        yield (shown := str(self.status))
                if not self.ended:
                    self._sleep(polling.pause_s())

    async def awatch(
        self, timeout_s: float | None = None, *, poll_s: float = 1.0
    ) -> AsyncGenerator[str]:
        """As `watch`, natively async."""
        import asyncio

        polling = Polling(self.id, self._settings, timeout_s, poll_s)
        if self.ended:
            yield str(self.status)
            return
        shown = None
        async with await self._aopen() as connection:
            while not self.ended:
                try:
                    self._state = self._read(await polling.question().asend(connection))
                except BailianError as error:
                    polling.tolerate(error)
                else:
                    polling.answered()
                    if self.status != shown:
                        yield (shown := str(self.status))
                if not self.ended:
                    await asyncio.sleep(polling.pause_s())

    def _sleep(self, seconds: float) -> None:
        """Sleep between two questions of `watch`; a subclass may end the wait."""
        time.sleep(seconds)

    def _request(self, action: Any, **limits: Any) -> RunRequest:
        call = RunCall(action, run_id=self.id)
        return RunRequest(call, self._settings, **{"repeats": True, **limits})

    def _ask(self, action: str) -> RunAnswer:
        with self._open() as connection:
            return self._request(action).send(connection)

    async def _aask(self, action: str) -> RunAnswer:
        async with await self._aopen() as connection:
            return await self._request(action).asend(connection)

    def _open(self) -> SyncRuns:
        self._settings.require_secrets()  # they may have been lost in a pickle
        return (self._client or default_client()).runs(run_endpoint(self._settings))

    async def _aopen(self) -> AsyncRuns:
        import asyncio

        self._settings.require_secrets()
        client = self._client or default_client()
        # In a thread: importing the SDK and the openai client takes a second.
        endpoint = await asyncio.to_thread(run_endpoint, self._settings)
        return await asyncio.to_thread(client.aruns, endpoint)

    def _read(self, answer: RunAnswer) -> RunState:
        try:
            state = read_state(*answer)
        except ProtocolError as error:
            raise self._about(error) from None
        if state.id != self.id:
            raise self._about(ProtocolError("the cloud answered with another run"))
        return state

    def _cancelled(self, answer: RunAnswer) -> bool:
        state = self._read(answer)
        # The answer for a run that had ended says `failed`, whatever the run's own status: it is
        # not kept, or a refresh that fails would leave a run that has a result as failed.
        if state.status != "cancelled":
            return False
        self._state = state
        return True

    def _check_deleted(self, answer: RunAnswer) -> None:
        if answer.content.get("deleted") is not True:
            raise self._about(ProtocolError("the cloud did not say that it has deleted the run"))

    def _about(self, error: BailianError) -> BailianError:
        error.run_id = self.id
        return error
