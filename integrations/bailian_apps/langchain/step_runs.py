"""An app's steps as child runs of the LangChain run that called the app.

Every step is a child of that run (a model's, a tool's, a chain's) for LangChain's callbacks, and so
for LangSmith and every other tracer: a tool call is a tool run, a retrieval (also by a workflow's
node) a retriever run, any other node a chain run. Reasoning has no run, because it streams. In
addition, the custom event `bailian_step` reports the start and the end of every step, for a UI.

The logic is written once for sync and async: a method yields calls of a callback manager and
receives their results. `make_calls` makes these calls, `amake_calls` awaits them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncRunManager,
    CallbackManager,
    RunManager,
)
from langchain_core.documents import Document

from bailian_apps.core.documents import RetrievedDocument
from bailian_apps.core.errors import AppFailedError
from bailian_apps.core.events import StepFinished, StepStarted
from bailian_apps.core.result import SpanKind, Step
from bailian_apps.core.values import as_text
from bailian_apps.langchain.blocks import STEP_TYPE, as_arguments, step_entry

AnyRunManager: TypeAlias = RunManager | AsyncRunManager
ManagerCalls: TypeAlias = Generator[Any, Any, None]
"""Calls of a callback manager: yields each as it was made, and receives its result."""

STEP_EVENTS = (StepStarted, StepFinished)


def make_calls(calls: ManagerCalls) -> None:
    """Make the calls of a sync manager."""
    try:
        result = next(calls)
        while True:
            result = calls.send(result)
    except StopIteration:
        return


async def amake_calls(calls: ManagerCalls) -> None:
    """Make the calls of an async manager."""
    try:
        made = next(calls)
        while True:
            try:
                result = await made
            except Exception as error:  # where the sync manager raises it
                made = calls.throw(error)
            else:
                made = calls.send(result)
    except StopIteration:
        return


@dataclass
class _StepRun:
    """A step that has started."""

    step: Step
    kind: SpanKind | None = None  # of its run, once that has started
    manager: Any = None  # of its run; reasoning has none


class StepRuns:
    """The runs of one call's steps. Each ends exactly once, and before the run of the call."""

    def __init__(self, manager: AnyRunManager | None, app_id: str) -> None:
        """Report the steps of an app to all handlers of the call's run, if there are any."""
        self._manager: Any = manager if manager is not None and manager.handlers else None
        self._app_id = app_id
        # `ls_…` describes the model. On a step, LangSmith would count the step as a model call.
        metadata = {} if manager is None else manager.inheritable_metadata
        self._metadata = {k: v for k, v in metadata.items() if not k.startswith("ls_")}
        self._open: dict[str, _StepRun] = {}

    def report(self, event: StepStarted | StepFinished) -> ManagerCalls:
        """Report the start or the end of a step."""
        if self._manager is None:
            return
        step = event.step
        if step.id not in self._open:
            self._open[step.id] = _StepRun(step)
            yield self._custom_event("start", step)
            # The inputs of a run cannot be added later, so a tool call's run starts when they are
            # known. A node may never have any.
            if step.kind == "node" or step.input is not None:
                yield from self._start(self._open[step.id])
        if isinstance(event, StepFinished):
            run = self._open[step.id]
            run.step = step
            error = AppFailedError(step.error or step.status) if step.failed else None
            yield from self._end(run, error)

    def close(self, error: BaseException | None) -> ManagerCalls:
        """End the steps that are still open, the newest first; they fail with `error`, if any."""
        raised: Exception | None = None
        for run in reversed(list(self._open.values())):
            try:
                yield from self._end(run, error)
            except Exception as failure:  # a handler's; the other runs still end
                raised = raised or failure
        if raised is not None:
            raise raised

    def _start(self, run: _StepRun) -> ManagerCalls:
        step = run.step
        run.kind = step.span_kind  # set first: a run starts once, even if a handler raises
        name = self._name_of(step)
        manager = self._manager_for(step)
        arguments = as_arguments(step.input)
        if run.kind == "tool":
            run.manager = yield manager.on_tool_start(
                {"name": name},
                as_text(step.input),
                inputs=arguments,
                name=name,
                tool_call_id=step.id,
            )
        elif run.kind == "retrieval":
            run.manager = yield manager.on_retriever_start({"name": name}, step.query, name=name)
        elif step.kind == "node":
            run.manager = yield manager.on_chain_start({"name": name}, arguments, name=name)

    def _end(self, run: _StepRun, error: BaseException | None) -> ManagerCalls:
        step = run.step
        if run.kind is None:
            yield from self._start(run)
        del self._open[step.id]
        manager = run.manager
        if manager is None:
            pass
        elif run.kind == "tool":
            yield manager.on_tool_error(error) if error else manager.on_tool_end(step.output)
        elif run.kind == "retrieval":
            yield (
                manager.on_retriever_error(error)
                if error
                else manager.on_retriever_end(found_documents(step.documents))
            )
        else:
            yield manager.on_chain_error(error) if error else manager.on_chain_end(_outputs(step))
        yield self._custom_event("error" if error else "end", step, error)

    def _custom_event(self, event: str, step: Step, error: BaseException | None = None) -> Any:
        data = {"event": event, "app_id": self._app_id, "step": step_entry(step)}
        if error is not None:
            data["error"] = step.error or repr(error)
        run_id = self._manager.run_id
        return self._child_manager(run_id).on_custom_event(STEP_TYPE, data, run_id=run_id)

    def _manager_for(self, step: Step) -> Any:
        parent = self._open.get(step.parent_id or "")
        parent_manager = parent.manager if parent and parent.manager else self._manager
        metadata = {"bailian_step_id": step.id}
        if step.type:
            metadata["bailian_step_type"] = step.type
        return self._child_manager(parent_manager.run_id, metadata)

    def _child_manager(self, parent_run_id: UUID, metadata: Mapping[str, Any] | None = None) -> Any:
        manager = self._manager
        manager_class: Any = (
            AsyncCallbackManager if isinstance(manager, AsyncRunManager) else CallbackManager
        )
        metadata = self._metadata | dict(metadata or {})
        # All handlers, also those that the run does not pass on to its children (a model's own
        # `callbacks=`, `collect_runs`): a step is part of this run, not another Runnable's run.
        return manager_class(
            handlers=manager.handlers,
            inheritable_handlers=manager.handlers,
            parent_run_id=parent_run_id,
            tags=manager.inheritable_tags,
            inheritable_tags=manager.inheritable_tags,
            metadata=metadata,
            inheritable_metadata=metadata,
        )

    def _name_of(self, step: Step) -> str:
        # LangGraph takes a run with the name of its own node for that node.
        taken = step.name == self._metadata.get("langgraph_node")
        return f"{step.name} ({self._app_id})" if taken else step.name


def _outputs(step: Step) -> dict[str, Any]:
    outputs: dict[str, Any] = {"output": step.output}
    if step.reasoning:
        outputs["reasoning"] = step.reasoning
    if step.duration_ms is not None:
        # The run's own times say when frames arrived, not how long the step took in the cloud.
        outputs["duration_ms"] = step.duration_ms
    return outputs


def found_documents(documents: Iterable[RetrievedDocument]) -> list[Document]:
    """Return what a retrieval found; `score` is in the metadata."""
    return [Document(page_content=each.text, metadata=each.metadata) for each in documents]
