"""Citation marks and think tags in answers, through LlamaIndex."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock
from llama_index.core.memory import ChatMemoryBuffer
from support.thinking import cut_up, parallel, thinker

from bailian_apps.emulator import Emulator
from bailian_apps.llamaindex import BailianAppChatEngine, BailianAppQueryEngine

SETTINGS: dict[str, Any] = {"citation_marks": "strip", "think_tags": "reasoning"}


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


@pytest.mark.parametrize(
    ("app", "thoughts", "text"),
    [(thinker, ["one", "two", "three"], "ABC"), (parallel, ["one", "two"], "AB")],
    ids=["tags", "parallel nodes"],
)
def test_blocks_of_thoughts_have_the_order_of_the_stream(
    app: Any, thoughts: list[str], text: str, chat: Any, llm_of: Any
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        seen = chat(llm_of(cloud, think_tags="reasoning"))
    for response in seen.responses[-2:]:
        blocks = [b for b in response.message.blocks if isinstance(b, ThinkingBlock)]
        assert [block.content for block in blocks] == thoughts
    assert seen.text == text
    if chat.streams:
        assert seen.streamed_thinking == "".join(thoughts)
    assert seen.raw["reasoning"] == "".join(thoughts)
