"""The events of a run as results that grow. Pure."""

from __future__ import annotations

from dataclasses import replace

from bailian_apps.core.events import (
    AppEvent,
    ReasoningDelta,
    References,
    RunFinished,
    RunStarted,
    StepDelta,
    StepFinished,
    StepStarted,
    TextDelta,
    UsageReported,
)
from bailian_apps.core.result import AppResult


def fold(partial: AppResult, event: AppEvent) -> AppResult:
    """What is known after one more event.

    Args:
        partial: What was known before.
        event: What happened.

    Returns:
        A new result; the same one if the event adds nothing to it.
    """
    if isinstance(event, TextDelta):
        return replace(partial, text=partial.text + event.text)
    if isinstance(event, ReasoningDelta):
        return replace(partial, reasoning=partial.reasoning + event.text)
    if isinstance(event, StepStarted):
        return replace(partial, steps=(*partial.steps, event.step))
    if isinstance(event, StepDelta):
        running = (
            replace(step, output=step.output + event.text) if step.id == event.step_id else step
            for step in partial.steps
        )
        return replace(partial, steps=tuple(running))
    if isinstance(event, StepFinished):
        steps = (event.step if s.id == event.step.id else s for s in partial.steps)
        return replace(partial, steps=tuple(steps))
    if isinstance(event, RunStarted):
        return replace(partial, session_id=event.session_id, request_id=event.request_id)
    if isinstance(event, References):
        return replace(partial, references=(*partial.references, *event.items))
    if isinstance(event, UsageReported):
        return replace(partial, usage=event.usage)
    return event.result if isinstance(event, RunFinished) else partial
