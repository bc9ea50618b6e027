"""One run of an app on behalf of LangChain: its events, with the steps reported as child runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from bailian_apps.core.events import AppEvent, RunFinished
from bailian_apps.core.history import Plan, plan_request
from bailian_apps.core.redaction import hides_arguments, take
from bailian_apps.core.result import AppResult
from bailian_apps.core.turns import Turn
from bailian_apps.langchain.settings import AppSettingsMixin, call_kwargs
from bailian_apps.langchain.step_runs import AnyRunManager, StepRuns, amake_calls, make_calls
from bailian_apps.owned_stream import OwnedStream
from bailian_apps.run import Run


@dataclass(frozen=True, slots=True)
class AppRun:
    """A run whose steps LangChain sees. The request is sent when the first event is asked for.

    Attributes:
        plan: What of the conversation is sent.
        run: The run itself.
        steps: Reports the app's steps.
    """

    plan: Plan
    run: Run
    steps: StepRuns

    @classmethod
    @hides_arguments
    def prepare(
        cls,
        app: AppSettingsMixin,
        conversation: str | Sequence[Turn],
        kwargs: dict[str, Any],
        manager: AnyRunManager | None,
    ) -> AppRun:
        """Check the arguments of a call and plan its request.

        Args:
            app: The called object.
            conversation: The turns; or a prompt that is sent as it is, without a history.
            kwargs: Settings to override, and call options (`session_id`, `image_list`, …). Is
                emptied, see `take`.
            manager: The LangChain run of the call, if it has one.

        Raises:
            InvalidInputError: An argument cannot be sent.
        """
        settings, options = app.split(call_kwargs(take(kwargs)))
        if isinstance(conversation, str):
            plan = Plan.for_prompt(settings.app_id, conversation)
        else:
            session_id = options.pop("session_id", None)
            plan = plan_request(conversation, settings, session_id=session_id)
        run = Run(settings, plan, options, client=app.client)
        return cls(plan, run, StepRuns(manager, settings.app_id))

    def events(self) -> Generator[AppEvent]:
        """Run the app. Closing the generator closes the connection, then ends the steps.

        Yields:
            The events of the run; the last is `RunFinished`.

        Raises:
            BailianError: The call failed.
        """
        try:
            with closing(self.run.stream()) as stream:
                for event in stream:
                    if isinstance(event, self.steps.reported):
                        make_calls(self.steps.report(event))
                    yield event
        except BaseException as error:
            make_calls(self.steps.close(error))
            raise

    async def aevents(self) -> AsyncGenerator[AppEvent]:
        """Run the app, natively async; as `events`."""
        try:
            async with OwnedStream(self.run.astream()) as stream:
                async for event in stream:
                    if isinstance(event, self.steps.reported):
                        await amake_calls(self.steps.report(event))
                    yield event
        except BaseException as error:
            await amake_calls(self.steps.close(error))
            raise

    def result(self) -> AppResult:
        """Run the app to its end.

        Raises:
            BailianError: The call failed.
        """
        with closing(self.events()) as events:
            return next(event.result for event in events if isinstance(event, RunFinished))

    async def aresult(self) -> AppResult:
        """Run the app to its end, natively async; as `result`."""
        async with OwnedStream(self.aevents()) as events:
            async for event in events:
                if isinstance(event, RunFinished):
                    return event.result
        raise AssertionError("a run ends with RunFinished or an error")


def is_being_cancelled() -> bool:
    """Return whether a `CancelledError` cancels this task, and not one that it awaits.

    LangChain does not end the run of a cancelled model, retriever or (before 1.8) tool, so the
    adapter has to.
    """
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)  # Python 3.11
    return cancelling is None or cancelling() > 0
