"""The page of `BailianAppLLM`, in both languages, and its example; test_examples.py runs all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.pages import blocks

from bailian_apps.emulator import Emulator

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
# LlamaIndex imports langchain-community if it is installed, and asks for a loop where there is none.
WARNINGS = ("`langchain-community` is being sunset", "There is no current event loop")
EXAMPLE = ROOT / "examples" / "llamaindex_query.py"


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ignored = [f"-Wignore:{each}:DeprecationWarning" for each in WARNINGS]
    return subprocess.run(
        [sys.executable, "-W", "error", *ignored, "-c", code],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        timeout=120,
    )


@pytest.mark.parametrize(
    ("language", "second_question"), [("en", "And a second day?"), ("zh", "第二天呢？")]
)
def test_the_code_of_the_page_runs(language: str, second_question: str) -> None:
    examples = blocks("llamaindex", "python", language)
    assert len(examples) > 5
    recording = ROOT / "tests" / "recordings" / "agent-rag-citations.json"
    with Emulator(apps={"app": recording}) as cloud:
        done = run_python(
            "\n".join(examples),
            DASHSCOPE_API_KEY="sk-test",
            BAILIAN_APP_ID="app",
            DASHSCOPE_HTTP_BASE_URL=cloud.base_url,
        )
        asked = [request.input.get("prompt") for request in cloud.requests]
    assert done.returncode == 0, done.stderr
    assert "Bailian Phone Product Introduction" in done.stdout
    assert asked.count(second_question) == 2
    sessions = [request.session_id for request in cloud.requests]
    assert all(
        sessions[index] for index, question in enumerate(asked) if question == second_question
    )


def test_the_example_prints_the_answer_and_what_it_rests_on() -> None:
    code = f"import runpy; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "您的笔记里写道：杭州：西湖" in done.stdout
    assert re.search(r"  \(\d\.\d\d\) 杭州：西湖", done.stdout)
