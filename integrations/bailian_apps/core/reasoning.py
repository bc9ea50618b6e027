"""The reasoning of several steps as one text. Pure."""

from __future__ import annotations

from typing import NamedTuple

from bailian_apps.core.events import AppEvent, ReasoningDelta, StepDelta, StepFinished


class ReasoningPiece(NamedTuple):
    """A piece of the reasoning of one step.

    `number` counts the steps that think, from 0. `part` counts the stretches of reasoning: a step
    that thinks again after another one has its own number again, but a new part.
    """

    number: int
    text: str
    part: int


class ReasoningQueue:
    """Puts the reasoning of steps that think at the same time one after the other.

    Whoever joins the deltas as they come would read it spliced. So the first step's is passed on at
    once, and that of the others waits until the first one speaks or ends.
    """

    def __init__(self) -> None:
        """Start without reasoning."""
        self._current: str | None = None  # the step whose reasoning is passed on
        self._numbers: dict[str, int] = {}  # of the steps that think
        self._number = -1  # of the newest piece
        self._part = -1
        self._waiting: dict[str, list[str]] = {}
        self._over: set[str] = set()  # of those waiting

    def feed(self, event: AppEvent) -> list[ReasoningPiece]:
        """Take the next event of the run; return what can be read now."""
        if isinstance(event, ReasoningDelta):
            if self._current is None:
                self._begin(event.step_id)
            if event.step_id == self._current:
                return [ReasoningPiece(self._number, event.text, self._part)]
            self._waiting.setdefault(event.step_id, []).append(event.text)
        elif isinstance(event, (StepDelta, StepFinished)):
            step_id = event.step_id if isinstance(event, StepDelta) else event.step.id
            if step_id == self._current:
                self._current = None
                return self._release()
            if step_id in self._waiting:
                self._over.add(step_id)
        return []

    def _begin(self, step_id: str) -> None:
        self._current = step_id
        number = self._numbers.setdefault(step_id, len(self._numbers))
        if number != self._number:
            self._number = number
            self._part += 1

    def _release(self) -> list[ReasoningPiece]:
        released: list[ReasoningPiece] = []
        while self._waiting and self._current is None:
            step_id = next(iter(self._waiting))
            self._begin(step_id)
            text = "".join(self._waiting.pop(step_id))
            released.append(ReasoningPiece(self._number, text, self._part))
            if step_id in self._over:
                self._over.remove(step_id)
                self._current = None
        return released
