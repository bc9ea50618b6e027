"""Citation marks and think tags in answers of an app, on every path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support import recordings
from support.paths import PATHS, STREAMING

from bailian_apps import (
    BailianApp,
    ReasoningDelta,
    ServerError,
    TextDelta,
    replace_citation_marks,
)
from bailian_apps.emulator import Call, Emulator, Failure

PIECES = ["<thi", "nk>\nIt rai", "ns.</think", ">\n\nTake tea<re", "f>[", "1]</r", "ef>. 1 <", " 2"]
REFERENCE = {"index_id": "1", "title": "Tea", "doc_url": "https://tea", "text": "Tea is warm."}


def cut_up(call: Call) -> Iterator[dict[str, Any]]:
    """An agent whose frames divide every mark and tag."""
    for piece in PIECES:
        output = {"session_id": call.session_id, "finish_reason": "null", "text": piece}
        yield {"output": output, "request_id": "r"}
    output = {"session_id": call.session_id, "finish_reason": "stop", "doc_references": [REFERENCE]}
    yield {"output": output, "request_id": "r"}


def app_of(cloud: Emulator, **settings: Any) -> BailianApp:
    return BailianApp(app_id="app", api_key="sk-test", base_url=cloud.base_url, **settings)


@pytest.mark.parametrize("path", PATHS)
def test_marks_and_tags_stay_in_the_answer_by_default(path: str) -> None:
    with Emulator(apps={"app": cut_up}) as cloud:
        outcome = PATHS[path](app_of(cloud), "hi")
    assert outcome.result is not None
    assert outcome.text == outcome.result.text == "".join(PIECES)
    if path in STREAMING:
        texts = [event.text for event in outcome.events if isinstance(event, TextDelta)]
        assert any("<ref>[1]</ref>" in text for text in texts)


@pytest.mark.parametrize("path", PATHS)
def test_marks_are_stripped_and_thoughts_are_reasoning_when_asked(path: str) -> None:
    with Emulator(apps={"app": cut_up}) as cloud:
        app = app_of(cloud, citation_marks="strip")
        outcome = PATHS[path](app, "hi", think_tags="reasoning")
    assert outcome.result is not None
    assert outcome.text == outcome.result.text == "Take tea. 1 < 2"
    assert outcome.result.reasoning == "It rains."
    assert [step.kind for step in outcome.result.steps] == ["reasoning"]
    assert [each.index_id for each in outcome.result.references] == ["1"]
    if path in STREAMING:
        thoughts = [event for event in outcome.events if isinstance(event, ReasoningDelta)]
        assert "".join(event.text for event in thoughts) == "It rains."


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ends", ["stop", "error"])
def test_thoughts_and_steps_stand_in_the_order_of_the_stream(path: str, ends: str) -> None:
    def thinker(call: Call) -> Iterator[Any]:
        for text, thought in (("<think>one</think>A", ""), ("", "two"), ("B<think>three", "")):
            thoughts = [{"action_type": "reasoning", "thought": thought}]
            yield {"output": {"session_id": "s", "text": text, "thoughts": thoughts}}
        if ends == "error":
            yield Failure(code="InternalError")
        else:
            yield {"output": {"session_id": "s", "finish_reason": "stop", "text": "</think>C"}}

    with Emulator(apps={"app": thinker}) as cloud:
        outcome = PATHS[path](app_of(cloud, think_tags="reasoning"), "hi")
    result = outcome.result if ends == "stop" else outcome.error and outcome.error.partial
    assert result is not None
    assert result.text == ("ABC" if ends == "stop" else "AB")
    assert result.reasoning == "onetwothree"
    assert [step.reasoning for step in result.steps if step.reasoning] == ["one", "two", "three"]
    if path in STREAMING:
        thoughts = [event.text for event in outcome.events if isinstance(event, ReasoningDelta)]
        assert "".join(thoughts) == result.reasoning


@pytest.mark.parametrize("path", PATHS)
def test_the_partial_result_of_a_broken_stream_is_filtered_too(path: str) -> None:
    def broken(call: Call) -> Iterator[Any]:
        yield from list(cut_up(call))[:-1]
        yield Failure(code="InternalError")

    with Emulator(apps={"app": broken}) as cloud:
        app = app_of(cloud, citation_marks="strip", think_tags="reasoning")
        error = PATHS[path](app, "hi").error
    assert isinstance(error, ServerError)
    assert error.partial is not None
    assert (error.partial.text, error.partial.reasoning) == ("Take tea. 1 < 2", "It rains.")


def test_the_recorded_answer_loses_its_marks_and_keeps_its_references() -> None:
    name = "agent-rag-citations.json"
    with Emulator(apps={"app": recordings.FOLDER / name}) as cloud:
        kept = app_of(cloud).invoke("hi")
        stripped = app_of(cloud, citation_marks="strip").invoke("hi")
    assert kept.text.count("<ref>[1]</ref>") == 2
    assert stripped.text == kept.text.replace("<ref>[1]</ref>", "")
    assert stripped.references == kept.references
    assert replace_citation_marks(kept.text, lambda n: "") == stripped.text


def test_marks_in_a_workflow_answer_that_the_last_frame_repeats() -> None:
    """The last frame's text is compared with what the cloud streamed, marks included."""

    def workflow(call: Call) -> Iterator[dict[str, Any]]:
        for text, reason in (("Tea<re", "null"), ("f>[1]</ref>", "null"), ("!", "stop")):
            node = {"nodeId": "End_1", "nodeType": "End", "nodeStatus": "executing"}
            node |= {"nodeResult": f'{{"result": "{text}"}}'}
            whole = "Tea<ref>[1]</ref>!" if reason == "stop" else ""
            output = {"session_id": "s", "finish_reason": reason, "text": whole}
            yield {
                "output": {**output, "thoughts": [{"response": json.dumps(node)}]},
                "request_id": "r",
            }

    with Emulator(apps={"app": workflow}) as cloud:
        outcome = PATHS["stream"](app_of(cloud, citation_marks="strip"), "hi")
    assert outcome.result is not None
    assert outcome.text == outcome.result.text == "Tea!"
    assert outcome.result.final_text is None


def test_a_final_text_that_contradicts_the_answer_stays_as_it_came() -> None:
    def workflow(call: Call) -> Iterator[dict[str, Any]]:
        node = {"nodeId": "End_1", "nodeType": "End", "nodeStatus": "executing"}
        node |= {"nodeResult": '{"result": "Tea<ref>[1]</ref>!"}'}
        for text, reason in (("", "null"), ("Rice<ref>[2]</ref>.", "stop")):
            output = {"session_id": "s", "finish_reason": reason, "text": text}
            thoughts = [] if text else [{"response": json.dumps(node)}]
            yield {"output": {**output, "thoughts": thoughts}, "request_id": "r"}

    with Emulator(apps={"app": workflow}) as cloud:
        result = app_of(cloud, citation_marks="strip").invoke("hi")
    assert (result.text, result.final_text) == ("Tea!", "Rice<ref>[2]</ref>.")
