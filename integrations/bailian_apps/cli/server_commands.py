"""The commands that serve, record and test apps locally: their options and help."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from bailian_apps.cli.options import (
    AllowHost,
    ApiKey,
    Host,
    Mask,
    MissingUpstream,
    Nearest,
    Pace,
    Port,
    RecordMissing,
    Reload,
    Strict,
    Verbose,
)
from bailian_apps.cli.shell import console
from bailian_apps.cli.usage import Command, Group
from bailian_apps.core.language import _

_Files = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Recordings, YAML files, and folders of them (default: a travel app).",
        metavar="FILES|FOLDERS",
        exists=True,
    ),
]
_Apps = Annotated[
    list[str] | None,
    typer.Option("--app", metavar="ID=FILE", help="Serve FILE as the app ID. Repeatable."),
]


def serve(
    files: _Files = None,
    apps: _Apps = None,
    host: Host = "127.0.0.1",
    allow_host: AllowHost = None,
    port: Port = 8790,
    pace: Pace = 0.0,
    api_key: ApiKey = None,
    strict: Strict = False,
    nearest: Nearest = False,
    record_missing: RecordMissing = False,
    upstream: MissingUpstream = None,
    mask: Mask = None,
    reload: Reload = True,
    verbose: Verbose = False,
) -> None:
    """Run the emulator, serving apps from files. Press Ctrl-C to stop.

    It prints the environment variables for your program, and then a line for each call.

    [bold]bailian-apps serve[/]                              a recorded travel app
    [bold]bailian-apps serve recordings/[/]                  your recordings
    [bold]bailian-apps serve --app shop=shop.yaml --pace 1[/]
    [bold]bailian-apps serve recordings/ --record-missing[/]  record what is not there yet
    """
    if nearest and record_missing:
        raise typer.BadParameter(_("--nearest and --record-missing exclude each other"))
    if record_missing and not reload:
        raise typer.BadParameter(_("--record-missing needs --reload, to serve what it records"))
    if mask and not record_missing:
        raise typer.BadParameter(_("--mask needs --record-missing: nothing else is recorded"))
    emulator_commands().serve(
        files or (),
        apps or (),
        console(),
        console(stderr=True),
        host=host,
        allowed_hosts=allow_host or (),
        port=port,
        pace=pace,
        api_key=api_key,
        strict=strict,
        nearest=nearest,
        record_missing=record_missing,
        upstream=upstream,
        mask=mask or (),
        reload=reload,
        verbose=verbose,
    )


def record(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Write the recordings here.")],
    upstream: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The real API (default: DASHSCOPE_HTTP_BASE_URL, else the public endpoint).",
        ),
    ] = None,
    host: Host = "127.0.0.1",
    allow_host: AllowHost = None,
    port: Port = 8791,
    mask: Mask = None,
) -> None:
    """Record your own apps: forward calls to the cloud and save them. Press Ctrl-C to stop.

    Your program needs only another base URL; it keeps its own key. Recordings contain prompts and
    answers, but neither the key nor the tokens of your users.

    [bold]bailian-apps record --out recordings --mask phone[/]
    [bold]bailian-apps serve recordings[/]
    """
    emulator = emulator_commands()
    err = console(stderr=True)
    emulator.record(
        out,
        console(),
        err,
        upstream=upstream,
        host=host,
        allowed_hosts=allow_host or (),
        port=port,
        mask=mask or (),
    )


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where to write (default: here).")
    ] = Path(),
) -> None:
    """Write a scenario and a test of it, to start from. No file is overwritten.

    [bold]bailian-apps init tests/bailian[/]
    [bold]python -m pytest tests/bailian[/]
    """
    from bailian_apps.cli.init import init as write

    write(folder, console(stderr=True))


recordings = typer.Typer(cls=Group, help="Look at recordings.", no_args_is_help=True)


@recordings.command("ls", cls=Command)
def list_recordings(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", exists=True)],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each recording as a JSON line.")
    ] = False,
) -> None:
    """List the recordings of a folder: app, mode, status, steps, size and prompt.

    The exit code is 1 if a recording cannot be read.
    """
    emulator_commands()  # the emulator reads them, and needs its extra
    from bailian_apps.cli.recordings import list_recordings as print_list

    if not print_list(folder, console(stderr=True), as_json=as_json):
        raise typer.Exit(1)


def emulator_commands() -> ModuleType:
    """Return the module of the commands that need the extra `emulator`."""
    try:
        from bailian_apps.cli import emulator_commands
    except ImportError as error:
        raise SystemExit(_(str(error))) from None
    return emulator_commands
