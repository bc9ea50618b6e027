"""What an app says to its user: which nodes say it, and what the last frame adds. Pure.

A workflow's answer is what its Output nodes say, then what its End node says; `output.text` of the
last frame holds all of that, or the End node's part alone. No recording shows which: both are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from bailian_apps.core.events import AppEvent, TextDelta
from bailian_apps.core.modes import AnswerChannel, StreamMode
from bailian_apps.core.text import SurrogateBuffer, repair_surrogates

OutputNodes: TypeAlias = Literal["answer", "steps"]
"""Whether a workflow's Output nodes say a part of the answer, or are only steps."""

AnswerRole: TypeAlias = Literal["output", "end"]
"""The part that a node has in the answer."""

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
    if "output" in kind or (every_speaker and kind != "start"):
        return "output"
    if kind in _OTHER_TYPES or not is_text:
        return None
    named = any(word in name.casefold() for name in names for word in _OUTPUT_NAMES)
    return "output" if named else None


class Answer:
    """The text of one answer, as it streams.

    Attributes:
        final_text: The last frame's text, if it contradicts what streamed.
    """

    def __init__(self, events: list[AppEvent], mode: StreamMode, output_nodes: OutputNodes) -> None:
        """Start with no text.

        Args:
            events: Takes the text deltas.
            mode: How the app streams.
            output_nodes: Whether Output nodes say a part of the answer.
        """
        self.final_text: str | None = None
        self._events = events
        # Where the answer streams. If the mode leaves it open, the first channel with text decides.
        self._channel: AnswerChannel | None = mode.answer_channel
        self._with_outputs = output_nodes == "answer"
        self._pieces: list[str] = []
        self._buffer = SurrogateBuffer()
        self._said = ""  # what the Output nodes have said
        # How much of that the End node has repeated; None once it says something else.
        self._repeated: int | None = 0

    @property
    def text(self) -> str:
        """What has streamed."""
        return "".join(self._pieces)

    def add(self, channel: AnswerChannel, text: str) -> None:
        """Add a piece of `output.text`, or of what the End node says."""
        if self._channel is None:
            self._channel = channel
        if channel == self._channel:
            if self._said and channel == "node" and self._repeated is not None:
                text = self._without_repetition(text, self._repeated)
            self._emit(text)

    def add_node_piece(self, role: AnswerRole, text: str) -> None:
        """Add a piece of what a node says."""
        if role == "end":
            self.add("node", text)
        elif self._with_outputs:
            if self._channel is None:
                self._channel = "node"
            if self._channel == "node":
                self._said += text
                self._emit(text)

    def _without_repetition(self, text: str, repeated: int) -> str:
        """Hold back an End node's text for as long as it only repeats what Output nodes said.

        If it repeats all of that and goes on, only the rest is new. If it says something else, it
        is said whole. Until it is known, the last frame decides.
        """
        said = self._said
        if said.startswith(text, repeated):
            self._repeated = repeated + len(text)
            return ""
        self._repeated = None
        size = len(said) - repeated
        return text[size:] if text.startswith(said[repeated:]) else said[:repeated] + text

    def _emit(self, text: str, *, last: bool = False) -> None:
        if text := self._buffer.push(text, last=last):
            self._pieces.append(text)
            self._events.append(TextDelta(text))

    def finish(self, final: str, outputs: list[str], end: str, *, is_workflow: bool) -> None:
        """Add what the frame that ends the run adds.

        Args:
            final: Its text.
            outputs: What each Output node has said.
            end: What the End node has said.
            is_workflow: Whether `final` is the whole text; an agent's is its last delta.
        """
        by_nodes = self._channel != "text"
        if not (by_nodes or self._pieces):  # `output.text` did not stream what nodes said
            by_nodes, end = True, ""
            self._emit("".join(outputs) if self._with_outputs else "")
        if not (final and is_workflow):
            self._emit(final, last=True)
            return
        self._buffer.reset()  # the last frame repeats the whole text
        streamed, final = self.text, repair_surrogates(final)
        if not self._with_outputs and not streamed:  # the End node's part alone, if it has one
            final = final[_size_of(final, outputs) :].lstrip() or final
        if final.startswith(streamed):
            self._emit(final[len(streamed) :], last=True)
            return
        if by_nodes and not end and self._with_outputs and _says_again(final, outputs):
            self.final_text = final  # in another order or with other spaces: nothing new
            return
        if by_nodes:
            self._emit(_rest(final, outputs, "" if self._repeated else end), last=True)
        text = self.text
        if self._with_outputs:
            agrees = text.endswith(final) and not _size_of(final, outputs)  # the End node's alone
        else:
            agrees = bool(outputs) and final.endswith(text)
        self.final_text = None if agrees else final


def _rest(final: str, outputs: list[str], end: str) -> str:
    """Return what a final text adds to what its nodes said, all of it or the End node alone."""
    if size := _size_of(final, [*outputs, end]):
        return final[size:]
    return final[len(end) :] if final.startswith(end) else ""


def _says_again(final: str, outputs: list[str]) -> bool:
    """Whether a final text has nothing but what Output nodes said, or says all of that again."""
    parts = [words for part in outputs if (words := "".join(part.split()))]
    squeezed = "".join(final.split())
    exact = _size_of(final, outputs)
    return (
        bool(parts)
        and not exact
        and (squeezed in "".join(parts) or all(part in squeezed for part in parts))
    )


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
