"""One step while its frames are read. Pure.

The files named here are in tests/recordings.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bailian_apps.core.answer import AnswerRole
from bailian_apps.core.entries import Node, Source
from bailian_apps.core.pieces import NodePieces
from bailian_apps.core.result import EXECUTING, PAUSE, Step, StepKind
from bailian_apps.core.step_usage import ModelCaller
from bailian_apps.core.text import SurrogateBuffer
from bailian_apps.core.values import CallInput, Piece

_NOTHING = Piece("", "")


@dataclass(slots=True)
class StepState:
    """A step being read; `snapshot` is its frozen public form."""

    id: str
    kind: StepKind
    name: str
    type: str | None
    status: str
    parent_id: str | None
    input: CallInput = field(default_factory=CallInput)
    output: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    output_buffer: SurrogateBuffer = field(default_factory=SurrogateBuffer)
    reasoning_buffer: SurrogateBuffer = field(default_factory=SurrogateBuffer)
    error: str | None = None
    duration_ms: float | None = None
    started_ms: float | None = None
    first_token_ms: float | None = None
    ended_ms: float | None = None
    finished: bool = False
    source: Source | None = None  # the channel that this step's text comes from
    last: Piece = _NOTHING  # the newest piece
    role: AnswerRole | None = None  # the part that it has in the answer
    pieces: NodePieces | None = None  # what reads its JSON, if it says some
    named: bool = True  # False while the wire has a node's id in place of its name
    caller: ModelCaller | None = None

    def snapshot(self, *, cut_off: bool = False) -> Step:
        """Return the step as it is now; if it was `cut_off`, with arguments that are not whole."""
        output, reasoning = ("", "") if self.pieces is None else self.pieces.held
        return Step(
            id=self.id,
            kind=self.kind,
            name=self.name,
            type=self.type,
            status=self.status,
            input=self.input.so_far if cut_off else self.input.value,
            output="".join(self.output) + output,
            reasoning="".join(self.reasoning) + reasoning,
            error=self.error,
            duration_ms=self.duration_ms,
            started_ms=self.started_ms,
            first_token_ms=self.first_token_ms,
            ended_ms=self.ended_ms,
            parent_id=self.parent_id,
            usage=self.caller.usage if self.caller else None,
        )

    def read_name(self, node: Node) -> bool:
        """Read a node's name; return whether it is to be reported, before what the node says.

        At first a node is listed with its id as its name. Its real name comes with its first words
        (workflow-timed.jsonl), or with its end.
        """
        had_name, before = self.named, self.name
        if node.name and (node.name != node.id or not had_name):
            self.name = node.name
        if had_name:
            return before == node.id != self.name
        self.named = any(node.piece[:2]) or (self.name != node.id and node.status == EXECUTING)
        return self.named

    def runs_again(self, node: Node) -> bool:
        """Whether a node that has finished and is listed again is a new run of it (a loop).

        From the frame after its end on, a finished node is listed with an empty result
        (workflow-timed.jsonl).
        """
        if self.source not in (None, node.source):
            return False
        if self.status == PAUSE and node.status != PAUSE:
            return True  # a person has answered
        return node.status == EXECUTING or (any(node.piece) and node.piece != self.last)
