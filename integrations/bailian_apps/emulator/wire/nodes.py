"""Workflow nodes in `thoughts`, which are JSON nested in JSON.

An entry's `response` holds a node, and the node's `nodeResult` holds its result (see
tests/recordings/workflow-two-llm.sse). A `response` that is not such a JSON object is an agent's
plain text.
"""

import json
import re
from collections.abc import Iterator

from bailian_apps.emulator.wire.frames import JsonObject, as_list, as_object, parse_object

RUNNING = "executing"
"""The `nodeStatus` of a node that is still running."""

SKIPPED = "skip"
"""The `nodeStatus` of a node that does not run."""

PAUSED = "pause"
"""The `nodeStatus` of a node that waits for a person."""

_RESULT = re.compile(r'\{\s*"result"\s*:\s*')


def is_answer(node_type: object) -> bool:
    """Return whether nodes of a type say the answer: End nodes, and Output nodes before them.

    The type of an Output node has not been recorded; the vendor's page has OUTPUT.
    """
    return node_type == "End" or "output" in str(node_type).lower()


def read_node(thought: object) -> JsonObject | None:
    """Return the workflow node in an entry of `thoughts`, or None."""
    node = parse_object((as_object(thought) or {}).get("response"))
    return node if node is not None and "nodeId" in node else None


def nodes_of(output: JsonObject) -> Iterator[JsonObject]:
    """Yield the workflow nodes of an output."""
    for thought in as_list(output.get("thoughts")):
        node = read_node(thought)
        if node is not None:
            yield node


def read_result(node: JsonObject) -> tuple[str, str | None]:
    """Return the text that a node's `nodeResult` adds, and its reasoning, if it has any.

    JSON is returned as it is written there, whether it is the `result` or all there is.
    """
    raw = node.get("nodeResult")
    if not isinstance(raw, str):
        return "", None
    result = parse_object(raw)
    if not result:
        return (raw if result is None else ""), None
    reasoning = result.get("reasoningContent")
    reasoning = reasoning if isinstance(reasoning, str) else None
    text = result.get("result")
    if isinstance(text, str) or (text is None and reasoning is not None):
        return text or "", reasoning
    match = _RESULT.match(raw)
    if match is None:
        return raw, reasoning
    _, end = json.JSONDecoder().raw_decode(raw, match.end())
    return raw[match.end() : end], reasoning
