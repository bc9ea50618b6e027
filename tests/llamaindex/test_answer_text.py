"""Citation marks and think tags in answers, through LlamaIndex."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer

from bailian_apps.emulator import Call, Emulator
from bailian_apps.llamaindex import BailianAppChatEngine, BailianAppQueryEngine

PIECES = ["<thi", "nk>Rain.</th", "ink>\n\nTake tea<re", "f>[1]</r", "ef>!"]
REFERENCE = {"index_id": "1", "title": "Tea", "doc_id": "d", "text": "Tea is warm."}
SETTINGS: dict[str, Any] = {"citation_marks": "strip", "think_tags": "reasoning"}


def cut_up(call: Call) -> Iterator[dict[str, Any]]:
    for piece in PIECES:
        output = {"session_id": call.session_id, "finish_reason": "null", "text": piece}
        yield {"output": output, "request_id": "r"}
    output = {"session_id": call.session_id, "finish_reason": "stop", "doc_references": [REFERENCE]}
    yield {"output": output, "request_id": "r"}


def test_a_stripped_answer_is_the_same_on_every_method(ask: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": cut_up}) as cloud:
        seen = ask(llm_of(cloud, **SETTINGS, message_blocks="all"))
    assert seen.text == "Take tea!"
    assert seen.raw["reasoning"] == "Rain."
    assert [each["index_id"] for each in seen.raw["references"]] == ["1"]
    if ask.streams:
        assert (seen.streamed_text, seen.streamed_thinking) == ("Take tea!", "Rain.")
    if ask.chats:
        assert (seen.thinking, seen.citations) == ("Rain.", ["Tea is warm."])


def test_the_next_turn_of_a_stripped_answer_continues_the_session(chat: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": cut_up}) as cloud:
        llm, history = llm_of(cloud, **SETTINGS), [ChatMessage(content="one")]
        history += [chat(llm, history).last.message, ChatMessage(content="two")]
        chat(llm, history)
        session_id = history[1].additional_kwargs["bailian"]["session_id"]
        assert cloud.requests[1].input == {"prompt": "two", "session_id": session_id}


def test_the_engines_filter_the_answer_too(llm_of: Any) -> None:
    with Emulator(apps={"app": cut_up}) as cloud:
        llm = llm_of(cloud, **SETTINGS)
        response = BailianAppQueryEngine(llm=llm).query("hi")
        assert str(response) == "Take tea!"
        assert response.source_nodes[0].node.get_content() == "Tea is warm."
        memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
        engine = BailianAppChatEngine(llm=llm, memory=memory)
        assert str(engine.chat("one")) == "Take tea!"
        assert "".join(engine.stream_chat("two").response_gen) == "Take tea!"
        assert cloud.requests[-1].session_id
