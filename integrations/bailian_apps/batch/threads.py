"""`Batch`: a batch driven with threads."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from typing_extensions import Self

from bailian_apps.batch.background import RecordFailedError
from bailian_apps.batch.base import BaseBatch
from bailian_apps.batch.call import Call
from bailian_apps.batch.conductor import STEP_S, Conductor
from bailian_apps.batch.progress import Progress, reporting
from bailian_apps.batch.values import BatchResult, Prompt, PromptInput
from bailian_apps.core.errors import BailianError, InvalidInputError


class Batch(BaseBatch, Iterator[BatchResult]):
    """The results of a batch as they complete: an iterator, and a context manager.

    Closing it ends the calls in flight at once; whether their apps ran is then unknown. `stop` lets
    them finish.

    Attributes:
        counts: How far the batch is. It changes while the batch runs.
    """

    def __init__(
        self, conductor: Conductor, prompts: Iterable[PromptInput], progress: Progress
    ) -> None:
        """Made by `run_batch`."""
        super().__init__(conductor, prompts, progress)
        self._inputs = iter(prompts)
        self._gate = threading.Lock()  # one call waits for its turn, the others for it
        self._aborts: dict[str, Callable[[], object]] = {}
        self._closed = False
        self._results = self._drive()

    def __next__(self) -> BatchResult:
        """Return the next result."""
        return next(self._results)

    def close(self) -> None:
        """End the batch and its calls."""
        self._results.close()

    def __enter__(self) -> Self:
        """Return the batch."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the batch."""
        self.close()

    def _drive(self) -> Generator[BatchResult]:
        self._conductor.open()
        pool = ThreadPoolExecutor(self._conductor.concurrency, "batch")
        try:
            with reporting(self._progress, self.counts) as report:
                for result in self._in_pool(pool):
                    self.counts.add(result)
                    report()
                    yield result
            if self._failure is not None:
                raise self._failure
        finally:
            self._conductor.end()
            self._closed = True
            for abort in list(self._aborts.values()):
                abort()
            pool.shutdown(cancel_futures=True)
            self._conductor.close()

    def _in_pool(self, pool: ThreadPoolExecutor) -> Generator[BatchResult]:
        done = queue.SimpleQueue[Future[BatchResult]]()
        running, more = 0, True
        while more or running:
            while more and running < self._conductor.concurrency:
                ready = self._begin()
                if isinstance(ready, BatchResult):
                    yield ready
                elif ready is not None:
                    running += 1
                    pool.submit(self._ask, ready).add_done_callback(done.put)
                more = ready is not None
            if running:
                ended = done.get()
                running -= 1
                if (error := ended.exception()) is not None:
                    self._fail(error)
                else:
                    yield ended.result()

    def _begin(self) -> BatchResult | Call | None:
        """Read the next prompt: return what is known of it, or its call; None after the last."""
        try:
            for given in self._inputs:
                prompt = self._conductor.read(given)
                if isinstance(prompt, BatchResult):
                    return prompt
                journal = self._conductor.journal
                stored = None if journal is None else journal.claim(prompt).result()
                ready = self._conductor.call(prompt, stored)
                if isinstance(ready, BatchResult) and ready.status == "failed":
                    self._finish(prompt, ready)
                return ready
        except Exception as error:
            self._fail(error)
        return None

    def _ask(self, call: Call) -> BatchResult:
        """Send one prompt until it has a result."""
        journal = self._conductor.journal
        result: BatchResult | float = 0.0
        while not isinstance(result, BatchResult):
            for step_s in self._conductor.steps_s(result):
                time.sleep(step_s)
            with self._conductor.slot(lambda abort: self._register(call, abort)):
                result = self._attempt(call)
            if not isinstance(result, BatchResult) and journal and call.did_not_start:
                journal.finish(call.prompt, self._conductor.ended(call)).result()
        self._aborts.pop(call.prompt.id, None)
        self._finish(call.prompt, result)
        return result

    def _attempt(self, call: Call) -> BatchResult | float:
        conductor = self._conductor
        try:
            run = conductor.run(call)
        except InvalidInputError as error:
            return conductor.invalid(call, error)
        with self._gate:
            while wait_s := conductor.wait_s(call):
                time.sleep(min(wait_s, STEP_S))
        if wait_s is None:
            return conductor.ended(call)
        journal = conductor.journal
        if journal is not None and not journal.start(call.prompt, call.run_id).result():
            return conductor.held_back(call)
        call.sent_at = time.monotonic()
        self._register(call, run.close)
        try:
            return conductor.answered(call, run.invoke())
        except RecordFailedError as failure:
            raise failure.error from None
        except BailianError as error:
            return conductor.failed(call, error)

    def _register(self, call: Call, abort: Callable[[], object]) -> None:
        self._aborts[call.prompt.id] = abort
        if self._closed:
            abort()

    def _finish(self, prompt: Prompt, result: BatchResult) -> None:
        if self._conductor.journal is not None and not result.from_journal:
            self._conductor.journal.finish(prompt, result).result()
