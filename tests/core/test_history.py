"""Which turns are sent, in which session: nothing is sent twice, nothing is lost."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from bailian_apps import AppRequest, AppResult, AppSettings, InvalidInputError
from bailian_apps.core.history import Plan, plan_request, system_digest
from bailian_apps.core.turns import SessionMarker, Turn

APP = AppSettings(app_id="app")
NOW = 1_000_000.0


def user(text: str, **more: Any) -> Turn:
    return Turn(role="user", text=text, **more)


def marked(text: str = "a", *, of: str | Turn = "1", **fields: Any) -> Turn:
    """An answer of the app to `of`, by default in the first round of the session `s`."""
    question = user(of) if isinstance(of, str) else of
    marker = plan_request([question], APP).marker(AppResult(text=text, session_id="s"), now=NOW - 1)
    assert marker is not None
    return Turn(role="assistant", text=text, marker=replace(marker, **fields))


def foreign(text: str) -> Turn:
    return Turn(role="assistant", text=text)


SYSTEM = Turn(role="system", text="Be kind")


def plan(*turns: Turn, settings: AppSettings = APP, **more: Any) -> Plan:
    return plan_request(turns, settings, now=NOW, **more)


def test_a_first_turn_opens_a_session() -> None:
    assert plan(user("hi")).request_fields() == {"prompt": "hi"}
    assert plan(user("hi")).round == 1


def test_a_second_turn_names_the_session_and_sends_only_what_is_new() -> None:
    assert plan(user("1"), marked(), user("more")).request_fields() == {
        "prompt": "more",
        "session_id": "s",
    }
    assert plan(user("1"), marked(), user("more"), user("and")).request_fields() == {
        "prompt": "more\n\nand",
        "session_id": "s",
    }


def test_clocks_may_differ_by_a_few_seconds() -> None:
    assert plan(user("1"), marked(used_at=NOW + 3), user("2")).session_id == "s"


def test_the_newest_marker_of_the_same_app_counts() -> None:
    turns = [
        user("1"),
        marked(session_id="new"),
        user("2"),
        marked(of="2", session_id="new", round=2),
        user("3"),
    ]
    third = plan(*turns)
    assert (third.session_id, third.prompt, third.round) == ("new", "3", 3)


WHOLE_HISTORY = {
    "too old": [user("1"), marked(used_at=NOW - 3600), user("2")],
    "by a clock ahead": [user("1"), marked(used_at=NOW + 10), user("2")],
    "too long": [user("1"), marked(round=50), user("2")],
    "not certain": [user("1"), marked(round=0), user("2")],
    "another system text": [SYSTEM, user("1"), marked(), user("2")],
    "two sessions": [
        *(user("1"), marked(session_id="a")),
        *(user("2"), marked(of="2", session_id="b", round=2)),
        user("3"),
    ],
    "two calls at once": [
        *(user("1"), marked(), user("2"), marked(of="2", round=2)),
        *(user("2b"), marked(of="2b", round=2)),
        user("3"),
    ],
    "an edited question": [user("1!"), marked(), user("2")],
    "an edited answer": [user("1"), replace(marked(), text="b"), user("2")],
    "an earlier edited question": [
        *(user("1!"), marked(), user("2"), marked(of="2", round=2)),
        user("3"),
    ],
    "another picture": [user("1", images=("http://x/1",)), marked(), user("2")],
    "a question taken out": [
        *(user("1"), marked(), marked(of="2", round=2)),
        user("3"),
    ],
    "an answer taken out": [
        *(user("1"), user("2"), marked(of="2", round=2)),
        user("3"),
    ],
    "a round taken out": [
        *(user("1"), marked(), user("3"), marked(of="3", round=3)),
        user("4"),
    ],
    "a summary put in": [
        user("summary of 1"),
        *(user("2"), marked(of="2", round=2)),
        user("3"),
    ],
    "an answer put in": [
        foreign("summary of 1"),
        *(user("2"), marked(of="2", round=2)),
        user("3"),
    ],
    "a marker of no known words": [user("1"), marked(digest=""), user("2")],
    "no marker": [user("1"), foreign("a"), user("2")],
    "another app's marker": [user("1"), marked(app_id="other"), user("2")],
    "another app answered in between": [user("1"), marked(), user("2"), foreign("b"), user("3")],
}


@pytest.mark.parametrize("turns", WHOLE_HISTORY.values(), ids=WHOLE_HISTORY)
def test_a_doubtful_session_means_the_whole_history_is_sent(turns: list[Turn]) -> None:
    sent = plan(*turns)
    assert [(m["role"], m["content"]) for m in sent.messages or ()] == [
        (t.role, t.text) for t in turns
    ]
    assert (sent.prompt, sent.session_id, sent.round) == (None, None, 0)


def test_the_reason_for_sending_everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    for name, turns in WHOLE_HISTORY.items():
        with caplog.at_level("INFO", "bailian_apps"):
            caplog.clear()
            plan(*turns)
        [record] = caplog.records
        assert record.getMessage().startswith("sending app app the whole conversation: "), name


@pytest.mark.parametrize("kept", range(1, 7))
def test_a_trimmed_history_continues_its_session(kept: int) -> None:
    """The session still holds what was trimmed, and what is left matches it."""
    turns = [
        *(user("1"), marked(), user("2"), marked(of="2", round=2)),
        *(user("3"), marked(of="3", round=3), user("4")),
    ][-kept:]
    sent = plan(*turns)
    assert sent.request_fields() == {"prompt": "4"} | ({"session_id": "s"} if kept > 1 else {})


def test_an_answer_that_a_store_stripped_still_matches() -> None:
    stripped = replace(marked(" a\n\n"), text="a")
    assert plan(user("1"), stripped, user("2")).session_id == "s"


def test_a_plan_for_a_session_has_the_whole_history_as_fallback() -> None:
    turns = [user("1", images=("http://x/1",)), user("2")]
    turns[1:1] = [marked(of=turns[0])]
    sent = plan(*turns)
    assert sent.fallback is not None
    assert sent.session_id == "s"
    assert sent.fallback.request_fields({"image_list": ["http://x/2"]}) == {
        "messages": (
            {"role": "user", "content": "1"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "2"},
        ),
        "image_list": ("http://x/1", "http://x/2"),
    }
    assert plan(user("1")).fallback is None
    # The caller is responsible for a session that they name.
    assert plan(*turns, session_id="s").fallback is None
    assert plan(*turns, session_id="mine").fallback is None


def test_call_options_are_added_to_the_turns() -> None:
    sent = plan(user("1", files=("http://x/1",)))
    assert sent.request_fields({"biz_params": {"city": "x"}, "file_list": ("http://x/2",)}) == {
        "prompt": "1",
        "biz_params": {"city": "x"},
        "file_list": ("http://x/1", "http://x/2"),
    }
    assert sent.request_fields({"file_list": None})["file_list"] == ("http://x/1",)
    with pytest.raises(InvalidInputError, match="file_list must be a list of addresses"):
        sent.request_fields({"file_list": "http://x/2"})


def test_a_bare_prompt_is_a_plan_without_a_session() -> None:
    assert Plan.for_prompt("app", "hi") == Plan(app_id="app", prompt="hi")
    assert Plan.for_prompt("app", None).request_fields({"session_id": "s"}) == {"session_id": "s"}


def test_a_conversation_sent_as_messages_stays_so() -> None:
    turns = [user("1"), foreign("a"), user("2")]
    first = plan(*turns)
    answer = Turn(
        role="assistant", text="b", marker=first.marker(AppResult(session_id="new"), now=NOW)
    )
    second = plan(*turns, answer, user("3"))
    assert len(second.messages or ()) == 5


def sent_messages(*turns: Turn, **more: Any) -> list[tuple[str, str]]:
    request = AppRequest(app_id="app", **plan(*turns, **more).request_fields())
    return [(message.role, message.content) for message in request.messages or ()]


def test_system_texts_at_the_beginning_are_joined_and_later_ones_are_the_users() -> None:
    brief = Turn(role="system", text="Be brief")
    assert sent_messages(SYSTEM, brief, user("1"), foreign("a"), brief, user("2"), brief) == [
        ("system", "Be kind\n\nBe brief"),
        ("user", "1"),
        ("assistant", "a"),
        *(("user", "Be brief"), ("user", "2"), ("user", "Be brief")),
    ]
    assert plan(user("1"), marked(), user("2"), brief).request_fields() == {
        "prompt": "2\n\nBe brief",
        "session_id": "s",
    }


@pytest.mark.parametrize("mode", ["session", "full"])
def test_a_conversation_that_ends_with_system_text_is_answered(mode: Any) -> None:
    brief = Turn(role="system", text="Be brief")
    more = {"settings": APP.with_overrides({"history_mode": mode})}
    asked = plan(SYSTEM, **more).request_fields()
    assert "Be kind" in (asked.get("prompt"), (asked.get("messages") or [{}])[-1].get("content"))
    assert sent_messages(SYSTEM, brief, **more) == [("system", "Be kind"), ("user", "Be brief")]
    answered = sent_messages(SYSTEM, user("1"), foreign("a"), brief, **more)
    assert answered[-1] == ("user", "Be brief")


def test_the_messages_of_a_bare_call_hold_one_system_message_first() -> None:
    said = [("system", "a"), ("system", "b"), ("user", "c"), ("system", "d")]
    messages = [{"role": role, "content": content} for role, content in said]
    request = AppRequest.model_validate({"app_id": "app", "messages": messages})
    assert [(each.role, each.content) for each in request.messages or ()] == [
        ("system", "a\n\nb"),
        ("user", "c"),
        ("user", "d"),
    ]
    with pytest.raises(ValueError, match="messages must end with a user message"):
        AppRequest.model_validate({"app_id": "app", "messages": messages[:2]})


@pytest.mark.parametrize("mode", ["full", "messages"])
def test_full_mode_never_names_a_session(mode: Any) -> None:
    """Its older name was `messages`."""
    settings = AppSettings(app_id="app", history_mode=mode)
    sent = plan(user("1"), marked(), user("2"), settings=settings)
    assert (len(sent.messages or ()), sent.session_id) == (3, None)
    with pytest.raises(InvalidInputError, match="session_id was given with history_mode"):
        plan(user("1"), settings=settings, session_id="s9")


def test_a_session_named_by_the_caller_takes_precedence() -> None:
    assert plan(user("1"), marked(), user("2"), session_id="mine").request_fields() == {
        "prompt": "2",
        "session_id": "mine",
    }
    elsewhere = plan(user("1"), marked(), user("2"), foreign("b"), user("3"), session_id="mine")
    assert (elsewhere.request_fields()["prompt"], elsewhere.round) == ("3", 1)
    between = plan(user("1"), marked(), user("2"), foreign("b"), user("3"), session_id="s")
    assert len(between.messages or ()) == 5
    kept = plan(user("1"), marked(round=4), user("2"), session_id="s")
    assert (kept.prompt, kept.round) == ("2", 5)
    for turns in ([user("1")], [user("1"), marked(), user("2")]):
        for named in ("mine", "s"):
            with pytest.raises(InvalidInputError, match="session_id was given with a system mess"):
                plan(SYSTEM, *turns, session_id=named)


def test_images_and_files_of_the_new_turns_are_sent() -> None:
    old = user("1", images=("http://x/1",))
    new = user("2", images=("http://x/2",), files=("http://x/f",))
    assert plan(old, marked(of=old), new).request_fields() == {
        "prompt": "2",
        "session_id": "s",
        "image_list": ("http://x/2",),
        "file_list": ("http://x/f",),
    }
    # What goes as messages is all new to the cloud.
    assert plan(old, foreign("a"), new, new).images == ("http://x/1", "http://x/2")


PICTURE = user("", images=("https://a/b.png",))


@pytest.mark.parametrize("mode", ["session", "full"])
def test_the_last_user_message_needs_text(mode: Any) -> None:
    settings = APP.with_overrides({"history_mode": mode})
    for new in (user(""), user(" \n"), PICTURE):
        with pytest.raises(InvalidInputError, match=r"^messages .*user message"):
            plan(user("1"), marked(), new, settings=settings)
    assert plan(user("1"), marked(), PICTURE, user("see"), settings=settings).images


def test_a_message_without_text_is_left_out() -> None:
    """The cloud refuses an empty one; its image is sent all the same."""
    sent = plan(user("1"), foreign(""), user("see"), PICTURE)
    assert [message["content"] for message in sent.messages or ()] == ["1", "see"]
    assert sent.images == ("https://a/b.png",)


def test_an_answer_with_half_a_character_is_repaired_before_it_is_sent() -> None:
    """An app may cut an emoji in two; a request cannot hold a lone half."""
    sent = plan(user("1"), foreign("\ud83d\ude00!\ud83d"), user("2"))
    assert [message["content"] for message in sent.messages or ()] == ["1", "😀!\ufffd", "2"]


@pytest.mark.parametrize("turns", [[], [user("1"), foreign("a")], [SYSTEM, foreign("a")]])
def test_a_conversation_ends_with_the_user(turns: list[Turn]) -> None:
    with pytest.raises(InvalidInputError, match=r"^messages .*user"):
        plan(*turns)


def test_only_an_answer_in_its_own_session_counts_its_round() -> None:
    second = plan(user("1"), marked(), user("2"))
    kept = second.marker(AppResult(text="b", session_id="s"), now=NOW)
    assert kept == replace(marked("b", of="2").marker, round=2, used_at=NOW)  # type: ignore[type-var]
    for uncertain in ({"context_lost": True}, {"whole_history": True}):
        marker = second.marker(AppResult(text="b", session_id="t", **uncertain), now=NOW)
        assert marker == SessionMarker(app_id="app", session_id="t", round=0, used_at=NOW)
    assert second.marker(AppResult()) is None


def test_a_marker_survives_json_and_nonsense_is_ignored() -> None:
    marker = SessionMarker(
        app_id="a",
        session_id="s",
        round=3,
        used_at=12.5,
        system=system_digest([SYSTEM]),
        digest="0123456789abcdef",
    )
    assert SessionMarker.from_dict(json.loads(json.dumps(marker.to_dict()))) == marker
    for nonsense in (
        None,
        1,
        [],
        {},
        {"app_id": "a", "session_id": 5},
        marker.to_dict() | {"round": "3"},
        marker.to_dict() | {"app_id": 5},
        marker.to_dict() | {"session_id": None},
        marker.to_dict() | {"used_at": "now"},
    ):
        assert SessionMarker.from_dict(nonsense) is None


def test_an_empty_system_message_does_not_end_a_named_session() -> None:
    turns = [Turn(role="system", text=""), user("1")]
    marker = plan(*turns, session_id="mine").marker(
        AppResult(text="a", session_id="mine"), now=NOW - 1
    )
    answer = Turn(role="assistant", text="a", marker=marker)
    assert plan(*turns, answer, user("2")).session_id == "mine"


def test_a_marker_is_dated_by_the_clock_by_default() -> None:
    before = time.time()
    marker = plan(user("1")).marker(AppResult(session_id="s"))
    assert marker is not None
    assert before <= marker.used_at <= time.time()


def folded(text: str, *turns: Turn) -> Turn:
    """The answer to a conversation that was sent as one prompt, which opened the session `p`."""
    result = AppResult(text=text, session_id="p", whole_history=True, history_format="prompt")
    marker = plan(*turns).marker(result, now=NOW - 1)
    return Turn(role="assistant", text=text, marker=marker)


def test_a_session_that_a_folded_history_opened_is_continued() -> None:
    begun = [SYSTEM, user("1"), foreign("a"), user("2")]
    first = folded("b", *begun)
    assert first.marker is not None
    assert (first.marker.round, first.marker.session_id) == (1, "p")
    second = plan(*begun, first, user("3"))
    assert second.request_fields() == {"prompt": "3", "session_id": "p"}
    assert second.round == 2
    marker = second.marker(AppResult(text="c", session_id="p"), now=NOW)
    answer = Turn(role="assistant", text="c", marker=marker)
    assert plan(*begun, first, user("3"), answer, user("4")).request_fields() == {
        "prompt": "4",
        "session_id": "p",
    }


def test_a_folded_history_may_follow_an_older_session() -> None:
    begun = [user("1"), marked(used_at=0), user("2")]
    assert plan(*begun).messages
    assert plan(*begun, folded("b", *begun), user("3")).session_id == "p"
    assert plan(folded("b", *begun), user("3")).session_id == "p"  # the rest was trimmed


def test_a_folded_history_of_other_turns_is_sent_again() -> None:
    begun = [SYSTEM, user("1"), foreign("a"), user("2")]
    answer = folded("b", *begun)
    for changed in (
        [SYSTEM, user("1!"), foreign("a"), user("2")],
        [SYSTEM, user("1"), foreign("a!"), user("2")],
        [SYSTEM, user("1"), user("2")],
        [SYSTEM, foreign("a"), user("2")],
        [user("1"), foreign("a"), user("2")],
        [Turn(role="system", text="Be brief"), user("1"), foreign("a"), user("2")],
    ):
        sent = plan(*changed, answer, user("3"))
        assert (sent.session_id, len(sent.messages or ())) == (None, len(changed) + 2)


def test_the_marker_is_of_what_was_sent_in_the_end() -> None:
    """Another call had continued the session, so the fallback was sent, as a prompt."""
    turns = [user("1"), marked(), user("2")]
    result = AppResult(text="b", session_id="p", whole_history=True, history_format="prompt")
    answer = Turn(role="assistant", text="b", marker=plan(*turns).marker(result, now=NOW))
    assert plan(*turns, answer, user("3")).request_fields() == {"prompt": "3", "session_id": "p"}


def test_the_session_of_a_folded_system_text_may_be_named() -> None:
    answer = folded("a", SYSTEM, user("1"))
    named = plan(SYSTEM, user("1"), answer, user("2"), session_id="p")
    assert named.request_fields() == {"prompt": "2", "session_id": "p"}
    for turns in ([user("1"), answer, user("2")], [SYSTEM, user("1"), answer, user("2")]):
        turns = [Turn(role="system", text="Be brief"), *turns]
        with pytest.raises(InvalidInputError, match="session_id was given with a system message"):
            plan(*turns, session_id="p")
