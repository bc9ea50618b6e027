"""Leaving an async stream early: the caller gets its own error, and nothing is left behind.

LangChain drops generators that it has begun, and the event loop closes those in tasks of its own.
The handlers here wait as a run ends, so two tasks that close one generator would meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda

from bailian_apps import BailianApp
from bailian_apps.emulator import Call, Emulator
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
)


class OwnError(Exception):
    """What the reader of a stream, or a handler, raises."""


class Endless:
    """An app with a step open that says a word for as long as somebody listens."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, call: Call) -> Iterator[dict[str, Any]]:
        self.calls.append(call)
        mail = [{"action_type": "api", "action_name": "mail"}]
        while not call.disconnected.wait(0.005):
            yield {"output": {"text": "word ", "finish_reason": "null", "thoughts": mail}}

    def left(self) -> int:
        """Wait until all callers have left, and return how many there were since the last time."""
        calls, self.calls = self.calls, []
        return sum(call.disconnected.wait(60) for call in calls)


class Runs(AsyncCallbackHandler):
    """Counts how often each run ends; ending takes a few turns of the loop."""

    raise_error = True

    def __init__(self) -> None:
        self.ends: dict[Any, int] = {}
        self.spoke = asyncio.Event()
        self.token_error: Exception | None = None
        self.token_turns = 0
        self.held: Any = None

    async def _start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.ends[run_id] = 0

    async def _end(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.ends[run_id] += 1
        for _turn in range(5):
            await asyncio.sleep(0)

    on_chat_model_start = on_chain_start = on_tool_start = on_retriever_start = _start
    on_llm_end = on_chain_end = on_tool_end = on_retriever_end = _end
    on_llm_error = on_chain_error = on_tool_error = on_retriever_error = _end

    async def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.spoke.set()
        if self.token_error is not None:
            raise self.token_error
        for _turn in range(self.token_turns):
            await asyncio.sleep(0)

    async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        self.spoke.set()


async def begin(stream: AsyncIterator[Any], runs: Runs) -> None:
    """Read until the app has said something."""
    while not runs.spoke.is_set():
        await anext(stream)


async def by_break(stream: AsyncIterator[Any], runs: Runs) -> None:
    async for _ in stream:
        if runs.spoke.is_set():
            break


async def by_aclose(stream: Any, runs: Runs) -> None:
    await begin(stream, runs)
    await stream.aclose()


async def by_own_error(stream: AsyncIterator[Any], runs: Runs) -> None:
    with pytest.raises(OwnError):
        async for _ in stream:
            if runs.spoke.is_set():
                raise OwnError


async def by_cancelling(stream: AsyncIterator[Any], runs: Runs) -> None:
    async def read() -> None:
        async for _ in stream:
            pass

    task = asyncio.create_task(read())
    await runs.spoke.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_timeout(stream: AsyncIterator[Any], runs: Runs) -> None:
    async def read() -> None:
        async for _ in stream:
            pass

    await begin(stream, runs)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(read(), 0.01)


async def by_garbage(stream: Any, runs: Runs) -> None:
    """The collector finds the stream and all that it reads at once."""
    await begin(stream, runs)
    cycle: list[Any] = [stream]
    cycle.append(cycle)


async def by_handler(stream: AsyncIterator[Any], runs: Runs) -> None:
    runs.token_error = OwnError("a handler")
    with pytest.raises(OwnError, match="a handler"):
        async for _ in stream:
            pass


async def by_slow_handler(stream: AsyncIterator[Any], runs: Runs) -> None:
    runs.token_turns = 1000
    await by_timeout(stream, runs)


async def by_shutdown(stream: AsyncIterator[Any], runs: Runs) -> None:
    """The loop ends while the stream is held."""
    await begin(stream, runs)
    runs.held = stream


LEAVE = [by_break, by_aclose, by_own_error, by_cancelling, by_timeout]


def plain(app: Any, config: Any) -> Any:
    return app.astream("hi", config)


def parsed(app: Any, config: Any) -> Any:
    return (app | StrOutputParser()).astream("hi", config)


def events(app: Any, config: Any) -> Any:
    return app.astream_events("hi", config, version="v2")


WAYS = [
    *((ChatBailianApp, plain, leave) for leave in (*LEAVE, by_garbage, by_shutdown)),
    *((ChatBailianApp, parsed, leave) for leave in (by_break, by_cancelling, by_timeout)),
    *((ChatBailianApp, events, leave) for leave in (by_break, by_cancelling, by_timeout)),
    *((ChatBailianApp, plain, leave) for leave in (by_handler, by_slow_handler)),
    *((ChatBailianApp, events, leave) for leave in (by_handler, by_slow_handler)),
    *((BailianAppRunnable, plain, leave) for leave in (*LEAVE, by_garbage, by_shutdown)),
    *((BailianAppRunnable, events, leave) for leave in (by_break, by_cancelling)),
]


@pytest.fixture(scope="module")
def endless() -> Endless:
    return Endless()


@pytest.fixture(scope="module")
def cloud(endless: Endless) -> Iterator[Emulator]:
    with Emulator(apps={"app": endless}) as cloud:
        yield cloud


@pytest.fixture
def fields(cloud: Emulator) -> dict[str, Any]:
    """With one slot, each call waits for the one before."""
    return {"app_id": "app", "api_key": "k", "base_url": cloud.base_url, "max_concurrency": 1}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged, but what LangChain logs of a handler that raises."""
    with caplog.at_level(logging.WARNING):
        yield
    handlers = "langchain_core.callbacks.manager"
    assert not [r.getMessage() for r in caplog.get_records("call") if r.name != handlers]


async def settled() -> None:
    """Wait for the tasks in which the loop closes forgotten generators."""
    gc.collect()
    await asyncio.sleep(0)
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
        await asyncio.sleep(0)


@pytest.mark.parametrize(("kind", "read", "leave"), WAYS)
def test_leaving_a_stream_early_ends_all_of_it_once(
    kind: Any,
    read: Callable[..., Any],
    leave: Callable[..., Awaitable[None]],
    fields: dict[str, Any],
    endless: Endless,
) -> None:
    async def main(times: int) -> list[Runs]:
        app, all_runs = kind(**fields), [Runs() for _ in range(times)]
        for runs in all_runs:
            await leave(read(app, {"callbacks": [runs]}), runs)
            if leave is not by_shutdown:
                await settled()
        return all_runs

    times = 1 if leave is by_shutdown else 2
    for runs in asyncio.run(main(times)):
        assert set(runs.ends.values()) == {1}  # the call's own run, and the step's
        assert len(runs.ends) >= 2
    assert endless.left() == times
