"""`BailianAppTool`: an app as a tool of an agent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.callbacks.manager import shielded
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, ToolException
from langchain_core.version import VERSION
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr
from typing_extensions import NotRequired, TypedDict, override

from bailian_apps.core.attachments import MEDIA_OPTIONS
from bailian_apps.core.errors import AppFailedError, ContentBlockedError, InvalidOutputError
from bailian_apps.core.history import Plan
from bailian_apps.core.invalid_input import require_type
from bailian_apps.core.redaction import (
    secret_fields,
    unwrap_params,
    wrap_params,
)
from bailian_apps.core.result import AppResult
from bailian_apps.core.tracebacks import hides_arguments, take
from bailian_apps.core.turns import Turn
from bailian_apps.core.typed_output import agent_message, check_output_schema, typed_output
from bailian_apps.langchain.arguments import PROMPT, checked_variables, field_values, tool_schema
from bailian_apps.langchain.blocks import step_entry
from bailian_apps.langchain.errors import langchain_errors
from bailian_apps.langchain.messages import tool_turns
from bailian_apps.langchain.runs import AppRun, is_being_cancelled
from bailian_apps.langchain.settings import MODEL_CONFIG, AppSettingsMixin, chosen_schema
from bailian_apps.langchain.step_runs import AnyRunManager

_LANGCHAIN_ENDS_CANCELLED_TOOLS = tuple(int(part) for part in VERSION.split(".")[:2]) >= (1, 8)
"""Whether LangChain itself ends the run of a cancelled tool, as it does since 1.8."""

logger = logging.getLogger(__name__)


class AppToolArtifact(TypedDict):
    """The artifact of the tool's `ToolMessage`: JSON values, which any checkpointer can store.

    Attributes:
        prompt: The prompt that the app received.
        steps: The app's steps, as in `additional_kwargs["steps"]` of `ChatBailianApp`.
        references: The documents that the answer cites.
        usage: `input_tokens`, `output_tokens`, `total_tokens`, and `models`, one per model call.
        session_id: The cloud's session.
        request_id: The cloud's id of the request.
        context_lost: Whether the cloud had forgotten the session that the call continued.
        reasoning: The reasoning of all steps. It and the next two are missing in older artifacts.
        final_text: As in `AppResult`.
        attempts: How many times the request was sent.
        first_token_ms: As in `AppResult`; missing in older artifacts, as the next one.
        elapsed_ms: As in `AppResult`.
        bailian: The marker with which the thread's next call continues the session.
        output: The answer as JSON values, if the tool has an `output_schema`.
        answer: The app's answer, if the tool has `remember=True` (the message may be edited), or if
            it does not fit the `output_schema` (the message has the error).
    """

    prompt: str
    steps: list[dict[str, Any]]
    references: list[dict[str, Any]]
    usage: dict[str, Any]
    session_id: str | None
    request_id: str | None
    context_lost: bool
    bailian: dict[str, Any] | None
    reasoning: NotRequired[str]
    final_text: NotRequired[str | None]
    attempts: NotRequired[int]
    first_token_ms: NotRequired[float | None]
    elapsed_ms: NotRequired[float | None]
    output: NotRequired[Any]
    answer: NotRequired[str]


class _TypedContent(str):
    """The answer's text with the object it stands for: LangChain sends a model the text alone."""

    __slots__ = ("output",)

    output: BaseModel


