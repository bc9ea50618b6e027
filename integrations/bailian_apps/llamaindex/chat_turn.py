"""One turn of a chat engine: what it stores, returns and reports."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.chat_engine.types import AgentChatResponse, StreamingAgentChatResponse
from llama_index.core.instrumentation.events.chat_engine import (
    StreamChatDeltaReceivedEvent,
    StreamChatEndEvent,
    StreamChatErrorEvent,
    StreamChatStartEvent,
)
from llama_index.core.schema import NodeWithScore
from llama_index.core.tools import ToolOutput
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.json_values import kind_of
from bailian_apps.core.language import N_
from bailian_apps.core.turns import MARKER_KEY
from bailian_apps.llamaindex.instrumentation import has_event_handlers
from bailian_apps.llamaindex.responses import run_metadata, source_nodes, tool_outputs

_dispatcher = get_dispatcher(__name__)


class ChatTurn:
    """One question and, once complete, its answer.

    Attributes:
        question: The user's message.
        initial: The content of the memory when the turn was prepared.
        replaced: The content of the memory before `chat_history` replaced it.
    """

    def __init__(self, message: str | ChatMessage) -> None:
        """Start a turn with a question."""
        if isinstance(message, str):
            message = ChatMessage(role=MessageRole.USER, content=message)
        elif not isinstance(cast("object", message), ChatMessage):
            raise InvalidInputError(
                "message",
                N_("must be a str or a ChatMessage, not {kind}").format(kind=kind_of(message)),
            )
        self.question = message
        self.initial: list[ChatMessage] = []
        self.replaced: list[ChatMessage] | None = None
        self._sources: list[ToolOutput] = []
        self._nodes: list[NodeWithScore] = []
        self._final: ChatResponse | None = None
        # Weak: the response holds the stream, and the stream this turn. In a cycle, a stream that
        # nobody reads would run on until the garbage collector finds it.
        self._streaming: weakref.ref[StreamingAgentChatResponse] | None = None

    def with_session(self, history: list[ChatMessage]) -> list[ChatMessage]:
        """Add the newest marked answer to a history that the memory cut it from."""
        newest = _newest_marked(self.initial)
        if newest is None or _newest_marked(history) is not None:
            return history
        return [newest, *history]

    def complete(self, final: ChatResponse) -> list[ChatMessage]:
        """Take the answer; return the messages to store."""
        self._final = final
        self._sources += tool_outputs(final.raw)
        self._nodes += source_nodes(final.raw)
        return [self.question, final.message]

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer was received."""
        return self._final is not None

    def response(self) -> AgentChatResponse:
        """The response of a complete turn."""
        final = self._final
        return AgentChatResponse(
            response="" if final is None else final.message.content or "",
            sources=self._sources,
            source_nodes=self._nodes,
            metadata=None if final is None else run_metadata(final.raw),
        )

    def streaming(
        self,
        chat_stream: Generator[ChatResponse] | None = None,
        achat_stream: AsyncGenerator[ChatResponse] | None = None,
    ) -> StreamingAgentChatResponse:
        """A response that reads the stream itself, without a thread or a queue."""
        response = StreamingAgentChatResponse(
            sources=self._sources,
            source_nodes=self._nodes,
            is_writing_to_memory=False,
            chat_stream=chat_stream,
            achat_stream=achat_stream,
        )
        self._streaming = weakref.ref(response)
        return response

    @contextmanager
    def reported(self) -> Generator[None]:
        """Report the beginning and the end of a stream, as LlamaIndex's own engines do.

        A stream that is closed early reports no end: it did not fail either.
        """
        _report(StreamChatStartEvent)
        try:
            yield
        except Exception as error:
            _report(StreamChatErrorEvent, exception=error)
            if (response := self._streamed_response()) is not None:
                response.exception = error
            raise
        _report(StreamChatEndEvent)
        if (response := self._streamed_response()) is not None:
            response.is_done = True

    def report(self, chunk: ChatResponse) -> ChatResponse:
        """Report a chunk, and return it."""
        if chunk.delta:
            _report(StreamChatDeltaReceivedEvent, delta=chunk.delta)
        return chunk

    def _streamed_response(self) -> StreamingAgentChatResponse | None:
        return None if self._streaming is None else self._streaming()


def _report(event: type[BaseEvent], **fields: Any) -> None:
    # Of no span: a tracer would take the engine's span for an LLM's, and it ends before the stream.
    if has_event_handlers():
        _dispatcher.event(event(span_id=None, **fields))


def _newest_marked(messages: Sequence[ChatMessage]) -> ChatMessage | None:
    marked = (each for each in reversed(messages) if each.additional_kwargs.get(MARKER_KEY))
    return next(marked, None)
