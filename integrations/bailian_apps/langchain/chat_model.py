"""`ChatBailianApp`: an app as a LangChain chat model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

from langchain_core.caches import BaseCache
from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from pydantic import Field
from typing_extensions import Unpack, override

from bailian_apps.core.redaction import redact_kwargs, secrets_digest
from bailian_apps.core.request import SessionId
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.tracebacks import take
from bailian_apps.langchain.blocks import PROVIDER
from bailian_apps.langchain.chat_call import (
    ChatCall,
    NotSupported,
    StreamRun,
    caller_kwargs,
    ignore_max_tokens,
    message_id_of,
    stop_sequences,
)
from bailian_apps.langchain.message_chunks import (
    MessageChunkBuilder,
    as_generation,
    without_session,
)
from bailian_apps.langchain.messages import convert_messages
from bailian_apps.langchain.protocol_events import ProtocolEvent, ProtocolEventBuilder
from bailian_apps.langchain.runs import is_being_cancelled
from bailian_apps.langchain.settings import MODEL_CONFIG
from bailian_apps.langchain.signatures import ChatKeywords, ChatSignatures
from bailian_apps.langchain.step_runs import AnyRunManager
from bailian_apps.owned_stream import OwnedStream

if TYPE_CHECKING:
    from langchain_core.language_models import ModelProfile


class ChatBailianApp(ChatSignatures, BaseChatModel):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A Bailian (Model Studio) app as a chat model.

    The fields are the settings of the app (see `AppSettings`). Each can be overridden per call:
    `model.invoke("…", biz_params={"city": "Hangzhou"})`. A call also takes `session_id`,
    `image_list` and `file_list`.

    The conversation is the list of messages: each answer stores the cloud's session in its
    `response_metadata`, and the next call continues that session and sends only the new messages.
    The model stores no conversation, so one object serves any number of threads, tasks and users.

    What the app does (workflow nodes, tool calls, retrievals) is reported as child runs of the
    model's run to every LangChain callback and tracer, as custom events named `bailian_step`, and
    as content blocks of the answer.

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
        session_id: The cloud session of every call, if you manage sessions yourself; meant for
            `configurable_fields`, so that each request sets its own. None takes the session from
            the messages.
        stop: Sequences at which an answer ends. The API has no such parameter: the adapter cuts the
            answer off and closes the connection.
        max_tokens: Accepted for compatibility with other chat models, also per call, but not sent:
            the limit is set in the app's console. A warning is logged.
        streaming: Whether `invoke` reports tokens to callbacks; False disables `stream`.
        cache: Off by default, even if LangChain has a global cache: an app may have side effects.
            An answer from a cache names no session, so the conversation after it is sent whole.
    """

    model_config = MODEL_CONFIG

    session_id: SessionId = None
    stop: list[str] | None = None
    max_tokens: int | None = None
    # Not False: an explicitly set False, as in a copy of all fields, disables streaming.
    streaming: bool | None = None
    cache: BaseCache | bool | None = Field(default=False, exclude=True)

    @override
    def model_post_init(self, context: Any, /) -> None:
        """Warn about `max_tokens`."""
        super().model_post_init(context)
        ignore_max_tokens(self.app_id, self.max_tokens)

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
        return redact_kwargs({"model_name": self.app_id, **params}, self.secret_biz_params)

    @override
    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        kwargs = redact_kwargs(caller_kwargs(kwargs), self.secret_biz_params)
        return super()._get_invocation_params(stop=stop or self.stop, **kwargs)

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        given = (kwargs.get("model"), kwargs.get("app_id"))
        app_id = next((each for each in given if isinstance(each, str) and each), self.app_id)
        params = LangSmithParams(ls_provider=PROVIDER, ls_model_name=app_id, ls_model_type="chat")
        temperature = kwargs.get("temperature", self.temperature)
        if isinstance(temperature, (int, float)):
            params["ls_temperature"] = temperature
        if stop := stop or self.stop:
            params["ls_stop"] = stop
        return params

    @override
    def _convert_input(self, model_input: LanguageModelInput) -> PromptValue:
        return convert_messages(super()._convert_input, model_input)

    @override
    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        kwargs, names = caller_kwargs(kwargs), self.secret_biz_params
        try:
            key = super()._get_llm_string(stop=stop, **redact_kwargs(kwargs, names))
            digest = secrets_digest(dict(self), kwargs, names)
        except (RecursionError, ValueError):  # a value that cannot be written: the call refuses it
            return uuid4().hex
        return f"{key}---{digest}" if digest else key

    @override
    def _convert_cached_generations(self, cache_val: list[Any]) -> list[ChatGeneration]:
        # LangChain calls it with what it found in a cache, on all paths.
        return [without_session(each) for each in super()._convert_cached_generations(cache_val)]

    @override
    def _resolve_model_profile(self) -> ModelProfile:
        return {
            "image_inputs": True,
            "image_url_inputs": True,
            "image_tool_message": True,
            "audio_inputs": False,
            "video_inputs": False,
            "reasoning_output": True,
            "tool_calling": False,
            "tool_choice": False,
            "structured_output": False,
        }

    bind_tools: ClassVar[Any] = NotSupported(
        BaseChatModel.bind_tools,
        "an app only calls its own tools: add them to the app in its console, or pass this app as "
        "a tool to an agent whose model takes tools",
    )
    with_structured_output: ClassVar[Any] = NotSupported(
        BaseChatModel.with_structured_output,
        "an app takes no schema: use BailianAppRunnable(output_schema=…), or ask for JSON in the "
        "prompt and add a parser, such as model | PydanticOutputParser(pydantic_object=…)",
    )

    @override
    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Unpack[ChatKeywords],
    ) -> Iterator[AIMessageChunk]:
        """Stream the answer. Closing the iterator closes the connection.

        Args:
            input: The conversation, or a prompt.
            config: LangChain's config.
            stop: Sequences at which the answer ends.
            **kwargs: Settings to override, and `session_id`, `image_list`, `file_list`.

        Yields:
            Chunks that add up to the message that `invoke` returns.

        Raises:
            BailianError: The call failed.
        """
        config = ensure_config(config)
        run = StreamRun(self, CallbackManager, config)
        public: Any = run.add_to(kwargs, self.secret_biz_params)
        stream = super().stream(input, config, stop=stop, **public)
        try:
            for chunk in stream:  # noqa: UP028  # `yield from` would close `stream` first
                yield chunk
        finally:
            run.close(stream)

    @override
    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Unpack[ChatKeywords],
    ) -> AsyncIterator[AIMessageChunk]:
        """Stream the answer, natively async; as `stream`."""
        config = ensure_config(config)
        run = StreamRun(self, AsyncCallbackManager, config)
        public: Any = run.add_to(kwargs, self.secret_biz_params)
        stream = OwnedStream(super().astream(input, config, stop=stop, **public))
        try:
            async for chunk in stream:
                yield chunk
        finally:
            await run.aclose(stream)

    @override
    def _should_stream(
        self, *, async_api: bool, run_manager: AnyRunManager | None = None, **kwargs: Any
    ) -> bool:
        # With a run manager, LangChain would call `_stream` without it. `_generate` receives it and
        # streams by itself.
        return run_manager is None and self._streams_tokens(async_api, None, kwargs)

    def _streams_tokens(
        self, async_api: bool, manager: AnyRunManager | None, kwargs: dict[str, Any]
    ) -> bool:
        """Return whether LangChain would stream this call."""
        run_manager: Any = manager
        return super()._should_stream(async_api=async_api, run_manager=run_manager, **kwargs)

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        run = StreamRun.of(kwargs)
        manager = run_manager or (run and run.manager)
        chunks = self._chat_call(messages, stop, manager, kwargs).stream(as_generation)
        if run is not None:
            run.chunks = chunks
        return chunks

    @override
    def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        run = StreamRun.of(kwargs)
        manager = run_manager or (run and run.manager)
        chunks = self._chat_call(messages, stop, manager, kwargs).astream(as_generation)
        if run is None:
            return chunks
        # LangChain drops what this returns, and does not close it: `astream` does.
        run.chunks = OwnedStream(chunks)
        return run.chunks

    def _stream_chat_model_events(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ProtocolEvent]:
        """Stream protocol events, for LangChain's `stream_events(version="v3")`."""
        with closing(self._event_call(messages, stop, run_manager, kwargs).stream()) as batches:
            for events in batches:
                yield from events

    async def _astream_chat_model_events(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ProtocolEvent]:
        call = self._event_call(messages, stop, run_manager, kwargs)
        async with OwnedStream(call.astream()) as batches:
            async for events in batches:
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
        streams = self._streams_tokens(False, run_manager, kwargs)
        call = self._chat_call(messages, stop, run_manager, kwargs, streams=streams)
        chunks: list[AIMessageChunk] = []
        with closing(call.stream()) as stream:
            for chunk in stream:
                chunks.append(chunk)
                if streams and run_manager:
                    generation = as_generation(chunk)
                    run_manager.on_llm_new_token(chunk.content, chunk=generation)
        message = call.builder.final_message(chunks)
        return ChatResult(generations=[ChatGeneration(message=message)])

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        streams = self._streams_tokens(True, run_manager, kwargs)
        call = self._chat_call(messages, stop, run_manager, kwargs, streams=streams)
        chunks: list[AIMessageChunk] = []
        try:
            async with OwnedStream(call.astream()) as stream:
                async for chunk in stream:
                    chunks.append(chunk)
                    if streams and run_manager:
                        generation = as_generation(chunk)
                        await run_manager.on_llm_new_token(chunk.content, chunk=generation)
        except asyncio.CancelledError as error:
            if run_manager is not None and is_being_cancelled():
                await run_manager.on_llm_error(error, response=LLMResult(generations=[]))
            raise
        message = call.builder.final_message(chunks)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chat_call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        manager: AnyRunManager | None,
        kwargs: dict[str, Any],
        *,
        streams: bool = True,
    ) -> ChatCall[MessageChunkBuilder]:
        make_builder = partial(
            MessageChunkBuilder,
            stop=stop_sequences(stop, self.stop),
            v1=self.output_version == "v1",
            message_id=message_id_of(manager) if streams else None,
        )
        return ChatCall(make_builder, self, messages, manager, self._call_kwargs(kwargs))

    def _event_call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        manager: AnyRunManager | None,
        kwargs: dict[str, Any],
    ) -> ChatCall[ProtocolEventBuilder]:
        message_id = message_id_of(manager) or ""
        make_builder = partial(
            ProtocolEventBuilder, stop=stop_sequences(stop, self.stop), message_id=message_id
        )
        return ChatCall(make_builder, self, messages, manager, self._call_kwargs(kwargs))

    def _call_kwargs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs = caller_kwargs(take(kwargs))
        ignore_max_tokens(self.app_id, kwargs.pop("max_tokens", None))
        return {"session_id": self.session_id, **kwargs}
