"""What the remote app does, as LlamaIndex spans: the LLM's, in it the run's, in it its steps'.

LlamaIndex ends an LLM's span when a streaming method returns its generator, long before the run is
over, and while a generator runs the current context is its consumer's. So every span here has a
context of its own, copied from its parent's: a tracer that keeps its current span in the context
finds the right parent on entering, and what it attached on leaving, and the consumer's context is
never touched. The run's span is entered while the LLM's is still open.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any
from uuid import uuid4

from llama_index.core.callbacks import CallbackManager, CBEventType
from llama_index.core.instrumentation.events.agent import AgentToolCallEvent
from llama_index.core.instrumentation.events.retrieval import (
    RetrievalEndEvent,
    RetrievalStartEvent,
)
from llama_index.core.tools import ToolMetadata
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.dispatcher import active_instrument_tags
from llama_index_instrumentation.events.span import SpanDropEvent
from llama_index_instrumentation.span import active_span_id
from typing_extensions import Self

from bailian_apps.core.errors import AppFailedError
from bailian_apps.core.events import AppEvent, StepFinished, StepStarted
from bailian_apps.core.result import Step
from bailian_apps.llamaindex.legacy import (
    LegacyEvent,
    failed,
    run_begins,
    run_ended,
    step_begins,
    step_ended,
)
from bailian_apps.llamaindex.steps import (
    BailianAppStepEvent,
    as_text,
    found_nodes,
    step_inputs,
    step_name,
    step_news,
    step_result,
)

dispatcher = get_dispatcher(__name__)

RUN_NAME = "BailianApp.run"
_NEVER_READ = "the stream was never read"
_UNSAID: dict[type[BaseException], str] = {
    GeneratorExit: "the stream was closed before its end",
    asyncio.CancelledError: "the task was cancelled",
}


class RunSpans:
    """The spans of one run. Created open; every way out of the run goes through `close`."""

    def __init__(
        self, inputs: dict[str, Any], manager: CallbackManager, *, step_events: bool = False
    ) -> None:
        """Enter the run's span, inside whichever span is the current one.

        Args:
            inputs: What the run is asked, without secrets.
            manager: Who tells the legacy callbacks.
            step_events: Whether to send `BailianAppStepEvent`s.
        """
        self._manager = manager
        self._step_events = step_events
        self._run = _Span(RUN_NAME, inputs, manager, *run_begins(inputs))
        self._steps: dict[str, _Span] = {}
        self._begun = False
        self._closed = False

    def __enter__(self) -> Self:
        """The run begins to be read."""
        self._begun = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drop what is still open."""
        self.close(error or GeneratorExit())

    def read(self, event: AppEvent) -> None:
        """Enter or leave a step's span."""
        if isinstance(event, StepStarted):
            step = event.step
            parent = self._steps.get(step.parent_id or "", self._run)
            span = _Span(
                step_name(step), step_inputs(step), self._manager, *step_begins(step), parent
            )
            self._steps[step.id] = span
            self._tell(span, event)
        elif isinstance(event, StepFinished):
            span = self._steps.pop(event.step.id, None)
            if span is not None:
                self._tell(span, event)
                _end_step(span, event.step)

    def _tell(self, span: _Span, event: AppEvent) -> None:
        if self._step_events and (news := step_news(event)):
            span.event(BailianAppStepEvent, phase=news[0], step=news[1])

    def finish(self, text: str) -> None:
        """Leave the run's span: it went well.

        Args:
            text: What the app answered.
        """
        if not self._closed:
            self._closed = True
            for span in reversed(self._steps.values()):  # the core ends every step; a guard
                span.drop(AppFailedError("the run ended before the step"))
            self._steps.clear()
            self._run.exit(text, run_ended(text))

    def abandon(self) -> None:
        """Drop what is still open, because nobody can read the run any more."""
        self.close(GeneratorExit() if self._begun else GeneratorExit(_NEVER_READ))

    def close(self, error: BaseException) -> None:
        """Drop every span that is still open, last in first out; twice does nothing.

        Args:
            error: Why the run did not finish.
        """
        if self._closed:
            return
        self._closed = True
        unsaid = "" if str(error) else _UNSAID.get(type(error), "")
        reason = type(error)(unsaid) if unsaid else error
        for span in (*reversed(self._steps.values()), self._run):
            span.drop(reason)
        self._steps.clear()


class _Span:
    """One span, entered on creation, in a context of its own."""

    __slots__ = ("_arguments", "_context", "_id", "_legacy")

    def __init__(
        self,
        name: str,
        inputs: dict[str, Any],
        manager: CallbackManager,
        kind: CBEventType,
        payload: dict[str, Any],
        parent: _Span | None = None,
    ) -> None:
        # Tracers take the name up to the first hyphen.
        self._id = f"{name.replace('-', '_')}-{uuid4()}"
        self._arguments = _bound(inputs)
        self._context: Context = copy_context() if parent is None else parent._context.copy()
        # First of all: a callback may raise (a token budget), and then no span is left open.
        self._legacy = (
            self._context.run(LegacyEvent, manager, kind, payload) if manager.handlers else None
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

    def exit(self, result: Any, payload: dict[str, Any]) -> None:
        self._context.run(
            dispatcher.span_exit, id_=self._id, bound_args=self._arguments, result=result
        )
        self._end_legacy(payload)

    def drop(self, error: BaseException) -> None:
        self.event(SpanDropEvent, err_str=str(error) or type(error).__name__)
        self._context.run(dispatcher.span_drop, id_=self._id, bound_args=self._arguments, err=error)
        self._end_legacy(failed(error))

    def _end_legacy(self, payload: dict[str, Any]) -> None:
        if self._legacy is not None:
            self._context.run(self._legacy.end, payload)


def _bound(inputs: dict[str, Any]) -> inspect.BoundArguments:
    """Inputs in the shape in which LlamaIndex hands a span its own."""
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in inputs]
    return inspect.BoundArguments(inspect.Signature(parameters), OrderedDict(inputs))


def _end_step(span: _Span, step: Step) -> None:
    if step.span_kind == "tool":
        metadata = ToolMetadata(name=step.name, description=step.type or "")
        span.event(AgentToolCallEvent, arguments=as_text(step.input), tool=metadata)
    elif step.span_kind == "retrieval":
        query = as_text(step.input)
        span.event(RetrievalStartEvent, str_or_query_bundle=query)
        span.event(RetrievalEndEvent, str_or_query_bundle=query, nodes=found_nodes(step))
    if step.failed:
        span.drop(AppFailedError(step.error or step.status))
    else:
        span.exit(step_result(step), step_ended(step))
