"""`coalesce_deltas`: fewer events, and nothing else is different."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.events import rows

from bailian_apps.core.events import (
    AppEvent,
    ReasoningDelta,
    References,
    StepDelta,
    StepFinished,
    StepStarted,
    TextDelta,
    UsageReported,
    coalesce_deltas,
)
from bailian_apps.core.result import Step, Usage

STEPS = st.sampled_from("ab")
TEXTS = st.text("xyz", min_size=1, max_size=2)
BORDERS: list[AppEvent] = [
    StepStarted(Step(id="a", kind="node", name="a")),
    StepFinished(Step(id="a", kind="node", name="a")),
    References(()),
    UsageReported(Usage()),
]
EVENTS: Any = st.lists(
    st.one_of(
        st.builds(TextDelta, TEXTS),
        st.builds(ReasoningDelta, TEXTS, STEPS),
        st.builds(StepDelta, STEPS, TEXTS),
        st.sampled_from(BORDERS),
    ),
    max_size=12,
)


@given(EVENTS)
def test_the_same_is_told_in_the_same_order(events: list[AppEvent]) -> None:
    merged = coalesce_deltas(events)
    assert rows(merged) == rows(events)
    assert coalesce_deltas(merged) == merged
    assert [each for each in merged if each in BORDERS] == [
        each for each in events if each in BORDERS
    ]
    for one, other in pairwise(merged):
        same = (type(one), getattr(one, "step_id", None)) == (
            type(other),
            getattr(other, "step_id", None),
        )
        assert not (same and hasattr(one, "text")), "neighbours that could be one"


def test_an_end_nodes_output_and_the_answer_are_one_event_each() -> None:
    pieces = [each for text in "西湖醋鱼" for each in (StepDelta("End", text), TextDelta(text))]
    assert coalesce_deltas(pieces) == [StepDelta("End", "西湖醋鱼"), TextDelta("西湖醋鱼")]


def test_reasoning_and_text_do_not_pass_each_other() -> None:
    events: list[AppEvent] = [TextDelta("a"), ReasoningDelta("b", "s"), TextDelta("c")]
    assert coalesce_deltas(events) == events
