"""Leaving an async stream early: the caller gets its own error, and nothing is left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from llama_index.core.agent.workflow import AgentOutput
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer, Memory
from support.leaving import HELD, LEAVE, Endless, Leave, by_garbage, by_shutdown, settled

from bailian_apps.emulator import Emulator
from bailian_apps.llamaindex import BailianAppAgent, BailianAppChatEngine, BailianAppLLM

EARLIER = [ChatMessage(content="一"), ChatMessage(content="好", role="assistant")]


class SlowMemory(ChatMemoryBuffer):
    """A memory in which every operation takes a few turns of the loop, as in a database."""

    async def aset(self, messages: list[ChatMessage]) -> None:
        for _turn in range(5):
            await asyncio.sleep(0)
        await super().aset(messages)


async def llm(fields: dict[str, Any]) -> tuple[Any, Any]:
    model = BailianAppLLM(**fields)
    return None, await model.astream_chat([ChatMessage(content="hi")])


async def engine(fields: dict[str, Any]) -> tuple[Any, Any]:
    memory = SlowMemory.from_defaults(chat_history=EARLIER, token_limit=3000)
    made = BailianAppChatEngine.from_defaults(**fields, memory=memory)
    response = await made.astream_chat("hi", [ChatMessage(content="二")])
    return made, response.achat_stream


@pytest.mark.parametrize("leave", [*LEAVE, by_garbage, by_shutdown])
@pytest.mark.parametrize("start", [llm, engine])
def test_leaving_an_async_stream_early_ends_all_of_it_once(
    start: Callable[..., Any], leave: Leave, request: pytest.FixtureRequest, caplog: Any
) -> None:
    # This recorder keeps the response of an engine, which then could not be garbage.
    spans = request.getfixturevalue("spans") if start is llm else None
    endless, engines = Endless(), []

    async def main(times: int) -> None:
        for _ in range(times):
            made, stream = await start(fields)
            engines.append(made)
            spoke = asyncio.Event()
            await anext(stream)
            spoke.set()
            reading = leave(stream, spoke)
            del stream
            await reading
            if leave is not by_shutdown:
                await settled()

    times = 1 if leave is by_shutdown else 2
    with Emulator(apps={"app": endless}) as cloud:
        fields = {"app_id": "app", "api_key": "k", "base_url": cloud.base_url, "max_concurrency": 1}
        with caplog.at_level(logging.WARNING):
            asyncio.run(main(times))
        HELD.clear()
        assert endless.left() == times
    assert not caplog.messages
    assert spans is None or not spans.open_spans
    assert all(each.chat_history == EARLIER for each in engines if each)


def memory_left_during(operation: str, leave: Callable[[], None]) -> Memory:
    """LlamaIndex's default memory, whose user leaves during one of its operations."""

    async def leaving(self: Memory, *args: Any, **kwargs: Any) -> Any:
        leave()
        return await getattr(Memory, operation)(self, *args, **kwargs)

    return type("LeftMemory", (Memory,), {operation: leaving}).from_defaults(session_id="s")


async def closed(memory: Any) -> None:
    await memory.sql_store._async_engine.dispose()


@pytest.mark.parametrize(
    ("operation", "kept"),
    [("aset", ["一", "好"]), ("aget", ["一", "好"]), ("aput_messages", ["二", "hi", "答"])],
)
async def test_the_default_memory_outlives_a_cancelled_operation(
    operation: str, kept: list[str]
) -> None:
    """Its database is in the connection, which SQLAlchemy closes when a statement is cancelled."""
    scope = anyio.CancelScope()
    memory = memory_left_during(operation, scope.cancel)
    await Memory.aset(memory, EARLIER)
    with Emulator(apps={"app": lambda _: "答"}) as cloud:
        made = BailianAppChatEngine.from_defaults(
            app_id="app", api_key="k", base_url=cloud.base_url, memory=memory
        )
        with scope:
            await made.achat("hi", [ChatMessage(content="二")])
        assert scope.cancelled_caught
        await made.achat("go on")
    assert [each.content for each in await memory.aget_all()] == [*kept, "go on", "答"]
    await closed(memory)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_cancelled_agent_leaves_the_default_memory_whole() -> None:
    scope = anyio.CancelScope()
    memory = memory_left_during("aput", scope.cancel)
    await memory.aset(EARLIER)
    answer = ChatMessage(content="答", role="assistant")
    output = AgentOutput(response=answer, current_agent_name="guide")
    with scope:
        await BailianAppAgent(app_id="app", api_key="k", name="guide").finalize(
            None, output, memory
        )
    assert scope.cancelled_caught
    assert await memory.aget_all() == [*EARLIER, answer]
    await closed(memory)
