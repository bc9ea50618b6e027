"""What a type checker accepts, in a program of a user."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyright")

PROGRAM = """
from pydantic import SecretStr
from bailian_apps import AppSettings, BailianApp
from bailian_apps.langchain import BailianAppRetriever, BailianAppRunnable
from bailian_apps.langchain import BailianAppTool, ChatBailianApp
from bailian_apps.llamaindex import BailianAppLLM

async def read_key() -> str:
    return "st-…"

headers: dict[str, str] = {"X-Trace": "1"}
AppSettings(app_id="a", api_key="k", flow_stream_mode="a_new_mode", extra_headers=headers)
AppSettings(app_id="a", api_key=SecretStr("k"))
AppSettings(app_id="a", api_key=lambda: "k")
AppSettings(app_id="a", api_key=read_key)
BailianApp(app_id="a", api_key="k")
ChatBailianApp(app_id="a", api_key="k")
BailianAppRunnable(app_id="a", api_key="k")
BailianAppTool(app_id="a", api_key="k", name="t", description="d")
BailianAppRetriever(app_id="a", api_key="k")
BailianAppLLM(app_id="a", api_key=read_key)
AppSettings(app_id="a", api_key=5)  # refused
"""


@pytest.mark.slow
def test_a_type_checker_accepts_every_form_of_a_key(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    lines = {PROGRAM.splitlines()[each["range"]["start"]["line"]] for each in found}
    assert lines == {'AppSettings(app_id="a", api_key=5)  # refused'}
