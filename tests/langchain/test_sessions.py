"""The conversation is the list of messages; the cloud's session is taken from it."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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

from bailian_apps import BailianError, InvalidInputError, ServerError
from bailian_apps.emulator import Call, Failure
from bailian_apps.langchain import BailianAppRunnable


def recall(call: Call) -> str:
    """An app that returns what it knows of the conversation."""
    if call.messages:
        return "received: " + " | ".join(f"{m['role']}={m['content']}" for m in call.messages)
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


@pytest.mark.parametrize("output_version", ["v0", "v1"])
def test_storing_messages_does_not_change_their_digest(
    output_version: str, start_cloud: Any, make_model: Any, ask: Any
) -> None:
    """Otherwise every call would silently send the whole history."""

    def app(call: Call) -> Iterator[dict[str, Any]]:
        thought = {"action_type": "reasoning", "thought": "嗯"}
        yield {"output": {"thoughts": [thought], "finish_reason": "null"}}
        for text in (" e", "\u0301 <b>\t", "😀", "\n\n"):
            yield {"output": {"text": text, "finish_reason": "null"}}
        yield {"output": {"text": "", "finish_reason": "stop"}}

    cloud = start_cloud(app=app)
    model = make_model(cloud, output_version=output_version)
    messages: list[Any] = []
    for content in (" one\n", [{"type": "text", "text": "two "}, "and"], "three"):
        messages.append(HumanMessage(content))
        messages.append(ask(model, messages))
        messages = messages_from_dict(json.loads(json.dumps(messages_to_dict(messages))))
    [session] = cloud.sessions
    assert [request.session_id for request in cloud.requests] == [None, session, session]


def test_another_apps_answer_in_between_is_sent_along(start_cloud: Any, make_model: Any) -> None:
    cloud = start_cloud(app=recall, other=lambda _: "blue")
    one, other = make_model(cloud), make_model(cloud, app_id="other")
    messages: list[Any] = [HumanMessage("one")]
    messages += [one.invoke(messages), HumanMessage("colour?")]
    messages += [other.invoke(messages), HumanMessage("two")]
    assert "session_id" not in cloud.requests[1].input
    answer = one.invoke(messages)
    assert "session_id" not in cloud.requests[2].input
    assert answer.content == (
        "received: user=one | assistant=known: one | user=colour? | assistant=blue | user=two"
    )


def test_a_forgotten_session_is_reported_and_then_replaced(
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
    assert "has lost the conversation" in caplog.text
    answer = ask(model, [*messages, HumanMessage("three")])
    assert answer.content.startswith("received: user=one | assistant=")
    assert "context_lost" not in answer.response_metadata


def contents(call: Any) -> list[str]:
    """The contents of the messages in a request."""
    return [message["content"] for message in call.messages]


def begin(model: Any, words: str = "one") -> list[Any]:
    """A conversation with one round."""
    messages: list[Any] = [HumanMessage(words)]
    return [*messages, model.invoke(messages)]


def forgetful(call: Call) -> Iterator[dict[str, Any]]:
    """As `recall`; in a forgotten session it continues only after the client disconnects."""
    if call.request.session_id and not call.turns:
        yield {"output": {"text": "who are you?", "finish_reason": "null"}}
        call.disconnected.wait(60)
    yield {"output": {"text": recall(call), "finish_reason": "stop"}}


def test_an_idempotent_app_that_forgot_is_called_again_at_once(
    start_cloud: Any, make_model: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = start_cloud(app=forgetful)
    model = make_model(cloud, idempotent=True, max_retries=0)
    messages = [*begin(model), HumanMessage("two")]
    cloud.forget()
    answer = ask(model, messages)
    assert answer.content == "received: user=one | assistant=known: one | user=two"
    assert "context_lost" not in answer.response_metadata
    assert answer.response_metadata["whole_history"] is True
    _, forgot, again = cloud.requests
    assert forgot.disconnected.is_set()
    assert forgot.session_id == messages[1].response_metadata["session_id"]
    assert again.session_id is None
    [record] = caplog.records
    assert "sending the whole history" in record.getMessage()
    messages += [answer, HumanMessage("three")]
    ask(model, messages)
    assert contents(cloud.requests[3]) == [message.text for message in messages]


def test_a_forgetful_app_is_called_again_only_once(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    calls: list[Call] = []

    def app(call: Call) -> Any:
        calls.append(call)
        return Failure(status=500, code="InternalError") if len(calls) == 3 else forgetful(call)

    cloud = start_cloud(app=app)
    model = make_model(cloud, idempotent=True, max_retries=0)
    messages = [*begin(model), HumanMessage("two")]
    cloud.forget()
    with pytest.raises(ServerError) as caught:
        ask(model, messages)
    assert caught.value.attempts == 2
    assert len(calls) == 3


def test_a_branch_sends_the_whole_history(start_cloud: Any, make_model: Any, ask: Any) -> None:
    cloud = start_cloud(app=recall)
    model = make_model(cloud)
    trunk = begin(model)
    one, other = [*trunk, HumanMessage("left")], [*trunk, HumanMessage("right")]
    one.append(ask(model, one))
    other.append(ask(model, other))
    assert one[-1].content == "known: one | left"
    assert other[-1].content == "received: user=one | assistant=known: one | user=right"
    assert other[-1].response_metadata["whole_history"] is True
    assert ask(model, [*one, HumanMessage("on")]).content == "known: one | left | on"
    assert ask(model, [*other, HumanMessage("on")]).content.startswith("received: user=one | ")


def test_a_regenerated_answer_does_not_know_the_first_one(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    model = make_model(start_cloud(app=recall))
    messages = [*begin(model), HumanMessage("two")]
    ask(model, messages)
    assert ask(model, messages).content == "received: user=one | assistant=known: one | user=two"


def test_of_two_concurrent_calls_only_one_continues_the_session(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    both = threading.Barrier(2, timeout=60)

    def app(call: Call) -> str:
        if call.prompt != "one":
            both.wait()
        return recall(call)

    cloud = start_cloud(app=app)
    model = make_model(cloud)
    trunk = begin(model)
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda w: ask(model, [*trunk, HumanMessage(w)]), ("a", "b")))
    assert sorted(answer.content.split(":")[0] for answer in answers) == ["known", "received"]
    assert sorted(bool(request.session_id) for request in cloud.requests[1:]) == [False, True]


@pytest.mark.parametrize(
    ("failure", "in_session"),
    [
        (Failure(status=429, code="Throttling"), True),
        (Failure(status=401, code="InvalidApiKey"), True),
        (Failure(status=500, code="InternalError"), False),
        (Failure(status=400, code="DataInspectionFailed"), False),
    ],
)
def test_only_a_call_that_did_not_start_releases_the_session(
    failure: Failure, in_session: bool, start_cloud: Any, make_model: Any, ask: Any
) -> None:
    answers: list[Any] = ["one", failure, "two"]
    cloud = start_cloud(app=lambda _: answers.pop(0))
    model = make_model(cloud, max_retries=0)
    messages = [*begin(model), HumanMessage("two")]
    with pytest.raises(BailianError):
        ask(model, messages)
    ask(model, messages)
    assert bool(cloud.requests[2].session_id) is in_session
    assert contents(cloud.requests[2]) == ([] if in_session else ["one", "one", "two"])


def test_a_stream_closed_early_keeps_its_session_round(start_cloud: Any, make_model: Any) -> None:
    cloud = start_cloud(app=recall)
    model = make_model(cloud)
    messages = [*begin(model), HumanMessage("two")]
    never_read = model.stream(messages)
    stream = model.stream(messages)
    next(stream)
    stream.close()
    never_read.close()
    assert model.invoke(messages).content.startswith("received: user=one | ")


@pytest.mark.parametrize(
    ("settings", "system", "edited"),
    [
        ({"session_ttl_s": 0}, [], "one"),
        ({"session_max_rounds": 1}, [], "one"),
        ({}, [SystemMessage("be brief")], "one"),
        ({}, [], "won"),
    ],
    ids=["too old", "too long", "another system text", "edited"],
)
def test_once_sent_the_whole_history_is_sent_every_time(
    settings: Any, system: Any, edited: str, start_cloud: Any, make_model: Any, ask: Any
) -> None:
    cloud = start_cloud(app=recall)
    image = {"type": "image", "url": "https://example.com/a.png"}
    first = HumanMessage([{"type": "text", "text": "one"}, image])
    messages: list[Any] = [first, make_model(cloud).invoke([first])]
    first.content[0]["text"] = edited  # type: ignore[index]
    model = make_model(cloud, **settings)
    for words in ("two", "three"):
        messages.append(HumanMessage(words))
        answer = ask(model, [*system, *messages])
        assert answer.response_metadata["whole_history"] is True
        assert cloud.requests[-1].session_id is None
        assert contents(cloud.requests[-1]) == [each.text for each in (*system, *messages)]
        assert cloud.requests[-1].input["image_list"] == ["https://example.com/a.png"]
        messages.append(answer)


def test_memory_id_is_sent_with_every_call(start_cloud: Any, make_model: Any, ask: Any) -> None:
    cloud = start_cloud(app=recall)
    model = make_model(cloud, memory_id="mine")
    ask(model)
    ask(model, memory_id="yours")
    ask(model, history_mode="messages")
    ask(make_model(cloud))
    sent = [request.input.get("memory_id") for request in cloud.requests]
    assert sent == ["mine", "yours", "mine", None]


def test_a_runnable_reports_a_lost_context(
    start_cloud: Any, fields_of: Any, make_model: Any, ask_on: Any
) -> None:
    cloud = start_cloud(app=recall)
    messages = [*begin(make_model(cloud)), HumanMessage("two")]
    cloud.forget()
    assert BailianAppRunnable(**fields_of(cloud)).invoke(messages).context_lost
    assert BailianAppRunnable(**fields_of(cloud)).invoke(messages).whole_history


def test_an_answer_cut_off_by_stop_reports_a_lost_context(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    cloud = start_cloud(app=recall)
    model = make_model(cloud)
    messages = [*begin(model), HumanMessage("two")]
    cloud.forget()
    lost = ask(model, messages, stop=["two"])
    assert (lost.content, lost.response_metadata["context_lost"]) == ("known: ", True)
    whole = ask(model, messages, stop=["user=one"])
    assert (whole.content, whole.response_metadata["whole_history"]) == ("received: ", True)


def test_a_session_id_can_be_passed_to_a_call(start_cloud: Any, make_model: Any, ask: Any) -> None:
    cloud = start_cloud(app=recall)
    model = make_model(cloud)
    session_id = ask(model, "one").response_metadata["session_id"]
    assert ask(model, "two", session_id=session_id).content == "known: one | two"
    assert ask(model.bind(session_id=session_id), "three").content == "known: one | two | three"


def test_an_explicit_session_id_is_always_used(start_cloud: Any, make_model: Any, ask: Any) -> None:
    cloud = start_cloud(app=recall)
    model = make_model(cloud)
    messages = [*begin(model), HumanMessage("two")]
    session_id = messages[1].response_metadata["session_id"]
    for _ in range(2):
        ask(model, messages, session_id=session_id)
    assert [request.session_id for request in cloud.requests[1:]] == [session_id] * 2


def test_history_mode_messages_sends_everything_every_time(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    model = make_model(start_cloud(app=recall), history_mode="messages")
    messages: list[Any] = [SystemMessage("be brief"), HumanMessage("one")]
    messages += [ask(model, messages), HumanMessage("two")]
    assert ask(model, messages).content == (
        "received: system=be brief | user=one | assistant=received: system=be brief | user=one | user=two"
    )


def test_images_and_files_are_sent_with_their_turn(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
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


def test_settings_can_be_overridden_per_call(start_cloud: Any, make_model: Any, ask: Any) -> None:
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
def test_an_invalid_call_option_is_refused_before_sending(
    arguments: dict[str, Any], field: str, start_cloud: Any, make_model: Any, ask: Any
) -> None:
    cloud = start_cloud(app=recall)
    with pytest.raises(InvalidInputError) as caught:
        ask(make_model(cloud), **arguments)
    assert caught.value.field == field
    assert cloud.requests == []


def test_runnable_with_message_history_continues_the_session(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    from langchain_core.chat_history import InMemoryChatMessageHistory
    from langchain_core.runnables.history import RunnableWithMessageHistory

    cloud = start_cloud(app=recall)
    prompt = ChatPromptTemplate([MessagesPlaceholder("history"), ("human", "{question}")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions call both classes deprecated
        kept = InMemoryChatMessageHistory()
        chain = RunnableWithMessageHistory(
            prompt | make_model(cloud),
            lambda session_id: kept,
            input_messages_key="question",
            history_messages_key="history",
        )
    config = {"configurable": {"session_id": "local"}}
    ask(chain, {"question": "one"}, config)
    assert ask(chain, {"question": "two"}, config).content == "known: one | two"
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
