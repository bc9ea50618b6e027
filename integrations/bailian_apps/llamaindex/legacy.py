"""What the remote app does, as events of LlamaIndex's older `CallbackManager`.

Events nest by a stack in the current context. A run is read in its consumer's context, so every
event here has to begin and to end in a context of its own, copied from its parent's: the span's,
see `spans`. LlamaIndex does not tell the id of an LLM's own event: a run stands beside it, below
whatever the LLM was called from.
"""

from __future__ import annotations

from typing import Any

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.tools import ToolMetadata

from bailian_apps.core.result import Step
from bailian_apps.llamaindex.steps import as_text, found_nodes


class LegacyEvent:
    """One event, begun on creation."""

    __slots__ = ("_id", "_kind", "_manager")

    def __init__(
        self,
        manager: CallbackManager,
        kind: CBEventType,
        payload: dict[str, Any],
    ) -> None:
        """Begin an event.

        Args:
            manager: Whom to tell.
            kind: What sort of event it is.
            payload: What is known at its beginning.
        """
        self._manager = manager
        self._kind = kind
        self._id = manager.on_event_start(kind, payload=payload)

    def end(self, payload: dict[str, Any]) -> None:
        """End the event."""
        self._manager.on_event_end(self._kind, payload=payload, event_id=self._id)


def run_begins(inputs: dict[str, Any]) -> tuple[CBEventType, dict[str, Any]]:
    """The kind and the payload of a run's event."""
    return CBEventType.AGENT_STEP, {EventPayload.ADDITIONAL_KWARGS: inputs}


def step_begins(step: Step) -> tuple[CBEventType, dict[str, Any]]:
    """The kind and the payload of a step's event: a tool call, a retrieval, or a plain step."""
    if step.span_kind == "tool":
        metadata = ToolMetadata(name=step.name, description=step.type or "")
        return CBEventType.FUNCTION_CALL, {
            EventPayload.FUNCTION_CALL: as_text(step.input),
            EventPayload.TOOL: metadata,
        }
    if step.span_kind == "retrieval":
        return CBEventType.RETRIEVE, {EventPayload.QUERY_STR: as_text(step.input)}
    return CBEventType.AGENT_STEP, {EventPayload.ADDITIONAL_KWARGS: {"name": step.name}}


def step_ended(step: Step) -> dict[str, Any]:
    """The payload of the end of a step that went well."""
    if step.span_kind == "tool":
        return {EventPayload.FUNCTION_OUTPUT: step.output}
    if step.span_kind == "retrieval":
        return {EventPayload.NODES: found_nodes(step)}
    return {EventPayload.RESPONSE: step.output}


def run_ended(text: str) -> dict[str, Any]:
    """The payload of the end of a run that went well."""
    return {EventPayload.RESPONSE: text}


def failed(error: BaseException) -> dict[str, Any]:
    """The payload of the end of what did not go well."""
    return {EventPayload.EXCEPTION: error}
