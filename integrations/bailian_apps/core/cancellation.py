"""`within`: an awaited value with a limit, which does not lose a cancellation."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(seconds: float | None, awaited: Awaitable[T]) -> T:
    """Do as `asyncio.wait_for`, which before Python 3.12 can lose a cancellation.

    It does so if the value arrives at the same moment; the cancelled task then goes on.

    Args:
        seconds: The limit; None for none.
        awaited: What is awaited. It is cancelled at the limit, and with its waiter.

    Raises:
        asyncio.TimeoutError: The limit has passed.
    """
    import asyncio  # 40 ms, which a program without a loop does not pay

    if seconds is None:
        return await awaited
    task = asyncio.ensure_future(awaited)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        await asyncio.wait({task}, timeout=max(seconds, 0))
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled():
        raise asyncio.TimeoutError
    return task.result()
