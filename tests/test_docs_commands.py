"""The commands on the pages run as they are pasted, one after the other."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from support.command import BAILIAN, environment

from bailian_apps.emulator import RECORDINGS, Emulator

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("bash") is None, reason="the commands are for a shell"),
]

DOCS = Path(__file__).parents[1] / "docs/en"
PRELUDE = "set -eu\npip() { :; }\n"  # nothing is installed here


def blocks(page: str, kind: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_the_commands_of_the_command_line_page_run(tmp_path: Path) -> None:
    script = PRELUDE + "\n".join(blocks("command-line.md", "sh"))
    for port in sorted(set(re.findall(r"--port (\d+)", script))):
        script = script.replace(port, str(free_port()))
    (profiles,) = blocks("command-line.md", "toml")
    (tmp_path / "bailian-apps.toml").write_text(profiles, encoding="utf-8")
    with Emulator(apps={"APP_ID": RECORDINGS / "travel-workflow.jsonl"}) as cloud:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment(
                HOME=str(tmp_path / "home"),
                PATH=f"{Path(BAILIAN).parent}:/usr/bin:/bin",
                DASHSCOPE_HTTP_BASE_URL=cloud.base_url,
            ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=550,
            check=False,
        )
        prompts = [request.prompt for request in cloud.requests]
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert prompts.count("Plan a day") == 7
    assert "POST " in done.stdout
    assert (tmp_path / "day.html").exists()
    assert (tmp_path / "run.html").exists()
    assert (tmp_path / "report" / "report.md").exists()
    assert "prod   APP_ID  (bailian-apps.toml)" in done.stdout
