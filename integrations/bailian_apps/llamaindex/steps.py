"""A step of the remote app in LlamaIndex's words, for spans, legacy events and streams. Pure."""

from __future__ import annotations

import json
from typing import Any, Literal

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.workflow import Event
from llama_index_instrumentation.base import BaseEvent

from bailian_apps.core.events import AppEvent, StepFinished, StepStarted
from bailian_apps.core.result import Step

Phase = Literal["started", "finished"]


class BailianAppStepEvent(BaseEvent):
    """The remote app began or ended a step; sent by an LLM with `step_events=True`.

    Attributes:
        phase: Whether the step began or ended.
        step: The step's fields as plain values, see `bailian_apps.Step`.
    """

    phase: Phase
    step: dict[str, Any]

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised forms."""
        return "BailianAppStepEvent"


class BailianAppStepStream(Event):
    """The remote app began or ended a step; written to a workflow's stream by an app's tool.

    Attributes:
        tool_name: The tool that asked the app.
        phase: Whether the step began or ended.
        step: The step's fields as plain values, see `bailian_apps.Step`.
    """

    tool_name: str
    phase: Phase
    step: dict[str, Any]


def step_news(event: AppEvent) -> tuple[Phase, dict[str, Any]] | None:
    """What an event says of a step: its phase and its fields; None when it says nothing."""
    if isinstance(event, StepStarted):
        return "started", event.step.to_dict()
    if isinstance(event, StepFinished):
        return "finished", event.step.to_dict()
    return None


def found_nodes(step: Step) -> list[NodeWithScore]:
    """What a retrieval found, as one node: the app tells it as one text."""
    return [NodeWithScore(node=TextNode(text=step.output))] if step.output else []


def step_name(step: Step) -> str:
    """The name of a step's span."""
    return step.kind if step.name == step.kind else f"{step.kind} {step.name}"


def step_inputs(step: Step) -> dict[str, Any]:
    """What is known of a step when it begins."""
    known = {"id": step.id, "type": step.type, "input": step.input}
    return {name: value for name, value in known.items() if value is not None}


def step_result(step: Step) -> dict[str, Any]:
    """What is known of a step when it has ended."""
    # An input that came late, and a name that changed, are known only now.
    told = ("name", "status", "duration_ms", "input", "output", "reasoning")
    values = ((name, getattr(step, name)) for name in told)
    return {name: value for name, value in values if value not in (None, "")}


def as_text(value: Any) -> str:
    """A value as text; JSON, if it is none."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)
