"""LlamaIndex's own engines, memory and agents with an app as their LLM."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, Settings, VectorStoreIndex
from llama_index.core.agent.workflow import AgentStream, ReActAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import CondensePlusContextChatEngine, SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import create_async_engine
from support import recordings

from bailian_apps import BailianApp
from bailian_apps.emulator import Call, Emulator


def app(call: Call) -> str:
    return f"第{len(call.turns) + 1}轮"


@pytest.fixture(autouse=True)
def _llama_indexs_event_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """LlamaIndex's synchronous methods use the thread's event loop and leave generators open."""
    if inspect.iscoroutinefunction(request.function):
        yield
        return
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def index() -> VectorStoreIndex:
    documents = [Document(text="西湖在杭州。"), Document(text="外滩在上海。")]
    return VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=8))


def test_the_query_engine_of_an_index_answers(
    llm_of: Any, index: VectorStoreIndex, spans: Any
) -> None:
    with Emulator(apps={"app": lambda call: "在杭州"}) as cloud:
        response = index.as_query_engine(llm=llm_of(cloud)).query("西湖在哪里？")
        assert str(response) == "在杭州"
        assert "西湖在杭州。" in cloud.requests[0].prompt
        assert "西湖在哪里？" in cloud.requests[0].prompt
    names = [note.name for note in spans.notes]
    assert names.index("BailianAppLLM.chat") + 1 == names.index("BailianApp.run")


def test_the_chat_engine_of_an_index_answers(llm_of: Any, index: VectorStoreIndex) -> None:
    with Emulator(apps={"app": lambda call: "在杭州"}) as cloud:
        memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
        engine = index.as_chat_engine(chat_mode="context", llm=llm_of(cloud), memory=memory)
        assert str(engine.chat("西湖在哪里？")) == "在杭州"
        assert "".join(engine.stream_chat("外滩呢？").response_gen) == "在杭州"
        assert "西湖在杭州。" in str(cloud.requests[0].body)
        contents = [message["content"] for message in cloud.requests[1].messages]
        assert contents[-3:] == ["西湖在哪里？", "在杭州", "外滩呢？"]


async def test_the_query_engine_of_an_index_answers_async(
    llm_of: Any, index: VectorStoreIndex
) -> None:
    with Emulator(apps={"app": lambda call: "在杭州"}) as cloud:
        response = await index.as_query_engine(llm=llm_of(cloud)).aquery("西湖在哪里？")
        assert str(response) == "在杭州"


def test_the_query_engine_of_an_index_streams(llm_of: Any, index: VectorStoreIndex) -> None:
    with Emulator(apps={"app": lambda call: "西湖在杭州市西边"}) as cloud:
        engine = index.as_query_engine(llm=llm_of(cloud), streaming=True)
        deltas = [delta for delta in engine.query("西湖在哪里？").response_gen if delta]
    assert deltas == ["西湖在杭", "州市西边"]


async def test_the_query_engine_of_an_index_streams_async(
    llm_of: Any, index: VectorStoreIndex
) -> None:
    with Emulator(apps={"app": lambda call: "西湖在杭州市西边"}) as cloud:
        engine = index.as_query_engine(llm=llm_of(cloud), streaming=True)
        response: Any = await engine.aquery("西湖在哪里？")
        deltas = [delta async for delta in response.async_response_gen() if delta]
    assert "".join(deltas) == "西湖在杭州市西边"


def expect_one_session(cloud: Emulator, engine: SimpleChatEngine) -> None:
    assert [request.prompt for request in cloud.requests] == ["一", "二", "三"]
    answers = [message for message in engine.chat_history if message.role == "assistant"]
    sessions = {message.additional_kwargs["bailian"]["session_id"] for message in answers}
    assert [message.content for message in answers] == ["第1轮", "第2轮", "第3轮"]
    assert len(sessions) == 1
    assert [request.session_id for request in cloud.requests] == [None, *sessions, *sessions]


def test_the_simple_chat_engine_keeps_the_session(llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        engine = SimpleChatEngine.from_defaults(
            llm=llm_of(cloud), memory=ChatMemoryBuffer.from_defaults(token_limit=3000)
        )
        assert str(engine.chat("一")) == "第1轮"
        assert "".join(engine.stream_chat("二").response_gen) == "第2轮"
        assert str(engine.chat("三")) == "第3轮"
        expect_one_session(cloud, engine)


async def test_the_simple_chat_engine_keeps_the_session_async(llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        engine = SimpleChatEngine.from_defaults(
            llm=llm_of(cloud), memory=ChatMemoryBuffer.from_defaults(token_limit=3000)
        )
        assert str(await engine.achat("一")) == "第1轮"
        response = await engine.astream_chat("二")
        assert "".join([delta async for delta in response.async_response_gen()]) == "第2轮"
        assert str(await engine.achat("三")) == "第3轮"
        expect_one_session(cloud, engine)


async def test_a_database_keeps_the_conversation(llm_of: Any, tmp_path: Path) -> None:
    """Each turn has its own LLM and memory, as in two processes."""
    with Emulator(apps={"app": app}) as cloud:
        for turn, question in enumerate(["一", "二"], 1):
            engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/chat.db")
            memory = Memory.from_defaults("user-1", async_engine=engine)
            await memory.aput(ChatMessage(content=question))
            answer = await llm_of(cloud).achat(await memory.aget())
            assert answer.message.content == f"第{turn}轮"
            await memory.aput(answer.message)
            await engine.dispose()
        assert cloud.requests[1].prompt == "二"


def test_a_condense_step_does_not_join_the_conversation(
    llm_of: Any, index: VectorStoreIndex
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm = llm_of(cloud)
        engine = CondensePlusContextChatEngine.from_defaults(
            index.as_retriever(), llm=llm, memory=ChatMemoryBuffer.from_defaults(token_limit=3000)
        )
        engine.chat("一")
        engine.chat("二")
        condense = cloud.requests[1]
        assert (condense.session_id, condense.messages) == (None, [])
        assert cloud.requests[2].messages, "the engine drops markers, so all of it is sent"


class City(BaseModel):
    """A city."""

    name: str


def test_structured_output_is_parsed_from_the_answer(llm_of: Any) -> None:
    with Emulator(apps={"app": lambda call: '{"name": "杭州"}'}) as cloud:
        llm = llm_of(cloud)
        assert llm.structured_predict(City, PromptTemplate("哪里？")) == City(name="杭州")
        chosen = llm.as_structured_llm(City).chat([ChatMessage(content="哪里？")])
        assert chosen.raw == City(name="杭州")


async def test_structured_output_is_parsed_from_the_answer_async(llm_of: Any) -> None:
    with Emulator(apps={"app": lambda call: '{"name": "杭州"}'}) as cloud:
        llm = llm_of(cloud)
        assert await llm.astructured_predict(City, PromptTemplate("哪里？")) == City(name="杭州")
        response = await llm.as_structured_llm(City).acomplete("哪里？")
        assert response.raw == City(name="杭州")


def test_a_structured_query_engine_parses_the_answer(llm_of: Any, index: VectorStoreIndex) -> None:
    with Emulator(apps={"app": lambda call: '{"name": "杭州"}'}) as cloud:
        engine = index.as_query_engine(llm=llm_of(cloud).as_structured_llm(City))
        assert engine.query("西湖在哪里？").response == City(name="杭州")


def test_predict_formats_the_prompt_template(llm_of: Any) -> None:
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        assert llm_of(cloud).predict(PromptTemplate("{a}？"), a="甲") == "好"
        assert cloud.requests[0].prompt == "甲？"


def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: 晴"


# LlamaIndex's agents use deprecated parts of pydantic and of LlamaIndex's own workflows.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_react_agent_calls_its_tool(llm_of: Any) -> None:
    def agent_app(call: Call) -> Iterator[dict[str, Any]] | str:
        asked = str(call.messages or call.prompt)
        if "Observation: 杭州: 晴" in asked:
            return "Thought: I know. \nAnswer: 杭州今天晴"
        return 'Thought: I need it. \nAction: weather\nAction Input: {"city": "杭州"}'

    with Emulator(apps={"app": agent_app}) as cloud:
        agent = ReActAgent(tools=[weather], llm=llm_of(cloud))
        handler = agent.run("杭州天气？")
        streamed = [each async for each in handler.stream_events() if isinstance(each, AgentStream)]
        assert str(await handler) == "杭州今天晴"
    assert "".join(each.delta for each in streamed).count("Thought:") == 2
    assert [each.raw["finish_reason"] for each in streamed if each.raw] == ["stop", "stop"]


def test_reasoning_deltas_are_where_agents_read_them(by_method: Any, llm_of: Any) -> None:
    frames = [
        *recordings.frames("agent-deep-thinking-elided-head.sse"),
        {"output": {"text": "", "finish_reason": "stop"}},
    ]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        seen = by_method("stream_chat")(llm_of(cloud))
    deltas = [response.additional_kwargs.get("thinking_delta") for response in seen.responses]
    assert "".join(filter(None, deltas)) == seen.thinking != ""
    assert all(response.message.content is not None for response in seen.responses)


def test_token_counts_are_what_the_cloud_reported(ask: Any, llm_of: Any) -> None:
    name = "workflow-two-llm-fixed-end.sse"
    counter = TokenCountingHandler(tokenizer=str.split)
    with Emulator(apps={"app": recordings.FOLDER / name}) as cloud:
        reported = (
            BailianApp(app_id="app", api_key="k", base_url=cloud.base_url).invoke("你好").usage
        )
        assert ask(llm_of(cloud, callback_manager=CallbackManager([counter]))).error is None
    assert reported.input_tokens
    assert counter.prompt_llm_token_count == reported.input_tokens
    assert counter.completion_llm_token_count == reported.output_tokens
    assert len(counter.llm_token_counts) == 1


def test_the_llm_can_be_the_default_of_settings(
    llm_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        monkeypatch.setattr(Settings, "_llm", None)
        Settings.llm = llm_of(cloud)
        assert Settings.llm.complete("你好").text == "好"
