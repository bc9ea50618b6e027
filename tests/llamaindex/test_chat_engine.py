"""`BailianAppChatEngine`: what it stores, which session it continues, how a turn can end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    CitationBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
)
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.memory.memory import InsertMethod
from sqlalchemy.ext.asyncio import create_async_engine
from support import recordings

from bailian_apps import BailianApp, InvalidInputError, RateLimitError
from bailian_apps.emulator import Call, Emulator, Failure
from bailian_apps.llamaindex import BailianAppChatEngine


def app(call: Call) -> str:
    return f"第{len(call.turns) + 1}轮好"


def expect_one_session(cloud: Emulator, history: list[ChatMessage], asked: list[str]) -> None:
    assert [request.prompt for request in cloud.requests] == asked
    answers = [message for message in history if message.role == "assistant"]
    [session] = {message.additional_kwargs["bailian"]["session_id"] for message in answers}
    assert [r.session_id for r in cloud.requests] == [None] + [session] * (len(asked) - 1)
    assert [message.additional_kwargs["bailian"]["round"] for message in answers] == [
        *range(1, len(asked) + 1)
    ]


def test_a_conversation_is_one_session(send: Any, engine_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        engine = engine_of(cloud)
        answers = [str(send(engine, question)) for question in ("一", "二", "三")]
        assert answers == ["第1轮好", "第2轮好", "第3轮好"]
        expect_one_session(cloud, engine.chat_history, ["一", "二", "三"])
    contents = [(message.role.value, message.content) for message in engine.chat_history]
    assert contents[:3] == [("user", "一"), ("assistant", "第1轮好"), ("user", "二")]


def test_the_default_memory_keeps_the_session(
    send: Any, engine_of: Any, loop: asyncio.AbstractEventLoop
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        engine = engine_of(cloud, memory=None)
        send(engine, "一")
        send(engine, "二")
        expect_one_session(cloud, engine.chat_history, ["一", "二"])
    # LlamaIndex leaves its database open; the garbage collector would warn, in another test.
    loop.run_until_complete(engine._memory.sql_store._async_engine.dispose())


async def test_a_database_keeps_the_conversation(llm_of: Any, tmp_path: Path) -> None:
    """Each turn has its own engine and memory, as in two processes."""
    with Emulator(apps={"app": app}) as cloud:
        for turn, question in enumerate(["一", "二"], 1):
            database = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/chat.db")
            memory = Memory.from_defaults("user-1", async_engine=database)
            engine = BailianAppChatEngine(llm=llm_of(cloud), memory=memory)
            response = await engine.astream_chat(question)
            deltas = [delta async for delta in response.async_response_gen()]
            assert "".join(deltas) == f"第{turn}轮好"
            history = await memory.aget_all()
            await database.dispose()
        expect_one_session(cloud, history, ["一", "二"])


def test_reasoning_citations_and_tool_calls_are_stored(send: Any, engine_of: Any) -> None:
    """They are in the message and in the response; LlamaIndex's engines drop them."""
    call = {"action_type": "api", "action_name": "weather", "arguments": '{"city": "杭州"}'}
    reference = {"doc_id": "d", "index_id": "1", "title": "天气", "text": "晴"}
    frames = [
        {"output": {"thoughts": [{"action_type": "reasoning", "thought": "想"}], "text": ""}},
        {"output": {"thoughts": [{**call, "observation": "晴"}], "text": "晴"}},
        {"output": {"text": "天", "finish_reason": "stop", "doc_references": [reference]}},
    ]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        engine = engine_of(cloud, message_blocks="all")
        result = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url).invoke("?")
        response = send(engine, "天气？")
    assert str(response) == result.text == "晴天"
    kept = engine.chat_history[-1]
    assert [type(block) for block in kept.blocks] == [
        *([ThinkingBlock] if result.reasoning else []),
        TextBlock,
        CitationBlock,
    ]
    assert kept.additional_kwargs["bailian"]["session_id"]
    [source] = response.sources
    assert (source.tool_name, source.content) == ("weather", "晴")
    assert source.raw_input["kwargs"] == {"city": "杭州"}
    [node] = response.source_nodes
    assert (node.node.node_id, node.node.metadata["title"]) == ("d", "天气")
    if "stream" not in send.method:
        assert response.metadata["request_id"]


