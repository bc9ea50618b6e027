"""`BailianAppAgent`: a Bailian app as an agent of LlamaIndex's workflows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

from llama_index.core.agent.workflow import (
    AgentInput,
    AgentOutput,
    AgentStream,
    BaseWorkflowAgent,
    ToolCallResult,
)
from llama_index.core.agent.workflow.workflow_events import AgentStreamStructuredOutput
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.memory import BaseMemory
from llama_index.core.tools import AsyncBaseTool
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from typing_extensions import Unpack

from bailian_apps.app import BailianApp
from bailian_apps.core.errors import InvalidInputError, InvalidOutputError
from bailian_apps.core.invalid_input import raise_invalid_input
from bailian_apps.core.language import N_
from bailian_apps.core.tracebacks import hides_arguments
from bailian_apps.core.turns import MARKER_KEY, SessionMarker
from bailian_apps.core.typed_output import check_output_schema, typed_output
from bailian_apps.llamaindex.keywords import LLMKeywords
from bailian_apps.llamaindex.llm import BailianAppLLM, ResultKeeper, calls_apart
from bailian_apps.llamaindex.memory import uninterrupted
from bailian_apps.llamaindex.responses import THINKING_DELTA
from bailian_apps.llamaindex.workflow_context import StoredConversation, step_writer

_REFUSED = {
    "tools": N_(
        "Add tools to the app in the console; or give the app, as a bailian_app_tool, to a "
        "FunctionAgent that has the tools"
    ),
    "tool_retriever": N_("Add tools to the app in the console"),
    "can_handoff_to": N_(
        "Leave it out: an app answers itself. Another agent of the workflow can hand off to it"
    ),
}
"""Fields of LlamaIndex's agents that need a model which calls tools of the workflow."""


