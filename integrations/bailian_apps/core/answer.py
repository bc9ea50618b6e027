"""What an app says to its user: which nodes say it, and what the last frame adds. Pure.

A workflow's answer is what its Output nodes say, then what its End node says; `output.text` of the
last frame holds all of that, or the End node's part alone. No recording shows which: both are read.

An End or Output node may show what another node has streamed. So its text is held back for as long
as it only repeats that, and the last frame decides. In doubt text comes twice: none is lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bailian_apps.core.events import AppEvent, TextDelta
from bailian_apps.core.modes import AnswerChannel, StreamMode
from bailian_apps.core.text import SurrogateBuffer, repair_surrogates

OutputNodes: TypeAlias = Literal["answer", "steps"]
"""Whether a workflow's Output nodes say a part of the answer, or are only steps."""

AnswerRole: TypeAlias = Literal["source", "output", "end"]
"""The part that a node has in the answer. A source speaks as an Output node does, but what it says
may be shown once more by an Output or End node."""

Clock: TypeAlias = "Callable[[], float | None]"
"""Returns the milliseconds since the request was sent, or None where nobody knows them."""

# Types of nodes that compute or decide, whatever such a node is called in the console. The first
# three are recorded, the others are those of the vendor's open-source platform.
_OTHER_TYPES = frozenset({
    "start", "llm", "retrieval", "script", "plugin", "api", "mcp", "classifier", "judge",
    "appcomponent", "variableassign", "parameterextractor",
})  # fmt: skip
# The console's word for an Output node.
_OUTPUT_NAMES = ("output", "流程输出")
_SPACE = re.compile(r"\s*")


def answer_role(
    node_type: str | None, names: Sequence[str], *, every_speaker: bool, is_text: bool
) -> AnswerRole | None:
    """Return the part that a node has in the answer; None for none.

    No recording has an Output node. The vendor's page calls its type OUTPUT, and callers know it by
    its name.

    Args:
        node_type: Its type.
        names: Its id and its name.
        every_speaker: Whether it speaks in a mode where only End and Output nodes do.
        is_text: Whether it says text. JSON is a variable's or a component's, whatever its name.
    """
    kind = (node_type or "").casefold()
    if kind == "end":
        return "end"
    if "output" in kind:
        return "output"
    if kind not in _OTHER_TYPES and is_text and _is_output(names):
        return "output"
    return "source" if every_speaker and kind != "start" else None


def _is_output(names: Sequence[str]) -> bool:
    return any(word in name.casefold() for name in names for word in _OUTPUT_NAMES)


@dataclass(slots=True, eq=False)
class _Speaker:
    """A node that says a part of the answer."""

    role: AnswerRole
    pieces: list[str] = field(default_factory=list[str])  # what the answer has of its text
    repeats: list[_Speaker] | None = None  # whose text it may be repeating; None before it speaks
    repeated: int = 0  # how much of that
    held: str = ""  # a last piece that may be one listed again
    ended: bool = False

    @property
    def text(self) -> str:
        """Its pieces as one text."""
        if len(self.pieces) > 1:
            self.pieces[:] = ["".join(self.pieces)]
        return "".join(self.pieces)

    @property
    def waits(self) -> bool:
        """Whether some of its text is held back."""
        return bool(self.repeats or self.held)

    def goes_on_with(self, held: str, piece: str) -> bool:
        """Whether a piece goes on from what another node said into what was held back of it."""
        rests = [each.text[self.repeated :] for each in self.repeats or ()]
        return not any(rest.startswith(piece) for rest in rests) and any(
            piece.startswith(rest + held) or (rest + held).startswith(piece) for rest in rests
        )

    def without_repetition(self, piece: str, said: str) -> str:
        """Return what a piece adds; "" while it only repeats what another node said.

        If it repeats all of that and goes on, the rest is new, unless something else was said
        after it. If it says something else, it is said whole.

        Args:
            piece: What it says next.
            said: What all nodes have said.
        """
        at = self.repeated
        alike = self.repeats or []
        self.repeats = [each for each in alike if each.text.startswith(piece, at)]
        if self.repeats:
            self.repeated = at + len(piece)
            return ""
        text = alike[0].text[:at] + piece
        whole = (each.text for each in alike if said.endswith(each.text))
        return text[max((len(words) for words in whole if text.startswith(words)), default=0) :]

    def settle(self) -> str:
        """Return what was held back, and is no repetition of all that another node said."""
        text, self.held = self.held, ""
        if self.repeats:
            words = self.repeats[0].text[: self.repeated]
            text = "" if any(each.text == words for each in self.repeats) else words
            self.repeats = []
        return text


