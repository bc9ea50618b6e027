"""The events of a run: a closed union, yielded by `BailianApp.stream` and `BailianApp.astream`.

In order: one `RunStarted`; then text, reasoning, steps, references and usage as they come; last one
`RunFinished`. Every step that started is finished before the run is. A reader may match on the
class or on `kind`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

from bailian_apps.core.result import AppResult, DocReference, Step, Usage, reasoning_fields


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The first frame arrived; `context_lost` and `whole_history` are as in `AppResult`."""

    session_id: str | None
    request_id: str | None
    context_lost: bool = False
    whole_history: bool = False
    kind: ClassVar[Literal["run_started"]] = "run_started"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer. All pieces joined are the answer."""

    text: str
    kind: ClassVar[Literal["text_delta"]] = "text_delta"


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of reasoning, by the step `step_id`."""

    text: str
    step_id: str
    kind: ClassVar[Literal["reasoning_delta"]] = "reasoning_delta"


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step began; `step.output` is still empty.

    A workflow's node may still have its id as its name (`Step.is_named`), and a tool call no input.
    The status of a node that was skipped is `"skip"` from the start.
    """

    step: Step
    kind: ClassVar[Literal["step_started"]] = "step_started"


@dataclass(frozen=True, slots=True)
class StepUpdated:
    """What was still missing when the step began is known: a node's name, a tool call's input.

    A node that is listed without a name keeps its id; this event comes when it speaks, and again if
    it is named later.
    """

    step: Step
    kind: ClassVar[Literal["step_updated"]] = "step_updated"


@dataclass(frozen=True, slots=True)
class StepDelta:
    """A piece of the output of the step `step_id`. It is not part of the answer."""

    step_id: str
    text: str
    kind: ClassVar[Literal["step_delta"]] = "step_delta"


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step ended, failed, paused or was skipped (`step.status`); `step` is whole."""

    step: Step
    kind: ClassVar[Literal["step_finished"]] = "step_finished"


@dataclass(frozen=True, slots=True)
class References:
    """Documents that the answer cites, without those of earlier events."""

    items: tuple[DocReference, ...]
    kind: ClassVar[Literal["references"]] = "references"


@dataclass(frozen=True, slots=True)
class UsageReported:
    """The tokens used so far, reported when a step has ended and at the end of the run.

    Counts are cumulative: the newest event replaces the older.
    """

    usage: Usage
    kind: ClassVar[Literal["usage_reported"]] = "usage_reported"


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run succeeded; `result` is the fold of all events."""

    result: AppResult
    kind: ClassVar[Literal["run_finished"]] = "run_finished"


@dataclass(frozen=True, slots=True)
class UnknownFrame:
    """A frame, or an entry of one, that this version cannot read. Nothing of it is lost."""

    raw: Any
    kind: ClassVar[Literal["unknown_frame"]] = "unknown_frame"


AppEvent: TypeAlias = (
    RunStarted
    | TextDelta
    | ReasoningDelta
    | StepStarted
    | StepUpdated
    | StepDelta
    | StepFinished
    | References
    | UsageReported
    | RunFinished
    | UnknownFrame
)


STEP_EVENTS = (StepStarted, StepUpdated, StepFinished)
"""The events that carry a step as it is now."""

STEP_DELTAS = (StepDelta, ReasoningDelta)
"""The events of what a step says."""


def coalesce_deltas(events: Iterable[AppEvent]) -> list[AppEvent]:
    """Merge deltas of one kind and one step where their order does not matter.

    Text and reasoning keep their order among each other, and no delta moves across an event of
    another kind. A step's output moves to where its first piece was: an End node's pieces stand
    between those of the answer.

    Args:
        events: Events that arrived together.

    Returns:
        The same events with fewer deltas; joined, the text is the same.
    """
    groups: list[list[AppEvent]] = []  # each becomes one event
    outputs: dict[str, list[AppEvent]] = {}  # the groups of this run of deltas, by step
    for event in events:
        if type(event) is StepDelta:
            group = outputs.get(event.step_id)
        elif isinstance(event, _DELTAS):
            group = groups[-1] if groups and _continues(event, groups[-1][0]) else None
        else:
            group = None
            outputs.clear()
        if group is None:
            groups.append(group := [])
            if type(event) is StepDelta:
                outputs[event.step_id] = group
        group.append(event)
    return [_merge(group) for group in groups]


def fold(partial: AppResult, event: AppEvent) -> AppResult:
    """Return a result with the next event added; the same object if the event adds nothing."""
    if isinstance(event, TextDelta):
        return replace(partial, text=partial.text + event.text)
    if isinstance(event, ReasoningDelta):
        return _with_reasoning(partial, event)
    if isinstance(event, StepStarted):
        return replace(partial, steps=(*partial.steps, event.step))
    if isinstance(event, StepDelta):
        steps = (
            replace(step, output=step.output + event.text) if step.id == event.step_id else step
            for step in partial.steps
        )
        return replace(partial, steps=tuple(steps))
    if isinstance(event, (StepUpdated, StepFinished)):
        steps = (_updated(s, event) if s.id == event.step.id else s for s in partial.steps)
        return replace(partial, steps=tuple(steps))
    if isinstance(event, RunStarted):
        return replace(partial, session_id=event.session_id, request_id=event.request_id)
    if isinstance(event, References):
        return replace(partial, references=(*partial.references, *event.items))
    if isinstance(event, UsageReported):
        return replace(partial, usage=event.usage)
    return event.result if isinstance(event, RunFinished) else partial


_DELTAS = (TextDelta, ReasoningDelta, StepDelta)


def _updated(step: Step, event: StepUpdated | StepFinished) -> Step:
    if isinstance(event, StepFinished):
        return event.step
    return replace(event.step, output=step.output, reasoning=step.reasoning)  # their deltas follow


def _with_reasoning(partial: AppResult, event: ReasoningDelta) -> AppResult:
    steps = tuple(
        replace(step, reasoning=step.reasoning + event.text) if step.id == event.step_id else step
        for step in partial.steps
    )
    order = (*partial.reasoning_steps, event.step_id)
    return replace(partial, steps=steps, **reasoning_fields(order, steps))


def _continues(event: TextDelta | ReasoningDelta | StepDelta, before: AppEvent) -> bool:
    return type(event) is type(before) and (
        getattr(event, "step_id", None) == getattr(before, "step_id", None)
    )


def _merge(group: list[AppEvent]) -> AppEvent:
    first = group[0]
    if len(group) == 1 or not isinstance(first, _DELTAS):
        return first
    return replace(first, text="".join([each.text for each in group if isinstance(each, _DELTAS)]))
