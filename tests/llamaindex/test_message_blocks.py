"""What the message of an answer has, and another LLM that reads it in one conversation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ThinkingBlock
from llama_index.core.memory import ChatMemoryBuffer
from support.model_server import ModelServer, says

from bailian_apps.emulator import Agent, Emulator, Thought
from bailian_apps.llamaindex import BailianAppChatEngine

openai_like = pytest.importorskip("llama_index.llms.openai_like")

APP = Agent(
    thoughts=[Thought(reasoning="The almanac knows.")],
    text="Take an umbrella<ref>[1]</ref>.",
    references=[{"title": "Almanac", "text": "It often rains."}],
)


@pytest.fixture
def completions() -> Iterator[ModelServer]:
    with ModelServer(lambda messages: says("Sure.")) as server:
        yield server


@pytest.fixture
def other(completions: Any) -> Any:
    return openai_like.OpenAILike(
        model="m", api_base=completions.base_url, api_key="k", is_chat_model=True, max_retries=0
    )


def asked_of(completions: Any) -> list[tuple[str, str]]:
    [body] = completions.bodies
    return [(message["role"], message["content"]) for message in body["messages"]]


ASKED = [
    ("user", "What shall I take?"),
    ("assistant", "Take an umbrella<ref>[1]</ref>."),
    ("user", "Are you sure?"),
]


@pytest.mark.parametrize("fields", [{}, {"message_blocks": "text"}])
def test_another_llm_reads_an_answer_with_reasoning_and_citations(
    chat: Any, llm_of: Any, other: Any, completions: Any, fields: Any
) -> None:
    with Emulator(apps={"app": APP}) as cloud:
        seen = chat(llm_of(cloud, **fields), ASKED[0][1])
    kinds = [TextBlock] if fields else [ThinkingBlock, TextBlock]
    assert [type(block) for block in seen.last.message.blocks] == kinds
    assert all(
        not hasattr(block, "cited_content") for r in seen.responses for block in r.message.blocks
    )
    assert [each["title"] for each in seen.raw["references"]] == ["Almanac"]
    assert seen.raw["reasoning"] == "The almanac knows."
    if chat.streams:
        assert seen.streamed_thinking == "The almanac knows."
    history = [
        ChatMessage(content=ASKED[0][1]),
        seen.last.message,
        ChatMessage(content=ASKED[2][1]),
    ]
    assert other.chat(history).message.content == "Sure."
    assert asked_of(completions) == ASKED


@pytest.mark.parametrize("streaming", [False, True])
def test_another_llm_reads_the_memory_of_a_chat_engine_and_the_app_goes_on(
    llm_of: Any, other: Any, completions: Any, streaming: bool
) -> None:
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
    with Emulator(apps={"app": APP}) as cloud:
        engine = BailianAppChatEngine(llm=llm_of(cloud), memory=memory)
        if streaming:
            response: Any = engine.stream_chat(ASKED[0][1])
            assert list(response.response_gen)
        else:
            response = engine.chat(ASKED[0][1])
        assert [node.get_content() for node in response.source_nodes] == ["It often rains."]
        memory.put(ChatMessage(content=ASKED[2][1]))
        memory.put(other.chat(memory.get()).message)
        assert asked_of(completions) == ASKED
        assert str(engine.chat("And a coat?")) == APP.text
        sent = [message["content"] for message in cloud.requests[-1].messages]
        assert sent == [*(text for _, text in ASKED), "Sure.", "And a coat?"]


def test_on_request_the_message_has_citations(chat: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": APP}) as cloud:
        seen = chat(llm_of(cloud, message_blocks="all"))
    assert seen.citations == ["It often rains."]
    if chat.streams:
        shown = [
            r for r in seen.responses if any(hasattr(b, "cited_content") for b in r.message.blocks)
        ]
        assert seen.last in shown
