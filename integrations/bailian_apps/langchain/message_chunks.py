"""The events of a run as LangChain message chunks. Pure.

LangChain adds chunks key by key: it joins strings and sums numbers. So anything that is not a delta
is in exactly one chunk: a step in the chunk of its end, everything else in the last chunk. The sum
of all chunks is the message that `invoke` returns, because `invoke` makes it that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from bailian_apps.core.events import (
    AppEvent,
    ReasoningDelta,
    References,
    RunFinished,
    RunStarted,
    StepDelta,
    StepFinished,
    TextDelta,
    UsageReported,
)
from bailian_apps.core.history import Plan
from bailian_apps.core.models import copy_model
from bailian_apps.core.reasoning import ReasoningQueue
from bailian_apps.core.result import AppResult, DocReference, Usage
from bailian_apps.core.text import StopFilter
from bailian_apps.core.turns import MARKER_KEY, SessionMarker
from bailian_apps.langchain.blocks import PROVIDER, message_blocks, reasoning_kwargs, step_entry


class MessageChunkBuilder:
    """Builds the chunks of one answer, and the message that they add up to."""

    def __init__(
        self,
        plan: Plan,
        *,
        stop: Sequence[str] = (),
        v1: bool = False,
        message_id: str | None = None,
    ) -> None:
        """Start an answer to `plan`.

        `v1` is whether the content is standard blocks (`output_version="v1"`). LangChain chooses
        the chunks' id if `message_id` is None.
        """
        self.done = False
        """Whether the last chunk was built, and no more events are wanted."""
        self._plan = plan
        self._v1 = v1
        self._stop_filter = StopFilter(stop) if any(stop) else None
        self._metadata = {"model_provider": PROVIDER}
        if v1:
            self._metadata["output_version"] = "v1"
        self._template = AIMessageChunk(content="", response_metadata=self._metadata)
        if message_id is not None:
            self._template.id = message_id
        self._started = RunStarted(None, None)
        self._usage = Usage()
        self._reasoning = ReasoningQueue()
        self._references: list[DocReference] = []

    def feed(self, event: AppEvent) -> AIMessageChunk | None:
        """Return the chunk that an event adds, if any."""
        if isinstance(event, TextDelta):
            if self._stop_filter is None:
                return self._chunk(event.text)
            return self._chunk_until_stop(self._stop_filter, event.text)
        if isinstance(event, (ReasoningDelta, StepDelta, StepFinished)):
            pieces = self._reasoning.feed(event)
            extra = reasoning_kwargs(pieces) if pieces else {}
            # A reasoning step streamed as reasoning, and a response step is the answer itself.
            if isinstance(event, StepFinished) and not (
                event.step.kind == "reasoning" or event.step.is_answer
            ):
                extra["steps"] = [step_entry(event.step)]
            return self._chunk("", extra) if extra else None
        if isinstance(event, RunStarted):
            self._started = event
        elif isinstance(event, References):
            self._references += event.items
        elif isinstance(event, UsageReported):
            self._usage = event.usage
        elif isinstance(event, RunFinished):
            rest = "" if self._stop_filter is None else self._stop_filter.flush()
            return self._last_chunk(rest, event.result, self._plan.marker(event.result))
        return None

    def final_message(self, chunks: Sequence[AIMessageChunk]) -> AIMessage:
        """Return the message that all chunks add up to."""
        return cast("AIMessage", message_chunk_to_message(chunks[0] + list(chunks[1:])))

    def _chunk_until_stop(self, stop_filter: StopFilter, text: str) -> AIMessageChunk | None:
        text = stop_filter.feed(text)
        if not stop_filter.found:
            return self._chunk(text) if text else None
        cut_off = AppResult(
            references=tuple(self._references),
            usage=self._usage,
            session_id=self._started.session_id,
            request_id=self._started.request_id,
            finish_reason="stop",
            context_lost=self._started.context_lost,
            whole_history=self._started.whole_history,
        )
        # The cloud's session holds more than the user has seen, so this answer gets no marker and
        # the next call sends the conversation as the user has it.
        return self._last_chunk(text, cut_off, None)

    def _chunk(self, text: str, extra: dict[str, Any] | None = None) -> AIMessageChunk:
        chunk = copy_model(
            self._template,
            content=message_blocks(text, extra or {}, indexed=True) if self._v1 else text,
            additional_kwargs={},
            response_metadata=self._metadata.copy(),
            tool_calls=[],
            invalid_tool_calls=[],
            tool_call_chunks=[],
        )
        if extra is not None and not self._v1:
            chunk.additional_kwargs = extra
        return chunk

    def _last_chunk(
        self, text: str, result: AppResult, marker: SessionMarker | None
    ) -> AIMessageChunk:
        self.done = True
        references = [reference.to_dict(compact=True) for reference in result.references]
        chunk = self._chunk(text, {"references": references} if references else None)
        chunk.chunk_position = "last"
        metadata: dict[str, Any] = {
            "model_name": self._plan.app_id,
            "app_id": self._plan.app_id,
            "session_id": result.session_id,
            "request_id": result.request_id,
            "finish_reason": result.finish_reason,
            "model_usage": [model.to_dict() for model in result.usage.models],
            MARKER_KEY: marker.to_dict() if marker else None,
            "context_lost": result.context_lost or None,
            "whole_history": result.whole_history or None,
            "history_format": result.history_format,
            "final_text": self._cut(result.final_text),
            "first_token_ms": result.first_token_ms,
            "elapsed_ms": result.elapsed_ms,
        }
        chunk.response_metadata.update(
            {key: value for key, value in metadata.items() if value not in (None, [])}
        )
        if result.usage.models:
            chunk.usage_metadata = UsageMetadata(
                input_tokens=result.usage.input_tokens,
                output_tokens=result.usage.output_tokens,
                total_tokens=result.usage.total_tokens,
            )
        return chunk

    def _cut(self, text: str | None) -> str | None:
        if self._stop_filter is None or text is None:
            return text
        return self._stop_filter.feed(text) + self._stop_filter.flush()


def without_session(generation: ChatGeneration) -> ChatGeneration:
    """Return a copy of a cached answer that names no session.

    The session is that of the conversation which the answer was made in. Another one that continued
    it would share the app's memory with that one.
    """
    message = generation.message
    metadata = {k: v for k, v in message.response_metadata.items() if k not in _SESSION_KEYS}
    message = message.model_copy(update={"response_metadata": metadata})
    return generation.model_copy(update={"message": message})


_SESSION_KEYS = (MARKER_KEY, "session_id")
_GENERATION = ChatGenerationChunk(message=AIMessageChunk(content=""))


def as_generation(chunk: AIMessageChunk) -> ChatGenerationChunk:
    """Return a message chunk as LangChain's `_stream` yields it."""
    content = chunk.content
    text = content if isinstance(content, str) else str(chunk.text)
    return copy_model(_GENERATION, message=chunk, text=text)
