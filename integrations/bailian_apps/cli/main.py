"""The commands: what each takes, and how a failure is told."""

from __future__ import annotations

import logging
import os
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console
from typing_extensions import override

from bailian_apps.cli.view import note, told
from bailian_apps.core import errors

EXIT_CODES: dict[type[errors.BailianError], int] = {
    errors.BailianError: 1,
    errors.InvalidInputError: 2,
    errors.AuthenticationError: 3,
    errors.PermissionDeniedError: 4,
    errors.NotFoundError: 5,
    errors.BadRequestError: 6,
    errors.ContentBlockedError: 7,
    errors.BillingError: 8,
    errors.RateLimitError: 9,
    errors.ServiceUnavailableError: 10,
    errors.AppFailedError: 11,
    errors.ServerError: 12,
    errors.ConnectError: 13,
    errors.ConnectionLostError: 14,
    errors.RequestTimeoutError: 15,
    errors.ProtocolError: 16,
    errors.StreamInterruptedError: 17,
}
"""What a command ends with when a call failed; the nearest class counts."""

app = typer.Typer(
    name="bailian-apps",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_AppId = Annotated[
    str,
    typer.Argument(
        help="The id on the app's card; [bold]-[/]: that in BAILIAN_APP_ID.", metavar="APP_ID"
    ),
]
_Biz = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="A start variable of the workflow (biz_params); NAME:=JSON for what is no text. "
        "May be repeated.",
    ),
]
_BizJson = Annotated[
    str | None,
    typer.Option(
        metavar="JSON|@FILE", help="biz_params as one object; a file keeps user tokens to itself."
    ),
]
_Session = Annotated[
    str | None, typer.Option(metavar="ID", help="A session of the cloud to go on in.")
]
_ModelId = Annotated[
    str | None, typer.Option(metavar="ID", help="A model in place of the console's (agent apps).")
]
_Workspace = Annotated[
    str | None, typer.Option(metavar="ID", help="The sub-workspace that the app is in.")
]
_BaseUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The API's address; else DASHSCOPE_HTTP_BASE_URL."),
]
_TimeoutS = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="The longest silence of the cloud; 300, if not given."),
]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting: temperature=0.2, flow_stream_mode=agent_format. May be repeated.",
    ),
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(metadata.version("bailian-apps"))
        raise typer.Exit


