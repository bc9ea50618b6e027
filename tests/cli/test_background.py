"""`run --background`, and `runs wait`, `show` and `cancel`."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import exit_code_of

from bailian_apps.emulator import Call, Emulator, Failure

PAGES = sorted((Path(__file__).parents[2] / "docs").glob("*/background.md"))


def echo(call: Call) -> str:
    return f"{call.prompt}!"


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    apps: dict[str, Any] = {
        "echo": echo,
        "failing": lambda call: Failure(status=500, code="InvokePluginFailed", message="broken"),
    }
    with Emulator(apps=apps, background_queue_s=60) as it:
        monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
        monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", it.base_url)
        yield it


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = exit_code_of(monkeypatch, *arguments)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_a_run_is_submitted_shown_and_waited_for(cloud: Any, run: Any) -> None:
    code, out, err = run("run", "echo", "Hello", "--background")
    run_id = out.strip()
    assert (code, run_id.startswith("resp_")) == (0, True)
    assert f"runs wait {run_id} --app echo" in err
    assert run("runs", "show", run_id, "--app", "echo") == (0, "queued\n", "")
    cloud.advance(60)
    assert run("runs", "wait", run_id, "--app", "echo")[:2] == (0, "Hello!\n")
    code, out, _ = run("runs", "wait", run_id, "--app", "echo", "--json")
    assert json.loads(out)["result"]["text"] == "Hello!"


def test_a_run_is_cancelled_and_has_no_answer(cloud: Any, run: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("BAILIAN_APP_ID", "echo")
    run_id = json.loads(run("run", "echo", "Hello", "--background", "--json")[1])["id"]
    code, out, _ = run("runs", "cancel", run_id, "--json")
    assert (code, json.loads(out)) == (0, {"id": run_id, "status": "cancelled"})
    code, _, err = run("runs", "wait", run_id)
    assert code == 1
    assert "NoResultError" in err


def test_exit_codes_are_those_of_run(cloud: Any, run: Any) -> None:
    run_id = run("run", "failing", "Hello", "--background")[1].strip()
    assert run("runs", "wait", run_id, "--app", "failing", "--within", "0.1")[0] == 15
    cloud.advance(60)
    assert run("runs", "wait", run_id, "--app", "failing")[0] == 11
    assert run("runs", "show", "resp_none", "--app", "echo")[0] == 5
    assert run("run", "echo", "Hello", "--background", "--session", "s")[0] == 2


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parent.name)
def test_the_commands_of_the_page_run(path: Path, cloud: Any, run: Any) -> None:
    page = path.read_text(encoding="utf-8")
    commands = re.findall(r"^bailian-apps (runs? .*?) +# .*$", page, re.M)
    submit, wait, show, cancel = (
        shlex.split(command.replace("APP_ID", "echo")) for command in commands
    )
    run_id = run(*submit)[1].strip()

    def about(command: list[str]) -> list[str]:
        return [run_id if word == "ID" else word for word in command]

    assert run(*about(show))[:2] == (0, "queued\n")
    cloud.advance(60)
    assert run(*about(wait))[:2] == (0, f"{submit[2]}!\n")
    run_id = run(*submit)[1].strip()
    assert run(*about(cancel))[0] == 0
