"""`BailianAppTool`: an app as a tool of an agent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypedDict, cast

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, InjectedToolArg, ToolException
from langchain_core.version import VERSION
from pydantic import BaseModel, ConfigDict, Field, SecretStr, create_model
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from typing_extensions import override

from bailian_apps.core.errors import AppFailedError, ContentBlockedError, InvalidInputError
from bailian_apps.core.history import Plan, plan_request
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.turns import SessionMarker, Turn
from bailian_apps.langchain.blocks import reference_entry, step_entry
from bailian_apps.langchain.callbacks import AnyRunManager, StepRuns
from bailian_apps.langchain.fields import MODEL_CONFIG, AppFields
from bailian_apps.langchain.messages import MARKER_KEY
from bailian_apps.langchain.runs import (
    aresult_of,
    is_being_cancelled,
    result_of,
    typed_errors,
    with_settings,
)

_CORE_ENDS_CANCELLED = tuple(int(part) for part in VERSION.split(".")[:2]) >= (1, 8)
"""Whether LangChain ends the run of a tool that is cancelled; it does so from 1.8 on."""


logger = logging.getLogger(__name__)


class AppToolArtifact(TypedDict):
    """What a call of the tool leaves in `ToolMessage.artifact`: JSON values, for any checkpointer.

    Attributes:
        prompt: What the app was asked.
        steps: What it did, as in the content blocks of `ChatBailianApp`.
        references: The documents that it cites.
        usage: `input_tokens`, `output_tokens`, `total_tokens`, and `models`, one per model call.
        session_id: The session of the cloud.
        request_id: The cloud's id of the request.
        context_lost: Whether the cloud had forgotten the session that was to be continued.
        bailian: The marker by which the next call of the thread continues the session.
    """

    prompt: str
    steps: list[dict[str, Any]]
    references: list[dict[str, Any]]
    usage: dict[str, Any]
    session_id: str | None
    request_id: str | None
    context_lost: bool
    bailian: dict[str, Any] | None


class _Prompt(BaseModel):
    # LangChain tells the model a field's name, also where the field has an alias.
    model_config = ConfigDict(populate_by_name=True)

    prompt: str = Field(min_length=1, description="What to ask, in full and in plain words.")


class _Runtime(BaseModel):
    # LangGraph fills in what is called `runtime`, and no model is told of it.
    runtime: Annotated[Any, InjectedToolArg] = None


class BailianAppTool(AppFields, BaseTool):
    """A Bailian (Model Studio) app as a tool, for `create_agent` and every LangGraph agent.

    The fields are the settings of the app (see `AppSettings`) and those of every LangChain tool.
    The model that uses the tool says a `prompt` and, with `biz_params_schema`, the app's start
    variables. It is answered with the app's text; `ToolMessage.artifact` is an `AppToolArtifact`.

    What the app does are child runs of the tool's run. When the app itself fails, or its content
    inspection objects, the model is told so and may try something else (`handle_tool_error`). All
    other failures (no connection, a wrong key, a timeout) are raised.

    Example:
        ```python
        travel = BailianAppTool(
            app_id="…", name="travel", description="Knows dishes and sights of Chinese cities."
        )
        agent = create_agent("…", tools=[travel])
        ```

    Attributes:
        name: What the model calls the tool.
        description: What the model is told of it.
        biz_params_schema: A pydantic model of the app's start variables. Its fields become
            arguments of the tool, and what the model says is sent as `biz_params`, over those
            that are set. What is None is not sent.
        args_schema: The arguments, if they are to be others. Needs a `prompt`; all else is
            sent as `biz_params`.
        remember: Whether a call continues the conversation that the tool had before in the same
            agent thread. It is read from the tool messages in the agent's state, so a
            checkpointer keeps it, and another thread has another one.
    """

    model_config = MODEL_CONFIG

    biz_params_schema: type[BaseModel] | None = None
    remember: bool = False
    # Without the artifact a tool could not remember, and LangChain would tell it to the model.
    response_format: Literal["content_and_artifact"] = "content_and_artifact"  # pyright: ignore[reportIncompatibleVariableOverride]
    handle_tool_error: Any = True

    def __init__(self, **fields: Any) -> None:
        """Make a tool of an app's settings.

        Args:
            **fields: The fields of `AppSettings`, and those of every LangChain tool.

        Raises:
            InvalidInputError: A field is unknown or not valid. It names the field and the mend.
        """
        fields["args_schema"] = _arguments_model(
            str(fields.get("name")),
            fields.get("args_schema"),
            fields.get("biz_params_schema"),
            remember=bool(fields.get("remember")),
        )
        super().__init__(**fields)

    @classmethod
    @override
    def is_lc_serializable(cls) -> bool:
        """A tool holds classes, and cannot be dumped."""
        return False

    @override
    def _run(
        self,
        prompt: str,
        *,
        runtime: Any = None,
        run_manager: CallbackManagerForToolRun | None = None,
        **biz_params: Any,
    ) -> tuple[str, AppToolArtifact]:
        with self._reported_errors():
            settings, plan, steps = self._open(prompt, biz_params, runtime, run_manager)
            result = result_of(settings, {"prompt": plan}, steps)
        return result.text, _artifact(prompt, plan, result)

    @override
    async def _arun(
        self,
        prompt: str,
        *,
        runtime: Any = None,
        run_manager: AsyncCallbackManagerForToolRun | None = None,
        **biz_params: Any,
    ) -> tuple[str, AppToolArtifact]:
        try:
            with self._reported_errors():
                settings, plan, steps = self._open(prompt, biz_params, runtime, run_manager)
                result = await aresult_of(settings, {"prompt": plan}, steps)
        except asyncio.CancelledError as error:
            if run_manager is not None and not _CORE_ENDS_CANCELLED and is_being_cancelled():
                await run_manager.on_tool_error(error)
            raise
        return result.text, _artifact(prompt, plan, result)

    def _open(
        self,
        prompt: str,
        biz_params: Mapping[str, Any],
        runtime: Any,
        manager: AnyRunManager | None,
    ) -> tuple[AppSettings, Plan, StepRuns | None]:
        said = {**(self.biz_params or {}), **self._as_biz_params(biz_params)}
        settings, _ = with_settings(self, {"biz_params": said} if said else {})
        earlier = _earlier_turns(runtime, self.name) if self.remember else []
        plan = plan_request([*earlier, Turn(role="user", text=prompt)], settings)
        return settings, plan, StepRuns.of(manager, self.app_id)

    def _as_biz_params(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the app knows them: by alias, as JSON values."""
        schema: Any = self.args_schema
        fields: dict[str, FieldInfo] = getattr(schema, "model_fields", {})
        said: dict[str, Any] = {}
        for name, value in arguments.items():
            field = fields.get(name)
            alias = field and (field.serialization_alias or field.alias)
            if value is not None:
                if isinstance(value, SecretStr):  # it would be sent as asterisks
                    value = value.get_secret_value()
                said[alias or name] = to_jsonable_python(value)
        return said

    @contextmanager
    def _reported_errors(self) -> Generator[None]:
        try:
            with typed_errors(self, {}):
                yield
        except (AppFailedError, ContentBlockedError) as error:
            raise ToolException(str(error)) from error


