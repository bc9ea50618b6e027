"""Texts with places that a call fills in: `{prompt}`, `{biz_params.city}`, `{turns[-1].answer}`.

Only a name and a path between braces is a place, so JSON needs no escape; `{{prompt}}` is the text
`{prompt}`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bailian_apps.emulator.models import Call, Failure
from bailian_apps.emulator.wire.frames import as_list, as_object, to_json

PLACES = ("prompt", "biz_params", "turns", "session_id", "nodes")
"""What a place may begin with."""

_PLACE = re.compile(r"\{(\{)?(\w+)((?:\.[\w-]+|\[-?\d+\])*)\}(?(1)\})")
_STEP = re.compile(r"\.([\w-]+)|\[(-?\d+)\]")


def check_places(value: object, nodes: Iterable[str] = ()) -> None:
    """Refuse a place that no call could ever fill.

    Args:
        value: A text, or a JSON value with texts in it.
        nodes: The nodes whose output may be named here.

    Raises:
        ValueError: A place begins with an unknown name, or names a node that has not run by then.
    """
    names = list(nodes)
    for text in _texts(value):
        for escaped, root, path in _PLACE.findall(text):
            if escaped:
                continue
            place = f"{{{root}{path}}}"
            if root not in PLACES:
                raise ValueError(
                    f"{place} names nothing; a place begins with {', '.join(PLACES)}; "
                    f"write {{{place}}} for the text itself"
                )
            if root == "nodes" and (first := _STEP.match(path)) and first[1] in names:
                continue
            if root == "nodes":
                known = ", ".join(names) or "none"
                raise ValueError(f"{place} names no node that has run by then; these have: {known}")


def values_of(call: Call) -> dict[str, Any]:
    """Return what the places of a call's answer may name; the outputs of `nodes` come later."""
    return {
        "prompt": call.prompt,
        "biz_params": call.biz_params,
        "turns": [{"prompt": turn.user, "answer": turn.answer} for turn in call.turns],
        "session_id": call.session_id,
        "nodes": dict[str, str](),
    }


def fill(value: Any, values: Mapping[str, Any]) -> Any:
    """Return a text, or a JSON value with texts in it, with its places filled in.

    Raises:
        Failure: A place names something that this call does not have.
    """
    if isinstance(value, str):
        return _PLACE.sub(lambda place: _filled(place, values), value)
    fields = as_object(value)
    if fields is not None:
        return {key: fill(item, values) for key, item in fields.items()}
    return [fill(item, values) for item in as_list(value)] or value


def _filled(place: re.Match[str], values: Mapping[str, Any]) -> str:
    escaped, root, path = place.groups()
    if escaped:
        return place[0][1:-1]
    value, so_far = values[root], root
    for name, index in _STEP.findall(path):
        try:
            value = value[int(index)] if index else value[name]
        except (LookupError, TypeError) as error:
            has = ", ".join(as_object(value) or ()) or f"{len(as_list(value)) or 'no'} items"
            raise Failure(
                status=400,
                code="InvalidParameter",
                message=f"The answer of this app needs {root}{path}, but {so_far} has {has}.",
            ) from error
        so_far += f"[{index}]" if index else f".{name}"
    return value if isinstance(value, str) else to_json(value)


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    for item in [*(as_object(value) or {}).values(), *as_list(value)]:
        yield from _texts(item)
