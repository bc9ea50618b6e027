"""`chat` in a terminal: the line editor, and the screen as tmux draws it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console
from support.images import PNG, data_url
from support.screen import Screen, needs_tmux, screen

from bailian_apps import (
    AppResult,
    ReasoningDelta,
    RunFinished,
    Step,
    StepFinished,
    StepStarted,
    TextDelta,
)
from bailian_apps.cli.chat.line_editor import LineEditor
from bailian_apps.cli.chat.screen import RunScreen
from bailian_apps.cli.chat.slash_commands import COMMANDS
from bailian_apps.emulator import Agent, Call, Emulator, Node, Workflow

THOUGHT = "我比较西湖和西溪湿地的交通和季节。 I compare the two lakes in spring. "
ANSWER = "西湖 is best in spring. <ref>[1]</ref>\n- 苏堤\n- 断桥"


# ------------------------------------------------------------------ the editor, by its keys


@contextlib.contextmanager
def editor(
    history: InMemoryHistory | None = None, paths_after: tuple[str, ...] = ("/image",)
) -> Iterator[tuple[Any, LineEditor]]:
    commands = {name: command.help for name, command in COMMANDS.items()}
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys, LineEditor(commands, paths_after=paths_after, history=history)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("hello\r", "hello"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("one\\\rtwo\r", "one\ntwo"),
        ("a\\b\\\x1b[D\r", "a\\b\\"),  # the cursor is not at the end
        ("\x1b[200~one\r\ntwo\rthree\n\x1b[201~ and more\r", "one\ntwo\nthree\n and more"),
        ("dropped\x03kept\r", "kept"),
        ("\x12lak\r\r", "Which lake?\nSay why"),
        ("\x12lak\x03kept\r", "kept"),
    ],
)
def test_keys_make_a_message(keys: str, message: str) -> None:
    with editor(InMemoryHistory(["Which lake?\nSay why", "no"])) as (sent, line_editor):
        sent.send_text(keys)
        assert line_editor.read() == message


@pytest.mark.parametrize(("keys", "left"), [("\x04", EOFError), ("\x03", KeyboardInterrupt)])
def test_an_empty_line_can_be_left(keys: str, left: type[BaseException]) -> None:
    with editor() as (sent, line_editor):
        sent.send_text(keys)
        with pytest.raises(left):
            line_editor.read()


def test_commands_are_completed_with_their_help_and_paths_after_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lake.png").write_bytes(PNG)
    (tmp_path / "lakes").mkdir()

    def completed(text: str) -> list[tuple[str, str]]:
        with editor() as (_, line_editor):
            found = line_editor.completer.get_completions(Document(text), CompleteEvent())
            return [(each.text, each.display_meta_text) for each in found]

    assert completed("/s") == [
        ("/session", COMMANDS["/session"].help),
        ("/save", COMMANDS["/save"].help),
        ("/steps", COMMANDS["/steps"].help),
    ]
    assert [text for text, _ in completed("/image la")] == ["ke.png", "kes"]
    assert completed("/new la") == completed("image la") == completed("hi\n/s") == []


# ------------------------------------------------------------------ the screen of one run


class Paper(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, *events: Any, **options: bool) -> str:
    """What a run leaves on a terminal that cannot move its cursor."""
    paper = Paper()
    monkeypatch.setattr(sys, "stdout", paper)
    console = Console(file=paper, width=40, color_system=None, force_interactive=False)
    with RunScreen(console, **{"steps": True, "reasoning": False} | options) as shown:
        for event in events:
            if isinstance(event, str):
                logging.getLogger("bailian_apps").warning(event)
            else:
                shown.show(event)
    return paper.getvalue()


def test_an_answer_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    same = AppResult(text='{"a":1}', final_text='{"a": 1}')
    assert drawn(monkeypatch, TextDelta('{"a":1}'), RunFinished(same)) == '{"a":1}\n'
    other = AppResult(text="a", final_text="b")
    assert drawn(monkeypatch, TextDelta("a"), RunFinished(other)) == "a\nb\n"


def test_steps_and_warnings_wait_for_the_line_of_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Step(id="1", kind="tool", name="search\x1b[2J", status="success", output="x" * 60)
    events = (
        TextDelta("half\x1b[2J "),
        StepFinished(step),
        "look",
        TextDelta("a line\n"),
        TextDelta("rest"),
    )
    shown = drawn(monkeypatch, *events)
    assert shown == f"half[2J a line\n✓ search[2J  {'x' * 26}…\nlook\nrest\n"


def test_thoughts_are_folded_into_the_step_or_printed_line_by_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Step(id="1", kind="node", name="LLM", type="LLM")
    two = Step(id="2", kind="node", name="二", type="LLM")
    thoughts = ("I compare", " the two lakes in spring\tand in autumn.\nThen", " I choose")
    events = (
        *(StepStarted(one), StepStarted(two)),
        *(ReasoningDelta(text, "1") for text in thoughts),
        *(ReasoningDelta("我比较", "2"), ReasoningDelta("again", "1")),
        StepFinished(Step(id="1", kind="node", name="LLM", status="success", reasoning="whole")),
        TextDelta("West Lake"),
        ReasoningDelta("late", "2"),
    )
    assert drawn(monkeypatch, *events) == "✓ LLM  thought: whole\nWest Lake\n… 二 LLM\n"
    assert drawn(monkeypatch, *events, reasoning=True).split("\n") == [
        "LLM thinks:",
        "  I compare the two lakes in spring and",
        "  in autumn.",
        "  Then I choose",
        "二 thinks:",
        "  我比较",
        "LLM thinks:",
        "  again",
        "✓ LLM",
        "West Lake",
        "二 thinks:",
        "  late",
        "… 二 LLM",
        "",
    ]


# ------------------------------------------------------------------ in tmux


GATE = threading.Event()


def talk(call: Call) -> Any:
    if call.prompt == "慢":
        return slow(call)
    return endless(call) if call.prompt == "永远" else f"第{len(call.turns) + 1}轮：{call.prompt}"


def endless(call: Call) -> Iterator[dict[str, Any]]:
    while True:
        yield {"output": {"text": "字 ", "finish_reason": "null", "session_id": call.session_id}}
        if call.disconnected.wait(0.02):
            return


def slow(call: Call) -> Iterator[dict[str, Any]]:
    for text, reason in [("慢", "null"), ("答", "stop")]:
        yield {"output": {"text": text, "finish_reason": reason, "session_id": call.session_id}}
        GATE.wait(50)


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    apps = {
        "talk": talk,
        "flow": Workflow(nodes=[Node(name="大模型", reasoning=THOUGHT, output=ANSWER)]),
        "agent": Agent(thoughts=[{"reasoning": THOUGHT}], text="West Lake."),
    }
    with Emulator(apps=apps, api_key="sk-mine") as running:
        yield running


def at(cloud: Emulator, folder: Path) -> dict[str, str]:
    return {"DASHSCOPE_HTTP_BASE_URL": cloud.base_url, "XDG_STATE_HOME": str(folder / "state")}


def send(shown: Screen, text: str) -> None:
    shown.wait_for_prompt()
    shown.type(text)
    shown.press("Enter")


@needs_tmux
@pytest.mark.process
def test_a_chat_is_stopped_left_and_continued_in_its_session(
    cloud: Emulator, tmp_path: Path
) -> None:
    with screen("chat talk", 80, 30, **at(cloud, tmp_path)) as shown:
        shown.wait_for("App talk. /help lists the commands.")
        shown.wait_for_prompt()
        shown.paste("First line\nsecond line\nthird line")
        shown.wait_for("  third line")
        assert cloud.requests == []  # what was pasted waits for Enter
        shown.press("Enter")
        shown.wait_for("第1轮：First line")
        shown.wait_for_prompt()
        shown.paste("/new\n/help")
        shown.wait_for("  /help")
        shown.press("Enter")
        shown.wait_for("A command has one line.")
        send(shown, "我的 key 是 sk-secret")
        shown.wait_for("第2轮：")
        shown.wait_for_prompt()
        shown.press("C-d")
        shown.wait_for("exit=0")
    (session,) = cloud.sessions.values()
    assert [turn.user for turn in session.turns] == [
        "First line\nsecond line\nthird line",
        "我的 key 是 sk-secret",
    ]
    state = tmp_path / "state" / "bailian-apps"
    kept = [path for path in state.rglob("*") if path.is_file()]
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600, 0o600]
    history = (state / "history").read_text(encoding="utf-8")
    assert "+second line\n" in history
    assert "sk-secret" not in history

    with screen("chat talk --continue", 80, 30, **at(cloud, tmp_path)) as shown:
        shown.wait_for("Continuing a chat of 4 messages, which ends with:")
        shown.wait_for_prompt()
        shown.press("Up")  # the history of the chat before
        shown.wait_for("> First line")
        shown.press("C-c")
        send(shown, "永远")
        shown.wait_for("字 字 字")
        shown.press("Up", "F5")  # no text
        shown.type("typed ahead")
        shown.press("Enter", "C-c")
        shown.wait_for("stopped")
        assert cloud.requests[2].disconnected.wait(50)
        shown.wait_for("> typed ahead")
        assert len(cloud.requests) == 3  # it waits to be sent
        shown.press("Enter")
        shown.wait_for("：typed ahead")
        shown.wait_for_prompt()
        shown.press("C-c")
        shown.wait_for("exit=0")
    assert cloud.requests[2].session_id == session.id
    # The stopped answer is part of the history, which is sent whole from now on.
    sent = cloud.requests[3].messages
    assert [message["role"] for message in sent] == ["user", "assistant"] * 3 + ["user"]
    assert sent[5]["content"].startswith("字 字 字")
    (saved,) = (state / "chats").rglob("*.json")
    assert len(json.loads(saved.read_text(encoding="utf-8"))["messages"]) == 8


@needs_tmux
@pytest.mark.process
@pytest.mark.parametrize(("columns", "rows"), [(60, 12), (120, 30)])
def test_a_run_is_folded_into_lines_and_unfolds_on_demand(
    cloud: Emulator, tmp_path: Path, columns: int, rows: int
) -> None:
    (tmp_path / "lake.png").write_bytes(PNG)
    with screen("chat flow --no-history", columns, rows, **at(cloud, tmp_path)) as shown:
        shown.wait_for_prompt()
        shown.type("/ima")
        shown.wait_for(COMMANDS["/image"].help)
        shown.press("Tab")
        shown.wait_until(lambda lines: "> /image" in lines, "the command")
        shown.type(f"{tmp_path}/la")
        shown.wait_for(" lake.png")
        shown.press("Tab")
        shown.wait_until(lambda lines: "/lake.png" in "".join(map(str.strip, lines)), "the path")
        shown.press("Enter")
        shown.wait_for("With the next message:")
        send(shown, "Which lake?")
        shown.wait_for("session ")
        lines = shown.wait_for_prompt()
        assert lines.count("- 断桥") == 1
        assert lines[lines.index("- 断桥") - 2 :][:2] == ["西湖 is best in spring. [1]", "- 苏堤"]
        (step,) = [line for line in lines if "✓ 大模型" in line]
        assert step.endswith("…")  # a step is one line, cut where the screen ends
        send(shown, "/reasoning last")
        shown.wait_until(
            lambda lines: "two lakes in spring." in " ".join(" ".join(lines).split()), "the thought"
        )
        picture = tmp_path / "run.html"
        send(shown, f"/html {picture}")
        shown.wait_for("Wrote ")
        send(shown, "/quit")
        shown.wait_for("exit=0")
    assert cloud.requests[0].input["image_list"] == [data_url(PNG)]
    assert not (tmp_path / "state").exists()
    assert stat.S_IMODE(picture.stat().st_mode) == 0o600
    assert "大模型" in picture.read_text(encoding="utf-8")


@needs_tmux
@pytest.mark.process
@pytest.mark.parametrize("assignments", ["", "NO_COLOR=1"])
def test_colours_can_be_switched_off(cloud: Emulator, tmp_path: Path, assignments: str) -> None:
    with screen("chat agent", 80, 24, assignments=assignments, **at(cloud, tmp_path)) as shown:
        send(shown, "/reasoning on")
        send(shown, "Which lake?")
        shown.wait_for("West Lake.")
        shown.wait_for_prompt()
        drawn = "\n".join(shown.lines("-e"))
    assert "I compare the two lakes in spring." in drawn
    assert ("\x1b[32m" in drawn) == (not assignments)


@needs_tmux
@pytest.mark.process
def test_a_terminal_that_cannot_move_its_cursor_is_asked_plainly(
    cloud: Emulator, tmp_path: Path
) -> None:
    encoding = "TERM=dumb PYTHONUTF8=0 PYTHONIOENCODING=gbk"
    with screen("chat talk", 80, 24, assignments=encoding, **at(cloud, tmp_path)) as shown:
        shown.wait_for_prompt()
        shown.paste("one\ntwo\n")
        shown.wait_for("session ")
        send(shown, "慢")
        shown.wait_until(lambda lines: lines[-1].startswith("慢"), "the answer's beginning")
        shown.type("typed ahead")
        shown.press("Enter")
        shown.wait_for("typed ahead")
        GATE.set()
        shown.wait_for("What you typed during the answer was not sent.")
        shown.wait_for_prompt()
        shown.press("C-d")
        shown.wait_for("exit=0")
    assert [request.prompt for request in cloud.requests] == ["one\ntwo", "慢"]
