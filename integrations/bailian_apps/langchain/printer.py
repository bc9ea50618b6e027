"""`StepPrinter`: shows what an app does in a terminal or a log, while it runs.

It needs nothing but the custom event `bailian_step`, so it works for a model, a Runnable, a tool
and a retriever, wherever they are in a chain or a graph.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from typing_extensions import override

from bailian_apps.core.language import N_, import_error
from bailian_apps.core.result import EXECUTING, AppResult, Step
from bailian_apps.langchain.blocks import STEP_TYPE
from bailian_apps.terminal import (
    MAX_LIVE_STEPS,
    format_tokens,
    one_line,
    step_line,
    step_tree,
    with_live_text,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.tree import Tree


_REFRESH_S = 0.1  # how often the tree shows new text


def step_of_event(data: Mapping[str, Any]) -> Step | None:
    """Read the step of a `bailian_step` event.

    Returns:
        The step; None for the answer itself, and for the end of a step that was cut off.
    """
    step = Step.from_dict(data["step"])
    if step.is_answer:
        return None
    if data["event"] == "error":
        status = step.status if step.failed else "failed"
        return replace(step, status=status, error=data.get("error"))
    return step if data["event"] in ("start", "update") or step.status != EXECUTING else None


@dataclass
class _PrintedRun:
    """A run of an app, as far as it was reported."""

    app_id: str
    steps: dict[str, Step] = field(default_factory=dict[str, Step])
    printed: set[tuple[str, bool]] = field(default_factory=set[tuple[str, bool]])
    """The steps that have a line, one while they run and one when they have ended."""


class _Display(Protocol):
    def show_step(self, run_id: UUID, run: _PrintedRun, step: Step) -> None: ...
    def show_text(self, run_id: UUID, run: _PrintedRun, *, first: bool) -> None: ...
    def end_run(self, run_id: UUID, run: _PrintedRun, outcome: str) -> None: ...


class StepPrinter(BaseCallbackHandler):
    """Prints the steps of the apps that a call runs: state, name, duration, output, tokens used.

    In a terminal it is a tree that changes in place and shows what each step is saying; elsewhere
    (a file, a pipe, a log) the start and the end of a step are a line each. A terminal needs rich,
    which comes with `pip install "bailian-apps[cli]"`.

    While the tree is alive, rich prints what your program prints above it, line by line.

    Example:
        ```python
        model.invoke("Plan a day in Hangzhou", {"callbacks": [StepPrinter()]})
        ```
    """

    run_inline = True

    def __init__(self, file: TextIO | None = None, *, live: bool | None = None) -> None:
        """Make a printer. It can be used for any number of calls, also at the same time.

        Args:
            file: Where to print; standard output by default.
            live: Whether to show a tree; by default, whether `file` is a terminal.

        Raises:
            ImportError: The tree needs rich, and rich is not installed.
        """
        out = sys.stdout if file is None else file
        if live is None:
            live = out.isatty()
        self._display: _Display = _TreeDisplay(out) if live else _LineDisplay(out)
        self._runs: dict[UUID, _PrintedRun] = {}
        self._lock = RLock()

    @override
    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **_: Any) -> None:
        """Print the start or the end of a step, or what it says."""
        if name != STEP_TYPE:
            return
        if data["event"] == "delta":
            self._show_delta(run_id, data)
            return
        if (step := step_of_event(data)) is None:
            return
        with self._lock:
            run = self._runs.setdefault(run_id, _PrintedRun(data["app_id"]))
            run.steps[step.id] = step
            self._display.show_step(run_id, run, step)

    def _show_delta(self, run_id: UUID, data: Mapping[str, Any]) -> None:
        with self._lock:
            run = self._runs.get(run_id)
            step_id = data["step"]["id"]
            if run is not None and step_id in run.steps:
                text = data.get("text") or data.get("reasoning", "")
                step = run.steps[step_id]
                run.steps[step_id] = with_live_text(step, text)
                self._display.show_text(run_id, run, first=not step.output)

    def _end(self, outcome: Any, *, run_id: UUID, **_: Any) -> None:
        with self._lock:
            if (run := self._runs.pop(run_id, None)) is not None:
                self._display.end_run(run_id, run, _outcome(outcome))

    # LangChain passes the output or the error by position, so its name does not matter.
    on_llm_end = on_chain_end = on_tool_end = on_retriever_end = cast("Any", _end)
    on_llm_error = on_chain_error = on_tool_error = on_retriever_error = cast("Any", _end)


class _LineDisplay:
    """Prints a line for the start and for the end of each step."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def show_step(self, run_id: UUID, run: _PrintedRun, step: Step) -> None:
        line = (step.id, step.status == EXECUTING)
        if line in run.printed or (line[1] and not step.is_named):
            return  # a node's name comes with its first words
        run.printed.add(line)
        self._print(f"{run.app_id}: {step_line(step)}")

    def show_text(self, run_id: UUID, run: _PrintedRun, *, first: bool) -> None:
        pass  # its last line has the whole text

    def end_run(self, run_id: UUID, run: _PrintedRun, outcome: str) -> None:
        self._print(f"{run.app_id}: {outcome}")

    def _print(self, line: str) -> None:
        # The file may have an encoding without these characters, as pipes on Windows do.
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        print(line.encode(encoding, "replace").decode(encoding), file=self._file, flush=True)


