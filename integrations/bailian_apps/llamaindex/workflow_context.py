"""What tools and agents keep in a workflow's `Context`, and write to its stream."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.workflow import Context, WorkflowRuntimeError

from bailian_apps.core.errors import BailianError, InvalidInputError
from bailian_apps.core.events import STEP_DELTAS, AppEvent
from bailian_apps.llamaindex.steps import BailianAppStepStream, StepChanges

CONTEXT = "ctx"
"""The name under which LlamaIndex's tools and agents receive a workflow's context."""


def step_context() -> Context | None:
    """Return the context of the workflow's step that is running; None outside one.

    Older versions of LlamaIndex's workflows have no way to ask for it.
    """
    try:
        return Context.get_step_context()
    except (AttributeError, WorkflowRuntimeError):
        return None


@contextmanager
def english_for_agents(ctx: Any = None) -> Generator[None]:
    """Raise errors in English inside a workflow: an agent shows their `str` to its model.

    Args:
        ctx: The workflow's context, where it is known.
    """
    try:
        yield
    except BailianError as error:
        if ctx is not None or step_context() is not None:
            error.use_english()
        raise


def step_writer(ctx: Any, *, deltas: bool, **whose: str) -> Callable[[AppEvent], None]:
    """Return a listener of one run that writes its steps to the stream of a workflow.

    Args:
        ctx: The workflow's context, or what an agent gets for one.
        deltas: Whether to write what the steps say, too.
        **whose: The fields of `BailianAppStepStream` that say whose app runs.
    """
    changes = StepChanges()

    def write(event: AppEvent) -> None:
        if isinstance(event, STEP_DELTAS) and not deltas:
            return
        if fields := changes.fields(event):
            ctx.write_event_to_stream(BailianAppStepStream(**whose, **fields))

    return write


class StoredConversation:
    """The conversation of a tool or an agent with its app, as JSON values in a context's state.

    Only the store's `set` writes it. `edit_state` would replace everything in the state by a copy,
    also the workflow's memory, which the caller may have passed and then miss the answers in.
    """

    def __init__(self, ctx: Any, key: str) -> None:
        """Name a conversation.

        Args:
            ctx: The workflow's context, or what an agent gets for one.
            key: Where its state has the conversation.
        """
        self._store = ctx.store
        self._key = key.replace("%", "%25").replace(".", "%2E")  # a dot would divide a path

    async def load(self) -> list[ChatMessage]:
        """Return its messages.

        Raises:
            InvalidInputError: The state is typed.
        """
        turns = await self._turns()
        messages = [each for turn in sorted(turns) for each in turns[turn]]
        return [ChatMessage.model_validate(each) for each in messages]

    async def replace(self, messages: Sequence[ChatMessage]) -> None:
        """Store the whole conversation."""
        await self._store.set(self._key, _to_json(messages))

    async def add(self, question: ChatMessage, answer: ChatMessage) -> None:
        """Store one turn, beside those that are stored at the same time."""
        turns = await self._turns()
        if turns.keys() == {_LIST}:  # a turn cannot be set beside it
            await self._store.set(self._key, turns)
        turn = f"{len(turns):06d}-{uuid.uuid4().hex}"
        await self._store.set(f"{self._key}.{turn}", _to_json([question, answer]))

    async def _turns(self) -> dict[str, list[Any]]:
        """The messages by turn, in whose order the turns sort."""
        state: Any = await self._store.get_state()
        if not hasattr(state, "__setitem__"):
            raise InvalidInputError(
                CONTEXT,
                "has a typed state, which cannot store the conversation",
                "Pass keep_session=False, or use a workflow with an untyped state",
            )
        stored: Any = state.get(self._key, {})
        return {_LIST: stored} if isinstance(stored, list) else dict(stored)


_LIST = ""
"""The turn that a list becomes: `replace` stores one, as did the tools of earlier versions."""


def _to_json(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    return [_without_metadata(each).model_dump(mode="json") for each in messages]


def _without_metadata(message: ChatMessage) -> ChatMessage:
    """A message as it is sent, and its session's marker."""
    if message.role != MessageRole.ASSISTANT:
        return message
    return ChatMessage(
        role=message.role,
        content=message.content,
        additional_kwargs=message.additional_kwargs,
    )
