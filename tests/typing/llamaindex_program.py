"""A program of a user of LlamaIndex, in which type checkers find nothing in strict mode."""

from __future__ import annotations

import asyncio

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.schema import NodeWithScore
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from bailian_apps import BailianApp, BailianError, Client
from bailian_apps.llamaindex import (
    BailianAppAgent,
    BailianAppChatEngine,
    BailianAppLLM,
    BailianAppQueryEngine,
    BailianAppRetriever,
    bailian_app_tool,
)


class Trip(BaseModel):
    city: str


class MyLLM(BailianAppLLM):
    tone: str = "kind"


def llm(base_url: str, client: Client) -> None:
    model = BailianAppLLM(
        app_id="a", api_key="k", base_url=base_url, context_window=9_000, client=client
    )
    history = [ChatMessage(content="hi")]
    response: ChatResponse = model.chat(history, session_id=None, temperature=0.1)
    completion: CompletionResponse = model.complete("hi", biz_params={"city": "Hangzhou"})
    for chunk in model.stream_chat([*history, response.message, *history], seed=1):
        print(chunk.delta)
    for part in model.stream_complete("hi", image_list=[b"\x89PNG\r\n\x1a\n0"]):
        print(part.delta)
    model.temperature = 0.5
    print(completion.text, MyLLM(app_id="a", api_key="k", base_url=base_url, tone="dry").tone)
    try:
        model.complete("fail", max_retries=0)
    except BailianError as error:
        again: bool = error.is_retryable
        print(error.code, again)


def others(base_url: str) -> None:
    app = BailianApp(app_id="json", api_key="k", base_url=base_url)
    engine = BailianAppQueryEngine.from_defaults(
        app_id="a", api_key="k", base_url=base_url, streaming=False, num_output=900
    )
    print(engine.query("hi"), BailianAppQueryEngine(app, output_schema=Trip).query("hi"))
    chat = BailianAppChatEngine.from_defaults(
        app_id="a",
        api_key="k",
        base_url=base_url,
        memory=ChatMemoryBuffer(token_limit=3_000),
        system_prompt="Be kind.",
        temperature=0.1,
    )
    print(chat.chat("hi", seed=1).response)
    for delta in chat.stream_chat("hi", thoughts=False).response_gen:
        print(delta)
    retriever = BailianAppRetriever.from_defaults(
        app_id="a", api_key="k", base_url=base_url, documents="cited", step_events=True
    )
    nodes: list[NodeWithScore] = retriever.retrieve("hi")
    tool: FunctionTool = bailian_app_tool(
        app_id="a", api_key="k", base_url=base_url, name="t", description="d", params=Trip
    )
    print(nodes, tool.call(prompt="hi", city="Hangzhou").content)


async def later(base_url: str) -> ChatResponse:
    model = BailianAppLLM(app_id="a", api_key="k", base_url=base_url)
    await model.acomplete("hi", file_list=["https://example.com/a.pdf"])
    async for chunk in await model.astream_chat([ChatMessage(content="hi")], seed=1):
        print(chunk.delta)
    engine = BailianAppChatEngine(llm=model, memory=ChatMemoryBuffer(token_limit=3_000))
    print((await engine.achat("hi", seed=1)).response)
    agent = BailianAppAgent(
        app_id="a", api_key="k", base_url=base_url, name="guide", step_deltas=True, timeout=9
    )
    assert BailianAppAgent(llm=agent.llm, streaming=False).llm.app_id == "a"
    return await model.achat([ChatMessage(content="hi")], thoughts=False)


def main(base_url: str) -> None:
    with Client() as client:
        llm(base_url, client)
    others(base_url)
    print(asyncio.run(later(base_url)).message.content)
