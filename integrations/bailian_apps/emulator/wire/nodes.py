"""Reads the nodes of a workflow out of `thoughts`, where JSON is nested in JSON in JSON.

An entry's `response` is a node, and the node's `nodeResult` is its result. What does not parse is
no node: an agent's `response` is plain text.
"""

from collections.abc import Iterator

from bailian_apps.emulator.wire.frames import JsonObject, as_list, as_object, parse_object, to_json

RUNNING = "executing"
"""The status of a node that is not done."""


def read_node(thought: object) -> JsonObject | None:
    """Return the workflow node that an entry of `thoughts` reports, if it reports one."""
    node = parse_object((as_object(thought) or {}).get("response"))
    return node if node is not None and "nodeId" in node else None


def nodes_of(output: JsonObject) -> Iterator[JsonObject]:
    """Yield the workflow nodes an output lists."""
    for thought in as_list(output.get("thoughts")):
        node = read_node(thought)
        if node is not None:
            yield node


def read_result(node: JsonObject) -> JsonObject:
    """Return a node's `result` and `reasoningContent`; a result that cannot be read is kept raw."""
    raw = node.get("nodeResult")
    result = parse_object(raw)
    if result is not None:
        return result
    return {"result": raw} if isinstance(raw, str) else {}


def text_of(result: JsonObject) -> str:
    """Return the text a node's result adds to its output."""
    value = result.get("result", "")
    return value if isinstance(value, str) else to_json(value)
