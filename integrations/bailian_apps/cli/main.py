"""The commands: what each takes, and how a failure is told."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from bailian_apps.core.errors import BailianError

app = typer.Typer(
    name="bailian-apps",
    help="Alibaba Cloud Bailian (Model Studio) apps inside LangChain and LlamaIndex.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def commands() -> None:
    """Alibaba Cloud Bailian (Model Studio) apps inside LangChain and LlamaIndex."""


@app.command()
def demo(
    pace: Annotated[
        float,
        typer.Option(min=0, help="How many times faster than recorded to replay; 0: at once."),
    ] = 1.0,
) -> None:
    """Run one app in a LangChain chain, a LlamaIndex query engine and as an agent's tool.

    Without a key it replays a recorded travel workflow from a local stand-in for the cloud. With
    DASHSCOPE_API_KEY and BAILIAN_APP_ID set, it runs that app on the cloud.
    """
    try:
        from bailian_apps.cli.demo import run_demo
    except ImportError as error:
        raise SystemExit(
            'the demo shows everything at once; install it with: pip install "bailian-apps[all]" '
            f"({error})"
        ) from None
    run_demo(Console(), pace=pace)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except BailianError as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", markup=False)
        sys.exit(1)
