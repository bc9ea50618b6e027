"""`OwnedStream`: an async generator that one task closes.

An event loop closes the async generators that were started in it: each in a task of its own when it
becomes garbage, all at once when the loop shuts down. Where one generator reads another, both the
loop and the reader would then close the inner one. If that has to wait for something, such as a
callback handler, Python raises "aclose(): asynchronous generator is already running" in place of
the caller's own error. So the generators inside a call are hidden from the loop, which closes only
the outermost.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TypeVar, cast

from typing_extensions import Self

T = TypeVar("T")


class OwnedStream(AsyncIterator[T]):
    """An async generator which the event loop does not close; as a context manager, it closes.

    Whoever makes it has to close it, in a coroutine or in a generator that the loop does close.
    """

    def __init__(self, generator: AsyncIterator[T]) -> None:
        """Take a generator that has not started."""
        self._generator = cast("AsyncGenerator[T]", generator)
        self._next = self._first

    def _first(self) -> Awaitable[T]:
        self._next = self._generator.__anext__
        # A generator takes the hooks of the loop when it is first asked for an item.
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=_leave_open)
        try:
            return self._next()
        finally:
            sys.set_asyncgen_hooks(*hooks)

    def __anext__(self) -> Awaitable[T]:
        """Return the next item; it costs no coroutine of its own."""
        return self._next()

    async def aclose(self) -> None:
        """Close the generator."""
        await self._generator.aclose()

    async def __aenter__(self) -> Self:
        """Return the stream."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the stream."""
        await self.aclose()


def _leave_open(_: object) -> None:
    """Leave a generator that is garbage to its owner, which is garbage too and closes both."""
