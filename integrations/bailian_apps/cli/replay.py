"""`bailian-apps replay`: shows a recorded run, or what differs between two."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bailian_apps.app import BailianApp
from bailian_apps.cli.run import run
from bailian_apps.cli.view import error_message, print_note
from bailian_apps.core.decoder import Decoder
from bailian_apps.core.errors import BailianError, InvalidInputError
from bailian_apps.core.events import TextDelta
from bailian_apps.core.result import AppResult, Step
from bailian_apps.emulator import Emulator, Recording, load_apps
from bailian_apps.emulator.apps.app import AppSource
from bailian_apps.terminal import format_tokens, step_text

_SENTENCE_END = re.compile(r"(?<=[。！？\n])|(?<=[.!?])(?=\s)")


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
        path: The file.
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
    with _played(_source(path, app_id), pace) as (app, prompt):
        run(app, prompt, console, {}, output=output, steps=steps, html=html)


def compare(one: Path, other: Path, console: Console, *, app_id: str | None) -> None:
    """Print two runs beside each other, and what differs in their answers.

    Args:
        one: The file of a run, as for `replay`.
        other: That of another one.
        console: Where to print.
        app_id: Which app of a file that has several.

    Raises:
        InvalidInputError: A file cannot be used.
    """
    a, b = (_play(path, app_id) for path in (one, other))
    if not console.is_terminal:
        console.width = 160
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="dim", no_wrap=True, min_width=10)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_row("", Text(f"A  {one.name}", "bold"), Text(f"B  {other.name}", "bold"))
    for name, left, right in [
        ("time", _seconds(a.ended_ms), _seconds(b.ended_ms)),
        ("first text", _seconds(a.first_text_ms), _seconds(b.first_text_ms)),
        ("tokens", _tokens(a.result), _tokens(b.result)),
        ("error", a.error, b.error),
    ]:
        if left or right:
            table.add_row(name, Text(left), Text(right))
    for at, (left, right) in enumerate(_aligned(a.result.steps, b.result.steps)):
        table.add_row("" if at else "steps", _step(left), _step(right))
    console.print(table)
    console.print()
    for mark, text in _differences(a.result.text, b.result.text):
        style = {"-": "red", "+": "green"}.get(mark, "dim")
        print_note(console, f"{mark} {text}", style)


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
        raise InvalidInputError(
            "FILE", f"cannot be used: {error}", "Pass a recording or a YAML file"
        ) from None
    if len(apps) == 1 and (app_id is None or one_of_two):
        return next(iter(apps.values()))
    if app_id not in apps:
        problem = "is missing: the file has several" if app_id is None else "is not in the file"
        raise InvalidInputError("--app", problem, f"Pass one of {', '.join(apps)}")
    return apps[app_id]


@contextmanager
def _played(source: AppSource, pace: float) -> Generator[tuple[BailianApp, str]]:
    """Serve an app; yield it as one to call, and the prompt to call it with."""
    try:
        emulator = Emulator(apps={"replay": source}, pace=pace)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            "FILE", f"cannot be used: {error}", "Pass a recording or a YAML file"
        ) from None
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


def _aligned(
    one: Sequence[Step], other: Sequence[Step]
) -> Iterator[tuple[Step | None, Step | None]]:
    """Yield the steps of two runs in pairs of the same name; None beside one without a pair."""
    matcher = SequenceMatcher(None, [s.name for s in one], [s.name for s in other], autojunk=False)
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal":
            yield from zip(one[a:a_end], other[b:b_end], strict=True)
        else:
            yield from ((step, None) for step in one[a:a_end])
            yield from ((None, step) for step in other[b:b_end])


def _differences(one: str, other: str) -> Iterator[tuple[str, str]]:
    """Yield the sentences of two answers, each with `-`, `+` or a space."""
    a, b = (
        [each.strip() for each in _SENTENCE_END.split(text) if each.strip()]
        for text in (one, other)
    )
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        if kind == "equal":
            yield from ((" ", each) for each in a[start:end])
        else:
            yield from (("-", each) for each in a[start:end])
            yield from (("+", each) for each in b[other_start:other_end])


def _step(step: Step | None) -> Text:
    return Text() if step is None else step_text(replace(step, output="", reasoning=""))


def _seconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds / 1000:.1f} s"


def _tokens(result: AppResult) -> str:
    usage = result.usage
    return format_tokens(usage.input_tokens, usage.output_tokens) if usage.models else ""
