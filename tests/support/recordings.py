"""The recordings in tests/recordings, read without the emulator's help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "recordings"
ALL = sorted(path for path in FOLDER.iterdir() if path.suffix in (".sse", ".json", ".jsonl"))

MODES = {
    "workflow-message-format.sse": "message_format",
    "workflow-message-format-text-in-completion-frame.sse": "message_format",
    "workflow-message-format-arrival-times.jsonl": "message_format",
    "workflow-message-format-plus-elided.sse": "message_format_plus",
}
"""The `flow_stream_mode` of those recordings that were asked with one."""

UNFINISHED = {
    "agent-deep-thinking-elided-head.sse",
    "agent-mcp-thoughts-third-party-abridged.json",
    "workflow-deep-thinking-streamed-end-head.jsonl",
    "workflow-deep-thinking-streamed-end-tail.jsonl",
    "workflow-full-thoughts-retrieval-node-one-frame.json",
}
"""Recordings whose page left out the frame that ends the run."""

ERRORS = {"error-app-id-invalid-elided.sse"}


def frames(name: str) -> list[dict[str, Any]]:
    """The answer objects of a recording, in order."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    if name.endswith(".sse"):
        return [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]
    values = (
        [json.loads(line) for line in text.splitlines()]
        if name.endswith("l")
        else [json.loads(text)]
    )
    values = [value.get("data", value) for value in values]
    return [value if "output" in value else {"output": value} for value in values]


def expected_text(name: str) -> str:
    """The answer: the last frame's text, or an agent's deltas joined."""
    outputs = [frame["output"] for frame in frames(name) if "output" in frame]
    last = outputs[-1].get("text")
    return last or "".join(output.get("text") or "" for output in outputs)


def node_texts(name: str) -> dict[str, str]:
    """Per workflow node, its `result` deltas joined, counted from the raw recording."""
    texts: dict[str, str] = {}
    for frame in frames(name):
        for thought in frame.get("output", {}).get("thoughts") or []:
            node = json.loads(thought["response"]) if set(thought) == {"response"} else {}
            if "nodeId" in node:
                result = json.loads(node.get("nodeResult") or "{}").get("result", "")
                texts[node["nodeId"]] = texts.get(node["nodeId"], "") + result
    return texts
