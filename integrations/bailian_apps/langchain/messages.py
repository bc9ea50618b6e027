"""LangChain messages as turns of a conversation. Pure.

The whole mapping, to the app:

| LangChain | sent as |
|---|---|
| `SystemMessage`, `ChatMessage(role="system")` | system text |
| `HumanMessage`, `ChatMessage(role="user")`: string, `text` and `text-plain` blocks | user text |
| … its `image` and `image_url` blocks with a URL | an image of that turn |
| … its `file` blocks with a URL | a file of that turn |
| `AIMessage`, `ChatMessage(role="assistant")`: string and `text` blocks | assistant text |
| … its reasoning, its server-side tool calls and all other blocks that are not media | not sent |
| … its `response_metadata["bailian"]` | the session to continue, and from which message |
| … its `tool_calls`; the message, if it has no text | not sent; refused in the last message |
| `ToolMessage`, `FunctionMessage`, `ChatMessage(role="tool")` | user text, "Tool result: …" |
| `name` and `id` of a message | not sent |

And from the app, as `bailian_apps.langchain.message_chunks` builds it:

| the app | `AIMessage` |
|---|---|
| answer text | `content` |
| reasoning | `additional_kwargs["reasoning_content"]` |
| steps (nodes, tool calls, retrievals) | `additional_kwargs["steps"]` |
| cited documents | `additional_kwargs["references"]` |
| tokens used | `usage_metadata`, and per model call `response_metadata["model_usage"]` |
| session, request, … | `response_metadata` |

With `output_version="v1"`, and always in `content_blocks`, reasoning, steps and references are
standard content blocks instead (see `bailian_apps.langchain.blocks`).

What an app cannot receive is refused: any other message or role, any other block, and images or
files without a URL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage

from bailian_apps.core.turns import MARKER_KEY, Turn, TurnBuilder, build_turns, unsupported

_OTHER_MEDIA = ("audio", "input_audio", "video")


def to_turns(messages: Sequence[BaseMessage]) -> list[Turn]:
    """Convert a conversation, oldest message first. The module's docstring has the mapping.

    Raises:
        InvalidInputError: A message cannot be sent. The error names its index.
    """
    return build_turns(_read(f"messages[{i}]", message) for i, message in enumerate(messages))


def _read(where: str, message: BaseMessage) -> TurnBuilder:
    # The type of a chunk is the name of its class: "AIMessageChunk".
    role = message.type.removesuffix("MessageChunk").lower()
    builder = TurnBuilder(
        where,
        message.role if isinstance(message, ChatMessage) else role,
        tool_calls=isinstance(message, AIMessage)
        and bool(message.tool_calls or message.invalid_tool_calls),
        marker=message.response_metadata.get(MARKER_KEY),
    )
    is_answer = builder.role == "assistant"
    texts: list[str] = []
    for path, block in _blocks_of(where, message):
        kind = block.get("type", "text" if "text" in block else None)
        if kind in ("text", "text-plain") and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif kind in ("image", "image_url"):
            builder.image(path, _url_of(block))
        elif kind == "file":
            builder.file(path, _url_of(block))
        elif not is_answer or kind in _OTHER_MEDIA:
            raise unsupported(path, f"a block of type {kind!r}")
    # The blocks of an answer are pieces of one text; those of other messages are paragraphs.
    builder.text(("" if is_answer else "\n").join(texts))
    return builder


def _blocks_of(where: str, message: BaseMessage) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(message.content, str):
        yield where, {"type": "text", "text": message.content}
        return
    for index, block in enumerate(cast("list[Any]", message.content)):
        block = {"type": "text", "text": block} if isinstance(block, str) else block
        yield f"{where}.content[{index}]", block


def _url_of(block: Mapping[str, Any]) -> Any:
    value: Any = block.get("url") or block.get("image_url")
    return cast("Mapping[str, Any]", value).get("url") if isinstance(value, Mapping) else value
