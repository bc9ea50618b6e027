"""Placeholders in texts: `{prompt}`, `{biz_params.city}`, `{turns[-1].answer}`.

A placeholder is a name and a path in braces, so JSON needs no escaping; `{{prompt}}` is the text
`{prompt}`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bailian_apps.emulator.models import Call, Failure
from bailian_apps.emulator.wire.frames import as_list, as_object, to_json

PLACEHOLDERS = ("prompt", "biz_params", "turns", "session_id", "nodes")
"""The names that a placeholder may start with."""

_PLACEHOLDER = re.compile(r"\{(\{)?(\w+)((?:\.[\w-]+|\[-?\d+\])*)\}(?(1)\})")
_STEP = re.compile(r"\.([\w-]+)|\[(-?\d+)\]")


def check_placeholders(value: object, nodes: Iterable[str] = ()) -> None:
    """Raise ValueError if a text, or a JSON value with texts, has placeholders no call can fill.

    `nodes` are those that have run before.
    """
    names = list(nodes)
    for text in _texts(value):
        for escaped, root, path in _PLACEHOLDER.findall(text):
            if escaped:
                continue
            placeholder = f"{{{root}{path}}}"
            if root not in PLACEHOLDERS:
                raise ValueError(
                    f"unknown placeholder {placeholder}; it must start with "
                    f"{', '.join(PLACEHOLDERS)}; write {{{placeholder}}} for the literal text"
                )
            if root == "nodes" and (first := _STEP.match(path)) and first[1] in names:
                continue
            if root == "nodes":
                known = ", ".join(names) or "none"
                raise ValueError(f"{placeholder}: no such node runs before; these do: {known}")


def values_of(call: Call) -> dict[str, Any]:
    """Return the values for a call's placeholders; the caller adds the outputs of `nodes`."""
    return {
        "prompt": call.prompt,
        "biz_params": call.biz_params,
        "turns": [{"prompt": turn.user, "answer": turn.answer} for turn in call.turns],
        "session_id": call.session_id,
        "nodes": dict[str, str](),
    }


def fill(value: Any, values: Mapping[str, Any]) -> Any:
    """Return a text, or a JSON value with texts, with its placeholders filled in.

    Raises:
        Failure: The call has no value for a placeholder.
    """
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: _filled(match, values), value)
    fields = as_object(value)
    if fields is not None:
        return {key: fill(item, values) for key, item in fields.items()}
    return [fill(item, values) for item in as_list(value)] or value


def _filled(match: re.Match[str], values: Mapping[str, Any]) -> str:
    escaped, root, path = match.groups()
    if escaped:
        return match[0][1:-1]
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
