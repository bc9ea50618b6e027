"""`bailian-apps replay`: shows a recorded run, or what differs between two."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bailian_apps.app import BailianApp
from bailian_apps.cli.run import check_writable, run, save_picture
from bailian_apps.cli.view import error_message, print_note
from bailian_apps.core.decoder import Decoder
from bailian_apps.core.errors import BailianError, InvalidInputError
from bailian_apps.core.events import TextDelta
from bailian_apps.core.language import N_, _
from bailian_apps.core.result import AppResult, Step
from bailian_apps.emulator import Emulator, Recording, load_apps
from bailian_apps.emulator.apps.app import AppSource
from bailian_apps.inspector import render, render_diff
from bailian_apps.inspector.diff import differences, pair_steps, sentences
from bailian_apps.inspector.recordings import SUFFIXES
from bailian_apps.inspector.view import Run
from bailian_apps.terminal import format_tokens, step_text


def replay(
    path: Path,
    console: Console,
    *,
    app_id: str | None,
    pace: float,
    output: str,
    steps: bool,
    html: Path | None,
) -> None:
    """Show a recording, or an app of a YAML file, as `run` shows a call.

    Args:
        path: The file. Of a folder, only the picture of its recordings is written.
        console: Where the steps go.
        app_id: Which app of the file; it may be None if there is one only.
        pace: The speed, relative to the recording; 0 does not wait.
        output: What to print, as for `run`.
        steps: Whether to show the steps.
        html: Where to write the picture of the run, if anywhere.

    Raises:
        InvalidInputError: The file cannot be used, or has no such app.
        BailianError: The recorded failure.
    """
    if path.is_dir() and (html is None or steps or output != "stream"):
        raise InvalidInputError("FILE", "is a folder", "Pass only --html, to draw its recordings")
    source = None if path.is_dir() else _source(path, app_id)
    if html is not None and (path.is_dir() or path.suffix in SUFFIXES):
        # A recording has its request, and its times whatever the pace.
        check_writable(html)
        save_picture(_page(render, path), html, console)
        html = None
    if source is not None:
        with _played(source, pace) as (app, prompt):
            run(app, prompt, console, {}, output=output, steps=steps, html=html)


def compare(
    one: Path, other: Path, console: Console, *, app_id: str | None, html: Path | None
) -> None:
    """Print two runs beside each other, and what differs in their answers.

    Args:
        one: The file of a run, as for `replay`.
        other: That of another one.
        console: Where to print.
        app_id: Which app of a file that has several.
        html: Where to write the comparison as a page, if anywhere.

    Raises:
        InvalidInputError: A file cannot be used.
    """
    if html is not None:
        check_writable(html)
    a, b = (_play(path, app_id) for path in (one, other))
    if not console.is_terminal:
        console.width = 160
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="dim", no_wrap=True, min_width=10)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_row("", Text(f"A  {one.name}", "bold"), Text(f"B  {other.name}", "bold"))
    for name, left, right in [
        (_("time"), _seconds(a.ended_ms), _seconds(b.ended_ms)),
        (_("first text"), _seconds(a.first_text_ms), _seconds(b.first_text_ms)),
        (_("tokens"), _tokens(a.result), _tokens(b.result)),
        (_("error"), a.error, b.error),
    ]:
        if left or right:
            table.add_row(name, Text(left), Text(right))
    left, right = a.result.steps, b.result.steps
    for row, (at, at_other) in enumerate(pair_steps(left, right)):
        table.add_row("" if row else _("steps"), _step(left, at), _step(right, at_other))
    console.print(table)
    console.print()
    for mark, text in _differences(a.result.text, b.result.text):
        style = {"-": "red", "+": "green"}.get(mark, "dim")
        print_note(console, f"{mark} {text}", style)
    if html is not None:
        sources = (_drawn(*each) for each in ((one, a), (other, b)))
        save_picture(_page(render_diff, *sources), html, console, _("Picture of both runs"))


@dataclass(frozen=True, slots=True)
class _Played:
    """A run that was replayed, with the times of its recording; None where there are none."""

    result: AppResult
    error: str
    first_text_ms: float | None
    ended_ms: float | None


def _source(path: Path, app_id: str | None, *, one_of_two: bool = False) -> AppSource:
    """Return the app of a file that `--app` names, or the only one.

    Of two files, one may have a single app of another name.
    """
    try:
        apps = load_apps(path)
    except (ValueError, TypeError) as error:
        raise _unusable(error) from None
    if len(apps) == 1 and (app_id is None or one_of_two):
        return next(iter(apps.values()))
    if app_id not in apps:
        problem = (
            N_("is missing: the file has several") if app_id is None else N_("is not in the file")
        )
        raise InvalidInputError(
            "--app", problem, N_("Pass one of {names}").format(names=", ".join(apps))
        )
    return apps[app_id]


@contextmanager
def _played(source: AppSource, pace: float) -> Generator[tuple[BailianApp, str]]:
    """Serve an app; yield it as one to call, and the prompt to call it with."""
    try:
        emulator = Emulator(apps={"replay": source}, pace=pace)
    except (ValueError, TypeError) as error:
        raise _unusable(error) from None
    prompt, mode = "replay", None
    if isinstance(source, Recording):
        mode = source.flow_stream_mode
        if source.request is not None and source.request.prompt not in ("", "-"):
            prompt = source.request.prompt
    with emulator:
        app = BailianApp(
            app_id="replay",
            api_key="replay",
            base_url=emulator.base_url,
            flow_stream_mode=mode,
            max_retries=0,
        )
        yield app, prompt


def _play(path: Path, app_id: str | None) -> _Played:
    source = _source(path, app_id, one_of_two=True)
    error = ""
    with _played(source, 0) as (app, prompt):
        try:
            result = app.invoke(prompt)
        except BailianError as raised:
            result = raised.partial or AppResult()
            error = f"{type(raised).__name__}: {error_message(raised)}"
    frames = source.frames if isinstance(source, Recording) else ()
    ended_ms = max((frame.offset_ms for frame in frames), default=0)
    if not ended_ms:  # a scenario, or a bare `.sse` file
        return _Played(result, error, None, None)
    decoder = Decoder(flow_stream_mode=app.settings.flow_stream_mode)
    spoken = (
        frame.offset_ms
        for frame in frames
        if any(isinstance(event, TextDelta) for event in decoder.feed(frame.payload))
    )
    return _Played(result, error, next(spoken, None), ended_ms)


def _drawn(path: Path, played: _Played) -> Path | Run:
    """Return what the picture shows: a recording itself, with its times and its request."""
    if path.suffix in SUFFIXES:
        return path
    steps = (
        replace(step, started_ms=None, first_token_ms=None, ended_ms=None)
        for step in played.result.steps
    )
    # It was not played at its pace.
    result = replace(played.result, steps=tuple(steps), first_token_ms=None, elapsed_ms=None)
    failed = (None, played.error) if played.error else None
    return Run(result=result, name=path.name, error=failed, finished=failed is None)


def _page(draw: Callable[..., str], *sources: Path | Run) -> str:
    try:
        return draw(*sources)
    except ValueError as error:
        raise _unusable(error) from None


def _unusable(error: Exception) -> InvalidInputError:
    problem = N_("cannot be used: {error}").format(error=error)
    return InvalidInputError("FILE", problem, "Pass a recording or a YAML file")


def _differences(one: str, other: str) -> Iterator[tuple[str, str]]:
    """Yield the sentences of two answers, each with `-`, `+` or a space."""
    a, b = ([each.strip() for each in sentences(text) if each.strip()] for text in (one, other))
    for left, right in differences(a, b):
        if left == right:
            yield from ((" ", each) for each in left)
        else:
            yield from (("-", each) for each in left)
            yield from (("+", each) for each in right)


def _step(steps: Sequence[Step], at: int | None) -> Text:
    return Text() if at is None else step_text(replace(steps[at], output="", reasoning=""))


def _seconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds / 1000:.1f} s"


def _tokens(result: AppResult) -> str:
    usage = result.usage
    return format_tokens(usage.input_tokens, usage.output_tokens) if usage.models else ""