def test_an_answer_with_reasoning_keeps_the_session(send: Any, engine_of: Any) -> None:
    stop = {"output": {"text": "", "finish_reason": "stop"}}
    frames = [*recordings.frames("agent-deep-thinking-elided-head.sse"), stop]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        engine = engine_of(cloud)
        send(engine, "?")
        send(engine, "?")
        assert cloud.requests[1].session_id, (
            "reasoning must not prevent the session from continuing"
        )
    assert isinstance(engine.chat_history[1].blocks[0], ThinkingBlock)


def test_reset_starts_a_new_session(send: Any, engine_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        engine = engine_of(cloud)
        send(engine, "一")
        engine.reset()
        assert engine.chat_history == []
        assert str(send(engine, "二")) == "第1轮好"
        assert cloud.requests[1].session_id is None


def test_chat_history_replaces_the_memory(send: Any, engine_of: Any) -> None:
    given = [ChatMessage(content="甲"), ChatMessage(content="乙", role="assistant")]
    with Emulator(apps={"app": app}) as cloud:
        engine = engine_of(cloud)
        send(engine, "一")
        send(engine, "二", given)
        assert [message["content"] for message in cloud.requests[1].messages] == ["甲", "乙", "二"]
        assert [message.content for message in engine.chat_history][:3] == ["甲", "乙", "二"]


@pytest.mark.parametrize("end", ["closed", "dropped"])
@pytest.mark.parametrize("method", ["stream_chat", "astream_chat"])
def test_a_stream_that_is_never_read_restores_the_history(
    method: str, end: str, engine_of: Any, loop: asyncio.AbstractEventLoop
) -> None:
    async def begin(engine: Any, given: list[ChatMessage]) -> None:
        response = await engine.astream_chat("二", given)
        if end == "closed":
            await response.achat_stream.aclose()
        del response
        gc.collect()
        closing = asyncio.Event()  # set after the loop has started a dropped generator's closing
        asyncio.get_running_loop().call_soon(closing.set)
        await closing.wait()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    with Emulator(apps={"app": app}) as cloud:
        engine = engine_of(cloud)
        engine.chat("一")
        before = engine.chat_history
        given = [ChatMessage(content="甲"), ChatMessage(content="乙", role="assistant")]
        if method == "astream_chat":
            loop.run_until_complete(begin(engine, given))
        else:
            response = engine.stream_chat("二", given)
            if end == "closed":
                response.chat_stream.close()
            del response
            gc.collect()
        assert engine.chat_history == before
        assert len(cloud.requests) == 1


def test_chat_history_can_be_set_on_creation(send: Any, engine_of: Any) -> None:
    given = [ChatMessage(content="甲"), ChatMessage(content="乙", role="assistant")]
    with Emulator(apps={"app": app}) as cloud:
        send(engine_of(cloud, chat_history=given), "二")
        assert [message["content"] for message in cloud.requests[0].messages] == ["甲", "乙", "二"]


def test_a_system_prompt_precedes_every_turn(send: Any, engine_of: Any) -> None:
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        engine = engine_of(cloud, system_prompt="用中文")
        send(engine, "一")
        send(engine, "二")
        sent = [[message["content"] for message in r.messages] for r in cloud.requests]
        assert sent == [["用中文", "一"], ["用中文", "一", "好", "二"]]
        assert "用中文" not in [message.content for message in engine.chat_history]
        with pytest.raises(InvalidInputError, match="prefix_messages"):
            engine_of(cloud, system_prompt="用中文", prefix_messages=[])


def test_an_image_of_a_message_is_sent(send: Any, engine_of: Any) -> None:
    blocks = [TextBlock(text="这是什么？"), ImageBlock(url="https://a/b.png")]
    with Emulator(apps={"app": app}) as cloud:
        send(engine_of(cloud), ChatMessage(blocks=blocks))
        assert cloud.requests[0].input["image_list"] == ["https://a/b.png"]


def test_settings_can_be_overridden_for_one_turn(
    send: Any, engine_of: Any, spans: Any, events: Any
) -> None:
    params = {"city": "杭州", "user_defined_tokens": {"t": {"user_token": "TOKENSECRET"}}}
    with Emulator(apps={"app": app}) as cloud:
        engine = engine_of(cloud)
        send(engine, "一", biz_params=params, api_key="sk-KEYSECRET")
        send(engine, "二", session_id="elsewhere")
        with pytest.raises(InvalidInputError, match="colour"):
            send(engine, "三", colour="red")
        first, second = cloud.requests
    assert first.biz_params == params
    assert (second.biz_params, second.session_id) == ({}, "elsewhere")
    shown = str([note.inputs for note in spans.notes]) + str(events.events)
    assert "杭州" in shown
    assert "SECRET" not in shown


def test_a_full_memory_reserves_tokens_for_the_question(send: Any, engine_of: Any) -> None:
    """The question is not in the memory yet, but its tokens count."""
    memory = ChatMemoryBuffer.from_defaults(token_limit=12, tokenizer_fn=list)
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        engine = engine_of(cloud, memory=memory, history_mode="messages")
        send(engine, "一二三")
        send(engine, "四五六七八九十一二三")
        sent = [message["content"] for message in cloud.requests[1].messages]
        assert sent[-1] == "四五六七八九十一二三"
        assert "一二三" not in sent
        send(engine, "这些话比记忆能装下的还要多得多")
        assert cloud.requests[2].messages[-1]["content"] == "这些话比记忆能装下的还要多得多"


# --------------------------------------------------------- failed and interrupted turns


def test_a_failed_turn_is_not_stored(send: Any, engine_of: Any, spans: Any) -> None:
    answers: list[Any] = ["第一", Failure(status=429, code="Throttling"), "第二"]
    with Emulator(apps={"app": lambda call: answers.pop(0)}) as cloud:
        engine = engine_of(cloud)
        send(engine, "一")
        with pytest.raises(RateLimitError):
            send(engine, "二")
        assert [message.content for message in engine.chat_history] == ["一", "第一"]
        send(engine, "三")
        assert cloud.requests[2].prompt == "三"


def held(call: Call) -> Iterator[dict[str, Any]]:
    yield {"output": {"text": "西", "finish_reason": "null"}}
    call.disconnected.wait(60)


def test_closing_the_stream_ends_the_run(engine_of: Any, spans: Any, kept: Any) -> None:
    with Emulator(apps={"app": held}) as cloud:
        engine = engine_of(cloud)
        response = engine.stream_chat("?")
        assert next(response.chat_stream).delta == "西"
        response.chat_stream.close()
        assert not spans.open_spans
        assert cloud.requests[0].disconnected.wait(60)
        assert engine.chat_history == []


async def test_closing_the_async_stream_ends_the_run(llm_of: Any, spans: Any, kept: Any) -> None:
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
    with Emulator(apps={"app": held}) as cloud:
        engine = BailianAppChatEngine(llm=llm_of(cloud), memory=memory)
        response = await engine.astream_chat("?")
        assert (await anext(response.achat_stream)).delta == "西"
        await response.achat_stream.aclose()
        assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)
        assert not spans.open_spans
        assert engine.chat_history == []


