"""Which turns are sent, in which session: nothing told twice, nothing lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bailian_apps import AppResult, AppSettings, InvalidInputError
from bailian_apps.core.history import Plan, SessionMarker, Turn, plan_request, system_digest

APP = AppSettings(app_id="app")
NOW = 1_000_000.0


def user(text: str, **more: Any) -> Turn:
    return Turn(role="user", text=text, **more)


def marked(text: str = "a", **fields: Any) -> Turn:
    given = {"app_id": "app", "session_id": "s", "round": 1, "used_at": NOW - 1} | fields
    return Turn(role="assistant", text=text, marker=SessionMarker(**given))


def foreign(text: str) -> Turn:
    return Turn(role="assistant", text=text)


SYSTEM = Turn(role="system", text="Be kind")


def plan(*turns: Turn, settings: AppSettings = APP, **more: Any) -> Plan:
    return plan_request(turns, settings, now=NOW, **more)


def test_a_first_turn_opens_a_session() -> None:
    assert plan(user("hi")).call() == {"prompt": "hi"}
    assert plan(user("hi")).round == 1


def test_a_second_turn_names_the_session_and_sends_only_what_is_new() -> None:
    assert plan(user("hi"), marked(), user("more")).call() == {"prompt": "more", "session_id": "s"}
    assert plan(user("hi"), marked(), user("more"), user("and")).call() == {
        "prompt": "more\n\nand",
        "session_id": "s",
    }


def test_the_newest_marker_of_the_same_app_counts() -> None:
    turns = [
        user("1"),
        marked(session_id="new"),
        user("2"),
        marked(session_id="new", round=2),
        user("3"),
    ]
    third = plan(*turns)
    assert (third.session_id, third.prompt, third.round) == ("new", "3", 3)


WHOLE_HISTORY = {
    "too old": [user("1"), marked(used_at=NOW - 3600), user("2")],
    "too long": [user("1"), marked(round=50), user("2")],
    "not certain": [user("1"), marked(round=0), user("2")],
    "another system text": [SYSTEM, user("1"), marked(), user("2")],
    "two sessions": [
        user("1"),
        user("2"),
        marked(session_id="a"),
        marked(session_id="b"),
        user("3"),
    ],
    "no marker": [user("1"), foreign("a"), user("2")],
    "another app's marker": [user("1"), marked(app_id="other"), user("2")],
    "another app answered in between": [user("1"), marked(), user("2"), foreign("b"), user("3")],
}


@pytest.mark.parametrize("turns", WHOLE_HISTORY.values(), ids=WHOLE_HISTORY)
def test_else_the_whole_history_is_sent(turns: list[Turn]) -> None:
    sent = plan(*turns)
    assert [(m["role"], m["content"]) for m in sent.messages or ()] == [
        (t.role, t.text) for t in turns
    ]
    assert (sent.prompt, sent.session_id, sent.round) == (None, None, 0)


def test_a_conversation_sent_as_messages_stays_so() -> None:
    turns = [user("1"), foreign("a"), user("2")]
    first = plan(*turns)
    answer = Turn(
        role="assistant", text="b", marker=first.marker(AppResult(session_id="new"), now=NOW)
    )
    second = plan(*turns, answer, user("3"))
    assert len(second.messages or ()) == 5


def test_system_messages_are_joined_and_come_first() -> None:
    sent = plan(user("1"), SYSTEM, Turn(role="system", text="Be brief"), user("2"))
    assert (sent.messages or ())[0] == {"role": "system", "content": "Be kind\n\nBe brief"}
    assert len(sent.messages or ()) == 3


def test_messages_mode_never_names_a_session() -> None:
    settings = AppSettings(app_id="app", history_mode="messages")
    sent = plan(user("1"), marked(), user("2"), settings=settings)
    assert (len(sent.messages or ()), sent.session_id) == (3, None)
    with pytest.raises(InvalidInputError, match="session_id: was given with history_mode"):
        plan(user("1"), settings=settings, session_id="s9")


def test_a_session_named_by_the_caller_goes_first() -> None:
    assert plan(user("1"), marked(), user("2"), session_id="mine").call() == {
        "prompt": "2",
        "session_id": "mine",
    }
    between = plan(user("1"), marked(), user("2"), foreign("b"), user("3"), session_id="s")
    assert len(between.messages or ()) == 5
    kept = plan(user("1"), marked(round=4), user("2"), session_id="s")
    assert (kept.prompt, kept.round) == ("2", 5)
    with pytest.raises(InvalidInputError, match="session_id: was given with a system message"):
        plan(SYSTEM, user("1"), session_id="mine")


def test_images_and_files_of_the_new_turns_go_along() -> None:
    old = user("1", images=("http://x/1",))
    new = user("2", images=("http://x/2",), files=("http://x/f",))
    assert plan(old, marked(), new).call() == {
        "prompt": "2",
        "session_id": "s",
        "image_list": ("http://x/2",),
        "file_list": ("http://x/f",),
    }
    # What goes as messages is all new to the cloud.
    assert plan(old, foreign("a"), new, new).images == ("http://x/1", "http://x/2")


@pytest.mark.parametrize("turns", [[], [user("1"), foreign("a")], [SYSTEM]])
def test_a_conversation_ends_with_the_user(turns: list[Turn]) -> None:
    with pytest.raises(InvalidInputError, match=r"^messages: .*user"):
        plan(*turns)


def test_another_session_in_the_answer_is_lost_context() -> None:
    second = plan(user("1"), marked(), user("2"))
    kept, lost = AppResult(session_id="s"), AppResult(session_id="t")
    assert not second.context_lost(kept)
    assert second.context_lost(lost)
    assert second.marker(kept, now=NOW) == SessionMarker(
        app_id="app", session_id="s", round=2, used_at=NOW
    )
    marker = second.marker(lost, now=NOW)
    assert marker is not None
    assert marker.round == 0
    assert not plan(user("1")).context_lost(lost)
    assert second.marker(AppResult()) is None


def test_a_marker_survives_json_and_nonsense_is_no_marker() -> None:
    marker = SessionMarker(
        app_id="a", session_id="s", round=3, used_at=12.5, system=system_digest([SYSTEM])
    )
    assert SessionMarker.from_dict(json.loads(json.dumps(marker.to_dict()))) == marker
    for nonsense in (
        None,
        1,
        [],
        {},
        {"app_id": "a", "session_id": 5},
        marker.to_dict() | {"round": "3"},
    ):
        assert SessionMarker.from_dict(nonsense) is None
