"""The events of a run in a form that does not depend on how deltas were joined."""

from __future__ import annotations

from itertools import groupby
from typing import Any, cast

from bailian_apps import AppEvent, ReasoningDelta, StepDelta, TextDelta

_TIMES = {"started_ms", "first_token_ms", "ended_ms", "elapsed_ms"}


def without_times(value: Any) -> Any:
    """A result's values without the times at which they arrived: no two runs share them."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {k: without_times(each) for k, each in fields.items() if k not in _TIMES}
    if isinstance(value, list):
        return [without_times(each) for each in cast("list[Any]", value)]
    return value


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
