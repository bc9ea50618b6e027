"""The command line in Chinese: help, usage errors, and what the commands print."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.cells import cell_len

from bailian_apps.emulator import RECORDINGS, Emulator, load_apps

COMMANDS = (
    "",
    "run",
    "chat",
    "profiles",
    "batch",
    "doctor",
    "probe",
    "serve",
    "record",
    "init",
    "recordings",
    "recordings ls",
    "replay",
    "demo",
    "runs",
    "runs wait",
    "runs show",
    "runs cancel",
)
BAILIAN = str(Path(sys.executable).with_name("bailian-apps"))
# Four words in a row are a sentence, unless they are part of a command.
SENTENCE = re.compile(r"(?:\b[A-Za-z][a-z']+[ ,]+){3}[a-z']+")
# What the tests' commands say themselves, and names.
ALLOWED = re.compile(
    r"bailian-apps [^│\n]*|\$ .*|cat question.*|Plan a day[^│\n]*|pip install .*|Name or service.*"
    r"|List the numbers from[^│\n]*|Which number did[^│\n]*|Remember the number[^│\n]*"
    r"|Connection refused"
)


def run(
    *arguments: str, columns: int = 80, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    environment: Mapping[str, str] = {
        **os.environ,
        "BAILIAN_LANG": "zh",
        "COLUMNS": str(columns),
        "PYTHONUTF8": "1",
        **variables,
    }
    return subprocess.run(
        [BAILIAN, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=dict(environment),
        timeout=280,
        check=False,
    )


def english_in(text: str) -> list[str]:
    return SENTENCE.findall(ALLOWED.sub("", text))


@pytest.mark.process
@pytest.mark.parametrize("columns", [80, 60])
def test_help_is_chinese_and_fits_the_terminal(columns: int) -> None:
    program = (
        "import sys\n"
        "from bailian_apps.cli.commands import app\n"
        f"for command in {COMMANDS!r}:\n"
        "    sys.argv = ['bailian-apps', *command.split(), '--help']\n"
        "    try: app()\n"
        "    except SystemExit as end: assert not end.code\n"
    )
    variables = {"BAILIAN_LANG": "zh", "COLUMNS": str(columns), "PYTHONUTF8": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **variables},
        timeout=280,
        check=True,
    ).stdout
    assert english_in(shown) == []
    assert "None" not in shown  # an argument without a help
    assert shown.count("用法：") == len(COMMANDS)
    assert max(map(cell_len, shown.splitlines())) <= columns
    if columns == 80:  # a column of help has no Chinese that was cut off
        assert not re.search("[\u3400-\u9fff]…", shown.replace("和 LlamaIndex…", ""))


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "expected", "code"),
    [
        (["rn"], "没有命令 'rn'。是否想写 'run', 'runs'？", 2),
        (["run", "--temprature", "1"], "没有选项 --temprature。是否想写 --set temperature=…？", 2),
        (["run", "--city", "x"], "没有选项 --city。工作流开始节点的变量请写作 --biz city=…", 2),
        (["record"], "缺少选项 '--out'。", 2),
        (["batch", "in.csv"], "缺少参数 'OUT'。", 2),
        (["serve", "--port", "x"], "'--port' 的值无效：", 2),
        (["serve", "nowhere"], "路径 'nowhere' 不存在。", 2),
        (["run", "a", "b", "c d"], "多余的参数（c d）。请给提示词加上引号", 2),
        (["run", "a", "b", "--json", "--raw"], "值无效：--json 不能与 --raw 同时使用", 2),
        (["run", "a", "b", "--timeout", "-1"], "--timeout 必须是正的秒数", 2),
        (["run", "a", "b", "--set", "top_k=x"], "--set top_k 必须是整数，而不是 str", 2),
        (["run", "a", "b", "--profile", "x"], "--profile（或 BAILIAN_PROFILE）指定的配置档案不存在", 2),
        (["run", "a", "b"], "API Key 缺失。请设置环境变量 DASHSCOPE_API_KEY", 2),
        (["batch", "x.doc", "out.csv", "--app", "x"], "IN 必须以 .jsonl, .ndjson, .csv, .parquet 之一结尾，或为 -", 2),
        (["replay", "."], "FILE 是文件夹。", 2),
        (["profiles"], "没有配置档案。请写入", 0),
    ],
)  # fmt: skip
def test_errors_of_arguments_are_chinese(
    tmp_path: Path, arguments: list[str], expected: str, code: int
) -> None:
    done = run(*arguments, HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))
    shown = " ".join((done.stdout + done.stderr).replace("│", "").split())
    assert expected in shown
    assert done.returncode == code
    assert english_in(shown) == []


@pytest.mark.process
def test_what_is_wrong_inside_a_file_is_chinese_too(tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    saved.write_text('{"messages": [{"role": "user"}]}', encoding="utf-8")
    variables = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = run("chat", "a", "--load", str(saved), DASHSCOPE_API_KEY="sk-any", **variables)
    assert "messages[0] 需要 role 和文本形式的 content" in done.stderr
    assert done.returncode == 2


@pytest.mark.process
def test_commands_speak_chinese_and_machine_output_does_not_change(tmp_path: Path) -> None:
    apps = load_apps(RECORDINGS / "travel-workflow.jsonl")
    with Emulator(apps={"travel": next(iter(apps.values()))}) as cloud:
        variables = {"DASHSCOPE_API_KEY": "sk-any", "DASHSCOPE_HTTP_BASE_URL": cloud.base_url}
        variables |= {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
        steps = run("run", "travel", "hi", "--steps", **variables)
        as_json = run("run", "nosuch", "hi", "--json", **variables)
        in_english = run("run", "nosuch", "hi", "--json", **variables, BAILIAN_LANG="en")
        checked = run("doctor", "--json", **variables)
        as_text = run("doctor", **variables)
        chat = run("chat", "travel", stdin="/help\nhi\n/session\n/steps last\n/x\n", **variables)
        probe = run("probe", "travel", "--yes", **variables)
        listed = run("recordings", "ls", str(RECORDINGS), **variables)
    assert "输入 48 Token，输出 37，会话 " in steps.stderr
    error, same = (json.loads(each.stdout)["error"] for each in (as_json, in_english))
    assert (error["type"], error["message"]) == (same["type"], same["message"])
    assert "BadRequestError: [InvalidParameter]" in as_json.stderr
    assert "APP_ID：请从控制台“应用管理”的应用列表里复制" in as_json.stderr
    findings = json.loads(checked.stdout)["findings"]
    assert {"key", "app", "address", "endpoint"} <= {each["name"] for each in findings}
    assert all(each["detail"].isascii() for each in findings)
    assert "应用          未设置 BAILIAN_APP_ID" in as_text.stdout
    assert "未知命令 /x。/help 列出所有命令。" in chat.stderr
    assert "应用类型             工作流" in probe.stdout
    assert re.match("文件 +应用 +模式 +状态 +步骤 +大小 +提示词", listed.stdout)
    for each in (steps, as_text, chat, probe, listed):
        assert english_in(each.stdout + each.stderr) == [], each.args


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="the desktop has a language there")
def test_the_locale_alone_is_enough() -> None:
    shown = run("recordings", BAILIAN_LANG="", LC_ALL="", LC_MESSAGES="", LANG="zh_CN.UTF-8")
    assert "用法：" in shown.stdout + shown.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    "variables",
    [{"BAILIAN_LANG": "en"}, {"BAILIAN_LANG": "klingon"}, {"PYTHONIOENCODING": "ascii"}],
    ids=["chosen", "unknown", "no characters for Chinese"],
)
def test_it_is_english_otherwise(variables: dict[str, str]) -> None:
    variables = {"LANG": "zh_CN.UTF-8", "LC_ALL": "", "LC_MESSAGES": "", **variables}
    shown = run("recordings", **variables)
    assert "Usage: bailian-apps recordings" in shown.stdout + shown.stderr
