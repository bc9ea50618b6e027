"""`BailianAppChatEngine`: a Bailian app as a LlamaIndex chat engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from threading import RLock
from typing import Any, cast
from weakref import WeakKeyDictionary

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.callbacks import (
    CallbackManager,
    trace_method,  # pyright: ignore[reportUnknownVariableType]
)
from llama_index.core.chat_engine.types import (
    AgentChatResponse,
    BaseChatEngine,
    StreamingAgentChatResponse,
)
from llama_index.core.memory import BaseMemory, Memory
from llama_index.core.memory.memory import InsertMethod
from llama_index.core.schema import NodeWithScore
from llama_index.core.tools import ToolOutput

from bailian_apps.app import BailianApp
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.llamaindex.llm import BailianAppLLM
from bailian_apps.llamaindex.messages import MARKER_KEY
from bailian_apps.llamaindex.nodes import run_metadata, source_nodes, tool_outputs
from bailian_apps.llamaindex.observed import observed

_traced = observed(cast("Any", trace_method("chat")))


class BailianAppChatEngine(BaseChatEngine):
    """A conversation with a Bailian app, kept in any LlamaIndex memory.

    Answers go into the memory as the app gave them: with reasoning, citations, and the marker of
    the cloud's session, in which the next turn goes on. A turn goes into the memory when it is
    whole, the question with its answer; of one that failed or was broken off nothing is there. If
    the app had begun it, or two turns ran at once, the next turn sends the whole history.

    A response has the cited documents in `source_nodes` and the app's tool calls in `sources`;
    while it streams, both are filled before its last piece.

    Example:
        ```python
        engine = BailianAppChatEngine.from_defaults(app_id="…")
        print(engine.chat("Plan a day in Hangzhou"))
        for piece in engine.stream_chat("And a second day?").response_gen:
            print(piece, end="")
        ```
    """

    def __init__(
        self,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        *,
        memory: BaseMemory | None = None,
        prefix_messages: Sequence[ChatMessage] = (),
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Make an engine of an app, or of an LLM.

        Args:
            app: The app to talk with.
            llm: The LLM to talk with; in place of `app`.
            memory: Where the conversation is kept; a new `Memory`, if not given.
            prefix_messages: What goes before the conversation in every call.
            callback_manager: Who tells the legacy callbacks; the LLM's, if not given.

        Raises:
            InvalidInputError: Both `app` and `llm` are given, or the memory inserts what it knows
                into user messages (`InsertMethod.USER`).
        """
        if getattr(memory, "insert_method", None) == InsertMethod.USER:
            raise InvalidInputError(
                "memory",
                "inserts into an earlier user message, which the app is not sent again",
                "Pass Memory(insert_method=InsertMethod.SYSTEM)",
            )
        self._llm = BailianAppLLM.of(app, llm, callback_manager)
        self._memory = memory or cast("Any", Memory).from_defaults(
            token_limit=self._llm.context_window - self._llm.num_output
        )
        self._prefix_messages = list(prefix_messages)
        # One at a time at the memory: a question keeps its answer, and LlamaIndex's own `Memory`,
        # on one database connection, would lose what is put while another one reads.
        # Reentrant: garbage collection may in its midst close a stream, which undoes its turn.
        self._lock = RLock()
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )
        self.callback_manager = callback_manager or self._llm.callback_manager

    @classmethod
    def from_defaults(
        cls,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        *,
        memory: BaseMemory | None = None,
        chat_history: list[ChatMessage] | None = None,
        system_prompt: str | None = None,
        prefix_messages: Sequence[ChatMessage] | None = None,
        callback_manager: CallbackManager | None = None,
        **settings: Any,
    ) -> BailianAppChatEngine:
        """Make an engine of an app's settings.

        Args:
            app: The app to talk with, in place of settings.
            llm: The LLM to talk with, in place of settings.
            memory: As for the constructor.
            chat_history: What was said already; it replaces what the memory holds.
            system_prompt: A system message that goes before the conversation. The whole
                conversation is then sent in every call: a session has no place for it.
            prefix_messages: As for the constructor; in place of `system_prompt`.
            callback_manager: As for the constructor.
            **settings: The fields of `BailianAppLLM`.

        Raises:
            InvalidInputError: A field is unknown or not valid, or both `system_prompt` and
                `prefix_messages` are given.
        """
        if system_prompt is not None:
            if prefix_messages is not None:
                raise InvalidInputError(
                    "system_prompt", "was given beside prefix_messages", "Pass one of the two"
                )
            prefix_messages = [ChatMessage(role=MessageRole.SYSTEM, content=system_prompt)]
        engine = cls(
            llm=BailianAppLLM.of(app, llm, callback_manager, **settings),
            memory=memory,
            prefix_messages=prefix_messages or (),
            callback_manager=callback_manager,
        )
        if chat_history is not None:
            engine._memory.set(chat_history)
        return engine

    @_traced
    def chat(
        self,
        message: str | ChatMessage,
        chat_history: list[ChatMessage] | None = None,
        **overrides: Any,
    ) -> AgentChatResponse:
        """Say something and wait for the whole answer.

        Args:
            message: The user's words, or a message with images and files too.
            chat_history: What was said before; it replaces what the memory holds.
            **overrides: Settings to replace in this turn, and `session_id`, as for
                `BailianAppLLM.chat`.

        Raises:
            InvalidInputError: A message or an argument cannot be sent; nothing was.
            BailianError: The call failed; `partial` holds what had come.
        """
        turn = _Turn(message)
        try:
            messages = self._recall(turn, chat_history)
            response = self._llm.chat(messages, **overrides)
            self._keep(turn, response)
        except BaseException:
            self._undo(turn)
            raise
        return turn.whole()

    @_traced
    async def achat(
        self,
        message: str | ChatMessage,
        chat_history: list[ChatMessage] | None = None,
        **overrides: Any,
    ) -> AgentChatResponse:
        """As `chat`, natively async."""
        turn = _Turn(message)
        try:
            messages = await self._arecall(turn, chat_history)
            response = await self._llm.achat(messages, **overrides)
            await self._akeep(turn, response)
        except BaseException:
            await self._aundo(turn)
            raise
        return turn.whole()

    @_traced
    def stream_chat(
        self,
        message: str | ChatMessage,
        chat_history: list[ChatMessage] | None = None,
        **overrides: Any,
    ) -> StreamingAgentChatResponse:
        """As `chat`, piece by piece: read `response_gen`, or the chunks of `chat_stream`.

        The app runs while it is read, in the reader's thread. Closing the generator ends the run.
        """
        turn = _Turn(message)
        try:
            messages = self._recall(turn, chat_history)
            chunks = self._llm.stream_chat(messages, **overrides)
        except BaseException:
            self._undo(turn)
            raise

        def stream() -> Generator[ChatResponse]:
            try:
                with closing(chunks):
                    for chunk in chunks:
                        if chunk.raw is not None:
                            self._keep(turn, chunk)
                        yield chunk
            except BaseException:
                self._undo(turn)
                raise

        return turn.streaming(chat_stream=stream())

    @_traced
    async def astream_chat(
        self,
        message: str | ChatMessage,
        chat_history: list[ChatMessage] | None = None,
        **overrides: Any,
    ) -> StreamingAgentChatResponse:
        """As `stream_chat`, natively async: read `async_response_gen()`, or `achat_stream`."""
        turn = _Turn(message)
        try:
            messages = await self._arecall(turn, chat_history)
            chunks: Any = await self._llm.astream_chat(messages, **overrides)
        except BaseException:
            await self._aundo(turn)
            raise

        async def stream() -> AsyncGenerator[ChatResponse]:
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        if chunk.raw is not None:
                            await self._akeep(turn, chunk)
                        yield chunk
            except BaseException:
                await self._aundo(turn)
                raise

        return turn.streaming(achat_stream=stream())

    def reset(self) -> None:
        """Forget the conversation; the next turn begins a new session."""
        self._memory.reset()

    @property
    def chat_history(self) -> list[ChatMessage]:
        """All that was said."""
        return self._memory.get_all()

    def _recall(self, turn: _Turn, given: list[ChatMessage] | None) -> list[ChatMessage]:
        """What a turn sends, from the memory, or from a history that takes its place."""
        with self._lock:
            if given is not None:
                turn.replaced, turn.began_with = list(self._memory.get_all()), given
                self._memory.set(given)
            turn.began_with = list(self._memory.get_all())
            history = self._memory.get(**self._asked_of_memory(turn))
        return [*self._prefix_messages, *turn.with_session(history), turn.question]

    async def _arecall(self, turn: _Turn, given: list[ChatMessage] | None) -> list[ChatMessage]:
        async with self._async_lock():
            if given is not None:
                turn.replaced, turn.began_with = list(await self._memory.aget_all()), given
                await self._memory.aset(given)
            turn.began_with = list(await self._memory.aget_all())
            history = await self._memory.aget(**self._asked_of_memory(turn))
        return [*self._prefix_messages, *turn.with_session(history), turn.question]

    def _keep(self, turn: _Turn, response: ChatResponse) -> None:
        """Put a whole turn into the memory."""
        with self._lock:
            self._memory.put_messages(turn.end(response))

    async def _akeep(self, turn: _Turn, response: ChatResponse) -> None:
        async with self._async_lock():
            await self._memory.aput_messages(turn.end(response))

    def _async_lock(self) -> asyncio.Lock:
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    def _undo(self, turn: _Turn) -> None:
        """Give back the history that a turn replaced, which failed or was broken off.

        Not if another turn was kept meanwhile, which would be gone. Else there is nothing to undo:
        the turn is not in the memory, and that the session may hold it is known where sessions are
        claimed.
        """
        if turn.replaced is None or turn.is_over:
            return
        with self._lock:
            if list(self._memory.get_all()) == turn.began_with:
                self._memory.set(turn.replaced)

    async def _aundo(self, turn: _Turn) -> None:
        if turn.replaced is None or turn.is_over:
            return
        async with self._async_lock():
            if list(await self._memory.aget_all()) == turn.began_with:
                await self._memory.aset(turn.replaced)

    def _asked_of_memory(self, turn: _Turn) -> dict[str, Any]:
        """What a memory is asked for: room must be left for what it does not hold."""
        asked: dict[str, Any] = {"input": turn.question.content or ""}
        count: Callable[[str], list[Any]] | None = getattr(self._memory, "tokenizer_fn", None)
        if count is not None:
            outside = [*self._prefix_messages, turn.question]
            words = " ".join(message.content or "" for message in outside)
            tokens = len(count(words))
            # A question that is too long is the app's to refuse: the memory would in its place.
            asked["initial_token_count"] = min(tokens, getattr(self._memory, "token_limit", tokens))
        return asked


