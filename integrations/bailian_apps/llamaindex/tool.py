"""`bailian_app_tool`: a Bailian app as a tool of LlamaIndex agents and workflows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from llama_index.core.async_utils import (
    asyncio_run,  # pyright: ignore[reportUnknownVariableType]
)
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, TextBlock
from llama_index.core.base.response.schema import PydanticResponse, Response
from llama_index.core.tools import FunctionTool, ToolMetadata, ToolOutput
from llama_index.core.workflow import Context
from pydantic import BaseModel, Field, ValidationError, create_model
from typing_extensions import Unpack

from bailian_apps.app import BailianApp
from bailian_apps.core.attachments import MEDIA_OPTIONS
from bailian_apps.core.errors import InvalidInputError, InvalidOutputError
from bailian_apps.core.invalid_input import raise_invalid_input
from bailian_apps.core.redaction import (
    secret_fields,
    to_json_values,
    unwrap_params,
    wrap_params,
    wrap_secrets,
)
from bailian_apps.core.result import AppResult
from bailian_apps.core.tracebacks import hides_arguments, take
from bailian_apps.core.typed_output import agent_message, check_output_schema, typed_output
from bailian_apps.llamaindex.instrumentation import instrumented_tool
from bailian_apps.llamaindex.keywords import LLMKeywords
from bailian_apps.llamaindex.llm import BailianAppLLM, ResultKeeper
from bailian_apps.llamaindex.responses import run_metadata, source_nodes
from bailian_apps.llamaindex.workflow_context import (
    CONTEXT,
    StoredConversation,
    english_for_agents,
    step_context,
    step_writer,
)

_PROMPT = "prompt"
_KEEPS_EXCEPTION = "exception" in inspect.signature(ToolOutput.__init__).parameters
"""Whether LlamaIndex keeps a tool's exception in its output, as newer releases do."""


@hides_arguments
def bailian_app_tool(
    app: BailianApp | None = None,
    llm: BailianAppLLM | None = None,
    *,
    name: str,
    description: str,
    params: type[BaseModel] | None = None,
    output_schema: type[BaseModel] | None = None,
    return_direct: bool = False,
    keep_session: bool = True,
    step_deltas: bool = False,
    **settings: Unpack[LLMKeywords],
) -> FunctionTool:
    """Create a tool that calls a Bailian app, for `FunctionAgent`, `ReActAgent`, `AgentWorkflow`.

    All calls by one agent form one conversation with the app. Its messages are stored in the
    workflow's `Context`, under the tool's name and the app's id, so it continues wherever the
    context does. Steps of the app are written to the workflow's stream as `BailianAppStepStream`.
    Outside a workflow, each call is a conversation of its own.

    With `keep_session=False` the tool needs no context, so that `CodeActAgent` takes it too. Its
    function (`fn`, `async_fn`, `real_fn`) has the tool's name and description, and a signature with
    its arguments; it returns the answer's text.

    The output's `raw_output` is a `Response` with the cited documents (or else those that the app
    found) in `source_nodes`, and steps and usage in `metadata`. With an `output_schema` it is a
    `PydanticResponse`, whose `response` is the object; the agent reads the answer's text.

    Args:
        app: The app to call, instead of settings.
        llm: The LLM to call, instead of settings.
        name: The tool's name.
        description: What the app can do; an agent selects the tool by it.
        params: A model of the tool's arguments: `prompt`, which is added if it is missing,
            `image_list` and `file_list`; the other fields are `biz_params`, and override those of
            the settings one by one.
        output_schema: A model of the app's answer, which must be JSON. If it does not fit, a call
            raises an `InvalidOutputError`; in a workflow's context, where an agent would only see
            that error's message, its output has `is_error`, with the answer for the agent.
        return_direct: Whether the agent returns the app's answer as its own.
        keep_session: Whether all calls by one agent form one conversation.
        step_deltas: Whether what the steps say is written to the workflow's stream too, piece by
            piece, as events of the phase `"delta"`. A workflow keeps every event until somebody
            reads its stream, so it cannot be known whether anybody listens.
        **settings: The fields of `BailianAppLLM`.

    Raises:
        InvalidInputError: A field is unknown or invalid.

    Example:
        ```python
        tool = bailian_app_tool(app_id="…", name="plan_trip", description="Plans a day in a city")
        agent = FunctionAgent(tools=[tool], llm=OpenAI())
        ```
    """
    if params is not None and CONTEXT in params.model_fields:
        raise InvalidInputError(
            f"params.{CONTEXT}", "is reserved for the workflow's context", "Rename the field"
        )
    metadata = ToolMetadata(
        name=name,
        description=description,
        fn_schema=_with_prompt(params),
        return_direct=return_direct,
    )
    llm = BailianAppLLM.from_app_or_llm(app, llm, **settings)
    check_output_schema(output_schema)
    return _AppTool(
        llm, metadata, params, output_schema, keep_session=keep_session, step_deltas=step_deltas
    )


