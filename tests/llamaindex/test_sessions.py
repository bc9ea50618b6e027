"""A conversation is in its messages: what the next call sends, and in which session."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, DocumentBlock, ImageBlock, TextBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer

from bailian_apps import BailianError, InvalidInputError
from bailian_apps.emulator import Call, Emulator, Failure


def app(call: Call) -> str:
    return f"第{len(call.turns) + 1}轮"


def user(text: str) -> ChatMessage:
    return ChatMessage(content=text)


def stored(message: ChatMessage) -> ChatMessage:
    """The message after a round trip through a chat store."""
    return ChatMessage.model_validate_json(message.model_dump_json())


def test_two_turns_on_one_list_share_a_session(chat: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm, history = llm_of(cloud), [user("一")]
        history.append(stored(chat(llm, history).last.message))
        history.append(user("二"))
        second = chat(llm, history)
        assert [request.input.get("prompt") for request in cloud.requests] == ["一", "二"]
        first_session = history[1].additional_kwargs["bailian"]["session_id"]
        assert [request.session_id for request in cloud.requests] == [None, first_session]
        assert not cloud.requests[1].messages
    assert second.text == "第2轮"
    marker = second.last.message.additional_kwargs["bailian"]
    assert (marker["session_id"], marker["round"], marker["app_id"]) == (first_session, 2, "app")


def test_the_marker_is_small(chat: Any, llm_of: Any) -> None:
    """LlamaIndex's memory counts it as tokens."""
    with Emulator(apps={"app": app}) as cloud:
        message = chat(llm_of(cloud), [user("一")]).last.message
    assert message.additional_kwargs.keys() == {"bailian"}
    assert len(json.dumps(message.additional_kwargs)) < 200


