"""A step of the app in LlamaIndex's terms: events, span names, legacy callback payloads. Pure."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.tools import ToolMetadata
from llama_index.core.workflow import Event
from llama_index_instrumentation.base import BaseEvent

from bailian_apps.core.events import (
    STEP_DELTAS,
    STEP_EVENTS,
    AppEvent,
    StepDelta,
    StepFinished,
    StepStarted,
    StepUpdated,
)
from bailian_apps.core.result import SUCCESS, Step
from bailian_apps.core.values import as_text
from bailian_apps.llamaindex.responses import found_nodes

Phase: TypeAlias = Literal["started", "updated", "delta", "finished"]


class BailianAppStepEvent(BaseEvent):
    """What a step of the app does; sent by an LLM with `step_events=True`.

    Attributes:
        phase: `"started"`; `"updated"`, when the name of a node or the input of a tool call is
            known; `"delta"`, when it says something; `"finished"`.
        step: The step's fields as plain values, see `bailian_apps.Step`; of a delta, only `id`,
            `kind`, `name`, `type`, `status` and `parent_id`.
        text: The next piece of the step's output, in a delta.
        reasoning: The next piece of its reasoning, in a delta.
    """

    phase: Phase
    step: dict[str, Any]
    text: str = ""
    reasoning: str = ""

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised forms."""
        return "BailianAppStepEvent"


class BailianAppStepStream(Event):
    """What a step of the app does; written to a workflow's stream by an app's tool or agent.

    Attributes:
        tool_name: The tool that called the app; `""` for an agent's app.
        current_agent_name: The agent that is the app; `""` for a tool's.
        phase: As in `BailianAppStepEvent`, and so are the others. `"delta"` only from a tool or an
            agent with `step_deltas=True`.
        step: The step's fields.
        text: The next piece of the step's output.
        reasoning: The next piece of its reasoning.
    """

    tool_name: str = ""
    current_agent_name: str = ""
    phase: Phase
    step: dict[str, Any]
    text: str = ""
    reasoning: str = ""


class StepChanges:
    """Makes the fields of step events from the events of one run."""

    def __init__(self) -> None:
        """Start without steps."""
        self._heads: dict[str, dict[str, Any]] = {}

    def fields(self, event: AppEvent) -> dict[str, Any] | None:
        """The fields of the step event for an event; None for an event that is not a step's."""
        if isinstance(event, STEP_DELTAS):
            kind = "text" if isinstance(event, StepDelta) else "reasoning"
            head = self._heads.get(event.step_id, {"id": event.step_id})
            return {"phase": "delta", "step": dict(head), kind: event.text}
        if not isinstance(event, STEP_EVENTS):
            return None
        step = event.step.to_dict()
        self._heads[event.step.id] = {name: step[name] for name in _HEAD}
        return {"phase": _PHASES[type(event)], "step": step}


_HEAD = ("id", "kind", "name", "type", "status", "parent_id")
_PHASES: dict[type[AppEvent], Phase] = {
    StepStarted: "started",
    StepUpdated: "updated",
    StepFinished: "finished",
}


def tool_metadata(step: Step) -> ToolMetadata:
    """The tool that a step called."""
    return ToolMetadata(name=step.name, description=step.type or "")


def step_name(step: Step) -> str:
    """The name of a step's span."""
    return step.kind if step.name == step.kind else f"{step.kind} {step.name}"


def step_inputs(step: Step) -> dict[str, Any]:
    """The inputs of a step's span."""
    inputs = {"id": step.id, "type": step.type, "input": step.input}
    return {name: value for name, value in inputs.items() if value is not None}


def step_result(step: Step) -> dict[str, Any]:
    """The result of a step's span."""
    # The input of a node may arrive late, so it is in the result too.
    names = ("name", "status", "duration_ms", "input", "output", "reasoning", "usage")
    fields = step.to_dict(compact=True)
    return {name: fields[name] for name in names if name in fields}


def legacy_start(step: Step) -> tuple[CBEventType, dict[str, Any]]:
    """The type and the start payload of a step's event in the legacy callbacks."""
    if step.span_kind == "tool":
        return CBEventType.FUNCTION_CALL, {
            EventPayload.FUNCTION_CALL: as_text(step.input),
            EventPayload.TOOL: tool_metadata(step),
        }
    if step.span_kind == "retrieval":
        return CBEventType.RETRIEVE, {EventPayload.QUERY_STR: step.query}
    return CBEventType.AGENT_STEP, {EventPayload.ADDITIONAL_KWARGS: {"name": step.name}}


def legacy_end(step: Step) -> dict[str, Any]:
    """The end payload of a successful step's event in the legacy callbacks."""
    # Payloads have no field for a status; that of a failed step is its exception.
    status = {EventPayload.ADDITIONAL_KWARGS: {"status": step.status}}
    more = {} if step.status == SUCCESS else status
    if step.span_kind == "tool":
        return {EventPayload.FUNCTION_OUTPUT: step.output, **more}
    if step.span_kind == "retrieval":
        return {EventPayload.NODES: found_nodes(step), **more}
    return {EventPayload.RESPONSE: step.output, **more}
