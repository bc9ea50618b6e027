"""`ReasoningQueue`: parallel reasoning as one text."""

from __future__ import annotations

from bailian_apps import AppEvent, ReasoningDelta, Step, StepDelta, StepFinished
from bailian_apps.core.reasoning import ReasoningQueue


def ended(step_id: str) -> StepFinished:
    return StepFinished(Step(id=step_id, kind="node", name=step_id))


def read(*events: AppEvent) -> list[list[tuple[int, str]]]:
    queue = ReasoningQueue()
    return [[(piece.number, piece.text) for piece in queue.feed(event)] for event in events]


def test_one_steps_reasoning_is_passed_on_at_once() -> None:
    assert read(ReasoningDelta("a", "A"), ReasoningDelta("b", "A")) == [[(0, "a")], [(0, "b")]]


def test_another_steps_waits_until_the_first_speaks() -> None:
    assert read(
        ReasoningDelta("a", "A"),
        ReasoningDelta("x", "B"),
        ReasoningDelta("b", "A"),
        ReasoningDelta("y", "B"),
        StepDelta("A", "said"),
        ReasoningDelta("z", "B"),
    ) == [[(0, "a")], [], [(0, "b")], [], [(1, "xy")], [(1, "z")]]


def test_a_step_that_ended_while_it_waited_does_not_hold_up_the_next() -> None:
    assert read(
        ReasoningDelta("a", "A"),
        ReasoningDelta("x", "B"),
        ReasoningDelta("m", "C"),
        ended("B"),
        ended("A"),
        ReasoningDelta("n", "C"),
    ) == [[(0, "a")], [], [], [], [(1, "x"), (2, "m")], [(2, "n")]]


def test_a_step_that_thinks_again_is_still_the_same() -> None:
    assert read(
        ReasoningDelta("a", "A"),
        StepDelta("A", "said"),
        ReasoningDelta("b", "A"),
        ended("A"),
        ReasoningDelta("x", "B"),
    ) == [[(0, "a")], [], [(0, "b")], [], [(1, "x")]]


def test_a_step_that_thinks_again_after_another_keeps_its_number_in_a_new_part() -> None:
    queue = ReasoningQueue()
    events = [
        ReasoningDelta("a", "A"),
        StepDelta("A", "said"),
        ReasoningDelta("x", "B"),
        StepDelta("B", "said"),
        ReasoningDelta("b", "A"),
        ReasoningDelta("y", "B"),
        ended("A"),
        ended("B"),
    ]
    assert [tuple(piece) for event in events for piece in queue.feed(event)] == [
        *((0, "a", 0), (1, "x", 1), (0, "b", 2), (1, "y", 3))
    ]
