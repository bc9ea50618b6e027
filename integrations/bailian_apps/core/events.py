"""The events of a run: a closed union, yielded by `BailianApp.stream` and `BailianApp.astream`.

In order: one `RunStarted`; then text, reasoning, steps, references and usage as they come; last one
`RunFinished`. Every step that started is finished before the run is. A reader may match on the
class or on `kind`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from bailian_apps.core.result import AppResult, DocReference, Step, Usage


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The first frame came."""

    session_id: str | None
    request_id: str | None
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
