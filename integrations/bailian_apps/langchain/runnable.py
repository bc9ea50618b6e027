"""`BailianAppRunnable`: an app as a Runnable with a typed result."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any, TypeAlias, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
)
from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import (
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from typing_extensions import override

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.events import fold
from bailian_apps.core.history import plan_request
from bailian_apps.core.redaction import redact_biz_params
from bailian_apps.core.request import raise_invalid_input
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import AppSettings
from bailian_apps.langchain.callbacks import AnyRunManager, StepRuns
from bailian_apps.langchain.fields import MODEL_CONFIG, AppFields, call_arguments
from bailian_apps.langchain.messages import to_turns
from bailian_apps.langchain.runs import (
    aevents,
    aresult_of,
    events,
    result_of,
    typed_errors,
    with_settings,
)
from bailian_apps.langchain.secrecy import shown

AppInput: TypeAlias = str | PromptValue | BaseMessage | Sequence[Any] | Mapping[str, Any]
"""The user's words; messages, in any form that LangChain knows; or a dict (see the class)."""

_OWN_KEYS = ("prompt", "messages", "session_id", "image_list", "file_list", "biz_params")


class _InputKeys(BaseModel):
    """What a dict may say beside start variables."""

    prompt: str | None = Field(default=None, description="The user's words.")
    messages: list[Any] | None = Field(
        default=None, description="The conversation so far; `prompt`, if given, comes last."
    )
    session_id: str | None = Field(default=None, description="The session to continue.")
    image_list: list[str] = Field(default=[], description="Addresses of images.")
    file_list: list[str] = Field(default=[], description="Addresses of files.")


class _Open(_InputKeys):
    model_config = ConfigDict(extra="allow")


