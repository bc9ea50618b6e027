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
ImageBlock, `user`                             `images`; a path is read when the call is sent
DocumentBlock with a URL, `user`               `files`
DocumentBlock with data or a path              rejected: the cloud only fetches URLs
Image- or DocumentBlock, other roles           rejected: the API does not accept it
ThinkingBlock, CitationBlock                   dropped: metadata of an earlier answer
CachePoint                                     dropped: a hint without content
any other block (audio, video …)               rejected
=============================================  ====================================================
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import IOBase
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.schema import ImageDocument, ImageNode

from bailian_apps.core.attachments import is_fetchable, media_type
from bailian_apps.core.language import N_
from bailian_apps.core.turns import MARKER_KEY, Turn, TurnBuilder, build_turns, unsupported

_DROPPED_BLOCKS = (ThinkingBlock, CitationBlock, CachePoint, ToolCallBlock)


def to_turns(messages: Sequence[ChatMessage]) -> list[Turn]:
    """Convert a conversation, oldest message first. The module docstring has the mapping.

    Raises:
        InvalidInputError: A message has content that an app does not accept. The error names the
            message's index and the type of the content.
    """
    return build_turns(
        _to_builder(f"messages[{index}]", message) for index, message in enumerate(messages)
    )


def _to_builder(where: str, message: ChatMessage) -> TurnBuilder:
    extra = message.additional_kwargs
    builder = TurnBuilder(
        where,
        message.role.value,
        tool_calls=bool(extra.get("tool_calls"))
        or any(isinstance(block, ToolCallBlock) for block in message.blocks),
        marker=extra.get(MARKER_KEY),
    )
    for index, block in enumerate(message.blocks):
        path = f"{where}.blocks[{index}]"
        if isinstance(block, TextBlock):
            builder.text(block.text)
        elif isinstance(block, ImageBlock):
            builder.image(path, image_content(block))
        elif isinstance(block, DocumentBlock):
            builder.file(path, block.url and str(block.url))
        elif not isinstance(block, _DROPPED_BLOCKS):
            raise unsupported(path, N_("a block of type {type}").format(type=type(block).__name__))
    return builder


def image_content(image: object) -> Any:
    """The content of a LlamaIndex image, as `read_image` takes it; other values unchanged.

    LlamaIndex keeps the image of an `ImageBlock` as base64 bytes, that of an `ImageDocument` as
    base64 text.
    """
    if isinstance(image, ImageBlock):
        if isinstance(image.image, IOBase):
            image.image.seek(0)
            return image.image.read()
        if isinstance(image.image, bytes):
            return _encoded_once(image.image)
        return image.path or (image.url and str(image.url))
    if isinstance(image, (ImageDocument, ImageNode)):
        encoded = image.image
        if encoded:
            return encoded if encoded[:5].lower() == "data:" else _encoded_once(encoded.encode())
        return image_address(image.image_path or image.image_url)
    return image


def _encoded_once(encoded: bytes) -> bytes:
    """Undo the second base64 that LlamaIndex puts around a first one with line breaks."""
    try:
        is_image = media_type(base64.b64decode(encoded[:64]))
        return encoded if is_image else base64.b64decode(encoded, validate=True)
    except ValueError:
        return encoded


def image_address(text: object) -> Any:
    """An address of the cloud or a Data URL as it is, any other text as a path."""
    if isinstance(text, str) and text and not is_fetchable(text) and text[:5].lower() != "data:":
        return Path(text)
    return text
