"""An app's steps as child runs of the LangChain run that called the app.

Every step is a child of that run (a model's, a tool's, a chain's) for LangChain's callbacks, and so
for LangSmith and every other tracer: a tool call is a tool run, a retrieval (also by a workflow's
node) a retriever run, any other node a chain run. Reasoning has no run, because it streams. In
addition, the custom event `bailian_step` reports the start and the end of every step, and what it
says, for a UI; `bailian_run` reports the statuses of a background run.

LangChain's handlers count tokens in the runs of models. A chat model's own run has those of the
whole app. Below any other run, each model that the app called has a model run of its own, so that
every token is counted once in both. (Handlers that show tokens have `answer_run` instead.)

In a LangGraph graph, what is a custom event elsewhere is also written to the stream mode `custom`.

The logic is written once for sync and async: a method yields calls of a callback manager and
receives their results. `make_calls` makes these calls, `amake_calls` awaits them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackHandler,
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    AsyncRunManager,
    BaseCallbackHandler,
    CallbackManager,
    CallbackManagerForLLMRun,
    RunManager,
)
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, LLMResult

from bailian_apps.core.documents import RetrievedDocument
from bailian_apps.core.errors import AppFailedError
from bailian_apps.core.events import (
    STEP_DELTAS,
    STEP_EVENTS,
    AppEvent,
    RunFinished,
    StepDelta,
    StepFinished,
    StepStarted,
    StepUpdated,
    UsageReported,
)
from bailian_apps.core.language import quoted
from bailian_apps.core.responses_api import StatusChanged
from bailian_apps.core.result import SUCCESS, ModelUsage, SpanKind, Step, Usage
from bailian_apps.core.values import as_text
from bailian_apps.langchain.blocks import PROVIDER, RUN_TYPE, STEP_TYPE, as_arguments, step_entry

AnyRunManager: TypeAlias = RunManager | AsyncRunManager
ManagerCalls: TypeAlias = Generator[Any, Any, None]
"""Calls of a callback manager: yields each as it was made, and receives its result."""

_USAGE = (UsageReported, RunFinished)


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
            # Where the sync manager raises it. A cancel scope of anyio cancels each await.
            except (Exception, asyncio.CancelledError) as error:
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

    def __init__(
        self,
        manager: AnyRunManager | None,
        app_id: str,
        graph_writer: Callable[[Any], object] | None = None,
        answer_handlers: Sequence[BaseCallbackHandler] = (),
    ) -> None:
        """Report the steps of an app to all handlers of the call's run, if there are any.

        `graph_writer` writes to the stream of the LangGraph graph that runs the call. The
        `answer_handlers` have an `AnswerRun`, with all tokens.
        """
        heard = manager is not None and (manager.handlers or graph_writer)
        self._manager: Any = manager if heard else None
        self._write = graph_writer
        self._app_id = app_id
        # `ls_…` describes the model. On a step, LangSmith would count the step as a model call.
        metadata = {} if manager is None else manager.inheritable_metadata
        self._metadata = {k: v for k, v in metadata.items() if not k.startswith("ls_")}
        self._open: dict[str, _StepRun] = {}
        self._usage = Usage()
        self._counted: Counter[tuple[str, str]] = Counter()
        self._counts = self._custom = False
        self._counting: list[BaseCallbackHandler] = []
        self.reported: tuple[type[AppEvent], ...] = ()
        """The events that `report` takes; deltas only if custom events reach somebody."""
        if self._manager is not None:
            handlers: list[BaseCallbackHandler] = self._manager.handlers
            self._counting = [each for each in handlers if each not in answer_handlers]
            llm_runs = (CallbackManagerForLLMRun, AsyncCallbackManagerForLLMRun)
            self._counts = bool(self._counting) and not isinstance(manager, llm_runs)
            self._custom = any(
                listens(each, "on_custom_event") and not each.ignore_custom_event
                for each in handlers
            )
            deltas = STEP_DELTAS if self._custom or self._write else ()
            self.reported = STEP_EVENTS + deltas + (_USAGE if self._counts else ())

    def report(self, event: AppEvent) -> ManagerCalls:
        """Report one of the events in `reported`."""
        if isinstance(event, STEP_EVENTS):
            yield from self._report_step(event)
        elif isinstance(event, STEP_DELTAS):
            if run := self._open.get(event.step_id):
                kind = "text" if isinstance(event, StepDelta) else "reasoning"
                yield from self._custom_event("delta", _head(run.step), {kind: event.text})
        elif isinstance(event, UsageReported):
            self._usage = event.usage
        elif isinstance(event, RunFinished):
            self._usage = event.result.usage
            yield from self._count_rest()

    def report_status(self, event: StatusChanged) -> ManagerCalls:
        """Report a background run's new status."""
        fields = {"run_id": event.run_id, "status": event.status}
        yield from self._publish(RUN_TYPE, {"app_id": self._app_id, **fields})

    def _report_step(self, event: StepStarted | StepUpdated | StepFinished) -> ManagerCalls:
        step = event.step
        if step.id not in self._open:
            self._open[step.id] = _StepRun(step)
            yield from self._custom_event("start", step_entry(step))
        run = self._open[step.id]
        run.step = step
        updated = isinstance(event, StepUpdated)
        if updated:
            yield from self._custom_event("update", step_entry(step))
        # A run's name and inputs cannot be changed later.
        if run.kind is None and (step.is_known or updated):
            yield from self._start(run)
        if isinstance(event, StepFinished):
            error = AppFailedError(quoted(step.error or step.status)) if step.failed else None
            yield from self._end(run, error)

    def close(self, error: BaseException | None) -> ManagerCalls:
        """End the steps that are still open, the newest first; they fail with `error`, if any."""
        raised: BaseException | None = None
        for run in reversed(list(self._open.values())):
            try:
                yield from self._end(run, error)
            # A handler's, or a cancellation; the other runs still end.
            except (Exception, asyncio.CancelledError) as failure:
                raised = raised or failure
        if raised is not None:
            raise raised
        yield from self._count_rest()

    def _start(self, run: _StepRun) -> ManagerCalls:
        step = run.step
        run.kind = step.span_kind  # set first: a run starts once, even if a handler raises
        parent = self._open.get(step.parent_id or "")
        if parent is not None and parent.kind is None:
            yield from self._start(parent)
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
        for other in [run, *self._open.values()]:  # a run begins while its parent's is open
            if other.kind is None and (other is run or other.step.parent_id == step.id):
                yield from self._start(other)
        del self._open[step.id]
        manager = run.manager
        if self._counts and manager is not None and step.usage is not None:
            yield from self._count(step.usage.models, manager.run_id, step)
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
        failure = {"error": step.error or repr(error)} if error else {}
        yield from self._custom_event("error" if error else "end", step_entry(step), failure)

    def _count(
        self, models: Sequence[ModelUsage], parent_run_id: UUID, step: Step | None = None
    ) -> ManagerCalls:
        """Report calls of models, each as a run that has its tokens."""
        for model in models:
            self._counted[model.model_id, "input"] += model.input_tokens
            self._counted[model.model_id, "output"] += model.output_tokens
            name = model.model_id or self._app_id
            metadata = {"ls_provider": PROVIDER, "ls_model_name": name, "ls_model_type": "llm"}
            metadata = self._metadata | metadata
            manager = child_manager(self._manager, parent_run_id, metadata, handlers=self._counting)
            # Not `on_chat_model_start`: LangGraph would stream the answer as a message of its own.
            [run] = yield manager.on_llm_start(
                {"name": name}, [as_text(step.input) if step else ""], name=name
            )
            message = AIMessage(
                content=step.output if step else "",
                usage_metadata=UsageMetadata(
                    input_tokens=model.input_tokens,
                    output_tokens=model.output_tokens,
                    total_tokens=model.input_tokens + model.output_tokens,
                ),
                response_metadata={"model_name": name, "model_provider": PROVIDER},
            )
            yield run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))

    def _count_rest(self) -> ManagerCalls:
        """Report the model calls that are no step's."""
        if not self._counts:
            return
        rest: list[ModelUsage] = []
        for name in dict.fromkeys(model.model_id for model in self._usage.models):
            own = [model for model in self._usage.models if model.model_id == name]
            sent = sum(model.input_tokens for model in own) - self._counted[name, "input"]
            received = sum(model.output_tokens for model in own) - self._counted[name, "output"]
            if sent > 0 or received > 0:
                rest.append(
                    ModelUsage(
                        model_id=name, input_tokens=max(0, sent), output_tokens=max(0, received)
                    )
                )
        yield from self._count(rest, self._manager.run_id)

    def _custom_event(
        self, event: str, step: Mapping[str, Any], more: Mapping[str, Any] | None = None
    ) -> ManagerCalls:
        data = {"event": event, "app_id": self._app_id, "step": step, **(more or {})}
        yield from self._publish(STEP_TYPE, data)

    def _publish(self, name: str, data: dict[str, Any]) -> ManagerCalls:
        if self._write is not None:
            self._write({"type": name, **data})
        if self._custom:
            run_id = self._manager.run_id
            yield self._child_manager(run_id).on_custom_event(name, data, run_id=run_id)

    def _manager_for(self, step: Step) -> Any:
        parent = self._open.get(step.parent_id or "")
        parent_manager = parent.manager if parent and parent.manager else self._manager
        metadata = {"bailian_step_id": step.id}
        if step.type:
            metadata["bailian_step_type"] = step.type
        return self._child_manager(parent_manager.run_id, metadata)

    def _child_manager(self, parent_run_id: UUID, metadata: Mapping[str, Any] | None = None) -> Any:
        return child_manager(self._manager, parent_run_id, self._metadata | dict(metadata or {}))

    def _name_of(self, step: Step) -> str:
        # LangGraph takes a run with the name of its own node for that node.
        taken = step.name == self._metadata.get("langgraph_node")
        return f"{step.name} ({self._app_id})" if taken else step.name


