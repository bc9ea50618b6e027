"""The four ways to call an app, as one: every test of a call runs on all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bailian_apps import AppEvent, AppResult, BailianApp, BailianError, RunFinished, TextDelta


@dataclass
class Outcome:
    """What a caller saw of one call."""

    events: list[AppEvent] = field(default_factory=list)
    result: AppResult | None = None
    error: BailianError | None = None

    @property
    def text(self) -> str:
        """The answer text as it was delivered."""
        if self.result is not None and not self.events:
            return self.result.text
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))


def _note(outcome: Outcome, event: AppEvent) -> None:
    outcome.events.append(event)
    if isinstance(event, RunFinished):
        outcome.result = event.result


def _invoke(app: BailianApp, prompt: str, **overrides: Any) -> Outcome:
    outcome = Outcome()
    try:
        outcome.result = app.invoke(prompt, **overrides)
    except BailianError as error:
        outcome.error = error
    return outcome


def _stream(app: BailianApp, prompt: str, **overrides: Any) -> Outcome:
    outcome = Outcome()
    try:
        for event in app.stream(prompt, **overrides):
            _note(outcome, event)
    except BailianError as error:
        outcome.error = error
    return outcome


def _ainvoke(app: BailianApp, prompt: str, **overrides: Any) -> Outcome:
    async def call() -> Outcome:
        outcome = Outcome()
        try:
            outcome.result = await app.ainvoke(prompt, **overrides)
        except BailianError as error:
            outcome.error = error
        return outcome

    return asyncio.run(call())


def _astream(app: BailianApp, prompt: str, **overrides: Any) -> Outcome:
    async def call() -> Outcome:
        outcome = Outcome()
        try:
            async for event in app.astream(prompt, **overrides):
                _note(outcome, event)
        except BailianError as error:
            outcome.error = error
        return outcome

    return asyncio.run(call())


Path: TypeAlias = Callable[..., Outcome]
PATHS: dict[str, Path] = {
    "invoke": _invoke,
    "stream": _stream,
    "ainvoke": _ainvoke,
    "astream": _astream,
}
STREAMING = ("stream", "astream")
