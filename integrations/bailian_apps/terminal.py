"""How steps look in a terminal, for LangChain's `StepPrinter` and the command line alike.

This module knows core's results only: no framework and no command line. It imports rich when it
draws for a terminal, so plain lines work without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bailian_apps.core.result import EXECUTING, Step

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

MAX_LIVE_STEPS = 20
"""How many steps of a run a live tree shows: of one higher than the terminal, rich shows the head.
"""

# All control characters but tab and newline: text from an app must not steer the terminal.
_CONTROLS = {c: None for c in (*range(32), *range(127, 160)) if chr(c) not in "\t\n"}


def strip_controls(text: str) -> str:
    """Remove the characters that can steer a terminal."""
    return text.translate(_CONTROLS)


def one_line(text: str) -> str:
    """Put text on one line, without control characters."""
    return " ".join(strip_controls(text).split())


def format_tokens(input_tokens: int, output_tokens: int) -> str:
    """The tokens of a run or of a model, in words."""
    return f"{input_tokens} tokens in, {output_tokens} out"


def step_line(step: Step) -> str:
    """A step as one plain line: its state, name, type, duration, and error or output."""
    return "".join(text for text, _ in _segments(step))


def step_text(step: Step) -> Text:
    """A step as one coloured line, cut where the terminal ends."""
    from rich.text import Text

    return Text.assemble(*_segments(step), no_wrap=True, overflow="ellipsis")


def step_tree(steps: Iterable[Step], title: str | Text = "") -> Tree:
    """Steps, in the order in which they began, as a tree: each below the step that it ran in."""
    from rich.tree import Tree

    root = Tree(title, hide_root=not title)
    branches: dict[str, Tree] = {}
    for step in steps:
        branches[step.id] = branches.get(step.parent_id or "", root).add(step_text(step))
    return root


def _segments(step: Step) -> list[tuple[str, str]]:
    """The parts of a step's line, each with its style in rich."""
    running = step.status == EXECUTING
    mark = ("… ", "yellow") if running else ("✗ ", "red") if step.failed else ("✓ ", "green")
    segments = [mark, (one_line(step.name), "")]
    if step.type and step.type != step.name:
        segments.append((f" {one_line(step.type)}", "dim"))
    if step.duration_ms is not None:
        segments.append((f" {step.duration_ms:.0f} ms", "magenta"))
    # The output of an End node is the answer.
    detail = one_line(step.error or (step.output if step.type != "End" else ""))
    if detail and not running:
        segments.append((f"  {detail}", "red" if step.failed else "dim"))
    return segments
