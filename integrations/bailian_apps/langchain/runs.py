"""One run of an app on behalf of LangChain: its events, with the steps reported as child runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import closing, suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from bailian_apps.core.events import AppEvent, RunFinished
from bailian_apps.core.history import Plan, plan_request
from bailian_apps.core.responses_api import StatusChanged, refuse_unsent
from bailian_apps.core.result import AppResult
from bailian_apps.core.tracebacks import hides_arguments, take
from bailian_apps.core.turns import Turn
from bailian_apps.langchain.answer_run import AnswerRun
from bailian_apps.langchain.settings import AppSettingsMixin, call_kwargs
from bailian_apps.langchain.step_runs import (
    AnyRunManager,
    ManagerCalls,
    StepRuns,
    amake_calls,
    make_calls,
    token_handlers,
)
from bailian_apps.owned_stream import OwnedStream
from bailian_apps.run import EventStream, Run

if TYPE_CHECKING:
    from bailian_apps.background.call import BackgroundCall


@dataclass(frozen=True, slots=True)
class AppRun:
    """A run whose steps LangChain sees. The request is sent when the first event is asked for.

    Attributes:
        plan: What of the conversation is sent.
        run: The run itself.
        steps: Reports the app's steps.
        answer: Reports the answer, if that is no chat model's and a handler shows tokens.
    """

    plan: Plan
    run: Run | BackgroundCall
    steps: StepRuns
    answer: AnswerRun | None

    @classmethod
    @hides_arguments
    def prepare(
        cls,
        app: AppSettingsMixin,
        conversation: str | Sequence[Turn],
        kwargs: dict[str, Any],
        manager: AnyRunManager | None,
        config: RunnableConfig | None = None,
        *,
        background: bool = False,
    ) -> AppRun:
        """Check the arguments of a call and plan its request.

        Args:
            app: The called object.
            conversation: The turns; or a prompt that is sent as it is, without a history.
            kwargs: Settings to override, and call options (`session_id`, `image_list`, …). Is
                emptied, see `take`.
            manager: The LangChain run of the call, if it has one.
            config: The config of the call, unless LangChain itself streams what the call returns.
            background: Whether it is submitted as a background run and waited for.

        Raises:
            InvalidInputError: An argument cannot be sent.
        """
        given = call_kwargs(take(kwargs))
        if background:
            refuse_unsent(given)
        settings, options = app.split(given)
        if isinstance(conversation, str):
            plan = Plan.for_prompt(settings.app_id, conversation)
        else:
            session_id = options.pop("session_id", None)
            # The API of background runs has no sessions.
            planned = settings.with_overrides({"history_mode": "full"}) if background else settings
            plan = plan_request(conversation, planned, session_id=session_id)
        if background:
            from bailian_apps.background.call import BackgroundCall

            run = BackgroundCall(settings, plan, options, client=app.client)
        else:
            run = Run(settings, plan, options, client=app.client)
        answer: AnswerRun | None = None
        shown: list[BaseCallbackHandler] = []
        if config is not None and manager is not None and (shown := token_handlers(manager)):
            text = conversation if isinstance(conversation, str) else conversation[-1].text
            answer = AnswerRun(manager, shown, plan, text)
        steps = StepRuns(manager, settings.app_id, _graph_writer(config), shown)
        return cls(plan, run, steps, answer)

    def events(self) -> Generator[AppEvent]:
        """Run the app. Closing the generator closes the connection, then ends the steps.

        Yields:
            The events of the run; the last is `RunFinished`.

        Raises:
            BailianError: The call failed.
        """
        try:
            with closing(self._stream()) as stream:
                for event in stream:
                    if isinstance(event, self.steps.reported):
                        make_calls(self.steps.report(event))
                    if self.answer is not None:
                        make_calls(self.answer.report(event))
                    yield event
        except BaseException as error:
            make_calls(self._close(error))
            raise

    async def aevents(self) -> AsyncGenerator[AppEvent]:
        """Run the app, natively async; as `events`."""
        try:
            async with OwnedStream(self._astream()) as stream:
                async for event in stream:
                    if isinstance(event, self.steps.reported):
                        await amake_calls(self.steps.report(event))
                    if self.answer is not None:
                        await amake_calls(self.answer.report(event))
                    yield event
        except BaseException as error:
            # In a task of its own: a cancel scope of anyio cancels each await of this one.
            closing_runs = asyncio.ensure_future(amake_calls(self._close(error)))
            try:
                await asyncio.shield(closing_runs)
            except asyncio.CancelledError:
                while not closing_runs.done():  # before the run of the call ends
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([closing_runs])
                raise
            raise

    def _stream(self) -> EventStream | Generator[AppEvent]:
        return self.run.stream() if isinstance(self.run, Run) else self._wait(self.run)

    def _astream(self) -> AsyncGenerator[AppEvent]:
        return self.run.astream() if isinstance(self.run, Run) else self._await(self.run)

    def _wait(self, call: BackgroundCall) -> Generator[AppEvent]:
        for event in call.stream():
            if isinstance(event, StatusChanged):
                make_calls(self.steps.report_status(event))
            else:
                yield event

    async def _await(self, call: BackgroundCall) -> AsyncGenerator[AppEvent]:
        async with OwnedStream(call.astream()) as events:
            async for event in events:
                if isinstance(event, StatusChanged):
                    await amake_calls(self.steps.report_status(event))
                else:
                    yield event

    def _close(self, error: BaseException) -> ManagerCalls:
        try:
            yield from self.steps.close(error)
        finally:  # a handler may raise
            if self.answer is not None:
                yield from self.answer.close(error)

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


def _graph_writer(config: RunnableConfig | None) -> Callable[[Any], object] | None:
    """Return what writes to the stream mode `custom` of the LangGraph graph that runs a call."""
    langgraph: Any = sys.modules.get("langgraph.config")
    if config is None or langgraph is None or not config.get("configurable"):
        return None
    # The writer reads the config of the running node from a context variable, which no task of
    # Python 3.10 has.
    context = copy_context()
    context.run(var_child_runnable_config.set, config)
    try:
        return partial(context.run, context.run(langgraph.get_stream_writer))
    except (KeyError, RuntimeError):  # it is no graph's config
        return None


def is_being_cancelled() -> bool:
    """Return whether a `CancelledError` cancels this task, and not one that it awaits.

    LangChain does not end the run of a cancelled model, retriever or (before 1.8) tool, so the
    adapter has to.
    """
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)  # Python 3.11
    return cancelling is None or cancelling() > 0
