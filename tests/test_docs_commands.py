"""The commands on the pages run as they are pasted, one after the other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.command import BAILIAN, environment, free_port, on_ports
from support.pages import blocks

from bailian_apps.emulator import RECORDINGS, Emulator

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("bash") is None, reason="the commands are for a shell"),
]

PAGES = ["command-line", "probe"]
PRELUDE = "set -eu\npip() { :; }\n"  # nothing is installed here
PROMPTS = {"en": "Plan a day", "zh": "安排一日游"}


# In Chinese they are the same but for what is said, as the next test shows.
@pytest.mark.parametrize("language", ["en", pytest.param("zh", marks=pytest.mark.slow)])
def test_the_commands_of_the_command_line_page_run(language: str, tmp_path: Path) -> None:
    commands = [block for page in PAGES for block in blocks(page, "sh", language)]
    script = PRELUDE + "\n".join(commands)
    ports = sorted(set(re.findall(r"--port (\d+)", script)))
    script = on_ports(script, {port: free_port() for port in ports})
    (profiles,) = blocks("command-line", "toml", language)
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
    assert prompts.count(PROMPTS[language]) == 8
    assert "POST " in done.stdout
    assert (tmp_path / "day.html").exists()
    assert (tmp_path / "run.html").exists()
    assert (tmp_path / "report" / "report.md").exists()
    assert "prod   APP_ID  (bailian-apps.toml)" in done.stdout


def without_words(block: str) -> list[str]:
    """The commands of a block without their comments and quoted texts."""
    lines = [re.sub(r"(^|\s+)# .*", "", line) for line in block.splitlines()]
    return [re.sub(r'"[^"$]*"', '""', line) for line in lines]


@pytest.mark.parametrize("kind", ["sh", "bash", "text"])
@pytest.mark.parametrize("page", [*PAGES, "chat", "emulator", "recorder", "testing"])
def test_the_commands_in_both_languages_are_the_same(page: str, kind: str) -> None:
    def commands(language: str) -> list[list[str]]:
        found = [without_words(block) for block in blocks(page, kind, language)]
        return [block for block in found if kind != "text" or block[0].startswith("bailian-apps")]

    assert commands("zh") == commands("en")
