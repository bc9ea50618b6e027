"""LangChain messages as turns."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from bailian_apps import InvalidInputError
from bailian_apps.core.turns import SessionMarker, Turn
from bailian_apps.langchain.messages import to_turns

URL = "https://example.com/a.png"
PDF = "https://example.com/a.pdf"
MARKER = SessionMarker(app_id="a", session_id="s", round=1, used_at=5.0)


@pytest.mark.parametrize(
    ("message", "turn"),
    [
        (SystemMessage("be brief"), Turn(role="system", text="be brief")),
        (ChatMessage("x", role="system"), Turn(role="system", text="x")),
        (ChatMessage("x", role="user"), Turn(role="user", text="x")),
        (ChatMessage("x", role="assistant"), Turn(role="assistant", text="x")),
        (HumanMessage("hi", name="joe"), Turn(role="user", text="hi")),
        (
            HumanMessage(["a", {"type": "text", "text": "b"}, {"type": "text-plain", "text": "c"}]),
            Turn(role="user", text="a\nb\nc"),
        ),
        (
            HumanMessage(
                [
                    {"type": "text", "text": "look"},
                    {"type": "image", "url": URL},
                    {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
                    {"type": "image_url", "image_url": URL},
                    {"type": "image", "source_type": "url", "url": URL},
                    {"type": "input_image", "image_url": URL},
                    {"type": "image", "source": {"type": "url", "url": URL}},
                    {"image": URL},
                    {"type": "file", "url": PDF},
                    {"type": "file", "source_type": "url", "url": PDF},
                    {"type": "input_file", "file_url": PDF},
                    {"type": "document", "source": {"type": "url", "url": PDF}},
                ]
            ),
            Turn(role="user", text="look", images=(URL,) * 7, files=(PDF,) * 4),
        ),
        (AIMessage("yes"), Turn(role="assistant", text="yes")),
        (
            AIMessage("yes", response_metadata={"bailian": MARKER.to_dict()}),
            Turn(role="assistant", text="yes", marker=MARKER),
        ),
        (
            AIMessage("yes", response_metadata={"bailian": {"session_id": 3}}),
            Turn(role="assistant", text="yes"),
        ),
        (
            AIMessage(
                [
                    {"type": "reasoning", "reasoning": "hm"},
                    {"type": "thinking", "thinking": "hm"},
                    {"type": "text", "text": "a"},
                    {"type": "server_tool_call", "id": "1", "name": "n", "args": {}},
                    {"type": "non_standard", "value": {"type": "bailian_step"}},
                    {"type": "text", "text": "b"},
                ]
            ),
            Turn(role="assistant", text="ab"),
        ),
    ],
)
def test_a_message_becomes_a_turn(message: BaseMessage, turn: Turn) -> None:
    assert to_turns([message]) == [turn]


TOOL_CALL = {"id": "1", "name": "n", "args": {}}


def test_results_of_local_tools_are_sent_as_user_text() -> None:
    """As an agent that hands off to an app leaves them in the history."""
    messages = [
        HumanMessage("sky?"),
        AIMessage("", tool_calls=[TOOL_CALL]),
        ToolMessage([{"type": "text", "text": "clear"}], tool_call_id="1"),
        AIMessage("wait", tool_calls=[TOOL_CALL]),
        FunctionMessage("22", name="f"),
        ChatMessage("dry", role="tool"),
    ]
    assert to_turns(messages) == [
        Turn(role="user", text="sky?"),
        Turn(role="user", text="Tool result: clear"),
        Turn(role="assistant", text="wait"),
        Turn(role="user", text="Tool result: 22"),
        Turn(role="user", text="Tool result: dry"),
    ]


@pytest.mark.parametrize(
    ("message", "where", "what"),
    [
        (
            ToolMessage([{"type": "image", "file_id": "file-1"}], tool_call_id="1"),
            "messages[1].content[0]",
            "has neither an address nor content",
        ),
        (RemoveMessage("x"), "messages[1]", "role 'remove', which an app cannot receive"),
        (
            ChatMessage("x", role="critic"),
            "messages[1]",
            "role 'critic', which an app cannot receive",
        ),
        (
            AIMessage("", tool_calls=[TOOL_CALL]),
            "messages[1]",
            "has tool calls and is the last message",
        ),
        (AIMessage([{"type": "image", "url": URL}]), "messages[1].content[0]", "'assistant'"),
        (
            HumanMessage(["hi", {"type": "image_url", "image_url": {"url": "lake.png"}}]),
            "messages[1].content[1]",
            "is text that is neither an http(s) URL nor a Data URL",
        ),
        (
            HumanMessage([{"type": "image", "base64": 5, "mime_type": "image/png"}]),
            "messages[1].content[0]",
            "is of type int, which is not an image",
        ),
        (
            HumanMessage([{"type": "file", "file_id": "1"}]),
            "messages[1].content[0]",
            "is not an http(s) URL",
        ),
        (
            HumanMessage([{"type": "audio", "url": "https://example.com/a.mp3"}]),
            "messages[1].content[0]",
            "block of type 'audio'",
        ),
        (SystemMessage([{"type": "image", "url": URL}]), "messages[1].content[0]", "'system'"),
    ],
)
def test_an_unsupported_message_raises_an_error_that_names_its_place(
    message: BaseMessage, where: str, what: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        to_turns([HumanMessage("first"), message])
    assert caught.value.field == where
    assert what in str(caught.value)


def test_an_unsupported_message_is_refused_on_every_path(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    cloud = start_cloud(app=lambda _: "hi")
    with pytest.raises(InvalidInputError, match=r"messages\[0\] has role 'remove'"):
        ask(make_model(cloud), [RemoveMessage("x")])
    assert cloud.requests == []