async def test_cancelling_the_task_ends_the_run(llm_of: Any, spans: Any) -> None:
    received = asyncio.Event()
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)

    async def listen(engine: BailianAppChatEngine) -> None:
        response = await engine.astream_chat("?")
        async for _ in response.async_response_gen():
            received.set()

    with Emulator(apps={"app": held}) as cloud:
        engine = BailianAppChatEngine(llm=llm_of(cloud), memory=memory)
        task = asyncio.create_task(listen(engine))
        await asyncio.wait_for(received.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)
        assert not spans.open_spans
        assert str(spans.named("BailianApp.run").error) == "the task was cancelled"
        assert engine.chat_history == []


def test_an_unread_stream_sends_no_request(engine_of: Any, spans: Any) -> None:
    with Emulator(apps={"app": held}) as cloud:
        engine = engine_of(cloud)
        response = engine.stream_chat("?")
        spans.forget_results()
        del response
        gc.collect()
        assert not spans.open_spans
        assert not cloud.requests
        assert engine.chat_history == []


def test_no_thread_is_started(engine_of: Any) -> None:
    def ours() -> set[threading.Thread]:
        return {each for each in threading.enumerate() if "emulator" not in each.name}

    readers: set[str] = set()
    with Emulator(apps={"app": lambda call: "西湖在杭州市西边"}) as cloud:
        engine = engine_of(cloud)
        before = ours()
        response = engine.stream_chat("?")
        for chunk in response.chat_stream:
            readers.add(chunk.delta or "")
            new = {thread.name for thread in threading.enumerate() if "write" in thread.name}
            assert not new
        assert getattr(response, "write_response_to_history_thread", None) is None
        assert ours() == before
    assert readers == {"西湖在杭", "州市西边", ""}


