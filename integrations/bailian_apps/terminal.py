"""How steps look in a terminal, for LangChain's `StepPrinter` and the command line alike.

This module knows core's results only: no framework and no command line. It imports rich when it
draws for a terminal, so plain lines work without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from bailian_apps.core.language import _, ngettext
from bailian_apps.core.result import EXECUTING, PAUSE, SKIP, STOP, SUCCESS, Step

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

MAX_LIVE_STEPS = 20
"""How many steps of a run a live tree shows: of one higher than the terminal, rich shows the head.
"""

_RUNNING, _FAILED = ("… ", "yellow"), ("✗ ", "red")
_MARKS = {
    EXECUTING: _RUNNING,
    SUCCESS: ("✓ ", "green"),
    SKIP: ("– ", "dim"),
    PAUSE: ("‖ ", "yellow"),
    STOP: ("■ ", "yellow"),
}
_STATES = (SKIP, PAUSE, STOP)
_LIVE_TEXT = 30  # characters

# A word, or a character of a script that has no spaces, with the space before it. A selector of an
# emoji's look (U+FE00 to U+FE0F) is part of the word.
_WIDE = r"\u2e80-\u2fff\u3001-\ufdff\ufe10-\uffef"
_WORD = re.compile(rf"\s*(?:[{_WIDE}]|[^\s{_WIDE}]+)")
_BREAKS = re.compile(rf"[\s{_WIDE}]")  # beside it a line may end
_FENCE = re.compile(r"\s*(?:```|~~~)[^`]*\Z")  # around a block of code
_AS_IS = (" ", "\t", "|")  # how lines of code and of tables begin
_HEAD_CHARS = 80
# All control characters but tab and newline: text from an app must not steer the terminal.
_CONTROLS = {c: None for c in (*range(32), *range(127, 160)) if chr(c) not in "\t\n"}


def strip_controls(text: str) -> str:
    """Remove the characters that can steer a terminal."""
    return text.translate(_CONTROLS)


def one_line(text: str) -> str:
    """Put text on one line, without control characters."""
    return " ".join(strip_controls(text).split())


class WordWrap:
    """Wraps text that arrives in pieces where a terminal would break a word.

    The last word of a piece waits until its end has arrived. Blocks of code, tables and indented
    lines stay as they are.
    """

    def __init__(self, *, keep_indented: bool = True) -> None:
        """Begin at the start of a line; `keep_indented` is whether code stays as it is."""
        self._keep_indented = keep_indented
        self._fenced = False
        self._begin_line()

    def feed(self, text: str, columns: int) -> str:
        """Return what can be written once `text` has arrived, for a terminal so wide."""
        first, *lines = text.split("\n")
        wrapped = self._add(first, columns)
        for line in lines:
            wrapped += self.end(columns) + "\n"
            if _FENCE.match(self._head):
                self._fenced = not self._fenced
            self._begin_line()
            wrapped += self._add(line, columns)
        return wrapped

    def end(self, columns: int) -> str:
        """Return what has waited for the end of a word."""
        held, self._held = self._held, ""
        return self._place(held, columns) if held else ""

    def _begin_line(self) -> None:
        self._head = ""  # its first characters
        self._column = 0
        self._held = ""  # a word that may go on, with the space before it
        self._cut = False  # whether the beginning of that word is written already

    def _add(self, text: str, columns: int) -> str:
        self._head = (self._head + text)[:_HEAD_CHARS]
        if self._keep_indented and (self._fenced or self._head.startswith(_AS_IS)):
            return text
        text, self._held = self._held + text, ""
        words = _WORD.findall(text)
        self._held = text[sum(map(len, words)) :]
        if words and not self._held and not _BREAKS.match(words[-1][-1]):
            self._held = words.pop()
        wrapped = "".join(self._place(word, columns) for word in words)
        if len(self._held.strip()) > columns:  # an address, for example, has a line of its own
            wrapped += self.end(columns)
            self._cut = not text[-1].isspace()
        return wrapped

    def _place(self, word: str, columns: int) -> str:
        from rich.cells import cell_len

        width = cell_len(word)
        goes_on, self._cut = self._cut and not _BREAKS.match(word), False
        if not self._column or self._column + width <= columns or goes_on:
            self._column += width
            return word
        word = word.lstrip()
        self._column = cell_len(word)
        return f"\n{word}"


def wrap_words(text: str, columns: int) -> str:
    """Break lines between words, and between Chinese characters, where a terminal would break them.

    A word that is longer than a line, such as an address, stays whole, so that it can be copied.
    """
    wrap = WordWrap(keep_indented=False)
    return wrap.feed(text, columns) + wrap.end(columns)


def format_tokens(input_tokens: int, output_tokens: int) -> str:
    """The tokens of a run or of a model, in words."""
    return _("{input} tokens in, {output} out").format(input=input_tokens, output=output_tokens)


def step_line(step: Step) -> str:
    """A step as one plain line: its state, name, type, duration, and error or output."""
    return "".join(text for text, _style in _segments(step))


def step_text(step: Step, number: int = 0) -> Text:
    """A step as one coloured line, cut where the terminal ends.

    Args:
        step: The step.
        number: A number by which its start and its end are recognised; 0 for none.
    """
    from rich.text import Text

    mark, *rest = _segments(step)
    numbered = [mark, *([(f"#{number} ", "cyan")] if number else []), *rest]
    return Text.assemble(*numbered, no_wrap=True, overflow="ellipsis")


def step_tree(steps: Iterable[Step], title: str | Text = "") -> Tree:
    """Steps, in the order in which they began, as a tree: each below the step that it ran in."""
    from rich.tree import Tree

    root = Tree(title, hide_root=not title)
    branches: dict[str, Tree] = {}
    for step in steps:
        branches[step.id] = branches.get(step.parent_id or "", root).add(step_text(step))
    return root


def steps_that_fit(steps: Iterable[Step], rows: int) -> list[Step]:
    """The steps to draw where not all of them fit: those that run first, then the newest.

    Args:
        steps: All steps, in the order in which they began.
        rows: How many may be drawn.

    Returns:
        At most that many, in the same order.
    """
    newest = list(steps)[::-1]
    by_rank = sorted(newest, key=lambda step: step.status != EXECUTING)
    kept = {step.id for step in by_rank[:rows]}
    return [step for step in reversed(newest) if step.id in kept]


def with_live_text(step: Step, text: str) -> Step:
    """A step that runs, with the newest of what it says as its output."""
    return replace(step, output=(step.output + text)[-_LIVE_TEXT:])


def _segments(step: Step) -> list[tuple[str, str]]:
    """The parts of a step's line, each with its style in rich."""
    running = step.status == EXECUTING
    # An id in place of a name says nothing; the type follows it anyway.
    named = step.is_named or not running or step.type is None
    segments = (
        [_MARKS.get(step.status, _FAILED), (one_line(step.name), "")] if named else [_RUNNING]
    )
    if step.type and step.type != step.name:
        segments.append((f"{' ' * named}{one_line(step.type)}", "dim"))
    if step.status in _STATES:
        segments.append((f" {step.status}", "yellow"))
    if step.duration_ms is not None:
        segments.append((f" {step.duration_ms:.0f} ms", "magenta"))
    for model in step.usage.models if step.usage else ():
        tokens = format_tokens(model.input_tokens, model.output_tokens)
        segments.append((f" {one_line(model.model_id)}: {tokens}", "dim"))
    if output := one_line(step.error or _output(step)):
        segments.append((f"  {output}", "red" if step.failed else "dim"))
    if step.reasoning and not running:
        label = "" if step.kind == "reasoning" else _("thought: ")
        segments.append((f"  {label}{one_line(step.reasoning)}", "dim italic"))
    return segments


def _output(step: Step) -> str:
    """What a step's line shows of its output: of a retrieval, how many documents, and which."""
    if step.type == "End":  # its output is the answer
        return ""
    documents = step.documents if step.status != EXECUTING else ()
    if not documents:
        return step.output
    titles = _(", ").join(dict.fromkeys(each.title for each in documents if each.title))
    count = ngettext("{count} document", "{count} documents", len(documents))
    return _(": ").join((count, titles)) if titles else count
