"""`ChatBailianApp`: an app as a LangChain chat model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing, closing
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
from pydantic import ConfigDict, Field, ValidationError, model_validator
from typing_extensions import override

from bailian_apps.core.request import raise_invalid_input, without_tokens
from bailian_apps.core.settings import AppSettings
from bailian_apps.langchain.blocks import PROVIDER
from bailian_apps.langchain.call import Call, as_message_chunk, with_app_id
from bailian_apps.langchain.callbacks import LLMRunManager
from bailian_apps.langchain.secrecy import as_json, shown, tokens_digest
from bailian_apps.langchain.stream_run import StreamRun, arguments_of, stream_run_of

if TYPE_CHECKING:
    from langchain_core.language_models import ModelProfile

logger = logging.getLogger(__name__)


class ChatBailianApp(AppSettings, BaseChatModel):
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
        stop: Sequences at which an answer ends. An app knows none, so the answer is cut off here
            and the connection is closed.
        max_tokens: Accepted, because other chat models have it, and not sent: an app's limit is
            set in its console. A warning is logged.
        streaming: Whether `invoke` reports tokens to callbacks too; False switches `stream` off.
        cache: Off by default, even if LangChain has a global cache: a cached answer would name an
            old session, and an app may do things.
    """

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        protected_namespaces=(),
        arbitrary_types_allowed=True,
    )

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
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise_invalid_input(error)
        if self.max_tokens is not None:
            logger.warning(
                "max_tokens=%d is not sent: set the limit of app %s in its console",
                self.max_tokens,
                self.app_id,
            )

    @model_validator(mode="before")
    @classmethod
    def _model_is_app_id(cls, fields: Any) -> Any:
        return with_app_id(cast("dict[str, Any]", fields)) if isinstance(fields, dict) else fields

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

    @classmethod
    @override
    def is_lc_serializable(cls) -> bool:
        """It can be dumped; the key becomes a reference to `DASHSCOPE_API_KEY`."""
        return True

    @property
    @override
    def lc_secrets(self) -> dict[str, str]:
        """The key is never dumped, only where it is read from."""
        return {"api_key": "DASHSCOPE_API_KEY"}

    @property
    @override
    def lc_attributes(self) -> dict[str, Any]:
        """What is dumped otherwise than it is: `biz_params` without the users' tokens."""
        shapes: dict[str, Any] = {"timeout": as_json(self.timeout)}
        return shapes | ({"biz_params": without_tokens(self.biz_params)} if self.biz_params else {})

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
            "parser behind it, such as model | JsonOutputParser()"
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
        self, *, async_api: bool, run_manager: LLMRunManager | None = None, **kwargs: Any
    ) -> bool:
        # LangChain would drive `_stream` without the run that the steps belong to; `_generate` has
        # it, and streams itself.
        return run_manager is None and self._streams(async_api, None, kwargs)

    def _streams(
        self, async_api: bool, run_manager: LLMRunManager | None, kwargs: dict[str, Any]
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
        call = self._call(messages, stop, run_manager or (run and run.manager), kwargs)
        chunks = call.chunks()
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
        run = stream_run_of(kwargs)
        call = self._call(messages, stop, run_manager or (run and run.manager), kwargs)
        chunks = call.achunks()
        if run is not None:
            run.chunks = chunks
        return chunks

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
        parts: list[AIMessageChunk] = []
        with closing(call.chunks()) as chunks:
            for chunk in chunks:
                parts.append(as_message_chunk(chunk))
                if token_run is not None:
                    parts[-1].id = f"{LC_ID_PREFIX}-{token_run.run_id}"
                    token_run.on_llm_new_token(cast("str", chunk.message.content), chunk=chunk)
        return ChatResult(generations=[ChatGeneration(message=call.answer.whole(parts))])

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
        parts: list[AIMessageChunk] = []
        try:
            async with aclosing(call.achunks()) as chunks:
                async for chunk in chunks:
                    parts.append(as_message_chunk(chunk))
                    if token_run is not None:
                        parts[-1].id = f"{LC_ID_PREFIX}-{token_run.run_id}"
                        content = cast("str", chunk.message.content)
                        await token_run.on_llm_new_token(content, chunk=chunk)
        except asyncio.CancelledError as error:
            # LangChain never ends the run of a call that is cancelled from outside.
            if run_manager is not None and _is_being_cancelled():
                await run_manager.on_llm_error(error, response=LLMResult(generations=[]))
            raise
        return ChatResult(generations=[ChatGeneration(message=call.answer.whole(parts))])

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: LLMRunManager | None,
        kwargs: dict[str, Any],
    ) -> Call:
        return Call(
            self,
            messages,
            arguments_of(kwargs),
            stops=stop or self.stop or (),
            v1=self.output_version == "v1",
            manager=run_manager,
        )


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)  # Python 3.11
    return cancelling is None or cancelling() > 0
