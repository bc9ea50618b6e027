"""Apps that think: between tags in their answers, in agents' steps, and in nodes at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bailian_apps.emulator import Call, Node, Workflow

PIECES = ["<thi", "nk>Rain.</th", "ink>\n\nTake tea<re", "f>[1]</r", "ef>!"]
REFERENCE = {"index_id": "1", "title": "Tea", "doc_id": "d", "doc_url": "https://tea",
             "text": "Tea is warm."}  # fmt: skip


def cut_up(call: Call) -> Iterator[dict[str, Any]]:
    """An agent whose tags and citation marks are divided between frames."""
    for piece in PIECES:
        output = {"session_id": call.session_id, "finish_reason": "null", "text": piece}
        yield {"output": output, "request_id": "r"}
    output = {"session_id": call.session_id, "finish_reason": "stop", "doc_references": [REFERENCE]}
    yield {"output": output, "request_id": "r"}


def thinker(call: Call) -> Iterator[dict[str, Any]]:
    """An agent that thinks in its answer, apart from it, and in its answer again."""
    for text, thought in (
        ("<think>one", ""), ("</think>A", ""), ("", "two"), ("B<think>three</think>C", "")
    ):  # fmt: skip
        thoughts = [{"action_type": "reasoning", "thought": thought}]
        output = {"session_id": call.session_id, "text": text, "thoughts": thoughts}
        yield {"output": output, "request_id": "r"}
    output = {"session_id": call.session_id, "finish_reason": "stop", "text": ""}
    yield {"output": output, "request_id": "r"}


def parallel(call: Call) -> Iterator[dict[str, Any]]:
    """A workflow whose second node thinks first."""
    for thought in ({"a": "", "b": "one"}, {"a": "two", "b": ""}):
        nodes = [
            {"nodeId": name, "nodeType": "LLM", "nodeStatus": "executing"}
            | {"nodeResult": json.dumps({"result": "", "reasoningContent": text})}
            for name, text in thought.items()
        ]
        thoughts = [{"response": json.dumps(node)} for node in nodes]
        yield {"output": {"session_id": "s", "thoughts": thoughts}, "request_id": "r"}
    yield {"output": {"session_id": "s", "finish_reason": "stop", "text": "AB"}, "request_id": "r"}


def node(id_: str, status: str, result: str = "", **more: Any) -> dict[str, str]:
    """One node, as `thoughts` lists it."""
    fields = {"nodeId": id_, "nodeName": f"节点 {id_}", "nodeType": "LLM", "nodeStatus": status}
    inner = {"result": result, "reasoningContent": more.pop("reasoning", "")}
    return {"response": json.dumps({**fields, **more, "nodeResult": json.dumps(inner)})}


def frame(*thoughts: Any, finish: str = "null", **output: Any) -> dict[str, Any]:
    """A frame that lists these `thoughts`."""
    return {"output": {"thoughts": list(thoughts), "finish_reason": finish, **output}}


A, B = "I look at the map.", "我先看看天气。"
THINKING = Workflow(
    nodes=[
        Node(name="map", after=[], reasoning=A, output="a", chunk_ms=20),
        Node(name="weather", after=[], reasoning=B, output="b", chunk_ms=20),
        Node(name="answer", after=["map", "weather"], output="ok"),
        Node(name="end", type="End", mirrors="answer"),
    ]
)
