"""`StepPrinter`: shows in a terminal what an app does, while it does it.

It stands on the custom event `bailian_step` alone, so it works for a model, a Runnable, a tool and
a retriever, wherever in a chain or a graph they are. Rich is imported only for a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from typing_extensions import override

from bailian_apps.core.result import AppResult
from bailian_apps.langchain.blocks import STEP_TYPE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.tree import Tree


@dataclass
class _Shown:
    """A step as it is shown."""

    entry: Mapping[str, Any]
    state: str = "start"
    error: str | None = None

    @property
    def name(self) -> str:
        kind = self.entry.get("type")
        return f"{self.entry['name']} ({kind})" if kind else str(self.entry["name"])

    @property
    def took(self) -> str:
        duration_ms = self.entry.get("duration_ms")
        return "" if duration_ms is None else f"{duration_ms:.0f} ms"


@dataclass
class _ShownRun:
    """A run of an app as it is shown."""

    app_id: str
    steps: dict[str, _Shown] = field(default_factory=dict[str, _Shown])
    end: str | None = None


class _View(Protocol):
    def step(self, run_id: UUID, run: _ShownRun, step: _Shown) -> None: ...
    def end(self, run_id: UUID, run: _ShownRun) -> None: ...


class StepPrinter(BaseCallbackHandler):
    """Shows the steps of every app below it, live: their states, durations, and the tokens used.

    In a terminal it is a tree that changes in place; elsewhere (a file, a pipe, a log) each change
    is a line. A terminal needs rich, which comes with `pip install "bailian-apps[cli]"`.

    While the tree is alive, rich prints what your program prints above it, line by line.

    Example:
        ```python
        model.invoke("Plan a day in Hangzhou", {"callbacks": [StepPrinter()]})
        ```
    """

    run_inline = True

    def __init__(self, file: TextIO | None = None, *, live: bool | None = None) -> None:
        """Make a printer; it may be used for any number of calls, also at once.

        Args:
            file: Where to print; standard output, if not given.
            live: Whether to show a tree; by default, whether `file` is a terminal.

        Raises:
            ImportError: There is a terminal, but no rich.
        """
        out = sys.stdout if file is None else file
        if live is None:
            live = out.isatty()
        self._view: _View = _Tree(out) if live else _Lines(out)
        self._runs: dict[UUID, _ShownRun] = {}
        self._lock = RLock()

    @override
    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **_: Any) -> None:
        """Show the start or the end of a step."""
        if name != STEP_TYPE or data["step"]["kind"] == "response":
            return
        with self._lock:
            run = self._runs.setdefault(run_id, _ShownRun(data["app_id"]))
            step = _Shown(data["step"], data["event"], data.get("error"))
            run.steps[step.entry["id"]] = step
            self._view.step(run_id, run, step)

    @override
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Show that a model's run ended."""
        self._end(run_id, response)

    @override
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        """Show that a Runnable's run ended."""
        self._end(run_id, outputs)

    @override
    def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:
        """Show that a tool's run ended."""
        self._end(run_id, output)

    @override
    def on_retriever_end(self, documents: Any, *, run_id: UUID, **_: Any) -> None:
        """Show that a retriever's run ended."""
        self._end(run_id, documents)

    @override
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Show that a model's run failed or was left."""
        self._end(run_id, error)

    @override
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Show that a Runnable's run failed or was left."""
        self._end(run_id, error)

    @override
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Show that a tool's run failed or was left."""
        self._end(run_id, error)

    @override
    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Show that a retriever's run failed or was left."""
        self._end(run_id, error)

    def _end(self, run_id: UUID, output: Any) -> None:
        with self._lock:
            if (run := self._runs.pop(run_id, None)) is not None:
                run.end = _how_it_ended(output)
                self._view.end(run_id, run)


class _Lines:
    """A line for each change."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def step(self, run_id: UUID, run: _ShownRun, step: _Shown) -> None:
        said = {"start": "started", "end": "done", "error": "failed"}[step.state]
        parts = [f"{run.app_id}: {step.name} {said}", step.took, _one_line(step.error)]
        self._print(", ".join(part for part in parts if part))

    def end(self, run_id: UUID, run: _ShownRun) -> None:
        self._print(f"{run.app_id}: {run.end}")

    def _print(self, line: str) -> None:
        print(line, file=self._file, flush=True)  # it is what this is for


class _Tree:
    """A tree for each run that is open, which stays on the screen when the run has ended."""

    def __init__(self, file: TextIO) -> None:
        try:
            from rich.console import Console
        except ModuleNotFoundError as error:
            raise ImportError(
                "StepPrinter needs rich for a terminal; install it with: "
                'pip install "bailian-apps[cli]", or pass live=False'
            ) from error
        self._console: Console = Console(file=file)
        self._live: Live | None = None
        self._trees: dict[UUID, Tree] = {}

    def step(self, run_id: UUID, run: _ShownRun, step: _Shown) -> None:
        from rich.live import Live

        self._trees[run_id] = _as_tree(run)
        if self._live is None:
            # No thread of its own: what is shown changes only here.
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._refresh()

    def end(self, run_id: UUID, run: _ShownRun) -> None:
        del self._trees[run_id]
        self._refresh()
        if not self._trees and self._live is not None:
            self._live.stop()
            self._live = None
        self._console.print(_as_tree(run))

    def _refresh(self) -> None:
        from rich.console import Group

        assert self._live is not None  # noqa: S101
        self._live.update(Group(*self._trees.values()), refresh=True)


def _as_tree(run: _ShownRun) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text.assemble((run.app_id, "bold"), f"  {run.end or ''}".rstrip()))
    branches: dict[str, Tree] = {}
    marks = {"start": ("… ", "yellow"), "end": ("✓ ", "green"), "error": ("✗ ", "red")}
    for step_id, step in run.steps.items():
        label = Text.assemble(marks[step.state], step.name, (f"  {step.took}".rstrip(), "magenta"))
        if step.error:
            label.append(f"  {_one_line(step.error)}", "red")
        parent = branches.get(step.entry.get("parent_id") or "", root)
        branches[step_id] = parent.add(label)
    return root


def _how_it_ended(output: Any) -> str:
    if isinstance(output, GeneratorExit):
        return "left early"
    if isinstance(output, BaseException):
        return f"failed: {type(output).__name__}: {_one_line(str(output))}"
    if isinstance(output, ToolMessage) and output.status == "error":
        return f"failed: {_one_line(output.text)}"
    used = _tokens(output)
    return f"done, {used[0]} tokens in, {used[1]} out" if used else "done"


def _tokens(output: Any) -> tuple[int, int] | None:
    """The tokens of a run, as far as its output tells them."""
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


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
