"""The conversation is the list of messages; the cloud's session follows from it."""

from __future__ import annotations

import json
import logging
import warnings
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    messages_from_dict,
    messages_to_dict,
    trim_messages,
)
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from bailian_apps import InvalidInputError
from bailian_apps.emulator import Call


def recall(call: Call) -> str:
    """An app that says what it knows of the conversation."""
    if call.messages:
        return "told: " + " | ".join(f"{m['role']}={m['content']}" for m in call.messages)
    return "known: " + " | ".join([*(turn.user for turn in call.turns), call.prompt])


def test_the_second_request_names_the_session_and_sends_only_what_is_new(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    cloud = start_cloud(app=recall)
    model = make_model(cloud)
    messages: list[Any] = [HumanMessage("one")]
    messages += [ask(model, messages), HumanMessage("two")]
    answer = ask(model, messages)
    first, second = cloud.requests
    assert "session_id" not in first.input
    assert second.input == {
        "prompt": "two",
        "session_id": messages[1].response_metadata["session_id"],
    }
    assert answer.content == "known: one | two"
    assert answer.response_metadata["bailian"]["round"] == 2


def test_the_marker_survives_dumping_and_trimming(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    cloud = start_cloud(app=recall)
    model = make_model(cloud)
    messages: list[Any] = [HumanMessage("one")]
    messages.append(ask(model, messages))
    stored = messages_from_dict(json.loads(json.dumps(messages_to_dict(messages))))
    messages = trim_messages([*stored, HumanMessage("two")], max_tokens=2, token_counter=len)
    assert len(messages) == 2
    assert ask(model, messages).content == "known: one | two"


def test_what_another_app_answered_in_between_is_told(start_cloud: Any, make_model: Any) -> None:
    cloud = start_cloud(app=recall, other=lambda _: "blue")
    one, other = make_model(cloud), make_model(cloud, app_id="other")
    messages: list[Any] = [HumanMessage("one")]
    messages += [one.invoke(messages), HumanMessage("colour?")]
    messages += [other.invoke(messages), HumanMessage("two")]
    assert "session_id" not in cloud.requests[1].input
    answer = one.invoke(messages)
    assert "session_id" not in cloud.requests[2].input
    assert answer.content == (
        "told: user=one | assistant=known: one | user=colour? | assistant=blue | user=two"
    )


def test_a_session_that_the_cloud_forgot_is_noticed_and_then_told_anew(
    start_cloud: Any, make_model: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = start_cloud(app=recall)
    model = make_model(cloud)
    messages: list[Any] = [HumanMessage("one")]
    messages += [ask(model, messages), HumanMessage("two")]
    cloud.forget()
    with caplog.at_level(logging.WARNING, "bailian_apps"):
        messages.append(ask(model, messages))
    assert messages[-1].response_metadata["context_lost"] is True
    assert "has forgotten the conversation" in caplog.text
    answer = ask(model, [*messages, HumanMessage("three")])
    assert answer.content.startswith("told: user=one | assistant=")
    assert "context_lost" not in answer.response_metadata


def test_a_session_can_be_named(start_cloud: Any, make_model: Any, ask: Any) -> None:
    cloud = start_cloud(app=recall)
    model = make_model(cloud)
    session_id = ask(model, "one").response_metadata["session_id"]
    assert ask(model, "two", session_id=session_id).content == "known: one | two"
    assert ask(model.bind(session_id=session_id), "three").content == "known: one | two | three"


def test_history_mode_messages_sends_everything_every_time(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    model = make_model(start_cloud(app=recall), history_mode="messages")
    messages: list[Any] = [SystemMessage("be brief"), HumanMessage("one")]
    messages += [ask(model, messages), HumanMessage("two")]
    assert ask(model, messages).content == (
        "told: system=be brief | user=one | assistant=told: system=be brief | user=one | user=two"
    )


def test_images_and_files_go_with_their_turn(start_cloud: Any, make_model: Any, ask: Any) -> None:
    cloud = start_cloud(app=recall)
    model = make_model(cloud)
    image = {"type": "image", "url": "https://example.com/a.png"}
    file = {"type": "file", "url": "https://example.com/a.pdf"}
    message = HumanMessage(["what is", {"type": "text", "text": "this?"}, image, file])
    ask(model, [message], image_list=["https://example.com/b.png"])
    assert cloud.requests[0].input == {
        "prompt": "what is\nthis?",
        "image_list": ["https://example.com/a.png", "https://example.com/b.png"],
        "file_list": ["https://example.com/a.pdf"],
    }


def test_settings_may_be_overridden_per_call(start_cloud: Any, make_model: Any, ask: Any) -> None:
    cloud = start_cloud(app=recall, other=lambda _: "other")
    model = make_model(cloud, temperature=0.5)
    ask(model, biz_params={"city": "杭州"}, temperature=0.1, thoughts=False)
    assert cloud.requests[0].biz_params == {"city": "杭州"}
    assert cloud.requests[0].parameters["temperature"] == 0.1
    assert cloud.requests[0].parameters["has_thoughts"] is False
    assert ask(model, model="other").content == "other"
    assert ask(model, app_id="other").response_metadata["bailian"]["app_id"] == "other"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"biz_parms": {}}, "biz_parms"),
        ({"max_token": 1}, "max_token"),
        ({"prompt": "x"}, "prompt"),
        ({"temperature": 3}, "temperature"),
        ({"model": "a", "app_id": "b"}, "model"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_nothing_is_sent(
    arguments: dict[str, Any], field: str, start_cloud: Any, make_model: Any, ask: Any
) -> None:
    cloud = start_cloud(app=recall)
    with pytest.raises(InvalidInputError) as caught:
        ask(make_model(cloud), **arguments)
    assert caught.value.field == field
    assert cloud.requests == []


def test_run_with_message_history(start_cloud: Any, make_model: Any, ask: Any) -> None:
    from langchain_core.chat_history import InMemoryChatMessageHistory
    from langchain_core.runnables.history import RunnableWithMessageHistory

    cloud = start_cloud(app=recall)
    prompt = ChatPromptTemplate([MessagesPlaceholder("history"), ("human", "{said}")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions call both classes deprecated
        kept = InMemoryChatMessageHistory()
        chain = RunnableWithMessageHistory(
            prompt | make_model(cloud),
            lambda session_id: kept,
            input_messages_key="said",
            history_messages_key="history",
        )
    config = {"configurable": {"session_id": "local"}}
    ask(chain, {"said": "one"}, config)
    assert ask(chain, {"said": "two"}, config).content == "known: one | two"
    assert all(isinstance(message, AIMessage) for message in kept.messages[1::2])
    assert len(kept.messages) == 4


def test_in_langgraph_the_checkpointer_keeps_the_session(start_cloud: Any, make_model: Any) -> None:
    graph = pytest.importorskip("langgraph.graph")
    memory = pytest.importorskip("langgraph.checkpoint.memory")
    cloud = start_cloud(app=recall)
    model = make_model(cloud)
    builder = graph.StateGraph(graph.MessagesState)
    builder.add_node("app", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(graph.START, "app")
    compiled = builder.compile(checkpointer=memory.InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    compiled.invoke({"messages": [HumanMessage("one")]}, config)
    state = compiled.invoke({"messages": [HumanMessage("two")]}, config)
    assert state["messages"][-1].content == "known: one | two"
