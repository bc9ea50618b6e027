"""Batches on many machines, with Ray Data: `map_prompts` and the class that it maps with.

Ray Data moves the rows and starts the workers. A named actor, the coordinator, keeps what all
workers share: the journal, and the pace of their requests. Keys do not travel: a worker reads them
from its environment, or from a function.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from typing_extensions import override

from bailian_apps.app import BailianApp
from bailian_apps.batch.conductor import Conductor
from bailian_apps.batch.journal import Journal
from bailian_apps.batch.pace import Pace
from bailian_apps.batch.tasks import AsyncBatch
from bailian_apps.batch.values import COLUMNS, BatchResult, Prompt, identity, repeated_id
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_, import_error
from bailian_apps.core.redaction import redact_kwargs
from bailian_apps.core.settings import AppSettings

try:
    ray: Any = import_module("ray")
    pyarrow: Any = import_module("pyarrow")
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"ray", "pyarrow"}:
        raise
    raise import_error(
        N_(
            "bailian_apps.batch.ray_data needs ray and pyarrow; install them with: "
            'pip install "bailian-apps[ray]"'
        )
    ) from error

# An actor ends with the handle that started it; a later one of the same name does not keep it.
_coordinators: dict[str, list[Any]] = {}
_LOCKED_S = 20.0  # how long a journal may be that of a coordinator which is being ended
_MAX_CALLS = 100_000  # of the coordinator at once; each waits for the disk or its turn


class Coordinator:
    """What the workers of a job share; one actor of the cluster, on the driver's node.

    Its calls may be repeated: after it was restarted, Ray sends those again that it did not answer.
    """

    def __init__(
        self,
        journal: str,
        identity: Mapping[str, Any],
        requests_per_minute: float | None,
    ) -> None:
        """Open the journal; see `start_coordinator`."""
        self._about = (journal, identity, requests_per_minute)
        self._journal = Journal(journal, identity, in_any_order=True, wait_s=_LOCKED_S)
        self._rate = requests_per_minute
        self._pace = Pace()
        self._gate = asyncio.Lock()
        self._ended = False

    async def is_of(self, *about: Any) -> bool:
        """Whether it was started with these arguments."""
        return about == self._about

    async def claim(self, prompts: Sequence[Prompt]) -> list[BatchResult | None]:
        """See `Journal.claim`; for many prompts at once."""
        claims = [asyncio.wrap_future(self._journal.claim(each)) for each in prompts]
        return [await each for each in claims]

    async def start(self, prompt: Prompt) -> bool:
        """Wait for the turn of a prompt, and record it; False if no further one is sent."""
        async with self._gate:
            while not self._ended and (wait_s := self._pace.wait_s(self._rate)):  # noqa: ASYNC110
                await asyncio.sleep(min(wait_s, 1))
        if self._ended:
            return False
        return await asyncio.wrap_future(self._journal.start(prompt))

    async def finish(self, prompt: Prompt, result: BatchResult) -> bool:
        """See `Journal.finish`."""
        if result.status == "answered":
            self._pace.answered()
        return await asyncio.wrap_future(self._journal.finish(prompt, result))

    async def refused(self, age_s: float, retry_after_s: float | None) -> None:
        """Delay all requests: the cloud refused one that was sent `age_s` seconds ago."""
        self._ended |= not self._pace.refused(time.monotonic() - age_s, retry_after_s)

    async def end(self) -> None:
        """Let no further request start."""
        self._ended = True

    async def close(self) -> None:
        """Close the journal."""
        self._journal.close()


class _RemoteJournal:
    """The coordinator's journal, as a worker's `Conductor` uses it. Options stay in the worker."""

    def __init__(self, coordinator: Any, known: Mapping[str, BatchResult | None]) -> None:
        """Use the journal for prompts that were claimed, with what is known of each."""
        self._coordinator = coordinator
        self._known = known

    def claim(self, prompt: Prompt) -> Future[BatchResult | None]:
        done: Future[BatchResult | None] = Future()
        done.set_result(self._known[prompt.id])
        return done

    def start(self, prompt: Prompt, run_id: str | None = None) -> Future[bool]:
        return self._coordinator.start.remote(_without_options(prompt)).future()

    def finish(self, prompt: Prompt, result: BatchResult) -> Future[bool]:
        return self._coordinator.finish.remote(_without_options(prompt), result).future()

    def close(self) -> None:
        """The coordinator stays."""


def _without_options(prompt: Prompt) -> Prompt:
    return replace(prompt, options={})


class _RemotePace(Pace):
    """The coordinator's pace: its `start` makes a request wait, so nothing waits here."""

    def __init__(self, coordinator: Any) -> None:
        super().__init__()
        self._coordinator = coordinator

    @override
    def wait_s(self, requests_per_minute: float | None) -> float:
        return 0.0

    @override
    def refused(self, sent_at: float, retry_after_s: float | None) -> bool:
        self._coordinator.refused.remote(time.monotonic() - sent_at, retry_after_s)
        return True  # where no further one is sent, `start` says so

    @override
    def answered(self) -> None:
        """The coordinator learns of it with the result."""


