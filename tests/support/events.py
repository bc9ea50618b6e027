"""What the events of a run say, however their deltas were joined."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from bailian_apps import AppEvent, ReasoningDelta, StepDelta, TextDelta


def rows(events: list[AppEvent]) -> list[Any]:
    """The kinds of events in order; a row of deltas as what must not change in it."""
    told: list[Any] = []
    for is_delta, row in groupby(events, lambda each: hasattr(each, "text")):
        if not is_delta:
            told += [(type(each), getattr(each, "step", None)) for each in row]
            continue
        said: list[Any] = []
        outputs: dict[str, str] = {}
        for each in row:
            if isinstance(each, StepDelta):
                outputs[each.step_id] = outputs.get(each.step_id, "") + each.text
            elif isinstance(each, (TextDelta, ReasoningDelta)):
                said += [(type(each), getattr(each, "step_id", None), sign) for sign in each.text]
        told.append((said, outputs, list(outputs)))
    return told
