"""What an app did, as LangChain's standard content blocks. Pure.

| the app | block |
|---|---|
| reasoning | `reasoning` |
| a tool, plugin or MCP call; a retrieval | `server_tool_call` and `server_tool_result` |
| a workflow node | `non_standard`, its value a dict of `type: "bailian_step"` |
| answer text | `text`, with a `citation` annotation for each cited document |

`<ref>[1]</ref>` stays in the text; the citation whose `extras["index_id"]` is `"1"` is meant.

The same function makes the blocks of a chunk as it streams, of a whole message, and of what
`output_version="v1"` stores. A chunk's blocks carry an `index`, by which LangChain merges them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import ContentBlock

from bailian_apps.core.result import DocReference, Step

PROVIDER = "bailian"
"""The `model_provider` of an app's answers."""

STEP_TYPE = "bailian_step"
"""The type of a workflow node's block, and the name of the custom event."""


def step_entry(step: Step) -> dict[str, Any]:
    """A step as JSON values, without what is empty.

    Its reasoning is left out: it is part of the message's own.
    """
    entry = step.to_dict(compact=True)
    entry.pop("reasoning", None)
    return entry


def reference_entry(reference: DocReference) -> dict[str, Any]:
    """A cited document as JSON values, without what is empty."""
    return reference.to_dict(compact=True)


def to_blocks(
    content: str | Sequence[object], extra: Mapping[str, Any], *, indexed: bool = False
) -> list[ContentBlock]:
    """Make the blocks of a message or of a chunk.

    Args:
        content: Its content.
        extra: Its `additional_kwargs`.
        indexed: Whether the blocks are a chunk's, which need an `index` to be merged.

    Returns:
        Reasoning first, then steps, then text.
    """
    blocks: list[dict[str, Any]] = []
    if reasoning := extra.get("reasoning_content"):
        blocks.append({"type": "reasoning", "reasoning": reasoning, "index": "lc_reasoning"})
    for entry in extra.get("steps", ()):
        blocks += step_blocks(entry)
    references = extra.get("references")
    if isinstance(content, str):
        if content or references:
            blocks.append({"type": "text", "text": content, "index": "lc_text"})
    else:
        blocks += [_as_block(item) for item in content]
    if references:
        text = next((b for b in reversed(blocks) if b["type"] == "text"), None)
        if text is not None:
            text["annotations"] = [citation(entry) for entry in references]
    if not indexed:
        for block in blocks:
            block.pop("index", None)
    return cast("list[ContentBlock]", blocks)


def citation(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The standard citation for an entry that `reference_entry` made."""
    standard = {
        "type": "citation",
        "title": entry.get("title") or entry.get("doc_name"),
        "url": entry.get("doc_url"),
        "cited_text": entry.get("text"),
        "extras": {
            key: entry[key]
            for key in ("index_id", "doc_id", "doc_name", "page_number", "images")
            if key in entry
        },
    }
    return {key: value for key, value in standard.items() if value}


def step_blocks(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The blocks for an entry that `step_entry` made, with an `index`: one, or call and result."""
    index = f"lc_step_{entry['id']}"
    if entry["kind"] == "node":
        value = {**entry, "type": STEP_TYPE, "node_type": entry.get("type")}
        return [{"type": "non_standard", "value": value, "index": index}]
    call = {
        "type": "server_tool_call",
        "id": entry["id"],
        "name": entry["name"],
        "args": as_arguments(entry.get("input")),
        "index": index,
    }
    result = {
        "type": "server_tool_result",
        "tool_call_id": entry["id"],
        "status": "error" if entry.get("error") else "success",
        "output": entry.get("error") or entry.get("output", ""),
        "index": f"{index}_result",
    }
    return [call, result]


def as_arguments(value: object) -> dict[str, Any]:
    """A step's input as named arguments."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    return {} if value is None else {"input": value}


def as_text(value: object) -> str:
    """A step's input as text."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _as_block(item: object) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(cast("Mapping[str, Any]", item))
    return {"type": "text", "text": str(item)}


def _translate(message: AIMessage) -> list[ContentBlock]:
    return to_blocks(cast("str | list[object]", message.content), message.additional_kwargs)


def _translate_chunk(message: AIMessageChunk) -> list[ContentBlock]:
    return to_blocks(
        cast("str | list[object]", message.content), message.additional_kwargs, indexed=True
    )


register_translator(PROVIDER, _translate, _translate_chunk)
