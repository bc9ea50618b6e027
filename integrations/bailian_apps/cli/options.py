"""The options that several commands share, each with its help."""

from __future__ import annotations

from typing import Annotated

import typer

AppId = Annotated[
    str,
    typer.Argument(
        help="The app's id, from the console. [bold]-[/] reads BAILIAN_APP_ID.", metavar="APP_ID"
    ),
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
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")]
Pace = Annotated[
    float, typer.Option(min=0, help="Speed relative to the recording; 0 does not wait.")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY|-|@FILE",
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
Reload = Annotated[
    bool, typer.Option("--reload/--no-reload", help="Read files again when they change.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log admin requests too, not only calls.")
]
