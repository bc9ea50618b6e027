"""What `StepPrinter` prints, in a terminal and elsewhere."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from typing import Any

import pytest
from support import recordings

from bailian_apps import AppFailedError
from bailian_apps.emulator import Call
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
    StepPrinter,
)

WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"
USED = recordings.frames(WORKFLOW.name)[-1]["usage"]["models"]
TOKENS = "{} tokens in, {} out".format(
    sum(model["input_tokens"] for model in USED), sum(model["output_tokens"] for model in USED)
)

MODEL = r"qwen-max: 25 tokens in, 21 out"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plain(text: str) -> str:
    """Text written to a terminal, without its escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Any:
    def call(runnable: Any, given: Any, printer: StepPrinter) -> Any:
        config = {"callbacks": [printer]}
        if request.param:
            return asyncio.run(runnable.ainvoke(given, config))
        return runnable.invoke(given, config)

    return call


def kinds(fields: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    tool = BailianAppTool(name="t", description="d", **fields)
    tool_call = {"type": "tool_call", "id": "1", "name": "t", "args": {"prompt": "hi"}}
    return {
        "model": (ChatBailianApp(**fields), "hi"),
        "runnable": (BailianAppRunnable(**fields), "hi"),
        "tool": (tool, tool_call),
        "retriever": (BailianAppRetriever(**fields), "hi"),
    }


@pytest.mark.parametrize("kind", ["model", "runnable", "tool", "retriever"])
def test_a_file_gets_a_line_for_each_change(kind: str, call: Any, fields_of: Any) -> None:
    out = io.StringIO()
    call(*kinds(fields_of(WORKFLOW))[kind], StepPrinter(out))
    lines = out.getvalue().splitlines()
    assert len(lines) == 9
    assert lines[:2] == ["app: … 开始 Start", "app: ✓ 开始 Start 0 ms"]
    assert lines[2] == "app: … 大模型_1 LLM"
    assert re.fullmatch(rf"app: ✓ 大模型_1 LLM \d+ ms {MODEL}  西湖醋鱼.*", lines[3])
    # A retriever's run returns documents, which do not carry tokens.
    assert lines[-1] == ("app: done" if kind == "retriever" else f"app: done, {TOKENS}")


def test_a_terminal_gets_a_tree_that_changes(call: Any, fields_of: Any) -> None:
    out = Terminal()
    call(*kinds(fields_of(WORKFLOW))["model"], StepPrinter(out))
    shown = plain(out.getvalue())
    assert "LLM_j45e" not in shown  # its name until it speaks
    assert "… LLM" in shown
    assert "… 大模型_1 LLM  西湖醋鱼" in shown
    last = [line.rstrip() for line in shown.splitlines()][-5:]
    assert last[0] == f"app  done, {TOKENS}"
    assert last[1] == "├── ✓ 开始 Start 0 ms"
    assert re.fullmatch(rf"├── ✓ 大模型_1 LLM \d+ ms {MODEL}  西湖醋鱼.*", last[2])
    assert re.fullmatch(r"└── ✓ 结束 End \d+ ms", last[4])  # its output is the answer


def failing(_: Call) -> list[Any]:
    node = '{"nodeId": "a", "nodeName": "search", "nodeType": "Retrieval", "nodeStatus": "%s"%s}'
    started = {"response": node % ("executing", "")}
    failed = {"response": node % ("fail", ', "nodeErrorMsg": "no\\nindex"')}
    frames = [{"output": {"text": "", "finish_reason": "null", "thoughts": [started]}}]
    frames.append({"output": {"text": "", "finish_reason": "null", "thoughts": [failed]}})
    return [*frames, {"output": {"text": "sorry", "finish_reason": "stop"}}]


def test_a_failed_step_shows_its_error(call: Any, fields_of: Any) -> None:
    lines, tree = io.StringIO(), Terminal()
    for out in (lines, tree):
        call(*kinds(fields_of(failing))["model"], StepPrinter(out))
    assert "app: ✗ search Retrieval  no index\n" in lines.getvalue()
    assert "✗ search Retrieval  no index" in plain(tree.getvalue())


def test_a_run_that_is_left_early_is_shown_as_such(held: Any, fields_of: Any) -> None:
    for out in (io.StringIO(), Terminal()):
        stream = ChatBailianApp(**fields_of(held)).stream("hi", {"callbacks": [StepPrinter(out)]})
        for chunk in stream:
            if chunk.text:
                break
        stream.close()
        shown = plain(out.getvalue())
        assert "… mail" in shown
        assert "✓ mail" not in shown
        assert "left early" in shown


def test_a_failed_run_is_shown_with_its_error(call: Any, fields_of: Any) -> None:
    def app(_: Call) -> Any:
        from bailian_apps.emulator import Failure

        yield {
            "output": {
                "finish_reason": "null",
                "thoughts": [{"action_type": "api", "action_name": "m"}],
            }
        }
        yield Failure(status=500, code="AppProcessFailed", message="broken")

    for out in (io.StringIO(), Terminal()):
        with pytest.raises(AppFailedError):
            call(*kinds(fields_of(app))["model"], StepPrinter(out))
        assert "failed: AppFailedError: [AppProcessFailed] broken" in plain(out.getvalue())


def test_one_printer_shows_runs_that_are_open_at_once(fields_of: Any) -> None:
    for out in (io.StringIO(), Terminal()):
        model = ChatBailianApp(**fields_of(WORKFLOW))
        model.batch(["a", "b", "c"], {"callbacks": [StepPrinter(out)]})
        assert plain(out.getvalue()).count(TOKENS) == 3


def test_a_log_without_these_characters_still_gets_its_lines(fields_of: Any) -> None:
    log = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    call = {"callbacks": [StepPrinter(log)]}
    ChatBailianApp(**fields_of(WORKFLOW)).invoke("hi", call)
    log.seek(0)
    lines = log.read().splitlines()
    assert lines[2] == "app: ? ???_1 LLM"
    assert lines[-1] == f"app: done, {TOKENS}"


def test_only_a_terminal_needs_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    StepPrinter(io.StringIO())
    StepPrinter(Terminal(), live=False)
    with pytest.raises(ImportError, match=re.escape('pip install "bailian-apps[cli]"')):
        StepPrinter(Terminal())
