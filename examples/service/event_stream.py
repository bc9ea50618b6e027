"""Server-sent events that end with their reader: whoever leaves closes what was read for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would collect the events of a minute
}
HEARTBEAT = b": still there\n\n"
END = b""


class EventStream(StreamingResponse):
    """An answer as events, with a heartbeat where it is silent.

    One task reads the events from their beginning to their end, so that what it reads is closed by
    the task that opened it. It is cancelled once: LangGraph's `astream` does not survive being
    cancelled again while it closes, see docs/en/serving.md.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[tuple[str, Any], None],
        held: AsyncExitStack,
        *,
        heartbeat_s: float,
    ) -> None:
        """Prepare.

        Args:
            events: Names and data; closed when the client leaves.
            held: What the answer holds, such as a lock; closed after the events.
            heartbeat_s: A comment is sent after so many seconds without an event.
        """
        self._events = events
        self._held = held
        self._heartbeat_s = heartbeat_s
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=32)
        super().__init__(self._read(), headers=HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; whatever ends it, nothing is left behind."""
        reader = asyncio.create_task(self._write())
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Starlette cancels every `await` of a response whose client has left, but not these.
            with anyio.CancelScope(shield=True):
                reader.cancel()
                async with self._held:
                    with suppress(asyncio.CancelledError):
                        await reader

    async def _write(self) -> None:
        try:
            async for name, data in self._events:
                text = json.dumps(data, ensure_ascii=False)
                await self._queue.put(f"event: {name}\ndata: {text}\n\n".encode())
        except Exception:
            await self._queue.put(END)
            raise
        finally:
            await self._events.aclose()
        await self._queue.put(END)

    async def _read(self) -> AsyncIterator[bytes]:
        while True:
            try:
                event = await asyncio.wait_for(self._queue.get(), self._heartbeat_s)
            except asyncio.TimeoutError:
                event = HEARTBEAT
            if event is END:
                return
            yield event