def _with_prompt(params: type[BaseModel] | None) -> type[BaseModel]:
    prompt: Any = (str, Field(description="The question for the app, self-contained"))
    if params is None:
        return create_model("BailianAppInput", prompt=prompt)
    if _PROMPT in params.model_fields:
        return params
    return create_model(params.__name__, __base__=params, __doc__=params.__doc__, prompt=prompt)


class _AppTool(FunctionTool):
    """A `FunctionTool`: agents pass the workflow's context to no other kind of tool."""

    def __init__(
        self,
        llm: BailianAppLLM,
        metadata: ToolMetadata,
        params: type[BaseModel] | None,
        output_schema: type[BaseModel] | None,
        *,
        keep_session: bool,
        step_deltas: bool,
    ) -> None:
        def text(*args: Any, **kwargs: Any) -> str:
            return self.call(*args, **take(kwargs)).content

        async def atext(*args: Any, **kwargs: Any) -> str:
            return (await self.acall(*args, **take(kwargs))).content

        for function in (text, atext):
            _describe(function, metadata)
        super().__init__(fn=text, async_fn=atext, metadata=metadata)
        self.requires_context = keep_session
        self.ctx_param_name = CONTEXT
        self._llm = llm
        self._params = params
        self._output_schema = output_schema
        self._keep_session = keep_session
        self._step_deltas = step_deltas

    def __reduce__(self) -> tuple[Callable[[], FunctionTool], tuple[()]]:
        """Pickle by the arguments of `bailian_app_tool`; the schema is a generated class."""
        make = partial(
            bailian_app_tool,
            llm=self._llm,
            name=self.metadata.get_name(),
            description=self.metadata.description,
            params=self._params,
            output_schema=self._output_schema,
            return_direct=self.metadata.return_direct,
            keep_session=self._keep_session,
            step_deltas=self._step_deltas,
        )
        return make, ()

    def without_secrets(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the tool's arguments to be published; `unwrap_params` returns the original."""
        names = (*self._llm.secret_biz_params, *secret_fields(self.metadata.fn_schema))
        return wrap_params(arguments, names)

    @instrumented_tool
    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ToolOutput:
        """Call the app; with a context, through `acall`, because contexts are async."""
        if kwargs.pop(CONTEXT, None) is not None:
            return asyncio_run(self.acall(*args, **unwrap_params(kwargs)))
        with english_for_agents():
            question, overrides = self._parse(args, kwargs)
            kept = ResultKeeper()
            response = kept.listen_to(self._llm).chat([question], **overrides)
            return self._output(response, kept.result, args, kwargs)

    __call__ = call  # LlamaIndex's own would publish the arguments

    @instrumented_tool
    async def acall(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ToolOutput:
        """Call the app; with a context, in its conversation."""
        ctx: Context | None = kwargs.pop(CONTEXT, None)
        if ctx is None and not self._keep_session:
            ctx = step_context()  # an agent passes none, but shows the steps
        with english_for_agents(ctx):
            return await self._acall(ctx, args, kwargs)

    async def _acall(
        self, ctx: Context | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ToolOutput:
        question, overrides = self._parse(args, kwargs)
        kept = ResultKeeper()
        llm = kept.listen_to(self._llm)
        if ctx is None:
            response = await llm.achat([question], **overrides)
            return self._output(response, kept.result, args, kwargs)
        name = self.metadata.get_name()
        llm = llm.with_event_listener(step_writer(ctx, deltas=self._step_deltas, tool_name=name))
        if not self._keep_session:
            response = await llm.achat([question], **overrides)
            return self._output(response, kept.result, args, kwargs, for_agent=True)
        conversation = StoredConversation(ctx, self._key)
        response = await llm.achat([*await conversation.load(), question], **overrides)
        await conversation.add(question, response.message)
        return self._output(response, kept.result, args, kwargs, for_agent=True)

    @hides_arguments
    def _parse(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[ChatMessage, dict[str, Any]]:
        """Validate the tool's arguments; return the question and the overrides of the call."""
        schema = self.metadata.fn_schema
        assert schema is not None  # noqa: S101
        given: dict[str, Any] = unwrap_params(kwargs)
        given.pop(CONTEXT, None)
        try:
            arguments = schema.model_validate(given | ({_PROMPT: args[0]} if args else {}))
        except ValidationError as error:
            raise_invalid_input(error)
        fields = to_json_values(arguments, exclude_none=True, exclude={*MEDIA_OPTIONS})
        question = ChatMessage(role=MessageRole.USER, content=fields.pop(_PROMPT, ""))
        biz_params = {**(self._llm.biz_params or {}), **fields}
        overrides: dict[str, Any] = {"biz_params": biz_params} if fields else {}
        for option in MEDIA_OPTIONS:
            if (value := getattr(arguments, option, None)) is not None:
                overrides[option] = value
        names = (*self._llm.secret_biz_params, *secret_fields(schema))
        return question, wrap_secrets(overrides, names)

    @property
    def _key(self) -> str:
        return f"bailian_app_tool/{self.metadata.get_name()}/{self._llm.app_id}"

    def _output(
        self,
        response: ChatResponse,
        result: AppResult,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        for_agent: bool = False,
    ) -> ToolOutput:
        text, nodes = response.message.content or "", source_nodes(response.raw)
        metadata = {"app_id": self._llm.app_id, **run_metadata(response.raw)}
        raw_output: Any = Response(text, nodes, metadata)
        error: InvalidOutputError | None = None
        if self._output_schema is not None:
            try:
                output = typed_output(result, self._output_schema)
                raw_output = PydanticResponse(output, nodes, metadata)
            except InvalidOutputError as raised:
                if not for_agent:
                    raise
                error, text = raised, agent_message(raised)
        more: dict[str, Any] = {"exception": error} if error and _KEEPS_EXCEPTION else {}
        return ToolOutput(
            tool_name=self.metadata.get_name(),
            blocks=[TextBlock(text=text)],
            raw_input={"args": args, "kwargs": dict(kwargs)},
            raw_output=raw_output,
            is_error=error is not None,
            **more,
        )


def _describe(function: Any, metadata: ToolMetadata) -> None:
    """Give a tool's function the name, the docstring and the signature that agents read."""
    assert metadata.fn_schema is not None  # noqa: S101
    # The schema's own, which has names and defaults as they are passed; `prompt` may be positional.
    parameters = sorted(
        inspect.signature(metadata.fn_schema).parameters.values(),
        key=lambda parameter: parameter.name != _PROMPT,
    )
    if parameters[0].name == _PROMPT:
        parameters[0] = parameters[0].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    function.__name__ = function.__qualname__ = metadata.get_name()
    function.__doc__ = metadata.description
    function.__signature__ = inspect.Signature(parameters, return_annotation=str)
    annotations = {each.name: each.annotation for each in parameters}
    function.__annotations__ = {**annotations, "return": str}
