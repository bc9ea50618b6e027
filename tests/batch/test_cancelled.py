"""A batch of tasks whose own task is cancelled."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from bailian_apps import BailianApp
from bailian_apps.batch import arun_batch, read_journal
from bailian_apps.emulator import Call, Emulator


@pytest.mark.parametrize("turns", range(4))
def test_a_batch_that_is_cancelled_twice_frees_its_journal(tmp_path: Path, turns: int) -> None:
    """As a cancel scope of anyio does it, which cancels each await."""
    journal, hanging = tmp_path / "journal", threading.Semaphore(0)

    def hang(call: Call) -> str:
        hanging.release()
        call.disconnected.wait(60)
        return ""

    async def run(app: BailianApp) -> None:
        async with arun_batch(app, ["a", "b"], journal=journal) as batch:
            await anext(batch)

    async def cancel(cloud: Emulator) -> None:
        app = BailianApp(app_id="hang", api_key="sk", base_url=cloud.base_url)
        task = asyncio.ensure_future(run(app))
        for _ in range(2):
            assert await asyncio.to_thread(hanging.acquire, timeout=60)
        task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert [left.status for left in read_journal(journal)] == ["unknown", "unknown"]

    with Emulator(apps={"hang": hang}) as cloud:
        asyncio.run(cancel(cloud))
