"""`BailianAppRunnable`: an app as a Runnable with a typed result."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing
from typing import Annotated, Any, Generic, TypeAlias, cast

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
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from typing_extensions import TypeVar, Unpack, override

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.events import AppEvent, RunFinished, fold
from bailian_apps.core.language import N_
from bailian_apps.core.redaction import (
    secret_fields,
    secret_names,
    unwrap_params,
    wrap_params,
)
from bailian_apps.core.result import AppResult
from bailian_apps.core.tracebacks import hides_arguments, take
from bailian_apps.core.typed_output import check_output_schema, partial_output, typed_output
from bailian_apps.langchain.arguments import start_variables
from bailian_apps.langchain.errors import langchain_errors
from bailian_apps.langchain.messages import convert_messages, to_turns
from bailian_apps.langchain.runs import AppRun
from bailian_apps.langchain.settings import MODEL_CONFIG
from bailian_apps.langchain.signatures import AppKeywords, RunnableSignatures
from bailian_apps.langchain.step_runs import AnyRunManager
from bailian_apps.owned_stream import OwnedStream

AppInput: TypeAlias = str | PromptValue | BaseMessage | Sequence[Any] | Mapping[str, Any]
"""A prompt; messages, in any form that LangChain accepts; or a dict (see `BailianAppRunnable`)."""

OutputT = TypeVar("OutputT", default=AppResult)

_MAX_NAMES = 10  # in an error
_CALL_KEYS = ("prompt", "messages", "session_id", "image_list", "file_list", "biz_params")


class _InputSchema(BaseModel):
    """The keys of a dict input, without start variables."""

    prompt: str | None = Field(default=None, description="The user's message.")
    messages: list[Any] | None = Field(
        default=None, description="The conversation so far; `prompt`, if set, is added at the end."
    )
    session_id: str | None = Field(default=None, description="The session to continue.")
    image_list: list[str] = Field(default=[], description="URLs of images.")
    file_list: list[str] = Field(default=[], description="URLs of files.")


class _OpenInputSchema(_InputSchema):
    model_config = ConfigDict(extra="allow")


class BailianAppRunnable(  # pyright: ignore[reportIncompatibleMethodOverride] - see signatures.py
    RunnableSignatures, RunnableSerializable[Any, OutputT], Generic[OutputT]
):
    """A Bailian (Model Studio) app as a Runnable: text, messages or a dict in, `AppResult` out.

    It composes with `|`, `assign`, `batch` and the like. `stream` yields growing results: each
    contains everything received so far (text, reasoning, steps, …), and the last is complete. The
    app's steps are child runs of its run. In a LangGraph graph, the answer streams in the mode
    `messages` and the steps in the mode `custom`.

    With an `output_schema`, the answer is an object of that class, and `stream` yields it as it
    grows, from the first moment at which it is valid.

    In a dict, the keys `prompt`, `messages`, `session_id`, `image_list`, `file_list` and
    `biz_params` are options of the call. Every other key is a start variable of the app and is sent
    in `biz_params`. It overrides the same name in the key `biz_params`, which overrides the field.
    With a `biz_params_schema`, only the fields of the schema are sent, so a dict may have other
    keys too.

    The fields are the settings of the app (see `AppSettings`). Each can be overridden per call:
    `runnable.invoke("…", temperature=0.2)`.

    Example:
        ```python
        app = BailianAppRunnable(app_id="…")
        chain = RunnablePassthrough.assign(plan=app) | (lambda state: state["plan"].text)
        chain.invoke({"prompt": "Plan a day", "city": "Hangzhou"})
        ```

    Attributes:
        background: Whether a call submits a background run (extra `background`) and waits for it,
            for longer than a connection lasts. There are no sessions then, and everything arrives
            at the end; the custom event `bailian_run` has the run's id and each new status. A call
            that is left goes on in the cloud, and one that is repeated submits another run.
        biz_params_schema: A pydantic model of the app's start variables. Every input is validated
            with it, and it is part of the input schema. A field is accepted by its name or an
            alias and sent under its alias; its value may also be in `biz_params`. None is not sent.
        output_schema: A pydantic model that the app's answer, which must be JSON, is validated
            with. Default: none; the output is the `AppResult`.
    """

    model_config = MODEL_CONFIG | ConfigDict(populate_by_name=True)

    background: bool = False
    biz_params_schema: type[BaseModel] | None = None
    # LangChain's own property `output_schema` returns it, because `OutputType` does.
    output_class: Annotated[type[OutputT] | None, BeforeValidator(check_output_schema)] = Field(
        default=None, alias="output_schema"
    )

    @property
    @override
    def OutputType(self) -> Any:
        """The class of the output: `AppResult`, or the `output_schema`."""
        return self.output_class or AppResult

    @override
    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """Return the schema of a dict input, with the start variables."""
        if self.biz_params_schema is None:
            return create_model(self.get_name("Input"), __base__=_OpenInputSchema)
        bases = (self.biz_params_schema, _InputSchema)
        return create_model(self.get_name("Input"), __base__=bases)

    @override
    def invoke(
        self, input: AppInput, config: RunnableConfig | None = None, **kwargs: Unpack[AppKeywords]
    ) -> OutputT:
        """Run the app and wait for the complete answer.

        Args:
            input: A prompt, messages, or a dict.
            config: LangChain's config.
            **kwargs: Settings to override, and `session_id`, `image_list`, `file_list`.

        Raises:
            InvalidOutputError: The answer does not fit the `output_schema`.
            BailianError: The call failed.
        """
        call = _RunnableCall(self, input, kwargs)
        del input  # it may hold secrets, and this frame is on the traceback of an error
        return self._call_with_config(call.invoke, call.traced_input, config)

    @override
    async def ainvoke(
        self, input: AppInput, config: RunnableConfig | None = None, **kwargs: Unpack[AppKeywords]
    ) -> OutputT:
        """Run the app, natively async; as `invoke`."""
        call = _RunnableCall(self, input, kwargs)
        del input  # it may hold secrets, and this frame is on the traceback of an error
        return await self._acall_with_config(call.ainvoke, call.traced_input, config)

    @override
    def stream(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input: AppInput, config: RunnableConfig | None = None, **kwargs: Unpack[AppKeywords]
    ) -> Iterator[OutputT]:
        """Run the app and yield growing results. Closing the iterator closes the connection.

        Args:
            input: As for `invoke`.
            config: As for `invoke`.
            **kwargs: As for `invoke`.

        Yields:
            Everything received so far; the last result is what `invoke` returns.

        Raises:
            InvalidOutputError: The answer does not fit the `output_schema`.
            BailianError: The call failed.
        """
        # LangChain's `_transform_stream_with_config` would end this run before its child runs.
        config = ensure_config(config)
        call = _RunnableCall(self, input, kwargs)
        del input  # it may hold secrets, and this frame is on the traceback of an error
        run = get_callback_manager_for_config(config).on_chain_start(
            None, call.traced_input, name=self._run_name(config), run_id=config.pop("run_id", None)
        )
        results = call.stream(run, config)
        last: Any = None
        try:
            for last in _tap_output(run, "tap_output_iter", results):
                yield last
        except BaseException as error:
            try:
                results.close()
            finally:  # it raises where a handler does
                run.on_chain_error(error)
            raise
        run.on_chain_end(last)

    @override
    async def astream(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input: AppInput, config: RunnableConfig | None = None, **kwargs: Unpack[AppKeywords]
    ) -> AsyncIterator[OutputT]:
        """Run the app, natively async; as `stream`."""
        config = ensure_config(config)
        call = _RunnableCall(self, input, kwargs)
        del input  # it may hold secrets, and this frame is on the traceback of an error
        run = await get_async_callback_manager_for_config(config).on_chain_start(
            None, call.traced_input, name=self._run_name(config), run_id=config.pop("run_id", None)
        )
        results = OwnedStream(call.astream(run, config))
        last: Any = None
        try:
            async for last in _tap_output(run, "tap_output_aiter", results):
                yield last
        except BaseException as error:
            try:
                await results.aclose()
            finally:
                await run.on_chain_error(error)
            raise
        await run.on_chain_end(last)

    @override
    def astream_events(
        self, input: AppInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Stream LangChain's events of a run. The input is in the first, without its secrets."""
        events: Any = super().astream_events
        return events(_public_input(self, input, kwargs), config, **kwargs)

    def _run_name(self, config: RunnableConfig) -> str:
        return config.get("run_name") or self.get_name()


