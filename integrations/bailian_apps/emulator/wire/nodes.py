"""Workflow nodes in `thoughts`, which are JSON nested in JSON.

An entry's `response` holds a node, and the node's `nodeResult` holds its result (see
tests/recordings/workflow-two-llm.sse). A `response` that is not such a JSON object is an agent's
plain text.
"""

from collections.abc import Iterator

from bailian_apps.emulator.wire.frames import JsonObject, as_list, as_object, parse_object, to_json

RUNNING = "executing"
"""The `nodeStatus` of a node that is still running."""


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


def read_result(node: JsonObject) -> JsonObject:
    """Return a node's parsed `nodeResult`; a result that is not JSON becomes its `result`."""
    raw = node.get("nodeResult")
    result = parse_object(raw)
    if result is not None:
        return result
    return {"result": raw} if isinstance(raw, str) else {}


def text_of(result: JsonObject) -> str:
    """Return the text that a node's result adds to its output."""
    value = result.get("result", "")
    return value if isinstance(value, str) else to_json(value)
