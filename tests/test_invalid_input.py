"""Everything that is wrong with the arguments of a constructor or a call is in one error."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from support.paths import PATHS

from bailian_apps import AppSettings, BailianApp, InvalidInputError
from bailian_apps.emulator import Emulator
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
)
from bailian_apps.llamaindex import (
    BailianAppChatEngine,
    BailianAppLLM,
    BailianAppQueryEngine,
    bailian_app_tool,
)

WRONG: dict[str, Any] = {
    "app_id": "",
    "temperature": 9,
    "base_url": "ftp://user:secret-1@host",
    "biz_params": {"when": {"secret-2"}},
    "api_key": "secret-3\n",
    "modle_id": "secret-4",
}
FIXES = {
    "app_id": "app_id is empty. Pass app_id= or set BAILIAN_APP_ID",
    "temperature": "temperature must be less than 2",
    "base_url": "base_url is not an http(s) URL or the name of a region. Pass one like https://",
    "biz_params": "biz_params.when is a set, which JSON cannot represent. Pass a list",
    "api_key": "api_key is empty, or has spaces around it",
    "modle_id": "modle_id is not a setting. Did you mean 'model_id'?",
}
DESCRIBED = {"name": "plan_trip", "description": "Plans a trip"}
CONSTRUCTORS: dict[str, Callable[..., object]] = {
    "BailianApp": BailianApp,
    "BailianApp of settings": lambda **wrong: BailianApp(AppSettings(app_id="a"), **wrong),
    "ChatBailianApp": ChatBailianApp,
    "BailianAppRunnable": BailianAppRunnable,
    "BailianAppRetriever": BailianAppRetriever,
    "BailianAppTool": lambda **wrong: BailianAppTool(**DESCRIBED, **wrong),
    "BailianAppLLM": BailianAppLLM,
    "BailianAppQueryEngine": BailianAppQueryEngine.from_defaults,
    "BailianAppChatEngine": BailianAppChatEngine.from_defaults,
    "bailian_app_tool": lambda **wrong: bailian_app_tool(**DESCRIBED, **wrong),
}


def assert_all_named(error: InvalidInputError, wrong: list[str]) -> None:
    message = str(error)
    assert message.startswith(f"{len(wrong)} arguments are not valid: (1) ")
    for name in wrong:
        assert FIXES[name] in message
    assert "secret" not in message
    assert len(message) <= 2_000
    assert "\n" not in message
    assert message.startswith(f"{len(wrong)} arguments are not valid: (1) {error.field} ")
    assert len(error.others) == len(wrong) - 1
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.field, len(copy.others)) == (message, error.field, len(error.others))


@pytest.mark.parametrize("make", CONSTRUCTORS.values(), ids=list(CONSTRUCTORS))
def test_a_constructor_names_every_field_that_is_wrong(make: Callable[..., object]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make(**WRONG)
    assert_all_named(caught.value, list(WRONG))


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_a_call_names_every_setting_and_option_that_is_wrong(path: Callable[..., Any]) -> None:
    options = {"session_id": 5, "image_list": ["https://example.com/a.png", "y"], "imags": 1}
    with Emulator(apps={"a": lambda call: "ok"}) as cloud:
        app = BailianApp(app_id="a", api_key="k", base_url=cloud.base_url)
        outcome = path(app, "", temperature=9, timeout=-1, **options)
        assert cloud.requests == []
    assert isinstance(outcome.error, InvalidInputError)
    assert [each.field for each in outcome.error.each()] == [
        "temperature",
        "timeout",
        "session_id",
        "image_list[1]",
        "imags",
        "prompt",
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda wrong: ChatBailianApp(app_id="a").invoke("hi", **wrong),
        lambda wrong: list(ChatBailianApp(app_id="a").stream("hi", **wrong)),
        lambda wrong: ChatBailianApp(app_id="a").bind(**wrong).invoke("hi"),
        lambda wrong: BailianAppRunnable(app_id="a").invoke("hi", **wrong),
        lambda wrong: BailianAppRetriever(app_id="a").invoke("hi", **wrong),
        lambda wrong: BailianAppLLM(app_id="a").complete("hi", **wrong),
        lambda wrong: list(BailianAppLLM(app_id="a").stream_complete("hi", **wrong)),
    ],
)
def test_an_adapters_call_names_settings_and_options(call: Callable[..., object]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call({"app_id": "", "temperature": 9, "file_list": ["x"], "modle_id": 1})
    error = caught.value
    fields = [each.field for each in error.each()]
    assert fields == ["app_id", "temperature", "file_list[0]", "modle_id"]
    assert str(error).startswith("4 arguments are not valid: (1) app_id is empty. Pass ")


def test_fields_that_exclude_each_other_are_named_beside_wrong_ones() -> None:
    app = BailianApp(app_id="a", api_key="k")
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(InvalidInputError) as caught:
        app.invoke(messages=messages, session_id="s", top_p=0)
    assert [each.field for each in caught.value.each()] == ["top_p", "session_id"]
    with pytest.raises(InvalidInputError) as caught:
        app.invoke(messages=[{"role": "bot", "content": "hi"}], top_p=0)
    assert [each.field for each in caught.value.each()] == ["top_p", "messages[0].role"]


def test_a_client_that_is_none_is_named_beside_wrong_fields() -> None:
    with pytest.raises(InvalidInputError) as caught:
        BailianApp(client=3, app_id="", timeout={"connect_s": -1, "read": 1})  # pyright: ignore[reportArgumentType]
    fields = [each.field for each in caught.value.each()]
    assert fields == ["client", "app_id", "timeout.connect_s", "timeout.read"]


def test_one_wrong_field_is_described_alone() -> None:
    with pytest.raises(InvalidInputError) as caught:
        BailianApp(app_id="a", temperature=9)
    assert str(caught.value) == "temperature must be less than 2"
    assert caught.value.others == ()


@pytest.mark.parametrize("length", [1, 60, 5_000])
def test_a_message_of_many_fields_stays_short(length: int) -> None:
    names = [f"{number:03}{'n' * length}" for number in range(300)]
    with pytest.raises(InvalidInputError) as caught:
        BailianApp(app_id="a", **dict.fromkeys(names, 1))
    message = str(caught.value)
    assert len(message) <= 2_000
    assert message.startswith("300 arguments are not valid: (1) 000n")
    assert " more: " in message
    assert caught.value.field == names[0]
    assert len(caught.value.others) == 299


@pytest.mark.parametrize(
    "make",
    [
        AppSettings,
        ChatBailianApp,
        BailianAppRunnable,
        BailianAppRetriever,
        partial(BailianAppTool, name="t", description="d"),
        BailianAppLLM,
    ],
)
def test_a_setting_is_validated_when_it_is_set_later(make: Any) -> None:
    app = make(app_id="a", api_key="sk-1", temperature=0.5)
    with pytest.raises(InvalidInputError, match="temperature must be less than 2"):
        app.temperature = 9
    with pytest.raises(InvalidInputError, match="api_key must be a str"):
        app.api_key = 5
    with pytest.raises(ValueError, match="temprature"):
        app.temprature = 1
    app.mcp_servers, app.api_key = ["one"], "sk-2"
    assert (app.temperature, app.mcp_servers) == (0.5, ("one",))
    assert app.api_key.get_secret_value() == "sk-2"
    if hasattr(app, "model"):
        app.model = "b"
        assert (app.app_id, app.model) == ("b", "b")
