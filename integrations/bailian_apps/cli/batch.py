"""`bailian-apps batch`: its options and help."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bailian_apps.cli.options import (
    App,
    BaseUrl,
    Biz,
    BizJson,
    ModelId,
    ProfileName,
    Set,
    TimeoutS,
    Workspace,
)

_Source = Annotated[
    str,
    typer.Argument(
        help="Prompts: .jsonl, .csv or .parquet; [bold]-[/] reads JSON lines.", metavar="IN"
    ),
]
_Target = Annotated[
    str,
    typer.Argument(
        help="Results: .jsonl, .csv or .parquet; [bold]-[/] prints JSON lines.", metavar="OUT"
    ),
]
_Concurrency = Annotated[int, typer.Option(min=1, help="How many requests may be in flight.")]
_Rpm = Annotated[
    float | None, typer.Option(metavar="N", help="Send at most so many requests a minute.")
]
_MaxCalls = Annotated[int | None, typer.Option(metavar="N", help="End after so many requests.")]
_MaxTokens = Annotated[int | None, typer.Option(metavar="N", help="End after so many tokens.")]
_MaxTime = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="End after so many seconds.")
]
_Journal = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Where progress is kept (default: OUT.journal)."),
]
_RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Ask prompts that failed before again.")
]
_Background = Annotated[
    bool,
    typer.Option("--background", help="Make each prompt a background run, for long apps."),
]
_Idempotent = Annotated[
    bool,
    typer.Option(
        "--idempotent",
        help="Running the app twice does no harm: ask prompts of unknown outcome again.",
    ),
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def batch(
    source: _Source,
    target: _Target,
    app_id: App = "-",
    concurrency: _Concurrency = 8,
    rpm: _Rpm = None,
    max_calls: _MaxCalls = None,
    max_tokens: _MaxTokens = None,
    max_time: _MaxTime = None,
    journal: _Journal = None,
    retry_failed: _RetryFailed = False,
    background: _Background = False,
    idempotent: _Idempotent = False,
    profile: ProfileName = None,
    biz: Biz = None,
    biz_json: BizJson = None,
    model_id: ModelId = None,
    workspace: Workspace = None,
    base_url: BaseUrl = None,
    timeout: TimeoutS = None,
    settings: Set = None,
    quiet: _Quiet = False,
) -> None:
    """Ask an app many prompts. A batch that was killed goes on if you repeat the command.

    A line of IN is an object with [bold]prompt[/] or [bold]messages[/], any setting of a call, and
    an [bold]id[/] (default: the line number). A line of OUT has the [bold]id[/], the
    [bold]status[/], the [bold]text[/] or the [bold]error[/], and usage, session and attempts.

    [bold]bailian-apps batch questions.jsonl answers.jsonl --concurrency 20 --rpm 300[/]
    [bold]bailian-apps batch in.csv out.csv --app APP_ID --max-tokens 100000[/]

    Exit codes:
    0 all answered, 2 invalid input (nothing was sent), 20 some failed
    21 some unknown: sent, and whether the app ran is not known
    22 the budget is used up, 130 Ctrl-C; what is left was not sent
    others: those of [bold]run[/], for an error that every prompt would get
    """
    from bailian_apps.batch import Budget
    from bailian_apps.cli.batch_run import batch as run
    from bailian_apps.cli.run import bailian_app
    from bailian_apps.cli.shell import console

    more: dict[str, Any] = {"model_id": model_id, "workspace": workspace, "base_url": base_url}
    more |= {"profile": profile, "timeout": timeout, "idempotent": idempotent or None}
    app = bailian_app(app_id, biz, biz_json, settings, **more)
    code = run(
        app,
        source,
        target,
        console(stderr=True),
        journal=journal,
        concurrency=concurrency,
        requests_per_minute=rpm,
        budget=Budget(calls=max_calls, tokens=max_tokens, time_s=max_time),
        retry_failed=retry_failed,
        background=background,
        progress=not quiet,
    )
    if code:
        raise typer.Exit(code)
