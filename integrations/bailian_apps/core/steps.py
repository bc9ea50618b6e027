"""Reads steps from a frame's `thoughts` and `workflow_message`. Pure.

A frame relists every step so far, and carries only the newest piece of each (workflow-two-llm.sse).
So this module keeps what it already read of each step, parses only entries that changed, and
appends each piece once. `Answer` gets what nodes say, and decides what of that is the answer.

The files named here are in tests/recordings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from bailian_apps.core.answer import Answer, Clock, answer_role
from bailian_apps.core.entries import (
    Node,
    Source,
    action_head,
    action_texts,
    another_call,
    is_action,
    node_of_message,
    node_of_thought,
)
from bailian_apps.core.events import (
    AppEvent,
    ReasoningDelta,
    StepDelta,
    StepFinished,
    StepStarted,
    StepUpdated,
    UnknownFrame,
)
from bailian_apps.core.modes import StreamMode
from bailian_apps.core.pieces import NodePieces
from bailian_apps.core.result import (
    EXECUTING,
    SKIP,
    SUCCESS,
    Step,
    StepKind,
    Usage,
    is_failure,
)
from bailian_apps.core.step_state import StepState
from bailian_apps.core.step_usage import UsageByStep
from bailian_apps.core.text import new_suffix
from bailian_apps.core.values import CallInput, JsonObject, Piece


@dataclass(slots=True)
class _Entry:
    """What stood at one position of `thoughts` in the frame before."""

    raw: object
    step: StepState | None
    repeats: bool = False  # an equal entry in the next frame is a new, equal piece of text

    @property
    def settled(self) -> bool:
        """Whether an equal entry in the next frame adds nothing."""
        return not self.repeats and (self.step is None or self.step.kind == "node")


class StepReader:
    """Turns the steps that frames relist into step events, each piece once.

    Attributes:
        saw_node: Whether any workflow node was seen: then the app is a workflow.
        finished_count: How many steps have ended.
        thinkers: The ids of the steps that think, in the order of their first thoughts.
        end_value: The JSON value that an End node put out. The last frame has its text too.
        clock: Is read when a step begins, first speaks or ends.
    """

    def __init__(
        self, events: list[AppEvent], answer: Answer, mode: StreamMode, clock: Clock
    ) -> None:
        """Read for a decoder.

        Args:
            events: Takes what is new.
            answer: Takes the text of nodes that may have a part in the answer.
            mode: How the app streams.
            clock: See above.
        """
        self.clock = clock
        self.end_value = ""
        self.thinkers: list[str] = []
        self.saw_node = False
        self.finished_count = 0
        self._events = events
        self._answer = answer
        self._mode = mode
        self._entries: list[_Entry] = []
        # The entries at the head of the list that add nothing until they change. They are compared
        # as a whole, because a workflow relists every node that it ever ran.
        self._settled: list[object] = []
        self._steps: list[StepState] = []
        self._newest: dict[str, StepState] = {}
        self._runs: dict[str, int] = {}
        self._running: dict[str, StepState] = {}  # an agent's steps that have not ended
        self._usage = UsageByStep()

    def steps(self) -> tuple[Step, ...]:
        """Return all steps so far, in the order in which they began."""
        return tuple(step.snapshot(cut_off=not step.finished) for step in self._steps)

    def finish_all(self) -> None:
        """End every step that is still open: the run is over, so they succeeded."""
        for step in self._steps:
            if not step.finished:
                self._finish(step, SUCCESS)

    def assign_usage(self, usage: Usage) -> None:
        """Read the tokens in a frame in which a step ended, after its steps were read."""
        if self._usage.assign(usage.models):
            for at, event in enumerate(self._events):
                if isinstance(event, StepFinished):
                    step = next(s for s in reversed(self._steps) if s.id == event.step.id)
                    self._events[at] = StepFinished(step.snapshot())

    # ---------------------------------------------------------------- thoughts

    def read_thoughts(self, thoughts: list[object]) -> None:
        """Read one frame's `thoughts`."""
        entries, settled = self._entries, self._settled
        if thoughts[: len(settled)] != settled:
            settled.clear()
        for position in range(len(settled), len(thoughts)):
            item = thoughts[position]
            raw: object = _response(item)
            entry = before = entries[position] if position < len(entries) else None
            if before is not None and before.repeats and before.raw == raw:
                # "哈" after "哈" is two pieces of text: an equal entry of a running node adds one.
                assert before.step is not None  # noqa: S101
                self._append(before.step, "thoughts", before.step.last)
            elif before is None or not before.settled or before.raw != raw:
                relisted = position + 1 < len(thoughts)
                entry = self._read_entry(position, item, raw, before, relisted=relisted)
                entries[position : position + 1] = [entry]
            if entry is not None and entry.settled and position == len(settled):
                settled.append(item)

    def _read_entry(
        self, position: int, item: object, raw: object, before: _Entry | None, *, relisted: bool
    ) -> _Entry:
        if isinstance(item, dict):
            entry = cast("JsonObject", item)
            if is_action(entry):
                step = self._read_action(position, entry, before, relisted=relisted)
                return _Entry(entry, step)
            node = node_of_thought(raw, position)
            if node is not None:
                step = self._update_node(node)
                return _Entry(raw, step, repeats=not step.finished and any(step.last))
        self._events.append(UnknownFrame(item))
        return _Entry(raw, before.step if before else None)

    def read_message(self, message: JsonObject) -> None:
        """Read one frame's `workflow_message`."""
        self._update_node(node_of_message(message, json_content=self._mode.json_content))

    def _update_node(self, node: Node) -> StepState:
        self.saw_node = True
        step = self._newest.get(node.id)
        if step is None or (step.finished and step.runs_again(node)):
            step = self._start_node(node, step)
        elif step.finished:
            return step
        step.type = node.type or step.type
        if step.read_name(node):
            self._events.append(StepUpdated(step.snapshot()))
        if node.duration_ms is not None:
            step.duration_ms = node.duration_ms
        self._append(step, node.source, node.piece, last=node.status != EXECUTING)
        if node.status != EXECUTING:
            if node.status != SUCCESS and is_failure(node.status):
                self._read_held(step)
                step.error = node.error or "".join(step.output) or node.status
            self._finish(step, node.status)
        return step

    def _start_node(self, node: Node, before: StepState | None) -> StepState:
        """Start a node; `before` is its earlier run in a loop."""
        name = node.name or node.id
        if name == node.id and before is not None:
            name = before.name
        step = self._start(
            *(node.id, "node", name, node.type),
            status=SKIP if node.status == SKIP else EXECUTING,  # what is skipped never runs
            parent_id=node.parent_id,
        )
        step.named = name != node.id
        step.caller = self._usage.begin(node.type)
        return step

    # ------------------------------------------------------------------ agents

    def _read_action(
        self, position: int, entry: JsonObject, before: _Entry | None, *, relisted: bool
    ) -> StepState:
        """Read an agent's entry. It has no id: its position in the list is its identity.

        If entries follow it (`relisted`), one that has not changed adds nothing; the last one may
        be a second, equal piece of text (agent-deep-thinking-elided-head.sse).
        """
        kind, type_, name = action_head(entry)
        step = before.step if before else None
        unchanged = before is not None and before.raw == entry
        if before is not None and step is not None and not unchanged:
            another = step.kind != kind or bool(type_ and step.type != type_)
            if not another and kind in ("tool", "retrieval"):
                another = another_call(before.raw, entry, step.input, "".join(step.output))
            if another:
                if not step.finished:
                    self._finish(step, SUCCESS)
                step = None
        may_repeat = kind == "reasoning" or (step is not None and step.input.incomplete)
        if step is not None and unchanged and (relisted or not may_repeat):
            if not step.finished and step.output and kind != "response":
                self._finish(step, SUCCESS)  # it has its result, and nothing more came
            return step
        output, reasoning = action_texts(kind, entry)
        if step is not None and kind != "reasoning":
            # No stream of tool calls was recorded: a field may be the whole so far, or a delta.
            output = new_suffix(step.output, output)
            reasoning = new_suffix(step.reasoning, reasoning)
        if step is None or (step.finished and (output or reasoning)):
            call_input = CallInput()
            if kind != "reasoning":
                call_input.value = step.input.value if step else None
                call_input.read(entry)
            step = self._start(
                f"thought-{position}", kind, name or type_ or kind, type_, call_input=call_input
            )
            self._running[step.id] = step
        elif kind != "reasoning":
            self._read_input(step, entry)
        step.name = name or step.name
        self._append(step, "thoughts", Piece(output, reasoning))
        return step

    def _read_input(self, step: StepState, entry: JsonObject) -> None:
        before = step.input.value
        step.input.read(entry)
        if step.input.value != before and not step.finished:
            self._events.append(StepUpdated(step.snapshot()))

    def answer_began(self) -> None:
        """The answer streams: an agent's reasoning and tool calls with a result are over."""
        for step in list(self._running.values()):
            thought = step.kind == "reasoning" and not any(step.last)
            if thought or (step.output and step.kind != "response"):
                self._finish(step, SUCCESS)

    # ------------------------------------------------------------------ shared

    def _start(
        self,
        base_id: str,
        kind: StepKind,
        name: str,
        type_: str | None,
        *,
        status: str = EXECUTING,
        parent_id: str | None = None,
        call_input: CallInput | None = None,
    ) -> StepState:
        for running in list(self._running.values()):
            if running.kind == "reasoning":  # the next step ends it
                self._finish(running, SUCCESS)
        run = self._runs.get(base_id, 0) + 1
        self._runs[base_id] = run
        step_id = base_id if run == 1 else f"{base_id}#{run}"
        step = StepState(step_id, kind, name, type_, status, parent_id)
        step.input = call_input or step.input
        step.started_ms = self.clock()
        self._newest[base_id] = step
        self._steps.append(step)
        self._events.append(StepStarted(step.snapshot()))
        return step

    def _append(self, step: StepState, source: Source, piece: Piece, *, last: bool = False) -> None:
        step.last = piece
        output, reasoning, form = piece
        if not output and not reasoning:
            return
        if step.caller is not None:
            step.caller.spoke = True
        if step.source is None:
            step.source = source
            if step.kind == "node":
                step.role = answer_role(
                    step.type,
                    (step.id, step.name),
                    every_speaker=source == "message" and self._mode.every_speaker,
                    is_text=form is None or source == "thoughts",
                )
        elif step.source != source:
            return  # the other channel repeats this step's text
        if form is not None or step.pieces is not None:
            step.pieces = step.pieces or NodePieces()
            output, reasoning = step.pieces.push(piece, last=last)
        self._emit(step, output, reasoning)
        if output and step.role is not None:
            self._answer.add_node_piece(step.id, step.role, output, last=last)

    def _read_held(self, step: StepState) -> None:
        """Emit the JSON that an ended step has held back, if it says some."""
        if step.pieces is None:
            return
        output, reasoning = step.pieces.close()
        self._emit(step, output, reasoning)
        if output and step.role == "end":
            # The last frame repeats it, perhaps written in another way: its text is the answer.
            self.end_value, step.role = output, None
        elif output and step.role is not None:
            self._answer.add_node_piece(step.id, step.role, output, last=True)

    def _emit(self, step: StepState, output: str, reasoning: str, *, last: bool = False) -> None:
        if (output or reasoning) and not (step.output or step.reasoning):
            step.first_token_ms = self.clock()
        if (reasoning or last) and (reasoning := step.reasoning_buffer.push(reasoning, last=last)):
            if not step.reasoning:
                self.thinkers.append(step.id)
            step.reasoning.append(reasoning)
            self._events.append(ReasoningDelta(reasoning, step.id))
        if (output or last) and (output := step.output_buffer.push(output, last=last)):
            step.output.append(output)
            self._events.append(StepDelta(step.id, output))

    def _finish(self, step: StepState, status: str) -> None:
        self._read_held(step)
        self._emit(step, "", "", last=True)
        step.input.settle()
        step.status = status
        step.finished = True
        step.ended_ms = self.clock()
        if step.caller is not None:
            step.caller.ended = True
        if step.role is not None:
            self._answer.end_node(step.id)
        self.finished_count += 1
        self._running.pop(step.id, None)
        self._events.append(StepFinished(step.snapshot()))


def _response(item: object) -> object:
    return cast("JsonObject", item).get("response", item) if isinstance(item, dict) else item
