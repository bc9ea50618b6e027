"""`BailianAppChatEngine` in LlamaIndex's company: events of a stream, memory blocks, copies."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core.instrumentation.events.chat_engine import (
    StreamChatDeltaReceivedEvent,
    StreamChatEndEvent,
    StreamChatErrorEvent,
    StreamChatStartEvent,
)
from llama_index.core.memory import (
    BaseMemory,
    ChatMemoryBuffer,
    FactExtractionMemoryBlock,
    Memory,
)

from bailian_apps import BailianError, InvalidInputError
from bailian_apps.emulator import Agent, Call, Emulator
from bailian_apps.llamaindex import BailianAppChatEngine, BailianAppLLM

STREAMS = ("stream_chat", "astream_chat")
KEY = "sk-very-secret"


def pieces(call: Call) -> Iterator[dict[str, Any]]:
    for piece in ("It ", "rains."):
        yield {"text": piece, "finish_reason": "null"}
    yield {"text": "", "finish_reason": "stop"}


def broken(call: Call) -> Iterator[dict[str, Any]]:
    yield {"text": "It ", "finish_reason": "null"}


async def streamed(engine: Any, method: str, *, stop_after: int | None = None) -> Any:
    """Read a streamed turn, or its beginning; return the response, also of one that fails."""
    response = getattr(engine, method)("hi")
    response = await response if method.startswith("a") else response
    deltas = response.async_response_gen() if method.startswith("a") else response.response_gen
    read: list[str] = []
    with contextlib.suppress(BailianError):
        if method.startswith("a"):
            async for delta in deltas:
                read.append(delta)
                if len(read) == stop_after:
                    await response.achat_stream.aclose()
                    break
        else:
            for delta in deltas:
                read.append(delta)
                if len(read) == stop_after:
                    response.chat_stream.close()
                    break
    return response


def named(events: Any) -> list[str]:
    names = [type(event).__name__ for event in events.events]
    return [name for name in names if name.startswith("StreamChat")]


@pytest.mark.parametrize("method", STREAMS)
async def test_a_streamed_turn_reports_what_llamaindex_engines_report(
    method: str, engine_of: Any, events: Any
) -> None:
    with Emulator(apps={"app": pieces}) as cloud:
        response = await streamed(engine_of(cloud), method)
    assert response.is_done
    assert response.exception is None
    assert str(response) == "It rains."
    assert len(events.of(StreamChatStartEvent)) == len(events.of(StreamChatEndEvent)) == 1
    deltas = [event.delta for event in events.of(StreamChatDeltaReceivedEvent)]
    assert "".join(deltas) == "It rains."
    names = named(events)
    assert (names[0], names[-1]) == ("StreamChatStartEvent", "StreamChatEndEvent")


@pytest.mark.parametrize("method", STREAMS)
async def test_a_stream_that_fails_or_is_closed_reports_no_end(
    method: str, engine_of: Any, events: Any
) -> None:
    with Emulator(apps={"app": broken, "other": pieces}) as cloud:
        failed = await streamed(engine_of(cloud), method)
        assert isinstance(failed.exception, BailianError)
        [event] = events.of(StreamChatErrorEvent)
        assert event.exception is failed.exception
        closed = await streamed(engine_of(cloud, "other"), method, stop_after=1)
        assert closed.exception is None
    assert not failed.is_done
    assert not closed.is_done
    assert not events.of(StreamChatEndEvent)
    assert len(events.of(StreamChatErrorEvent)) == 1


def held(call: Call) -> Iterator[dict[str, Any]]:
    yield {"text": "It ", "finish_reason": "null"}
    call.disconnected.wait(60)


def test_a_response_that_is_dropped_ends_its_run_at_once(engine_of: Any) -> None:
    """Nothing but the response holds the stream: no garbage collection is needed."""
    gc.disable()
    try:
        with Emulator(apps={"app": held}) as cloud:
            response = engine_of(cloud).stream_chat("hi")
            assert next(response.chat_stream).delta == "It "
            dropped = weakref.ref(response)
            del response
            assert dropped() is None
            assert cloud.requests[0].disconnected.wait(60)
    finally:
        gc.enable()


# ------------------------------------------------------------------------------- memory blocks


def facts_or_answer(call: Call) -> str:
    asked = call.prompt + "".join(str(each["content"]) for each in call.messages)
    return "<fact>likes tea</fact>" if "<facts>" in asked else "answer" + " tea" * 60


def memory_with_facts(llm: BailianAppLLM) -> Any:
    """A memory that has the LLM extract facts from each turn but the newest answer."""
    return Memory.from_defaults(
        token_limit=100,
        token_flush_size=10,
        chat_history_token_ratio=0.5,
        memory_blocks=[FactExtractionMemoryBlock(llm=llm)],
    )


def test_a_memory_block_with_the_same_llm_does_not_disturb_the_session(
    send: Any, llm_of: Any, loop: asyncio.AbstractEventLoop
) -> None:
    """With `max_concurrency=1` too, where its call has to wait for the end of the turn's."""
    with Emulator(apps={"app": facts_or_answer}) as cloud:
        llm = llm_of(cloud, max_concurrency=1)
        memory = memory_with_facts(llm)
        engine = BailianAppChatEngine(llm=llm, memory=memory)
        for question in ("one", "two", "three"):
            assert str(send(engine, question)).startswith("answer")
        assert memory.memory_blocks[0].facts == ["likes tea"]
        extractions = [each for each in cloud.requests if "<facts>" in str(each.input)]
        assert extractions
        assert not any(each.session_id for each in extractions), "none continues a session"
    loop.run_until_complete(memory.sql_store._async_engine.dispose())