def test_a_turn_is_stored_with_its_last_chunk(engine_of: Any) -> None:
    """A consumer may stop at the last chunk without closing the stream."""
    with Emulator(apps={"app": app}) as cloud:
        engine = engine_of(cloud)
        response = engine.stream_chat("一")
        for chunk in response.chat_stream:
            if chunk.raw is not None:
                break
        assert len(engine.chat_history) == 2


async def test_engines_of_one_llm_keep_separate_sessions(llm_of: Any) -> None:
    """One LLM serves many engines at once, because it holds no session."""

    async def talk(engine: BailianAppChatEngine) -> AsyncIterator[str]:
        for question in ("一", "二", "三"):
            response = await engine.astream_chat(question)
            yield "".join([delta async for delta in response.async_response_gen()])

    async def collect(engine: BailianAppChatEngine) -> list[str]:
        return [answer async for answer in talk(engine)]

    with Emulator(apps={"app": app}) as cloud:
        llm = llm_of(cloud)
        engines = [
            BailianAppChatEngine(llm=llm, memory=ChatMemoryBuffer.from_defaults(token_limit=3000))
            for _ in range(8)
        ]
        received = await asyncio.gather(*map(collect, engines))
        assert received == [["第1轮好", "第2轮好", "第3轮好"]] * 8
        assert len(cloud.sessions) == 8


def test_spans_of_a_turn_are_nested(send: Any, engine_of: Any, spans: Any) -> None:
    with Emulator(apps={"app": recordings.FOLDER / "workflow-two-llm-fixed-end.sse"}) as cloud:
        send(engine_of(cloud), "?")
    chat = spans.named(f"BailianAppChatEngine.{send.method}")
    llm = spans.named(f"BailianAppLLM.{send.method}")
    run = spans.named("BailianApp.run")
    assert (llm.parent_id, run.parent_id) == (chat.id, llm.id)
    steps = [note for note in spans.notes if note.parent_id == run.id]
    assert len(steps) > 1
    assert {note.outcome for note in spans.notes} == {"exit"}


# ----------------------------------------------------------------- no context is lost silently


def session_of(message: ChatMessage) -> Any:
    return message.additional_kwargs.get("bailian", {}).get("session_id")


async def test_concurrent_turns_lose_no_context(llm_of: Any) -> None:
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
    with Emulator(apps={"app": app}) as cloud:
        engine = BailianAppChatEngine(llm=llm_of(cloud), memory=memory)
        await asyncio.gather(engine.achat("一"), engine.achat("二"))
        await engine.achat("三")
        last = cloud.requests[2]
        assert last.session_id is None
        assert {"一", "二", "三"} <= {message["content"] for message in last.messages}


