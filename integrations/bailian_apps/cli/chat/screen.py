"""How a chat shows a run: one line that changes while the app works, then the answer, once.

What the app thinks and what its nodes say is folded into that line; `print_reasoning` and
`print_steps` unfold it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import monotonic

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text
from typing_extensions import Self, override

from bailian_apps.cli.view import (
    in_command_words,
    print_note,
    same_file,
    screen_text,
    translated_record,
)
from bailian_apps.core.events import (
    STEP_EVENTS,
    AppEvent,
    ReasoningDelta,
    RunFinished,
    StepDelta,
    TextDelta,
)
from bailian_apps.core.language import _, ngettext
from bailian_apps.core.result import EXECUTING, AppResult, Step
from bailian_apps.core.values import as_text
from bailian_apps.terminal import WordWrap, one_line, step_text, strip_controls

_LIVE_CHARS = 300  # more than a line of any terminal
_REFRESHES_PER_S = 8
_FRAMES, _ASCII_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"


class RunScreen:
    """Shows one run, between entering and leaving the context.

    The answer goes to standard output, all else to the console. On one terminal, or in one file,
    what comes during a line of the answer waits for the end of the line.
    """

    def __init__(self, console: Console, *, steps: bool, reasoning: bool) -> None:
        """Show a run.

        Args:
            console: Where everything but the answer goes.
            steps: Whether each step gets a line when it has ended.
            reasoning: Whether to print what the app thinks, and not only fold it into the line.
        """
        self._console = console
        self._show_steps = steps
        self._show_reasoning = reasoning
        self._out = sys.stdout
        self._out_is_terminal = self._out.isatty()
        self._on_screen = self._out_is_terminal and console.file.isatty()
        self._shared = self._on_screen or same_file(self._out, console.file)
        self._started = monotonic()
        self._live: Live | None = None
        self._running: dict[str, Step] = {}
        self._parents: dict[str, str | None] = {}
        self._speaker: tuple[str, type] = ("", StepDelta)  # a step, and what it says or thinks
        self._says = ""
        self._thoughts: dict[str, str] = {}  # what was thought since the last whole line
        self._thinker = ""
        self._folded = False  # whether the one line has shown what no other line shows
        self._line_open = False
        self._wrap = WordWrap()
        self._answered = False
        self._waiting: list[Text] = []
        self._log = logging.getLogger("bailian_apps")
        self._handlers: list[logging.Handler] = []

    def __enter__(self) -> Self:
        """Show that the run has begun, in a terminal."""
        if self._console.is_interactive and self._console.file.isatty():
            self._live = Live(
                self,
                console=self._console,
                refresh_per_second=_REFRESHES_PER_S,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        # The other handlers know nothing of the one line and of the answer's.
        self._handlers, self._log.handlers = self._log.handlers, [_LogHandler(self._print)]
        return self

    def __exit__(self, *_: object) -> None:
        """End the line of the answer, and print what has waited for it."""
        self._log.handlers = self._handlers
        self._end_thoughts(*list(self._thoughts))
        self._stop_live()
        if self._show_steps:
            for step in self._running.values():
                self._print(self._line_of(step))
        if self._line_open:
            self._show_text("\n")
        self._print_waiting()

    def __rich__(self) -> Text:
        """Draw the one line: seconds, who works, and the newest of what it says."""
        seconds = monotonic() - self._started
        unicode = self._console.encoding.startswith("utf")
        frames = _FRAMES if unicode else _ASCII_FRAMES
        frame = frames[int(seconds * _REFRESHES_PER_S) % len(frames)]
        running = dict(self._running)  # a copy: another thread adds steps
        says = self._says if self._speaker[0] in running else ""
        step = running.get(self._speaker[0]) or next(reversed(running.values()), None)
        name = one_line(step.name if step.is_named else step.type or "") if step else ""
        others = f" (+{len(running) - 1})" if len(running) > 1 else ""
        head = f"{seconds:.0f} s  {name}{others}"
        left = self._console.width - cell_len(head) - 6
        return Text.assemble(
            (f"{frame} ", "yellow"),
            (head, "dim"),
            (f"  {_tail(says, left)}" if says and left > 0 else "", "dim italic"),
            no_wrap=True,
            overflow="ellipsis",
        )

    def show(self, event: AppEvent) -> None:
        """Show what an event adds."""
        if isinstance(event, TextDelta):
            self._show_text(event.text)
        elif isinstance(event, ReasoningDelta):
            self._say(event)
            if self._show_reasoning:
                self._think(event.step_id, event.text)
        elif isinstance(event, StepDelta):
            self._say(event)
        elif isinstance(event, STEP_EVENTS) and not event.step.is_answer:
            self._show_step(event.step)
        elif isinstance(event, RunFinished):
            final = event.result.final_text
            # One that differs in its white space only is the answer that was shown.
            if final is not None and _squeezed(final) != _squeezed(event.result.text):
                self._show_text(f"\n{final}")

    def _show_text(self, text: str) -> None:
        if not text:
            return
        if not self._answered:
            self._answered = True
            self._end_thoughts(*list(self._thoughts))
            if self._on_screen:
                self._stop_live()
                if self._folded:
                    self._print(Text(self._summary(), "dim"))
        self._line_open = not text.endswith("\n")
        if self._out_is_terminal:
            text = self._wrap.feed(screen_text(text), self._console.width)
        self._out.write(text)
        self._out.flush()
        if not self._line_open:
            self._print_waiting()

    def _show_step(self, step: Step) -> None:
        self._parents[step.id] = step.parent_id
        if step.status == EXECUTING:
            self._running[step.id] = step
            return
        self._running.pop(step.id, None)
        if self._show_reasoning:
            self._end_thoughts(step.id)
            step = replace(step, reasoning="")
        if self._show_steps:
            self._print(self._line_of(step))
        else:
            self._folded = True

    def _summary(self) -> str:
        steps = ngettext("{count} step", "{count} steps", len(self._parents))
        return steps + _(", ") + f"{monotonic() - self._started:.0f} s"

    def _line_of(self, step: Step) -> Text:
        """A step's line, below the step that it ran in."""
        depth, parent = 0, step.parent_id
        while parent and depth < 4:
            depth, parent = depth + 1, self._parents.get(parent)
        return Text.assemble("  " * depth, step_text(step), no_wrap=True, overflow="ellipsis")

    def _say(self, event: ReasoningDelta | StepDelta) -> None:
        """Let the one line show the newest of what a step says or thinks."""
        speaker = (event.step_id, type(event))
        before = self._says if speaker == self._speaker else ""
        self._speaker, self._says = speaker, (before + event.text)[-_LIVE_CHARS:]

    def _think(self, step_id: str, text: str) -> None:
        """Print each line of thoughts as soon as it is whole."""
        if self._thinker != step_id:
            self._end_thoughts(self._thinker)
            self._thinker = step_id
            step = self._running.get(step_id)
            name = one_line(step.name) if step is not None and step.is_named else ""
            self._print(
                Text(_("{name} thinks:").format(name=name) if name else _("Thinks:"), "dim")
            )
        thought = self._thoughts.get(step_id, "") + strip_controls(text).replace("\t", " ")
        *lines, rest = thought.split("\n")
        for line in lines:
            self._print_thought(line)
        wrapped = Text(rest).wrap(self._console, self._thought_width)
        if len(wrapped) > 1:
            cut = rest.rindex(wrapped[-1].plain)
            self._print_thought(rest[:cut])
            rest = rest[cut:]
        self._thoughts[step_id] = rest

    @property
    def _thought_width(self) -> int:
        return max(self._console.width - 3, 1)

    def _end_thoughts(self, *step_ids: str) -> None:
        for step_id in step_ids:
            if rest := self._thoughts.pop(step_id, ""):
                self._print_thought(rest)

    def _print_thought(self, line: str) -> None:
        for part in Text(line).wrap(self._console, self._thought_width) or [Text()]:
            self._print(Text(f"  {part.plain.rstrip()}", "dim italic"))

    def _stop_live(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def _print(self, line: Text) -> None:
        self._waiting.append(line)
        if not (self._shared and self._line_open):
            self._print_waiting()

    def _print_waiting(self) -> None:
        for line in self._waiting:
            if self._console.is_terminal:  # `print` forgets how a text is to be cut
                self._console.print(line, no_wrap=line.no_wrap, overflow=line.overflow)
            else:
                self._console.print(line, soft_wrap=True)
        self._waiting.clear()


class _LogHandler(logging.Handler):
    """Prints warnings where they disturb nothing."""

    def __init__(self, print_line: Callable[[Text], object]) -> None:
        super().__init__(logging.WARNING)
        self._print_line = print_line

    @override
    def emit(self, record: logging.LogRecord) -> None:
        message = in_command_words(self.format(translated_record(record)))
        self._print_line(Text(strip_controls(message), "yellow"))


def print_reasoning(console: Console, result: AppResult) -> None:
    """Print all that the app thought, below the step that thought it."""
    steps = {step.id: step for step in result.steps}
    thinkers = [steps[step_id] for step_id in result.reasoning_steps if step_id in steps]
    if not thinkers:
        print_note(console, _("The last run shows no thoughts."))
    for step in thinkers:
        console.print(Text(one_line(step.name), "dim bold"))
        _print_indented(console, step.reasoning, "dim italic")


def print_steps(console: Console, result: AppResult) -> None:
    """Print the steps of a run, each with its whole input, thoughts and output."""
    steps: Iterable[Step] = [step for step in result.steps if not step.is_answer]
    if not steps:
        print_note(console, _("The last run shows no steps."))
    for step in steps:
        console.print(step_text(replace(step, output="", reasoning="", error=None)))
        for name, text, style in (
            (_("in: "), as_text(step.input or None), "dim"),
            (_("thought: "), step.reasoning, "dim"),
            (_("out: "), step.output, "dim"),
            (_("error: "), step.error or "", "red"),
        ):
            if text:
                _print_indented(console, f"{name}{text}", style)


def _print_indented(console: Console, text: str, style: str) -> None:
    for line in strip_controls(text).strip().split("\n"):
        wrapped = Text(line, style).wrap(console, max(console.width - 4, 1))
        for part in wrapped or [Text()]:
            console.print(Text.assemble("    ", part), soft_wrap=True)


def _tail(text: str, cells: int) -> str:
    """The end of a text, in so many cells."""
    text = one_line(text)
    if cell_len(text) <= cells:
        return text
    while text and cell_len(text) > cells - 1:
        text = text[1:]
    return f"…{text}"


def _squeezed(text: str) -> str:
    return "".join(text.split())
