"""The code on the page, in both languages, and in the example runs."""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from support.pages import LANGUAGES, blocks

from bailian_apps.emulator import RECORDINGS

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "langchain_chat.py"
TRAVEL = RECORDINGS / "travel-workflow.jsonl"


@pytest.fixture
def environment(start_cloud: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    cloud = start_cloud(travel=TRAVEL)
    monkeypatch.setenv("DASHSCOPE_API_KEY", "k")
    monkeypatch.setenv("BAILIAN_APP_ID", "travel")
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", cloud.base_url)
    return cloud


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_example_on_the_page_runs(
    language: str, environment: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    examples = blocks("langchain", "python", language)
    assert len(examples) == 15
    for example in examples:
        exec(compile(example, "<page>", "exec"), names)  # the page is ours
    printed = capsys.readouterr().out
    assert names["answer"].text in printed
    assert "end " in printed
    assert "non_standard" in printed


@pytest.mark.parametrize("where", ["emulator", "cloud"])
def test_the_example_runs_in_the_emulator_and_on_a_cloud(
    where: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    if where == "cloud":
        cloud = request.getfixturevalue("environment")
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    rounds = re.findall(r"\(round (\d) of session (\w+)\)", printed)
    assert [number for number, _ in rounds] == ["1", "2"]
    assert rounds[0][1] == rounds[1][1]
    assert "[success]" in printed
    if where == "cloud":
        assert len(cloud.requests) == 2


def test_the_example_runs_without_environment_variables(tmp_path: Path) -> None:
    import subprocess

    clean = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=tmp_path, env=clean, capture_output=True, check=True
    )
    assert "round 2" in done.stdout.decode()
