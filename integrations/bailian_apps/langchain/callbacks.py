"""What the remote app did, as runs below the run of the call: a model's, a tool's, a chain's.

Each step is a child of that run for LangChain's callbacks, and so for LangSmith and every other
tracer: a tool call is a tool run, a retrieval a retriever run, any other workflow node a chain run.
Reasoning has none, it streams. Besides, the custom event `bailian_step` says of every step when it
starts and when it ends, for a UI.

Everything here is written once for sync and async. A method gives the calls to be made, one by one,
and is sent what they returned; `drive` makes them, and `adrive` awaits them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
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

from bailian_apps.core.documents import retrieved_documents
from bailian_apps.core.errors import AppFailedError
from bailian_apps.core.events import StepFinished, StepStarted
from bailian_apps.core.result import SpanKind, Step
from bailian_apps.langchain.blocks import STEP_TYPE, as_arguments, as_text, step_entry

AnyRunManager: TypeAlias = RunManager | AsyncRunManager
Calls: TypeAlias = Generator[Any, Any, None]
"""Calls of a callback manager: each is yielded as it was made, and its result is sent back."""

STEP_EVENTS = (StepStarted, StepFinished)


def drive(calls: Calls) -> None:
    """Make the calls of a sync manager."""
    try:
        made = next(calls)
        while True:
            made = calls.send(made)
    except StopIteration:
        return


async def adrive(calls: Calls) -> None:
    """Make the calls of an async manager."""
    try:
        made = next(calls)
        while True:
            made = calls.send(await made)
    except StopIteration:
        return


@dataclass
class _StepRun:
    """A step that has begun; `run` is its run manager, once there is one."""

    step: Step
    run: Any = None
    begun: bool = False
    kind: SpanKind = "chain"  # as it began: a node may name its type later


class StepRuns:
    """The runs of one call's steps. Each ends exactly once, before the run of the call."""

    def __init__(self, manager: AnyRunManager, app_id: str) -> None:
        """Report below the run of `manager`.

        Args:
            manager: The run of the call. Whoever watches it sees its steps.
            app_id: The app that takes the steps.
        """
        self._run = manager
        self._app_id = app_id
        self._kind: Any = (
            AsyncCallbackManager if isinstance(manager, AsyncRunManager) else CallbackManager
        )
        # `ls_…` describes the model; on a step it would be counted as a call of the model.
        self._metadata = {
            key: value
            for key, value in manager.inheritable_metadata.items()
            if not key.startswith("ls_")
        }
        self._open: dict[str, _StepRun] = {}

    @classmethod
    def of(cls, manager: AnyRunManager | None, app_id: str) -> StepRuns | None:
        """The runs of a call's steps, if anyone watches the call."""
        return cls(manager, app_id) if manager is not None and manager.handlers else None

    def on(self, event: StepStarted | StepFinished) -> Calls:
        """Report the start or the end of a step."""
        step = event.step
        if step.id not in self._open:
            self._open[step.id] = _StepRun(step)
            yield self._announce("start", step)
            # A run cannot be given its inputs later, so a call waits until they are known.
            if step.kind == "node" or step.input is not None:
                yield from self._begin(self._open[step.id])
        if isinstance(event, StepFinished):
            opened = self._open[step.id]
            opened.step = step
            yield from self._end(opened, _failure(step))

    def close(self, error: BaseException | None) -> Calls:
        """End the steps that are still open, the last one first.

        Args:
            error: Why the run ends, or None if it was cut off on purpose.
        """
        for opened in reversed(list(self._open.values())):
            yield from self._end(opened, error)

    def _begin(self, opened: _StepRun) -> Calls:
        opened.begun = True  # even if a handler raises: a run begins once
        step = opened.step
        opened.kind = step.span_kind
        manager = self._manager_for(step)
        name = self._name_of(step)
        about = {"name": name}
        if opened.kind == "tool":
            opened.run = yield manager.on_tool_start(
                about,
                as_text(step.input),
                inputs=as_arguments(step.input),
                name=name,
                tool_call_id=step.id,
            )
        elif opened.kind == "retrieval":
            opened.run = yield manager.on_retriever_start(about, _query(step.input), name=name)
        elif step.kind == "node":
            opened.run = yield manager.on_chain_start(about, as_arguments(step.input), name=name)

    def _end(self, opened: _StepRun, error: BaseException | None) -> Calls:
        step = opened.step
        if not opened.begun:
            yield from self._begin(opened)
        del self._open[step.id]
        if (run := opened.run) is None:
            pass
        elif opened.kind == "tool":
            yield run.on_tool_error(error) if error else run.on_tool_end(step.output)
        elif opened.kind == "retrieval":
            yield (
                run.on_retriever_error(error) if error else run.on_retriever_end(_documents(step))
            )
        else:
            yield run.on_chain_error(error) if error else run.on_chain_end(_outputs(step))
        yield self._announce("error" if error else "end", step, error)

    def _announce(self, event: str, step: Step, error: BaseException | None = None) -> Any:
        said = {"event": event, "app_id": self._app_id, "step": step_entry(step)}
        if error is not None:
            said["error"] = step.error or repr(error)
        manager = self._manager(self._run.run_id)
        return manager.on_custom_event(STEP_TYPE, said, run_id=self._run.run_id)

    def _manager_for(self, step: Step) -> Any:
        parent = self._open.get(step.parent_id or "")
        parent_id = parent.run.run_id if parent and parent.run else self._run.run_id
        about = {"bailian_step_id": step.id, "bailian_step_type": step.type}
        return self._manager(parent_id, {key: value for key, value in about.items() if value})

    def _manager(self, parent_run_id: UUID, metadata: Mapping[str, Any] | None = None) -> Any:
        # All handlers of that run, also those that it does not pass on (a model's own
        # `callbacks=`, `collect_runs`): a step is a part of that run, not another Runnable's.
        handlers = self._run.handlers
        described = self._metadata | dict(metadata or {})
        return self._kind(
            handlers=handlers,
            inheritable_handlers=handlers,
            parent_run_id=parent_run_id,
            tags=self._run.inheritable_tags,
            inheritable_tags=self._run.inheritable_tags,
            metadata=described,
            inheritable_metadata=described,
        )

    def _name_of(self, step: Step) -> str:
        # LangGraph takes a run that is named as its node for the node.
        taken = step.name == self._metadata.get("langgraph_node")
        return f"{step.name} ({self._app_id})" if taken else step.name


def _failure(step: Step) -> AppFailedError | None:
    return AppFailedError(step.error or step.status) if step.failed else None


def _outputs(step: Step) -> dict[str, Any]:
    outputs: dict[str, Any] = {"output": step.output}
    if step.reasoning:
        outputs["reasoning"] = step.reasoning
    if step.duration_ms is not None:
        # The run's own times are when the frames came, which is not when the cloud worked.
        outputs["duration_ms"] = step.duration_ms
    return outputs


def _query(value: object) -> str:
    query = as_arguments(value).get("query")
    return query if isinstance(query, str) else as_text(value)


def _documents(step: Step) -> list[Document]:
    return [
        Document(page_content=found.text, metadata=dict(found.metadata))
        for found in retrieved_documents(step)
    ]
