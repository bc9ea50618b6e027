"""`BailianAppChatEngine`: a Bailian app as a LlamaIndex chat engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing, contextmanager
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
from typing_extensions import Unpack

from bailian_apps.app import BailianApp
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.keywords import CallKeywords
from bailian_apps.core.tracebacks import hides_arguments
from bailian_apps.llamaindex.chat_turn import ChatTurn
from bailian_apps.llamaindex.instrumentation import instrumented
from bailian_apps.llamaindex.keywords import LLMKeywords
from bailian_apps.llamaindex.llm import BailianAppLLM, calls_apart
from bailian_apps.llamaindex.memory import detached_memory, uninterrupted

_instrumented = instrumented(cast("Any", trace_method("chat")))


class BailianAppChatEngine(BaseChatEngine):
    """A conversation with a Bailian app, stored in any LlamaIndex memory.

    The memory stores complete answers: with reasoning, citations, and the marker of the cloud's
    session, which the next turn continues. A turn (the question and its answer) is stored when it
    completes; a turn that fails or is interrupted leaves nothing in the memory. If the app had
    started on it, or two turns ran at once, the next turn sends the whole history.

    A response has the cited documents in `source_nodes` (if the answer cites none, those that the
    app's retrievals found) and the app's tool calls in `sources`. A streaming response fills both
    before its last delta.

    Example:
        ```python
        engine = BailianAppChatEngine.from_defaults(app_id="…")
        print(engine.chat("Plan a day in Hangzhou"))
        for delta in engine.stream_chat("And a second day?").response_gen:
            print(delta, end="")
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
        """Create an engine from an app or an LLM.

        Args:
            app: The app to call.
            llm: The LLM to call, instead of `app`.
            memory: Stores the conversation. Defaults to a new `Memory`.
            prefix_messages: Messages that precede the conversation in every call.
            callback_manager: Receives the legacy events. Defaults to the LLM's.

        Raises:
            InvalidInputError: Both `app` and `llm` are given, or the memory inserts its content
                into user messages (`InsertMethod.USER`).
        """
        if getattr(memory, "insert_method", None) == InsertMethod.USER:
            raise InvalidInputError(
                "memory",
                "inserts into an earlier user message, which is not sent again in a session",
                "Pass Memory(insert_method=InsertMethod.SYSTEM)",
            )
        self._llm = BailianAppLLM.from_app_or_llm(app, llm, callback_manager)
        self._memory = memory or cast("Any", Memory).from_defaults(
            token_limit=self._llm.context_window - self._llm.num_output
        )
        self._prefix_messages = list(prefix_messages)
        self.callback_manager = callback_manager or self._llm.callback_manager
        self._make_locks()

    @classmethod
    @hides_arguments
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
        **settings: Unpack[LLMKeywords],
    ) -> BailianAppChatEngine:
        """Create an engine from an app's settings.

        Args:
            app: The app to call, instead of settings.
            llm: The LLM to call, instead of settings.
            memory: As for the constructor.
            chat_history: Earlier messages; they replace the content of the memory.
            system_prompt: A system message that precedes the conversation. Every call then sends
                the whole conversation, because a session does not take a system message; with
                `history_format="prompt"`, the first call alone.
            prefix_messages: As for the constructor; instead of `system_prompt`.
            callback_manager: As for the constructor.
            **settings: The fields of `BailianAppLLM`.

        Raises:
            InvalidInputError: A field is unknown or invalid, or both `system_prompt` and
                `prefix_messages` are given.
        """
        if system_prompt is not None:
            if prefix_messages is not None:
                raise InvalidInputError(
                    "system_prompt", "cannot be combined with prefix_messages", "Pass one of them"
                )
            prefix_messages = [ChatMessage(role=MessageRole.SYSTEM, content=system_prompt)]
        engine = cls(
            llm=BailianAppLLM.from_app_or_llm(app, llm, callback_manager, **settings),
            memory=memory,
            prefix_messages=prefix_messages or (),
            callback_manager=callback_manager,
        )
        if chat_history is not None:
            engine._memory.set(chat_history)
        return engine

    @_instrumented
    def chat(
        self,
        message: str | ChatMessage,
        chat_history: list[ChatMessage] | None = None,
        **overrides: Unpack[CallKeywords],
    ) -> AgentChatResponse:
        """Send a message and wait for the whole answer.

        Args:
            message: The text, or a message that may also have images and files.
            chat_history: Earlier messages; they replace the content of the memory.
            **overrides: Settings to override for this turn, and `session_id`, as for
                `BailianAppLLM.chat`.

        Raises:
            InvalidInputError: A message or an argument is invalid; nothing was sent.
            BailianError: The call failed; `partial` has what was received.
        """
        turn = ChatTurn(message)
        with self._rolling_back(turn):
            messages = self._prepare(turn, chat_history)
            response = self._llm.chat(messages, **overrides)
            self._store(turn, response)
        return turn.response()

    @_instrumented
    async def achat(
        self,
        message: str | ChatMessage,
        chat_history: list[ChatMessage] | None = None,
        **overrides: Unpack[CallKeywords],
    ) -> AgentChatResponse:
        """As `chat`, natively async."""
        turn = ChatTurn(message)
        try:
            messages = await self._aprepare(turn, chat_history)
            response = await self._llm.achat(messages, **overrides)
            await self._astore(turn, response)
        except BaseException:
            await self._aroll_back(turn)
            raise
        return turn.response()

    @_instrumented
    def stream_chat(
        self,
        message: str | ChatMessage,
        chat_history: list[ChatMessage] | None = None,
        **overrides: Unpack[CallKeywords],
    ) -> StreamingAgentChatResponse:
        """As `chat`, streamed: read `response_gen`, or the chunks of `chat_stream`.

        The app runs while the stream is read, in the reader's thread. Closing the generator ends
        the run.
        """
        turn = ChatTurn(message)
        with self._rolling_back(turn):
            messages = self._prepare(turn, chat_history)
            chunks = self._llm.stream_chat(messages, **overrides)

        def stream() -> Generator[ChatResponse]:
            with self._rolling_back(turn), turn.reported(), closing(chunks):
                yield ChatResponse(message=turn.question)  # see below
                # The last chunk is kept until the call has ended: a memory that calls the same app
                # needs its slot.
                last: list[ChatResponse] = []
                for chunk in chunks:
                    if chunk.raw is None:
                        yield turn.report(chunk)
                    else:
                        last.append(chunk)
                for chunk in last:
                    self._store(turn, chunk)
                    yield chunk

        started = stream()
        next(started)  # one that has not started would not roll back when it is closed
        return turn.streaming(chat_stream=started)

    @_instrumented
    async def astream_chat(
        self,
        message: str | ChatMessage,
        chat_history: list[ChatMessage] | None = None,
        **overrides: Unpack[CallKeywords],
    ) -> StreamingAgentChatResponse:
        """As `stream_chat`, natively async: read `async_response_gen()`, or `achat_stream`."""
        turn = ChatTurn(message)
        try:
            messages = await self._aprepare(turn, chat_history)
            chunks: Any = await self._llm.astream_chat(messages, **overrides)
        except BaseException:
            await self._aroll_back(turn)
            raise

        async def stream() -> AsyncGenerator[ChatResponse]:
            try:
                async with aclosing(chunks):
                    with turn.reported():
                        yield ChatResponse(message=turn.question)
                        last: list[ChatResponse] = []  # as in `stream_chat`
                        async for chunk in chunks:
                            if chunk.raw is None:
                                yield turn.report(chunk)
                            else:
                                last.append(chunk)
                        for chunk in last:
                            await self._astore(turn, chunk)
                            yield chunk
            except BaseException:
                await self._aroll_back(turn)
                raise

        started = stream()
        await anext(started)  # as in `stream_chat`
        return turn.streaming(achat_stream=started)

    def reset(self) -> None:
        """Clear the conversation; the next turn starts a new session."""
        self._memory.reset()

    @property
    def chat_history(self) -> list[ChatMessage]:
        """All messages of the conversation."""
        return self._memory.get_all()

    def _make_locks(self) -> None:
        # One turn at a time uses the memory, so that a question stays next to its answer, and
        # because LlamaIndex's `Memory`, on one database connection, loses messages that are put
        # during a read. Reentrant: while the lock is held, the garbage collector may close a
        # stream, which rolls its turn back.
        self._lock = RLock()
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )

    def __copy__(self) -> BailianAppChatEngine:
        """Copy with the same memory, and the locks that guard it."""
        copy = object.__new__(type(self))
        vars(copy).update(vars(self))
        return copy

    def __getstate__(self) -> dict[str, Any]:
        """Pickle, or copy deeply, with the conversation and without secrets.

        Raises:
            TypeError: The memory is on a database, or the LLM has a client.
        """
        state = {name: value for name, value in vars(self).items() if "_lock" not in name}
        with self._lock:
            return state | {"_memory": detached_memory(self._memory)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle, with locks of its own."""
        vars(self).update(state)
        self._make_locks()

    def _prepare(self, turn: ChatTurn, chat_history: list[ChatMessage] | None) -> list[ChatMessage]:
        """The messages that a turn sends, from the memory or from a history that replaces it."""
        with self._lock, calls_apart():
            if chat_history is not None:
                turn.replaced, turn.initial = list(self._memory.get_all()), chat_history
                self._memory.set(chat_history)
            turn.initial = list(self._memory.get_all())
            history = self._memory.get(**self._memory_arguments(turn))
        return [*self._prefix_messages, *turn.with_session(history), turn.question]

    @uninterrupted
    async def _aprepare(
        self, turn: ChatTurn, chat_history: list[ChatMessage] | None
    ) -> list[ChatMessage]:
        async with self._async_lock():
            with calls_apart():
                if chat_history is not None:
                    turn.replaced, turn.initial = list(await self._memory.aget_all()), chat_history
                    await self._memory.aset(chat_history)
                turn.initial = list(await self._memory.aget_all())
                history = await self._memory.aget(**self._memory_arguments(turn))
        return [*self._prefix_messages, *turn.with_session(history), turn.question]

    def _store(self, turn: ChatTurn, final: ChatResponse) -> None:
        """Put a completed turn into the memory."""
        with self._lock, calls_apart():
            self._memory.put_messages(turn.complete(final))

    @uninterrupted
    async def _astore(self, turn: ChatTurn, final: ChatResponse) -> None:
        async with self._async_lock():
            with calls_apart():
                await self._memory.aput_messages(turn.complete(final))

    def _async_lock(self) -> asyncio.Lock:
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    @contextmanager
    def _rolling_back(self, turn: ChatTurn) -> Generator[None]:
        """Restore the history that a turn replaced, if it fails or is interrupted.

        Only while the memory holds what the turn put there: the turns that another call has stored
        since would be lost. Nothing else needs to be undone: the turn is not in the memory, and the
        next plan takes into account that the session may contain it.
        """
        try:
            yield
        except BaseException:
            if turn.replaced is not None and not turn.is_complete:
                with self._lock:
                    if list(self._memory.get_all()) == turn.initial:
                        self._memory.set(turn.replaced)
            raise

    @uninterrupted
    async def _aroll_back(self, turn: ChatTurn) -> None:
        """As `_rolling_back`, but no generator, which the event loop could close on its own."""
        if turn.replaced is not None and not turn.is_complete:
            async with self._async_lock():
                if list(await self._memory.aget_all()) == turn.initial:
                    await self._memory.aset(turn.replaced)

    def _memory_arguments(self, turn: ChatTurn) -> dict[str, Any]:
        """Arguments of `memory.get`, which reserve tokens for the messages outside the memory."""
        arguments: dict[str, Any] = {"input": turn.question.content or ""}
        count: Callable[[str], list[Any]] | None = getattr(self._memory, "tokenizer_fn", None)
        if count is not None:
            outside = [*self._prefix_messages, turn.question]
            tokens = len(count(" ".join(message.content or "" for message in outside)))
            # Above its limit the memory would raise; whether a question is too long is for the app.
            limit = getattr(self._memory, "token_limit", tokens)
            arguments["initial_token_count"] = min(tokens, limit)
        return arguments
