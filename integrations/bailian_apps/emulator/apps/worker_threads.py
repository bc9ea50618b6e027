"""Threads for apps that block.

A plain function may wait for a test's `threading.Event`. So it runs in a thread of its own: the
server goes on meanwhile, and does not wait for it when it stops.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Workers:
    """Runs functions of an event loop in threads, and knows which still run."""

    def __init__(self) -> None:
        """Begin without a thread."""
        self._threads: list[threading.Thread] = []

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what `function` returns in a thread, or raise what it raises there."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if not outcome.done():
                outcome.set_result((result, error))

        def work() -> None:
            result, error = None, None
            try:
                result = function(*args)
            except BaseException as raised:  # raised again where it is awaited
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, error)

        name = f"bailian-emulator-app-{getattr(function, '__name__', 'call')}"
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads = [known for known in self._threads if known.is_alive()]
        self._threads.append(thread)
        thread.start()
        result, error = await outcome
        if error is not None:
            raise error
        return result

    def join(self, timeout_s: float) -> list[str]:
        """Wait for all threads to end; return the names of those that did not."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]
