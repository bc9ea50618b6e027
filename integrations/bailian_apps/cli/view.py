"""Shows a run: the answer on standard output, all else on a console (standard error's)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import fields
from time import monotonic
from typing import IO, Any

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from rich.tree import Tree

from bailian_apps.core.errors import BailianError
from bailian_apps.core.events import AppEvent, RunFinished, StepFinished, StepStarted, TextDelta
from bailian_apps.core.result import EXECUTING, AppResult, Step

# What Python calls an argument, and what it is for whoever is at a terminal.
_OPTIONS = {
    "app_id": "APP_ID",
    "base_url": "--base-url (or DASHSCOPE_HTTP_BASE_URL)",
    "model_id": "--model-id",
    "prompt": "PROMPT",
    "session_id": "--session",
    "timeout": "--timeout",
    "workspace": "--workspace",
}
_ARGUMENT = re.compile(rf"\b({'|'.join(_OPTIONS)})(?:=(?!\w|')|(?=: (?!is not a setting)))")
# Of no use there, where every value is a str.
_FOR_PROGRAMS = re.compile(r", or pass api_key=|, or a Timeout|(?<=:) is a str\.")

# All but tab and newline: what an app says must not be able to steer the terminal.
_CONTROLS = {c: None for c in (*range(32), *range(127, 160)) if chr(c) not in "\t\n"}


def show(
    events: Iterable[AppEvent], console: Console, *, steps: bool, answer: bool = True
) -> AppResult:
    """Show a run while it happens.

    Args:
        events: The events of one run.
        console: Where the steps go. In a terminal they are a tree that changes in place until the
            answer begins; elsewhere each change is a line.
        steps: Whether the steps are shown, and what the run cited and used.
        answer: Whether the answer is written to standard output, as it comes.

    Returns:
        The whole run.

    Raises:
        BailianError: As the events do. What had come is on the screen.
    """
    screen = _Screen(console)
    result = AppResult()
    try:
        if steps:
            screen.wait()
        for event in events:
            if isinstance(event, TextDelta) and answer:
                screen.write(event.text)
            elif isinstance(event, (StepStarted, StepFinished)) and steps:
                screen.step(event.step)
            elif isinstance(event, RunFinished):
                result = event.result
        if answer and result.streamed_text is not None:
            screen.write(f"\n{result.text}")  # it replaces what was streamed; a warning says so
    finally:
        screen.close()
    if steps:
        _show_sources(result, console)
    return result


def note(console: Console, text: str, style: str = "dim") -> None:
    """Say something on a line of its own that can be copied whole."""
    console.print(Text(clean(text), style), soft_wrap=True)


def told(error: BailianError) -> str:
    """An error as it is told in a terminal, where what Python calls an argument is an option."""
    return f"{type(error).__name__}: {in_options(str(error))}"


def in_options(message: str) -> str:
    """What the library says to a programmer, said to whoever is at a terminal."""
    message = _FOR_PROGRAMS.sub("", message)
    return _ARGUMENT.sub(lambda found: _OPTIONS[found[1]], message)


def clean(text: str) -> str:
    """`text` without the characters that steer a terminal."""
    return text.translate(_CONTROLS)


def as_json(result: AppResult) -> dict[str, Any]:
    """A run as JSON values: the fields of `AppResult` but `raw`, and the totals of `usage`."""
    values = {each.name: getattr(result, each.name) for each in fields(result)}
    del values["raw"]
    return values | {
        "steps": [step.to_dict() for step in result.steps],
        "references": [reference.to_dict() for reference in result.references],
        "usage": result.usage.to_dict(),
    }


def _show_sources(result: AppResult, console: Console) -> None:
    for reference in result.references:
        parts = (reference.title or reference.doc_name, reference.doc_url)
        number = f"[{reference.index_id}] " if reference.index_id else ""
        note(console, number + " ".join(part for part in parts if part))
    usage = result.usage
    facts = (
        f"{usage.input_tokens} tokens in, {usage.output_tokens} out" if usage.models else "",
        f"session {result.session_id}" if result.session_id else "",
    )
    if any(facts):
        note(console, ", ".join(fact for fact in facts if fact))


class _Screen:
    """The answer and the steps, which may share one terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._out = sys.stdout
        self._to_terminal = self._out.isatty()
        in_place = console.is_interactive and console.file.isatty()
        self._tree = _StepTree() if in_place else None
        # Two streams, one screen or file: while a line of the answer is open, steps have to wait.
        both_terminal = self._to_terminal and console.file.isatty()
        self._shared = both_terminal or _same_file(self._out, console.file)
        self._live: Live | None = None
        self._line_open = False
        self._waiting: list[Text] = []

    def wait(self) -> None:
        """Show that nothing has come yet, where that can be taken back."""
        if self._tree is not None:
            self._live = Live(
                self._tree,
                console=self._console,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
            )
            self._live.start()

    def write(self, text: str) -> None:
        if not text:
            return
        if self._shared:
            self._settle()
        self._out.write(clean(text) if self._to_terminal else text)
        self._out.flush()
        self._line_open = not text.endswith("\n")
        if self._waiting and not self._line_open:
            self._print_waiting()

    def step(self, step: Step) -> None:
        if step.is_answer:
            return
        if self._tree is not None:
            self._tree.steps[step.id] = step
        if self._live is None:
            self._waiting.append(_line(step))
            if not (self._shared and self._line_open):
                self._print_waiting()

    def close(self) -> None:
        """End the line of the answer, and show what still waits."""
        self._settle()
        if self._tree is not None:
            left = (step for step in self._tree.steps.values() if step.status == EXECUTING)
            self._waiting += map(_line, left)
        if self._line_open:
            self._line_open = False
            self._out.write("\n")
            self._out.flush()
        self._print_waiting()

    def _settle(self) -> None:
        """Leave the tree on the screen, with what has ended; the rest follows when it has."""
        if self._live is not None and self._tree is not None:
            self._live.stop()
            self._live = None
            self._console.print(self._tree.drawn(moving=False), end="")

    def _print_waiting(self) -> None:
        for line in self._waiting:
            self._console.print(line, soft_wrap=not self._console.is_terminal)
        self._waiting.clear()


