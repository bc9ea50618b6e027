"""Shows a run: the answer on standard output, everything else on a console (standard error)."""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from time import monotonic
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from typing_extensions import Self, override

from bailian_apps.core.answer_text import replace_citation_marks
from bailian_apps.core.errors import BailianError, InvalidInputError
from bailian_apps.core.events import (
    STEP_DELTAS,
    STEP_EVENTS,
    AppEvent,
    RunFinished,
    TextDelta,
)
from bailian_apps.core.language import N_, _
from bailian_apps.core.result import EXECUTING, AppResult, DocReference, Step
from bailian_apps.terminal import (
    MAX_LIVE_STEPS,
    WordWrap,
    format_tokens,
    step_text,
    step_tree,
    steps_that_fit,
    strip_controls,
    with_live_text,
    wrap_words,
)

# A field in Python, and its name on the command line.
_OPTIONS = {
    "api_key": N_("API key"),
    "app_id": "APP_ID",
    "base_url": N_("--base-url (or DASHSCOPE_HTTP_BASE_URL)"),
    "model_id": "--model-id",
    "prompt": "PROMPT",
    "session_id": "--session",
    "timeout": "--timeout",
    "workspace": "--workspace",
}
_FIELD_IN_HINT = re.compile(rf"(?<![\w.\]])({'|'.join(_OPTIONS)})(?:=|(?=[:：]))")
# Advice that only a program can follow, and what to do here.
_PROGRAM_ADVICE = {
    N_(", or pass api_key="): "",
    N_(" or a Timeout"): "",
    N_("Pass it to the constructor"): N_("A command has none"),
    N_('pass history_format="prompt"'): N_("use --set history_format=prompt"),
    N_("has half of a surrogate pair, which cannot be sent"): N_("is not UTF-8 text"),
    N_('Pass value.encode("utf-8", "replace").decode()'): N_("Convert it with iconv"),
}


def show(
    events: Iterable[AppEvent], console: Console, *, steps: bool, answer: bool = True
) -> AppResult:
    """Show a run while it happens.

    Args:
        events: The events of one run.
        console: Where the steps go. In a terminal they are a tree that changes in place until the
            answer begins; elsewhere each change is a line.
        steps: Whether to show the steps, and the sources and tokens at the end.
        answer: Whether to write the answer to standard output, as it arrives.

    Returns:
        The whole run.

    Raises:
        BailianError: As the events do. What had arrived is on the screen.
    """
    result = AppResult()
    with RunView(console, steps=steps, answer=answer) as view:
        for event in events:
            view.show(event)
            if isinstance(event, RunFinished):
                result = event.result
        if answer and result.final_text is not None:
            view.write(f"\n{result.final_text}")  # it contradicts the answer; a warning is logged
    if steps or (answer and view.on_screen):
        print_references(result.references, console)
    if steps:
        print_totals(result, console)
    return result


def screen_text(text: str) -> str:
    """The text of an answer as a terminal shows it: `[1]` for a citation mark, no controls."""
    return replace_citation_marks(strip_controls(text), lambda number: f"[{number}]")


def print_answer(text: str, console: Console) -> None:
    """Print a whole answer on standard output, in a terminal wrapped as `console` is wide."""
    if sys.stdout.isatty():
        wrap = WordWrap()
        text = wrap.feed(screen_text(text), console.width) + wrap.end(console.width)
    print(text, flush=True)  # noqa: T201


def print_note(console: Console, text: str, style: str = "dim") -> None:
    """Print text, in a terminal wrapped between words: an address stays whole, to be copied."""
    text = strip_controls(text)
    if console.is_terminal:
        text = wrap_words(text, console.width)
    console.print(Text(text, style), soft_wrap=True)


class ConsoleHandler(logging.Handler):
    """Prints what is logged; warnings and errors in yellow."""

    def __init__(self, console: Console, level: int) -> None:
        """Print to `console` what has at least `level`."""
        super().__init__(level)
        self._console = console

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        style = "yellow" if record.levelno >= logging.WARNING else ""
        print_note(self._console, in_command_words(self.format(translated_record(record))), style)