class BailianAppTool(AppSettingsMixin, BaseTool):
    """A Bailian (Model Studio) app as a tool, for `create_agent` and every LangGraph agent.

    The fields are the settings of the app (see `AppSettings`) and those of every LangChain tool.
    The agent's model passes a `prompt` and, with `biz_params_schema`, the app's start variables. It
    receives the app's answer; `ToolMessage.artifact` is an `AppToolArtifact`.

    The app's steps are child runs of the tool's run. In a LangGraph graph, the answer streams in
    the mode `messages` and the steps in the mode `custom`. If the app itself fails, or its content
    inspection blocks the answer, or the answer to a model's tool call does not fit the
    `output_schema`, the model receives the error (`handle_tool_error`). All other failures (no
    connection, a wrong key, a timeout) are raised.

    Example:
        ```python
        travel = BailianAppTool(
            app_id="…", name="travel", description="Knows dishes and sights of Chinese cities."
        )
        agent = create_agent("…", tools=[travel])
        ```

    Attributes:
        name: The name of the tool, for the model.
        description: The description of the tool, for the model.
        background: Whether a call submits a background run and waits for it, as in
            `BailianAppRunnable`.
        biz_params_schema: A pydantic model of the app's start variables. Its fields become
            arguments of the tool, which are sent in `biz_params`, under their aliases. A field
            that the model leaves out has its value from `biz_params`, if that has one, or its
            default. None is not sent.
        args_schema: A schema of the arguments in place of the generated one. It needs a `prompt`;
            all other arguments are sent in `biz_params`. In both schemas, fields named `image_list`
            and `file_list` hold the images and files of the call.
        remember: Whether a call continues the tool's earlier conversation in the same agent thread.
            The conversation is read from the tool messages in the agent's state, so a checkpointer
            stores it, and every thread has its own.
        output_schema: A pydantic model that the app's answer, which must be JSON, is validated
            with. The tool then returns the object; a tool call's message has the answer's text, and
            the object as JSON values in the artifact's `output`.
    """

    model_config = MODEL_CONFIG | ConfigDict(populate_by_name=True)

    background: bool = False
    biz_params_schema: type[BaseModel] | None = None
    # LangChain's own property `output_schema` returns it, because `OutputType` does.
    output_class: Annotated[type[BaseModel] | None, BeforeValidator(check_output_schema)] = Field(
        default=None, alias="output_schema"
    )
    remember: bool = False
    # `remember` needs the artifact; with another format LangChain would show it to the model.
    response_format: Literal["content_and_artifact"] = "content_and_artifact"  # pyright: ignore[reportIncompatibleVariableOverride]
    handle_tool_error: Any = True

    _given_schema: Any = PrivateAttr(default=None)

    @override
    def model_post_init(self, context: Any, /) -> None:
        """Generate the schema of the tool's arguments."""
        super().model_post_init(context)
        self._generate_schema()

    def _generate_schema(self) -> None:
        self._given_schema = self.args_schema
        self.args_schema = tool_schema(
            self.name, self.args_schema, self.biz_params_schema, remember=self.remember
        )

    @override
    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: dict[str, type] | None = None,
    ) -> BailianAppTool:
        """Return this tool, or, if anything is passed, a copy with that, as every `as_tool`."""
        given = {
            "name": name,
            "description": description,
            "args_schema": chosen_schema(name or self.name, args_schema, arg_types),
        }
        given = {field: value for field, value in given.items() if value is not None}
        tool = self.model_copy(update=given) if given else self
        if "args_schema" in given:
            tool._generate_schema()
        return tool

    @override
    def __getstate__(self) -> dict[Any, Any]:
        """Pickle without secrets, and without the class that the tool has generated."""
        state = super().__getstate__()
        return state | {"__dict__": state["__dict__"] | {"args_schema": self._given_schema}}

    @override
    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Unpickle, with a newly generated class."""
        super().__setstate__(state)
        self._generate_schema()

    @property
    @override
    def OutputType(self) -> Any:
        """The class of the output, if there is an `output_schema`."""
        return self.output_class or super().OutputType

    @classmethod
    @override
    def is_lc_serializable(cls) -> bool:
        """Whether LangChain can dump it: no, because it contains classes."""
        return False

    @override
    def run(self, tool_input: str | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Run the tool; callbacks see its arguments without secrets."""
        tool_input = self._as_traced(tool_input)
        return _unwrapped(super().run(tool_input, *args, **kwargs))

    @override
    async def arun(self, tool_input: str | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Run the tool, natively async; as `run`."""
        tool_input = self._as_traced(tool_input)
        return _unwrapped(await super().arun(tool_input, *args, **kwargs))

    def _as_traced(self, tool_input: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(tool_input, str):
            return tool_input
        require_type(tool_input, dict, "input")
        names = (*self.secret_biz_params, *secret_fields(self.args_schema))
        return wrap_params(tool_input, names)

    @override
    def _parse_input(
        self, tool_input: str | dict[str, Any], tool_call_id: str | None
    ) -> str | dict[str, Any]:
        given: Any = unwrap_params(tool_input)
        if isinstance(given, str):
            given = {PROMPT: given}
        filled = field_values(self.args_schema, self.biz_params or {}, given)
        parsed: Any = super()._parse_input(filled, tool_call_id)
        return {**parsed, "_tool_call_id": tool_call_id}

    @override
    def _run(
        self,
        prompt: str,
        *,
        run_config: RunnableConfig,  # LangChain passes it, by its type
        runtime: Any = None,
        run_manager: CallbackManagerForToolRun | None = None,
        _tool_call_id: str | None = None,
        **biz_params: Any,
    ) -> tuple[str | ToolMessage, AppToolArtifact]:
        with self._tool_errors():
            run = self._prepare(prompt, biz_params, runtime, run_manager, run_config or {})
            return self._content_and_artifact(prompt, run.plan, run.result(), _tool_call_id)

    @override
    async def _arun(
        self,
        prompt: str,
        *,
        run_config: RunnableConfig,
        runtime: Any = None,
        run_manager: AsyncCallbackManagerForToolRun | None = None,
        _tool_call_id: str | None = None,
        **biz_params: Any,
    ) -> tuple[str | ToolMessage, AppToolArtifact]:
        if run_manager is not None:
            # LangChain shields the ends of all other runs from being cancelled, as anyio does.
            run_manager.on_tool_error = shielded(run_manager.on_tool_error)
        try:
            with self._tool_errors():
                run = self._prepare(prompt, biz_params, runtime, run_manager, run_config or {})
                result = await run.aresult()
                return self._content_and_artifact(prompt, run.plan, result, _tool_call_id)
        except asyncio.CancelledError as error:
            if run_manager and not _LANGCHAIN_ENDS_CANCELLED_TOOLS and is_being_cancelled():
                await run_manager.on_tool_error(error)
            raise

    @hides_arguments
    def _prepare(
        self,
        prompt: str,
        arguments: dict[str, Any],
        runtime: Any,
        manager: AnyRunManager | None,
        config: RunnableConfig,
    ) -> AppRun:
        arguments = take(arguments)
        kwargs = {name: arguments.pop(name) for name in MEDIA_OPTIONS if name in arguments}
        schema = self._given_schema or self.biz_params_schema
        biz_params = checked_variables(schema, self.biz_params or {}, arguments)
        earlier = _earlier_turns(runtime, self.name) if self.remember else []
        turns = [*earlier, Turn(role="user", text=prompt)]
        if biz_params:
            kwargs["biz_params"] = biz_params
        return AppRun.prepare(self, turns, kwargs, manager, config, background=self.background)

    def _content_and_artifact(
        self, prompt: str, plan: Plan, result: AppResult, call_id: str | None
    ) -> tuple[str | ToolMessage, AppToolArtifact]:
        marker = plan.marker(result)
        artifact: AppToolArtifact = {
            "prompt": prompt,
            "steps": [step_entry(step) for step in result.steps if not step.is_answer],
            "references": [reference.to_dict(compact=True) for reference in result.references],
            "usage": result.usage.to_dict(),
            "session_id": result.session_id,
            "request_id": result.request_id,
            "context_lost": result.context_lost,
            "bailian": marker.to_dict() if marker else None,
            "reasoning": result.reasoning,
            "final_text": result.final_text,
            "attempts": result.attempts,
            "first_token_ms": result.first_token_ms,
            "elapsed_ms": result.elapsed_ms,
        }
        if self.remember:
            artifact["answer"] = result.text
        if self.output_class is None:
            return result.text, artifact
        content = _TypedContent(result.text)
        try:
            content.output = typed_output(result, self.output_class)
        except InvalidOutputError as error:
            if call_id is None or not self.handle_tool_error:
                raise
            return self._error_message(error, artifact, call_id), artifact
        artifact["output"] = content.output.model_dump(mode="json")
        return content, artifact

    def _error_message(
        self, error: InvalidOutputError, artifact: AppToolArtifact, call_id: str
    ) -> ToolMessage:
        """Return the error for the model; LangChain's own would have no artifact to remember."""
        exception, content = ToolException(agent_message(error)), self.handle_tool_error
        exception.__cause__ = error
        if callable(content):
            content = cast("Any", content(exception))
        elif content is True:
            content = str(exception)
        artifact["answer"] = "" if error.partial is None else error.partial.text
        return ToolMessage(
            content,
            artifact=artifact,
            tool_call_id=call_id,
            name=self.name,
            status="error",
        )

    @contextmanager
    def _tool_errors(self) -> Generator[None]:
        try:
            with langchain_errors():
                yield
        except (AppFailedError, ContentBlockedError) as error:
            raise ToolException(error.describe("en")) from error  # a model reads it


def _earlier_turns(runtime: Any, name: str) -> list[Turn]:
    """Return the tool's earlier prompts and answers, from the messages in the agent's state."""
    state = getattr(runtime, "state", None)
    if isinstance(state, Mapping):
        state = cast("Mapping[str, Any]", state).get("messages")
    elif not isinstance(state, list):
        state = getattr(state, "messages", None)
    if state is None:
        logger.warning(
            "tool %s has remember=True, but the agent's state has no list of messages: each call "
            "starts a new conversation",
            name,
        )
    return tool_turns(cast("list[object]", state or []), name)


def _unwrapped(output: Any) -> Any:
    return output.output if isinstance(output, _TypedContent) else output
