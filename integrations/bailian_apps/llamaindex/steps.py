"""A step of the app in LlamaIndex's terms: events, span names, legacy callback payloads. Pure."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.tools import ToolMetadata
from llama_index.core.workflow import Event
from llama_index_instrumentation.base import BaseEvent

from bailian_apps.core.events import AppEvent, StepFinished, StepStarted
from bailian_apps.core.result import Step
from bailian_apps.core.values import as_text
from bailian_apps.llamaindex.responses import found_nodes

Phase: TypeAlias = Literal["started", "finished"]


class BailianAppStepEvent(BaseEvent):
    """The app started or finished a step; sent by an LLM with `step_events=True`.

    Attributes:
        phase: Whether the step started or finished.
        step: The step's fields as plain values, see `bailian_apps.Step`.
    """

    phase: Phase
    step: dict[str, Any]

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised forms."""
        return "BailianAppStepEvent"


class BailianAppStepStream(Event):
    """The app started or finished a step; written to a workflow's stream by an app's tool.

    Attributes:
        tool_name: The tool that called the app.
        phase: Whether the step started or finished.
        step: The step's fields as plain values, see `bailian_apps.Step`.
    """

    tool_name: str
    phase: Phase
    step: dict[str, Any]


def step_change(event: AppEvent) -> tuple[Phase, dict[str, Any]] | None:
    """The phase and the fields of the step that an event is about; None for other events."""
    if isinstance(event, StepStarted):
        return "started", event.step.to_dict()
    if isinstance(event, StepFinished):
        return "finished", event.step.to_dict()
    return None


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
    # The input may arrive late and the name may change, so both are in the result too.
    names = ("name", "status", "duration_ms", "input", "output", "reasoning")
    values = ((name, getattr(step, name)) for name in names)
    return {name: value for name, value in values if value not in (None, "")}


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
    if step.span_kind == "tool":
        return {EventPayload.FUNCTION_OUTPUT: step.output}
    if step.span_kind == "retrieval":
        return {EventPayload.NODES: found_nodes(step)}
    return {EventPayload.RESPONSE: step.output}
