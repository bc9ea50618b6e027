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
import json
from collections import OrderedDict
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any
from uuid import uuid4

from llama_index.core.instrumentation.events.agent import AgentToolCallEvent
from llama_index.core.instrumentation.events.retrieval import (
    RetrievalEndEvent,
    RetrievalStartEvent,
)
from llama_index.core.schema import NodeWithScore, TextNode
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

dispatcher = get_dispatcher(__name__)

RUN_NAME = "BailianApp.run"
_RETRIEVAL_NODE = "Retrieval"
_NEVER_READ = "the stream was never read"
_UNSAID: dict[type[BaseException], str] = {
    GeneratorExit: "the stream was closed before its end",
    asyncio.CancelledError: "the task was cancelled",
}


class RunSpans:
    """The spans of one run. Created open; every way out of the run goes through `close`."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        """Enter the run's span, inside whichever span is the current one.

        Args:
            inputs: What the run is asked, without secrets.
        """
        self._run = _Span(RUN_NAME, inputs)
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
            self._steps[step.id] = _Span(_step_name(step), _step_inputs(step), parent)
        elif isinstance(event, StepFinished):
            span = self._steps.pop(event.step.id, None)
            if span is not None:
                _end_step(span, event.step)

    def finish(self, result: Any) -> None:
        """Leave the run's span: it went well.

        Args:
            result: What the run gave.
        """
        if not self._closed:
            self._closed = True
            self._run.exit(result)

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

    __slots__ = ("_arguments", "_context", "_id")

    def __init__(self, name: str, inputs: dict[str, Any], parent: _Span | None = None) -> None:
        # Tracers take the name up to the first hyphen.
        self._id = f"{name.replace('-', '_')}-{uuid4()}"
        self._arguments = _bound(inputs)
        self._context: Context = copy_context() if parent is None else parent._context.copy()
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

    def exit(self, result: Any) -> None:
        self._context.run(
            dispatcher.span_exit, id_=self._id, bound_args=self._arguments, result=result
        )

    def drop(self, error: BaseException) -> None:
        self.event(SpanDropEvent, err_str=str(error) or type(error).__name__)
        self._context.run(dispatcher.span_drop, id_=self._id, bound_args=self._arguments, err=error)


def _bound(inputs: dict[str, Any]) -> inspect.BoundArguments:
    """Inputs in the shape in which LlamaIndex hands a span its own."""
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in inputs]
    return inspect.BoundArguments(inspect.Signature(parameters), OrderedDict(inputs))


def _step_name(step: Step) -> str:
    return step.kind if step.name == step.kind else f"{step.kind} {step.name}"


def _step_inputs(step: Step) -> dict[str, Any]:
    known = {"id": step.id, "type": step.type, "input": step.input}
    return {name: value for name, value in known.items() if value is not None}


def _end_step(span: _Span, step: Step) -> None:
    if step.kind == "tool":
        metadata = ToolMetadata(name=step.name, description=step.type or "")
        span.event(AgentToolCallEvent, arguments=_as_text(step.input), tool=metadata)
    elif step.kind == "retrieval" or step.type == _RETRIEVAL_NODE:
        query = _as_text(step.input)
        found = [NodeWithScore(node=TextNode(text=step.output))] if step.output else []
        span.event(RetrievalStartEvent, str_or_query_bundle=query)
        span.event(RetrievalEndEvent, str_or_query_bundle=query, nodes=found)
    if step.failed:
        span.drop(AppFailedError(step.error or step.status))
    else:
        span.exit(_step_result(step))


def _step_result(step: Step) -> dict[str, Any]:
    # An input that came late, and a name that changed, are known only now.
    told = ("name", "status", "duration_ms", "input", "output", "reasoning")
    values = ((name, getattr(step, name)) for name in told)
    return {name: value for name, value in values if value not in (None, "")}


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)
