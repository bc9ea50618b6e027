"""Leaving an async stream early: the caller gets its own error, and nothing is left behind.

LangChain drops generators that it has begun, and the event loop closes those in tasks of its own.
The handlers here wait as a run ends, so two tasks that close one generator would meet.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from support.leaving import (
    HELD,
    LEAVE,
    Endless,
    Leave,
    OwnError,
    by_aclose,
    by_break,
    by_cancelling,
    by_garbage,
    by_own_error,
    by_shutdown,
    by_timeout,
    settled,
)

from bailian_apps.emulator import Emulator
from bailian_apps.langchain import BailianAppRunnable, ChatBailianApp


class Runs(AsyncCallbackHandler):
    """Counts how often each run ends; ending takes a few turns of the loop."""

    raise_error = True

    def __init__(self, leave: Leave) -> None:
        self.ends: dict[Any, int] = {}
        self.chat_models: list[Any] = []
        self.spoke = asyncio.Event()
        self._raises = leave is by_handler
        self._token_turns = 1000 if leave is by_slow_handler else 0

    async def _start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.ends[run_id] = 0

    async def on_chat_model_start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.chat_models.append(run_id)
        await self._start(run_id=run_id)

    async def _end(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.ends[run_id] += 1
        for _turn in range(5):
            await asyncio.sleep(0)

    on_chain_start = on_tool_start = on_retriever_start = _start
    on_llm_end = on_chain_end = on_tool_end = on_retriever_end = _end
    on_llm_error = on_chain_error = on_tool_error = on_retriever_error = _end

    async def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.spoke.set()
        if self._raises:
            raise OwnError("a handler")
        for _turn in range(self._token_turns):
            await asyncio.sleep(0)

    async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        self.spoke.set()


async def by_handler(stream: AsyncIterator[Any], _: asyncio.Event) -> None:
    with pytest.raises(OwnError, match="a handler"):
        async for _ in stream:
            pass


async def by_slow_handler(stream: AsyncIterator[Any], spoke: asyncio.Event) -> None:
    await by_timeout(stream, spoke)


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
def two_steps() -> Endless:
    return Endless("mail", "post")


@pytest.fixture(scope="module")
def cloud(endless: Endless, two_steps: Endless) -> Iterator[Emulator]:
    with Emulator(apps={"app": endless, "two": two_steps}) as cloud:
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


@pytest.mark.parametrize(("kind", "read", "leave"), WAYS)
def test_leaving_a_stream_early_ends_all_of_it_once(
    kind: Any,
    read: Callable[..., Any],
    leave: Leave,
    fields: dict[str, Any],
    endless: Endless,
) -> None:
    async def main(times: int) -> list[Runs]:
        app, all_runs = kind(**fields), [Runs(leave) for _ in range(times)]
        for runs in all_runs:
            await leave(read(app, {"callbacks": [runs]}), runs.spoke)
            if leave is not by_shutdown:
                await settled()
        return all_runs

    times = 1 if leave is by_shutdown else 2
    all_runs = asyncio.run(main(times))
    HELD.clear()
    for runs in all_runs:
        assert set(runs.ends.values()) == {1}  # the call's own run, and the step's
        assert len(runs.ends) >= 2
    assert endless.left() == times


def of_tool(app: Any, config: Any) -> Any:
    tool = app.as_tool(name="tool", description="d")
    return tool.astream_events({"prompt": "hi"}, config, version="v2")


@pytest.mark.parametrize("kind", [ChatBailianApp, BailianAppRunnable])
@pytest.mark.parametrize("read", [plain, events, of_tool])
def test_a_cancel_scope_of_anyio_ends_every_run_once(
    kind: Any, read: Callable[..., Any], fields: dict[str, Any], two_steps: Endless
) -> None:
    """As Starlette leaves a streamed response: what is awaited is cancelled, again and again."""

    async def main() -> Runs:
        runs = Runs(by_cancelling)
        app = kind(**fields | {"app_id": "two"})
        with anyio.CancelScope() as scope:
            async for _ in read(app, {"callbacks": [runs]}):
                if len(runs.ends) >= 3:  # the call's own run, and two steps'
                    scope.cancel()
        assert scope.cancelled_caught
        await settled()
        return runs

    ends = asyncio.run(main()).ends
    assert len(ends) >= 3
    assert set(ends.values()) == {1}
    assert two_steps.left() == 1


@pytest.mark.parametrize("leave", [by_break, by_cancelling, by_timeout, by_handler])
@pytest.mark.parametrize("method", ["ainvoke", "astream"])
def test_leaving_a_graph_early_ends_the_model_in_its_node_once(
    method: str, leave: Leave, fields: dict[str, Any], endless: Endless
) -> None:
    graph = pytest.importorskip("langgraph.graph")

    async def node(state: Any) -> Any:
        model = ChatBailianApp(**fields)
        if method == "ainvoke":
            return {"messages": [await model.ainvoke(state["messages"])]}
        return {"messages": [[chunk async for chunk in model.astream(state["messages"])][-1]]}

    async def main(runs: Runs) -> None:
        builder = graph.StateGraph(graph.MessagesState)
        builder.add_node("node", node)
        builder.add_edge(graph.START, "node")
        inputs, config = {"messages": [("human", "hi")]}, {"callbacks": [runs]}
        await leave(builder.compile().astream(inputs, config, stream_mode="messages"), runs.spoke)
        await settled()

    for _ in range(2):
        runs = Runs(leave)
        asyncio.run(main(runs))
        assert [runs.ends[each] for each in runs.chat_models] == [1]
    assert endless.left() == 2


@pytest.mark.slow
def test_a_thousand_exits_leave_no_task_and_no_file(
    fields: dict[str, Any], endless: Endless
) -> None:
    leaves = [by_break, by_aclose, by_own_error, by_cancelling, by_handler]
    ways = [(read, leave) for read in (plain, parsed, events) for leave in leaves]

    async def main(times: int) -> None:
        model = ChatBailianApp(**fields)
        for index in range(times):
            read, leave = ways[index % len(ways)]
            runs = Runs(leave)
            await leave(read(model, {"callbacks": [runs]}), runs.spoke)
            await settled()
            assert set(runs.ends.values()) == {1}

    def open_files() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    asyncio.run(main(len(ways)))
    assert endless.left() == len(ways)
    before = open_files()
    asyncio.run(main(1000))
    assert endless.left() == 1000
    assert open_files() < before + 20  # the emulator is in this process, and may be closing some