def child_manager(
    manager: AnyRunManager,
    parent_run_id: UUID,
    metadata: dict[str, Any],
    *,
    handlers: list[BaseCallbackHandler] | None = None,
    tags: list[str] | None = None,
) -> Any:
    """Return a callback manager for runs below a run.

    Args:
        manager: The run of the call.
        parent_run_id: The parent of the new runs.
        metadata: The metadata of the new runs.
        handlers: The handlers. Default: all of the call's run, also those that it does not pass on
            to its children (a model's own `callbacks=`, `collect_runs`): what the app does is part
            of this run, not another Runnable's run.
        tags: The tags of the new runs. Default: those that the call's run passes on.
    """
    manager_class: Any = (
        AsyncCallbackManager if isinstance(manager, AsyncRunManager) else CallbackManager
    )
    handlers = manager.handlers if handlers is None else handlers
    tags = manager.inheritable_tags if tags is None else tags
    child = manager_class(
        handlers=[],
        parent_run_id=parent_run_id,
        tags=tags,
        inheritable_tags=tags,
        metadata=metadata,
        inheritable_metadata=metadata,
    )
    # OpenInference adds its handler to the list of every new manager.
    child.handlers = child.inheritable_handlers = handlers
    return child


def token_handlers(manager: AnyRunManager) -> list[BaseCallbackHandler]:
    """Return the handlers of a run to which LangChain streams tokens, even in `invoke`."""
    return [
        each
        for each in manager.handlers
        if hasattr(each, "tap_output_iter")
        and (listens(each, "on_llm_new_token") or listens(each, "on_stream_event"))
    ]