async def test_one_task_at_a_time_uses_the_memory(llm_of: Any) -> None:
    """LlamaIndex's `Memory` on one connection loses messages that are put during a read."""
    there: list[str] = []

    class Watched(ChatMemoryBuffer):
        async def _alone(self, method: str, *args: Any, **kwargs: Any) -> Any:
            there.append(method)
            await asyncio.sleep(0)
            assert there == [method]
            there.clear()
            return getattr(self, method)(*args, **kwargs)

        async def aget_all(self) -> Any:
            return await self._alone("get_all")

        async def aget(self, *args: Any, **kwargs: Any) -> Any:
            return await self._alone("get", *args, **kwargs)

        async def aput_messages(self, messages: Any) -> None:
            await self._alone("put_messages", messages)

    with Emulator(apps={"app": app}) as cloud:
        memory = Watched.from_defaults(token_limit=3000)
        engine = BailianAppChatEngine(llm=llm_of(cloud), memory=memory)
        await asyncio.gather(*map(engine.achat, "一二三"))
        assert {"一", "二", "三"} <= {message.content for message in engine.chat_history}


def test_one_thread_at_a_time_uses_the_memory(engine_of: Any) -> None:
    met: list[int] = []
    asked = threading.Barrier(2)

    class Watched(ChatMemoryBuffer):
        def get_all(self) -> list[ChatMessage]:
            meet()
            return super().get_all()

        def put_messages(self, messages: list[ChatMessage]) -> None:
            meet()
            super().put_messages(messages)

    both = threading.Barrier(2)

    def meet() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            met.append(both.wait(0.2))
        both.reset()

    def answer_both(call: Call) -> str:
        asked.wait(60)
        return "好"

    with Emulator(apps={"app": answer_both}) as cloud, ThreadPoolExecutor(2) as threads:
        engine = engine_of(cloud, memory=Watched.from_defaults(token_limit=3000))
        list(threads.map(engine.chat, "一二"))
    assert not met


