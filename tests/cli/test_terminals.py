"""`bailian-apps` in real terminals: narrow, wide and small ones, of another encoding, and none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from rich.cells import cell_len
from support.command import BAILIAN, environment
from support.screen import needs_tmux, screen

from bailian_apps.emulator import Agent, Call, Emulator, Node, Reference, Workflow

pytestmark = pytest.mark.process

ADDRESS = "https://example.com/guides/" + "west-lake-" * 6 + ".html"
CITING = Agent(
    text=["The West Lake<ref>[1]</ref> is open ", "all day<ref>[2]</ref>."],
    references=[
        Reference(title="A guide to the lake", doc_url=ADDRESS),
        Reference(doc_name="hours.pdf"),
    ],
)
PARALLEL = Workflow(
    nodes=[
        Node(name="查天气", type="API", after=[], output="晴天,二十四度" * 30),
        Node(name="找餐馆", type="Plugin", after=[], output="知味观,楼外楼" * 30),
        Node(name="回答", after=["查天气", "找餐馆"], output="去西湖。"),
    ]
)


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    with Emulator(apps={"cite": CITING, "parallel": PARALLEL}) as running:
        yield running


def node(number: int, status: str) -> dict[str, str]:
    fields = {"nodeName": f"节点{number}", "nodeId": f"API_{number}", "nodeType": "API"}
    return {"response": json.dumps({**fields, "nodeStatus": status, "nodeResult": "ok"})}


@needs_tmux
@pytest.mark.parametrize("columns", [60, 120])
def test_citations_are_numbers_with_the_documents_below(columns: int, cloud: Emulator) -> None:
    at = {"DASHSCOPE_HTTP_BASE_URL": cloud.base_url}
    with screen("run cite hi", columns, 24, **at) as shown:
        lines = shown.wait_for("exit=0")
    assert lines[0] == "The West Lake[1] is open all day[2]."
    assert ADDRESS in "".join(lines)  # whole, to be copied
    assert "[2] hours.pdf" in lines


@needs_tmux
@pytest.mark.parametrize("columns", [60, 120])
def test_a_step_is_one_line_of_the_screen(columns: int, cloud: Emulator) -> None:
    at = {"DASHSCOPE_HTTP_BASE_URL": cloud.base_url}
    with screen("run parallel hi --steps", columns, 24, **at) as shown:
        lines = shown.wait_for("exit=0")
    steps = [line for line in lines if line.startswith("✓")]
    assert [line.split()[1] for line in steps[:3]] == ["开始", "查天气", "找餐馆"]
    cut = [line for line in steps if line.endswith("…")]
    assert len(cut) == 2
    assert all(columns - 2 <= cell_len(line) <= columns for line in cut)
    assert lines.index("去西湖。") > lines.index(cut[-1])


@needs_tmux
def test_a_small_screen_shows_the_step_that_runs() -> None:
    """Of 30 steps, the oldest is the one that still runs."""
    released = threading.Event()

    def slow(call: Call) -> Iterator[dict[str, Any]]:
        for last in range(1, 31):
            steps = [node(1, "executing"), *(node(each, "success") for each in range(2, last + 1))]
            yield {"output": {"thoughts": steps, "finish_reason": "null", "session_id": "s"}}
        released.wait(100)
        yield {"output": {"text": "done", "finish_reason": "stop", "session_id": "s"}}

    with Emulator(apps={"slow": slow}) as cloud:
        at = {"DASHSCOPE_HTTP_BASE_URL": cloud.base_url}
        with screen("run slow hi --steps", 60, 12, **at) as shown:
            try:
                lines = shown.wait_for("节点30")
                assert len(lines) <= 12
                assert lines[0] == "21 more"
                assert lines[1].startswith("… 节点1 API")
                assert sum("✓" in line for line in lines) == 8
            finally:
                released.set()
            shown.wait_for("exit=0")


@needs_tmux
def test_ctrl_c_ends_a_run_and_its_connection() -> None:
    def endless(call: Call) -> Iterator[dict[str, Any]]:
        while not call.disconnected.wait(0.02):
            yield {"output": {"text": "字 ", "finish_reason": "null", "session_id": "s"}}

    with Emulator(apps={"endless": endless}) as cloud:
        at = {"DASHSCOPE_HTTP_BASE_URL": cloud.base_url}
        with screen("run endless hi --steps", 60, 12, **at) as shown:
            shown.wait_for("字")
            shown.press("C-c")
            assert cloud.requests[0].disconnected.wait(50)
            assert "Traceback" not in "".join(shown.wait_for("exit=130"))


@needs_tmux
@pytest.mark.parametrize("given", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["no-color", "dumb"])
def test_colour_can_be_switched_off(given: dict[str, str], cloud: Emulator) -> None:
    variables = " ".join(f"{name}={value}" for name, value in given.items())
    command = f"--version; {variables} {BAILIAN} run parallel hi --steps"
    with screen(command, 100, 24, DASHSCOPE_HTTP_BASE_URL=cloud.base_url) as shown:
        shown.wait_for("exit=0")
        drawn = "\n".join(shown.lines("-e"))
    assert "✓ 查天气" in re.sub("\x1b\\[[0-9;]*m", "", drawn)
    assert not re.search("\x1b\\[[0-9;]*3[0-8]", drawn)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_gbk_terminal_gets_characters_that_it_can_show(cloud: Emulator) -> None:
    env = environment(
        DASHSCOPE_HTTP_BASE_URL=cloud.base_url,
        PYTHONUTF8="0",
        PYTHONIOENCODING="gbk",
        TERM="xterm",
        NO_COLOR="1",
    )
    arguments = ["run", "parallel", "hi", "--steps"]
    shown = pexpect.spawn(BAILIAN, arguments, env=env, encoding="gbk", dimensions=(12, 60))
    shown.expect(pexpect.EOF, timeout=100)
    drawn = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", str(shown.before))
    shown.close()
    assert shown.exitstatus == 0
    assert "√ 查天气 API" in drawn
    assert "去西湖。" in drawn
    assert "?" not in drawn


def test_the_doctors_report_in_a_file_has_a_line_for_each_finding(tmp_path: Path) -> None:
    with Emulator(apps={}) as cloud:
        long = cloud.base_url + "/" + "a-long-path-" * 20
        with (tmp_path / "report").open("w") as report:
            env = environment(DASHSCOPE_HTTP_BASE_URL=long, BAILIAN_APP_ID="mine")
            subprocess.run([BAILIAN, "doctor"], env=env, stdout=report, check=False, timeout=120)
    lines = (tmp_path / "report").read_text().splitlines()
    assert all(line[:2] in ("✓ ", "· ", "✗ ") for line in lines[:-1])
    assert any(line.endswith(f"{long} (DASHSCOPE_HTTP_BASE_URL)") for line in lines)
    assert "\x1b" not in "".join(lines)


@pytest.mark.skipif(sys.platform == "win32", reason="makes a shell of bash")
@pytest.mark.parametrize(
    ("shell", "line"),
    [("pwsh", '$env:DASHSCOPE_API_KEY="any-key"'), ("bash", "export DASHSCOPE_API_KEY=any-key")],
)
def test_the_export_line_is_that_of_the_shell(shell: str, line: str, tmp_path: Path) -> None:
    """PowerShell is not at hand: bash under its name is, which is what the command looks at."""
    bash = shutil.which("bash")
    assert bash is not None
    shutil.copy(bash, tmp_path / shell)
    script = f"{BAILIAN} serve --port 0 & pid=$!; read; kill $pid; wait $pid; true"
    process = subprocess.Popen(
        [str(tmp_path / shell), "-c", script],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert "DASHSCOPE_HTTP_BASE_URL" in process.stdout.readline()
    assert process.stdout.readline() == line + "\n"
    process.communicate("\n", timeout=100)
