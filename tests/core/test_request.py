"""The request of a call: what it holds, and which arguments are refused."""

from __future__ import annotations

import ast
import datetime
import decimal
import inspect
import itertools
import pickle
import textwrap
from typing import Any

import pytest
from pydantic import SecretBytes, SecretStr

from bailian_apps import (
    AppRequest,
    AppSettings,
    BailianApp,
    HistoryTemplate,
    InvalidInputError,
    Timeout,
)
from bailian_apps.core.request import Input, Parameter


def refused(**overrides: Any) -> InvalidInputError:
    """Call with invalid arguments; nothing listens at the address, so a request would fail."""
    app = BailianApp(app_id="app", api_key="sk-secret", base_url="http://127.0.0.1:9/api/v1")
    prompt = overrides.pop("prompt", "hi")
    with pytest.raises(InvalidInputError) as caught:
        app.stream(prompt, **overrides)
    return caught.value


@pytest.mark.parametrize(
    ("overrides", "field", "message"),
    [
        ({"prompt": ""}, "prompt", "prompt is empty. Pass the user's prompt"),
        ({"prompt": " \n"}, "prompt", "is empty"),
        ({"prompt": None}, "prompt", "is empty"),
        ({"prompt": 5}, "prompt", "prompt must be a valid string, not an int"),
        ({"prompt": "\ud800"}, "prompt", "surrogate"),
        ({"app_id": "a/b"}, "app_id", "letters, digits"),
        ({"app_id": "a?b"}, "app_id", "has a character"),
        ({"app_id": "a b"}, "app_id", "has a character"),
        ({"app_id": ".."}, "app_id", "has a character"),
        ({"app_id": ""}, "app_id", "BAILIAN_APP_ID"),
        ({"app_id": 5}, "app_id", "must be a str, not an int"),
        ({"biz_params": {"a": {"when": datetime.datetime(2026, 1, 1)}}}, "biz_params.a.when",
         "biz_params.a.when is a datetime, which JSON cannot represent. Pass .isoformat()"),
        ({"biz_params": {"a": [1, decimal.Decimal(1)]}}, "biz_params.a[1]", "is a Decimal"),
        ({"biz_params": {"a": float("nan")}}, "biz_params.a", "is nan"),
        ({"biz_params": {1: 2}}, "biz_params", "must have str keys, not an int"),
        ({"biz_params": {"a": {1, 2}}}, "biz_params.a", "Pass a list"),
        ({"biz_params": {"a": SecretBytes(b"\xff")}}, "biz_params.a", "is not UTF-8"),
        ({"rag_options": {"a": SecretStr("x")}}, "rag_options.a", "get_secret_value"),
        ({"biz_params": {"a": [{"token": "**********"}]}}, "biz_params.a[0].token", "is masked"),
        ({"secret_biz_params": "pin"}, "secret_biz_params", "must be a valid tuple, not a str"),
        ({"biz_params": "x"}, "biz_params", "not a str"),
        ({"biz_params": {"a": "\udfff"}}, "biz_params.a", "surrogate"),
        ({"rag_options": [1]}, "rag_options", "not a list"),
        ({"image_list": ["/files/x.png"]}, "image_list[0]", "http"),
        ({"image_list": "http://x"}, "image_list", "must be a list of images, and is of type str"),
        ({"flow_stream_mode": 5}, "flow_stream_mode", "not an int"),
        ({"temperature": 2}, "temperature", "less than 2"),
        ({"thouhgts": True}, "thouhgts", "is not a setting"),
        ({"debug": True}, "debug", "is not a setting. Check its spelling, or pass"),
        ({"temprature": 1}, "temprature", "Did you mean 'temperature'?"),
        ({"sesion_id": "s"}, "sesion_id", "Did you mean 'session_id'?"),
        ({"timeout": 0}, "timeout", "timeout must be a positive number of seconds or a Timeout"),
        ({"timeout": float("inf")}, "timeout", "positive number"),
        ({"timeout": "soon"}, "timeout", "number of seconds"),
        ({"timeout": {"total_s": -1}}, "timeout.total_s", "greater than 0"),
        ({"prompt": None, "messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "\ud800"}]},
         "messages[1].content", "messages[1].content has half of a surrogate pair"),
        ({"base_url": "dashscope.aliyuncs.com"}, "base_url", "https://dashscope"),
        ({"base_url": "https://dashscope.aliyuncs.com"}, "base_url", "Pass https://dashscope.aliyuncs.com/api/v1"),
        ({"base_url": "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"}, "base_url", "ends with /api/v1"),
        ({"base_url": "https://ws.cn-beijing.maas.aliyuncs.com/"}, "base_url", "ends with /api/v1"),
        ({"base_url": "https://dashscope.aliyuncs.com/api/v1/apps/a/completion"}, "base_url", "com/api/v1"),
        ({"base_url": "http://dashscope.aliyuncs.com:80/api/v2"}, "base_url", "Pass https://dashscope.aliyuncs.com/api/v1"),
        ({"base_url": "http://localhost:80800/api/v1"}, "base_url", "is not an http(s) URL"),
        ({"base_url": "http://localhost:0/api/v1"}, "base_url", "is not an http(s) URL"),
        ({"base_url": "http://:8080/api/v1"}, "base_url", "is not an http(s) URL"),
        ({"base_url": "http://[::1/api/v1"}, "base_url", "is not an http(s) URL"),
        ({"base_url": f"http://{'a' * 64}.example/api/v1"}, "base_url", "is not an http(s) URL"),
        ({"api_key": "sk-secret\nX"}, "api_key", "DASHSCOPE_API_KEY"),
        ({"workspace": "ws\nX-Evil: 1"}, "workspace", "has a character"),
        ({"base_url": "https://me:secret@host/api/v1"}, "base_url", "password"),
        ({"api_key": "  "}, "api_key", "is empty"),
        ({"messages": [{"role": "user", "content": "x"}]}, "prompt", "cannot be combined with messages"),
        ({"prompt": None, "messages": []}, "messages", "must end with a user message"),
        ({"prompt": None, "messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "assistant"),
        ({"prompt": None, "session_id": "s", "messages": [{"role": "user", "content": "x"}]}, "session_id", "ignore it"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_be_sent_is_refused_at_once(
    overrides: dict[str, Any], field: str, message: str
) -> None:
    error = refused(**overrides)
    assert error.field == field
    assert message in str(error)
    assert "sk-secret" not in str(error) + repr(error) + repr(error.__context__)
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    "address",
    [
        "https://dashscope-us.aliyuncs.com/api/v1",
        "https://vpc-cn-beijing.dashscope.aliyuncs.com/api/v1",
        "https://ep-1.dashscope.cn-beijing.privatelink.aliyuncs.com/api/v1",
        "https://ws.cn-beijing.maas.aliyuncs.com/api/v1",
        "https://gateway.example/bailian",  # it may map paths
        "https://gateway.example/dashscope.aliyuncs.com/v1",
    ],
)
def test_addresses_of_the_cloud_and_of_gateways_are_taken(address: str) -> None:
    for given in (address, address + "/"):
        app = BailianApp(app_id="app", api_key="sk-secret", base_url=given)
        assert app.settings.base_url == address


def test_the_error_for_an_argument_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(refused(prompt="")))
    assert (error.field, str(error)) == ("prompt", "prompt is empty. Pass the user's prompt")


SAMPLES: dict[str, Any] = {
    "str | None": "x", "Text | None": "x", "Id | None": "x", "SessionId": "x", "bool": False, "bool | None": False, "int | None": 0,
    "float | None": 0.5, "JsonObject | None": {"a": 1}, "Images": ("https://x/y",), "Files": ("https://x/y",),
    "Texts": ("x",), "Ids": ("x",), "ModeName | None": "message_format",
    "Messages | None": ({"role": "user", "content": "x"},),
    "Literal['simple', 'indexed'] | None": "simple",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", sorted(AppRequest.model_fields.keys() - {"app_id", "extra_body", "secret_biz_params"})
)
def test_every_field_of_a_request_is_in_its_body(name: str) -> None:
    """Also a new one: a field that `input` and `parameters` leave out would be dropped silently."""
    annotated = next(
        c.__annotations__[name] for c in AppRequest.__mro__ if name in c.__annotations__
    )
    inner = annotated.removeprefix("Annotated[").rpartition(", ")[0]
    fields = {"prompt": "hi"} if name not in ("prompt", "messages") else {}
    value = SAMPLES[inner]
    request = AppRequest(**{"app_id": "app", **fields, name: value})
    mark = next(
        m for m in AppRequest.model_fields[name].metadata if isinstance(m, (Input, Parameter))
    )
    part = request.input() if isinstance(mark, Input) else request.parameters()
    sent = part[mark.name or name]
    assert sent == (list(value) if isinstance(value, tuple) else value)


def test_every_setting_outside_the_body_documents_where_it_goes() -> None:
    documented = attribute_docstrings(AppSettings)
    for name, info in AppSettings.model_fields.items():
        if not any(isinstance(mark, (Input, Parameter)) for mark in info.metadata):
            where = " ".join(documented[name].split())
            assert any(word in where for word in ("Not sent.", "Header `", "Part of the ")), name


@pytest.mark.parametrize("model", [AppSettings, AppRequest, Timeout, HistoryTemplate])
def test_every_field_has_a_docstring(model: type[Any]) -> None:
    assert not set(model.model_fields) - attribute_docstrings(model).keys()


def attribute_docstrings(model: type[Any]) -> dict[str, str]:
    """The docstrings below the fields, as an editor shows them on hover."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if not each.__module__.startswith("bailian_apps"):
            continue
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in itertools.pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = ast.literal_eval(text.value)
    return found


def test_input_and_parameters_are_those_of_the_wire() -> None:
    request = AppRequest(
        app_id="app",
        prompt="hi",
        session_id="s",
        biz_params={"city": "杭州"},
        memory_id="m",
        image_list=("https://x/y.png",),
        file_list=("oss://x",),
        rag_options={"pipeline_ids": ["p"]},
        flow_stream_mode="message_format",
        enable_thinking=False,
        temperature=0,
        seed=0,
    )
    assert request.input() == {
        "prompt": "hi",
        "session_id": "s",
        "biz_params": {"city": "杭州"},
        "memory_id": "m",
        "image_list": ["https://x/y.png"],
        "file_list": ["oss://x"],
    }
    assert request.parameters() == {
        "incremental_output": True,
        "has_thoughts": True,
        "flow_stream_mode": "message_format",
        "rag_options": {"pipeline_ids": ["p"]},
        "enable_thinking": False,
        "temperature": 0,
        "seed": 0,
    }


def test_secrets_are_in_no_repr_and_no_dump() -> None:
    tokens = {"user_defined_tokens": {"tool": {"user_token": "tok-hidden"}}}
    settings = AppSettings(app_id="app", api_key=SecretStr("sk-hidden"), biz_params=tokens)
    app = BailianApp(settings)
    for shown in (
        repr(settings),
        str(settings),
        repr(app),
        repr(AppRequest(app_id="a", prompt="p", biz_params=tokens)),
    ):
        assert "hidden" not in shown
    assert "api_key" not in settings.model_dump()
    assert "hidden" not in settings.model_dump_json() + str(settings.model_dump())
    assert settings.with_overrides({"top_k": 1}).biz_params == tokens
    with pytest.raises(InvalidInputError) as caught:
        AppSettings(app_id="app", api_key=["sk-hidden"], biz_params=tokens)  # type: ignore[arg-type]
    assert "hidden" not in str(caught.value)


def test_a_pickle_holds_no_secret_and_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = {"city": "x", "user_defined_tokens": {"tool": {"user_token": "tok-hidden"}}}
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-hidden")
    pickled = pickle.dumps(
        AppSettings(app_id="app", api_key=SecretStr("sk-hidden"), biz_params=tokens)
    )
    assert b"hidden" not in pickled
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-env")
    settings = pickle.loads(pickled)
    assert settings.api_key == SecretStr("sk-env")
    assert (settings.app_id, settings.biz_params) == (
        "app",
        {"city": "x", "user_defined_tokens": "**********"},
    )


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", " sk-env\n")
    monkeypatch.setenv("BAILIAN_APP_ID", "env-app")
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", "https://example.com/api/v1")
    settings = AppSettings()
    assert settings.api_key == SecretStr("sk-env")
    assert (settings.app_id, settings.base_url) == ("env-app", "https://example.com/api/v1")
    assert AppSettings(app_id="mine").app_id == "mine"


def test_an_app_without_an_id_names_the_variable() -> None:
    with pytest.raises(
        InvalidInputError, match=r"app_id is empty\. Pass app_id= or set BAILIAN_APP_ID"
    ):
        BailianApp()


def test_overrides_replace_settings_for_one_call() -> None:
    settings = AppSettings(app_id="app", top_p=0.5)
    other = settings.with_overrides({"top_p": 0.9})
    assert (settings.top_p, other.top_p, other.app_id) == (0.5, 0.9, "app")
    assert settings.with_overrides({}) is settings