def test_only_the_last_chunk_has_the_marker(by_method: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        seen = by_method("stream_chat")(llm_of(cloud), [user("一")])
    *chunks, last = seen.responses
    assert chunks
    assert all(chunk.message.additional_kwargs == {} and chunk.raw is None for chunk in chunks)
    assert last.message.additional_kwargs["bailian"]
    assert last.message is not chunks[-1].message


def test_an_answer_of_another_app_forces_the_whole_history(chat: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": app, "other": lambda call: "外人"}) as cloud:
        llm, other, history = llm_of(cloud), llm_of(cloud, "other"), [user("一")]
        history.append(chat(llm, history).last.message)
        history.append(user("二"))
        history.append(chat(other, history).last.message)
        history.append(user("三"))
        chat(llm, history)
        asked = cloud.requests[2]
        assert asked.session_id is None
        assert [message["content"] for message in asked.messages] == [
            "一", "第1轮", "二", "外人", "三",
        ]  # fmt: skip


def test_lost_context_is_reported_and_repaired(
    chat: Any, llm_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm, history = llm_of(cloud), [user("一")]
        history.append(chat(llm, history).last.message)
        assert "context_lost" not in history[1].additional_kwargs["bailian"]
        cloud.forget()
        history.append(user("二"))
        with caplog.at_level(logging.WARNING, "bailian_apps"):
            history.append(chat(llm, history).last.message)
        assert history[3].additional_kwargs["bailian"]["context_lost"] is True
        [record] = caplog.records
        assert "has lost the conversation" in record.getMessage()
        history.append(user("三"))
        chat(llm, history)
        assert [message["content"] for message in cloud.requests[2].messages] == [
            "一", "第1轮", "二", "第1轮", "三",
        ]  # fmt: skip


def contents(request: Any) -> list[str]:
    """The contents of the messages of a request."""
    return [message["content"] for message in request.messages]


def begin(llm: Any) -> list[ChatMessage]:
    """A conversation with one round."""
    return [user("一"), stored(llm.chat([user("一")]).message)]


def forgetful(call: Call) -> Iterator[dict[str, Any]]:
    """In a lost session it only continues when the client has disconnected."""
    if call.request.session_id and not call.turns:
        yield {"output": {"text": "谁？", "finish_reason": "null"}}
        call.disconnected.wait(60)
    yield {"output": {"text": "好", "finish_reason": "stop"}}


def test_an_idempotent_app_is_called_again_when_its_session_is_lost(
    chat: Any, llm_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with Emulator(apps={"app": forgetful}) as cloud:
        llm = llm_of(cloud, idempotent=True)
        history = [*begin(llm), user("二")]
        cloud.forget()
        seen = chat(llm, history)
        assert seen.text == "好"
        assert not chat.streams or seen.streamed_text == "好"
        assert (seen.raw["attempts"], seen.raw["context_lost"]) == (2, False)
        assert seen.raw["whole_history"] is True
        assert "context_lost" not in seen.last.message.additional_kwargs["bailian"]
        _, forgot, again = cloud.requests
        assert forgot.disconnected.is_set()
        assert forgot.session_id == history[1].additional_kwargs["bailian"]["session_id"]
        assert contents(again) == ["一", "好", "二"]
        [record] = caplog.records
        assert "sending the whole history" in record.getMessage()
        chat(llm, [*history, seen.last.message, user("三")])
        assert contents(cloud.requests[3]) == ["一", "好", "二", "好", "三"]


def test_a_branch_sends_the_whole_history(chat: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm = llm_of(cloud)
        trunk = begin(llm)
        for question in ("左", "右", "右"):
            chat(llm, [*trunk, user(question)])
        assert [bool(request.session_id) for request in cloud.requests[1:]] == [True, False, False]
        assert contents(cloud.requests[2]) == contents(cloud.requests[3]) == ["一", "第1轮", "右"]


def test_only_one_of_two_concurrent_calls_uses_the_session(chat: Any, llm_of: Any) -> None:
    both = threading.Barrier(2, timeout=60)

    def app(call: Call) -> str:
        if call.prompt != "一":
            both.wait()
        return "好"

    with Emulator(apps={"app": app}) as cloud, ThreadPoolExecutor() as pool:
        llm = llm_of(cloud)
        trunk = begin(llm)
        seen = list(pool.map(lambda question: chat(llm, [*trunk, user(question)]), ("甲", "乙")))
        assert sorted(each.raw["whole_history"] for each in seen) == [False, True]
        assert sorted(bool(request.session_id) for request in cloud.requests[1:]) == [False, True]


@pytest.mark.parametrize(
    ("failure", "in_session"),
    [
        (Failure(status=429, code="Throttling"), True),
        (Failure(status=500, code="InternalError"), False),
    ],
)
def test_only_a_call_that_did_not_start_releases_the_session(
    failure: Failure, in_session: bool, chat: Any, llm_of: Any
) -> None:
    answers: list[Any] = ["好", failure, "好"]
    with Emulator(apps={"app": lambda call: answers.pop(0)}) as cloud:
        llm = llm_of(cloud)
        history = [*begin(llm), user("二")]
        assert isinstance(chat(llm, history).error, BailianError)
        chat(llm, history)
        assert bool(cloud.requests[2].session_id) is in_session
        assert contents(cloud.requests[2]) == ([] if in_session else ["一", "好", "二"])


def test_an_unread_stream_does_not_take_the_session(by_method: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm = llm_of(cloud)
        history = [*begin(llm), user("二")]
        llm.stream_chat(history).close()
        assert by_method("chat")(llm, history).text == "第2轮"


@pytest.mark.parametrize(
    ("settings", "system", "edited"),
    [
        ({"session_ttl_s": 0}, [], "一"),
        ({"session_max_rounds": 1}, [], "一"),
        ({}, [ChatMessage(role="system", content="短")], "一"),
        ({}, [], "壹"),
    ],
    ids=["too old", "too long", "another system text", "edited"],
)
def test_an_unusable_session_forces_the_whole_history(
    settings: Any, system: Any, edited: str, chat: Any, llm_of: Any
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        image = ImageBlock(url="https://example.com/a.png")
        first = ChatMessage(blocks=[TextBlock(text="一"), image])
        history = [first, stored(llm_of(cloud).chat([first]).message)]
        history[0] = ChatMessage(blocks=[TextBlock(text=edited), image])
        llm = llm_of(cloud, **settings)
        for question in ("二", "三"):
            history.append(user(question))
            response = chat(llm, [*system, *history])
            assert response.raw["whole_history"] is True
            assert cloud.requests[-1].session_id is None
            assert contents(cloud.requests[-1]) == [each.content for each in (*system, *history)]
            assert cloud.requests[-1].input["image_list"] == ["https://example.com/a.png"]
            history.append(stored(response.last.message))


@pytest.mark.parametrize("streams", [True, False])
def test_a_chat_engine_that_strips_the_answer_keeps_the_session(streams: bool, llm_of: Any) -> None:
    """LlamaIndex's engines strip streamed answers, and store them with the marker."""
    with Emulator(apps={"app": lambda call: "  好\n\n"}) as cloud:
        memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
        engine = SimpleChatEngine.from_defaults(llm=llm_of(cloud), memory=memory)
        for question in ("一", "二", "三"):
            if streams:
                list(engine.stream_chat(question).response_gen)  # ends when the answer is kept
            else:
                engine.chat(question)
        [session] = cloud.sessions
        assert [request.session_id for request in cloud.requests] == [None, session, session]


def test_memory_id_is_sent_in_every_call(chat: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm = llm_of(cloud, memory_id="mine")
        chat(llm)
        chat(llm, memory_id="yours")
        chat(llm, history_mode="messages")
        chat(llm_of(cloud))
        sent = [request.input.get("memory_id") for request in cloud.requests]
    assert sent == ["mine", "yours", "mine", None]


def test_an_explicit_session_id_is_used(chat: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm = llm_of(cloud)
        first = chat(llm, [user("一")]).raw["session_id"]
        assert chat(llm, [user("二")], session_id=first).text == "第2轮"
        assert cloud.requests[1].session_id == first


def test_settings_of_a_call_override_the_fields(chat: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": app, "other": app}) as cloud:
        llm, history = llm_of(cloud), [user("一")]
        history.append(chat(llm, history).last.message)
        history.append(user("二"))
        chat(llm, history, history_mode="messages")
        assert [message["content"] for message in cloud.requests[1].messages] == [
            "一", "第1轮", "二",
        ]  # fmt: skip
        chat(llm, history, app_id="other", temperature=0.5)
        assert cloud.requests[2].app_id == "other"
        assert cloud.requests[2].session_id is None
        assert cloud.requests[2].parameters["temperature"] == 0.5


def test_a_completion_never_continues_a_session(complete: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm = llm_of(cloud)
        for _ in range(2):
            assert complete(llm, "一", formatted=True).text == "第1轮"
        assert [request.input for request in cloud.requests] == [{"prompt": "一"}] * 2
        refused = complete(llm, "一", session_id="s")
        assert isinstance(refused.error, InvalidInputError)
        assert len(cloud.requests) == 2


def test_urls_of_messages_and_call_are_both_sent(chat: Any, llm_of: Any) -> None:
    message = ChatMessage(
        blocks=[
            TextBlock(text="看"),
            ImageBlock(url="https://a/1.png"),
            DocumentBlock(url="https://a/1.pdf"),
        ]
    )
    with Emulator(apps={"app": app}) as cloud:
        chat(llm_of(cloud), [message], image_list=["https://a/2.png"], file_list=[])
        assert cloud.requests[0].input["image_list"] == ["https://a/1.png", "https://a/2.png"]
        assert cloud.requests[0].input["file_list"] == ["https://a/1.pdf"]


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"temprature": 1}, "temprature"),
        ({"max_tokens": 100}, "max_tokens"),
        ({"tools": []}, "tools"),
        ({"image_list": "https://a/b.png"}, "image_list"),
        ({"image_list": ["b.png"]}, "image_list[0]"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_invalid_arguments_are_rejected_by_name(
    ask: Any, llm_of: Any, kwargs: dict[str, Any], named: str
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        error = ask(llm_of(cloud), "一", **kwargs).error
        assert not cloud.requests
    assert isinstance(error, InvalidInputError)
    assert error.field == named


@pytest.mark.parametrize(("method", "name"), [("chat", "prompt"), ("complete", "messages")])
def test_the_prompt_cannot_be_passed_twice(
    by_method: Any, llm_of: Any, method: str, name: str
) -> None:
    """The second would silently replace the first."""
    with Emulator(apps={"app": app}) as cloud:
        if method == "chat":
            with pytest.raises(InvalidInputError, match=name):
                llm_of(cloud).chat([user("一")], prompt="二")
        else:
            with pytest.raises(InvalidInputError, match=name):
                llm_of(cloud).complete("一", messages=[{"role": "user", "content": "二"}])
        assert not cloud.requests


@pytest.mark.parametrize(
    "messages", [[], [ChatMessage(role="assistant", content="答")], [ChatMessage(content="")]]
)
def test_a_conversation_without_a_question_is_rejected(
    chat: Any, llm_of: Any, messages: Any
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        assert isinstance(chat(llm_of(cloud), messages).error, InvalidInputError)
        assert not cloud.requests


def test_a_final_text_that_contradicts_the_stream_is_in_raw(chat: Any, llm_of: Any) -> None:
    """The End node streamed a text that the final text does not start with."""
    node = {"nodeId": "End_1", "nodeName": "结束", "nodeType": "End", "nodeStatus": "executing"}
    draft = {"response": json.dumps({**node, "nodeResult": json.dumps({"result": "草稿"})})}
    frames = [
        {"output": {"thoughts": [draft], "finish_reason": "null"}},
        {"output": {"thoughts": [draft], "text": "定稿", "finish_reason": "stop"}},
    ]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        seen = chat(llm_of(cloud))
    assert seen.raw["final_text"] == "定稿"
    assert seen.text.startswith("草稿")
    if chat.streams:
        assert seen.streamed_text == seen.text