def translated_record(record: logging.LogRecord) -> logging.LogRecord:
    """A record with its text in the language of the user."""
    shown = copy.copy(record)
    shown.msg = _(str(record.msg))
    return shown


def format_error(error: BailianError) -> str:
    """An error with its class, in one line, in the terms of the command line."""
    return f"{type(error).__name__}: {error_message(error)}"


def error_message(error: BailianError, *, field: str | None = None) -> str:
    """The message of an error in the terms of the command line.

    Args:
        error: The error.
        field: The name to use for the field of an `InvalidInputError`; by default its option.
    """
    if isinstance(error, InvalidInputError):
        named = [_with_option(each) for each in error.each()]
        if field is not None:
            first = next(error.each())
            named[0] = first if field == first.field else first.renamed(field)
        error = InvalidInputError.of(named)
    message = in_command_words(error.describe())
    return _FIELD_IN_HINT.sub(lambda found: _(_OPTIONS[found[1]]), message)


def read_problem(error: Exception) -> str:
    """Why a text file cannot be read."""
    return (isinstance(error, OSError) and error.strerror) or N_("it is not UTF-8 text")


def in_command_words(message: str) -> str:
    """A message with advice for the command line in place of that for a program."""
    for advice, replacement in _PROGRAM_ADVICE.items():
        message = message.replace(advice, replacement).replace(_(advice), _(replacement))
    return message


def _with_option(error: InvalidInputError) -> InvalidInputError:
    if error.field not in _OPTIONS or error.problem == "is not a setting":
        return error  # the latter's field is the user's own word
    return error.renamed(_OPTIONS[error.field])


def as_json(result: AppResult) -> dict[str, Any]:
    """A run as JSON values: the fields of `AppResult` but `raw`, and the totals of `usage`."""
    values = {each.name: getattr(result, each.name) for each in fields(result)}
    del values["raw"]
    return values | {
        "steps": [step.to_dict() for step in result.steps],
        "references": [reference.to_dict() for reference in result.references],
        "usage": result.usage.to_dict(),
    }


def print_references(references: Sequence[DocReference], console: Console) -> None:
    """Print the documents that an answer cites, a line each, by the number in their mark."""
    for reference in references:
        parts = (reference.title or reference.doc_name, reference.doc_url)
        number = f"[{reference.index_id}] " if reference.index_id else ""
        print_note(console, number + " ".join(part for part in parts if part))


def print_totals(result: AppResult, console: Console) -> None:
    """Print the tokens of a run and its session."""
    usage = result.usage
    facts = (
        format_tokens(usage.input_tokens, usage.output_tokens) if usage.models else "",
        _("session {id}").format(id=result.session_id) if result.session_id else "",
    )
    if any(facts):
        print_note(console, _(", ").join(fact for fact in facts if fact))


