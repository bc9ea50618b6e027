"""Every example runs as a script: on its own, and as on the cloud with two variables set."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bailian_apps.emulator import RECORDINGS, Emulator

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "README.zh-CN.md"]


def run(code: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    done = subprocess.run(
        [sys.executable, *code],
        env=inherited | {"PYTHONUTF8": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_needs_no_key(path: Path) -> None:
    assert run([str(path)]).stdout


@pytest.mark.parametrize(
    "path",
    [path for path in EXAMPLES if not path.stem.endswith("_test")],
    ids=lambda path: path.stem,
)
def test_an_example_runs_on_the_cloud_with_two_variables(path: Path) -> None:
    with Emulator(apps={"mine": RECORDINGS / "travel-workflow.jsonl"}, api_key="sk-mine") as cloud:
        run(
            [str(path)],
            DASHSCOPE_API_KEY="sk-mine",
            BAILIAN_APP_ID="mine",
            DASHSCOPE_HTTP_BASE_URL=cloud.base_url,  # where "the cloud" is, for this test
        )
        assert cloud.requests
        assert {request.app_id for request in cloud.requests} == {"mine"}


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_the_code_in_a_page_runs(path: Path) -> None:
    """All blocks of a page, one after the other, with the two variables set."""
    code = blocks(path)
    if not code:
        pytest.skip("the page has no Python in it")
    with Emulator(apps={"mine": RECORDINGS / "travel-workflow.jsonl"}, api_key="sk-mine") as cloud:
        script = "\n".join(code).replace('app_id="…"', 'app_id="mine"')
        run(
            ["-c", script],
            DASHSCOPE_API_KEY="sk-mine",
            BAILIAN_APP_ID="mine",
            DASHSCOPE_HTTP_BASE_URL=cloud.base_url,
        )
