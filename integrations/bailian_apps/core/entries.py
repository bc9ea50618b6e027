"""Readers of what a frame lists: nodes of a workflow and actions of an agent. Pure.

They know where the wire has each value, and nothing of the frames before; `steps` does. The files
named here are in tests/recordings.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, cast

from bailian_apps.core.result import EXECUTING, SUCCESS, StepKind
from bailian_apps.core.values import (
    CallInput,
    JsonObject,
    Piece,
    as_text,
    first_text,
    is_other_json,
    json_object,
    member_text,
    message_content,
    milliseconds,
    node_result,
    text_or_none,
)

Source: TypeAlias = Literal["thoughts", "message"]
"""Where a node is listed: in `thoughts`, or in `workflow_message`."""

# What an agent's entry has and a workflow's has not (agent-mcp-thoughts-third-party-abridged.json).
_AGENT_KEYS = ("action_type", "action", "thought")
_NAME_KEYS = ("action_name", "action")
# By `action_type`; every other type is a tool: `api`, `mcp`, …
_AGENT_KINDS: dict[str, StepKind] = {
    "reasoning": "reasoning",
    "agentRag": "retrieval",
    "response": "response",
}
# A search whose type is `api` (the tests of the official SDK).
_SEARCH_ACTIONS = frozenset({"searchDocument"})
_NO_ERROR = frozenset({EXECUTING, SUCCESS})
# No failed node was recorded. `errorInfo` and `errorCode` are those of the vendor's open-source
# platform, which has the same names for the other fields.
_ERROR_KEYS = (
    *("errorInfo", "nodeErrorMsg", "errorMessage", "errorMsg", "error"),
    *("error_info", "node_error_msg", "error_message"),
)
_ERROR_CODE_KEYS = ("errorCode", "error_code")


class Node(NamedTuple):
    """A workflow's node, as one frame lists it, with the newest piece of what it says."""

    source: Source
    id: str
    name: str | None
    type: str | None
    status: str
    piece: Piece
    duration_ms: float | None
    error: str | None
    parent_id: str | None


def node_of_thought(raw: object, position: int) -> Node | None:
    """Read a node from an entry of `thoughts` (workflow-timed.jsonl).

    Args:
        raw: The entry's `response`, which is a JSON string.
        position: Its index in the list, for a node without id and name.

    Returns:
        The node; None if the entry is not one.
    """
    node = json_object(raw)
    if node is None or not ("nodeId" in node or "nodeStatus" in node):
        return None
    name = text_or_none(node.get("nodeName"))
    result = node.get("nodeResult")
    if result is None:
        result = ""
    elif not isinstance(result, str):  # not recorded: its text on the wire is in the entry's
        result = member_text(str(raw), "nodeResult")
    status = text_or_none(node.get("nodeStatus")) or EXECUTING
    return Node(
        source="thoughts",
        id=text_or_none(node.get("nodeId")) or name or f"node-{position}",
        name=name,
        type=text_or_none(node.get("nodeType")),
        status=status,
        piece=node_result(result),
        duration_ms=milliseconds(node.get("nodeExecTime")),
        error=None if status in _NO_ERROR else _error(node),
        parent_id=text_or_none(node.get("parentNodeId")),
    )


def node_of_message(message: JsonObject, *, json_content: bool) -> Node:
    """Read the node of a `workflow_message` (workflow-message-format.sse).

    Args:
        message: The `workflow_message`.
        json_content: See `StreamMode.json_content`. If False, JSON in the content is the app's
            own text.
    """
    fields = message.get("message")
    content = cast("JsonObject", fields).get("content") if type(fields) is dict else None
    type_ = text_or_none(message.get("node_type"))
    if not isinstance(content, str):
        piece = Piece(as_text(content), "", "value")
    else:
        piece = message_content(content, type_) if json_content else Piece(content, "")
    name = text_or_none(message.get("node_name"))
    status = text_or_none(message.get("node_status")) or EXECUTING
    # The API's page has a bool, the SDK's model a str.
    if status == EXECUTING and message.get("node_is_completed") in (True, "true"):
        status = SUCCESS
    return Node(
        source="message",
        id=text_or_none(message.get("node_id")) or name or "node-0",
        name=name,
        type=type_,
        status=status,
        piece=piece,
        duration_ms=milliseconds(message.get("node_exec_time")),
        error=None if status in _NO_ERROR else _error(message),
        parent_id=text_or_none(message.get("parent_node_id")),
    )


def _error(fields: JsonObject) -> str | None:
    error, code = first_text(fields, *_ERROR_KEYS), first_text(fields, *_ERROR_CODE_KEYS)
    return f"{code}: {error}" if code and error else error or code


def is_action(entry: JsonObject) -> bool:
    """Whether an entry of `thoughts` is an agent's."""
    return any(entry.get(key) for key in _AGENT_KEYS)


def action_head(entry: JsonObject) -> tuple[StepKind, str | None, str | None]:
    """Read what an agent's entry is: kind, type and name."""
    action = text_or_none(entry.get("action"))
    type_ = text_or_none(entry.get("action_type")) or action
    name = text_or_none(entry.get("action_name")) or action
    call = "retrieval" if action in _SEARCH_ACTIONS else "tool"
    return _AGENT_KINDS.get(type_ or "reasoning", call), type_, name


def another_call(before: object, entry: JsonObject, given: CallInput, result: str) -> bool:
    """Whether an agent's entry is another call than the one that stood in its place.

    A frame may list only the newest entry. A call keeps its name, and its arguments once it has a
    result; a result that is a whole JSON value does not go on with another one. That it has no
    arguments or no result is not certain, where what was listed before is left out.

    Args:
        before: The entry of the frame before.
        entry: The entry, which has changed.
        given: The arguments so far.
        result: The result so far.
    """
    call = cast("JsonObject", before) if isinstance(before, dict) else {}
    if any(call.get(key) and entry.get(key) and call[key] != entry[key] for key in _NAME_KEYS):
        return True
    if not result:
        return False
    return given.differs_from(entry) or is_other_json(result, as_text(entry.get("observation")))


def action_texts(kind: StepKind, entry: JsonObject) -> tuple[str, str]:
    """Read the output and the reasoning of an agent's entry."""
    if kind == "reasoning":
        # `response` repeats `thought` (agent-deep-thinking-elided-head.sse); one may be missing.
        return "", as_text(entry.get("thought") or entry.get("response"))
    output = as_text(entry.get("observation"))
    if kind == "response":
        output = output or as_text(entry.get("response"))
    return output, as_text(entry.get("reasoning_content") or entry.get("thought"))
