"""Apps that take only a prompt, through the LLM, the engines and the tool."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.memory import ChatMemoryBuffer

from bailian_apps import Client, HistoryTemplate
from bailian_apps.emulator import Call, Emulator, PromptOnly
from bailian_apps.llamaindex import (
    BailianAppChatEngine,
    BailianAppLLM,
    BailianAppQueryEngine,
)

HISTORY = [
    ChatMessage(role=MessageRole.SYSTEM, content="Be kind."),
    ChatMessage(role=MessageRole.USER, content="I am Mei."),
    ChatMessage(role=MessageRole.ASSISTANT, content="Hello."),
    ChatMessage(role=MessageRole.USER, content="Who am I?"),
]
PROMPT = HistoryTemplate().fold([(each.role.value, each.content or "") for each in HISTORY])


def echo(call: Call) -> str:
    return call.prompt


def fields_of(cloud: Emulator, **fields: Any) -> dict[str, Any]:
    settings = {"app_id": "app", "api_key": "k", "base_url": cloud.base_url, "client": Client()}
    return settings | fields


def test_an_llm_asks_a_prompt_only_app_again_with_a_prompt(chat: Any) -> None:
    with Emulator(apps={"app": PromptOnly(echo)}) as cloud:
        llm = BailianAppLLM(**fields_of(cloud, max_retries=0))
        seen = chat(llm, HISTORY)
        assert (seen.text, seen.raw["attempts"], seen.raw["whole_history"]) == (PROMPT, 2, True)
        assert seen.raw["history_format"] == "prompt"
        again = chat(llm, [*HISTORY, seen.last.message, ChatMessage(content="And you?")])
        assert (again.text, again.raw["attempts"]) == ("And you?", 1)
        assert again.last.message.additional_kwargs["bailian"]["round"] == 2
        sent = [sorted(request.input) for request in cloud.requests]
        assert sent == [["messages"], ["prompt"], ["prompt", "session_id"]]


async def said(engine: BailianAppChatEngine, method: str, words: str) -> str:
    if method == "chat":
        return str(engine.chat(words))
    if method == "achat":
        return str(await engine.achat(words))
    if method == "stream_chat":
        return "".join(engine.stream_chat(words).response_gen)
    response = await engine.astream_chat(words)
    return "".join([delta async for delta in response.async_response_gen()])


@pytest.mark.parametrize("method", ["chat", "achat", "stream_chat", "astream_chat"])
@pytest.mark.parametrize("history_format", ["messages", "prompt"])
def test_the_system_prompt_of_a_chat_engine_is_sent_once(history_format: Any, method: str) -> None:
    with Emulator(apps={"app": PromptOnly(echo)}) as cloud:
        engine = BailianAppChatEngine.from_defaults(
            **fields_of(cloud, history_format=history_format),
            system_prompt="Be kind.",
            memory=ChatMemoryBuffer.from_defaults(token_limit=10_000),
        )

        async def main() -> list[str]:
            return [await said(engine, method, words) for words in ("one", "two", "three")]

        assert asyncio.run(main()) == ["系统：Be kind.\n\n用户：one", "two", "three"]
        assert len(cloud.requests) == (3 if history_format == "prompt" else 4)


def test_a_query_engine_sends_a_prompt_at_once() -> None:
    with Emulator(apps={"app": PromptOnly(echo)}) as cloud:
        fields = fields_of(cloud, history_mode="full")
        assert str(BailianAppQueryEngine.from_defaults(**fields).query("Who?")) == "Who?"
        [refused, answered] = cloud.requests
        assert (sorted(refused.input), sorted(answered.input)) == (["messages"], ["prompt"])
        cloud.reset()
        fields = fields_of(cloud, history_mode="full", history_format="prompt")
        engine = BailianAppQueryEngine.from_defaults(**fields)
        assert str(asyncio.run(engine.aquery("Who?"))) == "Who?"
        assert [sorted(request.input) for request in cloud.requests] == [["prompt"]]


def test_a_system_message_at_the_end_is_sent_as_the_users(chat: Any) -> None:
    with Emulator(apps={"app": lambda call: call.prompt}) as cloud:
        llm = BailianAppLLM(**fields_of(cloud))
        last = ChatMessage(role=MessageRole.SYSTEM, content="Answer now.")
        seen = chat(llm, [*HISTORY[:3], last])
        assert seen.text == "Answer now."
        roles = [message["role"] for message in cloud.requests[0].messages]
        assert roles == ["system", "user", "assistant", "user"]
