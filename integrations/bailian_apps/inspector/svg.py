"""The waterfall alone, as an SVG image for READMEs and chats: no script, no links, no fonts."""

from __future__ import annotations

from typing import Any

from bailian_apps.inspector.page import environment, text_width
from bailian_apps.inspector.view import Row, View, format_ms

_WIDTH, _NAMES, _TIMES, _MARGIN = 880, 250, 84, 16
_TOP, _ROW = 60, 28
_MOST_ROWS = 60
_INDENT, _DEEPEST = 16, 6


def waterfall(view: View, *, title: str | None = None) -> str:
    """Return a run's steps as an image, at most 60 of them."""
    title = view.title if title is None else title
    rows = view.rows[:_MOST_ROWS]
    left_out = len(view.rows) - len(rows)
    left, width = _NAMES, _WIDTH - _NAMES - _TIMES - _MARGIN
    ticks = view.axis.ticks if view.axis else []
    svg = (
        environment()
        .get_template("waterfall.svg")
        .render(
            title=_cut(title, 50),
            summary=_summary(view),
            width=_WIDTH,
            height=_TOP + _ROW * len(rows) + (34 if left_out else 12),
            ticks=[(round(left + width * at / 100, 1), text) for at, text in ticks],
            rows=[_drawn(row, at, left, width) for at, row in enumerate(rows)],
            left_out=left_out,
        )
    )
    return "".join(line for line in svg.splitlines(keepends=True) if line.strip())


def _drawn(row: Row, at: int, left: float, width: float) -> dict[str, Any]:
    bar = row.bar
    x = _MARGIN + _INDENT * min(row.level - 1, _DEEPEST)
    mark = "" if row.state == "done" else f"{row.mark} "
    drawn: dict[str, Any] = {
        "category": row.category,
        "state": row.state,
        "x": x,
        "y": _TOP + _ROW * at,
        "label": _cut(mark + row.name, (_NAMES - x - 30) // 7),
        "took": row.took,
        "reported": bar is not None and bar.reported,
        "wait": None,
        "run": None,
    }
    if bar is None:
        return drawn
    start, end = (left + width * part / 100 for part in (bar.start, bar.start + bar.width))
    if bar.first is not None and bar.first > bar.start:
        first = left + width * bar.first / 100
        drawn["wait"] = (round(start, 1), round(max(first - start, 1), 1))
        start = first
    drawn["run"] = (round(start, 1), round(max(end - start, 1.5), 1))
    return drawn


def _summary(view: View) -> str:
    result = view.run.result
    parts = [view.mark]
    if result.elapsed_ms is not None:
        parts.append(format_ms(result.elapsed_ms))
    if view.models:
        counts = (result.usage.input_tokens, result.usage.output_tokens)
        parts.append("{:,} → {:,} tokens".format(*counts))
    return "  ·  ".join(parts)


def _cut(text: str, size: int) -> str:
    """Cut a text to a width in narrow characters."""
    used = 0
    for at, character in enumerate(text):
        used += text_width(character)
        if used > size:
            return text[: max(0, at - 1)].rstrip() + "…"
    return text
