"""A workflow's step that waits for a background run, as background.md shows it, in both languages."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from workflows.errors import WorkflowCancelledByUser

from bailian_apps import BailianApp, SubmissionUnknownError
from bailian_apps.emulator import Call, Emulator

WAIT_S = 60
PAGES = sorted((Path(__file__).parents[2] / "docs").glob("*/background.md"))


@pytest.fixture(params=PAGES, ids=lambda path: path.parent.name)
def report_class(request: pytest.FixtureRequest) -> Any:
    """The workflow on the page."""
    page = request.param.read_text("utf-8")
    [block] = re.findall(
        r"^```python\n(from llama_index.core.workflow.*?)^stored =", page, re.M | re.S
    )
    names: dict[str, Any] = {}
    exec(block, names)
    return names["Report"]


async def test_a_workflow_that_was_stopped_goes_on_with_its_run(report_class: Any) -> None:
    release = threading.Event()

    def slow(call: Call) -> str:
        while not call.disconnected.is_set() and not release.wait(0.01):
            pass
        return f"{call.prompt}!"

    stored_id = asyncio.Event()

    class Storage(dict[str, str]):
        def __setitem__(self, name: str, value: str) -> None:
            super().__setitem__(name, value)
            if name == "run_id":
                stored_id.set()

    stored = Storage()
    with Emulator(apps={"slow": slow}) as cloud:
        app = BailianApp(app_id="slow", api_key="k", base_url=cloud.base_url)

        def workflow(saved: dict[str, str]) -> Any:
            return report_class(app, saved, timeout=None)

        handler = workflow(stored).run(prompt="Tea")
        await asyncio.wait_for(stored_id.wait(), WAIT_S)
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
        release.set()
        assert await workflow(dict(stored)).run(prompt="Tea") == "Tea!"

        unknown = {"mark": stored["mark"]}  # it was stopped before the id was stored
        with pytest.raises(SubmissionUnknownError):
            await workflow(unknown).run(prompt="Tea")
        assert [request.method for request in cloud.requests].count("POST") == 1