@app.callback()
def commands(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Alibaba Cloud Bailian (Model Studio) apps, from a terminal.

    The key is read from DASHSCOPE_API_KEY.

    [bold]bailian-apps run APP_ID "Plan a day in Hangzhou"[/]   ask once
    [bold]bailian-apps chat APP_ID[/]                           talk, in one session
    [bold]bailian-apps serve[/]                                 be a local cloud
    [bold]bailian-apps record --out FOLDER[/]                   record your own apps
    [bold]bailian-apps replay FILE[/]                           show a recording
    [bold]bailian-apps doctor[/]                                what is set and installed here
    [bold]bailian-apps demo[/]                                  a tour; needs no key
    """


@app.command()
def run(
    app_id: _AppId = "-",
    prompt: Annotated[
        str,
        typer.Argument(help="The words; [bold]-[/], or none: standard input.", metavar="PROMPT"),
    ] = "-",
    biz: _Biz = None,
    biz_json: _BizJson = None,
    session: _Session = None,
    model_id: _ModelId = None,
    workspace: _Workspace = None,
    base_url: _BaseUrl = None,
    timeout: _TimeoutS = None,
    settings: _Set = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="Show on standard error what the app does, live.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole run as one JSON object, at its end.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print each frame of the wire as a JSON line.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print the answer as it comes.")
    ] = True,
) -> None:
    """Ask an app once, and print its answer.

    Standard output gets the answer and nothing else; steps and errors go to standard error.

    [bold]bailian-apps run APP_ID "Plan a day" --biz city=Hangzhou --biz days:=2[/]
    [bold]cat question.txt | bailian-apps run - --steps[/]   (the app of BAILIAN_APP_ID)
    [bold]bailian-apps run APP_ID "Hello" --json | jq -r .session_id[/]

    Exit codes:
    0 answered, 1 anything else, 2 bad input (nothing was sent), 130 Ctrl-C
    3 wrong key, 4 not allowed, 5 no such app, 6 refused, 7 content blocked
    8 account cannot pay, 9 rate limit, 10 service unavailable
    11 the app failed, 12 the cloud failed
    13 not connected, 14 connection lost, 15 timeout, 16 not the API's answer, 17 stream cut
    """
    from bailian_apps.cli import run as command

    if as_json and raw:
        raise typer.BadParameter("--json and --raw are two things; take one")
    called = command.bailian_app(
        app_id,
        biz=biz or (),
        biz_json=biz_json,
        given=settings or (),
        model_id=model_id,
        workspace=workspace,
        base_url=base_url,
        timeout=timeout,
    )
    output = "json" if as_json else "raw" if raw else "stream" if stream else "text"
    command.run(
        called, prompt, Console(stderr=True), session_id=session, output=output, steps=steps
    )


@app.command()
def chat(
    app_id: _AppId = "-",
    biz: _Biz = None,
    biz_json: _BizJson = None,
    session: _Session = None,
    model_id: _ModelId = None,
    workspace: _Workspace = None,
    base_url: _BaseUrl = None,
    timeout: _TimeoutS = None,
    settings: _Set = None,
    steps: Annotated[
        bool, typer.Option("--steps/--no-steps", help="Show what the app does, live.")
    ] = True,
) -> None:
    """Talk to an app; it remembers what was said.

    [bold]/new[/] begins another conversation
    [bold]/save FILE[/] writes this one
    [bold]/help[/] lists the rest
    Ctrl-C stops an answer, Ctrl-D leaves.
    """
    from bailian_apps.cli.chat import Chat
    from bailian_apps.cli.run import bailian_app

    called = bailian_app(
        app_id,
        biz=biz or (),
        biz_json=biz_json,
        given=settings or (),
        model_id=model_id,
        workspace=workspace,
        base_url=base_url,
        timeout=timeout,
    )
    Chat(called, Console(stderr=True), session_id=session, steps=steps).run()


@app.command()
def doctor(
    base_url: _BaseUrl = None,
    workspace: _Workspace = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as one JSON object.")
    ] = False,
) -> None:
    """Say what a call would find here: versions, extras, key, address, network.

    It connects to the API's address and asks nothing, so nothing costs. It never prints the key.
    It ends with 1 when something that a call needs is missing.
    """
    from bailian_apps.cli.doctor import doctor as look

    if not look(Console(), base_url=base_url, workspace=workspace, as_json=as_json):
        raise typer.Exit(1)


_Host = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 lets everybody in.")
]


@app.command()
def serve(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Recordings, YAML files and folders of them; none: a travel app.",
            metavar="[FILES|FOLDERS]...",
            exists=True,
        ),
    ] = None,
    apps: Annotated[
        list[str] | None,
        typer.Option("--app", metavar="ID=FILE", help="One app under this id. May be repeated."),
    ] = None,
    host: _Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8790,
    pace: Annotated[
        float,
        typer.Option(min=0, help="How many times faster than recorded to answer; 0: at once."),
    ] = 0.0,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The only key to let in; else any.")
    ] = None,
) -> None:
    """Be a local cloud: answer calls of apps from files, until Ctrl-C.

    It prints the lines to paste where your program runs, and then one for each call.

    [bold]bailian-apps serve[/]                              a recorded travel app
    [bold]bailian-apps serve recordings/[/]                  what you recorded
    [bold]bailian-apps serve --app shop=shop.yaml --pace 1[/]
    """
    local = _local()
    out, err = Console(), Console(stderr=True)
    local.serve(files or (), apps or (), out, err, host=host, port=port, pace=pace, api_key=api_key)


@app.command()
def record(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the recordings go.")],
    upstream: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The real API; else DASHSCOPE_HTTP_BASE_URL, else the public one."
        ),
    ] = None,
    host: _Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8791,
) -> None:
    """Record your own apps: pass calls on to the cloud, and write them down, until Ctrl-C.

    Your program runs as it is, with its own key, and only with another address. The recordings
    are without the key and the tokens of your users. What users said and what the app answered
    is in them.

    [bold]bailian-apps record --out recordings[/]
    [bold]bailian-apps serve recordings[/]
    """
    local = _local()
    err = Console(stderr=True)
    local.record(out, Console(), err, upstream=upstream, host=host, port=port)


@app.command()
def replay(
    file: Annotated[
        Path, typer.Argument(help="A recording, or the YAML file of one app.", exists=True)
    ],
    pace: Annotated[
        float,
        typer.Option(min=0, help="How many times faster than recorded; 0: at once."),
    ] = 1.0,
    steps: Annotated[
        bool, typer.Option("--steps", help="Show on standard error what the app does, live.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole run as one JSON object, at its end.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print each frame of the wire as a JSON line.")
    ] = False,
) -> None:
    """Show a recording as a run, as [bold]run[/] shows it.

    [bold]bailian-apps replay recordings/0001-APP_ID-stream.jsonl --steps[/]
    """
    if as_json and raw:
        raise typer.BadParameter("--json and --raw are two things; take one")
    output = "json" if as_json else "raw" if raw else "stream"
    _local().replay(file, Console(stderr=True), pace=pace, output=output, steps=steps)


def _local() -> ModuleType:
    """The commands of the local cloud; they need its extra."""
    try:
        from bailian_apps.cli import local
    except ImportError as error:
        raise SystemExit(str(error)) from None
    return local


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
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # whoever began this had closed it, as with `>&-`
            setattr(sys, name, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    console = Console(stderr=True)
    logging.getLogger("bailian_apps").addHandler(_Notes(console))
    try:
        app()
    except errors.BailianError as error:
        note(console, told(error), "red")
        sys.exit(exit_code(error))


def exit_code(error: errors.BailianError) -> int:
    """What a command ends with when a call failed with `error`."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


class _Notes(logging.Handler):
    """Says what the library warns of: that it tries again, or that a session was forgotten."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    @override
    def emit(self, record: logging.LogRecord) -> None:
        note(self._console, record.getMessage(), "yellow")
