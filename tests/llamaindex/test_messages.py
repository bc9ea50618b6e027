"""Messages to turns: what is sent, what is dropped, and what is rejected."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)

from bailian_apps import InvalidInputError
from bailian_apps.core.turns import SessionMarker, Turn
from bailian_apps.llamaindex.messages import to_turns

MARKER = {"app_id": "app", "session_id": "s", "round": 2, "used_at": 1.5, "system": ""}


@pytest.mark.parametrize(
    ("role", "turn_role"),
    [
        ("system", "system"),
        ("developer", "system"),
        ("user", "user"),
        ("assistant", "assistant"),
        ("chatbot", "assistant"),
        ("model", "assistant"),
    ],
)
def test_roles_map_to_three_turn_roles(role: str, turn_role: Any) -> None:
    assert to_turns([ChatMessage(role=role, content="甲")]) == [Turn(role=turn_role, text="甲")]


def test_texts_are_joined_as_llama_index_joins_them() -> None:
    message = ChatMessage(blocks=[TextBlock(text="甲"), TextBlock(text="乙")])
    assert to_turns([message])[0].text == message.content == "甲\n乙"


def test_tool_calls_of_another_llm_are_dropped() -> None:
    call = ToolCallBlock(tool_name="f", tool_kwargs={})
    calls = {"tool_calls": [{"id": "1"}]}
    messages = [
        ChatMessage(content="问"),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage(role="assistant", content="", additional_kwargs=calls),
        ChatMessage(role="assistant", blocks=[TextBlock(text="查"), call]),
        ChatMessage(role="tool", content="晴"),
        ChatMessage(role="function", content="雨"),
        ChatMessage(content="再问"),
    ]
    assert to_turns(messages) == [
        Turn(role="user", text="问"),
        Turn(role="assistant", text="查"),
        Turn(role="user", text="Tool result: 晴"),
        Turn(role="user", text="Tool result: 雨"),
        Turn(role="user", text="再问"),
    ]


def test_an_empty_message_is_an_empty_turn() -> None:
    assert to_turns([ChatMessage(role="assistant")]) == [Turn(role="assistant", text="")]


def test_urls_become_images_and_files() -> None:
    message = ChatMessage(
        blocks=[
            TextBlock(text="看"),
            ImageBlock(url="https://example.com/a.png"),
            DocumentBlock(url="https://example.com/b.pdf"),
            ImageBlock(url="oss://bucket/c.png"),
        ]
    )
    [turn] = to_turns([message])
    assert turn.images == ("https://example.com/a.png", "oss://bucket/c.png")
    assert turn.files == ("https://example.com/b.pdf",)


def test_thinking_and_citations_are_dropped() -> None:
    citation = CitationBlock(
        cited_content="原文", source="s", title="t", additional_location_info={}
    )
    blocks = [
        ThinkingBlock(content="想"),
        TextBlock(text="答"),
        citation,
        CachePoint(cache_control=CacheControl(type="ephemeral")),
    ]
    [turn] = to_turns([ChatMessage(role="assistant", blocks=blocks)])
    assert turn == Turn(role="assistant", text="答")


def test_the_marker_of_an_answer_is_read() -> None:
    stored = {"bailian": {**MARKER, "context_lost": True}, "other": 1}
    [turn] = to_turns([ChatMessage(role="assistant", content="答", additional_kwargs=stored)])
    assert turn.marker == SessionMarker(app_id="app", session_id="s", round=2, used_at=1.5)


@pytest.mark.parametrize("stored", ["text", {"session_id": 1}, None, [], {**MARKER, "round": "2"}])
def test_a_malformed_marker_is_ignored(stored: Any) -> None:
    message = ChatMessage(role="assistant", content="答", additional_kwargs={"bailian": stored})
    assert to_turns([message])[0].marker is None


def test_only_an_answer_has_a_marker() -> None:
    message = ChatMessage(role="user", content="问", additional_kwargs={"bailian": MARKER})
    assert to_turns([message])[0].marker is None


REJECTED = {
    "tool calls": (
        ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [{"id": "1"}]}),
        "tool calls",
    ),
    "tool call": (
        ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="f", tool_kwargs={})]),
        "tool calls",
    ),
    "tool call of a user": (
        ChatMessage(blocks=[ToolCallBlock(tool_name="f", tool_kwargs={})]),
        "tool calls in the role 'user'",
    ),
    "audio": (ChatMessage(blocks=[AudioBlock(url="https://a/b.mp3")]), "AudioBlock"),
    "video": (ChatMessage(blocks=[VideoBlock(url="https://a/b.mp4")]), "VideoBlock"),
    "citable": (
        ChatMessage(blocks=[CitableBlock(title="t", source="s", content="c")]),
        "CitableBlock",
    ),
    "no image": (ChatMessage(blocks=[ImageBlock()]), "has neither an address nor content"),
    "image on another machine": (
        ChatMessage(blocks=[ImageBlock(url="ftp://example.com/a.png")]),
        "neither an http(s) URL nor a Data URL",
    ),
    "file data": (ChatMessage(blocks=[DocumentBlock(data=b"%PDF")]), "is not an http(s) URL"),
    "image of an answer": (
        ChatMessage(role="assistant", blocks=[ImageBlock(url="https://a/b.png")]),
        "role 'assistant'",
    ),
}


@pytest.mark.parametrize("role", ["tool", "function"])
def test_a_tool_result_may_come_last(role: str) -> None:
    """As in a hand-off of AgentWorkflow, where it is the next agent's last message."""
    *_, last = to_turns([ChatMessage(content="问"), ChatMessage(role=role, content="42")])
    assert (last.role, last.text) == ("user", "Tool result: 42")


@pytest.mark.parametrize("case", REJECTED)
def test_unsupported_content_is_rejected(case: str) -> None:
    message, named = REJECTED[case]
    with pytest.raises(InvalidInputError, match=r"messages\[1\]") as caught:
        to_turns([ChatMessage(content="问"), message])
    assert named in str(caught.value)
    assert caught.value.field in ("messages[1]", "messages[1].blocks[0]")
