"""LlamaIndex messages to the core's turns, and the core's results to messages. Pure conversions.

What goes out, by `to_turns`:

=============================================  ====================================================
ChatMessage                                    Turn
=============================================  ====================================================
role `system`, `developer`                     `system`
role `user`                                    `user`
role `assistant`, `chatbot`, `model`           `assistant`
role `tool`, `function`                        `user`, "Tool result: …"
`additional_kwargs["bailian"]` of an answer    `marker`; anything that is no marker is passed over
tool calls of an answer (`ToolCallBlock`,      left out, and the message if it holds no more;
`additional_kwargs["tool_calls"]`)             refused in another role or in the last message
TextBlock                                      `text`; several are joined by a line break
ImageBlock with an address, of a user          `images`
DocumentBlock with an address, of a user       `files`
Image- or DocumentBlock with data or a path    refused: the cloud fetches addresses only
Image- or DocumentBlock of another role        refused: the API has no place for it
ThinkingBlock, CitationBlock                   left out: the app's own notes on an answer
CachePoint                                     left out: a hint that holds no content
any other block (audio, video …)               refused
=============================================  ====================================================

What comes back, by `answer_message` and `raw_response`:

=============================================  ====================================================
AppResult                                      ChatMessage of role `assistant`, and ChatResponse
=============================================  ====================================================
`reasoning`                                    one ThinkingBlock, first; none when there is none
`text`                                         one TextBlock, always
`references`                                   one CitationBlock each, after the text
the session's marker                           `additional_kwargs["bailian"]`
`usage`, ids, `steps`, `references` …          `ChatResponse.raw`, a plain dict
=============================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.history import Plan
from bailian_apps.core.result import AppResult, DocReference, Usage
from bailian_apps.core.turns import Role, SessionMarker, Turn

MARKER_KEY = "bailian"

_ROLES: dict[MessageRole, Role] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}
_TOOL_ROLES = (MessageRole.TOOL, MessageRole.FUNCTION)
_FETCHED = ("http://", "https://", "oss://")
_LEFT_OUT = (ThinkingBlock, CitationBlock, CachePoint)


def to_turns(messages: Sequence[ChatMessage]) -> list[Turn]:
    """Convert a conversation; the module's docstring lists the whole mapping.

    Args:
        messages: The conversation, oldest first.

    Returns:
        One turn for each message, but for those that hold only tool calls.

    Raises:
        InvalidInputError: A message holds what an app cannot be sent. It names the message's
            index and the type of what is in the way.
    """
    last = len(messages) - 1
    return [
        _to_turn(index, message, last=index == last)
        for index, message in enumerate(messages)
        if index == last or not _only_calls(message)
    ]


def _only_calls(message: ChatMessage) -> bool:
    """Whether an answer says nothing but which tools to call."""
    calls = any(isinstance(block, ToolCallBlock) for block in message.blocks)
    said = [b for b in message.blocks if not isinstance(b, (ToolCallBlock, *_LEFT_OUT))]
    return (
        _ROLES.get(message.role) == "assistant"
        and (calls or bool(message.additional_kwargs.get("tool_calls")))
        and all(isinstance(block, TextBlock) and not block.text for block in said)
    )


def _to_turn(index: int, message: ChatMessage, *, last: bool) -> Turn:
    role = _ROLES.get(message.role)
    told = message.role in _TOOL_ROLES
    if told:
        role = "user"
    if role is None:
        _refuse(index, f"has the role {message.role.value!r}")
    called = not last and role == "assistant"
    if message.additional_kwargs.get("tool_calls") and not called:
        _refuse(index, "holds tool calls")
    texts: list[str] = []
    images: list[str] = []
    files: list[str] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ImageBlock):
            images.append(_address(index, role, block))
        elif isinstance(block, DocumentBlock):
            files.append(_address(index, role, block))
        elif not (isinstance(block, _LEFT_OUT) or (called and isinstance(block, ToolCallBlock))):
            _refuse(index, f"holds {_a(block)}")
    marker = message.additional_kwargs.get(MARKER_KEY) if role == "assistant" else None
    return Turn(
        role=role,
        text=("Tool result: " if told else "") + "\n".join(texts),
        marker=SessionMarker.from_dict(marker),
        images=tuple(images),
        files=tuple(files),
    )


def _address(index: int, role: Role, block: ImageBlock | DocumentBlock) -> str:
    if role != "user":
        _refuse(index, f"holds {_a(block)} in the role {role!r}", "Put it into a user message")
    address = str(block.url or "")
    if not address.startswith(_FETCHED):
        _refuse(
            index,
            f"holds {_a(block)} without an http(s) address",
            f"Upload it, and pass {type(block).__name__}(url=…): the cloud fetches addresses only",
        )
    return address


def _a(block: object) -> str:
    name = type(block).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _refuse(index: int, problem: str, mend: str = "Leave it out") -> NoReturn:
    raise InvalidInputError(f"messages[{index}]", f"{problem}, which an app cannot be sent", mend)


def answer_message(
    text: str,
    thinking: ThinkingBlock | None = None,
    citations: Sequence[CitationBlock] = (),
    additional_kwargs: dict[str, Any] | None = None,
) -> ChatMessage:
    """The message of an answer, or of as much of it as has come.

    Args:
        text: The text so far. It is one block: `ChatMessage.content` would put line breaks
            between several.
        thinking: The reasoning so far.
        citations: The documents cited so far.
        additional_kwargs: What the message remembers.
    """
    head = [] if thinking is None else [thinking]
    # Every chunk has such a message; its blocks, perhaps hundreds, need no second check.
    return ChatMessage.model_construct(
        role=MessageRole.ASSISTANT,
        blocks=[*head, TextBlock(text=text), *citations],
        additional_kwargs=additional_kwargs or {},
    )


def thinking_block(reasoning: str) -> ThinkingBlock | None:
    """The block for some reasoning; None when there is none."""
    return ThinkingBlock(content=reasoning) if reasoning else None


def citation_block(reference: DocReference) -> CitationBlock:
    """The block for a cited document.

    `additional_location_info` has room for numbers only: `index_id`, what `<ref>[1]</ref>` in the
    text points at, and the first `page_number`. The whole reference is in `ChatResponse.raw`.
    """
    location: dict[str, int] = {}
    if reference.index_id and reference.index_id.isdecimal():
        location["index_id"] = int(reference.index_id)
    if reference.page_number:
        location["page_number"] = reference.page_number[0]
    return CitationBlock(
        cited_content=TextBlock(text=reference.text),
        source=reference.doc_url or reference.doc_name or reference.doc_id or "",
        title=reference.title or reference.doc_name or "",
        additional_location_info=location,
    )


def remembered(plan: Plan, result: AppResult) -> dict[str, Any]:
    """What the answer's message remembers, for its `additional_kwargs`.

    It is small, because LlamaIndex's memory counts tokens over it.

    Args:
        plan: What the call sent.
        result: What came back.
    """
    marker = plan.marker(result)
    if marker is None:
        return {}
    lost = {"context_lost": True} if result.context_lost else {}
    return {MARKER_KEY: marker.to_dict() | lost}


def raw_response(result: AppResult) -> dict[str, Any]:
    """A result as plain values, for `ChatResponse.raw`. The text is the message's.

    `usage` has the names that LlamaIndex's token counter and tracers read.
    """
    raw: dict[str, Any] = {
        "request_id": result.request_id,
        "session_id": result.session_id,
        "finish_reason": result.finish_reason,
        "attempts": result.attempts,
        "context_lost": result.context_lost,
        "whole_history": result.whole_history,
        "reasoning": result.reasoning,
        "steps": [step.to_dict() for step in result.steps],
        "references": [reference.to_dict() for reference in result.references],
        "usage": _usage(result.usage),
    }
    if result.streamed_text is not None:
        raw["streamed_text"] = result.streamed_text
    return raw


def _usage(usage: Usage) -> dict[str, Any]:
    if not usage.models:
        return {}  # the cloud reported none, which is not zero
    values = usage.to_dict()
    values["prompt_tokens"] = values.pop("input_tokens")
    values["completion_tokens"] = values.pop("output_tokens")
    return values