def _arguments_model(
    name: str, given: Any, biz_params_schema: Any, *, remember: bool
) -> type[BaseModel] | dict[str, Any]:
    if isinstance(given, dict):
        schema = cast("dict[str, Any]", given)
        if remember:
            raise InvalidInputError(
                "args_schema", "is a JSON schema, with remember=True", "Pass a pydantic model"
            )
        _require_prompt("prompt" in schema.get("properties", {}))
        return schema
    model: Any = given or biz_params_schema
    bases: list[Any] = [model] if model else []
    taken: set[str] = set(model.model_fields) if model else set()
    if given:
        _require_prompt("prompt" in taken)
        if not remember or "runtime" in taken:  # the latter when this made it before: a copy
            return given
    elif clash := taken & {"prompt", "runtime", "run_manager"}:
        raise InvalidInputError(
            "biz_params_schema",
            f"has a field {min(clash)!r}, which the tool itself has",
            "Call the field otherwise, and give it that name as its alias",
        )
    if remember:
        bases.append(_Runtime)
    if not given:
        bases.append(_Prompt)
    title = "".join(part.title() for part in name.replace("-", "_").split("_")) + "Arguments"
    return create_model(title, __base__=tuple(bases))


def _require_prompt(present: bool) -> None:
    if not present:
        raise InvalidInputError(
            "args_schema", "has no field 'prompt'", "Add one: it is what the app is asked"
        )


def _earlier_turns(runtime: Any, name: str) -> list[Turn]:
    """What this tool was asked and answered in the thread, from the messages of its state."""
    state = getattr(runtime, "state", None)
    if isinstance(state, Mapping):
        state = cast("Mapping[str, Any]", state).get("messages")
    elif not isinstance(state, list):
        state = getattr(state, "messages", None)
    if state is None:
        logger.warning(
            "tool %s is to remember, but there is no list of messages in the agent's state: it "
            "begins a new conversation with each call",
            name,
        )
    turns: list[Turn] = []
    for message in cast("list[object]", state or []):
        if not isinstance(message, ToolMessage) or message.name != name:
            continue
        artifact: Any = message.artifact
        if isinstance(artifact, Mapping) and MARKER_KEY in artifact:
            artifact = cast("Mapping[str, Any]", artifact)
            turns.append(Turn(role="user", text=str(artifact.get("prompt", ""))))
            marker = SessionMarker.from_dict(artifact[MARKER_KEY])
            turns.append(Turn(role="assistant", text=message.text, marker=marker))
    return turns


def _artifact(prompt: str, plan: Plan, result: AppResult) -> AppToolArtifact:
    marker = plan.marker(result)
    return {
        "prompt": prompt,
        "steps": [step_entry(step) for step in result.steps if not step.is_answer],
        "references": [reference_entry(reference) for reference in result.references],
        "usage": result.usage.to_dict(),
        "session_id": result.session_id,
        "request_id": result.request_id,
        "context_lost": result.context_lost,
        "bailian": marker.to_dict() if marker else None,
    }
