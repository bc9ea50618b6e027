"""Messages as turns: what an app receives, and what is refused."""

from __future__ import annotations

import pytest

from bailian_apps import InvalidInputError
from bailian_apps.core.turns import (
    SessionMarker,
    Turn,
    TurnBuilder,
    build_turns,
    unsupported,
)

MARKER = SessionMarker(app_id="a", session_id="s", round=2, used_at=1.5, digest="0123")


def message(role: str, *texts: str, where: str = "messages[0]", calls: bool = False) -> TurnBuilder:
    builder = TurnBuilder(where, role, tool_calls=calls)
    for text in texts:
        builder.text(text)
    return builder


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("system", "system"),
        ("developer", "system"),
        ("user", "user"),
        ("human", "user"),
        ("assistant", "assistant"),
        ("ai", "assistant"),
        ("chatbot", "assistant"),
        ("model", "assistant"),
    ],
)
def test_a_frameworks_role_becomes_one_of_three(name: str, role: str) -> None:
    turn = message(name, "a", "b").build()
    assert (turn.role, turn.text) == (role, "a\nb")


@pytest.mark.parametrize("name", ["tool", "function"])
def test_a_tools_result_becomes_a_users_turn(name: str) -> None:
    assert message(name, "42").build() == Turn(role="user", text="Tool result: 42")


def test_an_unknown_role_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="role 'critic', which an app cannot receive") as e:
        message("critic", where="messages[3]")
    assert e.value.field == "messages[3]"


@pytest.mark.parametrize("scheme", ["http", "https", "oss"])
def test_images_and_files_are_kept_in_order(scheme: str) -> None:
    builder = message("user", "see")
    builder.image("p", f"{scheme}://a/1")
    builder.image("p", f"{scheme}://a/2")
    builder.file("p", f"{scheme}://a/3")
    turn = builder.build()
    assert turn.images == (f"{scheme}://a/1", f"{scheme}://a/2")
    assert turn.files == (f"{scheme}://a/3",)


@pytest.mark.parametrize(
    "image", [None, "", "/files/a.png", "file:///files/a.png", 1, "iVBORw0KGgo="]
)
def test_what_is_no_image_is_refused_with_its_place(image: object) -> None:
    with pytest.raises(InvalidInputError, match="Pass an http:// or https:// address") as error:
        message("user").image("messages[0].content[1]", image)
    assert error.value.field == "messages[0].content[1]"


@pytest.mark.parametrize("file", [None, "", "data:text/plain;base64,AA==", "/files/a.pdf", b"x", 1])
def test_a_file_that_the_cloud_cannot_fetch_is_refused(file: object) -> None:
    with pytest.raises(InvalidInputError, match=r"is not an http\(s\) URL.*session_file_ids"):
        message("user").file("messages[0].content[1]", file)


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_a_users_message_has_images_and_files(role: str) -> None:
    builder = message(role)
    for add in (builder.image, builder.file):
        with pytest.raises(InvalidInputError, match=f"in the role '{role}'"):
            add("p", "https://a/b")


def test_a_tools_result_may_have_an_image() -> None:
    builder = message("tool", "seen")
    builder.image("p", "https://a/b")
    assert builder.build().images == ("https://a/b",)


def test_only_an_assistants_message_has_a_marker() -> None:
    stored = MARKER.to_dict() | {"context_lost": True}
    assert TurnBuilder("m", "ai", marker=stored).build().marker == MARKER
    assert TurnBuilder("m", "user", marker=stored).build().marker is None
    assert TurnBuilder("m", "ai", marker={"round": 1}).build().marker is None
    assert TurnBuilder("m", "ai").build().marker is None


def test_a_marker_stored_by_an_older_version_is_read() -> None:
    stored = MARKER.to_dict()
    stored["told"] = stored.pop("digest")
    assert SessionMarker.from_dict(stored) == MARKER


def test_a_message_with_only_tool_calls_is_dropped() -> None:
    turns = build_turns(
        [
            message("user", "weather?"),
            message("ai", "", calls=True),
            message("tool", "clear"),
            message("ai", "let me look", calls=True),
            message("tool", "dry"),
        ]
    )
    assert [(turn.role, turn.text) for turn in turns] == [
        ("user", "weather?"),
        ("user", "Tool result: clear"),
        ("assistant", "let me look"),
        ("user", "Tool result: dry"),
    ]


def test_an_empty_answer_without_tool_calls_is_kept() -> None:
    assert build_turns([message("ai", ""), message("user", "hi")])[0].role == "assistant"


@pytest.mark.parametrize("text", ["", "wait"])
def test_tool_calls_in_the_last_message_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="has tool calls and is the last message") as caught:
        build_turns([message("user", "hi"), message("ai", text, where="messages[1]", calls=True)])
    assert caught.value.field == "messages[1]"


def test_tool_calls_in_another_role_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="tool calls in the role 'user'"):
        build_turns([message("user", "hi", calls=True), message("user", "hi")])


def test_an_unsupported_part_is_named_with_its_place() -> None:
    error = unsupported("messages[2].content[0]", "an AudioBlock")
    assert error.field == "messages[2].content[0]"
    assert "has an AudioBlock, which an app cannot receive" in str(error)
