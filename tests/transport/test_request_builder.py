"""Requests that cannot be built, and an SDK that cannot build them."""

from __future__ import annotations

import sys
from collections import ChainMap
from importlib.metadata import requires
from typing import Any

import pytest
from packaging.requirements import Requirement
from support.paths import PATHS

from bailian_apps import BailianApp, InvalidInputError
from bailian_apps.transport import request_builder
from bailian_apps.transport.request_builder import load_sdk

TOKENS = {"user_defined_tokens": {"tool": {"user_token": "tok-secret"}}}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"memory_id": "\ud800"}, "memory_id"),
        ({"session_id": "\ud800"}, "session_id"),
        ({"model_id": "\ud800"}, "model_id"),
        ({"doc_tag_codes": ["\ud800"]}, "doc_tag_codes[0]"),
        ({"biz_params": {"\ud800": 1}}, "biz_params"),
        ({"biz_params": {"a": ChainMap({"b": 1})}}, "biz_params.a"),
    ],
)
def test_what_cannot_be_sent_is_named_and_quotes_no_secret(
    options: dict[str, Any], field: str, path: str
) -> None:
    app = BailianApp(app_id="app", api_key="k", base_url="http://127.0.0.1:9/v1", biz_params=TOKENS)
    error: BaseException | None
    try:
        error = PATHS[path](app, "hi", **options).error
    except InvalidInputError as refused:
        error = refused
    assert isinstance(error, InvalidInputError)
    assert error.field == field
    assert "secret" not in repr(error) + repr(error.__context__) + repr(error.__cause__)


def test_a_body_that_the_sdk_cannot_write_is_an_input_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise UnicodeEncodeError("utf-8", "tok-secret", 0, 1, "no")

    monkeypatch.setattr(request_builder.json, "dumps", refuse)
    app = BailianApp(app_id="app", api_key="k", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(InvalidInputError, match="request cannot be written as JSON") as caught:
        app.invoke("hi")
    assert caught.value.__context__ is None
    assert "secret" not in str(caught.value)


def test_a_missing_package_of_the_sdk_is_named_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "dashscope"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    load_sdk.cache_clear()
    try:
        with pytest.raises(ModuleNotFoundError) as caught:
            load_sdk()
    finally:
        load_sdk.cache_clear()
    assert caught.value.name == "aiohttp"


def test_the_versions_that_are_named_are_those_that_are_required() -> None:
    required = [Requirement(each) for each in requires("bailian-apps") or ()]
    [sdk] = [each for each in required if each.name == "dashscope"]
    assert Requirement(request_builder.SUPPORTED).specifier == sdk.specifier