class BailianAppMapper:
    """Asks an app the prompts of a dataset: a class for `Dataset.map_batches`.

    Each worker makes one. It adds the columns of a result to the rows: `id`, `status`, `text`,
    `error`, `code`, `message`, `session_id`, `request_id`, `input_tokens`, `output_tokens` and
    `attempts`. Use `map_prompts`; or, after `start_coordinator`, `map_batches` with
    `batch_format="pyarrow"`.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        secrets: Callable[[], Mapping[str, Any]] | None = None,
        concurrency: int = 8,
        retry_failed: bool = False,
        prompt_column: str = "prompt",
        id_column: str = "id",
        option_columns: Sequence[str] = (),
    ) -> None:
        """Connect to the coordinator; see `map_prompts`."""
        check_settings(settings)
        own = {} if secrets is None else dict(secrets())
        self._app = BailianApp(AppSettings.of({**settings, **own}))
        self._coordinator = ray.get_actor(coordinator_name(self._app.settings))
        self._pace = _RemotePace(self._coordinator)
        self._concurrency = concurrency
        self._retry_failed = retry_failed
        self._prompt_column, self._id_column = prompt_column, id_column
        self._option_columns = tuple(option_columns)

    async def __call__(self, batch: Any) -> AsyncIterator[Any]:
        """Yield a table with the results of its prompts."""
        conductor = Conductor(
            self._app,
            journal=None,
            concurrency=self._concurrency,
            requests_per_minute=None,
            budget=None,
            retry_failed=self._retry_failed,
            pace=self._pace,
        )
        prompts = [self._prompt(row) for row in batch.to_pylist()]
        conductor.journal = _RemoteJournal(self._coordinator, await self._claim(prompts))
        async with AsyncBatch(conductor, prompts, False) as running:
            results = {result.position: result.to_row() async for result in running}
        if running.stopped_by is not None:  # by an error that every prompt would get
            await self._coordinator.end.remote()
        rows = [results[position] for position in range(1, len(prompts) + 1)]
        for name, kind in COLUMNS.items():
            column = pyarrow.array([row[name] for row in rows], getattr(pyarrow, kind)())
            if name in batch.column_names:
                batch = batch.drop_columns([name])
            batch = batch.append_column(name, column)
        yield batch

    def __reduce__(self) -> Any:
        """Refuse to be pickled: it holds a key."""
        raise TypeError("a BailianAppMapper cannot be pickled; pass the class to map_batches")

    async def _claim(self, prompts: Sequence[Mapping[str, Any]]) -> dict[str, BatchResult | None]:
        claimed: list[Prompt] = []
        for position, each in enumerate(prompts, 1):
            with contextlib.suppress(InvalidInputError):  # it becomes a failure among the results
                prompt = Prompt.of(each, position, self._app.settings.secret_biz_params)
                claimed.append(_without_options(prompt))
        if repeated := [name for name, n in Counter(each.id for each in claimed).items() if n > 1]:
            raise repeated_id(repeated[0])
        known: list[BatchResult | None] = await self._coordinator.claim.remote(claimed)
        return {each.id: stored for each, stored in zip(claimed, known, strict=True)}

    def _prompt(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if row.get(self._id_column) is None:
            raise InvalidInputError(
                N_("column {name!r}").format(name=self._id_column),
                "is missing or empty",
                "Give each row an id",
            )
        names = (self._prompt_column, *self._option_columns)
        options = {name: row[name] for name in names if row.get(name) is not None}
        if self._prompt_column in options:
            options["prompt"] = options.pop(self._prompt_column)
        return {**options, "id": row[self._id_column]}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that would take a secret to the workers.

    Raises:
        InvalidInputError: They hold a key or another secret.
    """
    hint = N_("Set DASHSCOPE_API_KEY where the workers run, or return it from secrets=")
    if settings.get("api_key") is not None:
        raise InvalidInputError("settings.api_key", "would travel in a pickle", hint)
    names = settings.get("secret_biz_params", ())
    shown = redact_kwargs(settings, names)
    for name, value in settings.items():
        if shown.get(name) != value:
            raise InvalidInputError(
                f"settings.{name}", "has a secret that would travel in a pickle", hint
            )


