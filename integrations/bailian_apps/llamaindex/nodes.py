"""What a run found and did, as LlamaIndex nodes, metadata and tool outputs. Pure.

Read from `ChatResponse.raw` or `CompletionResponse.raw` (see `messages.raw_response`), which is
all that an engine gets from an LLM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import ToolOutput

from bailian_apps.core.result import EXECUTING, SUCCESS

_TO_METADATA = ("title", "doc_name", "doc_url", "doc_id", "index_id", "page_number", "images")
_FOR_MACHINES = ("doc_url", "doc_id", "index_id", "page_number", "images")


def source_nodes(raw: Mapping[str, Any] | None) -> list[NodeWithScore]:
    """The documents that an answer cites.

    A node's id is the document's. When an answer cites several passages of one document, the
    later ones are `id#2`, `id#3` …: LlamaIndex takes nodes of one id for one node, and drops all
    but the first. The cloud tells no scores.

    Args:
        raw: What the response has in `raw`.
    """
    seen: Counter[str] = Counter()
    nodes: list[NodeWithScore] = []
    for reference in (raw or {}).get("references", ()):
        node = TextNode(
            text=reference["text"],
            metadata={name: _plain(reference[name]) for name in _TO_METADATA if reference[name]},
            excluded_llm_metadata_keys=list(_FOR_MACHINES),
            excluded_embed_metadata_keys=list(_FOR_MACHINES),
        )
        if doc_id := reference["doc_id"]:
            seen[doc_id] += 1
            node.id_ = doc_id if seen[doc_id] == 1 else f"{doc_id}#{seen[doc_id]}"
        nodes.append(NodeWithScore(node=node))
    return nodes


def run_metadata(raw: Mapping[str, Any] | None) -> dict[str, Any]:
    """Steps, usage, ids and reasoning of a run: all of `raw` that is not in the nodes."""
    return {name: value for name, value in (raw or {}).items() if name != "references"}


def tool_outputs(raw: Mapping[str, Any] | None) -> list[ToolOutput]:
    """The tool, plugin and MCP calls of a run, as an agent's `sources`."""
    steps = [step for step in (raw or {}).get("steps", ()) if step["kind"] == "tool"]
    return [
        ToolOutput(
            tool_name=step["name"],
            content=step["output"],
            raw_input={"args": (), "kwargs": _as_kwargs(step["input"])},
            raw_output=step["output"],
            is_error=step["status"] not in (EXECUTING, SUCCESS),
        )
        for step in steps
    ]


def _plain(value: Any) -> Any:
    return list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value


def _as_kwargs(value: Any) -> Any:
    return cast("Any", value) if isinstance(value, dict) else {"input": value}
