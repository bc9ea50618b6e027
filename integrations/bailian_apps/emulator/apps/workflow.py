"""Simulates a `Workflow`: runs its nodes in order and yields the run as `full_thoughts` deltas.

Nothing waits here: the simulation has its own clock, and its frames say when they are due.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from bailian_apps.emulator.apps.scenarios import Node, Workflow, split_pieces
from bailian_apps.emulator.apps.templates import fill, values_of
from bailian_apps.emulator.models import Call
from bailian_apps.emulator.wire.frames import Frame, JsonObject, to_json
from bailian_apps.emulator.wire.nodes import RUNNING

_FAILED = "failed"


def workflow_frames(workflow: Workflow, call: Call) -> Iterator[Frame]:
    """Yield the frames of one run.

    Raises:
        Failure: The call has no value for a placeholder, or a node fails.
    """
    runs = _prepare(workflow, call)
    session: JsonObject = {"session_id": call.session_id}
    yield _frame(call, {**session, "finish_reason": "null"}, [], 0.0)
    listed: list[_NodeRun] = []
    for now_ms, run in _schedule(runs):
        listed += [each for each in (run, run.mirror) if each and each not in listed]
        thoughts = [{"response": to_json(each.take_entry())} for each in listed]
        output = {"thoughts": thoughts, **session, "finish_reason": "null"}
        if run is runs[-1] and run.status != RUNNING and run.node.fails is None:
            output |= {"finish_reason": "stop", "text": "".join(run.output)}
        yield _frame(call, output, listed, now_ms)
        if run.status == _FAILED and run.node.fails is not None:
            raise run.node.fails.as_failure()


@dataclass(eq=False, slots=True)
class _NodeRun:
    """The state of a node in this run."""

    node: Node
    id: str
    waits_for: set[str]
    reasoning: list[str]
    output: list[str]
    mirror: "_NodeRun | None" = None
    status: str = RUNNING
    sent: int = 0
    started_ms: float | None = None
    ended_ms: float = 0.0
    delta: dict[str, str] = field(default_factory=dict[str, str])

    def begin(self, now_ms: float) -> None:
        """Start the node, and the node that mirrors it."""
        self.started_ms = now_ms if self.started_ms is None else self.started_ms
        if self.mirror is not None:
            self.mirror.started_ms = now_ms

    def step(self, now_ms: float) -> None:
        """Produce the next piece; after the last one, the node ends."""
        pieces = [*self.reasoning, *self.output]
        if self.sent < len(pieces):
            reasons = self.sent < len(self.reasoning)
            self.delta["reasoningContent" if reasons else "result"] = pieces[self.sent]
            if self.mirror is not None and not reasons:
                self.mirror.delta["result"] = pieces[self.sent]
                self.mirror.sent += 1
            self.sent += 1
        if self.sent == len(pieces):
            self.status = "success" if self.node.fails is None else _FAILED
            self.ended_ms = now_ms

    def take_entry(self) -> JsonObject:
        """Return the node as the next frame lists it, with the delta since the last call."""
        entry: JsonObject = {"nodeName": self.node.name}
        if self.node.type != "Start" or self.output:
            result = {"result": self.delta.get("result", "")}
            if self.reasoning:
                result["reasoningContent"] = self.delta.get("reasoningContent", "")
            entry["nodeResult"] = to_json(result)
        self.delta = {}
        entry |= {"nodeType": self.node.type, "nodeStatus": self.status, "nodeId": self.id}
        if self.status != RUNNING:
            entry["nodeExecTime"] = f"{self.ended_ms - (self.started_ms or 0.0):.0f}ms"
        if self.status == _FAILED and self.node.fails is not None:
            entry["nodeErrorMsg"] = self.node.fails.message
        return entry


def _prepare(workflow: Workflow, call: Call) -> list[_NodeRun]:
    """Fill in all texts before the first frame, so that a missing value is an HTTP error."""
    values = values_of(call)
    runs: dict[str, _NodeRun] = {}
    for number, (node, waits_for) in enumerate(workflow.plan(), 1):
        if node.output is None and node.type == "End":
            mirrored = runs[node.mirrors or list(runs)[-1]]
            text = "".join(mirrored.output)
            output = mirrored.output if node.mirrors else split_pieces(text, whole=True)
        else:
            mirrored = None
            output = split_pieces(fill(node.output or "", values), whole=node.type != "LLM")
        run = _NodeRun(
            node=node,
            id=node.id or f"{node.type}_{number}",
            waits_for=set(waits_for),
            reasoning=split_pieces(fill(node.reasoning, values)),
            output=output,
        )
        if node.mirrors and mirrored:
            mirrored.mirror = run
        values["nodes"][node.name] = "".join(output)
        runs[node.name] = run
    return list(runs.values())


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
            heapq.heappush(queue, (now_ms + run.node.latency_ms, next(order), run))
            if run.node.type in ("Start", "End"):
                continue  # these are first listed with their output
        else:
            run.step(now_ms)
            if run.status == RUNNING:
                heapq.heappush(queue, (now_ms + run.node.chunk_ms, next(order), run))
            else:
                done.add(run.node.name)
            ready = [each for each in waiting if each.waits_for <= done]
            waiting = [each for each in waiting if each not in ready]
            for each in ready:
                heapq.heappush(queue, (now_ms, next(order), each))
        yield now_ms, run


def _frame(call: Call, output: JsonObject, listed: list[_NodeRun], now_ms: float) -> Frame:
    models: list[JsonObject] = []
    for run in listed:
        if run.node.usage is not None and (run.sent or run.status != RUNNING):
            models.append(run.node.usage.at(run.sent, len(run.reasoning) + len(run.output)))
    payload = {
        "output": output,
        "usage": {"models": models} if models else {},
        "request_id": call.request_id,
    }
    return Frame(payload=payload, offset_ms=now_ms)