def _tap_output(run: AnyRunManager, tap: str, results: Any) -> Any:
    """Return the results through the handler that streams the run's events, if there is one.

    `astream_events` gets the chunks of a Runnable's run that way.
    """
    taps = (getattr(handler, tap, None) for handler in run.handlers)
    return next((each(run.run_id, results) for each in taps if each), results)


def _public_input(runnable: BailianAppRunnable[Any], input_: Any, kwargs: Mapping[str, Any]) -> Any:
    """Return an input as it may be published; `unwrap_params` returns the original."""
    if not isinstance(input_, Mapping):
        return input_
    fields = cast("Mapping[str, Any]", input_)
    names = secret_names(kwargs, runnable.secret_biz_params)
    names = [*names, *secret_fields(runnable.biz_params_schema)]
    public = wrap_params(fields, [*names, *(f"biz_params.{name}" for name in names)])
    public |= {key: fields[key] for key in ("prompt", "messages") if key in fields}
    return public


class _RunnableCall:
    """One call of the Runnable.

    Attributes:
        traced_input: The input without secrets, for LangChain's callbacks.
    """

    def __init__(
        self, runnable: BailianAppRunnable[Any], input_: Any, kwargs: Mapping[str, Any]
    ) -> None:
        self._runnable = runnable
        self.traced_input = _public_input(runnable, input_, kwargs)
        self._input = unwrap_params(input_)
        self._kwargs = take(kwargs)

    def invoke(
        self, _: Any, run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> Any:
        with langchain_errors():
            return self._output(self._prepare(run_manager, config).result())

    async def ainvoke(
        self, _: Any, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> Any:
        with langchain_errors():
            return self._output(await self._prepare(run_manager, config).aresult())

    def stream(
        self, run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> Generator[Any]:
        with langchain_errors():
            add = self._growing_output()
            with closing(self._prepare(run_manager, config).events()) as events:
                for event in events:
                    if (output := add(event)) is not None:
                        yield output

    async def astream(
        self, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> AsyncGenerator[Any]:
        with langchain_errors():
            add = self._growing_output()
            async with OwnedStream(self._prepare(run_manager, config).aevents()) as events:
                async for event in events:
                    if (output := add(event)) is not None:
                        yield output

    def _output(self, result: AppResult) -> Any:
        schema: Any = self._runnable.output_class
        return result if schema is None else typed_output(result, schema)

    def _growing_output(self) -> Callable[[AppEvent], Any]:
        """Return a function that adds an event and returns the output if that has changed it."""
        schema: Any = self._runnable.output_class
        partial, output = AppResult(), None

        def add(event: AppEvent) -> Any:
            nonlocal partial, output
            before, partial = partial, fold(partial, event)
            if schema is None:
                return None if partial is before else partial
            known = output
            if isinstance(event, RunFinished):
                output = typed_output(partial, schema)
            elif partial.text != before.text:
                output = partial_output(partial, schema) or output
            return None if output == known else output

        return add

    @hides_arguments
    def _prepare(self, manager: AnyRunManager, config: RunnableConfig) -> AppRun:
        messages, options, variables = _read_input(self._input)
        kwargs = {**options, **self._kwargs}
        biz_params = self._biz_params(options.get("biz_params"), variables)
        if biz_params or "biz_params" in kwargs:
            kwargs["biz_params"] = biz_params
        app = self._runnable
        turns = to_turns(messages)
        return AppRun.prepare(app, turns, kwargs, manager, config, background=app.background)

    def _biz_params(self, given: Any, variables: dict[str, Any]) -> Any:
        """Return what is sent: the input extends the field, a keyword argument replaces both."""
        app = self._runnable
        if "biz_params" in self._kwargs:
            given, variables = unwrap_params(self._kwargs["biz_params"]), {}
            fixed: Mapping[str, Any] = {}
        else:
            fixed = app.biz_params or {}
        if not isinstance(given, Mapping | None):
            return given  # it is refused later
        biz_params = {**fixed, **cast("Mapping[str, Any]", given or {})}
        if app.biz_params_schema is None:
            return biz_params | variables
        return start_variables(app.biz_params_schema, biz_params, variables)


def _read_input(input_: Any) -> tuple[list[BaseMessage], dict[str, Any], dict[str, Any]]:
    """Return the messages, the other options of the call, and the app's start variables."""
    if not isinstance(input_, Mapping):
        return _to_messages(input_), {}, {}
    fields = cast("Mapping[str, Any]", input_)
    options = {key: fields[key] for key in _CALL_KEYS if fields.get(key) is not None}
    if not options.keys() & {"prompt", "messages"}:
        raise InvalidInputError(
            "input",
            N_("must have 'prompt' or 'messages', got {names}").format(names=_key_names(fields)),
            "Put the user's text into 'prompt'",
        )
    messages = _to_messages(options.pop("messages", []))
    if "prompt" in options:
        messages += _to_messages(options.pop("prompt"))
    return messages, options, {k: value for k, value in fields.items() if k not in _CALL_KEYS}


def _key_names(fields: Mapping[str, Any]) -> str:
    """Return the keys of a dict for an error, which must not show their values."""
    names = [repr(key) if fields[key] is not None else f"{key!r} (None)" for key in fields]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more or "an empty dict"


def _to_messages(value: Any) -> list[BaseMessage]:
    if isinstance(value, str):
        return [HumanMessage(value)]
    if isinstance(value, PromptValue):
        return value.to_messages()
    if isinstance(value, BaseMessage):
        return [value]
    if isinstance(value, Sequence):
        return convert_messages(convert_to_messages, value)
    raise InvalidInputError(
        "input",
        N_("has the unsupported type {type}").format(type=type(value).__name__),
        "Pass text, messages or a dict",
    )
