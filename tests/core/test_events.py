"""Events as fewer events, and as a result that grows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import recordings
from support.events import rows

from bailian_apps.core.decoder import Decoder
from bailian_apps.core.events import (
    AppEvent,
    ReasoningDelta,
    References,
    RunFinished,
    RunStarted,
    StepDelta,
    StepFinished,
    StepStarted,
    TextDelta,
    UnknownFrame,
    UsageReported,
    coalesce_deltas,
    fold,
)
from bailian_apps.core.result import AppResult, Step, Usage

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
def test_merged_events_say_the_same_in_the_same_order(events: list[AppEvent]) -> None:
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


def test_reasoning_and_text_keep_their_order() -> None:
    events: list[AppEvent] = [TextDelta("a"), ReasoningDelta("b", "s"), TextDelta("c")]
    assert coalesce_deltas(events) == events


@pytest.mark.parametrize("name", [path.name for path in recordings.ALL])
def test_the_folded_events_of_a_run_are_its_partial_result(name: str) -> None:
    decoder, result = Decoder(flow_stream_mode=recordings.MODES.get(name)), AppResult()
    for frame in recordings.frames(name):
        for event in decoder.feed(frame):
            result = fold(result, event)
        whole = decoder.partial()
        assert (result.text, result.reasoning) == (whole.text, whole.reasoning)
        assert result.reasoning_steps == whole.reasoning_steps
        assert result.references == whole.references
        assert [(s.id, s.output) for s in result.steps] == [(s.id, s.output) for s in whole.steps]


def test_an_event_that_adds_nothing_leaves_the_result_alone() -> None:
    result = AppResult(text="a")
    assert fold(result, UnknownFrame(1)) is result
    assert fold(result, RunFinished(AppResult(text="b"))).text == "b"
    started = fold(result, RunStarted("s", "r"))
    assert (started.text, started.session_id, started.request_id) == ("a", "s", "r")


def test_a_step_that_finished_replaces_the_one_that_began() -> None:
    begun, other = (Step(id=each, kind="node", name=each) for each in "ab")
    ended = replace(begun, status="fail", error="boom", duration_ms=5.0)
    result = AppResult()
    for event in (StepStarted(begun), StepStarted(other), StepFinished(ended)):
        result = fold(result, event)
    assert result.steps == (ended, other)


@pytest.mark.parametrize("event_type", get_args(AppEvent), ids=lambda each: each.__name__)
def test_the_kind_of_an_event_is_the_name_of_its_class(event_type: Any) -> None:
    assert event_type.kind.replace("_", "") == event_type.__name__.lower()
    assert event_type.kind.count("_") == sum(map(str.isupper, event_type.__name__)) - 1
