"""What the tests of batches share: a batch as a list, driven with threads and with tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import pytest

from bailian_apps import BailianApp
from bailian_apps.batch import BatchResult, arun_batch, run_batch

Results: TypeAlias = dict[str, BatchResult]
RunAll: TypeAlias = Callable[..., Results]


def with_threads(app: BailianApp, prompts: Iterable[Any], **options: Any) -> Results:
    with run_batch(app, prompts, **options) as batch:
        return {result.id: result for result in batch}


def with_tasks(app: BailianApp, prompts: Iterable[Any], **options: Any) -> Results:
    async def run() -> Results:
        async with arun_batch(app, prompts, **options) as batch:
            return {result.id: result async for result in batch}

    return asyncio.run(run())


@pytest.fixture(params=[with_threads, with_tasks])
def run_all(request: pytest.FixtureRequest) -> RunAll:
    return request.param
