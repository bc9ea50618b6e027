"""Citation marks and think tags in answers, through LangChain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.messages import HumanMessage

from bailian_apps import replace_citation_marks
from bailian_apps.emulator import Call
from bailian_apps.langchain import BailianAppRunnable, BailianAppTool

PIECES = ["<thi", "nk>Rain.</th", "ink>\n\nTake tea<re", "f>[1]</r", "ef>!"]
REFERENCE = {"index_id": "1", "title": "Tea", "doc_url": "https://tea", "text": "Tea is warm."}


def cut_up(call: Call) -> Iterator[dict[str, Any]]:
    for piece in PIECES:
        output = {"session_id": call.session_id, "finish_reason": "null", "text": piece}
        yield {"output": output, "request_id": "r"}
    output = {"session_id": call.session_id, "finish_reason": "stop", "doc_references": [REFERENCE]}
    yield {"output": output, "request_id": "r"}


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
