"""`run_batch` and `arun_batch`: many prompts for one app, with results as they complete.

What decides anything is in `Conductor`. `Batch` drives it with threads, `AsyncBatch` with tasks.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from os import PathLike

from bailian_apps.app import BailianApp
from bailian_apps.batch.conductor import Conductor
from bailian_apps.batch.progress import Progress
from bailian_apps.batch.tasks import AsyncBatch
from bailian_apps.batch.threads import Batch
from bailian_apps.batch.values import Budget, PromptInput


def run_batch(
    app: BailianApp,
    prompts: Iterable[PromptInput],
    *,
    journal: str | PathLike[str] | None = None,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    budget: Budget | None = None,
    retry_failed: bool = False,
    background: bool = False,
    progress: Progress = False,
) -> Batch:
    """Ask an app many prompts and return the results as they complete.

    The input is read as prompts are sent. Each prompt is a call of its own, in a session of its
    own. A prompt that fails is a result like any other.

    A request that the cloud refuses (HTTP 429, 503, no connection) makes all wait: for as long as
    `Retry-After` asks, or for a pause that doubles. That does not count against the app's
    `max_retries`, unless it is 0. What may have run the app is only sent again if the app is
    `idempotent`.

    With a journal, a batch that was killed goes on when it is called again with the same
    arguments: what was answered comes from the journal, what was in flight is `unknown` (it is
    asked again if the app is `idempotent`), and the rest is asked.

    Args:
        app: The app. `max_concurrency` limits the batch too.
        prompts: Texts, or mappings with `prompt` or `messages`, any other keyword argument of
            `BailianApp.invoke`, and an `id` (a str or an int, used once; default: the position,
            counted from 1).
        journal: The path of an SQLite file, made where it does not exist. It holds ids, digests
            and answers. Default: none.
        concurrency: How many requests may be in flight, over all batches of this app in this
            process.
        requests_per_minute: How many requests may be sent, evenly spaced, over all batches of this
            app in this process. Default: no limit; then refusals of the cloud set the pace.
        budget: What this run may use; then no further prompt is sent, and the rest is
            `not_started`.
        retry_failed: Whether prompts that failed in an earlier run are asked again.
        background: Whether each prompt is a background run, for apps that take long (see
            `BailianApp.submit`; needs the extra `[background]`). The journal holds the ids of the
            runs, so a batch that was killed waits for them and submits none of them again.
        progress: Whether to show the progress on standard error, or what is called with the counts
            after each result.

    Returns:
        The results. The first is asked for at the first `next`.

    Raises:
        InvalidInputError: An argument is not valid. At the first `next`: the journal is in use, or
            belongs to another app, other settings or another input. While iterating, when the calls
            in flight have ended: an id is used twice, or the journal cannot be written.
    """
    conductor = Conductor(
        app,
        journal=journal,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        budget=budget,
        retry_failed=retry_failed,
        background=background,
    )
    return Batch(conductor, prompts, progress)


def arun_batch(
    app: BailianApp,
    prompts: Iterable[PromptInput] | AsyncIterable[PromptInput],
    *,
    journal: str | PathLike[str] | None = None,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    budget: Budget | None = None,
    retry_failed: bool = False,
    background: bool = False,
    progress: Progress = False,
) -> AsyncBatch:
    """As `run_batch`, natively async: for hundreds of requests in flight and more.

    The input may be async too.
    """
    conductor = Conductor(
        app,
        journal=journal,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        budget=budget,
        retry_failed=retry_failed,
        background=background,
    )
    return AsyncBatch(conductor, prompts, progress)
