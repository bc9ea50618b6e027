"""The demo as a user runs it: a process with its output and exit code."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.command import BAILIAN, environment, exit_code_of

from bailian_apps.emulator import RECORDINGS, Emulator, Failure


@pytest.fixture(autouse=True)
def _pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo leaves its picture, for its reader to open: here in the folder of the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def run(**more: str) -> subprocess.CompletedProcess[str]:
    """Run the demo, without a key unless one is passed."""
    variables = {"COLUMNS": "100", "DASHSCOPE_API_KEY": "", "TMPDIR": tempfile.gettempdir()}
    return subprocess.run(
        [BAILIAN, "demo", "--pace", "0"],
        env=environment(**variables | more),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_demo_needs_no_key_and_does_three_different_things() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    head, langchain, llamaindex, agent, end = re.split(r"\n.+ ───+\n", done.stdout)
    assert re.findall(r"\n(\w+).* ───+\n", done.stdout) == ["LangChain", "LlamaIndex", "An", "The"]
    assert "no key is needed" in head
    assert "… #3 找餐馆 Plugin" in langchain  # while another step runs
    assert "西湖" in answer_in(langchain)
    assert re.search(r"✓ #4 景点知识库 Retrieval .* 2 documents: 西湖游览指南, 灵隐寺", langchain)
    assert "三潭印月)[1]" in answer_in(langchain)
    assert "\n[1] 西湖游览指南: " in langchain
    assert "\n412 tokens in, 118 out" in langchain
    assert "知味观" in answer_in(llamaindex)
    assert "your note: Li eats no fish." in llamaindex
    assert "55 yuan" in answer_in(agent)
    assert "5 steps, 96 tokens in, 44 out" in end
    assert "the agent's answer: 55 + 40 + 20 = 115 yuan" in agent
    picture = re.search(r"Open (.+\.html) in a browser", end)
    assert picture is not None
    assert "查票价" in Path(picture[1]).read_text(encoding="utf-8")
    assert "\x1b[" not in done.stdout


def answer_in(part: str, label: str = "answer: ") -> str:
    """The app's answer in a part of the demo."""
    return part.split(f"\n{label}")[1].split("\n✓")[0]


def test_where_people_read_chinese_the_demo_asks_and_answers_in_chinese() -> None:
    done = run(BAILIAN_LANG="zh")
    assert (done.returncode, done.stderr) == (0, "")
    _, langchain, llamaindex, agent, end = re.split(r"\n.+ ───+\n", done.stdout)
    assert "三潭印月[1]" in answer_in(langchain, "回答：")
    assert "\n[1] 西湖游览指南：清晨的苏堤" in langchain
    assert "2 篇文档：西湖游览指南，灵隐寺开放时间" in langchain
    assert "小李不吃鱼" in answer_in(llamaindex, "回答：")
    assert "您的笔记：小李不吃鱼。" in llamaindex
    assert "55 元" in answer_in(agent, "回答：")
    assert "智能体的回答：每人 55 + 40 + 20 = 115 元。" in agent
    (picture,) = re.findall(r"\S+\.html", end)
    Path(picture).unlink()
    names = {"LangChain", "LlamaIndex", "DASHSCOPE_API_KEY", "BAILIAN_APP_ID", "API Key", "prompt"}
    names |= {
        "model",
        "parser",
        "Start",
        "End",
        "Plugin",
        "Retrieval",
        "LLM",
        "MCP",
        "API",
        "Token",
    }
    names |= {"weather", "wind", "restaurants", "qwen-max", "ms", "ref", picture}
    rest = done.stdout
    for name in sorted(names, key=len, reverse=True):
        rest = rest.replace(name, "")
    assert re.findall("[A-Za-z]+", rest) == []


def test_colour_can_be_forced_by_the_environment() -> None:
    assert "\x1b[32m✓" in run(FORCE_COLOR="1").stdout


@pytest.mark.parametrize(
    ("language", "question", "note"),
    [
        ("en", "Plan a day in Hangzhou for two friends.", "Dongpo pork"),
        ("zh", "为两位朋友安排杭州一日游。", "东坡肉"),
    ],
)
def test_with_key_and_app_id_the_demo_calls_the_cloud(
    language: str, question: str, note: str
) -> None:
    with Emulator(apps={"mine": RECORDINGS / "travel-workflow.jsonl"}, api_key="sk-mine") as cloud:
        done = run(
            DASHSCOPE_API_KEY="sk-mine",
            BAILIAN_APP_ID="mine",
            DASHSCOPE_HTTP_BASE_URL=cloud.base_url,
            BAILIAN_LANG=language,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert len(cloud.requests) == 3
        assert cloud.requests[0].prompt == question
        assert note in (cloud.requests[1].prompt or "")
    assert {"en": "App mine on the cloud.", "zh": "应用 mine"}[language] in done.stdout
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
