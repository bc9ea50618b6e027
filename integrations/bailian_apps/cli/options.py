"""The options that several commands share, each with its help."""

from __future__ import annotations

import difflib
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typing_extensions import override

from bailian_apps.cli.usage import Command, UsageError, translated_error
from bailian_apps.core.language import N_, Message, _

ARGUMENTS = {
    "api_key": N_("Set DASHSCOPE_API_KEY instead"),
    "app_id": N_("Write the app id after the command"),
    "prompt": N_("Write the prompt after the app id"),
    "messages": N_("Use `bailian-apps chat` for a conversation"),
    "session_id": N_("Write --session ID"),
    "image_list": N_("Write --image FILE or --image URL"),
    "file_list": N_("Write --file URL"),
}
"""What to write for what is no setting here, or may not be one."""


class AppCommand(Command):
    """A command that calls an app: suggests how to write a setting that has no option."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments."""
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            option = getattr(error, "option_name", "")
            if option.startswith("--") and not getattr(error, "possibilities", None):
                self._suggest(error, option[2:].replace("-", "_"))
            elif self.name == "run" and "unexpected extra argument" in getattr(
                error, "message", ""
            ):
                _add_hint(error, _("Quote the prompt"))
            raise

    def _suggest(self, error: Any, name: str) -> None:
        variable = N_("For a start variable of a workflow, write --biz {name}=…")
        _add_hint(error, _(instead_of(name) or variable.format(name=name)))


def instead_of(name: str) -> Message | None:
    """Return how to write what is no option, or no setting, under this name; None if unknown."""
    from bailian_apps.core.settings import SETTING_NAMES

    if name in ARGUMENTS:
        return ARGUMENTS[name]
    close = difflib.get_close_matches(name, SETTING_NAMES - {"app_id", "api_key"}, n=1)
    return N_("Did you mean --set {name}=…?").format(name=close[0]) if close else None


def _add_hint(error: Any, hint: str) -> None:
    """Add what to do to an error of typer."""
    text = translated_error(error.message)
    error.message = _("{text}. {hint}").format(text=text, hint=hint)


AppId = Annotated[
    str,
    typer.Argument(
        help="The app's id, from the console. [bold]-[/] is that of the profile, else of "
        "BAILIAN_APP_ID.",
        metavar="APP_ID",
    ),
]
App = Annotated[
    str,
    typer.Option(
        "--app",
        metavar="APP_ID",
        show_default=False,
        help="The app's id (default: that of the profile, or BAILIAN_APP_ID).",
    ),
]
ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        envvar="BAILIAN_PROFILE",
        show_envvar=False,
        help="Use the settings of this profile (default: BAILIAN_PROFILE). "
        "[bold]bailian-apps profiles[/] lists them.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a picture of the run, as an HTML page, to FILE."),
]
Biz = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="A start variable of the workflow (biz_params). Use NAME:=JSON for a value that is "
        "not text. Repeatable.",
    ),
]
BizJson = Annotated[
    str | None,
    typer.Option(
        metavar="JSON|@FILE",
        help="biz_params as one JSON object. Pass user tokens in a file: arguments are visible in "
        "the list of processes.",
    ),
]
Session = Annotated[
    str | None, typer.Option(metavar="ID", help="Continue this session of the cloud.")
]
Image = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE|URL", help="Send this image, of this machine or by its address. Repeatable."
    ),
]
File = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="Send the file at this address. Repeatable."),
]
ModelId = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Use this model, not the console's (agent apps)."),
]
Workspace = Annotated[
    str | None, typer.Option(metavar="ID", help="The sub-workspace that the app belongs to.")
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL|REGION",
        help="The API's base URL, or the name of a region, such as singapore (default: "
        "DASHSCOPE_HTTP_BASE_URL).",
    ),
]
TimeoutS = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", help="The longest wait for the next data from the cloud (default: 300)."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting: temperature=0.2, flow_stream_mode=agent_format. Repeatable.",
    ),
]
Steps = Annotated[
    bool, typer.Option("--steps", help="Show the app's steps on standard error, live.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the run as one JSON object at the end.")]
Raw = Annotated[bool, typer.Option("--raw", help="Print each frame from the wire as a JSON line.")]
Host = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Listen on this address; 0.0.0.0 admits anyone.")
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="Answer at this host name, too, and to web pages of it. Repeatable.",
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0 picks a free port.")]
Pace = Annotated[
    float,
    typer.Option(min=0, metavar="FACTOR", help="Speed relative to the recording; 0 does not wait."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Accept only this API key (default: any). [bold]-[/] reads DASHSCOPE_API_KEY, "
        "[bold]@FILE[/] a file: arguments are visible in the list of processes.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse unknown names, wrong types and values out of range."),
]
Nearest = Annotated[
    bool,
    typer.Option("--nearest", help="Answer what was not recorded with the most similar recording."),
]
RecordMissing = Annotated[
    bool,
    typer.Option(
        "--record-missing",
        help="Send what was not recorded to the real API, with the caller's key and at your "
        "cost, and record the answers in FOLDER.",
    ),
]
MissingUpstream = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The real API of --record-missing (default: DASHSCOPE_HTTP_BASE_URL, else the "
        "public endpoint).",
    ),
]
Mask = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Mask the values of this name in recordings. Repeatable."),
]
Reload = Annotated[
    bool, typer.Option("--reload/--no-reload", help="Read files again when they change.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log admin requests too, not only calls.")
]
AppIdOrPrompt = Annotated[
    str | None,
    typer.Argument(
        help="The app's id, from the console. [bold]-[/] is that of the profile, else of "
        "BAILIAN_APP_ID. Where one of them is set, you can leave it out.",
        metavar="APP_ID",
    ),
]
Prompt = Annotated[
    str | None,
    typer.Argument(
        help="The prompt. [bold]-[/], the default, reads standard input.", metavar="PROMPT"
    ),
]
Stream = Annotated[
    bool, typer.Option("--stream/--no-stream", help="Print the answer as it arrives.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the request, without its secrets, and do not send it."),
]
AllRegions = Annotated[
    bool,
    typer.Option(
        "--all-regions", help="Send the key to the address of every region, to find its own."
    ),
]
ProbePrompt = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="What to ask, for an app that does only one thing (default: to list numbers).",
    ),
]
ProbeFolder = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Write the report and a recording of each call here."),
]
ReplayFiles = Annotated[
    list[Path],
    typer.Argument(
        help="A recording or a YAML file; two with --diff; a folder with --html.",
        metavar="FILE",
        exists=True,
    ),
]
ReplayedApp = Annotated[
    str | None,
    typer.Option("--app", metavar="ID", help="Which app of a file that has several."),
]
Diff = Annotated[
    bool, typer.Option("--diff", help="Compare two runs: steps, times, tokens and answers.")
]
DoctorJson = Annotated[bool, typer.Option("--json", help="Print the findings as one JSON object.")]
ProbeJson = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")]
ChatSteps = Annotated[
    bool, typer.Option("--steps/--no-steps", help="Show each of the app's steps in a line.")
]
Continue = Annotated[
    bool, typer.Option("--continue", "-c", help="Continue the newest chat with this app.")
]
Load = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Continue the chat that /save has written.")
]
History = Annotated[
    bool,
    typer.Option(
        "--history/--no-history",
        help="Keep your messages and chats in your state directory, for you alone.",
    ),
]


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(metadata.version("bailian-apps"))
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]
