"""What LlamaIndex's own code asks of an LLM: objects, agents that think or stop early, reports."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentStream, CodeActAgent, ReActAgent
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ThinkingBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMCompletionEndEvent
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program import LLMTextCompletionProgram
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from pydantic import BaseModel
from support import recordings

from bailian_apps import InvalidInputError
from bailian_apps.emulator import Agent, Call, Emulator, Thought
from bailian_apps.llamaindex import BailianAppLLM, BailianAppRetriever

# LlamaIndex's agents and structured LLMs use deprecated parts of pydantic and of its own workflows.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PIECES = ('{"city": "Hang', 'zhou", "sights": ["West ', 'Lake", "Lingyin"]}')
PROMPT = PromptTemplate("Plan a day in {city}")

# In older versions, programs for LLMs without function calling do not stream.
streams_objects = pytest.mark.skipif(
    "stream_call" not in vars(LLMTextCompletionProgram), reason="this core streams no objects"
)


class Plan(BaseModel):
    """A plan for a day."""

    city: str
    sights: list[str] = []


PLAN = Plan(city="Hangzhou", sights=["West Lake", "Lingyin"])


def planner(call: Call) -> Iterator[dict[str, Any]]:
    for piece in PIECES:
        yield {"text": piece, "finish_reason": "null"}
    yield {"text": "", "finish_reason": "stop"}


@pytest.fixture
def llm(llm_of: Any) -> Iterator[BailianAppLLM]:
    with Emulator(apps={"app": planner}) as cloud:
        yield llm_of(cloud)
        schemas = [str(request.input) for request in cloud.requests]
        assert schemas, "the app was asked"
        assert all("sights" in each for each in schemas), "the schema is in the prompt"


def read(answer: Any) -> list[Any]:
    """The values of an answer: a coroutine, a generator, both, or a value."""

    async def read_async() -> list[Any]:
        value = await answer
        return [each async for each in value] if hasattr(value, "__aiter__") else [value]

    if inspect.iscoroutine(answer):
        return asyncio.run(read_async())
    return list(answer) if hasattr(answer, "__next__") else [answer]


def program(llm: BailianAppLLM) -> Any:
    return LLMTextCompletionProgram.from_defaults(output_cls=Plan, prompt=PROMPT, llm=llm)


ASKED = [ChatMessage(content="Plan a day")]
WHOLE = {
    "structured_predict": lambda llm: llm.structured_predict(Plan, PROMPT, city="x"),
    "astructured_predict": lambda llm: llm.astructured_predict(Plan, PROMPT, city="x"),
    "program": lambda llm: program(llm)(city="x"),
    "async program": lambda llm: program(llm).acall(city="x"),
    "structured chat": lambda llm: llm.as_structured_llm(Plan).chat(ASKED),
    "structured achat": lambda llm: llm.as_structured_llm(Plan).achat(ASKED),
    "structured complete": lambda llm: llm.as_structured_llm(Plan).complete("Plan a day"),
    "structured acomplete": lambda llm: llm.as_structured_llm(Plan).acomplete("Plan a day"),
}
STREAMED = {
    "stream_structured_predict": lambda llm: llm.stream_structured_predict(Plan, PROMPT, city="x"),
    "astream_structured_predict": lambda llm: llm.astream_structured_predict(
        Plan, PROMPT, city="x"
    ),
    "program": lambda llm: program(llm).stream_call(city="x"),
    "async program": lambda llm: program(llm).astream_call(city="x"),
    "structured stream_chat": lambda llm: llm.as_structured_llm(Plan).stream_chat(ASKED),
    "structured astream_chat": lambda llm: llm.as_structured_llm(Plan).astream_chat(ASKED),
}


@pytest.mark.parametrize("way", WHOLE)
def test_an_answer_becomes_an_object_in_every_way(llm: Any, way: str) -> None:
    [value] = read(WHOLE[way](llm))
    assert getattr(value, "raw", value) == PLAN


@streams_objects
@pytest.mark.parametrize("way", STREAMED)
def test_partial_objects_stream_in_every_way(llm: Any, way: str) -> None:
    values = [getattr(each, "raw", each) for each in read(STREAMED[way](llm))]
    assert values[-1] == PLAN
    assert values[0].city == "Hang"
    assert len(values) > 1


def test_a_structured_llm_answers_a_chat_template_and_its_text_is_json(llm: Any) -> None:
    template = ChatPromptTemplate([ChatMessage(role="system", content="Be kind"), *ASKED])
    assert llm.structured_predict(Plan, template) == PLAN
    structured = llm.as_structured_llm(Plan)
    assert Plan.model_validate_json(structured.chat(ASKED).message.content) == PLAN
    assert structured.metadata.model_name == llm.metadata.model_name


def test_it_is_a_chat_model_without_function_calling() -> None:
    llm = BailianAppLLM(app_id="app", api_key="k")
    assert "BaseLLM" in [base.__name__ for base in type(llm).__mro__]
    assert isinstance(llm, BaseLLM)
    assert (llm.metadata.is_chat_model, llm.metadata.is_function_calling_model) == (True, False)


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


THOUGHT = [Thought(reasoning="That is easy.")]
AGAIN = 'Thought: again\nAction: add\nAction Input: {"a": 5, "b": 3}'


async def run_agent(agent: Any, **more: Any) -> tuple[str, str, Any]:
    """Run an agent; return its answer, the reasoning that it streamed, and its output."""
    handler = agent.run("Add 5 and 3", **more)
    thinking = [
        event.thinking_delta or ""
        async for event in handler.stream_events()
        if isinstance(event, AgentStream)
    ]
    output = await handler
    return str(output), "".join(thinking), output


@pytest.mark.parametrize("message_blocks", ["text", "reasoning", "all"])
@pytest.mark.parametrize("streaming", [True, False])
async def test_a_react_agent_answers_with_an_app_that_thinks(
    llm_of: Any, message_blocks: str, streaming: bool
) -> None:
    app = Agent(thoughts=THOUGHT, text="Thought: I know.\nAnswer: 8")
    with Emulator(apps={"app": app}) as cloud:
        llm = llm_of(cloud, message_blocks=message_blocks)
        agent = ReActAgent(tools=[add], llm=llm, streaming=streaming)
        answer, thinking, output = await run_agent(agent)
    assert answer == "8"
    assert thinking == ("That is easy." if streaming else "")
    blocks = [type(block) for block in output.response.blocks]
    assert (ThinkingBlock in blocks) == (message_blocks != "text")


async def test_a_code_act_agent_streams_the_reasoning_of_an_app(llm_of: Any) -> None:
    async def execute(code: str) -> str:
        return code

    with Emulator(apps={"app": Agent(thoughts=THOUGHT, text="All done.")}) as cloud:
        agent = CodeActAgent(code_execute_fn=execute, llm=llm_of(cloud), tools=[add])
        answer, thinking, _ = await run_agent(agent)
    assert (answer, thinking) == ("All done.", "That is easy.")


@pytest.mark.skipif(
    "early_stopping_method" not in ReActAgent.model_fields, reason="this core never stops early"
)
@pytest.mark.parametrize("fields", [{}, {"history_format": "prompt"}, {"history_mode": "full"}])
async def test_an_agent_that_stops_early_gets_an_answer(llm_of: Any, fields: Any) -> None:
    """LlamaIndex then asks with a conversation that ends with a system message."""

    def never_content(call: Call) -> str:
        words = call.prompt + "".join(str(message["content"]) for message in call.messages)
        return "The sum is 8." if "maximum number of iterations" in words else AGAIN

    with Emulator(apps={"app": never_content}) as cloud:
        agent = ReActAgent(
            tools=[add], llm=llm_of(cloud, **fields), early_stopping_method="generate"
        )
        answer, _, _ = await run_agent(agent, max_iterations=2)
    assert "The sum is 8." in answer


@pytest.mark.parametrize("before", [[], ["system"], ["user"], ["user", "assistant"]])
def test_a_conversation_may_end_with_a_system_message(
    chat: Any, llm_of: Any, before: list[str]
) -> None:
    with Emulator(apps={"app": lambda call: "ok"}) as cloud:
        history = [ChatMessage(role=role, content=role) for role in before]
        last = ChatMessage(role=MessageRole.SYSTEM, content="Answer now")
        seen = chat(llm_of(cloud), [*history, last])
        assert (seen.error, seen.text) == (None, "ok")
        [request] = cloud.requests
        sent = [(each["role"], each["content"]) for each in request.input.get("messages", ())]
        assert (sent[-1][1] if sent else request.prompt).endswith("Answer now")
        assert not sent or sent[-1][0] == "user"


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_simple_chat_engine_takes_an_app_that_thinks(llm_of: Any, streaming: bool) -> None:
    with Emulator(apps={"app": Agent(thoughts=THOUGHT, text="8")}) as cloud:
        engine = SimpleChatEngine.from_defaults(
            llm=llm_of(cloud, message_blocks="all"),
            memory=ChatMemoryBuffer.from_defaults(token_limit=3000),
        )
        for _ in range(2):
            if streaming:
                response = await engine.astream_chat("Add 5 and 3")
                text = "".join([delta async for delta in response.async_response_gen()])
            else:
                text = str(await engine.achat("Add 5 and 3"))
            assert text == "8"
        assert cloud.requests[1].session_id, "the conversation goes on in its session"


def test_the_text_of_an_answer_with_reasoning_may_be_replaced(chat: Any, llm_of: Any) -> None:
    app = Agent(thoughts=THOUGHT, text="Answer: 8", references=[{"title": "t", "text": "Sums."}])
    with Emulator(apps={"app": app}) as cloud:
        message = chat(llm_of(cloud, message_blocks="all")).last.message
    before = [type(block).__name__ for block in message.blocks]
    assert before == ["ThinkingBlock", "TextBlock", "CitationBlock"]
    stored = ChatMessage.model_validate(message.model_dump())
    assert message == stored
    assert stored == message
    assert [message] == [stored]
    message.content = "8"
    assert stored != message
    assert message != stored
    assert message not in ("8", ChatMessage("8"))
    assert (message.content, message.blocks[0].content) == ("8", "That is easy.")
    assert [type(block).__name__ for block in message.blocks] == before


def test_a_report_of_an_answer_does_not_change_it(ask: Any, llm_of: Any, events: Any) -> None:
    with Emulator(apps={"app": recordings.FOLDER / "agent-rag-citations.json"}) as cloud:
        seen = ask(llm_of(cloud, message_blocks="all"))
    [end] = events.of(LLMChatEndEvent if ask.chats else LLMCompletionEndEvent)
    raw = dict(seen.raw)
    assert end.model_dump()["response"]["raw"]["request_id"] == raw["request_id"]
    assert seen.last.raw == raw


def test_an_unknown_choice_of_blocks_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="message_blocks") as caught:
        BailianAppLLM(app_id="app", api_key="k", message_blocks="citations")
    assert caught.value.field == "message_blocks"


def test_a_retriever_of_an_app_serves_an_engine_with_an_app(llm_of: Any) -> None:
    app = Agent(text="It rains.", references=[{"title": "Almanac", "text": "It often rains."}])
    with Emulator(apps={"app": app}) as cloud:
        llm = llm_of(cloud)
        engine = RetrieverQueryEngine.from_args(BailianAppRetriever(llm=llm), llm=llm)
        response = engine.query("Does it rain?")
    assert str(response) == "It rains."
    assert [node.get_content() for node in response.source_nodes] == ["It often rains."]
