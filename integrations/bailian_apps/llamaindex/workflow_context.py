"""What tools and agents keep in a workflow's `Context`, and write to its stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.events import AppEvent
from bailian_apps.llamaindex.steps import BailianAppStepStream, StepChanges

CONTEXT = "ctx"
"""The name under which LlamaIndex's tools and agents receive a workflow's context."""


def step_writer(ctx: Any, **whose: str) -> Callable[[AppEvent], None]:
    """Return a listener of one run that writes its steps to the stream of a workflow.

    Args:
        ctx: The workflow's context, or what an agent gets for one.
        **whose: The fields of `BailianAppStepStream` that say whose app runs.
    """
    changes = StepChanges()

    def write(event: AppEvent) -> None:
        if fields := changes.fields(event):
            ctx.write_event_to_stream(BailianAppStepStream(**whose, **fields))

    return write


async def load_messages(ctx: Any, key: str) -> list[ChatMessage]:
    """Return the conversation that a context has under a key; an empty one for none."""
    state: Any = await ctx.store.get_state()
    return [ChatMessage.model_validate(each) for each in _stored(state, key)]


async def store_messages(
    ctx: Any, key: str, messages: Sequence[ChatMessage], *, replace: bool = False
) -> None:
    """Add messages to the conversation that a context has under a key, as JSON values.

    Of an answer, its text and its session's marker are kept.

    Args:
        ctx: The context.
        key: Where its state has the conversation; names of tools and agents may have dots, which
            `ctx.store.set` takes for a path.
        messages: The messages.
        replace: Whether they are the whole conversation.
    """
    new = [_without_metadata(each).model_dump(mode="json") for each in messages]
    async with ctx.store.edit_state() as state:
        stored = _stored(state, key)
        state[key] = new if replace else [*stored, *new]


def _without_metadata(message: ChatMessage) -> ChatMessage:
    if message.role != MessageRole.ASSISTANT:
        return message
    return ChatMessage(
        role=message.role,
        content=message.content,
        additional_kwargs=message.additional_kwargs,
    )


def _stored(state: Any, key: str) -> list[dict[str, Any]]:
    if not hasattr(state, "__setitem__"):
        raise InvalidInputError(
            CONTEXT,
            "has a typed state, which cannot store the conversation",
            "Pass keep_session=False, or use a workflow with an untyped state",
        )
    return list(state.get(key, ()))
