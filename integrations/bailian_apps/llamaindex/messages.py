"""Converts LlamaIndex messages to the core's turns. Pure: no network, no settings.

=============================================  ====================================================
ChatMessage                                    Turn
=============================================  ====================================================
role `system`, `developer`                     `system`
role `user`                                    `user`
role `assistant`, `chatbot`, `model`           `assistant`
role `tool`, `function`                        `user`, "Tool result: …"
`additional_kwargs["bailian"]`, `assistant`    `marker`; a value that is not a marker is ignored
tool calls, `assistant` (`ToolCallBlock`,      dropped, and the message with them if it has no
`additional_kwargs["tool_calls"]`)             text; rejected in other roles and the last message
TextBlock                                      `text`; several are joined by newlines
ImageBlock with a URL, `user`                  `images`
DocumentBlock with a URL, `user`               `files`
Image- or DocumentBlock with data or a path    rejected: the cloud only fetches URLs
Image- or DocumentBlock, other roles           rejected: the API does not accept it
ThinkingBlock, CitationBlock                   dropped: metadata of an earlier answer
CachePoint                                     dropped: a hint without content
any other block (audio, video …)               rejected
=============================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

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
from bailian_apps.core.history import Role, SessionMarker, Turn

MARKER_KEY = "bailian"
"""The key of the session marker in an answer's `additional_kwargs`."""

_ROLES: dict[MessageRole, Role] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}
_TOOL_ROLES = (MessageRole.TOOL, MessageRole.FUNCTION)
_URL_SCHEMES = ("http://", "https://", "oss://")
_DROPPED_BLOCKS = (ThinkingBlock, CitationBlock, CachePoint)


def to_turns(messages: Sequence[ChatMessage]) -> list[Turn]:
    """Convert a conversation; the module docstring lists the whole mapping.

    Args:
        messages: The conversation, oldest first.

    Returns:
        One turn per message, without the messages that only hold tool calls.

    Raises:
        InvalidInputError: A message has content that an app does not accept. The error names the
            message's index and the type of the content.
    """
    last = len(messages) - 1
    return [
        _to_turn(index, message, last=index == last)
        for index, message in enumerate(messages)
        if index == last or not _has_only_tool_calls(message)
    ]


def _has_only_tool_calls(message: ChatMessage) -> bool:
    has_calls = any(isinstance(block, ToolCallBlock) for block in message.blocks)
    content = [b for b in message.blocks if not isinstance(b, (ToolCallBlock, *_DROPPED_BLOCKS))]
    return (
        _ROLES.get(message.role) == "assistant"
        and (has_calls or bool(message.additional_kwargs.get("tool_calls")))
        and all(isinstance(block, TextBlock) and not block.text for block in content)
    )


def _to_turn(index: int, message: ChatMessage, *, last: bool) -> Turn:
    role = _ROLES.get(message.role)
    is_tool_result = message.role in _TOOL_ROLES
    if is_tool_result:
        role = "user"
    if role is None:
        _reject(index, f"has the role {message.role.value!r}")
    drops_calls = not last and role == "assistant"
    if message.additional_kwargs.get("tool_calls") and not drops_calls:
        _reject(index, "has tool calls")
    texts: list[str] = []
    images: list[str] = []
    files: list[str] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ImageBlock):
            images.append(_url(index, role, block))
        elif isinstance(block, DocumentBlock):
            files.append(_url(index, role, block))
        elif not (
            isinstance(block, _DROPPED_BLOCKS) or (drops_calls and isinstance(block, ToolCallBlock))
        ):
            _reject(index, f"has {_with_article(block)}")
    marker = message.additional_kwargs.get(MARKER_KEY) if role == "assistant" else None
    return Turn(
        role=role,
        text=("Tool result: " if is_tool_result else "") + "\n".join(texts),
        marker=SessionMarker.from_dict(marker),
        images=tuple(images),
        files=tuple(files),
    )


def _url(index: int, role: Role, block: ImageBlock | DocumentBlock) -> str:
    if role != "user":
        _reject(
            index, f"has {_with_article(block)} in the role {role!r}", "Put it in a user message"
        )
    url = str(block.url or "")
    if not url.startswith(_URL_SCHEMES):
        _reject(
            index,
            f"has {_with_article(block)} without an http(s) URL",
            f"Upload the file and pass {type(block).__name__}(url=…)",
        )
    return url


def _with_article(block: object) -> str:
    name = type(block).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _reject(index: int, problem: str, hint: str = "Remove it") -> NoReturn:
    raise InvalidInputError(f"messages[{index}]", f"{problem}, which apps do not accept", hint)