class BailianAppRunnable(AppFields, RunnableSerializable[Any, AppResult]):
    """A Bailian (Model Studio) app as a Runnable: words, messages or a dict in, `AppResult` out.

    It composes with `|`, `assign`, `batch` and the like. `stream` yields results that grow: each
    holds everything so far (text, reasoning, steps, …), and the last is whole. What the app does
    are child runs of its run.

    Of a dict, the keys `prompt`, `messages`, `session_id`, `image_list`, `file_list` and
    `biz_params` are the call's own. Every other key is a start variable of the app, and is sent in
    `biz_params`, over those of the key `biz_params`, over those that are set. With a
    `biz_params_schema` only its fields are, so that a dict may hold what is meant for others.

    The fields are the settings of the app (see `AppSettings`), and every one may be overridden per
    call: `runnable.invoke("…", temperature=0.2)`.

    Example:
        ```python
        app = BailianAppRunnable(app_id="…")
        chain = RunnablePassthrough.assign(plan=app) | (lambda said: said["plan"].text)
        chain.invoke({"prompt": "Plan a day", "city": "Hangzhou"})
        ```

    Attributes:
        biz_params_schema: A pydantic model of the app's start variables: what the input is
            checked against, and part of the input schema.
    """

    model_config = MODEL_CONFIG

    biz_params_schema: type[BaseModel] | None = None

    @override
    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The form of a dict that this takes, start variables included."""
        if self.biz_params_schema is None:
            return create_model(self.get_name("Input"), __base__=_Open)
        bases = (self.biz_params_schema, _InputKeys)
        return create_model(self.get_name("Input"), __base__=bases)

    @override
    def invoke(
        self, input: AppInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AppResult:
        """Run the app and wait for the whole answer.

        Args:
            input: The user's words, messages, or a dict.
            config: LangChain's config.
            **kwargs: Settings to override, and `session_id`, `image_list`, `file_list`.

        Raises:
            BailianError: The call failed.
        """
        call = _Call(self, input, kwargs)
        return self._call_with_config(call.invoke, call.traced, config)

    @override
    async def ainvoke(
        self, input: AppInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AppResult:
        """As `invoke`, natively async."""
        call = _Call(self, input, kwargs)
        return await self._acall_with_config(call.ainvoke, call.traced, config)

    @override
    def stream(
        self, input: AppInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AppResult]:
        """Run the app and yield what there is so far; closing it closes the connection.

        Args:
            input: As for `invoke`.
            config: As for `invoke`.
            **kwargs: As for `invoke`.

        Yields:
            Results that grow; the last is what `invoke` gives.

        Raises:
            BailianError: The call failed.
        """
        # LangChain's `_transform_stream_with_config` would end this run before the steps below it.
        config = ensure_config(config)
        call = _Call(self, input, kwargs)
        run = get_callback_manager_for_config(config).on_chain_start(
            None, call.traced, name=self._run_name(config), run_id=config.pop("run_id", None)
        )
        results = call.results(run)
        last = AppResult()
        try:
            for last in _tapped(run, "tap_output_iter", results):
                yield last
        except BaseException as error:
            results.close()
            run.on_chain_error(error)
            raise
        run.on_chain_end(last)

    @override
    async def astream(
        self, input: AppInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AppResult]:
        """As `stream`, natively async."""
        config = ensure_config(config)
        call = _Call(self, input, kwargs)
        run = await get_async_callback_manager_for_config(config).on_chain_start(
            None, call.traced, name=self._run_name(config), run_id=config.pop("run_id", None)
        )
        results = call.aresults(run)
        last = AppResult()
        try:
            async for last in _tapped(run, "tap_output_aiter", results):
                yield last
        except BaseException as error:
            await results.aclose()
            await run.on_chain_error(error)
            raise
        await run.on_chain_end(last)

    def _run_name(self, config: RunnableConfig) -> str:
        return config.get("run_name") or self.get_name()


def _tapped(run: AnyRunManager, tap: str, results: Any) -> Any:
    """The results, by way of whoever streams events of the run (`astream_events`)."""
    taps = (getattr(handler, tap, None) for handler in run.handlers)
    return next((each(run.run_id, results) for each in taps if each), results)


class _Call:
    """One call: its input apart from what a trace may show of it.

    Attributes:
        traced: The input without secrets.
    """

    def __init__(
        self, runnable: BailianAppRunnable, input_: Any, arguments: Mapping[str, Any]
    ) -> None:
        self._runnable = runnable
        self._input = input_
        self._arguments = call_arguments(arguments)
        self.traced = input_
        if isinstance(input_, Mapping):
            # Any key may be a start variable, so the tokens may stand at the top too.
            self.traced = redact_biz_params(shown(cast("Mapping[str, Any]", input_)))

    def invoke(self, _: Any, run_manager: CallbackManagerForChainRun) -> AppResult:
        with typed_errors(self._runnable, self._arguments):
            return result_of(*self._open(run_manager))

    async def ainvoke(self, _: Any, run_manager: AsyncCallbackManagerForChainRun) -> AppResult:
        with typed_errors(self._runnable, self._arguments):
            return await aresult_of(*self._open(run_manager))

    def results(self, run_manager: CallbackManagerForChainRun) -> Generator[AppResult]:
        with typed_errors(self._runnable, self._arguments):
            partial = AppResult()
            with closing(events(*self._open(run_manager))) as run:
                for event in run:
                    if (grown := fold(partial, event)) is not partial:
                        yield (partial := grown)

    async def aresults(
        self, run_manager: AsyncCallbackManagerForChainRun
    ) -> AsyncGenerator[AppResult]:
        with typed_errors(self._runnable, self._arguments):
            partial = AppResult()
            async with aclosing(aevents(*self._open(run_manager))) as run:
                async for event in run:
                    if (grown := fold(partial, event)) is not partial:
                        yield (partial := grown)

    def _open(self, manager: AnyRunManager) -> tuple[AppSettings, dict[str, Any], StepRuns | None]:
        messages, said, variables = _read(self._input, self._runnable.biz_params_schema)
        arguments = {**said, **self._arguments}
        # What the input says goes over what is set; a keyword of the call replaces both.
        if "biz_params" not in self._arguments and ("biz_params" in said or variables):
            given = (self._runnable.biz_params, said.get("biz_params"), variables)
            arguments["biz_params"] = {k: v for each in given for k, v in (each or {}).items()}
        settings, said = with_settings(self._runnable, arguments)
        session_id = said.pop("session_id", None)
        plan = plan_request(to_turns(messages), settings, session_id=session_id)
        return settings, {"prompt": plan, **said}, StepRuns.of(manager, settings.app_id)


def _read(
    given: Any, schema: type[BaseModel] | None
) -> tuple[list[BaseMessage], dict[str, Any], dict[str, Any]]:
    """The messages, what else the call itself says, and the app's start variables."""
    if not isinstance(given, Mapping):
        return _messages(given), {}, {}
    fields = cast("Mapping[str, Any]", given)
    said = {key: fields[key] for key in _OWN_KEYS if fields.get(key) is not None}
    messages = _messages(said.pop("messages", []))
    if "prompt" in said:
        messages += _messages(said.pop("prompt"))
    if schema is None:
        return messages, said, {k: v for k, v in fields.items() if k not in _OWN_KEYS}
    try:
        checked = schema.model_validate({k: v for k, v in fields.items() if k not in _OWN_KEYS})
    except ValidationError as error:
        raise_invalid_input(error)
    variables = checked.model_dump(mode="json", by_alias=True, exclude_none=True)
    return messages, said, variables


def _messages(given: Any) -> list[BaseMessage]:
    if isinstance(given, str):
        return [HumanMessage(given)]
    if isinstance(given, PromptValue):
        return given.to_messages()
    if isinstance(given, BaseMessage):
        return [given]
    if isinstance(given, Sequence):
        return convert_to_messages(cast("Sequence[Any]", given))
    raise InvalidInputError(
        "input", f"is of type {type(given).__name__}", "Pass a str, messages, or a dict"
    )