class _Turn:
    """One question, and what is known of its answer at the end."""

    def __init__(self, message: str | ChatMessage) -> None:
        if isinstance(message, str):
            message = ChatMessage(role=MessageRole.USER, content=message)
        self.question = message
        self._sources: list[ToolOutput] = []
        self._nodes: list[NodeWithScore] = []
        self._response: ChatResponse | None = None
        self.began_with: list[ChatMessage] = []
        """What the memory held when the turn was planned."""
        self.replaced: list[ChatMessage] | None = None
        """What the memory held before a history took its place."""

    def with_session(self, history: list[ChatMessage]) -> list[ChatMessage]:
        """A history that goes on in the session, also where the memory left its answer out."""
        newest = _newest_marked(self.began_with)
        if newest is None or _newest_marked(history) is not None:
            return history
        return [newest, *history]

    def end(self, response: ChatResponse) -> list[ChatMessage]:
        """Keep the answer; returns what the memory has to keep."""
        self._response = response
        self._sources += tool_outputs(response.raw)
        self._nodes += source_nodes(response.raw)
        return [self.question, response.message]

    @property
    def is_over(self) -> bool:
        """Whether the answer is whole."""
        return self._response is not None

    def whole(self) -> AgentChatResponse:
        response = self._response
        return AgentChatResponse(
            response="" if response is None else response.message.content or "",
            sources=self._sources,
            source_nodes=self._nodes,
            metadata=None if response is None else run_metadata(response.raw),
        )

    def streaming(self, **stream: Any) -> StreamingAgentChatResponse:
        """A response that reads the stream itself: no thread, no queue."""
        return StreamingAgentChatResponse(
            sources=self._sources, source_nodes=self._nodes, is_writing_to_memory=False, **stream
        )


def _newest_marked(messages: Sequence[ChatMessage]) -> ChatMessage | None:
    marked = (each for each in reversed(messages) if each.additional_kwargs.get(MARKER_KEY))
    return next(marked, None)
