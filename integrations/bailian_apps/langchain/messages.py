"""LangChain messages as turns of a conversation. Pure.

The whole mapping, to the app:

| LangChain | the app is told |
|---|---|
| `SystemMessage`, `ChatMessage(role="system")` | system text |
| `HumanMessage`, `ChatMessage(role="user")`: string, `text` and `text-plain` blocks | user text |
| … its `image` and `image_url` blocks with an address | an image of that turn |
| … its `file` blocks with an address | a file of that turn |
| `AIMessage`, `ChatMessage(role="assistant")`: string and `text` blocks | assistant text |
| … its reasoning, its server-side tool calls and whatever else is no text | nothing |
| … its `response_metadata["bailian"]` | which session to continue, and from where |
| … its `tool_calls`; the message, if it says nothing else | nothing; refused in the last message |
| `ToolMessage`, `FunctionMessage`, `ChatMessage(role="tool")` | user text, "Tool result: …" |
| `name` and `id` of a message | nothing |

And from the app, as `bailian_apps.langchain.answer` makes it:

| the app | `AIMessage` |
|---|---|
| answer text | `content` |
| reasoning | `additional_kwargs["reasoning_content"]` |
| steps (nodes, tool calls, retrievals) | `additional_kwargs["steps"]` |
| cited documents | `additional_kwargs["references"]` |
| tokens used | `usage_metadata`, and per model call `response_metadata["model_usage"]` |
| session, request, … | `response_metadata` |

With `output_version="v1"`, and in `content_blocks` always, reasoning, steps and references are
standard content blocks instead (see `bailian_apps.langchain.blocks`).

What an app cannot be told is refused: any other message or role, any other block, and images or
files without an address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.turns import Role, SessionMarker, Turn

MARKER_KEY = "bailian"
"""Where an answer's `response_metadata` holds the marker of its session."""

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
}
_TOOL_ROLES = ("tool", "function")
_MEDIA = frozenset({"image", "image_url", "file", "audio", "input_audio", "video"})


def to_turns(messages: Sequence[BaseMessage]) -> list[Turn]:
    """Convert a conversation. The mapping is in the module's docstring.

    Args:
        messages: The conversation, oldest first.

    Returns:
        One turn for each message, but for those that hold only tool calls.

    Raises:
        InvalidInputError: A message cannot be sent; it is named by its index and type.
    """
    last = len(messages) - 1
    return [
        _to_turn(f"messages[{index}]", message, last=index == last)
        for index, message in enumerate(messages)
        if index == last or not (_has_calls(message) and not message.text)
    ]


def _has_calls(message: BaseMessage) -> bool:
    return isinstance(message, AIMessage) and bool(message.tool_calls or message.invalid_tool_calls)


def _to_turn(where: str, message: BaseMessage, *, last: bool) -> Turn:
    role = _role_of(where, message)
    if role != "assistant":
        parts = _Parts()
        for path, block in _blocks_of(where, message):
            _read_block(path, block, parts, media=role == "user")
        return Turn(
            role=role,
            text=("Tool result: " if _is_tool_result(message) else "") + "\n".join(parts.texts),
            images=tuple(parts.images),
            files=tuple(parts.files),
        )
    if last and _has_calls(message):
        raise InvalidInputError(
            where,
            f"is an {type(message).__name__} with tool_calls, and the last message",
            "Put the results of its tools after it; an app calls only its own tools",
        )
    return Turn(
        role=role,
        text=_answer_text(where, message),
        marker=SessionMarker.from_dict(message.response_metadata.get(MARKER_KEY)),
    )


def _is_tool_result(message: BaseMessage) -> bool:
    return isinstance(message, (ToolMessage, FunctionMessage)) or (
        isinstance(message, ChatMessage) and message.role in _TOOL_ROLES
    )


def _role_of(where: str, message: BaseMessage) -> Role:
    if isinstance(message, HumanMessage) or _is_tool_result(message):
        return "user"
    if isinstance(message, AIMessage):
        return "assistant"
    if isinstance(message, SystemMessage):
        return "system"
    if isinstance(message, ChatMessage) and (role := _ROLES.get(message.role)):
        return role
    said = f" of role {message.role!r}" if isinstance(message, ChatMessage) else ""
    raise InvalidInputError(
        where,
        f"is a {type(message).__name__}{said}",
        "An app can be told only system, human, AI and tool messages; leave it out",
    )


@dataclass
class _Parts:
    """What the blocks of one message say."""

    texts: list[str] = field(default_factory=list[str])
    images: list[str] = field(default_factory=list[str])
    files: list[str] = field(default_factory=list[str])


def _blocks_of(where: str, message: BaseMessage) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(message.content, str):
        yield where, {"type": "text", "text": message.content}
        return
    for index, block in enumerate(cast("list[Any]", message.content)):
        block = {"type": "text", "text": block} if isinstance(block, str) else block
        yield f"{where}.content[{index}]", block


def _read_block(path: str, block: Mapping[str, Any], parts: _Parts, *, media: bool) -> None:
    kind = block.get("type", "text" if "text" in block else None)
    if kind in ("text", "text-plain") and isinstance(block.get("text"), str):
        parts.texts.append(block["text"])
    elif media and kind in ("image", "image_url"):
        parts.images.append(_address(path, kind, block))
    elif media and kind == "file":
        parts.files.append(_address(path, kind, block))
    else:
        raise InvalidInputError(
            path,
            f"is a block of type {kind!r}",
            "An app can be told text, and in a human message the addresses of images and files",
        )


def _address(path: str, kind: str, block: Mapping[str, Any]) -> str:
    value: Any = block.get("url") or block.get("image_url")
    if isinstance(value, Mapping):
        value = cast("Mapping[str, Any]", value).get("url")
    if not isinstance(value, str) or value.startswith("data:"):
        raise InvalidInputError(
            path,
            f"is a block of type {kind!r} that holds the data or the id of it",
            "Pass an http:// or https:// address that the cloud can fetch",
        )
    return value


def _answer_text(where: str, message: BaseMessage) -> str:
    texts: list[str] = []
    for path, block in _blocks_of(where, message):
        kind = block.get("type")
        if kind == "text":
            texts.append(str(block.get("text") or ""))
        elif kind in _MEDIA:
            raise InvalidInputError(
                path, f"is a block of type {kind!r}", "Of an AI message an app is told only text"
            )
    return "".join(texts)
