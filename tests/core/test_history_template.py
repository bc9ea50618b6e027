"""A history as one prompt: every text is in it once, whatever braces it has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailian_apps import AppSettings, BailianApp, HistoryTemplate, InvalidInputError

ENGLISH = HistoryTemplate(
    system="System: {text}", user="User: {text}", assistant="App: {text}", conversation="<{text}>"
)


def test_a_single_message_is_the_prompt_itself() -> None:
    assert HistoryTemplate().fold([("user", "{text}")]) == "{text}"


def test_a_system_text_comes_before_the_first_words() -> None:
    turns = [("system", "Be kind."), ("user", "Hello")]
    assert HistoryTemplate().fold(turns) == "系统：Be kind.\n\n用户：Hello"


def test_a_conversation_has_its_roles_and_an_instruction() -> None:
    turns = [("system", "S"), ("user", "1"), ("assistant", "a"), ("user", "2")]
    assert HistoryTemplate().fold(turns) == (
        "请直接回复以下对话中用户的最后一条消息。\n\n系统：S\n\n用户：1\n\n助手：a\n\n用户：2"
    )
    assert ENGLISH.fold(turns) == "<System: S\n\nUser: 1\n\nApp: a\n\nUser: 2>"


@given(st.lists(st.text("{}tex ", max_size=8), min_size=2, max_size=6))
def test_braces_in_a_text_stay_as_they_are(texts: list[str]) -> None:
    turns = [("assistant" if index % 2 else "user", text) for index, text in enumerate(texts)]
    lines = [f"{'App' if role == 'assistant' else 'User'}: {text}" for role, text in turns]
    assert ENGLISH.fold(turns) == "<" + "\n\n".join(lines) + ">"


def test_a_pattern_may_hold_other_braces() -> None:
    template = HistoryTemplate(user='{"user": "{text}"}', conversation="{}{text}")
    assert template.fold([("user", "{0}"), ("user", "b")]) == ('{}{"user": "{0}"}\n\n{"user": "b"}')


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            {"user": "User:"},
            "history_template.user does not contain {text}, so that a part of the conversation "
            "would be lost. Put {text} where the text belongs",
        ),
        ({"user": 5}, "history_template.user must be a valid string, not an int"),
        ({"usr": "{text}"}, "history_template.usr is not a setting"),
    ],
)
def test_a_template_that_loses_text_is_refused(template: Any, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        BailianApp(app_id="app", history_template=template)
    assert str(caught.value).startswith(message)


def test_a_template_may_be_a_dict_of_some_patterns() -> None:
    settings = AppSettings.model_validate({"app_id": "a", "history_template": {"user": "U {text}"}})
    assert settings.history_template == HistoryTemplate(user="U {text}")
    assert AppSettings.model_validate(settings.model_dump()) == settings
