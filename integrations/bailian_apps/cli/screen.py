"""What the demo shows: steps on lines of their own, as they happen, and tokens as they come."""

# LlamaIndex leaves parts of its own interface untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from inspect import BoundArguments
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.span import BaseSpan
from llama_index_instrumentation.span_handlers import BaseSpanHandler
from pydantic import PrivateAttr
from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table

from bailian_apps.core.result import AppResult, Step


class Screen:
    """Prints steps on lines of their own, and tokens as they come."""

    def __init__(self, console: Console) -> None:
        """Print to `console`."""
        self._console = console
        self._in_answer = False

    def title(self, text: str) -> None:
        """Begin a part."""
        self._console.print()
        self._console.print(Rule(f"[bold cyan]{escape(text)}", align="left", style="cyan"))

    def note(self, text: str) -> None:
        """Say something about the demo itself."""
        self.end()
        self._console.print(f"  [dim]{escape(text)}[/]", soft_wrap=True)

    def step_started(self, name: str, type_: str | None) -> None:
        """Show that a step began."""
        self.end()
        self._console.print(f"  [yellow]…[/] {escape(name)} [dim]{escape(type_ or '')}[/]")

    def step_finished(self, step: Step) -> None:
        """Show how a step ended."""
        self.end()
        mark = "[red]✗[/]" if step.failed else "[green]✓[/]"
        took = "" if step.duration_ms is None else f" [magenta]{step.duration_ms:.0f} ms[/]"
        said = f"  {escape(step.error or step.output)}"
        self._console.print(f"  {mark} {escape(step.name)}{took}{said}", soft_wrap=True)

    def token(self, text: str) -> None:
        """Show a piece of the answer."""
        if text and not self._in_answer:
            self._console.print("  [bold]answer:[/] ", end="")
            self._in_answer = True
        self._console.print(text, end="", markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """End the line that the answer is on."""
        if self._in_answer:
            self._console.print()
            self._in_answer = False

    def summary(self, result: AppResult) -> None:
        """Show the steps of a run with their durations, and the tokens it used."""
        self.title("What the app did")
        table = Table(box=None, pad_edge=False)
        for header, justify in (("  step", "left"), ("type", "left"), ("ms", "right")):
            table.add_column(header, justify=justify)  # type: ignore[arg-type]
        table.add_column("output", overflow="fold")
        for step in result.steps:
            took = "" if step.duration_ms is None else f"{step.duration_ms:.0f}"
            table.add_row(f"  {escape(step.name)}", step.type or "", took, escape(step.output))
        self._console.print(table)
        for model in result.usage.models:
            self._console.print(
                f"  {escape(model.model_id)}: {model.input_tokens} tokens in, "
                f"{model.output_tokens} out"
            )
        self._console.print(f"  [bold]total: {result.usage.total_tokens} tokens[/]")


class LangChainSteps(BaseCallbackHandler):
    """Shows the steps that LangChain's callbacks report."""

    run_inline = True

    def __init__(self, screen: Screen) -> None:
        """Show them on `screen`."""
        self._screen = screen

    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        """Show the start or the end of a step."""
        if name != "bailian_step":
            return
        step = data["step"]
        if data["event"] == "start":
            self._screen.step_started(step["name"], step.get("type"))
        else:
            fields = {k: v for k, v in step.items() if k in Step.__slots__}
            self._screen.step_finished(Step(**fields))


class _LlamaIndexSteps(BaseSpanHandler[BaseSpan]):
    """Shows the steps that LlamaIndex's spans report."""

    _screen: Screen = PrivateAttr()
    _names: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def new_span(
        self,
        id_: str,
        bound_args: BoundArguments,
        instance: Any = None,
        parent_span_id: str | None = None,
        tags: dict[str, Any] | None = None,
        **_: Any,
    ) -> BaseSpan | None:
        if bound_args.arguments.get("id"):
            self._names[id_] = id_.partition("-")[0].partition(" ")[2]
            self._screen.step_started(self._names[id_], bound_args.arguments.get("type"))
        return BaseSpan(id_=id_, parent_id=parent_span_id)

    def prepare_to_exit_span(
        self,
        id_: str,
        bound_args: BoundArguments,
        instance: Any = None,
        result: Any = None,
        **_: Any,
    ) -> BaseSpan | None:
        if id_ in self._names:
            about = bound_args.arguments
            fields = {k: v for k, v in result.items() if k in Step.__slots__}
            fields.setdefault("name", self._names[id_])
            self._screen.step_finished(
                Step(id=about["id"], kind="node", type=about.get("type"), **fields)
            )
        return None

    def prepare_to_drop_span(self, *_: Any, **__: Any) -> BaseSpan | None:
        return None


@contextmanager
def llamaindex_steps(screen: Screen) -> Generator[None]:
    """Show, within the block, the steps of whatever LlamaIndex runs."""
    root = get_dispatcher()
    handler = _LlamaIndexSteps(screen)
    root.add_span_handler(handler)
    try:
        yield
    finally:
        root.span_handlers.remove(handler)
