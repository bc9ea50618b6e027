"""Threads for callable apps that block.

A synchronous function may wait for a `threading.Event` of the test. So each runs in its own thread:
the server keeps serving meanwhile, and does not wait for the function when it stops.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class WorkerThreads:
    """Runs functions for an event loop in threads, and keeps track of those still running."""

    def __init__(self) -> None:
        """Create the pool without threads."""
        self._threads: list[threading.Thread] = []

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` in a thread; return its result or raise its exception."""
        # A pair, because a future cannot raise StopIteration.
        outcome: Future[tuple[Any, BaseException | None]] = Future()
        outcome.set_running_or_notify_cancel()  # a thread cannot be cancelled

        def work() -> None:
            result, error = None, None
            try:
                result = function(*args)
            except BaseException as raised:  # raised again by the awaiting task
                error = raised
            outcome.set_result((result, error))

        name = f"bailian-emulator-app-{getattr(function, '__name__', 'call')}"
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads = [known for known in self._threads if known.is_alive()]
        self._threads.append(thread)
        thread.start()
        result, error = await asyncio.wrap_future(outcome)
        if error is not None:
            raise error
        return result

    def join(self, timeout_s: float) -> list[str]:
        """Wait for all threads to end; return the names of those still running."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]