class BailianAppAgent(BaseWorkflowAgent):
    """A Bailian app as an agent: alone, or in an `AgentWorkflow`, as its root or handed off to.

    The app uses its own tools in the cloud and answers in one call, so a run of this agent is one
    call, whatever `max_iterations` is, and its answer ends the workflow's run.

    The workflow's stream has the text as `AgentStream` and the steps of the app as
    `BailianAppStepStream`, while they happen. The run's result is an `AgentOutput`; its `raw` has
    the citations, steps and usage, as `BailianAppLLM.chat`'s.

    The conversation is in the workflow's memory, and what the app has of it also in the `Context`'s
    state, which `ctx.to_dict()` keeps. A run with the same context, or with one that was restored,
    continues the cloud's session. Different contexts share nothing.

    Example:
        ```python
        agent = BailianAppAgent(app_id="…", name="guide", description="Plans trips")
        ctx = Context(agent)
        print(await agent.run("Plan a day in Hangzhou", ctx=ctx))
        print(await agent.run("And a second day?", ctx=ctx))
        ```
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    llm: BailianAppLLM  # pyright: ignore[reportIncompatibleVariableOverride] - never assigned

    _output_cls: type[BaseModel] | None = PrivateAttr(default=None)
    _step_deltas: bool = PrivateAttr(default=False)

    @hides_arguments
    def __init__(
        self,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        *,
        name: str = "Agent",
        description: str = "An agent that can perform a task",
        system_prompt: str | None = None,
        initial_state: dict[str, Any] | None = None,
        state_prompt: str | None = None,
        output_cls: type[BaseModel] | None = None,
        structured_output_fn: Callable[[list[ChatMessage]], Any] | None = None,
        streaming: bool = True,
        step_deltas: bool = False,
        verbose: bool = False,
        **settings: Unpack[LLMKeywords],
    ) -> None:
        """Create an agent for an app.

        Args:
            app: The app to call, instead of settings.
            llm: The LLM to call, instead of settings.
            name: The agent's name. In an `AgentWorkflow` each agent needs its own.
            description: What the app can do; other agents decide by it when to hand off.
            system_prompt: A system message that precedes the conversation. Every call then sends
                the whole conversation, because a session does not take a system message; with
                `history_format="prompt"`, the first call alone.
            initial_state: The first state of a context; it is shown to the app with each message.
            state_prompt: How it is shown, with `{state}` and `{msg}`.
            output_cls: A model of the app's answer, which must be JSON. The object's fields are in
                the output's `structured_response`. The app is not called again for it.
            structured_output_fn: Makes the output's `structured_response` of the conversation,
                instead of `output_cls`.
            streaming: Whether to stream the text.
            step_deltas: As for `bailian_app_tool`.
            verbose: Whether LlamaIndex prints what the workflow does.
            **settings: The fields of `BailianAppLLM`. As a run is one call, `timeout` limits it.

        Raises:
            InvalidInputError: A field is unknown or invalid, or is one of `tools`,
                `tool_retriever` and `can_handoff_to`, which an app cannot use.
        """
        for field, hint in _REFUSED.items():
            if cast("dict[str, Any]", settings).pop(field, None):
                raise InvalidInputError(field, "cannot be used by an app", hint)
        check_output_schema(output_cls, "output_cls")
        llm = BailianAppLLM.from_app_or_llm(app, llm, **settings)
        try:
            cast("Any", super()).__init__(
                name=name,
                description=description,
                system_prompt=system_prompt,
                can_handoff_to=[],  # by default LlamaIndex offers a tool for it to each agent
                llm=llm,
                initial_state=initial_state,
                state_prompt=state_prompt,
                structured_output_fn=None if output_cls else structured_output_fn,
                streaming=streaming,
                verbose=verbose,
            )
        except ValidationError as error:
            raise_invalid_input(error)
        # Not in LlamaIndex's `output_cls`, for which it would call the app a second time.
        self._output_cls = output_cls
        self._step_deltas = step_deltas

    async def take_step(
        self,
        ctx: Any,
        llm_input: list[ChatMessage],
        tools: Sequence[AsyncBaseTool],
        memory: BaseMemory,
    ) -> AgentOutput:
        """Call the app with the conversation.

        Args:
            ctx: The workflow's context.
            llm_input: The conversation.
            tools: Not used: an app uses its own.
            memory: The workflow's memory.

        Raises:
            InvalidInputError: A message is invalid; nothing was sent.
            InvalidOutputError: The answer does not fit `output_cls`; the conversation has it.
            BailianError: The call failed; `partial` has what was received.
        """
        messages = await self._conversation(ctx, llm_input)
        ctx.write_event_to_stream(AgentInput(input=messages, current_agent_name=self.name))
        kept = ResultKeeper()
        llm = kept.listen_to(self.llm).with_event_listener(
            step_writer(ctx, deltas=self._step_deltas, current_agent_name=self.name)
        )
        response = await self._call(llm, ctx, messages)
        spoken = [each for each in messages if each.role != MessageRole.SYSTEM]
        await self._stored(ctx).replace([*spoken, response.message])
        # The answer ends the run, so LlamaIndex's check must not discard it as one too many.
        await ctx.store.set("num_iterations", -1)
        output = AgentOutput(
            response=response.message, raw=response.raw, current_agent_name=self.name
        )
        if self._output_cls is not None:
            try:
                answer = typed_output(kept.result, self._output_cls, "output_cls")
            except InvalidOutputError:
                await self.finalize(ctx, output, memory)
                raise
            output.structured_response = answer.model_dump()
            ctx.write_event_to_stream(
                AgentStreamStructuredOutput(output=output.structured_response)
            )
        return output

    async def _call(
        self, llm: BailianAppLLM, ctx: Any, messages: list[ChatMessage]
    ) -> ChatResponse:
        if not self.streaming:
            return await llm.achat(messages)
        response: Any = None
        async with aclosing(cast("Any", await llm.astream_chat(messages))) as chunks:
            async for response in chunks:
                ctx.write_event_to_stream(self._stream_event(response))
        assert response is not None  # noqa: S101 - a run that finishes has a last chunk
        return response

    def _stream_event(self, response: Any) -> AgentStream:
        return AgentStream(
            delta=response.delta or "",
            response=response.message.content or "",
            raw=response.raw,
            current_agent_name=self.name,
            thinking_delta=response.additional_kwargs.get(THINKING_DELTA),
        )

    async def handle_tool_call_results(
        self, ctx: Any, results: list[ToolCallResult], memory: BaseMemory
    ) -> None:
        """Do nothing: an app calls no tools of the workflow."""

    async def finalize(self, ctx: Any, output: AgentOutput, memory: BaseMemory) -> AgentOutput:
        """Put the answer, with its session, into the workflow's memory."""
        with calls_apart():
            await uninterrupted(memory.aput)(output.response)
        return output

    def _stored(self, ctx: Any) -> StoredConversation:
        return StoredConversation(ctx, f"bailian_app_agent/{self.name}/{self.llm.app_id}")

    async def _conversation(self, ctx: Any, llm_input: list[ChatMessage]) -> list[ChatMessage]:
        """The messages to send: of the workflow's memory, or continued from the context.

        A restored context has no memory, and a memory may have cut the app's last answer off. Then
        the memory starts with the user's new message. One with more than that and without the
        answer is another conversation (`chat_history=`).
        """
        template = await ctx.store.get("handoff_output_prompt", default=None)
        messages = without_handoffs(llm_input, template)
        stored = await self._stored(ctx).load()
        asked = [each for each in messages if each.role == MessageRole.USER]
        if not stored or len(asked) > 1 or any(map(self._is_own, messages)):
            return messages
        system = [each for each in messages if each.role == MessageRole.SYSTEM]
        return [*system, *stored, *(each for each in messages if each not in system)]

    def _is_own(self, message: ChatMessage) -> bool:
        marker = SessionMarker.from_dict(message.additional_kwargs.get(MARKER_KEY))
        return marker is not None and marker.app_id == self.llm.app_id


def without_handoffs(messages: Sequence[ChatMessage], template: str | None) -> list[ChatMessage]:
    """Return a conversation without hand-offs: an app gets the user's question as it is.

    Left out are the results of LlamaIndex's hand-off tool, and each message that called it.

    Args:
        messages: The conversation.
        template: The text of such a result, with `{to_agent}` and `{reason}`; None outside an
            `AgentWorkflow`.
    """
    if not template:
        return list(messages)
    pattern = re.escape(template)
    for field in ("{to_agent}", "{reason}"):
        pattern = pattern.replace(re.escape(field), ".*")
    is_handoff = re.compile(pattern, re.DOTALL).fullmatch
    kept: list[ChatMessage] = []
    for message in messages:
        if message.role != MessageRole.TOOL or not is_handoff(message.content or ""):
            kept.append(message)
        elif kept and _calls_tools(kept[-1]):
            kept.pop()
    return kept


def _calls_tools(message: ChatMessage) -> bool:
    calls = message.additional_kwargs.get("tool_calls") or any(
        isinstance(block, ToolCallBlock) for block in message.blocks
    )
    return message.role == MessageRole.ASSISTANT and bool(calls or not message.content)
