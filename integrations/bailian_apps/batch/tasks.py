"""`AsyncBatch`: a batch driven with tasks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from typing import Any

from typing_extensions import Self

from bailian_apps.batch.background import RecordFailedError
from bailian_apps.batch.base import BaseBatch
from bailian_apps.batch.call import Call
from bailian_apps.batch.conductor import STEP_S, Conductor
from bailian_apps.batch.progress import Progress, reporting
from bailian_apps.batch.values import BatchResult, Prompt, PromptInput
from bailian_apps.core.errors import BailianError, InvalidInputError


class AsyncBatch(BaseBatch, AsyncIterator[BatchResult]):
    """As `Batch`, natively async."""

    def __init__(
        self,
        conductor: Conductor,
        prompts: Iterable[PromptInput] | AsyncIterable[PromptInput],
        progress: Progress,
    ) -> None:
        """Made by `arun_batch`."""
        super().__init__(conductor, prompts, progress)
        self._inputs = _items(prompts)
        self._gate = asyncio.Lock()
        self._ended: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()  # the calls that are not reported yet
        self._results = self._drive()

    def __anext__(self) -> Any:
        """Return the next result."""
        return self._results.__anext__()

    async def aclose(self) -> None:
        """End the batch and its calls."""
        await self._results.aclose()

    async def __aenter__(self) -> Self:
        """Return the batch."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the batch."""
        await self.aclose()

    async def _drive(self) -> AsyncGenerator[BatchResult]:
        self._conductor.open()
        try:
            with reporting(self._progress, self.counts) as report:
                async with contextlib.aclosing(self._in_tasks()) as results:
                    async for result in results:
                        self.counts.add(result)
                        report()
                        yield result
            if self._failure is not None:
                raise self._failure
        finally:
            self._conductor.end()
            for task in self._tasks:
                task.cancel()
            try:
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await self._inputs.aclose()
            finally:  # also where a cancel scope of anyio cancels each await
                self._conductor.close()

    async def _in_tasks(self) -> AsyncGenerator[BatchResult]:
        reading: asyncio.Task[Any] | None = None
        more = True
        while True:
            if more and reading is None and len(self._tasks) < self._conductor.concurrency:
                reading = self._start(self._begin())
            if not self._tasks:
                return
            ended = await self._ended.get()
            self._tasks.discard(ended)
            ready: BatchResult | Call | None = None
            if (error := ended.exception()) is not None:
                self._fail(error)
            else:
                ready = ended.result()
            if ended is reading:
                reading, more = None, ready is not None
            if isinstance(ready, Call):
                self._start(self._ask(ready))
            elif ready is not None:
                yield ready

    def _start(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended.put_nowait)
        return task

    async def _begin(self) -> BatchResult | Call | None:
        """Read the next prompt: return what is known of it, or its call; None after the last."""
        async for given in self._inputs:
            prompt = self._conductor.read(given)
            if isinstance(prompt, BatchResult):
                return prompt
            journal = self._conductor.journal
            stored = None
            if journal is not None:
                stored = await asyncio.wrap_future(journal.claim(prompt))
            ready = self._conductor.call(prompt, stored)
            if isinstance(ready, BatchResult) and ready.status == "failed":
                await self._finish(prompt, ready)
            return ready
        return None

    async def _ask(self, call: Call) -> BatchResult:
        """Send one prompt until it has a result."""
        journal = self._conductor.journal
        result: BatchResult | float = 0.0
        while not isinstance(result, BatchResult):
            for step_s in self._conductor.steps_s(result):
                await asyncio.sleep(step_s)
            async with self._conductor.slot():
                result = await self._attempt(call)
            if not isinstance(result, BatchResult) and journal and call.did_not_start:
                so_far = self._conductor.ended(call)
                await asyncio.wrap_future(journal.finish(call.prompt, so_far))
        await self._finish(call.prompt, result)
        return result

    async def _attempt(self, call: Call) -> BatchResult | float:
        conductor = self._conductor
        try:
            run = conductor.run(call)
        except InvalidInputError as error:
            return conductor.invalid(call, error)
        async with self._gate:
            while wait_s := conductor.wait_s(call):  # noqa: ASYNC110 - until a time
                await asyncio.sleep(min(wait_s, STEP_S))
        if wait_s is None:
            return conductor.ended(call)
        journal = conductor.journal
        if journal is not None and not await asyncio.wrap_future(
            journal.start(call.prompt, call.run_id)
        ):
            return conductor.held_back(call)
        call.sent_at = time.monotonic()
        try:
            return conductor.answered(call, await run.ainvoke())
        except RecordFailedError as failure:
            raise failure.error from None
        except BailianError as error:
            return conductor.failed(call, error)

    async def _finish(self, prompt: Prompt, result: BatchResult) -> None:
        if self._conductor.journal is not None and not result.from_journal:
            await asyncio.wrap_future(self._conductor.journal.finish(prompt, result))


async def _items(
    prompts: Iterable[PromptInput] | AsyncIterable[PromptInput],
) -> AsyncGenerator[PromptInput]:
    if isinstance(prompts, AsyncIterable):
        async for each in prompts:
            yield each
    else:
        for each in prompts:
            yield each
