"""Apps beside LlamaIndex's packages for models, each where it is installed.

`llama-index-llms-dashscope` needs an SDK older than 2, so it is among the oldest dependencies only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import (
    AgentStream,
    AgentWorkflow,
    FunctionAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from support import recordings
from support.agents import run
from support.model_server import Message, ModelServer, calls, says

from bailian_apps.emulator import Call, Emulator
from bailian_apps.llamaindex import (
    BailianAppAgent,
    BailianAppChatEngine,
    BailianAppLLM,
    BailianAppStepStream,
    bailian_app_tool,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

DOCS = Path(__file__).parents[2] / "docs"
WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"


def package(name: str) -> Any:
    return pytest.mark.skipif(find_spec(f"llama_index.llms.{name}") is None, reason=f"no {name}")


@contextmanager
def open_ai_like(server: ModelServer) -> Iterator[Any]:
    from llama_index.llms.openai_like import OpenAILike

    yield OpenAILike(
        model="m",
        api_base=server.base_url,
        api_key="k",
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
    )


@contextmanager
def dash_scope(server: ModelServer) -> Iterator[Any]:
    import dashscope
    from llama_index.llms.dashscope import DashScope

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dashscope, "base_http_api_url", server.base_url)
        yield DashScope("qwen-plus", api_key="k")


OTHERS = [
    pytest.param(open_ai_like, marks=package("openai_like"), id="openai-like"),
    pytest.param(dash_scope, marks=package("dashscope"), id="dashscope"),
]


def app(call: Call) -> str:
    return f"第{len(call.turns) + 1}轮"


def fields(cloud: Emulator) -> dict[str, Any]:
    return {"app_id": "app", "api_key": "sk-test", "base_url": cloud.base_url, "max_retries": 0}


def contents(messages: Any) -> list[str]:
    return [each["content"] for each in messages]


# ----------------------------------------------------------------------------- one conversation


@pytest.mark.parametrize("other", OTHERS)
def test_an_app_and_a_model_read_one_conversation(other: Any) -> None:
    with (
        Emulator(apps={"app": app}) as cloud,
        ModelServer(lambda messages: says("好的")) as server,
        other(server) as model,
    ):
        llm = BailianAppLLM(**fields(cloud))
        history = [ChatMessage("一")]
        for each, question in ((llm, "二"), (model, "三"), (llm, "四"), (llm, "五")):
            history += [each.chat(history).message, ChatMessage(question)]
        sent = [
            contents(body.get("messages") or body["input"]["messages"]) for body in server.bodies
        ]
        assert sent == [["一", "第1轮", "二"]]
        assert contents(cloud.requests[1].messages) == ["一", "第1轮", "二", "好的", "三"]
    assert history[3].content == "好的"


@pytest.mark.parametrize("other", OTHERS)
def test_the_engines_of_both_share_a_memory(other: Any) -> None:
    memory = ChatMemoryBuffer.from_defaults(token_limit=1_000)
    with (
        Emulator(apps={"app": app}) as cloud,
        ModelServer(lambda messages: says("好的")) as server,
        other(server) as model,
    ):
        ours = BailianAppChatEngine(llm=BailianAppLLM(**fields(cloud)), memory=memory)
        theirs = SimpleChatEngine.from_defaults(llm=model, memory=memory)
        said = [str(engine.chat("问")) for engine in (ours, theirs, ours, ours)]
        assert contents(cloud.requests[1].messages) == ["问", "第1轮", "问", "好的", "问"]
    assert said[1] == "好的"
    assert [each.content for each in memory.get_all()][1::2] == said


# ---------------------------------------------------------------------------- a function agent


def plans(messages: list[Message]) -> Message:
    """Calls the app twice, then answers."""
    results = [each["content"] for each in messages if each["role"] == "tool"]
    if len(results) == 2:
        return says(f"好：{results[-1]}")
    return calls("plan_trip", city="杭州", prompt=["去", "第二天？"][len(results)])


@package("openai_like")
@pytest.mark.parametrize("streaming", [True, False])
async def test_a_function_agent_calls_the_app_and_streams(streaming: bool) -> None:
    with (
        Emulator(apps={"app": WORKFLOW}) as cloud,
        ModelServer(plans) as server,
        open_ai_like(server) as model,
    ):
        tool = bailian_app_tool(**fields(cloud), name="plan_trip", description="Plans a trip")
        agent = FunctionAgent(tools=[tool], llm=model, streaming=streaming)
        answer, streamed = await run(agent, "我想旅行")
        assert [request.prompt for request in cloud.requests] == ["去", "第二天？"]
        assert cloud.requests[1].session_id
    [shown] = server.bodies[0]["tools"]
    assert (shown["function"]["name"], shown["function"]["description"]) == (
        "plan_trip",
        "Plans a trip",
    )
    results = [event.tool_output.content for event in streamed if isinstance(event, ToolCallResult)]
    assert answer == f"好：{results[1]}"
    deltas = [event.delta for event in streamed if isinstance(event, AgentStream)]
    assert "".join(deltas) == (answer if streaming else "")
    assert any(isinstance(event, BailianAppStepStream) for event in streamed)


@package("openai_like")
@pytest.mark.parametrize("spoken", ["", "请稍等"])
async def test_a_model_hands_off_to_an_app(spoken: str) -> None:
    handoff = calls("handoff", spoken, to_agent="guide", reason="it knows trips")
    with (
        Emulator(apps={"app": app}) as cloud,
        ModelServer(lambda messages: handoff) as server,
        open_ai_like(server) as model,
    ):
        root = FunctionAgent(name="root", description="Chats", llm=model)
        guide = BailianAppAgent(**fields(cloud), name="guide", description="Plans trips")
        workflow = AgentWorkflow(agents=[root, guide], root_agent="root")
        memory = ChatMemoryBuffer.from_defaults(token_limit=1_000)
        assert str(await workflow.run("去杭州", memory=memory)) == "第1轮"
        assert str(await workflow.run("第二天？", memory=memory)) == "第2轮"
        assert [request.prompt for request in cloud.requests] == ["去杭州", "第二天？"]
        assert len(cloud.sessions) == 1
    [shown] = server.bodies[0]["tools"]
    assert "'guide': 'Plans trips'" in shown["function"]["description"]


@package("openai_like")
@pytest.mark.parametrize("language", ["en", "zh"])
async def test_the_function_agent_of_the_page_runs(
    language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / language / "llamaindex-agents.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    with Emulator(apps={"app": app}) as cloud, ModelServer(plans) as server:
        monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-test")
        monkeypatch.setenv("BAILIAN_APP_ID", "app")
        monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", cloud.base_url)
        code, count = re.subn(r'api_base="[^"]*"', f"api_base={server.base_url!r}", code)
        assert count == 1
        page: dict[str, Any] = {}
        exec(code, page)
        answer, _ = await run(page["agent"], "我想旅行")
        assert [request.prompt for request in cloud.requests] == ["去", "第二天？"]
    assert server.bodies[0]["model"] == "qwen-plus"
    assert answer == "好：第2轮"
