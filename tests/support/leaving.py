"""Ways to leave an async stream before its end, and an app that speaks until its caller leaves."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import anyio
import pytest

from bailian_apps.emulator import Call

Leave: TypeAlias = Callable[[Any, asyncio.Event], Awaitable[None]]
"""Leaves a stream once the event is set: the app has said something."""


class OwnError(Exception):
    """What the reader of a stream, or a handler, raises."""


class Endless:
    """An app with steps open that says a word for as long as somebody listens."""

    def __init__(self, *steps: str) -> None:
        self.calls: list[Call] = []
        call = {"action_type": "api", "action_input_stream": "{}", "arguments": "{}"}
        self._steps: list[Any] = [call | {"action_name": name} for name in steps]
        self._steps = self._steps or [{"action_type": "api", "action_name": "mail"}]

    def __call__(self, call: Call) -> Iterator[dict[str, Any]]:
        self.calls.append(call)
        while not call.disconnected.wait(0.005):
            yield {"output": {"text": "word ", "finish_reason": "null", "thoughts": self._steps}}

    def left(self) -> int:
        """Wait until all callers have left, and return how many there were since the last time."""
        calls, self.calls = self.calls, []
        return sum(call.disconnected.wait(60) for call in calls)


async def begin(stream: AsyncIterator[Any], spoke: asyncio.Event) -> None:
    """Read until the app has said something."""
    await anext(stream)
    while not spoke.is_set():
        await anext(stream)


async def by_break(stream: AsyncIterator[Any], spoke: asyncio.Event) -> None:
    async for _ in stream:
        if spoke.is_set():
            break


async def by_aclose(stream: Any, spoke: asyncio.Event) -> None:
    await begin(stream, spoke)
    await stream.aclose()


async def by_own_error(stream: AsyncIterator[Any], spoke: asyncio.Event) -> None:
    with pytest.raises(OwnError):
        async for _ in stream:
            if spoke.is_set():
                raise OwnError


async def by_cancelling(stream: AsyncIterator[Any], spoke: asyncio.Event) -> None:
    reading = asyncio.Event()

    async def read() -> None:
        reading.set()
        async for _ in stream:
            pass

    task = asyncio.create_task(read())
    await reading.wait()
    await spoke.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_timeout(stream: AsyncIterator[Any], spoke: asyncio.Event) -> None:
    async def read() -> None:
        async for _ in stream:
            pass

    await begin(stream, spoke)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(read(), 0.01)


async def by_anyio(stream: AsyncIterator[Any], spoke: asyncio.Event) -> None:
    """As Starlette does when a client leaves: each further await is cancelled again."""
    with anyio.CancelScope() as scope:
        await begin(stream, spoke)
        scope.cancel()
        async for _ in stream:
            pass
    assert scope.cancelled_caught


async def by_garbage(stream: Any, spoke: asyncio.Event) -> None:
    """The collector finds the stream and all that it reads at once."""
    await begin(stream, spoke)
    cycle: list[Any] = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()


HELD: list[Any] = []
"""Streams that outlive their loop; the test clears it."""


async def by_shutdown(stream: AsyncIterator[Any], spoke: asyncio.Event) -> None:
    """The loop ends while the stream is held."""
    await begin(stream, spoke)
    HELD.append(stream)


LEAVE = [by_break, by_aclose, by_own_error, by_cancelling, by_timeout, by_anyio]


async def settled() -> None:
    """Wait for the tasks in which the loop closes forgotten generators."""
    await asyncio.sleep(0)
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
        await asyncio.sleep(0)
