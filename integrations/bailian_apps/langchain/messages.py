"""LangChain messages as turns of a conversation. Pure.

The whole mapping, to the app:

| LangChain | sent as |
|---|---|
| `SystemMessage`, `ChatMessage(role="system")` | system text |
| `HumanMessage`, `ChatMessage(role="user")`: string and text blocks | user text |
| … its `image`, `image_url` and `input_image` blocks, with a URL or base64 | image of that turn |
| … its `file`, `input_file` and `document` blocks with a URL | file of that turn |
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

What an app cannot receive is refused: any other message or role, any other block, files without a
URL, and what is not an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage
from pydantic import ValidationError

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.invalid_input import raise_invalid_input
from bailian_apps.core.language import N_
from bailian_apps.core.turns import (
    MARKER_KEY,
    SessionMarker,
    Turn,
    TurnBuilder,
    build_turns,
    unsupported,
)

_T = TypeVar("_T")
_EXPECTED = N_("Pass text, messages, or dicts with 'role' and 'content'")
_TEXTS = ("text", "text-plain", "input_text")
_IMAGES = ("image", "image_url", "input_image")
_FILES = ("file", "input_file", "document")
_OTHER_MEDIA = ("audio", "input_audio", "video")


def convert_messages(convert: Callable[[Any], _T], value: Any) -> _T:
    """Convert what LangChain accepts as messages. Its own errors may quote them.

    Args:
        convert: LangChain's function.
        value: Its argument.

    Raises:
        InvalidInputError: They are not messages.
    """
    try:
        return convert(value)
    except ValidationError as error:
        raise_invalid_input(error, within="messages")
    except (ValueError, TypeError, NotImplementedError) as error:
        problem = str(error).partition("\n")[0].partition(" got ")[0].rstrip(", .")
    raise InvalidInputError(
        "messages", N_("are not valid: {problem}").format(problem=problem), _EXPECTED
    )


def to_turns(messages: Sequence[BaseMessage]) -> list[Turn]:
    """Convert a conversation, oldest message first. The module's docstring has the mapping.

    Raises:
        InvalidInputError: A message cannot be sent. The error names its index.
    """
    return build_turns(_read(f"messages[{i}]", message) for i, message in enumerate(messages))


def tool_turns(messages: Iterable[object], name: str) -> list[Turn]:
    """Return what the app was asked and has answered as the tool `name`, from its messages."""
    turns: list[Turn] = []
    for message in messages:
        if not isinstance(message, ToolMessage) or message.name != name:
            continue
        artifact: Any = message.artifact
        if isinstance(artifact, Mapping) and MARKER_KEY in artifact:
            artifact = cast("Mapping[str, Any]", artifact)
            turns.append(Turn(role="user", text=str(artifact.get("prompt") or "")))
            # A person or a middleware may have changed the message, or added a note to it.
            answer = artifact.get("answer")
            text = str(message.text if answer is None else answer)
            marker = SessionMarker.from_dict(artifact[MARKER_KEY])
            turns.append(Turn(role="assistant", text=text, marker=marker))
    return turns


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
        kind = block.get("type") or next(
            (name for name in ("text", "image") if name in block), None
        )
        if kind in _TEXTS and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif kind in _IMAGES:
            builder.image(path, _image_of(block))
        elif kind == "file" or (kind in _FILES and not is_answer):
            builder.file(path, _file_of(block))
        elif not is_answer or kind in _OTHER_MEDIA:
            raise unsupported(path, N_("a block of type {kind!r}").format(kind=kind))
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


def _image_of(block: Mapping[str, Any]) -> object:
    """Return the URL of an image, or its base64 as a Data URL, from any of these forms.

    | whose | block |
    |---|---|
    | LangChain's, v1 | `{"type": "image", "base64": …, "mime_type": …}`, `{…, "url": …}` |
    | LangChain's, v0 | `{"type": "image", "source_type": "base64", "data": …}`, `{…, "url": …}` |
    | OpenAI's | `{"type": "image_url", "image_url": {"url": …}}`, `{…, "image_url": …}` |
    | OpenAI's Responses | `{"type": "input_image", "image_url": …}` |
    | Anthropic's | `{"type": "image", "source": {"type": "base64", "data": …}}`, `{… "url": …}` |
    | DashScope's | `{"image": …}` |
    """
    source: Any = block.get("source")
    if isinstance(source, Mapping):  # Anthropic's
        return _image_of(cast("Mapping[str, Any]", source))
    url = block.get("url") or block.get("image_url") or block.get("image")
    if isinstance(url, Mapping):
        url = cast("Mapping[str, Any]", url).get("url")
    encoded = block.get("base64") or block.get("data")
    if url or not isinstance(encoded, str):
        return url or encoded
    if encoded[:5].lower() == "data:":
        return encoded
    return f"data:{block.get('mime_type') or block.get('media_type') or ''};base64,{encoded}"


def _file_of(block: Mapping[str, Any]) -> object:
    source: Any = block.get("source")
    fields = cast("Mapping[str, Any]", source) if isinstance(source, Mapping) else block
    return fields.get("url") or fields.get("file_url")
