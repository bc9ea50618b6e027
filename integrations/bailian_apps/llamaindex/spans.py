"""What the app does, as LlamaIndex spans and legacy callback events: LLM > run > step.

LlamaIndex ends an LLM's span when a streaming method returns its generator, long before the run is
over, and a generator runs in the context of its consumer. So every span here has a context of its
own, copied from its parent's. A tracer that keeps its current span in the context finds the right
parent on entry and its own state on exit, and the consumer's context never changes. The run's span
is entered while the LLM's span is still open.

Events of the legacy `CallbackManager` nest by a stack in the context, so they start and end in the
span's context too. LlamaIndex does not expose the id of the LLM's own event: a run's event is a
sibling of it, under whatever called the LLM.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from contextlib import ExitStack
from contextvars import Context, copy_context
from typing import Any
from uuid import uuid4

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.agent import AgentToolCallEvent
from llama_index.core.instrumentation.events.retrieval import (
    RetrievalEndEvent,
    RetrievalStartEvent,
)
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.dispatcher import active_instrument_tags
from llama_index_instrumentation.events.span import SpanDropEvent
from llama_index_instrumentation.span import active_span_id
from typing_extensions import Self

from bailian_apps.core.errors import AppFailedError
from bailian_apps.core.events import STEP_EVENTS, AppEvent, StepFinished, StepStarted, StepUpdated
from bailian_apps.core.language import quoted
from bailian_apps.core.result import Step
from bailian_apps.core.values import as_text
from bailian_apps.llamaindex.responses import found_nodes
from bailian_apps.llamaindex.steps import (
    BailianAppStepEvent,
    StepChanges,
    legacy_end,
    legacy_start,
    step_inputs,
    step_name,
    step_result,
    tool_metadata,
)

dispatcher = get_dispatcher(__name__)

RUN_NAME = "BailianApp.run"
_NEVER_READ = "the stream was never read"
_DEFAULT_REASONS: dict[type[BaseException], str] = {
    GeneratorExit: "the stream was closed before its end",
    asyncio.CancelledError: "the task was cancelled",
}


class RunSpans:
    """The spans of one run. The run's span is entered on creation; `close` ends all of them."""

    def __init__(
        self, inputs: dict[str, Any], manager: CallbackManager, *, step_events: bool = False
    ) -> None:
        """Enter the run's span, inside the current span. `inputs` must not hold secrets."""
        self._manager = manager
        self._changes = StepChanges() if step_events else None
        payload: dict[str, Any] = {EventPayload.ADDITIONAL_KWARGS: inputs}
        self._run = _Span(RUN_NAME, inputs, manager, CBEventType.AGENT_STEP, payload)
        self._steps: dict[str, _Span] = {}
        self._unknown: dict[str, Step] = {}  # they have no span yet
        self._started = False
        self._closed = False

    def __enter__(self) -> Self:
        """Mark the run as started."""
        self._started = True
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Drop the spans that are still open."""
        self.close(error or GeneratorExit())

    def record(self, event: AppEvent) -> None:
        """Enter the span of a step that started, exit that of one that finished."""
        span: _Span | None = None
        if isinstance(event, STEP_EVENTS):
            span = self._span_of(event)
        if self._changes is not None and (fields := self._changes.fields(event)) is not None:
            span = span or self._steps.get(fields["step"]["id"], self._run)
            span.event(BailianAppStepEvent, **fields)
        if isinstance(event, StepFinished) and span is not None:
            self._enter_all([s.id for s in self._unknown.values() if s.parent_id == event.step.id])
            del self._steps[event.step.id]
            _end_step(span, event.step)

    def _span_of(self, event: StepStarted | StepUpdated | StepFinished) -> _Span | None:
        """The span of a step; None until it is known, because a span cannot be renamed later."""
        step = event.step
        if step.id not in self._steps:
            self._unknown[step.id] = step
            if step.is_known or not isinstance(event, StepStarted):
                self._enter(step.id)
        return self._steps.get(step.id)

    def _enter_all(self, step_ids: list[str]) -> None:
        for step_id in step_ids:
            if step_id in self._unknown:
                self._enter(step_id)

    def _enter(self, step_id: str) -> None:
        step = self._unknown.pop(step_id)
        if step.parent_id in self._unknown:
            self._enter(step.parent_id)
        parent = self._steps.get(step.parent_id or "", self._run)
        self._steps[step.id] = _Span(
            step_name(step), step_inputs(step), self._manager, *legacy_start(step), parent
        )

    def finish(self, text: str) -> None:
        """Exit the run's span with the app's answer."""
        if not self._closed:
            self._closed = True
            self._enter_all([*self._unknown])
            with ExitStack() as stack:
                stack.callback(self._run.exit, text, {EventPayload.RESPONSE: text})
                for span in self._steps.values():  # a guard: the core finishes every step
                    stack.callback(span.drop, AppFailedError("the run ended before the step"))
            self._steps.clear()

    def abandon(self) -> None:
        """Drop the spans that are still open, because nothing can read the run any more."""
        self.close(GeneratorExit() if self._started else GeneratorExit(_NEVER_READ))

    def close(self, error: BaseException) -> None:
        """Drop the spans that are still open, last in first out. Closing twice has no effect."""
        if self._closed:
            return
        self._closed = True
        self._enter_all([*self._unknown])
        default = "" if str(error) else _DEFAULT_REASONS.get(type(error), "")
        reason = type(error)(default) if default else error
        with ExitStack() as stack:  # it goes on where a handler raises
            for span in (self._run, *self._steps.values()):
                stack.callback(span.drop, reason)
        self._steps.clear()


class _Span:
    """One span and its legacy event, entered on creation, in a context of its own."""

    __slots__ = ("_arguments", "_context", "_id", "_legacy_id", "_legacy_type", "_manager")

    def __init__(
        self,
        name: str,
        inputs: dict[str, Any],
        manager: CallbackManager,
        legacy_type: CBEventType,
        legacy_payload: dict[str, Any],
        parent: _Span | None = None,
    ) -> None:
        # Tracers cut the name at the first hyphen.
        self._id = f"{name.replace('-', '_')}-{uuid4()}"
        self._arguments = _bound_arguments(inputs)
        self._context: Context = copy_context() if parent is None else parent._context.copy()
        self._manager = manager
        self._legacy_type = legacy_type
        self._legacy_id: str | None = None
        if manager.handlers:
            # Before the span: a callback may raise (a token budget), and must not leave one open.
            self._legacy_id = self._context.run(
                manager.on_event_start, legacy_type, payload=legacy_payload
            )
        self._context.run(self._enter)

    def _enter(self) -> None:
        parent_id = active_span_id.get()
        active_span_id.set(self._id)
        dispatcher.span_enter(
            id_=self._id,
            bound_args=self._arguments,
            parent_id=parent_id,
            tags=active_instrument_tags.get(),
        )

    def event(self, kind: type[BaseEvent], **fields: Any) -> None:
        self._context.run(dispatcher.event, kind(span_id=self._id, **fields))

    def exit(self, result: Any, legacy_payload: dict[str, Any]) -> None:
        self._context.run(
            dispatcher.span_exit, id_=self._id, bound_args=self._arguments, result=result
        )
        self._end_legacy(legacy_payload)

    def drop(self, error: BaseException) -> None:
        self.event(SpanDropEvent, err_str=str(error) or type(error).__name__)
        self._context.run(dispatcher.span_drop, id_=self._id, bound_args=self._arguments, err=error)
        self._end_legacy({EventPayload.EXCEPTION: error})

    def _end_legacy(self, payload: dict[str, Any]) -> None:
        if self._legacy_id is not None:
            self._context.run(
                self._manager.on_event_end,
                self._legacy_type,
                payload=payload,
                event_id=self._legacy_id,
            )


def _bound_arguments(inputs: dict[str, Any]) -> inspect.BoundArguments:
    """Inputs in the form in which LlamaIndex passes a method's arguments to its span."""
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in inputs]
    return inspect.BoundArguments(inspect.Signature(parameters), OrderedDict(inputs))


def _end_step(span: _Span, step: Step) -> None:
    if step.span_kind == "tool":
        span.event(AgentToolCallEvent, arguments=as_text(step.input), tool=tool_metadata(step))
    elif step.span_kind == "retrieval":
        span.event(RetrievalStartEvent, str_or_query_bundle=step.query)
        span.event(RetrievalEndEvent, str_or_query_bundle=step.query, nodes=found_nodes(step))
    if step.failed:
        span.drop(AppFailedError(quoted(step.error or step.status)))
    else:
        span.exit(step_result(step), legacy_end(step))
