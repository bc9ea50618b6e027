"""Simulates a `Workflow`: runs its nodes in order and yields the run as `full_thoughts` deltas.

Nothing waits here: the simulation has its own clock, and its frames say when they are due.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from bailian_apps.emulator.apps.fields import split_pieces
from bailian_apps.emulator.apps.scenarios import ErrorAnswer, Node, Workflow
from bailian_apps.emulator.apps.templates import fill, values_of
from bailian_apps.emulator.models import Call
from bailian_apps.emulator.wire.frames import (
    Frame,
    JsonObject,
    NodeContent,
    Traits,
    parse_json,
    to_json,
)
from bailian_apps.emulator.wire.nodes import PAUSED, RUNNING, SKIPPED, is_answer

_HOLDING = (PAUSED, "stop")
"""The statuses of nodes that keep those that wait for them from running."""


def workflow_frames(workflow: Workflow, call: Call) -> Iterator[Frame]:
    """Yield the frames of one run.

    Raises:
        Failure: The call has no value for a placeholder, or a node fails.
        ValueError: A node's `result` needs JSON, and its output is not.
    """
    runs = _prepare(workflow, call)
    contents: dict[str, NodeContent] = {}
    contents |= {run.id: run.node.content for run in runs if run.node.content is not None}
    traits = Traits(contents, workflow.unasked)
    session: JsonObject = {"session_id": call.session_id}
    yield _frame(call, {**session, "finish_reason": "null"}, [], 0.0)
    begun: list[_NodeRun] = []
    listed: dict[str, _NodeRun] = {}  # a node that runs again stays at its place
    said: list[str] = []
    end = runs[-1]

    def frame(now_ms: float, *, last: bool) -> Frame:
        entries = [run.take_entry(late_names=workflow.late_names) for run in listed.values()]
        output: JsonObject = {"thoughts": [{"response": to_json(entry)} for entry in entries]}
        output |= {**session, "finish_reason": "null"}
        if last:
            end_text = end.output if end.ended else []
            text = said if workflow.last_text == "all" else end_text
            output |= {"finish_reason": workflow.finish_reason, "text": "".join(text)}
        return replace(_frame(call, output, begun, now_ms), last=last, traits=traits)

    now_ms = 0.0
    for now_ms, run in _schedule(runs):
        new = [each for each in (run, *run.mirrors) if each not in begun]
        begun += new
        listed |= {each.id: each for each in new}
        said += [each.delta.get("result", "") for each in begun if is_answer(each.node.type)]
        last = run is end and run.ended and run.fails is None
        yield frame(now_ms, last=last)
        if last:
            return
        if run.ended and run.fails is not None:
            raise run.fails.as_failure()
    yield frame(now_ms, last=True)  # a node that paused or stopped holds the End node back


@dataclass(eq=False, slots=True)
class _NodeRun:
    """The state of a node in this run."""

    node: Node
    id: str
    name: str
    waits_for: set[str]
    reasoning: list[str]
    output: list[str]
    final_status: str
    mirrors: "list[_NodeRun]" = field(default_factory=list["_NodeRun"])
    status: str = RUNNING
    sent: int = 0
    started_ms: float | None = None
    ended_ms: float = 0.0
    delta: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def skipped(self) -> bool:
        """Whether the node does not run."""
        return self.final_status == SKIPPED

    @property
    def ended(self) -> bool:
        """Whether the node does nothing more."""
        return self.status != RUNNING

    @property
    def fails(self) -> ErrorAnswer | None:
        """The error in which the node ends."""
        return None if self.skipped else self.node.fails

    def begin(self, now_ms: float) -> None:
        """Start the node, and the nodes that mirror it."""
        self.started_ms = now_ms if self.started_ms is None else self.started_ms
        for mirror in self.mirrors:
            mirror.started_ms = now_ms

    def step(self, now_ms: float) -> None:
        """Produce the next piece; after the last one, the node ends."""
        pieces = [*self.reasoning, *self.output]
        if self.sent < len(pieces):
            reasons = self.sent < len(self.reasoning)
            self.delta["reasoningContent" if reasons else "result"] = pieces[self.sent]
            for mirror in () if reasons else self.mirrors:
                mirror.delta["result"] = pieces[self.sent]
                mirror.sent += 1
            self.sent += 1
        if self.sent == len(pieces):
            self.status = self.final_status
            self.ended_ms = now_ms

    def take_entry(self, *, late_names: bool) -> JsonObject:
        """Return the node as the next frame lists it, with the delta since the last call.

        Args:
            late_names: See `Workflow` (tests/recordings/workflow-timed.jsonl: `LLM_j45e`).
        """
        unnamed = late_names and not self.sent and not self.ended
        entry: JsonObject = {"nodeName": self.id if unnamed else self.name}
        if (self.node.type != "Start" or self.output) and not self.skipped:
            entry["nodeResult"] = self._node_result()
        self.delta = {}
        entry |= {"nodeType": self.node.type, "nodeStatus": self.status, "nodeId": self.id}
        if self.ended and not self.skipped:
            entry["nodeExecTime"] = f"{self.ended_ms - (self.started_ms or 0.0):.0f}ms"
        if self.ended and self.fails is not None:
            if self.status == "fail":
                entry |= {"errorInfo": self.fails.message, "errorCode": self.fails.code}
            else:
                entry["nodeErrorMsg"] = self.fails.message
        return entry

    def _node_result(self) -> str:
        text = self.delta.get("result", "")
        if self.node.result == "bare":
            return text
        if self.node.result == "json" and text:
            return f'{{"result":{text}}}'  # as it is written in the scenario
        result = {"result": text}
        if self.reasoning:
            result["reasoningContent"] = self.delta.get("reasoningContent", "")
        return to_json(result)


def _prepare(workflow: Workflow, call: Call) -> list[_NodeRun]:
    """Fill in all texts before the first frame, so that a missing value is an HTTP error."""
    values = values_of(call)
    runs: dict[str, _NodeRun] = {}
    names: dict[str, str] = {}
    for number, (node, waits_for) in enumerate(workflow.plan(), 1):
        id_ = node.id or f"{node.type}_{number}"
        run = _NodeRun(
            node=node,
            id=id_,
            name=names.setdefault(id_, node.name),
            waits_for=set(waits_for),
            reasoning=[],
            output=[],
            final_status=_final_status(node, [runs[name] for name in waits_for], call),
        )
        if not run.skipped:
            run.reasoning = split_pieces(fill(node.reasoning, values))
            run.output = _output_of(run, runs, values)
        if node.mirrors and not run.skipped:
            runs[node.mirrors].mirrors.append(run)
        values["nodes"][node.name] = "".join(run.output)
        runs[node.name] = run
    return list(runs.values())


def _final_status(node: Node, waits_for: list[_NodeRun], call: Call) -> str:
    if node.when is not None and not node.when.matches_call(call):
        return SKIPPED
    if node.type != "End" and waits_for and all(run.skipped for run in waits_for):
        return SKIPPED
    return node.status or ("success" if node.fails is None else "failed")


def _output_of(run: _NodeRun, runs: dict[str, _NodeRun], values: JsonObject) -> list[str]:
    node = run.node
    output: Any = fill(node.output or "", values)
    if node.mirrors:
        output = runs[node.mirrors].output
    elif node.output is None and node.type == "End":
        previous = [each for each in runs.values() if not each.skipped][-1]
        output = "" if is_answer(previous.node.type) else "".join(previous.output)
    if node.result == "text":
        return split_pieces(output, whole=node.type != "LLM")
    text = "".join(split_pieces(output))
    try:
        parse_json(text)
    except ValueError as error:
        needs = f"node {node.name!r}: `result: {node.result}` needs an `output` that is JSON"
        raise ValueError(f"{needs}: {error}") from error
    return [text]


def _schedule(runs: list[_NodeRun]) -> Iterator[tuple[float, _NodeRun]]:
    """Yield the node that causes each frame, and when; simultaneous branches alternate."""
    order = count()
    queue = [(0.0, next(order), runs[0])]
    waiting = runs[1:]
    done: set[str] = set()
    begun: set[str] = set()
    while queue:
        now_ms, _, run = heapq.heappop(queue)
        if run.node.name not in begun:
            begun.add(run.node.name)
            run.begin(now_ms)
            latency_ms = 0 if run.skipped else run.node.latency_ms
            heapq.heappush(queue, (now_ms + latency_ms, next(order), run))
            if run.node.type in ("Start", "End") or run.skipped:
                continue  # these are first listed with their output
        else:
            run.step(now_ms)
            if not run.ended:
                heapq.heappush(queue, (now_ms + run.node.chunk_ms, next(order), run))
            elif run.status not in _HOLDING:
                done.add(run.node.name)
            ready = [each for each in waiting if each.waits_for <= done]
            waiting = [each for each in waiting if each not in ready]
            for each in ready:
                heapq.heappush(queue, (now_ms, next(order), each))
        yield now_ms, run


def _frame(call: Call, output: JsonObject, begun: list[_NodeRun], now_ms: float) -> Frame:
    models: list[JsonObject] = []
    for run in begun:
        if run.node.usage is not None and (run.sent or run.ended) and not run.skipped:
            models.append(run.node.usage.at(run.sent, len(run.reasoning) + len(run.output)))
    payload = {
        "output": output,
        "usage": {"models": models} if models else {},
        "request_id": call.request_id,
    }
    return Frame(payload=payload, offset_ms=now_ms)