def coordinator_name(settings: AppSettings) -> str:
    """Return the name of the actor that an app's workers ask."""
    return f"bailian-apps {settings.base_url or ''} {settings.app_id}"


def start_coordinator(
    settings: Mapping[str, Any],
    *,
    journal: str | PathLike[str],
    requests_per_minute: float | None = None,
) -> Any:
    """Start the coordinator of an app's workers on this node; it ends with the job.

    Args:
        settings: The settings of the app, without secrets.
        journal: The path of the journal on this node; see `run_batch`.
        requests_per_minute: How many requests all workers together may send, evenly spaced.

    Returns:
        The actor. If this job has one of this app already, that one.

    Raises:
        InvalidInputError: The settings hold a secret, or this job's coordinator of this app has
            another journal, other settings or another limit: `stop_coordinator` ends it.
        ray.exceptions.ActorDiedError: The journal is in use, or belongs to another batch.
    """
    check_settings(settings)
    strategies: Any = import_module("ray.util.scheduling_strategies")
    here = ray.get_runtime_context().get_node_id()
    app = AppSettings.of(settings)
    name = coordinator_name(app)
    arguments = (str(Path(journal).absolute()), dict(identity(app)), requests_per_minute)
    actor = (
        ray.remote(Coordinator)
        .options(
            name=name,
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=_MAX_CALLS,
            scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote(*arguments)
    )
    _coordinators.setdefault(name, []).append(actor)
    if not ray.get(actor.is_of.remote(*arguments)):
        raise InvalidInputError(
            "journal",
            "and requests_per_minute must be those of the coordinator of this job",
            "End it with stop_coordinator",
        )
    return actor


def stop_coordinator(settings: Mapping[str, Any]) -> None:
    """End the coordinator of an app's workers before its job ends, and unlock the journal.

    Args:
        settings: The settings of the app.
    """
    name = coordinator_name(AppSettings.of(settings))
    actor = ray.get_actor(name)
    ray.get(actor.close.remote())
    ray.kill(actor)
    _coordinators.pop(name, None)


def map_prompts(
    dataset: Any,
    settings: Mapping[str, Any],
    *,
    journal: str | PathLike[str],
    workers: int = 1,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    secrets: Callable[[], Mapping[str, Any]] | None = None,
    retry_failed: bool = False,
    prompt_column: str = "prompt",
    id_column: str = "id",
    option_columns: Sequence[str] = (),
    batch_size: int = 100,
    **ray_options: Any,
) -> Any:
    """Ask an app the prompts of a Ray dataset; each row gets the columns of its result.

    A worker that dies is replaced. What it had answered comes from the journal, what was in flight
    is `unknown` (or asked again if the app is `idempotent`). A job that failed goes on when it is
    started again with the same journal, in the same way.

    Args:
        dataset: The dataset. A column has ids, each used once.
        settings: The fields of `AppSettings`, without secrets.
        journal: The path of the journal, on the node of this driver.
        workers: How many actors ask.
        concurrency: How many requests each of them may have in flight.
        requests_per_minute: How many requests all workers together may send, evenly spaced.
        secrets: Is called in each worker, and returns settings that must not travel, such as
            `api_key`. It is pickled by its name: define it in a module that the workers have.
            Default: the workers read `DASHSCOPE_API_KEY` from their environment.
        retry_failed: Whether prompts that failed in an earlier job are asked again.
        prompt_column: The column of the prompts.
        id_column: The column of the ids.
        option_columns: Columns with other keyword arguments of a call, such as `biz_params`.
        batch_size: How many rows a worker takes at once.
        **ray_options: Further arguments of `map_batches`, such as `num_cpus` and `runtime_env`.

    Returns:
        The dataset of the results.

    Raises:
        InvalidInputError: The settings hold a secret.
    """
    resolved = AppSettings.of(settings)
    where = {"app_id": resolved.app_id, "base_url": resolved.base_url}
    start_coordinator(settings, journal=journal, requests_per_minute=requests_per_minute)
    data: Any = import_module("ray.data")
    return dataset.map_batches(
        BailianAppMapper,
        fn_constructor_args=({**settings, **where},),
        fn_constructor_kwargs={
            "secrets": secrets,
            "concurrency": concurrency,
            "retry_failed": retry_failed,
            "prompt_column": prompt_column,
            "id_column": id_column,
            "option_columns": tuple(option_columns),
        },
        compute=data.ActorPoolStrategy(size=workers),
        batch_format="pyarrow",
        batch_size=batch_size,
        **ray_options,
    )