class RunView:
    """The steps and the answer of a run, which may share one terminal."""

    def __init__(
        self, console: Console, *, steps: bool = True, answer: bool = True, label: str = ""
    ) -> None:
        """Show a run, between entering and leaving the context; as `show`.

        `label` is written before the answer.
        """
        self._console = console
        self._show_steps = steps
        self._show_answer = answer
        self._label = label
        self._out = sys.stdout
        self._to_terminal = self._out.isatty()
        in_place = steps and console.is_interactive and console.file.isatty()
        spinner = "dots" if console.encoding.startswith("utf") else "line"
        self._tree = _StepTree(spinner) if in_place else None
        # Two streams on one screen or in one file: steps wait for the answer's line to end.
        self._shared = self.on_screen or same_file(self._out, console.file)
        self._live: Live | None = None
        self._line_open = False
        self._wrap = WordWrap()
        self._waiting: list[Text] = []
        self._printed: set[tuple[str, bool]] = set()  # steps that have a line, for each state
        self._running: set[str] = set()
        self._numbers: dict[str, int] = {}  # of steps that began while others ran; else 0

    @property
    def on_screen(self) -> bool:
        """Whether the answer and what goes to the console are both on a terminal."""
        return self._to_terminal and self._console.file.isatty()

    def __enter__(self) -> Self:
        """Show that the run has begun, in a terminal."""
        if self._tree is not None:
            self._live = Live(
                self._tree,
                console=self._console,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the line of the answer, and show the steps that still wait."""
        self._stop_live()
        if self._tree is not None:
            running = (step for step in self._tree.steps.values() if step.status == EXECUTING)
            self._waiting += map(step_text, running)
        if self._line_open:
            self._line_open = False
            self._out.write(self._wrap.end(self._console.width) + "\n")
            self._out.flush()
        self._print_waiting()

    def show(self, event: AppEvent) -> None:
        """Show what an event adds to the screen, if anything."""
        if isinstance(event, TextDelta) and self._show_answer:
            self.write(event.text)
        elif isinstance(event, STEP_EVENTS) and self._show_steps:
            self.show_step(event.step)
        elif isinstance(event, STEP_DELTAS) and self._live is not None:
            self.show_text(event.step_id, event.text)

    def write(self, text: str) -> None:
        """Write a piece of the answer."""
        if not text:
            return
        text, self._label = self._label + text, ""
        if self._shared:
            self._stop_live()
        self._line_open = not text.endswith("\n")
        if self._to_terminal:
            text = self._wrap.feed(screen_text(text), self._console.width)
        self._out.write(text)
        self._out.flush()
        if self._waiting and not self._line_open:
            self._print_waiting()

    def show_step(self, step: Step) -> None:
        """Show a step that began or ended, or whose name is known now."""
        if step.is_answer:
            return
        if self._tree is not None:
            self._tree.steps[step.id] = step
        if self._live is not None:
            return
        line = (step.id, step.status == EXECUTING)
        number = self._number(step)
        if line in self._printed or (line[1] and not step.is_named):
            return  # a node's name comes with its first words
        has_start = line[1] or (step.id, True) in self._printed
        self._printed.add(line)
        self._waiting.append(step_text(step, number if has_start else 0))
        if not (self._shared and self._line_open):
            self._print_waiting()

    def _number(self, step: Step) -> int:
        """The number by which a step's lines are paired; 0 where no other step can be meant."""
        number = self._numbers.setdefault(
            step.id, len(self._numbers) + 1 if self._running - {step.id} else 0
        )
        change = self._running.add if step.status == EXECUTING else self._running.discard
        change(step.id)
        return number

    def show_text(self, step_id: str, text: str) -> None:
        """Show what a step says, while the tree is on the screen."""
        if self._live is not None and self._tree is not None and step_id in self._tree.steps:
            self._tree.steps[step_id] = with_live_text(self._tree.steps[step_id], text)

    def _stop_live(self) -> None:
        """Leave the steps that have ended on the screen; the others follow when they end."""
        if self._live is not None and self._tree is not None:
            self._live.stop()
            self._live = None
            ended = [step for step in self._tree.steps.values() if step.status != EXECUTING]
            self._console.print(step_tree(ended), end="")

    def _print_waiting(self) -> None:
        for line in self._waiting:
            if self._console.is_terminal:  # joined to other text, a line forgets where it is cut
                self._console.print(line, no_wrap=True, overflow="ellipsis")
            else:
                self._console.print(line, soft_wrap=True)
        self._waiting.clear()


def same_file(one: IO[str], other: IO[str]) -> bool:
    """Return whether two streams are one, or go to one file."""
    try:
        return one is other or os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # one of them is not a file
        return False


class _StepTree:
    """The steps so far and the seconds since the start, drawn anew at each refresh."""

    def __init__(self, spinner: str) -> None:
        self.steps: dict[str, Step] = {}
        self._started = monotonic()
        self._spinner = Spinner(spinner, style="yellow")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self._spinner.update(text=Text(f"{monotonic() - self._started:.0f} s", "dim"))
        steps = list(self.steps.values())  # a copy: another thread adds steps
        # Of what is higher than the screen, rich shows the head: the oldest steps.
        rows = min(MAX_LIVE_STEPS, max(console.height - 3, 1))
        shown = steps_that_fit(steps, rows)
        if hidden := len(steps) - len(shown):
            yield Text(_("{count} more").format(count=hidden), "dim")
        if shown:
            yield step_tree(shown)
        yield self._spinner
