"""The events of a run: a closed union, yielded by `BailianApp.stream` and `BailianApp.astream`.

In order: one `RunStarted`; then text, reasoning, steps, references and usage as they come; last one
`RunFinished`. Every step that started is finished before the run is. A reader may match on the
class or on `kind`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

from bailian_apps.core.result import AppResult, DocReference, Step, Usage


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The first frame came; `context_lost` and `whole_history` are as in `AppResult`."""

    session_id: str | None
    request_id: str | None
    context_lost: bool = False
    whole_history: bool = False
    kind: ClassVar[Literal["run_started"]] = "run_started"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer. All of them joined are the answer."""

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
    """A step began; `step.output` is still empty."""

    step: Step
    kind: ClassVar[Literal["step_started"]] = "step_started"


@dataclass(frozen=True, slots=True)
class StepDelta:
    """A piece of the output of the step `step_id`. It is not part of the answer."""

    step_id: str
    text: str
    kind: ClassVar[Literal["step_delta"]] = "step_delta"


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step ended, in success or failure; `step` is whole."""

    step: Step
    kind: ClassVar[Literal["step_finished"]] = "step_finished"


@dataclass(frozen=True, slots=True)
class References:
    """Documents that the answer cites and that no earlier event named."""

    items: tuple[DocReference, ...]
    kind: ClassVar[Literal["references"]] = "references"


@dataclass(frozen=True, slots=True)
class UsageReported:
    """The tokens used so far, told when a step has ended and at the end of the run.

    Counts are cumulative: the newest event replaces the older.
    """

    usage: Usage
    kind: ClassVar[Literal["usage_reported"]] = "usage_reported"


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run ended well; `result` is the fold of all events."""

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
    | StepDelta
    | StepFinished
    | References
    | UsageReported
    | RunFinished
    | UnknownFrame
)


def joined(events: Iterable[AppEvent]) -> list[AppEvent]:
    """The same events, with the deltas of one kind and one step that need no order made into one.

    Text and reasoning keep their order among each other, and nothing crosses an event that is no
    delta. A step's output goes to where its first piece stood: an End node's stands between the
    pieces of the answer.
    """
    told: list[list[AppEvent]] = []  # what becomes one event each
    outputs: dict[str, list[AppEvent]] = {}  # of this row of deltas, by step
    for event in events:
        if type(event) is StepDelta:
            alike = outputs.get(event.step_id)
        elif isinstance(event, _DELTAS):
            alike = told[-1] if told and _continues(event, told[-1][0]) else None
        else:
            alike = None
            outputs.clear()
        if alike is None:
            told.append(alike := [])
            if type(event) is StepDelta:
                outputs[event.step_id] = alike
        alike.append(event)
    return [_one(alike) for alike in told]


_DELTAS = (TextDelta, ReasoningDelta, StepDelta)


def _continues(event: TextDelta | ReasoningDelta | StepDelta, before: AppEvent) -> bool:
    return type(event) is type(before) and (
        getattr(event, "step_id", None) == getattr(before, "step_id", None)
    )


def _one(alike: list[AppEvent]) -> AppEvent:
    first = alike[0]
    if len(alike) == 1 or not isinstance(first, _DELTAS):
        return first
    return replace(first, text="".join([each.text for each in alike if isinstance(each, _DELTAS)]))
