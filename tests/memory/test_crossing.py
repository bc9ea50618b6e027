"""A conversation moves between the frameworks, as docs/en/memory-stores.md says how."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import START, MessagesState, StateGraph
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.storage.chat_store.redis import RedisChatStore
from redis import Redis

from bailian_apps.langchain import ChatBailianApp
from bailian_apps.llamaindex import BailianAppChatEngine, BailianAppLLM

PAGE = Path(__file__).parents[2] / "docs/en/memory-stores.md"


@pytest.fixture
def documented() -> dict[str, Callable[[Any], Any]]:
    """The functions on the page."""
    [block] = re.findall(
        r"^```python\n(from langchain_core.messages.*?)^moved =",
        PAGE.read_text("utf-8"),
        re.M | re.S,
    )
    names: dict[str, Any] = {}
    exec(block, names)
    return names


@pytest.fixture
def cloud(start_cloud: Any) -> Any:
    return start_cloud().emulator


@pytest.fixture
def settings(cloud: Any) -> dict[str, Any]:
    return {"app_id": "friend", "api_key": "sk", "base_url": cloud.base_url}


def sent(cloud: Any) -> list[tuple[str | None, str]]:
    return [(request.session_id, request.input["prompt"]) for request in cloud.requests]


@pytest.fixture
def graph(settings: dict[str, Any], postgres: str) -> Any:
    """A graph that keeps its messages in PostgreSQL."""
    model = ChatBailianApp(**settings)
    builder = StateGraph(MessagesState)
    builder.add_node("friend", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "friend")
    with PostgresSaver.from_conn_string(postgres) as saver:
        saver.setup()
        yield builder.compile(checkpointer=saver)


@pytest.fixture
def memory(redis: str, request: Any) -> Any:
    """A LlamaIndex memory in Redis."""
    with Redis.from_url(redis) as client:
        store = RedisChatStore(redis_client=client, redis_url=redis)
        yield ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key=request.node.nodeid)


@pytest.mark.parametrize("kind", [SimpleChatEngine, BailianAppChatEngine])
def test_from_langchain_to_llamaindex(
    kind: Any, cloud: Any, settings: Any, graph: Any, memory: Any, documented: Any
) -> None:
    thread: Any = {"configurable": {"thread_id": f"crossing to {kind.__name__}"}}
    graph.invoke({"messages": [("user", "My name is Ada")]}, thread)
    stored = graph.get_state(thread).values["messages"]
    memory.set([documented["to_llamaindex"](message) for message in stored])
    engine = kind.from_defaults(llm=BailianAppLLM(**settings), memory=memory)
    assert engine.chat("What is my name?").response == "Your name is Ada"
    [session_id] = cloud.sessions
    assert sent(cloud) == [(None, "My name is Ada"), (session_id, "What is my name?")]


def test_from_llamaindex_to_langchain_and_back(
    cloud: Any, settings: Any, graph: Any, memory: Any, documented: Any
) -> None:
    engine = SimpleChatEngine.from_defaults(llm=BailianAppLLM(**settings), memory=memory)
    engine.chat("My name is Ada")
    moved = [documented["to_langchain"](message) for message in memory.get_all()]
    thread: Any = {"configurable": {"thread_id": "crossing back"}}
    words = [*moved, ("user", "What is my name?")]
    messages = graph.invoke({"messages": words}, thread)["messages"]
    assert isinstance(messages[-1], AIMessage)
    assert messages[-1].text == "Your name is Ada"
    memory.set([documented["to_llamaindex"](message) for message in messages])
    assert engine.chat("What is my name?").response == "Your name is Ada"
    [session_id] = cloud.sessions
    assert sent(cloud) == [
        (None, "My name is Ada"),
        (session_id, "What is my name?"),
        (session_id, "What is my name?"),
    ]


def test_the_other_framework_sends_the_whole_history_of_a_forgotten_session(
    cloud: Any, settings: Any, graph: Any, memory: Any, documented: Any
) -> None:
    thread: Any = {"configurable": {"thread_id": "crossing, forgotten"}}
    graph.invoke({"messages": [("user", "My name is Ada")]}, thread)
    cloud.forget()
    stored = graph.get_state(thread).values["messages"]
    memory.set([documented["to_llamaindex"](message) for message in stored])
    llm = BailianAppLLM(**settings, idempotent=True)
    engine = BailianAppChatEngine.from_defaults(llm=llm, memory=memory)
    assert engine.chat("What is my name?").response == "Your name is Ada"
