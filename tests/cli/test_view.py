"""How a run is shown, where a process of its own would show nothing more."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bailian_apps import (
    AppResult,
    ModelUsage,
    RunFinished,
    Step,
    StepDelta,
    StepFinished,
    StepStarted,
    StepUpdated,
    TextDelta,
    Usage,
)
from bailian_apps.cli.chat.screen import RunScreen
from bailian_apps.cli.view import print_answer, print_note, show
from bailian_apps.terminal import (
    WordWrap,
    step_line,
    step_text,
    step_tree,
    strip_controls,
    with_live_text,
)

ADDRESS = "https://example.com/" + "long/" * 10
LONG_ANSWER = f"""It will be sunny, so end the day with tea.
杭州西湖的十个景点都在湖边 and (苏堤) {ADDRESS}, quiet
- a list of words that is wrapped, too
    indented = "code, which stays as it is"
| a table | of many | columns |
```python
print("this is longer than a line")
```
The last words of the answer"""
WRAPPED_ANSWER = f"""It will be sunny, so
end the day with
tea.
杭州西湖的十个景点都
在湖边 and (苏堤)
{ADDRESS},
quiet
- a list of words
that is wrapped, too
    indented = "code, which stays as it is"
| a table | of many | columns |
```python
print("this is longer than a line")
```
The last words of
the answer
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_an_app_cannot_send_escape_sequences_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hostile = "ok\x1b]0;owned\x07\x9b2J\r\n\tend"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    events = [TextDelta(hostile), RunFinished(AppResult(text=hostile))]
    show(events, Console(file=Terminal()), steps=False)
    assert terminal.getvalue() == "ok]0;owned2J\n\tend\n"
    assert strip_controls(hostile) == "ok]0;owned2J\n\tend"

    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stdout", pipe)
    show(events, Console(file=io.StringIO()), steps=False)
    assert pipe.getvalue() == hostile + "\n"


def test_on_one_terminal_a_step_waits_for_the_line_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    tool = Step(id="1", kind="tool", name="search")
    done = Step(id="1", kind="tool", name="search", status="failed", error="no\nnet", duration_ms=7)
    late = Step(id="2", kind="node", name="late")
    events = [
        StepStarted(tool),
        TextDelta("half"),
        StepFinished(done),
        TextDelta(" a line\n"),
        TextDelta("rest"),
        StepStarted(late),
        RunFinished(AppResult(text="half a line\nrest")),
    ]
    show(events, Console(file=terminal, width=60, no_color=True), steps=True)
    drawn = terminal.getvalue()
    assert "half a line\n✗ search 7 ms  no net\nrest\n… late" in drawn


