"""One run of an app on behalf of LangChain: its events as they come, its steps reported.

`events` and `aevents` are the only drivers: the model, the Runnable, the tool and the retriever
all stand on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing, contextmanager
from typing import Any

from bailian_apps import run
from bailian_apps.core.errors import BailianError
from bailian_apps.core.events import AppEvent, RunFinished
from bailian_apps.core.history import Plan
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import AppSettings
from bailian_apps.langchain.callbacks import STEP_EVENTS, StepRuns, adrive, drive
from bailian_apps.langchain.errors import as_langchain_error


def with_settings(
    settings: AppSettings, arguments: Mapping[str, Any]
) -> tuple[AppSettings, dict[str, Any]]:
    """The settings of one call, and what only a call can say (`session_id`, …).

    Args:
        settings: The settings of the object that is called.
        arguments: What the caller said for this call.

    Raises:
        InvalidInputError: A setting is not valid.
    """
    return settings.split(arguments)


def _plan_and_options(
    settings: AppSettings, said: Mapping[str, Any]
) -> tuple[Plan, dict[str, Any]]:
    options = dict(said)
    prompt = options.pop("prompt")
    if not isinstance(prompt, Plan):
        prompt = Plan.for_prompt(settings.app_id, prompt)
    return prompt, options


def events(
    settings: AppSettings, said: Mapping[str, Any], steps: StepRuns | None
) -> Generator[AppEvent]:
    """Run the app and yield what happens. Closing it closes the connection, then ends the steps.

    Args:
        settings: The app's settings.
        said: The arguments of `BailianApp.stream`.
        steps: Where its steps are reported, if anyone watches.

    Yields:
        The events of the run; the last is `RunFinished`.

    Raises:
        BailianError: The call failed.
    """
    try:
        with closing(run.stream(settings, *_plan_and_options(settings, said))) as stream:
            for event in stream:
                if steps is not None and isinstance(event, STEP_EVENTS):
                    drive(steps.on(event))
                yield event
    except BaseException as error:
        if steps is not None:
            drive(steps.close(error))
        raise


async def aevents(
    settings: AppSettings, said: Mapping[str, Any], steps: StepRuns | None
) -> AsyncGenerator[AppEvent]:
    """As `events`, natively async."""
    try:
        async with aclosing(run.astream(settings, *_plan_and_options(settings, said))) as stream:
            async for event in stream:
                if steps is not None and isinstance(event, STEP_EVENTS):
                    await adrive(steps.on(event))
                yield event
    except BaseException as error:
        if steps is not None:
            await adrive(steps.close(error))
        raise


def result_of(settings: AppSettings, said: Mapping[str, Any], steps: StepRuns | None) -> AppResult:
    """Run the app to its end.

    Raises:
        BailianError: The call failed.
    """
    with closing(events(settings, said, steps)) as each:
        return next(event.result for event in each if isinstance(event, RunFinished))


async def aresult_of(
    settings: AppSettings, said: Mapping[str, Any], steps: StepRuns | None
) -> AppResult:
    """As `result_of`, natively async."""
    async with aclosing(aevents(settings, said, steps)) as each:
        async for event in each:
            if isinstance(event, RunFinished):
                return event.result
    raise AssertionError("a run ends with RunFinished or an error")


@contextmanager
def typed_errors(settings: AppSettings, arguments: Mapping[str, Any]) -> Generator[None]:
    """Raise the errors of a call as LangChain's classes too.

    Args:
        settings: The settings of the object that is called.
        arguments: What the caller said for this call.

    Raises:
        BailianError: The error that the block raised.
    """
    try:
        yield
    except BailianError as error:
        idempotent = arguments.get("idempotent", settings.idempotent)
        raise as_langchain_error(error, idempotent=idempotent is True) from error.__cause__


def is_being_cancelled() -> bool:
    """Whether a `CancelledError` is meant for this task, and is not a child's.

    LangChain does not end the run of a model, a retriever or (before 1.8) a tool that is cancelled
    from outside, so whoever gets one has to.
    """
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)  # Python 3.11
    return cancelling is None or cancelling() > 0