class Answer:
    """The text of one answer, as it streams.

    Attributes:
        final_text: The last frame's text, if it is not what streamed.
        first_token_ms: When the first text came.
    """

    def __init__(
        self,
        events: list[AppEvent],
        mode: StreamMode,
        output_nodes: OutputNodes,
        clock: Clock,
    ) -> None:
        """Start with no text.

        Args:
            events: Takes the text deltas.
            mode: How the app streams.
            output_nodes: Whether Output nodes say a part of the answer.
            clock: Is read when the first text comes.
        """
        self.final_text: str | None = None
        self.first_token_ms: float | None = None
        self._clock = clock
        self._events = events
        # Where the answer streams. If the mode leaves it open, the first channel with text decides.
        self._channel: AnswerChannel | None = mode.answer_channel
        self._with_outputs = output_nodes == "answer"
        self._pieces: list[str] = []
        self._buffer = SurrogateBuffer()
        self._speakers: dict[str, _Speaker] = {}  # by the id of their step
        self._all = _Speaker("source", self._pieces)
        self._waiting: list[_Speaker] = []  # whose text is held back
        self._end: list[str] = []  # what the End node says, the answer's or not

    @property
    def text(self) -> str:
        """What has streamed."""
        return "".join(self._pieces)

    @property
    def contradicted(self) -> bool:
        """Whether `final_text` differs by more than white space."""
        return self.final_text is not None and _squeezed(self.final_text) != _squeezed(self.text)

    def add(self, text: str) -> None:
        """Add a piece of `output.text`."""
        if self._channel is None:
            self._channel = "text"
        if self._channel == "text":
            self._emit(text)

    def add_node_piece(self, step_id: str, role: AnswerRole, text: str, *, last: bool) -> None:
        """Add a piece of what a node says.

        Args:
            step_id: The id of the node's step.
            role: Its part in the answer.
            text: The piece.
            last: Whether it came as the node ended.
        """
        if role == "end":
            self._end.append(text)
        speaker = self._speakers.get(step_id)
        if speaker is None:
            speaker = self._speakers[step_id] = _Speaker(role)
        if self._channel is None and (role == "end" or self._with_outputs):
            self._channel = "node"
        if self._channel != "node":
            if role != "end":
                speaker.pieces.append(text)
            return
        if speaker.repeats is None:
            speaker.repeats = self._repeatable(role)
        if speaker.repeats:
            held = "".join(it.held for it in self._waiting if it.ended and it is not speaker)
            if held and speaker.goes_on_with(held, text):
                self._settle_ended(speaker)  # it may go on with what they have held back
            text = speaker.without_repetition(text, self.text)
        elif last and speaker.text.endswith(text):  # a new piece, or one that is listed again
            speaker.held, text = text, ""
        if text:
            if self._waiting:
                self._settle_ended(speaker)
            self._say(speaker, text)
        elif speaker not in self._waiting:
            self._waiting.append(speaker)

    def end_node(self, step_id: str) -> None:
        """A node has ended."""
        if speaker := self._speakers.get(step_id):
            speaker.ended = True

    def _repeatable(self, role: AnswerRole) -> list[_Speaker]:
        """Return what a node may repeat: all that was said, or what one source said."""
        sources = [each for each in self._speakers.values() if each.role == "source"]
        if role == "source" or not (self._with_outputs and (sources or role == "end")):
            return []
        return [self._all, *sources] if self._pieces else []

    def _settle_ended(self, speaker: _Speaker) -> None:
        """Before a node speaks, say what those that ended before it have held back."""
        for other in self._waiting:
            if other.ended and other is not speaker:
                self._say(other, other.settle())
        self._waiting = [other for other in self._waiting if other.waits]

    def _say(self, speaker: _Speaker, text: str) -> None:
        speaker.pieces.append(text)
        if speaker.role == "end" or self._with_outputs:
            self._emit(text)

    def _emit(self, text: str, *, last: bool = False) -> None:
        if text := self._buffer.push(text, last=last):
            if not self._pieces:
                self.first_token_ms = self._clock()
            self._pieces.append(text)
            self._events.append(TextDelta(text))

    def finish(self, final: str, *, is_workflow: bool) -> None:
        """Add what the frame that ends the run adds.

        Args:
            final: Its text.
            is_workflow: Whether `final` is the whole text; an agent's is its last delta.
        """
        by_nodes = self._channel != "text"
        outputs, end = self._parts()
        if not (by_nodes or self._pieces):  # `output.text` did not stream what nodes said
            by_nodes = True
            self._emit("".join(outputs) if self._with_outputs else "")
        if not (final and is_workflow):
            self._settle()
            self._emit(final, last=True)
            return
        self._buffer.reset()  # the last frame repeats the whole text
        streamed, final = self.text, repair_surrogates(final)
        if not self._with_outputs and not streamed:  # the End node's part alone, if it has one
            final = final[_size_of(final, outputs) :].lstrip() or final
        if final.startswith(streamed):
            self._emit(final[len(streamed) :], last=True)
            return
        added = self._add_rest(final, outputs, end) if by_nodes else ""
        text, (outputs, end) = self.text, self._parts()
        if self._with_outputs:  # it may be the End node's alone
            alone = (_squeezed(said + added) for said in (end, "".join(self._end)))
            agrees = text.endswith(final) and not _size_of(final, outputs)
            agrees = agrees and _squeezed(final) in alone
        else:
            rest = final.removesuffix(text)
            agrees = rest != final and len(_squeezed(rest)) == len(_squeezed("".join(outputs)))
        self.final_text = None if agrees else final

    def _add_rest(self, final: str, outputs: list[str], end: str) -> str:
        """Add and return what a final text has beyond its nodes': all that, or the End node's."""
        size = _size_of(final, [*outputs, end])
        if not size and end and final.startswith(end):
            size = len(end)
        if not size:  # it decides nothing about what was held back
            self._settle()
            outputs, end = self._parts()
            if end:
                size = len(end) if final.startswith(end) else len(final)
            elif self._with_outputs and _says_again(final, outputs):
                size = len(final)  # in another order or with other spaces: nothing new
        self._emit(final[size:], last=True)
        return final[size:]

    def _settle(self) -> None:
        for speaker in self._waiting:
            self._say(speaker, speaker.settle())

    def _parts(self) -> tuple[list[str], str]:
        """Return what each Output node and the End node say of the answer."""
        speakers = self._speakers.values()
        outputs = [speaker.text for speaker in speakers if speaker.role != "end"]
        return outputs, "".join(speaker.text for speaker in speakers if speaker.role == "end")


def _says_again(final: str, outputs: list[str]) -> bool:
    """Whether a final text has nothing but what Output nodes said, or says all of that again."""
    parts = [words for part in outputs if (words := _squeezed(part))]
    squeezed = _squeezed(final)
    exact = _size_of(final, outputs)
    return (
        bool(parts)
        and not exact
        and (squeezed in "".join(parts) or all(part in squeezed for part in parts))
    )


def _squeezed(text: str) -> str:
    """Return a text without white space."""
    return "".join(text.split())


def _size_of(final: str, parts: list[str]) -> int:
    """Return how long these parts are at the head of a final text, with the white space between.

    It is 0 if they are not there.
    """
    at = 0
    for part in parts:
        if words := part.strip():
            at = _space_end(final, at)
            if not final.startswith(words, at):
                return 0
            at += len(words)
            space = part[len(part.rstrip()) :]
            at += len(space) if final.startswith(space, at) else 0
    return at


def _space_end(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return start if found is None else found.end()
