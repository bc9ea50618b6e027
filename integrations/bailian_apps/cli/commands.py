"""The commands of `bailian-apps`: their options and help. Their code is imported when they run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bailian_apps.cli.background import Background, runs, submit
from bailian_apps.cli.batch import batch
from bailian_apps.cli.options import (
    AllRegions,
    AppCommand,
    AppId,
    AppIdOrPrompt,
    BaseUrl,
    Biz,
    BizJson,
    ChatSteps,
    Continue,
    Diff,
    DoctorJson,
    DryRun,
    File,
    History,
    Html,
    Image,
    Json,
    Load,
    ModelId,
    Pace,
    ProbeFolder,
    ProbeJson,
    ProbePrompt,
    ProfileName,
    Prompt,
    Raw,
    ReplayedApp,
    ReplayFiles,
    Session,
    Set,
    Steps,
    Stream,
    TimeoutS,
    Version,
    Workspace,
)
from bailian_apps.cli.server_commands import emulator_commands, init, record, recordings, serve
from bailian_apps.cli.shell import console
from bailian_apps.cli.usage import Command, Group
from bailian_apps.core.language import _

app = typer.Typer(
    name="bailian-apps",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(runs)


@app.callback()
def commands(
    version: Version = False,
) -> None:
    """Run Alibaba Cloud Bailian (Model Studio) apps from a terminal.

    The API key is read from DASHSCOPE_API_KEY.

    [bold]bailian-apps run APP_ID "Plan a day in Hangzhou"[/]   call an app once
    [bold]bailian-apps run "Plan a day in Hangzhou"[/]          the app of BAILIAN_APP_ID
    [bold]bailian-apps runs wait ID[/]                          wait for a background run
    [bold]bailian-apps chat APP_ID[/]                           have a conversation
    [bold]bailian-apps batch IN.jsonl OUT.jsonl[/]              ask many prompts
    [bold]bailian-apps serve[/]                                 run a local emulator
    [bold]bailian-apps record --out FOLDER[/]                   record your own apps
    [bold]bailian-apps recordings ls FOLDER[/]                  list what was recorded
    [bold]bailian-apps init[/]                                  start with a scenario and a test
    [bold]bailian-apps replay FILE[/]                           show a recording
    [bold]bailian-apps profiles[/]                              list your profiles
    [bold]bailian-apps doctor[/]                                check this machine's set-up
    [bold]bailian-apps probe APP_ID[/]                          find out how to call an app
    [bold]bailian-apps demo[/]                                  take a tour; needs no key
    """


@app.command(cls=AppCommand)
def run(
    app_id: AppIdOrPrompt = None,
    prompt: Prompt = None,
    profile: ProfileName = None,
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
    stream: Stream = True,
    html: Html = None,
    dry_run: DryRun = False,
    background: Background = False,
) -> None:
    """Call an app once and print its answer.

    Standard output gets only the answer; steps and errors go to standard error.

    [bold]bailian-apps run APP_ID "Plan a day" --biz city=Hangzhou --biz days:=2[/]
    [bold]bailian-apps run "Plan a day"[/]   (the app of the profile, or of BAILIAN_APP_ID)
    [bold]cat question.txt | bailian-apps run APP_ID --steps[/]
    [bold]bailian-apps run APP_ID "Where is this?" --image lake.jpg[/]
    [bold]bailian-apps run APP_ID "Hello" --json | jq -r .session_id[/]

    Exit codes:
    0 success, 1 other error, 2 invalid input (not sent)
    3 invalid key, 4 permission denied, 5 app not found
    6 request refused, 7 content blocked, 8 cannot pay
    9 rate limit, 10 service unavailable, 11 app failed
    12 cloud failed, 13 cannot connect, 14 connection lost
    15 timeout, 16 not an API response, 17 stream cut
    130 Ctrl-C
    """
    if dry_run and (raw or html):
        raise typer.BadParameter(_("--dry-run excludes --raw and --html: nothing runs"))
    output = _output(as_json, raw, "stream" if stream else "text")
    from bailian_apps.cli import run as command

    app_id, prompt = command.app_and_prompt(app_id, prompt, profile)
    more = _settings(profile, workspace, base_url, model_id=model_id, timeout=timeout)
    called = command.bailian_app(app_id, biz, biz_json, settings, with_key=not dry_run, **more)
    options = command.media(image, file) | ({"session_id": session} if session else {})
    if dry_run:
        from bailian_apps.cli.dry_run import dry_run as show_request

        show_request(called, command.read_prompt(prompt), options, as_json=as_json)
    elif background:
        submit(called, command.read_prompt(prompt), options, as_json=as_json)
    else:
        out = console(stderr=True)
        command.run(called, prompt, out, options, output=output, steps=steps, html=html)


@app.command(cls=AppCommand)
def chat(
    app_id: AppId = "-",
    profile: ProfileName = None,
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
    steps: ChatSteps = True,
    resume: Continue = False,
    load: Load = None,
    history: History = True,
) -> None:
    """Have a conversation with an app. Images and files are sent with the first message.

    What you paste is one message. Alt+Enter begins a new line; Enter sends.
    Ctrl-C stops an answer, Ctrl-D leaves, [bold]/help[/] lists the slash commands.

    [bold]bailian-apps chat APP_ID[/]
    [bold]bailian-apps chat APP_ID --continue[/]
    [bold]bailian-apps chat APP_ID --image lake.jpg[/]
    """
    if sum((resume, load is not None, session is not None)) > 1:
        raise typer.BadParameter(_("--continue, --load and --session exclude each other"))
    if resume and not history:
        raise typer.BadParameter(_("--continue and --no-history exclude each other"))
    try:
        from bailian_apps.cli.chat.chat import Chat
    except ImportError as error:
        problem = _(
            'chat needs prompt-toolkit; install it with: pip install "bailian-apps[cli]" ({error})'
        )
        raise SystemExit(problem.format(error=error)) from None
    from bailian_apps.cli.run import bailian_app, media

    more = _settings(profile, workspace, base_url, model_id=model_id, timeout=timeout)
    called = bailian_app(app_id, biz, biz_json, settings, **more)
    first = media(image, file)
    Chat(
        called,
        console(stderr=True),
        first,
        session_id=session,
        steps=steps,
        store=history,
        load=load,
        continue_newest=resume,
    ).run()


@app.command(cls=Command)
def profiles() -> None:
    r"""List the profiles: the settings of your apps, by name, in a TOML file.

    [bold]\[prod][/]
    [bold]app_id = "…"[/]
    [bold]api_key_env = "PROD_KEY"[/]   the variable with its key
    [bold]workspace = "…"[/]            and any other setting

    They are in your own file and in bailian-apps.toml of the current folder.
    [bold]--profile prod[/] or BAILIAN_PROFILE=prod uses one.
    """
    from bailian_apps.cli.profiles import print_profiles

    print_profiles()


app.command(cls=AppCommand)(batch)


@app.command(cls=Command)
def doctor(
    base_url: BaseUrl = None,
    workspace: Workspace = None,
    as_json: DoctorJson = False,
    all_regions: AllRegions = False,
) -> None:
    """Check what a call needs: versions, extras, key, address, network.

    To check the key, it calls an app that does not exist, so it costs nothing. It sends the key to
    the configured address only, unless --all-regions is given, and never prints it. The exit code
    is 1 if something that a call needs is missing.
    """
    from bailian_apps.cli.doctor import doctor as check

    given = {"base_url": base_url, "workspace": workspace}
    if not check(console(), **given, as_json=as_json, all_regions=all_regions):
        raise typer.Exit(1)


@app.command(cls=AppCommand)
def probe(
    app_id: AppId = "-",
    profile: ProfileName = None,
    prompt: ProbePrompt = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")] = False,
    save: ProbeFolder = None,
    biz: Biz = None,
    biz_json: BizJson = None,
    workspace: Workspace = None,
    base_url: BaseUrl = None,
    timeout: TimeoutS = None,
    settings: Set = None,
    as_json: ProbeJson = False,
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
        emulator_commands()  # the recorder's format needs its extra
    from bailian_apps.cli import probe as command
    from bailian_apps.cli.run import bailian_app

    more = _settings(profile, workspace, base_url, timeout=timeout)
    called = bailian_app(app_id, biz, biz_json, settings, **more)
    command.probe(
        called,
        console(stderr=True),
        prompt=command.PROMPT if prompt is None else prompt,
        yes=yes,
        as_json=as_json,
        folder=save,
    )


for command in (serve, record, init):
    app.command(cls=Command)(command)
app.add_typer(recordings, name="recordings")


@app.command(cls=Command)
def replay(
    files: ReplayFiles,
    app_id: ReplayedApp = None,
    pace: Pace = 1.0,
    steps: Steps = False,
    as_json: Json = False,
    raw: Raw = False,
    html: Html = None,
    diff: Diff = False,
) -> None:
    """Show a recording as [bold]run[/] shows a call, or compare two of them.

    [bold]bailian-apps replay recordings/0001-APP_ID-stream.jsonl --steps[/]
    [bold]bailian-apps replay shop.yaml --app shop --html shop.html[/]
    [bold]bailian-apps replay recordings --html runs.html[/]
    [bold]bailian-apps replay before.jsonl after.jsonl --diff --html diff.html[/]
    """
    output = _output(as_json, raw, "stream")
    if len(files) != 1 + diff:
        one = _("replay takes one file; --diff compares two")
        raise typer.BadParameter(_("replay takes exactly two files") if diff else one)
    emulator_commands()  # the emulator needs its extra
    from bailian_apps.cli import replay as command

    if diff:
        if as_json or raw or steps:
            raise typer.BadParameter(_("--diff excludes --steps, --json and --raw"))
        command.compare(files[0], files[1], console(), app_id=app_id, html=html)
        return
    command.replay(
        files[0],
        console(stderr=True),
        app_id=app_id,
        pace=pace,
        output=output,
        steps=steps,
        html=html,
    )


@app.command(cls=Command)
def demo(pace: Pace = 1.0) -> None:
    """Run one app in a LangChain chain, a LlamaIndex query engine and as an agent's tool.

    Without a key the app is a travel workflow in the emulator. With DASHSCOPE_API_KEY and
    BAILIAN_APP_ID set, it is that app on the cloud.
    """
    from bailian_apps.cli.view import print_note

    print_note(console(), _("Loading LangChain and LlamaIndex…"))  # it takes seconds
    try:
        from bailian_apps.cli.demo import run_demo
    except ImportError as error:
        problem = _(
            "the demo needs all frameworks; install them with: "
            'pip install "bailian-apps[all]" ({error})'
        )
        raise SystemExit(problem.format(error=error)) from None
    run_demo(console(), pace=pace)


def _settings(
    profile: str | None, workspace: str | None, base_url: str | None, **more: Any
) -> dict[str, Any]:
    """The settings that have options of their own."""
    return {"profile": profile, "workspace": workspace, "base_url": base_url, **more}


def _output(as_json: bool, raw: bool, default: str) -> str:
    if as_json and raw:
        raise typer.BadParameter(_("--json and --raw exclude each other"))
    return "json" if as_json else "raw" if raw else default
