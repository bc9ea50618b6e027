"""`bailian-apps runs`, and `run --background`: runs that go on when the command has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailian_apps.cli.options import (
    App,
    BaseUrl,
    Json,
    ProfileName,
    Set,
    Steps,
    Workspace,
)
from bailian_apps.cli.shell import console
from bailian_apps.cli.usage import Command, Group
from bailian_apps.core.language import _

if TYPE_CHECKING:
    from bailian_apps.app import BailianApp
    from bailian_apps.background import BackgroundRun

runs = typer.Typer(
    name="runs",
    cls=Group,
    no_args_is_help=True,
    help="Wait for, show or cancel background runs: those of [bold]run --background[/].",
)

Background = Annotated[
    bool,
    typer.Option("--background", help="Submit the run, print its id and leave; see [bold]runs[/]."),
]
_RunId = Annotated[str, typer.Argument(metavar="ID", help="The id that was printed.")]


def submit(app: BailianApp, prompt: str, options: Mapping[str, Any], *, as_json: bool) -> None:
    """Submit a run and print its id.

    Args:
        app: The app to call.
        prompt: The prompt.
        options: The options of the call: images, files.
        as_json: Whether to print a JSON object in place of the id.
    """
    from bailian_apps.cli.view import print_note

    run = app.submit(prompt, **options)
    _print(run, run.id, as_json=as_json)
    command = f"bailian-apps runs wait {run.id} --app {app.settings.app_id}"
    text = _("{status}; wait for it with: {command}").format(status=run.status, command=command)
    print_note(console(stderr=True), text)


@runs.command(cls=Command)
def wait(
    run_id: _RunId,
    app_id: App = "-",
    within: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long to wait at most (default: no limit)."),
    ] = None,
    profile: ProfileName = None,
    workspace: Workspace = None,
    base_url: BaseUrl = None,
    settings: Set = None,
    steps: Steps = False,
    as_json: Json = False,
) -> None:
    """Wait until a run has ended, and print its answer.

    Each new status goes to standard error. The exit codes are those of [bold]run[/]; a run that
    was cancelled is 1, and one that has not ended in time is 15: it goes on.
    """
    from bailian_apps.cli.run import print_json
    from bailian_apps.cli.view import as_json as to_json
    from bailian_apps.cli.view import print_note, show

    run, err = _run(run_id, app_id, profile, workspace, base_url, settings), console(stderr=True)
    for status in run.watch(within):
        print_note(err, status)
    result = show(run.events(), err, steps=steps, answer=not as_json)
    if as_json:
        print_json({"id": run.id, "status": run.status, "result": to_json(result)})


def _add_command(
    name: str, ask: Callable[[BackgroundRun], BackgroundRun], description: str
) -> None:
    """Add a command that asks something of a run, and prints its status then."""

    @runs.command(name=name, cls=Command, help=description)
    def command(  # pyright: ignore[reportUnusedFunction]
        run_id: _RunId,
        app_id: App = "-",
        profile: ProfileName = None,
        workspace: Workspace = None,
        base_url: BaseUrl = None,
        settings: Set = None,
        as_json: Json = False,
    ) -> None:
        run = ask(_run(run_id, app_id, profile, workspace, base_url, settings))
        _print(run, run.status, as_json=as_json)


_add_command(
    "show",
    lambda run: run.refresh(),
    "Print a run's status: queued, running, completed, failed or cancelled.",
)
_add_command(
    "cancel",
    lambda run: run.cancel(),
    "Cancel a run that is queued or running, and print its status then.",
)


def _run(
    run_id: str,
    app_id: str,
    profile: str | None,
    workspace: str | None,
    base_url: str | None,
    settings: list[str] | None,
) -> BackgroundRun:
    from bailian_apps.cli.run import bailian_app

    given: dict[str, Any] = {"profile": profile, "workspace": workspace, "base_url": base_url}
    app = bailian_app(app_id, None, None, settings, **given)
    return app.background_run(run_id)


def _print(run: BackgroundRun, text: str | None, *, as_json: bool) -> None:
    from bailian_apps.cli.run import print_json

    if as_json:
        print_json({"id": run.id, "status": run.status})
    else:
        print(text, flush=True)  # noqa: T201
