"""What the model of an agent reads of an error: English, whatever language its user reads."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.agent.workflow import CodeActAgent, FunctionAgent, ToolCallResult
from llama_index.core.async_utils import asyncio_run
from llama_index.core.tools import QueryEngineTool, RetrieverTool
from support.agents import run, scripted

from bailian_apps import BailianApp, ConnectError
from bailian_apps.core.language import forget_language
from bailian_apps.emulator import Call, Emulator
from bailian_apps.llamaindex import (
    BailianAppQueryEngine,
    BailianAppRetriever,
    bailian_app_tool,
)

# LlamaIndex's agents use deprecated parts of pydantic and of LlamaIndex's own workflows.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Skipping serialization of known unserializable key"),
    pytest.mark.usefixtures("in_chinese"),
]

NAMES: Any = {"name": "plan_trip", "description": "Plans a trip"}


@pytest.fixture
def in_chinese(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BAILIAN_LANG", "zh")
    forget_language()
    yield
    monkeypatch.undo()
    forget_language()


def unreachable() -> BailianApp:
    return BailianApp(
        app_id="app", api_key="sk-test", base_url="http://127.0.0.1:9/api/v1", max_retries=0
    )


def app_tool(**more: Any) -> Any:
    return bailian_app_tool(unreachable(), **NAMES, **more)


def engine_tool(**more: Any) -> Any:
    engine = BailianAppQueryEngine.from_defaults(unreachable(), **more)
    return QueryEngineTool.from_defaults(engine, **NAMES)


def retriever_tool() -> Any:
    return RetrieverTool.from_defaults(BailianAppRetriever(unreachable()), **NAMES)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (app_tool, {"prompt": "一"}),
        (app_tool, {"prompt": 1}),
        (lambda: app_tool(keep_session=False), {"prompt": "一"}),
        (engine_tool, {"input": "一"}),
        pytest.param(
            lambda: engine_tool(streaming=True),
            {"input": "一"},
            marks=pytest.mark.skipif(
                "copy_context" not in inspect.getsource(asyncio_run),
                reason="an older llama-index-core reads streams in a thread without the context",
            ),
        ),
        (retriever_tool, {"input": "一"}),
    ],
    ids=["app", "wrong arguments", "app without a session", "engine", "stream", "retriever"],
)
async def test_the_model_reads_english(make: Any, arguments: dict[str, Any]) -> None:
    agent = FunctionAgent(tools=[make()], llm=scripted([arguments]))
    _, streamed = await run(agent, "甲")
    [called] = [event for event in streamed if isinstance(event, ToolCallResult)]
    assert called.tool_output.is_error
    assert called.tool_output.content.isascii()


async def test_the_model_of_a_code_act_agent_reads_english(llm_of: Any) -> None:
    async def execute(code: str) -> str:
        try:
            return str(eval(code, {"plan_trip": tool.fn}))
        except ConnectError as error:
            return str(error)

    def coder(call: Call) -> str:
        asked = " ".join(str(message["content"]) for message in call.messages)
        done = "Result of executing" in asked
        return "好了" if done else "<execute>plan_trip(prompt='x')</execute>"

    with Emulator(apps={"coder": coder}) as cloud:
        tool = app_tool(keep_session=False)
        agent = CodeActAgent(execute, llm=llm_of(cloud, "coder"), tools=[tool], streaming=False)
        _, streamed = await run(agent, "我想旅行")
    [called] = [event for event in streamed if isinstance(event, ToolCallResult)]
    assert called.tool_output.content.isascii()
    assert "127.0.0.1:9" in called.tool_output.content


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_people_still_find_chinese_in_its_note_and_outside_workflows() -> None:
    with pytest.raises(ConnectError) as caught:
        app_tool().call(prompt="一")
    chinese = str(caught.value)
    assert not chinese.isascii()
    caught.value.add_note("of the caller")
    for _ in range(2):  # a tool in an engine's tool
        caught.value.use_english()
    assert str(caught.value).isascii()
    first, note = caught.value.__notes__
    assert first == "of the caller"
    assert note in chinese
