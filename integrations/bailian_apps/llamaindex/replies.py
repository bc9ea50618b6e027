"""The events of a run as LlamaIndex responses: chunk by chunk, and whole. Pure.

A chat's and a completion's reply have the same two methods, so that whoever drives a run need not
know which of the two it is.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from llama_index.core.base.llms.types import (
    ChatResponse,
    CitationBlock,
    CompletionResponse,
    ThinkingBlock,
)

from bailian_apps.core.events import AppEvent, ReasoningDelta, References, TextDelta
from bailian_apps.core.history import Plan
from bailian_apps.core.result import AppResult
from bailian_apps.llamaindex.messages import (
    answer_message,
    citation_block,
    raw_response,
    remembered,
    thinking_block,
)

THINKING_DELTA = "thinking_delta"
"""Where LlamaIndex's agents look for a piece of reasoning, in `additional_kwargs`."""

ResponseT_co = TypeVar("ResponseT_co", covariant=True)


class Reply(Protocol[ResponseT_co]):
    """Makes the responses of one run."""

    def chunk(self, event: AppEvent) -> ResponseT_co | None:
        """The chunk for an event; None when it has nothing to show."""
        ...

    def whole(self, result: AppResult, delta: str | None) -> ResponseT_co:
        """The response for the whole run.

        Args:
            result: The run.
            delta: `""` for the last chunk of a stream, None for an answer that was not streamed.
        """
        ...


class ChatReply:
    """The replies of a chat.

    Every chunk has a message of its own with everything so far; blocks that did not change are
    shared between the chunks.
    """

    def __init__(self, plan: Plan) -> None:
        """Start a reply.

        Args:
            plan: What the call sends; it knows how to mark the answer.
        """
        self._plan = plan
        self._text = ""
        self._reasoning = ""
        self._thinking: ThinkingBlock | None = None
        self._citations: list[CitationBlock] = []

    def chunk(self, event: AppEvent) -> ChatResponse | None:
        """The chunk for an event; None when it has nothing to show."""
        if isinstance(event, TextDelta):
            self._text += event.text
            message = answer_message(self._text, self._thinking, self._citations)
            return ChatResponse(message=message, delta=event.text)
        if isinstance(event, ReasoningDelta):
            self._reasoning += event.text
            self._thinking = thinking_block(self._reasoning)
            return ChatResponse(
                message=answer_message(self._text, self._thinking, self._citations),
                delta="",
                additional_kwargs={THINKING_DELTA: event.text},
            )
        if isinstance(event, References):
            self._citations += map(citation_block, event.items)
        return None

    def whole(self, result: AppResult, delta: str | None) -> ChatResponse:
        """The response for the whole run; engines keep its message."""
        message = answer_message(
            result.text,
            thinking_block(result.reasoning),
            self._citations or [citation_block(reference) for reference in result.references],
            remembered(self._plan, result),
        )
        return ChatResponse(message=message, delta=delta, raw=raw_response(result))


class CompletionReply:
    """The replies of a completion. It has no message, so reasoning and citations are in `raw`."""

    def __init__(self) -> None:
        """Start a reply."""
        self._text = ""

    def chunk(self, event: AppEvent) -> CompletionResponse | None:
        """The chunk for an event; None when it has nothing to show."""
        if isinstance(event, TextDelta):
            self._text += event.text
            return CompletionResponse(text=self._text, delta=event.text)
        if isinstance(event, ReasoningDelta):
            thinking: dict[str, Any] = {THINKING_DELTA: event.text}
            return CompletionResponse(text=self._text, delta="", additional_kwargs=thinking)
        return None

    def whole(self, result: AppResult, delta: str | None) -> CompletionResponse:
        """The response for the whole run."""
        return CompletionResponse(text=result.text, delta=delta, raw=raw_response(result))
