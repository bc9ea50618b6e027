"""The events of a run as LangChain message chunks. Pure.

LangChain adds chunks up key by key: strings are joined and numbers summed. So whatever is no delta
is said once: a step when it ends, everything else on the last chunk. All chunks added up are the
message that `invoke` gives, because that is how `invoke` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message
from langchain_core.messages.ai import UsageMetadata

from bailian_apps.core.events import (
    AppEvent,
    ReasoningDelta,
    References,
    RunFinished,
    RunStarted,
    StepFinished,
    TextDelta,
    UsageReported,
)
from bailian_apps.core.history import Plan
from bailian_apps.core.result import AppResult, DocReference, Usage
from bailian_apps.core.text import StopFilter
from bailian_apps.langchain.blocks import PROVIDER, reference_entry, step_entry, to_blocks
from bailian_apps.langchain.messages import MARKER_KEY


class Answer:
    """Turns the events of one run into chunks, and the chunks into the message."""

    def __init__(self, plan: Plan, *, stops: Sequence[str] = (), v1: bool = False) -> None:
        """Begin an answer.

        Args:
            plan: What was sent; it makes the marker.
            stops: Sequences at which the answer ends.
            v1: Whether the content is standard blocks (`output_version="v1"`).
        """
        self.done = False
        """Whether the last chunk was made: no more events are wanted."""
        self._plan = plan
        self._v1 = v1
        self._stops = StopFilter(stops) if any(stops) else None
        self._metadata = {"model_provider": PROVIDER}
        if v1:
            self._metadata["output_version"] = "v1"
        self._started = RunStarted(None, None)
        self._usage = Usage()
        self._references: list[DocReference] = []
        self._final_text: str | None = None

    def feed(self, event: AppEvent) -> AIMessageChunk | None:
        """Take an event; give the chunk that it makes, if any."""
        if isinstance(event, TextDelta):
            return self._chunk(event.text) if self._stops is None else self._until_stop(event.text)
        if isinstance(event, ReasoningDelta):
            return self._chunk("", {"reasoning_content": event.text})
        if isinstance(event, StepFinished):
            # A reasoning entry streamed as reasoning, a response entry is the answer itself.
            if event.step.kind == "reasoning" or event.step.is_answer:
                return None
            return self._chunk("", {"steps": [step_entry(event.step)]})
        if isinstance(event, RunStarted):
            self._started = event
        elif isinstance(event, References):
            self._references += event.items
        elif isinstance(event, UsageReported):
            self._usage = event.usage
        elif isinstance(event, RunFinished):
            return self._last("" if self._stops is None else self._stops.flush(), event.result)
        return None

    def whole(self, chunks: Sequence[AIMessageChunk]) -> AIMessage:
        """The message that all chunks make together."""
        message = message_chunk_to_message(chunks[0] + list(chunks[1:]))
        if self._final_text is not None:
            _replace_text(message, self._final_text)
        return cast("AIMessage", message)

    def _until_stop(self, text: str) -> AIMessageChunk | None:
        assert self._stops is not None  # noqa: S101
        text = self._stops.feed(text)
        if not self._stops.found:
            return self._chunk(text) if text else None
        # The cloud's session holds more than the user has seen, so this answer gets no marker,
        # and the next call sends the conversation as the user has it.
        cut_off = AppResult(
            references=tuple(self._references),
            usage=self._usage,
            session_id=self._started.session_id,
            request_id=self._started.request_id,
            finish_reason="stop",
            context_lost=self._started.context_lost,
            whole_history=self._started.whole_history,
        )
        return self._last(text, cut_off, marked=False)

    def _chunk(self, text: str, extra: dict[str, Any] | None = None) -> AIMessageChunk:
        if self._v1:
            return AIMessageChunk(
                content=cast("list[Any]", to_blocks(text, extra or {}, indexed=True)),
                response_metadata=self._metadata.copy(),
            )
        if extra is None:
            return AIMessageChunk(content=text, response_metadata=self._metadata.copy())
        return AIMessageChunk(
            content=text, additional_kwargs=extra, response_metadata=self._metadata.copy()
        )

    def _last(self, text: str, result: AppResult, *, marked: bool = True) -> AIMessageChunk:
        self.done = True
        references = [reference_entry(reference) for reference in result.references]
        chunk = self._chunk(text, {"references": references} if references else None)
        chunk.chunk_position = "last"
        chunk.response_metadata.update(self._facts(result, marked=marked))
        if result.usage.models:
            chunk.usage_metadata = UsageMetadata(
                input_tokens=result.usage.input_tokens,
                output_tokens=result.usage.output_tokens,
                total_tokens=result.usage.total_tokens,
            )
        return chunk

    def _facts(self, result: AppResult, *, marked: bool) -> dict[str, Any]:
        """What `response_metadata` says of the run."""
        marker = self._plan.marker(result) if marked else None
        facts: dict[str, Any] = {
            "model_name": self._plan.app_id,
            "app_id": self._plan.app_id,
            "session_id": result.session_id,
            "request_id": result.request_id,
            "finish_reason": result.finish_reason,
            "model_usage": [model.to_dict() for model in result.usage.models],
            MARKER_KEY: marker.to_dict() if marker else None,
            "context_lost": result.context_lost or None,
            "whole_history": result.whole_history or None,
        }
        if result.streamed_text is not None:
            # What was streamed cannot be taken back; `invoke` gives this text.
            self._final_text = facts["final_text"] = self._cut(result.text)
        return {key: value for key, value in facts.items() if value not in (None, [])}

    def _cut(self, text: str) -> str:
        return text if self._stops is None else self._stops.feed(text) + self._stops.flush()


def _replace_text(message: Any, text: str) -> None:
    if isinstance(message.content, str):
        message.content = text
        return
    for block in message.content:
        if block["type"] == "text":
            block["text"], text = text, ""