# -------------------------------------------------------------------------------------- copies


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda engine: pickle.loads(pickle.dumps(engine)),
}
MEMORIES: dict[str, Callable[[], BaseMemory | None]] = {
    "buffer": lambda: ChatMemoryBuffer.from_defaults(token_limit=3000),
    "default": lambda: None,
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the databases of LlamaIndex's memory
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("way", COPIES)
def test_a_copied_engine_goes_on_with_the_conversation(
    way: str, memory: str, llm_of: Any, monkeypatch: pytest.MonkeyPatch, loop: Any
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    with Emulator(apps={"app": lambda call: "ok"}) as cloud:
        llm = llm_of(cloud, api_key=KEY)
        engine = BailianAppChatEngine(llm=llm, memory=MEMORIES[memory]())
        engine.chat("one")
        copied = COPIES[way](engine)
        assert [each.content for each in copied.chat_history] == ["one", "ok"]
        assert "".join(copied.stream_chat("two").response_gen) == "ok"
        assert cloud.requests[-1].session_id
        assert len(copied.chat_history) == 4
        assert len(engine.chat_history) == (4 if way == "copy" else 2)
        close(loop, engine, copied)


def close(loop: asyncio.AbstractEventLoop, *engines: Any) -> None:
    for engine in engines:
        store = getattr(engine._memory, "sql_store", None)
        if store is not None and store._async_engine is not None:
            loop.run_until_complete(store._async_engine.dispose())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("memory", MEMORIES)
def test_a_pickled_engine_holds_no_key(memory: str, llm_of: Any, loop: Any) -> None:
    with Emulator(apps={"app": lambda call: "ok"}) as cloud:
        llm = llm_of(cloud, api_key=KEY, biz_params={"token": "secret-too"})
        engine = BailianAppChatEngine(llm=llm, memory=MEMORIES[memory]())
        engine.chat("one")
        dumped = pickle.dumps(engine)
        assert KEY.encode() not in dumped
        assert b"secret-too" not in dumped
        unpickled = pickle.loads(dumped)
        with pytest.raises(InvalidInputError, match="api_key is masked"):
            unpickled.chat("two")
        copied = copy.deepcopy(engine)
        assert copied.chat("two").response == "ok", "a copy keeps the key"
        close(loop, engine, unpickled, copied)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_an_engine_on_a_database_is_not_taken_along(way: str, tmp_path: Any) -> None:
    memory = Memory.from_defaults(async_database_uri=f"sqlite+aiosqlite:///{tmp_path}/chat.db")
    engine = BailianAppChatEngine.from_defaults(app_id="app", api_key=KEY, memory=memory)
    with pytest.raises(TypeError, match="memory is on a database"):
        COPIES[way](engine)
    assert copy.copy(engine)._memory is memory


def test_a_copied_engine_still_reports_its_sources(engine_of: Any) -> None:
    app = Agent(text="It rains.", references=[{"title": "Almanac", "text": "It often rains."}])
    with Emulator(apps={"app": app}) as cloud:
        response = copy.deepcopy(engine_of(cloud)).stream_chat("hi")
        assert "".join(response.response_gen) == "It rains."
    assert [node.get_content() for node in response.source_nodes] == ["It often rains."]
