"""Citation marks and think tags in a text that comes in pieces."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailian_apps.core.answer_text import AnswerFilter, replace_citation_marks
from bailian_apps.core.events import (
    AppEvent,
    ReasoningDelta,
    StepFinished,
    StepStarted,
    TextDelta,
    UsageReported,
    fold,
)
from bailian_apps.core.result import AppResult, Step, Usage

MARK = re.compile(r"<ref>\[\d+\]</ref>")
PARTS = ["<ref>[1]</ref>", "<ref>[12]</ref>", "<think>", "</think>", "<ref>", "</", "<", "a", "[1]"]
TEXTS = st.lists(st.sampled_from([*PARTS, " ", "\n", "好"]), max_size=10).map("".join)
SETTINGS: list[dict[str, Any]] = [
    {"citation_marks": marks, "think_tags": tags}
    for marks in ("keep", "strip")
    for tags in ("keep", "reasoning")
]


def filtered(pieces: list[str], **settings: Any) -> list[AppEvent]:
    answer = AnswerFilter(**settings)
    events = [event for piece in pieces for event in answer.feed([TextDelta(piece)])]
    return events + answer.feed([], last=True)


def total(events: list[AppEvent]) -> AppResult:
    return reduce(fold, events, AppResult(finish_reason="stop"))


@st.composite
def pieces_of(draw: st.DrawFn) -> list[str]:
    text = draw(TEXTS)
    cuts = sorted(draw(st.sets(st.integers(0, len(text)))))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: "-".join(each.values()))
@given(pieces=pieces_of())
def test_what_comes_out_does_not_depend_on_the_pieces(
    settings: dict[str, Any], pieces: list[str]
) -> None:
    read = total(filtered(pieces, **settings))
    assert read == total(filtered(["".join(pieces)], **settings))
    whole = AppResult(text="".join(pieces), finish_reason="stop")
    assert AnswerFilter(**settings).result(whole) == read


@given(st.lists(st.sampled_from([*PARTS[2:], "b", "step"]), max_size=12))
def test_a_result_has_thoughts_and_steps_in_the_order_of_the_events(parts: list[str]) -> None:
    events: list[AppEvent] = []
    for number, part in enumerate(parts):
        if part != "step":
            events.append(TextDelta(part))
            continue
        step = Step(id=str(number), kind="reasoning", name="reasoning", status="executing")
        finished = replace(step, status="success", reasoning=f"{number} ")
        events += [StepStarted(step), ReasoningDelta(f"{number} ", step.id), StepFinished(finished)]
    answer = AnswerFilter(think_tags="reasoning")
    streamed = [new for event in events for new in answer.feed([event])]
    read = total(streamed + answer.feed([], last=True))
    assert answer.result(total(events)) == read


@given(pieces_of())
def test_kept_text_is_the_same_and_no_mark_is_divided(pieces: list[str]) -> None:
    texts = [event.text for event in filtered(pieces) if isinstance(event, TextDelta)]
    whole = "".join(pieces)
    assert "".join(texts) == whole
    assert [mark for text in texts for mark in MARK.findall(text)] == MARK.findall(whole)


@given(pieces_of())
def test_a_stripped_text_is_what_stood_around_the_marks(pieces: list[str]) -> None:
    read = total(filtered(pieces, citation_marks="strip"))
    assert read.text == MARK.sub("", "".join(pieces))


@given(st.text("<ref>[1]/ a", max_size=30))
def test_no_text_is_lost_where_something_only_looks_like_a_mark(text: str) -> None:
    assert total(filtered(list(text))).text == text


def test_text_that_is_no_mark_is_held_back_no_longer_than_needed() -> None:
    answer = AnswerFilter()
    assert answer.feed([TextDelta("1 <")]) == [TextDelta("1 ")]
    assert answer.feed([TextDelta(" 2")]) == [TextDelta("< 2")]
    assert answer.feed([TextDelta("<ref>" + "1" * 65)]) == [TextDelta("<ref>" + "1" * 65)]
    assert answer.feed([TextDelta("<re")]) == []
    assert answer.feed([], last=True) == [TextDelta("<re")]


def test_events_without_text_pass_unchanged() -> None:
    events: list[AppEvent] = [UsageReported(Usage()), TextDelta("a")]
    assert AnswerFilter().feed(events) is events


def test_a_mark_may_hold_several_numbers() -> None:
    text = "a<ref>[1][2]</ref>b<ref>[3, 4]</ref>c"
    assert total(filtered(list(text), citation_marks="strip")).text == "abc"
    assert replace_citation_marks(text, lambda n: f"^{n}") == "a^1^2b^3^4c"


def test_marks_are_rendered_by_a_function_and_other_brackets_stay() -> None:
    text = "tea<ref>[1]</ref>, list[1], <ref>none</ref>"
    links = {"1": "https://docs"}
    rendered = replace_citation_marks(text, lambda n: f"[{n}]({links[n]})")
    assert rendered == "tea[1](https://docs), list[1], <ref>none</ref>"


def test_thoughts_become_a_step_with_its_reasoning() -> None:
    events = filtered(
        ["<th", "ink>\nwhy", " so</thi", "nk>\n\nThe", " answer\n"], think_tags="reasoning"
    )
    assert [type(event) for event in events] == [
        StepStarted, ReasoningDelta, ReasoningDelta, StepFinished, TextDelta, TextDelta
    ]  # fmt: skip
    read = total(events)
    assert (read.reasoning, read.text) == ("why so", "The answer\n")
    [step] = read.steps
    assert (step.kind, step.status, step.reasoning) == ("reasoning", "success", "why so")


def test_each_thought_is_a_step_of_its_own_and_an_empty_one_is_none() -> None:
    text = "<think>\n\n</think>\n\nOne<think>two</think>\n\nThree<think>four</think>"
    read = total(filtered([text], think_tags="reasoning"))
    assert read.text == "One\n\nThree"  # line breaks inside the answer are its own
    assert [(step.id, step.reasoning) for step in read.steps] == [
        ("think", "two"),
        ("think#2", "four"),
    ]


def test_a_thought_that_is_not_closed_is_reasoning_to_the_end() -> None:
    read = total(filtered(["<think>on and ", "on </th"], think_tags="reasoning"))
    assert (read.text, read.reasoning) == ("", "on and on </th")
    assert [step.status for step in read.steps] == ["success"]
    interrupted = AnswerFilter(think_tags="reasoning").result(AppResult(text="<think>on"))
    assert [step.status for step in interrupted.steps] == ["executing"]


def test_a_tag_that_opens_or_closes_nothing_is_text() -> None:
    read = total(filtered(["a</think>b<think>c<think>d</think>e"], think_tags="reasoning"))
    assert (read.text, read.reasoning) == ("a</think>be", "c<think>d")


def test_tags_are_text_unless_the_setting_is_on() -> None:
    text = "<think>why</think>so"
    assert total(filtered(list(text))).text == text
    assert total(filtered(list(text), citation_marks="strip")).text == text