class _TreeDisplay:
    """Draws a tree for each open run; it stays on the screen when the run has ended."""

    def __init__(self, file: TextIO) -> None:
        try:
            from rich.console import Console
        except ModuleNotFoundError as error:
            raise import_error(
                N_(
                    "StepPrinter needs rich for a terminal; install it with: "
                    'pip install "bailian-apps[cli]", or pass live=False'
                )
            ) from error
        self._console: Console = Console(file=file)
        self._live: Live | None = None
        self._trees: dict[UUID, Tree] = {}
        self._drawn_at = 0.0

    def show_text(self, run_id: UUID, run: _PrintedRun, *, first: bool) -> None:
        if first or monotonic() - self._drawn_at >= _REFRESH_S:
            self._draw(run_id, run)

    def show_step(self, run_id: UUID, run: _PrintedRun, step: Step) -> None:
        self._draw(run_id, run)

    def _draw(self, run_id: UUID, run: _PrintedRun) -> None:
        from rich.live import Live

        self._trees[run_id] = self._tree(run, list(run.steps.values())[-MAX_LIVE_STEPS:])
        if self._live is None:
            # Without a refresh thread: what is shown changes only here.
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._refresh(self._live)

    def end_run(self, run_id: UUID, run: _PrintedRun, outcome: str) -> None:
        del self._trees[run_id]
        if self._live is not None:
            self._refresh(self._live)
            if not self._trees:
                self._live.stop()
                self._live = None
        self._console.print(self._tree(run, run.steps.values(), outcome))

    def _refresh(self, live: Live) -> None:
        from rich.console import Group

        live.update(Group(*self._trees.values()), refresh=True)
        self._drawn_at = monotonic()

    def _tree(self, run: _PrintedRun, steps: Iterable[Step], outcome: str = "") -> Tree:
        from rich.text import Text

        return step_tree(steps, Text.assemble((run.app_id, "bold"), f"  {outcome}".rstrip()))


def _outcome(output: Any) -> str:
    """How a run ended, in one line."""
    if isinstance(output, GeneratorExit):
        return "left early"
    if isinstance(output, BaseException):
        return f"failed: {type(output).__name__}: {one_line(str(output))}"
    if isinstance(output, ToolMessage) and output.status == "error":
        return f"failed: {one_line(output.text)}"
    tokens = _tokens(output)
    return f"done, {format_tokens(*tokens)}" if tokens else "done"


def _tokens(output: Any) -> tuple[int, int] | None:
    """The tokens that a run read and wrote, if its output has them."""
    if isinstance(output, AppResult):
        usage = output.usage
        return (usage.input_tokens, usage.output_tokens) if usage.models else None
    counts: Mapping[str, Any] | None = None
    if isinstance(output, LLMResult) and output.generations and output.generations[0]:
        generation = output.generations[0][0]
        message = generation.message if isinstance(generation, ChatGeneration) else None
        counts = cast("Any", message.usage_metadata) if isinstance(message, AIMessage) else None
    elif isinstance(output, ToolMessage):
        artifact: Any = output.artifact
        if isinstance(artifact, Mapping):
            counts = cast("Mapping[str, Any]", artifact).get("usage")
    return (counts["input_tokens"], counts["output_tokens"]) if counts else None
