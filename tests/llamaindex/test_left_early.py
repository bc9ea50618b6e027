"""Leaving an async stream early: the caller gets its own error, and nothing is left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from support.leaving import HELD, LEAVE, Endless, Leave, by_garbage, by_shutdown, settled

from bailian_apps.emulator import Emulator
from bailian_apps.llamaindex import BailianAppChatEngine, BailianAppLLM

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