def listens(handler: BaseCallbackHandler, name: str) -> bool:
    """Return whether a handler does anything in a callback."""
    method = getattr(handler, name, None)
    inherited = [getattr(base, name, None) for base in (BaseCallbackHandler, AsyncCallbackHandler)]
    return method is not None and getattr(method, "__func__", method) not in inherited


def _head(step: Step) -> dict[str, Any]:
    """What a step is, without what it says."""
    names = ("id", "kind", "name", "type", "status", "parent_id")
    return {name: value for name in names if (value := getattr(step, name)) is not None}


def _outputs(step: Step) -> dict[str, Any]:
    outputs: dict[str, Any] = {"output": step.output}
    if step.status != SUCCESS:
        outputs["status"] = step.status
    if step.usage is not None:
        outputs["usage"] = step.usage.to_dict()
    if step.reasoning:
        outputs["reasoning"] = step.reasoning
    if step.duration_ms is not None:
        # The run's own times say when frames arrived, not how long the step took in the cloud.
        outputs["duration_ms"] = step.duration_ms
    return outputs


def found_documents(documents: Iterable[RetrievedDocument]) -> list[Document]:
    """Return what a retrieval found; `score` is in the metadata."""
    return [Document(page_content=each.text, metadata=each.metadata) for each in documents]
