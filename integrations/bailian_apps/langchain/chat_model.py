"""`ChatBailianApp`: an app as a LangChain chat model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from langchain_core.caches import BaseCache
from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import LC_ID_PREFIX, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from pydantic import Field
from typing_extensions import override

from bailian_apps.core.settings import AppSettings
from bailian_apps.langchain.answer import Answer
from bailian_apps.langchain.blocks import PROVIDER
from bailian_apps.langchain.call import Call
from bailian_apps.langchain.callbacks import AnyRunManager
from bailian_apps.langchain.fields import MODEL_CONFIG, AppFields
from bailian_apps.langchain.protocol_events import ProtocolEvent, ProtocolEvents
from bailian_apps.langchain.runs import is_being_cancelled
from bailian_apps.langchain.secrecy import shown, tokens_digest
from bailian_apps.langchain.stream_run import StreamRun, arguments_of, stream_run_of

if TYPE_CHECKING:
    from langchain_core.language_models import ModelProfile

logger = logging.getLogger(__name__)


class ChatBailianApp(AppFields, BaseChatModel):
    """A Bailian (Model Studio) app as a chat model.

    The fields are the settings of the app (see `AppSettings`), and every one may be overridden per
    call: `model.invoke("…", biz_params={"city": "Hangzhou"})`. A call also takes `session_id`,
    `image_list` and `file_list`.

    The conversation is the list of messages: each answer remembers the cloud's session in its
    `response_metadata`, and the next call continues it and sends only what is new. The model holds
    no conversation, so one object serves any number of threads, tasks and users.

    What the app does (workflow nodes, tool calls, retrievals) are child runs of the model's run for
    every LangChain callback and tracer, custom events named `bailian_step`, and content blocks of
    the answer.

    Example:
        ```python
        model = ChatBailianApp(app_id="…")  # the key is read from DASHSCOPE_API_KEY
        messages = [HumanMessage("Plan a day in Hangzhou")]
        messages.append(model.invoke(messages))
        messages.append(HumanMessage("And a second day?"))
        for chunk in model.stream(messages):
            print(chunk.text, end="")
        ```

    Attributes:
        session_id: A session of the cloud that you keep yourself, for every call; meant for
            `configurable_fields`, so that each request names its own. None lets the messages tell.
        stop: Sequences at which an answer ends. An app knows none, so the answer is cut off here
            and the connection is closed.
        max_tokens: Accepted, because other chat models have it, and not sent: an app's limit is
            set in its console. A warning is logged.
        streaming: Whether `invoke` reports tokens to callbacks too; False switches `stream` off.
        cache: Off by default, even if LangChain has a global cache: a cached answer would name an
            old session, and an app may do things.
    """

    model_config = MODEL_CONFIG

    session_id: str | None = None
    stop: list[str] | None = None
    max_tokens: int | None = None
    # None and not False: a False that was set, as a copy of all fields does, disables streaming.
    streaming: bool | None = None
    cache: BaseCache | bool | None = Field(default=False, exclude=True)

    def __init__(self, **fields: Any) -> None:
        """Make a model of an app's settings.

        Args:
            **fields: The fields of `AppSettings`, and those of every LangChain chat model.
                `model` is another name for `app_id`.

        Raises:
            InvalidInputError: A field is unknown or not valid. It names the field and the mend.
        """
        super().__init__(**fields)
        if self.max_tokens is not None:
            logger.warning(
                "max_tokens=%d is not sent: set the limit of app %s in its console",
                self.max_tokens,
                self.app_id,
            )

    # ------------------------------------------------------------- what it is

    @property
    def model(self) -> str:
        """The app's id, under the name that other chat models have."""
        return self.app_id

    @property
    @override
    def _llm_type(self) -> str:
        return "bailian-app"

    @property
    @override
    def _identifying_params(self) -> dict[str, Any]:
        params = {
            name: getattr(self, name) for name in AppSettings.model_fields if name != "api_key"
        }
        params = {name: value for name, value in params.items() if value is not None}
        return shown({"model_name": self.app_id, **params})

    @override
    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        arguments = shown(arguments_of(kwargs))
        return super()._get_invocation_params(stop=stop or self.stop, **arguments)

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        app_id = kwargs.get("model") or kwargs.get("app_id") or self.app_id
        params = LangSmithParams(
            ls_provider=PROVIDER, ls_model_name=str(app_id), ls_model_type="chat"
        )
        temperature = kwargs.get("temperature", self.temperature)
        if isinstance(temperature, (int, float)):
            params["ls_temperature"] = temperature
        if stops := stop or self.stop:
            params["ls_stop"] = stops
        return params

    @override
    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        kwargs = arguments_of(kwargs)
        key = super()._get_llm_string(stop=stop, **shown(kwargs))
        digest = tokens_digest(self.biz_params, kwargs.get("biz_params"))
        return f"{key}---{digest}" if digest else key

    @override
    def _resolve_model_profile(self) -> ModelProfile:
        return {
            "image_inputs": False,
            "image_url_inputs": True,
            "audio_inputs": False,
            "video_inputs": False,
            "reasoning_output": True,
            "tool_calling": False,
            "tool_choice": False,
            "structured_output": False,
        }

    @override
    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> NoReturn:
        """Not possible: an app calls its own tools.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "an app calls its own tools, and cannot be given others: add them to the app in its "
            "console; or give this app as a tool to an agent whose model takes tools"
        )

    @override
    def with_structured_output(self, schema: Any, **kwargs: Any) -> NoReturn:
        """Not possible: an app's answer has the form that its console asks for.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "an app cannot be given a schema: ask for JSON in the app's own prompt, and put a "
            "parser behind it, such as model | PydanticOutputParser(pydantic_object=…)"
        )

    # ------------------------------------------------------------ what it does

    @override
    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Stream the answer; closing the iterator closes the connection.

        Args:
            input: The conversation, or the user's words.
            config: LangChain's config.
            stop: Sequences at which the answer ends.
            **kwargs: Settings to override, and `session_id`, `image_list`, `file_list`.

        Yields:
            Chunks; all added up are the message that `invoke` gives.

        Raises:
            BailianError: The call failed.
        """
        config = ensure_config(config)
        run = StreamRun(CallbackManager.configure(**self._watchers(config)), config, kwargs)
        outer = super().stream(input, config, stop=stop, **run.keywords(kwargs))
        try:
            for chunk in outer:  # noqa: UP028  # `yield from` would close `outer` first
                yield chunk
        finally:
            # The steps and the connection first; then LangChain ends the run they belong to.
            for each in (run.chunks, outer):
                if each is not None:
                    cast("Generator[Any]", each).close()

    @override
    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """As `stream`, natively async."""
        config = ensure_config(config)
        run = StreamRun(AsyncCallbackManager.configure(**self._watchers(config)), config, kwargs)
        outer = super().astream(input, config, stop=stop, **run.keywords(kwargs))
        try:
            async for chunk in outer:
                yield chunk
        finally:
            for each in (run.chunks, outer):
                if each is not None:
                    await cast("AsyncGenerator[Any]", each).aclose()

    def _watchers(self, config: RunnableConfig) -> dict[str, Any]:
        """What LangChain's `stream` configures its callback manager from."""
        return {
            "inheritable_callbacks": config.get("callbacks"),
            "local_callbacks": self.callbacks,
            "verbose": self.verbose,
            "inheritable_tags": config.get("tags"),
            "local_tags": self.tags,
            "inheritable_metadata": config.get("metadata"),
            "local_metadata": self.metadata,
        }

    @override
    def _should_stream(
        self, *, async_api: bool, run_manager: AnyRunManager | None = None, **kwargs: Any
    ) -> bool:
        # LangChain would drive `_stream` without the run that the steps belong to; `_generate` has
        # it, and streams itself.
        return run_manager is None and self._streams(async_api, None, kwargs)

    def _streams(
        self, async_api: bool, run_manager: AnyRunManager | None, kwargs: dict[str, Any]
    ) -> bool:
        """Whether LangChain would stream this call."""
        return super()._should_stream(
            async_api=async_api,
            run_manager=run_manager,  # pyright: ignore[reportArgumentType]
            **kwargs,
        )

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        run = stream_run_of(kwargs)
        pieces = self._call(messages, stop, run_manager or (run and run.manager), kwargs).pieces()
        if run is not None:
            run.chunks = pieces
        return (ChatGenerationChunk(message=chunk) for chunk in pieces)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        run = stream_run_of(kwargs)
        pieces = self._call(messages, stop, run_manager or (run and run.manager), kwargs).apieces()
        if run is not None:
            run.chunks = pieces
        async with aclosing(pieces):
            async for chunk in pieces:
                yield ChatGenerationChunk(message=chunk)

    def _stream_chat_model_events(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ProtocolEvent]:
        """What LangChain streams `stream_events(version="v3")` from."""
        call = self._event_call(messages, stop, run_manager, kwargs)
        with closing(call.pieces()) as pieces:
            for events in pieces:
                yield from events

    async def _astream_chat_model_events(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ProtocolEvent]:
        call = self._event_call(messages, stop, run_manager, kwargs)
        async with aclosing(call.apieces()) as pieces:
            async for events in pieces:
                for event in events:
                    yield event

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, run_manager, kwargs)
        token_run = run_manager if self._streams(False, run_manager, kwargs) else None
        chunks: list[AIMessageChunk] = []
        with closing(call.pieces()) as pieces:
            for chunk in pieces:
                chunks.append(chunk)
                if token_run is not None:
                    chunk.id = f"{LC_ID_PREFIX}-{token_run.run_id}"
                    generation = ChatGenerationChunk(message=chunk)
                    token_run.on_llm_new_token(chunk.content, chunk=generation)
        return ChatResult(generations=[ChatGeneration(message=call.writer.whole(chunks))])

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, run_manager, kwargs)
        token_run = run_manager if self._streams(True, run_manager, kwargs) else None
        chunks: list[AIMessageChunk] = []
        try:
            async with aclosing(call.apieces()) as pieces:
                async for chunk in pieces:
                    chunks.append(chunk)
                    if token_run is not None:
                        chunk.id = f"{LC_ID_PREFIX}-{token_run.run_id}"
                        generation = ChatGenerationChunk(message=chunk)
                        await token_run.on_llm_new_token(chunk.content, chunk=generation)
        except asyncio.CancelledError as error:
            if run_manager is not None and is_being_cancelled():
                await run_manager.on_llm_error(error, response=LLMResult(generations=[]))
            raise
        return ChatResult(generations=[ChatGeneration(message=call.writer.whole(chunks))])

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AnyRunManager | None,
        kwargs: dict[str, Any],
    ) -> Call[Answer]:
        v1 = self.output_version == "v1"
        writer = partial(Answer, stops=stop or self.stop or (), v1=v1)
        return Call(self, messages, self._arguments(kwargs), writer=writer, manager=run_manager)

    def _event_call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AnyRunManager | None,
        kwargs: dict[str, Any],
    ) -> Call[ProtocolEvents]:
        message_id = f"{LC_ID_PREFIX}-{run_manager.run_id}" if run_manager else ""
        writer = partial(ProtocolEvents, stops=stop or self.stop or (), message_id=message_id)
        return Call(self, messages, self._arguments(kwargs), writer=writer, manager=run_manager)

    def _arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What a call says: its own session goes before the one that is set."""
        arguments = arguments_of(kwargs)
        if self.session_id is not None:
            arguments.setdefault("session_id", self.session_id)
        return arguments