def test_in_one_file_a_step_waits_for_the_line_to_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As with `--steps 2>&1`; two files keep answer and steps apart."""
    step = Step(id="1", kind="tool", name="search")
    events = [TextDelta("half"), StepStarted(step), TextDelta(" a line"), RunFinished(AppResult())]
    for other in ("out", "err"):
        with (tmp_path / "out").open("w") as out, (tmp_path / other).open("a") as err:
            monkeypatch.setattr(sys, "stdout", out)
            show(events, Console(file=err, width=60, no_color=True), steps=True)
            monkeypatch.undo()
        expected = "half a line\n… search\n" if other == "out" else "half a line\n"
        assert (tmp_path / "out").read_text() == expected


def test_in_one_file_a_chat_prints_a_step_after_the_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = Step(id="1", kind="tool", name="search", status="success", duration_ms=7)
    events = [TextDelta("half"), StepFinished(step), TextDelta(" a line"), RunFinished(AppResult())]
    with (tmp_path / "out").open("w") as out, (tmp_path / "out").open("a") as err:
        monkeypatch.setattr(sys, "stdout", out)
        console = Console(file=err, width=60, no_color=True)
        with RunScreen(console, steps=True, reasoning=False) as screen:
            for event in events:
                screen.show(event)
        monkeypatch.undo()
    assert (tmp_path / "out").read_text() == "half a line\n✓ search 7 ms\n"


def test_a_final_text_of_its_own_is_written_after_the_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = AppResult(text="other", final_text="whole")
    assert show([TextDelta("other"), RunFinished(result)], Console(), steps=False) is result
    assert capsys.readouterr().out == "other\nwhole\n"


def test_plain_lines_and_coloured_lines_have_the_same_text() -> None:
    running = Step(id="a", kind="node", name="find\x1b[2J", type="Retrieval")
    failed = Step(id="b", kind="tool", name="mcp", type="mcp", status="fail", error="no\nnet")
    ended = Step(id="c", kind="node", name="LLM", status="success", output="hi", duration_ms=7)
    end = Step(id="d", kind="node", name="End", type="End", status="success", output="the answer")
    assert [step_line(step) for step in (running, failed, ended, end)] == [
        "… find[2J Retrieval",
        "✗ mcp  no net",
        "✓ LLM 7 ms  hi",
        "✓ End",
    ]
    for step in (running, failed, ended, end):
        assert step_text(step).plain == step_line(step)


def test_a_note_wraps_between_words_in_a_terminal_only() -> None:
    address = "https://example.com/" + "long/" * 10
    text = f"one two three four five {address} end\n  杭州西湖的十个景点都在湖边"
    file = io.StringIO()
    print_note(Console(file=file, width=20, force_terminal=True, color_system=None), text)
    assert file.getvalue().splitlines() == [
        "one two three four",
        "five",
        address,
        "end",
        "  杭州西湖的十个景点",
        "都在湖边",
    ]
    print_note(Console(file=(pipe := io.StringIO()), width=20), text)
    assert pipe.getvalue() == text + "\n"


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_an_answer_in_pieces_wraps_between_words_in_a_terminal_only(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [LONG_ANSWER[at : at + size] for at in range(0, len(LONG_ANSWER), size)]
    for file in (Terminal(), io.StringIO()):
        expected = WRAPPED_ANSWER if file.isatty() else LONG_ANSWER + "\n"
        monkeypatch.setattr(sys, "stdout", file)
        console = Console(file=io.StringIO(), width=20)
        show([TextDelta(piece) for piece in pieces], console, steps=False)
        with RunScreen(console, steps=False, reasoning=False) as screen:
            for piece in pieces:
                screen.show(TextDelta(piece))
        print_answer(LONG_ANSWER, console)
        assert file.getvalue() == expected * 3


def test_a_word_is_written_as_soon_as_it_ends() -> None:
    wrap = WordWrap()
    written = [
        wrap.feed(piece, 12) for piece in ("one tw", "o th", "ree 西", "湖", "x" * 20, "y z")
    ]
    assert written == ["one", " two", "\nthree 西", "湖", "\n" + "x" * 20, "y"]
    assert wrap.end(12) == "\nz"


def test_a_step_is_drawn_below_the_step_it_ran_in() -> None:
    console = Console(file=io.StringIO(), width=60)
    outer = Step(id="1", kind="node", name="loop", status="success")
    inner = Step(id="2", kind="node", name="body", status="success", parent_id="1")
    with console.capture() as capture:
        console.print(step_tree([outer, inner], "app"))
    assert capture.get().split("\n") == ["app", "└── ✓ loop", "    └── ✓ body", ""]


def test_a_step_that_did_not_fail_shows_its_state() -> None:
    steps = [
        Step(id=f"n{status}", kind="node", name=status, type="LLM", status=status)
        for status in ("skip", "pause", "stop")
    ]
    assert [step_line(step) for step in steps] == [
        "– skip LLM skip",
        "‖ pause LLM pause",
        "■ stop LLM stop",
    ]


def test_a_step_shows_its_models_and_its_reasoning() -> None:
    usage = Usage(models=(ModelUsage(model_id="qwen-max", input_tokens=5, output_tokens=4),))
    node = Step(
        id="a", kind="node", name="n", status="success", output="hi", reasoning="h\nm", usage=usage
    )
    assert step_line(node) == "✓ n qwen-max: 5 tokens in, 4 out  hi  thought: h m"
    assert Step.from_dict(node.to_dict() | {"unknown": 1}) == node


def test_a_nodes_line_waits_for_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    first = Step(id="LLM_x", kind="node", name="LLM_x", type="LLM")
    named = replace(first, name="大模型")
    events = [
        StepStarted(first),
        StepUpdated(named),
        StepDelta("LLM_x", "hi"),
        StepUpdated(named),
        StepFinished(replace(named, status="success", output="hi")),
        RunFinished(AppResult()),
    ]
    show(events, Console(file=(err := io.StringIO()), width=60, no_color=True), steps=True)
    assert err.getvalue() == "… 大模型 LLM\n✓ 大模型 LLM  hi\n"


def test_a_skipped_node_has_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = Step(id="a", kind="node", name="知识库", type="Retrieval", status="skip")
    events = [StepStarted(skipped), StepFinished(skipped), RunFinished(AppResult())]
    show(events, Console(file=(err := io.StringIO()), width=60, no_color=True), steps=True)
    assert err.getvalue() == "– 知识库 Retrieval skip\n"


def test_the_tree_shows_what_a_node_says() -> None:
    step = Step(id="LLM_x", kind="node", name="LLM_x", type="LLM")
    assert step_line(step) == "… LLM"
    for text in ("one ", "two " * 20, "three"):
        step = with_live_text(step, text)
    assert step_line(step).startswith("… LLM  ")
    assert step_line(step).endswith("two three")
    assert len(step_line(step)) < 40
