"""What an app did, as LangChain's standard content blocks. Pure.

| the app | block |
|---|---|
| reasoning | `reasoning`, one for each step that thinks |
| a tool, plugin or MCP call; a retrieval | `server_tool_call` and `server_tool_result` |
| a workflow node | `non_standard`, its value a dict with `type: "bailian_step"` |
| answer text | `text`, with a `citation` annotation for each cited document |

`<ref>[1]</ref>` stays in the text and refers to the citation whose `extras["index_id"]` is `"1"`.

The same function makes the blocks of a chunk as it streams, of a whole message, and of what
`output_version="v1"` stores. A chunk's blocks have an `index`, by which LangChain merges them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import ContentBlock

from bailian_apps.core.reasoning import ReasoningPiece
from bailian_apps.core.result import Step

PROVIDER = "bailian"
"""The `model_provider` of an app's answers."""

STEP_TYPE = "bailian_step"
"""The type of a workflow node's block, and the name of the custom event."""

RUN_TYPE = "bailian_run"
"""The name of the custom event of a background run's status."""

_REASONING, _REASONING_PARTS = "reasoning_content", "reasoning_parts"
_CITATION_EXTRAS = ("index_id", "doc_id", "doc_name", "biz_id", "page_number", "images", "score")


def step_entry(step: Step) -> dict[str, Any]:
    """Return a step as JSON values."""
    return step.to_dict(compact=True)


def reasoning_kwargs(pieces: Sequence[ReasoningPiece]) -> dict[str, Any]:
    """Return reasoning as `additional_kwargs`, which LangChain can add up.

    `reasoning_content` is one text. `reasoning_parts` has the parts of it after the first: in the
    index, their place and the number of their step; and the lengths of their pieces. LangChain
    joins the lists in dicts of the same index (it would not add up numbers that are equal).
    """
    kwargs: dict[str, Any] = {_REASONING: "".join(piece.text for piece in pieces)}
    if parts := [
        {"index": f"lc_{piece.part}_{piece.number}", "lengths": [len(piece.text)]}
        for piece in pieces
        if piece.part
    ]:
        kwargs[_REASONING_PARTS] = parts
    return kwargs


def message_blocks(
    content: str | Sequence[object], extra: Mapping[str, Any], *, indexed: bool = False
) -> list[ContentBlock]:
    """Return the content blocks of a message or of a chunk.

    Args:
        content: Its content.
        extra: Its `additional_kwargs`.
        indexed: Whether the blocks belong to a chunk and need an `index` to be merged.

    Returns:
        Reasoning first, then steps, then text.
    """
    blocks = _reasoning_blocks(extra) if extra.get(_REASONING) else []
    for step in extra.get("steps", ()):
        blocks += to_content_blocks(step)
    references = extra.get("references")
    if isinstance(content, str):
        if content or references:
            blocks.append({"type": "text", "text": content, "index": "lc_text"})
    else:
        blocks += [_as_block(item) for item in content]
    if references:
        text = next((b for b in reversed(blocks) if b["type"] == "text"), None)
        if text is not None:
            text["annotations"] = [citation(reference) for reference in references]
    if not indexed:
        for block in blocks:
            block.pop("index", None)
    return cast("list[ContentBlock]", blocks)


def citation(reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return the standard citation of a document, as `DocReference.to_dict` returns it."""
    standard = {
        "type": "citation",
        "title": reference.get("title") or reference.get("doc_name"),
        "url": reference.get("doc_url"),
        "cited_text": reference.get("text"),
        "extras": {key: reference[key] for key in _CITATION_EXTRAS if key in reference},
    }
    return {key: value for key, value in standard.items() if value}


def to_content_blocks(step: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the blocks of a step, as `step_entry` returns it: one, or a call and its result."""
    index = f"lc_step_{step['id']}"
    if step["kind"] == "node":
        value = {**step, "type": STEP_TYPE, "node_type": step.get("type")}
        return [{"type": "non_standard", "value": value, "index": index}]
    call = {
        "type": "server_tool_call",
        "id": step["id"],
        "name": step["name"],
        "args": as_arguments(step.get("input")),
        "index": index,
    }
    result = {
        "type": "server_tool_result",
        "tool_call_id": step["id"],
        "status": "error" if step.get("error") else "success",
        "output": step.get("error") or step.get("output", ""),
        "index": f"{index}_result",
    }
    return [call, result]


def as_arguments(value: object) -> dict[str, Any]:
    """Return a step's input as named arguments."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    return {} if value is None else {"input": value}


def _reasoning_blocks(extra: Mapping[str, Any]) -> list[dict[str, Any]]:
    text: str = extra[_REASONING]
    parts: Sequence[Mapping[str, Any]] = extra.get(_REASONING_PARTS, ())
    end = len(text) - sum(sum(part["lengths"]) for part in parts)
    texts = {"0": text[:end]} if end else {}  # by the number of their step
    for part in parts:
        start, end = end, end + sum(part["lengths"])
        number = part["index"].rpartition("_")[2]
        texts[number] = texts.get(number, "") + text[start:end]
    return [
        {"type": "reasoning", "reasoning": text, "index": f"lc_reasoning_{number}"}
        for number, text in texts.items()
    ]


def _as_block(item: object) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(cast("Mapping[str, Any]", item))
    return {"type": "text", "text": str(item)}


def _translate(message: AIMessage) -> list[ContentBlock]:
    content = cast("str | list[object]", message.content)
    is_chunk = isinstance(message, AIMessageChunk)
    return message_blocks(content, message.additional_kwargs, indexed=is_chunk)


register_translator(PROVIDER, _translate, _translate)
