"""Real agents and graphs: `create_agent` with a scripted model, LangGraph, message histories."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import pytest
from langchain.agents import create_agent
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolCall, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import StreamMode
from pydantic import BaseModel
from support import recordings

from bailian_apps import ConnectError
from bailian_apps.emulator import Call, Failure
from bailian_apps.langchain import BailianAppTool, ChatBailianApp

WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"
TEXT = recordings.expected_text(WORKFLOW.name)
NODES = ["开始", "大模型_1", "大模型_2", "结束"]


class Scripted(GenericFakeChatModel):
    """A model that calls the tool, then answers."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def script(*prompts: str) -> Scripted:
    messages: list[AIMessage] = []
    for number, prompt in enumerate(prompts):
        call = ToolCall(type="tool_call", id=str(number), name="travel", args={"prompt": prompt})
        messages += [AIMessage("", tool_calls=[call]), AIMessage("done")]
    return Scripted(messages=iter(messages))


def agent_of(fields: dict[str, Any], *prompts: str, **more: Any) -> Any:
    tool = BailianAppTool(name="travel", description="Plans trips.", remember=True, **fields)
    return create_agent(script(*prompts), [tool], **more)


def asked(agent: Any, is_async: bool, config: Any = None) -> list[Any]:
    inputs = {"messages": [("human", "plan")]}
    if is_async:
        return asyncio.run(agent.ainvoke(inputs, config))["messages"]
    return agent.invoke(inputs, config)["messages"]


both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@both
def test_an_answer_that_does_not_fit_is_shown_to_the_model_and_remembered(
    is_async: bool, start_cloud: Any, fields_of: Any
) -> None:
    """The second call continues the session; when that has ended, it sends the app's own words."""

    class Trip(BaseModel):
        city: str

    cloud = start_cloud(app=lambda call: "a lake")
    agent = agent_of(
        fields_of(cloud, output_schema=Trip, session_max_rounds=2),
        *("one", "two", "three"),
        checkpointer=InMemorySaver(),
    )
    for _ in range(3):
        messages = asked(agent, is_async, {"configurable": {"thread_id": "1"}})
    [*_, shown, answer] = messages
    assert (shown.status, answer.text) == ("error", "done")
    assert "Invalid JSON" in shown.text
    assert shown.text.endswith("Its answer:\na lake")
    assert [bool(request.session_id) for request in cloud.requests] == [False, True, False]
    contents = [message["content"] for message in cloud.requests[2].messages]
    assert contents == ["one", "a lake", "two", "a lake", "three"]


@both
def test_an_agent_calls_the_app_as_its_tool(
    is_async: bool, fields_of: Any, traces: Any, steps_of: Any
) -> None:
    agent = agent_of(fields_of(WORKFLOW), "a day in Hangzhou")
    messages = asked(agent, is_async, {"callbacks": [traces]})
    assert [type(m) for m in messages] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert messages[2].content == TEXT
    assert messages[2].artifact["prompt"] == "a day in Hangzhou"
    assert [step[1] for step in steps_of(traces.roots[0])] == NODES


@both
def test_the_apps_conversation_is_the_agents_thread(
    is_async: bool, start_cloud: Any, fields_of: Any
) -> None:
    cloud = start_cloud(app=WORKFLOW)
    saver = InMemorySaver()
    agent = agent_of(fields_of(cloud), "one", "two", "three", checkpointer=saver)
    for thread in ("a", "a", "b"):
        asked(agent, is_async, {"configurable": {"thread_id": thread}})
    first, second, third = (request.body["input"] for request in cloud.requests)
    assert "session_id" not in first
    assert second["session_id"]
    assert second["prompt"] == "two"
    assert "session_id" not in third


@both
def test_the_agents_model_gets_the_apps_errors_but_not_network_errors(
    is_async: bool, fields_of: Any
) -> None:
    def app(_: Call) -> Any:
        return Failure(status=400, code="InvokePluginFailed", message="no such city")

    message = asked(agent_of(fields_of(app), "one"), is_async)[2]
    assert message.status == "error"
    assert "no such city" in message.content
    gone = {"app_id": "a", "api_key": "k", "base_url": "http://127.0.0.1:9/api/v1"}
    with pytest.raises(ConnectError):
        asked(agent_of({**gone, "max_retries": 0}, "one"), is_async)


def graph_of(model: ChatBailianApp, **compiled: Any) -> Any:
    async def ask(state: MessagesState, config: RunnableConfig) -> Any:
        return {"messages": [await model.ainvoke(state["messages"], config)]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    return builder.compile(**compiled)


async def test_a_graph_streams_tokens_steps_and_tool_events(agent: Any, make_model: Any) -> None:
    graph = graph_of(make_model(lambda _: agent))
    inputs = {"messages": [("human", "hi")]}
    parts = [part async for part in graph.astream(inputs, stream_mode=["messages", "tools"])]
    messages = [part[0] for mode, part in parts if mode == "messages"]
    texts = [m.text for m in messages if isinstance(m, AIMessageChunk) and m.text]
    assert "".join(texts) == "晴，喝茶<ref>[1]</ref>"  # in one piece, if it arrived in one
    steps = [m.additional_kwargs["steps"] for m in messages if "steps" in m.additional_kwargs]
    assert [step["name"] for (step,) in steps] == ["weather", "知识检索"]
    if "tools" in get_args(StreamMode):  # an older langgraph has no such mode
        tools = [part for mode, part in parts if mode == "tools"]
        assert [tool["event"] for tool in tools] == ["tool-started", "tool-finished"]
        assert tools[0]["tool_name"] == "weather"


async def test_a_graph_keeps_the_conversation_in_its_checkpointer(
    start_cloud: Any, make_model: Any
) -> None:
    cloud = start_cloud(app=WORKFLOW)
    graph = graph_of(make_model(cloud), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    for words in ("one", "two"):
        state = await graph.ainvoke({"messages": [("human", words)]}, config)
    assert cloud.requests[1].body["input"]["prompt"] == "two"
    session_id = state["messages"][1].response_metadata["session_id"]
    assert cloud.requests[1].body["input"]["session_id"] == session_id


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*deprecated:Warning")
@both
def test_a_runnable_with_message_history_continues_the_session(
    is_async: bool, start_cloud: Any, make_model: Any
) -> None:
    cloud = start_cloud(app=WORKFLOW)
    histories: dict[str, InMemoryChatMessageHistory] = {}
    model = RunnableWithMessageHistory(
        make_model(cloud),
        lambda session_id: histories.setdefault(session_id, InMemoryChatMessageHistory()),
    )
    config: Any = {"configurable": {"session_id": "local"}}
    for words in ("one", "two"):
        if is_async:
            asyncio.run(model.ainvoke(words, config))
        else:
            model.invoke(words, config)
    first, second = (request.body["input"] for request in cloud.requests)
    assert first == {"prompt": "one"}
    kept = histories["local"].messages[1].response_metadata["session_id"]
    assert second == {"prompt": "two", "session_id": kept}
