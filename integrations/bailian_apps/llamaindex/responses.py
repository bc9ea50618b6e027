"""Converts what a run returns to LlamaIndex responses, messages and nodes. Pure.

=============================================  ====================================================
AppResult                                      ChatMessage of role `assistant`, and ChatResponse
=============================================  ====================================================
`reasoning`                                    one ThinkingBlock for each step that thinks, first;
                                               none with `message_blocks="text"`
`text`                                         one TextBlock, always
`references`                                   with `message_blocks="all"` one CitationBlock each,
                                               after the text
the session's marker                           `additional_kwargs["bailian"]`
`usage`, ids, `steps`, `references` …          `ChatResponse.raw`, a plain dict
=============================================  ====================================================

Engines only see the responses of an LLM, so nodes, metadata and tool outputs are built from `raw`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CitationBlock,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import ToolOutput

from bailian_apps.core.documents import DocumentSource
from bailian_apps.core.events import AppEvent, References, TextDelta
from bailian_apps.core.history import Plan
from bailian_apps.core.models import copy_model
from bailian_apps.core.reasoning import ReasoningQueue
from bailian_apps.core.result import AppResult, DocReference, Step, Usage
from bailian_apps.core.turns import MARKER_KEY

MessageBlocks: TypeAlias = Literal["text", "reasoning", "all"]
"""What the message of an answer has: its text; also its reasoning; also its citations."""

THINKING_DELTA = "thinking_delta"
"""Where LlamaIndex's agents read a reasoning delta, in a response's `additional_kwargs`."""

_SHOWN_TO_MODELS = ("title", "doc_name")
_NODE_METADATA = (
    *_SHOWN_TO_MODELS, "doc_url", "doc_id", "index_id", "biz_id", "page_number", "images"
)  # fmt: skip

ResponseT_co = TypeVar("ResponseT_co", covariant=True)


class ResponseBuilder(Protocol[ResponseT_co]):
    """Builds the responses of one run."""

    def chunk(self, event: AppEvent) -> ResponseT_co | None:
        """The chunk for an event; None for an event that has none."""
        ...

    def final(self, result: AppResult, delta: str | None) -> ResponseT_co:
        """The response for the finished run.

        Args:
            result: The result of the run.
            delta: `""` for the last chunk of a stream, None when the call does not stream.
        """
        ...


class ChatResponseBuilder:
    """Builds `ChatResponse`s.

    Every chunk has its own message with everything received so far. Unchanged blocks are shared
    between chunks.
    """

    def __init__(self, plan: Plan, message_blocks: MessageBlocks) -> None:
        """Start an answer to `plan`."""
        self._plan = plan
        self._shows_reasoning = message_blocks != "text"
        self._shows_citations = message_blocks == "all"
        self._text = ""
        self._reasoning = ReasoningQueue()
        self._thinking: list[ThinkingBlock] = []
        self._citations: list[CitationBlock] = []

    def chunk(self, event: AppEvent) -> ChatResponse | None:
        """The chunk for an event; None for an event that has none."""
        if isinstance(event, TextDelta):
            self._text += event.text
            return self._chunk(event.text, {})
        if isinstance(event, References):
            if self._shows_citations:
                self._citations += map(citation_block, event.items)
        elif pieces := self._reasoning.feed(event):
            for piece in pieces:
                own = slice(piece.number, piece.number + 1)
                before = "".join(block.content or "" for block in self._thinking[own])
                self._thinking[own] = thinking_blocks([before + piece.text])
            return self._chunk("", {THINKING_DELTA: "".join(piece.text for piece in pieces)})
        return None

    def _chunk(self, delta: str, additional_kwargs: dict[str, Any]) -> ChatResponse:
        text = copy_model(_TEXT_BLOCK, text=self._text)
        thinking = self._thinking if self._shows_reasoning else ()
        blocks = [*thinking, text, *self._citations]
        message = copy_model(_MESSAGE, blocks=blocks, additional_kwargs={})
        return copy_model(
            _RESPONSE, message=message, delta=delta, additional_kwargs=additional_kwargs
        )

    def final(self, result: AppResult, delta: str | None) -> ChatResponse:
        """The response for the finished run; engines store its message."""
        own = {step.id: step.reasoning for step in result.steps}
        thoughts = [own[step_id] for step_id in result.reasoning_steps] or [result.reasoning]
        references = result.references if self._shows_citations else ()
        # One text block: `ChatMessage.content` puts newlines between several.
        blocks: list[Any] = [
            *thinking_blocks(thoughts if self._shows_reasoning else ()),
            TextBlock(text=result.text),
            *map(citation_block, references),  # its own: chunks share theirs
        ]
        message = (ChatMessage if len(blocks) == 1 else AnswerMessage)(
            role=MessageRole.ASSISTANT,
            blocks=blocks,
            additional_kwargs=session_kwargs(self._plan, result),
        )
        return ChatResponse(message=message, delta=delta, raw=raw_response(result))


class AnswerMessage(ChatMessage):
    """An answer's message, whose text may be replaced beside its other blocks.

    `ReActAgent` before llama-index-core 0.14.8 and `SimpleChatEngine` before 0.14.24 assign to
    `content`, which a `ChatMessage` of several blocks refuses.
    """

    @property
    def content(self) -> str | None:
        """The text."""
        return super().content

    @content.setter
    def content(self, content: str) -> None:
        self.blocks = [
            TextBlock(text=content) if isinstance(block, TextBlock) else block
            for block in self.blocks
        ]

    def __eq__(self, other: object) -> bool:
        """Whether the fields are equal; also those of a `ChatMessage`, which a store returns."""
        if type(other) is ChatMessage:
            return vars(self) == vars(other)
        return super().__eq__(other)


class CompletionResponseBuilder:
    """Builds `CompletionResponse`s; without a message, reasoning and citations are in `raw`."""

    def __init__(self) -> None:
        """Start with no text."""
        self._text = ""
        self._reasoning = ReasoningQueue()

    def chunk(self, event: AppEvent) -> CompletionResponse | None:
        """The chunk for an event; None for an event that has none."""
        if isinstance(event, TextDelta):
            self._text += event.text
            return CompletionResponse(text=self._text, delta=event.text)
        if pieces := self._reasoning.feed(event):
            thinking: dict[str, Any] = {THINKING_DELTA: "".join(piece.text for piece in pieces)}
            return CompletionResponse(text=self._text, delta="", additional_kwargs=thinking)
        return None

    def final(self, result: AppResult, delta: str | None) -> CompletionResponse:
        """The response for the finished run."""
        return CompletionResponse(text=result.text, delta=delta, raw=raw_response(result))


_TEXT_BLOCK = TextBlock(text="")
_MESSAGE = ChatMessage(role=MessageRole.ASSISTANT, blocks=[], additional_kwargs={})
_RESPONSE = ChatResponse(message=_MESSAGE, delta="", additional_kwargs={})


def thinking_blocks(thoughts: Iterable[str]) -> list[ThinkingBlock]:
    """The blocks for the reasoning of some steps, without empty ones."""
    return [ThinkingBlock(content=reasoning) for reasoning in thoughts if reasoning]


def citation_block(reference: DocReference) -> CitationBlock:
    """The block for a cited document.

    `additional_location_info` only takes numbers: `index_id`, the number in the text's
    `<ref>[1]</ref>`, and the first `page_number`. The full reference is in `ChatResponse.raw`.
    """
    location: dict[str, int] = {}
    if reference.index_id and reference.index_id.isdecimal():
        location["index_id"] = int(reference.index_id)
    if reference.page_number:
        location["page_number"] = reference.page_number[0]
    return CitationBlock(
        cited_content=TextBlock(text=reference.text),
        source=reference.doc_url or reference.doc_name or reference.doc_id or "",
        title=reference.title or reference.doc_name or "",
        additional_location_info=location,
    )


def session_kwargs(plan: Plan, result: AppResult) -> dict[str, Any]:
    """The `additional_kwargs` of an answer's message: its session marker, if there is a session.

    They are small, because LlamaIndex's memory counts them as tokens.
    """
    marker = plan.marker(result)
    if marker is None:
        return {}
    lost = {"context_lost": True} if result.context_lost else {}
    return {MARKER_KEY: marker.to_dict() | lost}


def raw_response(result: AppResult) -> dict[str, Any]:
    """A result as plain values, for `ChatResponse.raw`. The text is in the message.

    `usage` has the names that LlamaIndex's token counter and tracers read.
    """
    raw: dict[str, Any] = {
        "request_id": result.request_id,
        "session_id": result.session_id,
        "finish_reason": result.finish_reason,
        "attempts": result.attempts,
        "context_lost": result.context_lost,
        "whole_history": result.whole_history,
        "history_format": result.history_format,
        "reasoning": result.reasoning,
        "steps": [step.to_dict() for step in result.steps],
        "references": [reference.to_dict() for reference in result.references],
        "usage": _usage_dict(result.usage),
        "first_token_ms": result.first_token_ms,
        "elapsed_ms": result.elapsed_ms,
    }
    if result.final_text is not None:
        raw["final_text"] = result.final_text
    return raw


def source_nodes(
    raw: Mapping[str, Any] | None, documents: DocumentSource | None = None
) -> list[NodeWithScore]:
    """The documents that an answer cites, or, if it cites none, those that the app found.

    Args:
        raw: `raw` of the response.
        documents: Which of them, instead.
    """
    raw = raw or {}
    references = raw.get("references", ())
    if documents == "retrieved" or (documents is None and not references):
        return found_nodes(AppResult(steps=tuple(Step(**s) for s in raw.get("steps", ()))))
    return _nodes(
        (each["text"], {key: each[key] for key in _NODE_METADATA if each[key]}, each["score"])
        for each in references
    )


def found_nodes(found: Step | AppResult) -> list[NodeWithScore]:
    """The passages that a retrieval, or all retrievals of a run, found."""
    return _nodes((each.text, each.metadata, each.score) for each in found.documents)


def _nodes(passages: Iterable[tuple[str, dict[str, Any], float | None]]) -> list[NodeWithScore]:
    """Nodes of passages, from their text, metadata and score.

    A node's id is the document's. The later ones of several passages of one document are `id#2`,
    `id#3` …: LlamaIndex drops nodes with an id that it has already seen.
    """
    seen: Counter[str] = Counter()
    nodes: list[NodeWithScore] = []
    for text, metadata, score in passages:
        hidden = [key for key in metadata if key not in _SHOWN_TO_MODELS]
        node = TextNode(
            text=text,
            metadata=metadata,
            excluded_llm_metadata_keys=hidden,
            excluded_embed_metadata_keys=hidden.copy(),
        )
        if doc_id := metadata.get("doc_id"):
            seen[doc_id] += 1
            node.id_ = doc_id if seen[doc_id] == 1 else f"{doc_id}#{seen[doc_id]}"
        nodes.append(NodeWithScore(node=node, score=score))
    return nodes


def run_metadata(raw: Mapping[str, Any] | None) -> dict[str, Any]:
    """Steps, usage, ids and reasoning of a run: `raw` without what the nodes hold."""
    return {key: value for key, value in (raw or {}).items() if key != "references"}


def tool_outputs(raw: Mapping[str, Any] | None) -> list[ToolOutput]:
    """The tool, plugin and MCP calls of a run, as a chat response's `sources`."""
    steps = [step for step in (raw or {}).get("steps", ()) if step["kind"] == "tool"]
    return [
        ToolOutput(
            tool_name=step["name"],
            content=step["output"],
            raw_input={"args": (), "kwargs": _as_kwargs(step["input"])},
            raw_output=step["output"],
            is_error=step["error"] is not None,
        )
        for step in steps
    ]


def _usage_dict(usage: Usage) -> dict[str, Any]:
    if not usage.models:
        return {}  # the cloud reported nothing, which is not zero
    totals = usage.to_dict()
    totals["prompt_tokens"] = totals.pop("input_tokens")
    totals["completion_tokens"] = totals.pop("output_tokens")
    return totals


def _as_kwargs(value: Any) -> Any:
    return cast("Any", value) if isinstance(value, dict) else {"input": value}