async def test_concurrent_turns_lose_nothing_in_the_default_memory(llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        engine = BailianAppChatEngine(llm=llm_of(cloud))
        for question in ("一二三四五六", "七八九十甲乙", "丙丁戊己庚辛"):
            await asyncio.gather(*map(engine.achat, question))
        history = await engine._memory.aget_all()
        contents = [message.content for message in history if message.role == "user"]
        assert sorted(contents) == sorted("一二三四五六七八九十甲乙丙丁戊己庚辛")
    await engine._memory.sql_store._async_engine.dispose()


def test_interleaved_streams_of_two_engines_lose_nothing(engine_of: Any) -> None:
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
    with Emulator(apps={"app": app}) as cloud:
        first, second = (engine_of(cloud, memory=memory) for _ in "ab")
        responses = [first.stream_chat("一"), second.stream_chat("二")]
        for response in responses:
            list(response.response_gen)
        assert [message.content for message in memory.get_all()] == [
            *("一", "第1轮好"),
            *("二", "第1轮好"),
        ]
        first.chat("三")
        assert cloud.requests[2].session_id is None
        assert len(cloud.requests[2].messages) == 5


def second_is_held(call: Call) -> Any:
    return held(call) if call.prompt == "二" else app(call)


def expect_whole_history(cloud: Emulator) -> None:
    last = cloud.requests[-1]
    assert last.session_id is None
    assert [message["content"] for message in last.messages] == ["一", "第1轮好", "二半"]


def test_after_an_interrupted_turn_the_whole_history_is_sent(engine_of: Any) -> None:
    with Emulator(apps={"app": second_is_held}) as cloud:
        engine = engine_of(cloud)
        engine.chat("一")
        stream = engine.stream_chat("二").chat_stream
        next(stream)
        stream.close()
        assert [message.content for message in engine.chat_history] == ["一", "第1轮好"]
        engine.chat("二半")
        expect_whole_history(cloud)


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_an_interrupted_turn_does_not_rewrite_the_memory(mode: str, llm_of: Any) -> None:
    """It would remove turns that another call, perhaps in another process, stored meanwhile."""

    class OnlyAppended(ChatMemoryBuffer):
        def set(self, messages: list[ChatMessage]) -> None:
            raise AssertionError

    memory = OnlyAppended.from_defaults(token_limit=3000)
    with Emulator(apps={"app": second_is_held}) as cloud:
        engine = BailianAppChatEngine(llm=llm_of(cloud), memory=memory)
        if mode == "sync":
            engine.chat("一")
            stream: Any = engine.stream_chat("二").chat_stream
            next(stream)
            stream.close()
        else:
            await engine.achat("一")
            stream = (await engine.astream_chat("二")).achat_stream
            await anext(stream)
            await stream.aclose()
        assert [message.content for message in engine.chat_history] == ["一", "第1轮好"]


async def test_after_an_interrupted_async_turn_the_whole_history_is_sent(llm_of: Any) -> None:
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
    with Emulator(apps={"app": second_is_held}) as cloud:
        engine = BailianAppChatEngine(llm=llm_of(cloud), memory=memory)
        await engine.achat("一")
        stream: Any = (await engine.astream_chat("二")).achat_stream
        await anext(stream)
        await stream.aclose()
        await engine.achat("二半")
        expect_whole_history(cloud)


def test_a_memory_that_drops_the_answer_keeps_the_session(send: Any, engine_of: Any) -> None:
    class Forgetful(ChatMemoryBuffer):
        def get(self, *args: Any, **kwargs: Any) -> list[ChatMessage]:
            return []

    memory = Forgetful.from_defaults(token_limit=3000)
    with Emulator(apps={"app": app}) as cloud:
        engine = engine_of(cloud, memory=memory)
        send(engine, "一")
        send(engine, "二")
        expect_one_session(cloud, engine.chat_history, ["一", "二"])


def test_a_question_over_the_token_limit_keeps_the_session(send: Any, engine_of: Any) -> None:
    memory = ChatMemoryBuffer.from_defaults(token_limit=8, tokenizer_fn=list)
    with Emulator(apps={"app": app}) as cloud:
        engine = engine_of(cloud, memory=memory)
        send(engine, "一")
        send(engine, "这些话比记忆能装下的还要多得多")
        assert cloud.requests[1].session_id == session_of(engine.chat_history[1])


def test_a_failed_turn_restores_the_replaced_history(send: Any, engine_of: Any) -> None:
    answers: list[Any] = ["第一", Failure(status=429, code="Throttling"), "第二"]
    with Emulator(apps={"app": lambda call: answers.pop(0)}) as cloud:
        engine = engine_of(cloud)
        send(engine, "一")
        with pytest.raises(RateLimitError):
            send(engine, "二", [])
        with pytest.raises(InvalidInputError):
            send(engine, "二", [], colour="red")
        assert [message.content for message in engine.chat_history] == ["一", "第一"]
        send(engine, "三")
        assert cloud.requests[2].session_id == session_of(engine.chat_history[1])


def test_a_failed_turn_does_not_remove_another(send: Any, engine_of: Any) -> None:
    """A turn that another call stored after `chat_history` stays."""
    given = [ChatMessage(content="甲"), ChatMessage(content="乙", role="assistant")]
    kept: list[list[str | None]] = []

    def fail_while_another_speaks(call: Call) -> Any:
        if call.prompt == "二":
            engine.chat("三")
            kept.append([message.content for message in engine.chat_history])
            return Failure(status=429, code="Throttling")
        return app(call)

    with Emulator(apps={"app": fail_while_another_speaks}) as cloud:
        engine = engine_of(cloud)
        send(engine, "一")
        with pytest.raises(RateLimitError):
            send(engine, "二", given)
        assert [message.content for message in engine.chat_history] == kept[0]
    assert kept[0][:3] == ["甲", "乙", "三"]


def test_a_memory_that_inserts_into_user_messages_is_rejected(llm_of: Any) -> None:
    memory = Memory(token_limit=99, insert_method=InsertMethod.USER, session_id="s")
    with pytest.raises(InvalidInputError) as caught, Emulator(apps={"app": app}) as cloud:
        BailianAppChatEngine(llm=llm_of(cloud), memory=memory)
    assert caught.value.field == "memory"
