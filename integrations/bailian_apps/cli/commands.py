"""The commands of `bailian-apps`: their options and help. Their code is imported when they run."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console

from bailian_apps.cli.batch import batch
from bailian_apps.cli.options import (
    AllowHost,
    AppId,
    BaseUrl,
    Biz,
    BizJson,
    File,
    Host,
    Image,
    Json,
    ModelId,
    Pace,
    Port,
    Raw,
    Session,
    Set,
    Steps,
    TimeoutS,
    Workspace,
)

app = typer.Typer(
    name="bailian-apps",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(metadata.version("bailian-apps"))
        raise typer.Exit


@app.callback()
def commands(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Run Alibaba Cloud Bailian (Model Studio) apps from a terminal.

    The API key is read from DASHSCOPE_API_KEY.

    [bold]bailian-apps run APP_ID "Plan a day in Hangzhou"[/]   call an app once
    [bold]bailian-apps chat APP_ID[/]                           have a conversation
    [bold]bailian-apps batch IN.jsonl OUT.jsonl[/]              ask many prompts
    [bold]bailian-apps serve[/]                                 run a local emulator
    [bold]bailian-apps record --out FOLDER[/]                   record your own apps
    [bold]bailian-apps replay FILE[/]                           show a recording
    [bold]bailian-apps doctor[/]                                check this machine's set-up
    [bold]bailian-apps probe APP_ID[/]                          find out how to call an app
    [bold]bailian-apps demo[/]                                  take a tour; needs no key
    """


@app.command()
def run(
    app_id: AppId = "-",
    prompt: Annotated[
        str,
        typer.Argument(
            help="The prompt. [bold]-[/], the default, reads standard input.", metavar="PROMPT"
        ),
    ] = "-",
    biz: Biz = None,
    biz_json: BizJson = None,
    image: Image = None,
    file: File = None,
    session: Session = None,
    model_id: ModelId = None,
    workspace: Workspace = None,
    base_url: BaseUrl = None,
    timeout: TimeoutS = None,
    settings: Set = None,
    steps: Steps = False,
    as_json: Json = False,
    raw: Raw = False,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print the answer as it arrives.")
    ] = True,
) -> None:
    """Call an app once and print its answer.

    Standard output gets only the answer; steps and errors go to standard error.

    [bold]bailian-apps run APP_ID "Plan a day" --biz city=Hangzhou --biz days:=2[/]
    [bold]cat question.txt | bailian-apps run - --steps[/]   (the app of BAILIAN_APP_ID)
    [bold]bailian-apps run APP_ID "Where is this?" --image lake.jpg[/]
    [bold]bailian-apps run APP_ID "Hello" --json | jq -r .session_id[/]

    Exit codes:
    0 success, 1 other error, 2 invalid input (nothing was sent), 130 Ctrl-C
    3 invalid key, 4 permission denied, 5 app not found, 6 request refused
    7 content blocked, 8 account cannot pay, 9 rate limit, 10 service unavailable
    11 the app failed, 12 the cloud failed, 13 cannot connect, 14 connection lost
    15 timeout, 16 not an API response, 17 stream interrupted
    """
    from bailian_apps.cli import run as command

    fields = {"model_id": model_id, "workspace": workspace, "base_url": base_url}
    called = command.bailian_app(app_id, biz, biz_json, settings, timeout=timeout, **fields)
    output = _output(as_json, raw, "stream" if stream else "text")
    options = command.media(image, file) | ({"session_id": session} if session else {})
    command.run(called, prompt, Console(stderr=True), options, output=output, steps=steps)


@app.command()
def chat(
    app_id: AppId = "-",
    biz: Biz = None,
    biz_json: BizJson = None,
    image: Image = None,
    file: File = None,
    session: Session = None,
    model_id: ModelId = None,
    workspace: Workspace = None,
    base_url: BaseUrl = None,
    timeout: TimeoutS = None,
    settings: Set = None,
    steps: Annotated[
        bool, typer.Option("--steps/--no-steps", help="Show the app's steps, live.")
    ] = True,
) -> None:
    """Have a conversation with an app. Images and files are sent with the first message.

    [bold]/new[/] starts a new conversation
    [bold]/save FILE[/] saves this one
    [bold]/help[/] lists the other commands
    Ctrl-C stops an answer, Ctrl-D leaves.
    """
    from bailian_apps.cli.chat import Chat
    from bailian_apps.cli.run import bailian_app, media

    fields = {"model_id": model_id, "workspace": workspace, "base_url": base_url}
    called = bailian_app(app_id, biz, biz_json, settings, timeout=timeout, **fields)
    first = media(image, file)
    Chat(called, Console(stderr=True), first, session_id=session, steps=steps).run()


app.command()(batch)


@app.command()
def doctor(
    base_url: BaseUrl = None,
    workspace: Workspace = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as one JSON object.")
    ] = False,
    all_regions: Annotated[
        bool,
        typer.Option(
            "--all-regions", help="Send the key to the address of every region, to find its own."
        ),
    ] = False,
) -> None:
    """Check what a call needs: versions, extras, key, address, network.

    To check the key, it calls an app that does not exist, so it costs nothing. It sends the key to
    the configured address only, unless --all-regions is given, and never prints it. The exit code
    is 1 if something that a call needs is missing.
    """
    from bailian_apps.cli.doctor import doctor as check

    given = {"base_url": base_url, "workspace": workspace}
    if not check(Console(), **given, as_json=as_json, all_regions=all_regions):
        raise typer.Exit(1)


