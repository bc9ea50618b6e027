"""A run as it is drawn: rows with bars, already in order, indented and measured. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, cast

from bailian_apps.core.attachments import with_short_images
from bailian_apps.core.redaction import redact_value
from bailian_apps.core.result import EXECUTING, PAUSE, SKIP, STOP, SUCCESS, AppResult, Step
from bailian_apps.inspector.drawable import as_json, drawable, shown_text

JsonObject: TypeAlias = Mapping[str, Any]
TimedFrames: TypeAlias = "Sequence[tuple[float, JsonObject]]"

Category: TypeAlias = Literal["llm", "node", "tool", "mcp", "retrieval", "reasoning", "answer"]
"""What a row shows by its icon and colour."""

Timing: TypeAlias = Literal["arrival", "reported", "none"]
"""What the bars mean: when things arrived; how long the cloud says they took; there are none."""

_TOOL_NODES = ("plugin", "api", "appcomponent")
_MARKS = {EXECUTING: "…", SUCCESS: "✓", SKIP: "–", PAUSE: "‖", STOP: "■"}
_RUN_MARKS = {"done": "✓", "failed": "✗", "unfinished": "…"}
_STATES = {EXECUTING: "running", SUCCESS: "done", SKIP: "skipped", PAUSE: "paused", STOP: "stopped"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run and what is known around it.

    Attributes:
        result: What the app did; of a run that failed, what had arrived.
        name: What to call it, such as a file's name.
        app_id: The app.
        prompt: What it was asked.
        request: The body of the request.
        error: Why it failed: the error's code, if it has one, and its message.
        finished: Whether it came to its end.
    """

    result: AppResult
    name: str | None = None
    app_id: str | None = None
    prompt: str | None = None
    request: JsonObject | None = None
    error: tuple[str | None, str] | None = None
    finished: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar, in percent of the axis.

    Attributes:
        start: Where it begins.
        width: How long it is.
        first: Where the first words came; None if there were none.
        reported: Whether its length is the cloud's own time, and not that of the arrival.
    """

    start: float
    width: float
    first: float | None = None
    reported: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One step as it is drawn.

    Attributes:
        step: The step, with its secrets masked; None for the answer's own row.
        name: Its name.
        category: Its icon and colour.
        level: How deep it is indented, from 1.
        has_children: Whether steps below it ran in it.
        state: One word for its status, for readers; `failed` for all that failed.
        mark: One character for its status.
        bar: When it ran; None if nobody knows, or it never did.
        ms: How long it took; None if nobody knows, or it never ran.
        first: How long until its first words, in words.
        span: From when to when, in words.
        tokens: Its models' tokens in and out.
    """

    step: Step | None
    name: str
    category: Category
    level: int = 1
    has_children: bool = False
    state: str = "done"
    mark: str = "✓"
    bar: Bar | None = None
    ms: float | None = None
    first: str = ""
    span: str = ""
    tokens: str = ""

    @property
    def took(self) -> str:
        """How long it took, in words."""
        return "" if self.ms is None else format_ms(self.ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The time axis: a round number of milliseconds, in equal parts."""

    end: float
    parts: int

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The place of each mark in percent, with its text."""
        return [
            (100 * at / self.parts, format_ms(self.end * at / self.parts, tick=True))
            for at in range(self.parts)
        ]

    def percent(self, ms: float) -> float:
        """Where a moment is."""
        return round(100 * max(0.0, min(ms, self.end)) / self.end, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A run as it is drawn.

    Attributes:
        run: The run.
        rows: Its steps, each below the one that it ran in, and the answer.
        timing: What the bars mean.
        axis: Their scale; None without bars.
        state: One word for the run: `done`, `failed` or `unfinished`.
        request: The request's body with its secrets masked, as JSON.
        models: The tokens of each model, in and out.
    """

    run: Run
    rows: tuple[Row, ...]
    timing: Timing
    axis: Axis | None
    state: str
    request: str | None
    models: tuple[tuple[str, int, int], ...] = field(default=())

    @property
    def mark(self) -> str:
        """One character for its state."""
        return _RUN_MARKS[self.state]

    @property
    def title(self) -> str:
        """What to call it."""
        return self.run.name or self.run.app_id or "Run"

    @property
    def count(self) -> int:
        """How many steps it has."""
        return sum(row.step is not None for row in self.rows)


def view_of(run: Run) -> View:
    """Return a run as it is drawn."""
    run = _drawable(run)
    result, steps = run.result, run.result.steps
    timing: Timing = "none"
    if any(step.started_ms is not None for step in steps) or not steps:
        timing = "arrival" if steps or result.elapsed_ms is not None else "none"
    elif any(step.duration_ms for step in steps):
        timing = "reported"
    axis = _axis(steps, result, timing)
    rows = [_row(*each, result=result, timing=timing, axis=axis) for each in _tree(steps)]
    if timing == "arrival" and axis and not any(step.is_answer for step in steps):
        rows += _answer_row(result, axis)
    state = "failed" if run.error else "done" if run.finished else "unfinished"
    models: dict[str, tuple[int, int]] = {}
    for model in result.usage.models:
        given, written = models.get(model.model_id, (0, 0))
        models[model.model_id] = (given + model.input_tokens, written + model.output_tokens)
    return View(
        run=run,
        rows=tuple(rows),
        timing=timing,
        axis=axis,
        state=state,
        request=_request_text(run.request),
        models=tuple((name, *counts) for name, counts in models.items()),
    )


def format_ms(ms: float, *, tick: bool = False) -> str:
    """A duration in words: `310 ms`, `1.24 s`, `2 m 05 s`."""
    if ms < 999.5:
        return "0" if tick and not ms else f"{ms:.0f} ms"
    if ms < 59_950:
        text = f"{ms / 1000:.2f}" if ms < 9_995 else f"{ms / 1000:.1f}"
        return f"{text.rstrip('0').rstrip('.') if tick else text} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} m {seconds:02} s"


def _drawable(run: Run) -> Run:
    error = run.error and (_shown(run.error[0]), shown_text(run.error[1]))
    return replace(
        run,
        result=drawable(run.result),
        name=_shown(run.name),
        app_id=_shown(run.app_id),
        prompt=_shown(run.prompt),
        error=error,
    )


def _shown(text: str | None) -> str | None:
    return None if text is None else shown_text(text)


def _request_text(request: JsonObject | None) -> str | None:
    if not request:
        return None
    body = cast("dict[str, Any]", redact_value(dict(request)))
    given: object = body.get("input")
    if isinstance(given, dict):
        body = body | {"input": with_short_images(cast("dict[str, Any]", given))}
    return as_json(body)


def _tree(steps: Sequence[Step]) -> Iterator[tuple[Step, int, bool]]:
    """Yield the steps, each with its level and whether others follow below it.

    Among siblings, the order is that in which they began. A step whose parent is unknown, or below
    itself, is at the top.
    """
    known = {step.id: step for step in steps}
    below: dict[str | None, list[Step]] = {}
    for step in steps:
        below.setdefault(_parent(step, known), []).append(step)
    waiting = [(step, 1) for step in reversed(below.get(None, ()))]
    while waiting:
        step, level = waiting.pop()
        children = below.pop(step.id, [])
        yield step, level, bool(children)
        waiting += [(child, level + 1) for child in reversed(children)]


def _parent(step: Step, known: Mapping[str, Step]) -> str | None:
    seen = {step.id}
    above = step.parent_id
    while above is not None and above in known:
        if above in seen:
            return None
        seen.add(above)
        above = known[above].parent_id
    return step.parent_id if step.parent_id in known else None


def _category(step: Step) -> Category:
    kind = (step.type or "").casefold()
    if step.is_answer:
        return "answer"
    if step.kind == "reasoning":
        return "reasoning"
    if kind == "mcp":
        return "mcp"
    if step.span_kind == "retrieval" or step.kind == "retrieval":
        return "retrieval"
    if step.kind == "tool" or kind in _TOOL_NODES:
        return "tool"
    return "llm" if "llm" in kind else "node"


def _ended(step: Step, result: AppResult) -> float | None:
    """When a step ended; of one that never did, when the run did."""
    return step.ended_ms if step.ended_ms is not None else result.elapsed_ms


def _axis(steps: Sequence[Step], result: AppResult, timing: Timing) -> Axis | None:
    if timing == "none":
        return None
    if timing == "reported":
        moments = [step.duration_ms or 0.0 for step in steps]
    else:
        moments = [result.elapsed_ms or 0.0]
        moments += [_ended(step, result) or step.started_ms or 0.0 for step in steps]
    end = max(moments)
    if end < 1e-3:
        end = 1.0
    power = 10.0 ** math.floor(math.log10(end / 4))
    part = next(power * m for m in (1, 2, 2.5, 5, 10) if math.ceil(end / (power * m)) <= 8)
    parts = max(2, math.ceil(end / part))
    return Axis(end=parts * part, parts=parts)


def _row(
    step: Step,
    level: int,
    has_children: bool,
    *,
    result: AppResult,
    timing: Timing,
    axis: Axis | None,
) -> Row:
    state = "failed" if step.failed else _STATES[step.status]
    bar: Bar | None = None
    ms: float | None = None
    first = span = ""
    if timing == "reported" and step.duration_ms is not None and axis is not None:
        ms = step.duration_ms
        bar = Bar(start=0, width=axis.percent(step.duration_ms), reported=True)
    elif timing == "arrival" and axis is not None and step.started_ms is not None:
        start, end = step.started_ms, _ended(step, result) or step.started_ms
        arrived_whole = end - start < 1 < (step.duration_ms or 0)
        if arrived_whole:  # it was listed when it was over
            start = max(0.0, end - (step.duration_ms or 0))
        if step.status != SKIP:
            ms, span = end - start, f"{format_ms(start)} – {format_ms(end)}"
            at = axis.percent(start)
            spoke = None if arrived_whole else step.first_token_ms
            bar = Bar(
                start=at,
                width=round(axis.percent(end) - at, 3),
                first=None if spoke is None else axis.percent(spoke),
                reported=arrived_whole,
            )
            first = "" if spoke is None else format_ms(spoke - start)
    elif step.duration_ms is not None:
        ms = step.duration_ms
    usage = step.usage
    return Row(
        step=step,
        name=step.name,
        category=_category(step),
        level=level,
        has_children=has_children,
        state=state,
        mark="✗" if step.failed else _MARKS[step.status],
        bar=bar,
        ms=ms,
        first=first,
        span=span,
        tokens=f"{usage.input_tokens:,} → {usage.output_tokens:,}" if usage else "",
    )


def _answer_row(result: AppResult, axis: Axis) -> list[Row]:
    start, end = result.first_token_ms, result.elapsed_ms
    if start is None or end is None:
        return []
    at = axis.percent(start)
    return [
        Row(
            step=None,
            name="Answer",
            category="answer",
            bar=Bar(start=at, width=round(axis.percent(end) - at, 3), first=at),
            ms=end - start,
            span=f"{format_ms(start)} – {format_ms(end)}",
        )
    ]