def _same_file(one: IO[str], other: IO[str]) -> bool:
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # one of them is no file
        return False


class _StepTree:
    """The steps so far; drawn anew at each look."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self._began = monotonic()
        self._spinner = Spinner("dots", style="yellow")

    def __rich__(self) -> Group:
        self._spinner.update(text=Text(f"{monotonic() - self._began:.0f} s", "dim"))
        return Group(*([self.drawn(moving=True)] if self.steps else []), self._spinner)

    def drawn(self, *, moving: bool) -> Tree:
        """While it is moving, no more than a screen of its end; then what has ended."""
        root = Tree("", hide_root=True)
        branches: dict[str, Tree] = {}
        steps = list(self.steps.values())  # one look: the run goes on in another thread
        steps = steps[-20:] if moving else [step for step in steps if step.status != EXECUTING]
        for step in steps:
            branches[step.id] = branches.get(step.parent_id or "", root).add(_line(step))
        return root


def _line(step: Step) -> Text:
    """A step on one line, cut where the screen ends."""
    executing = step.status == EXECUTING
    mark = ("… ", "yellow") if executing else ("✗ ", "red") if step.failed else ("✓ ", "green")
    line = Text.assemble(mark, clean(step.name), no_wrap=True, overflow="ellipsis")
    if step.type and step.type != step.name:
        line.append(f" {clean(step.type)}", "dim")
    if step.duration_ms is not None:
        line.append(f" {step.duration_ms:.0f} ms", "magenta")
    said = step.error or (step.output if step.type != "End" else "")  # what End says is the answer
    if not executing and (said := " ".join(clean(said).split())):
        line.append(f"  {said}", "red" if step.failed else "dim")
    return line
