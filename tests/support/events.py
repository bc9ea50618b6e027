"""The events of a run in a form that does not depend on how deltas were joined."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from bailian_apps import AppEvent, ReasoningDelta, StepDelta, TextDelta


def rows(events: list[AppEvent]) -> list[Any]:
    """The kinds of events in order; a row of deltas as what must not change in it."""
    found: list[Any] = []
    for is_delta, row in groupby(events, lambda each: hasattr(each, "text")):
        if not is_delta:
            found += [(type(each), getattr(each, "step", None)) for each in row]
            continue
        deltas: list[Any] = []
        outputs: dict[str, str] = {}
        for each in row:
            if isinstance(each, StepDelta):
                outputs[each.step_id] = outputs.get(each.step_id, "") + each.text
            elif isinstance(each, (TextDelta, ReasoningDelta)):
                deltas += [(type(each), getattr(each, "step_id", None), sign) for sign in each.text]
        found.append((deltas, outputs, list(outputs)))
    return found
