"""Runs a described workflow: its nodes in their order and time, told in `full_thoughts` deltas.

Nothing waits here. The run is worked out on a clock of its own, and its frames say when they are
due.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from bailian_apps.emulator.apps.scenarios import Node, Workflow, pieces_of
from bailian_apps.emulator.apps.templates import fill, values_of
from bailian_apps.emulator.models import Call
from bailian_apps.emulator.wire.frames import Frame, JsonObject, to_json
from bailian_apps.emulator.wire.nodes import RUNNING

_FAILED = "failed"


def workflow_frames(workflow: Workflow, call: Call) -> Iterator[Frame]:
    """Yield the frames of one run.

    Raises:
        Failure: A text names something that the call does not have, or a node fails.
    """
    runs = _prepare(workflow, call)
    session: JsonObject = {"session_id": call.session_id}
    yield _frame(call, {**session, "finish_reason": "null"}, [], 0.0)
    listed: list[_Run] = []
    for now_ms, run in _schedule(runs):
        listed += [each for each in (run, run.mirror) if each and each not in listed]
        thoughts = [{"response": to_json(each.told())} for each in listed]
        output = {"thoughts": thoughts, **session, "finish_reason": "null"}
        if run is runs[-1] and run.status != RUNNING and run.node.fails is None:
            output |= {"finish_reason": "stop", "text": "".join(run.output)}
        yield _frame(call, output, listed, now_ms)
        if run.status == _FAILED and run.node.fails is not None:
            raise run.node.fails.as_failure()


@dataclass(eq=False, slots=True)
class _Run:
    """A node on its way."""

    node: Node
    id: str
    waits_for: set[str]
    reasoning: list[str]
    output: list[str]
    mirror: "_Run | None" = None
    status: str = RUNNING
    said: int = 0
    started_ms: float | None = None
    ended_ms: float = 0.0
    delta: dict[str, str] = field(default_factory=dict[str, str])

    def begin(self, now_ms: float) -> None:
        """Begin, and with it the node that mirrors this one."""
        self.started_ms = now_ms if self.started_ms is None else self.started_ms
        if self.mirror is not None:
            self.mirror.started_ms = now_ms

    def step(self, now_ms: float) -> None:
        """Say the next piece; with the last one, end."""
        pieces = [*self.reasoning, *self.output]
        if self.said < len(pieces):
            thinks = self.said < len(self.reasoning)
            self.delta["reasoningContent" if thinks else "result"] = pieces[self.said]
            if self.mirror is not None and not thinks:
                self.mirror.delta["result"] = pieces[self.said]
                self.mirror.said += 1
            self.said += 1
        if self.said == len(pieces):
            self.status = "success" if self.node.fails is None else _FAILED
            self.ended_ms = now_ms

    def told(self) -> JsonObject:
        """Return the node as the next frame lists it; what it said is told once."""
        told: JsonObject = {"nodeName": self.node.name}
        if self.node.type != "Start" or self.output:
            result = {"result": self.delta.get("result", "")}
            if self.reasoning:
                result["reasoningContent"] = self.delta.get("reasoningContent", "")
            told["nodeResult"] = to_json(result)
        self.delta = {}
        told |= {"nodeType": self.node.type, "nodeStatus": self.status, "nodeId": self.id}
        if self.status != RUNNING:
            told["nodeExecTime"] = f"{self.ended_ms - (self.started_ms or 0.0):.0f}ms"
        if self.status == _FAILED and self.node.fails is not None:
            told["nodeErrorMsg"] = self.node.fails.message
        return told


def _prepare(workflow: Workflow, call: Call) -> list[_Run]:
    """Fill all texts in before anything is said: a call that lacks one is refused."""
    values = values_of(call)
    runs: dict[str, _Run] = {}
    for place, (node, waits_for) in enumerate(workflow.plan(), 1):
        if node.output is None and node.type == "End":
            mirrored = runs[node.mirrors or list(runs)[-1]]
            text = "".join(mirrored.output)
            output = mirrored.output if node.mirrors else pieces_of(text, whole=True)
        else:
            mirrored = None
            output = pieces_of(fill(node.output or "", values), whole=node.type != "LLM")
        run = _Run(
            node=node,
            id=node.id or f"{node.type}_{place}",
            waits_for=set(waits_for),
            reasoning=pieces_of(fill(node.reasoning, values)),
            output=output,
        )
        if node.mirrors and mirrored:
            mirrored.mirror = run
        values["nodes"][node.name] = "".join(output)
        runs[node.name] = run
    return list(runs.values())


def _schedule(runs: list[_Run]) -> Iterator[tuple[float, _Run]]:
    """Yield who has something to tell, and when; branches at the same time take turns."""
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
                continue  # these are listed when they have something to say
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


def _frame(call: Call, output: JsonObject, listed: list[_Run], now_ms: float) -> Frame:
    models: list[JsonObject] = []
    for run in listed:
        if run.node.usage is not None and (run.said or run.status != RUNNING):
            models.append(run.node.usage.at(run.said, len(run.reasoning) + len(run.output)))
    payload = {
        "output": output,
        "usage": {"models": models} if models else {},
        "request_id": call.request_id,
    }
    return Frame(payload=payload, offset_ms=now_ms)
