"""The demo as a user runs it: a process with its output and exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.command import BAILIAN, environment, exit_code_of

from bailian_apps.emulator import RECORDINGS, Emulator, Failure

ANSWER = "亲,对我的介绍还满意吗"


def run(**more: str) -> subprocess.CompletedProcess[str]:
    """Run the demo, without a key unless one is passed."""
    return subprocess.run(
        [BAILIAN, "demo", "--pace", "0"],
        env=environment(**{"COLUMNS": "100", "DASHSCOPE_API_KEY": ""} | more),
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def test_the_demo_needs_no_key_and_shows_all_three_ways() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "no key is needed" in done.stdout
    parts = done.stdout.split("───")
    assert done.stdout.count(f"answer: {ANSWER}\n") == 4  # three streamed, and the agent's
    ended = (
        "✓ 大模型_1 LLM 1315 ms qwen-max: 25 tokens in, 21 out  西湖醋鱼,龙井虾仁,东坡肉,知味小笼"
    )
    assert done.stdout.count(ended) == 4
    assert (
        done.stdout.index("… 大模型_1 LLM")
        < done.stdout.index("✓ 大模型_1")
        < done.stdout.index("answer:")
    )
    assert "answered from 2 retrieved notes" in done.stdout
    assert "total: 85 tokens" in parts[-1]
    assert "\x1b[" not in done.stdout


def test_colour_can_be_forced_by_the_environment() -> None:
    assert "\x1b[32m✓" in run(FORCE_COLOR="1").stdout


def test_with_key_and_app_id_the_demo_calls_the_cloud() -> None:
    with Emulator(apps={"mine": RECORDINGS / "travel-workflow.jsonl"}, api_key="sk-mine") as cloud:
        done = run(
            DASHSCOPE_API_KEY="sk-mine",
            BAILIAN_APP_ID="mine",
            DASHSCOPE_HTTP_BASE_URL=cloud.base_url,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert len(cloud.requests) == 3
        assert "notes" not in cloud.requests[0].prompt
        assert "Dongpo pork" in (cloud.requests[1].prompt or str(cloud.requests[1].messages))
    assert "App mine on the cloud." in done.stdout
    assert "sk-mine" not in done.stdout


def test_a_failure_is_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-x")
    monkeypatch.setenv("BAILIAN_APP_ID", "mine")
    with Emulator(apps={"mine": lambda _: Failure(status=400, code="FlowNotPublished")}) as cloud:
        monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", cloud.base_url)
        assert exit_code_of(monkeypatch, "demo") == 6
    error = capsys.readouterr().err
    assert error.startswith("BadRequestError: [FlowNotPublished]")
    assert error.count("\n") == 1


def test_an_invalid_app_id_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-x")
    monkeypatch.setenv("BAILIAN_APP_ID", "my/app")
    assert exit_code_of(monkeypatch, "demo") == 2
    error = capsys.readouterr().err
    assert error.startswith("InvalidInputError: APP_ID has a character")
    assert error.count("\n") == 1


def test_without_a_framework_the_error_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['langchain_core'] = None; sys.argv = ['bailian-apps', 'demo'];"
        "from bailian_apps.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'pip install "bailian-apps[all]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_one_variable_without_the_other_is_mentioned() -> None:
    assert "only DASHSCOPE_API_KEY is set" in run(DASHSCOPE_API_KEY="sk-x").stdout
