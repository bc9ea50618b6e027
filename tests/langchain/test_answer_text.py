"""Citation marks and think tags in answers, through LangChain."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from support.thinking import cut_up, parallel, thinker

from bailian_apps import replace_citation_marks
from bailian_apps.langchain import BailianAppRunnable, BailianAppTool


def test_a_stripped_answer_is_the_same_on_every_path_and_cites(make_model: Any, ask: Any) -> None:
    answer = ask(make_model(cut_up, citation_marks="strip", think_tags="reasoning"))
    assert answer.text == "Take tea!"
    blocks = {block["type"]: block for block in answer.content_blocks}
    assert blocks["reasoning"]["reasoning"] == "Rain."
    assert blocks["text"]["annotations"][0]["extras"]["index_id"] == "1"
    assert "steps" not in answer.additional_kwargs  # reasoning is no step of the message


def test_the_next_turn_of_a_stripped_answer_continues_the_session(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    cloud = start_cloud(app=cut_up)
    model = make_model(cloud, citation_marks="strip", think_tags="reasoning")
    messages: list[Any] = [HumanMessage("one")]
    messages += [ask(model, messages), HumanMessage("two")]
    ask(model, messages)
    session_id = messages[1].response_metadata["session_id"]
    assert cloud.requests[1].input == {"prompt": "two", "session_id": session_id}


def test_a_mark_is_in_one_chunk_so_that_each_can_be_rendered(make_model: Any) -> None:
    chunks = [chunk.text for chunk in make_model(cut_up).stream("hi")]
    rendered = [replace_citation_marks(text, lambda n: f"[^{n}]") for text in chunks]
    assert "".join(rendered) == "<think>Rain.</think>\n\nTake tea[^1]!"


def test_the_runnable_and_the_tool_filter_the_answer_too(fields_of: Any) -> None:
    fields = fields_of(cut_up, citation_marks="strip", think_tags="reasoning")
    *_, last = BailianAppRunnable(**fields).stream("hi")
    assert (last.text, last.reasoning) == ("Take tea!", "Rain.")
    assert BailianAppTool(name="tea", description="Knows tea.", **fields).invoke("hi") == last.text


@pytest.mark.parametrize(
    ("app", "thoughts", "text"),
    [(thinker, ["one", "two", "three"], "ABC"), (parallel, ["one", "two"], "AB")],
    ids=["tags", "parallel nodes"],
)
def test_blocks_of_thoughts_have_the_order_of_the_stream(
    app: Any, thoughts: list[str], text: str, make_model: Any, ask: Any
) -> None:
    answer = ask(make_model(app, think_tags="reasoning"))
    blocks = [b["reasoning"] for b in answer.content_blocks if b["type"] == "reasoning"]
    assert (blocks, answer.text) == (thoughts, text)
    assert answer.additional_kwargs["reasoning_content"] == "".join(thoughts)


def test_a_runnables_growing_results_have_the_order_of_the_last(fields_of: Any) -> None:
    app = BailianAppRunnable(**fields_of(thinker, think_tags="reasoning"))
    *_, growing, last = app.stream("hi")
    assert (
        (growing.reasoning, growing.text) == (last.reasoning, last.text) == ("onetwothree", "ABC")
    )
    assert [step.id for step in growing.steps] == [step.id for step in last.steps]
    assert app.invoke("hi").steps == last.steps