@app.command()
def probe(
    app_id: AppId = "-",
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What to ask, for an app that does only one thing (default: to list numbers).",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the report and a recording of each call here."),
    ] = None,
    biz: Biz = None,
    biz_json: BizJson = None,
    workspace: Workspace = None,
    base_url: BaseUrl = None,
    timeout: TimeoutS = None,
    settings: Set = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as one JSON object.")
    ] = False,
) -> None:
    """Find out how to call an app, by asking it up to 8 harmless questions.

    It lists the questions and asks before it starts: each is a call at your cost.
    The report shows whether the app remembers a session, reads messages and
    streams, and which settings to use. What [bold]--save[/] writes can be attached
    to an issue.

    [bold]bailian-apps probe APP_ID[/]
    [bold]bailian-apps probe APP_ID --biz city=Hangzhou --save report --yes[/]

    Exit codes are those of [bold]run[/]: the first error that left a question unanswered.
    """
    if save is not None:
        _emulator_commands()  # the recorder's format needs its extra
    from bailian_apps.cli import probe as command
    from bailian_apps.cli.run import bailian_app

    fields = {"workspace": workspace, "base_url": base_url}
    called = bailian_app(app_id, biz, biz_json, settings, timeout=timeout, **fields)
    command.probe(
        called,
        Console(stderr=True),
        prompt=command.PROMPT if prompt is None else prompt,
        yes=yes,
        as_json=as_json,
        folder=save,
    )


@app.command()
def serve(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Recordings, YAML files, and folders of them (default: a travel app).",
            metavar="[FILES|FOLDERS]...",
            exists=True,
        ),
    ] = None,
    apps: Annotated[
        list[str] | None,
        typer.Option("--app", metavar="ID=FILE", help="Serve FILE as the app ID. Repeatable."),
    ] = None,
    host: Host = "127.0.0.1",
    allow_host: AllowHost = None,
    port: Port = 8790,
    pace: Pace = 0.0,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY|-|@FILE",
            help="Accept only this API key (default: any). [bold]-[/] reads DASHSCOPE_API_KEY, "
            "[bold]@FILE[/] a file: arguments are visible in the list of processes.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse unknown names, wrong types and values out of range."),
    ] = False,
) -> None:
    """Run the emulator, serving apps from files. Press Ctrl-C to stop.

    It prints the environment variables for your program, and then a line for each call.

    [bold]bailian-apps serve[/]                              a recorded travel app
    [bold]bailian-apps serve recordings/[/]                  your recordings
    [bold]bailian-apps serve --app shop=shop.yaml --pace 1[/]
    """
    emulator = _emulator_commands()
    out, err = Console(), Console(stderr=True)
    emulator.serve(
        files or (),
        apps or (),
        out,
        err,
        host=host,
        allowed_hosts=allow_host or (),
        port=port,
        pace=pace,
        api_key=api_key,
        strict=strict,
    )


@app.command()
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
) -> None:
    """Record your own apps: forward calls to the cloud and save them. Press Ctrl-C to stop.

    Your program needs only another base URL; it keeps its own key. Recordings contain prompts and
    answers, but neither the key nor the tokens of your users.

    [bold]bailian-apps record --out recordings[/]
    [bold]bailian-apps serve recordings[/]
    """
    emulator = _emulator_commands()
    err = Console(stderr=True)
    emulator.record(
        out,
        Console(),
        err,
        upstream=upstream,
        host=host,
        allowed_hosts=allow_host or (),
        port=port,
    )


@app.command()
def replay(
    file: Annotated[
        Path,
        typer.Argument(
            help="A recording, or the YAML file of one app.", metavar="FILE", exists=True
        ),
    ],
    pace: Pace = 1.0,
    steps: Steps = False,
    as_json: Json = False,
    raw: Raw = False,
) -> None:
    """Show a recording as [bold]run[/] shows a call.

    [bold]bailian-apps replay recordings/0001-APP_ID-stream.jsonl --steps[/]
    """
    output = _output(as_json, raw, "stream")
    _emulator_commands().replay(file, Console(stderr=True), pace=pace, output=output, steps=steps)


@app.command()
def demo(pace: Pace = 1.0) -> None:
    """Run one app in a LangChain chain, a LlamaIndex query engine and as an agent's tool.

    Without a key it replays a recorded travel workflow in the emulator. With DASHSCOPE_API_KEY and
    BAILIAN_APP_ID set, it runs that app on the cloud.
    """
    try:
        from bailian_apps.cli.demo import run_demo
    except ImportError as error:
        raise SystemExit(
            'the demo needs all frameworks; install them with: pip install "bailian-apps[all]" '
            f"({error})"
        ) from None
    run_demo(Console(), pace=pace)


def _output(as_json: bool, raw: bool, default: str) -> str:
    if as_json and raw:
        raise typer.BadParameter("--json and --raw exclude each other")
    return "json" if as_json else "raw" if raw else default


def _emulator_commands() -> ModuleType:
    try:
        from bailian_apps.cli import emulator_commands
    except ImportError as error:
        raise SystemExit(str(error)) from None
    return emulator_commands
