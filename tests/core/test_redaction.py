"""What in `biz_params` is secret, and what is shown instead."""

from __future__ import annotations

import datetime
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretBytes, SecretStr

from bailian_apps import AppRequest, AppSettings, BailianApp, InvalidInputError
from bailian_apps.core.credentials import is_credential_name, may_name_credentials
from bailian_apps.core.redaction import (
    MASK,
    MAX_DEPTH,
    redact_biz_params,
    redact_headers,
    secret_fields,
    secret_names,
    secrets_digest,
    to_json_values,
)
from bailian_apps.emulator.credentials import is_credential, is_secret, redacted

CREDENTIALS = [
    "authorization",
    "Authorization",
    "AUTHORIZATION",
    "proxy-authorization",
    "token",
    "user_token",
    "userToken",
    "USER_TOKEN",
    "accessToken",
    "access-token",
    "token2",
    "id_token",
    "refresh_tokens",
    "tokens",
    "user_defined_tokens",
    "password",
    "dbPassword",
    "passwd",
    "pwd",
    "secret",
    "clientSecret",
    "client_secret",
    "clientsecret",
    "app-secret",
    "secrets",
    "api_key",
    "apiKey",
    "apikey",
    "APIKey",
    "X-Api-Key",
    "api_keys",
    "access_key",
    "accessKeyId",
    "AccessKeySecret",
    "private_key",
    "privateKey",
    "secret_key",
    "cookie",
    "Set-Cookie",
    "session_cookie",
    "credential",
    "credentials",
    "bearer",
    "auth",
    "basic_auth",
    "oauth2",
    "jwt",
    "passphrase",
    "pass_word",
    "passcode",
    "appkey",
    "userpwd",
    "loginpwd",
    "session_key",
    "aesKey",
    "hmac_key",
    "master_key",
    "encrypt_key",
    "authkey",
    "openapiKey",
    "登录密码",
    "口令",
    "密钥",
    "私钥",
    "访问令牌",
    "授权码",
]
VISIBLE = [
    "author",
    "authors",
    "co_author",
    "authority",
    "keyword",
    "keywords",
    "key",
    "sort_key",
    "primaryKey",
    "monkey",
    "passengers",
    "passenger",
    "boarding_pass",
    "compass",
    "city",
    "max_tokens",
    "maxTokens",
    "tokens_used",
    "total_tokens",
    "input_tokens",
    "token_count",
    "secretary",
    "tokenizer",
    "tokenize",
    "bear",
    "cook",
    "session_id",
    "user_id",
    "name",
    "photo_ken",
    "城市",
    "关键词",
]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_name_of_a_credential_is_recognised(name: str) -> None:
    assert is_credential_name(name)
    assert is_credential(name), "the emulator's own rule"


@pytest.mark.parametrize("name", VISIBLE)
def test_other_names_stay_visible(name: str) -> None:
    assert not is_credential_name(name)
    assert not is_credential(name), "the emulator's own rule"


PARTS = [
    "api", "access", "key", "keys", "Key", "token", "Token", "tokens", "secret", "Secret",
    "pwd", "auth", "max", "num", "user", "My", "photo", "to", "ken", "pass", "word", "code",
    "app", "session", "aes", "used", "per", "input", "cookies", "KEY", "TOKEN", "jwt", "2", "_",
    "-", ".", "id", "ID", "密码", "城",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map("".join),
    st.sampled_from([5, 0.5, True, "5", "５", "x", "", [5], {"a": 1}]),
)
def test_the_rule_is_the_emulators_and_no_json_text_escapes_it(name: str, value: Any) -> None:
    assert is_credential_name(name) is is_credential(name)
    shown = redact_biz_params({name: value})[name]
    assert (shown == MASK) is is_secret(name, value)
    for ascii_only in (True, False):
        text = json.dumps({name: value}, ensure_ascii=ascii_only)
        assert may_name_credentials(text) or shown == value


@pytest.mark.parametrize("name", ["input_token", "max_tokens", "tokenCount"])
def test_only_numbers_are_counts_of_tokens(name: str) -> None:
    for value, shown in (
        (5, 5),
        ("5", "5"),
        ("hidden", MASK),
        (["hidden"], MASK),
        ({"a": "hidden"}, MASK),
    ):
        assert redact_biz_params({name: value}) == {name: shown}


BIZ_PARAMS: dict[str, Any] = {
    "city": "杭州",
    "author": "Lu Xun",
    "image_tokens": 5,
    "password": None,
    "use_auth": True,
    "user_defined_params": {"mcp-1": {"Authorization": "Bearer hidden", "size": 3}},
    "user_defined_tokens": {"tool": {"user_token": "hidden"}},
    "calls": [{"apiKey": "hidden"}, {"n": 1}],
    "json": '[{"headers":"{\\"cookie\\":\\"hidden\\"}","city":"杭州"}]',
    "plain json": '{"n":  1}',
    "no json": '{"token": "hidden',
}
SHOWN = BIZ_PARAMS | {
    "user_defined_params": {"mcp-1": {"Authorization": MASK, "size": 3}},
    "user_defined_tokens": MASK,
    "calls": [{"apiKey": MASK}, {"n": 1}],
    "json": [{"headers": {"cookie": MASK}, "city": "杭州"}],
}


def with_parsed_json(shown: dict[str, Any]) -> dict[str, Any]:
    ((fields,),) = (json.loads(shown["json"]),)
    return shown | {"json": [fields | {"headers": json.loads(fields["headers"])}]}


def test_credentials_are_masked_at_any_depth_and_the_rest_stays() -> None:
    assert with_parsed_json(redact_biz_params(BIZ_PARAMS)) == SHOWN
    in_emulator = with_parsed_json(redacted(BIZ_PARAMS))
    assert str(in_emulator).replace("***", MASK) == str(SHOWN)


def test_a_json_text_is_sent_as_it_is_and_not_sent_masked() -> None:
    text = '{"token" : "hidden"}'
    settings = AppSettings(app_id="a", biz_params={"x": {"text": text}})
    request = AppRequest(app_id="a", prompt="p", biz_params=settings.biz_params)
    assert request.input()["biz_params"] == {"x": {"text": text}}
    for model in (settings, request):
        assert "hidden" not in repr(model) + model.model_dump_json()
    masked = settings.model_dump()["biz_params"]
    with pytest.raises(InvalidInputError, match="Pass the value again") as caught:
        BailianApp(app_id="a", biz_params=masked).invoke("p")
    assert caught.value.field == "biz_params.x.text"


def test_every_value_of_a_header_is_masked() -> None:
    headers = {"X-Trace": "hidden", "Authorization": "hidden"}
    assert redact_headers(headers) == dict.fromkeys(headers, MASK)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"token": "hidden"}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def circular() -> dict[str, Any]:
    value: dict[str, Any] = {"token": "hidden"}
    value["a"] = [value, value]
    return value


def test_a_deep_value_is_sent_and_a_deeper_one_is_refused() -> None:
    at_limit = nested(MAX_DEPTH)
    request = AppRequest(app_id="a", prompt="p", biz_params=at_limit)
    assert request.input()["biz_params"] == at_limit
    for params in (at_limit, nested(MAX_DEPTH + 1), nested(3000), circular()):
        assert "hidden" not in repr(redact_biz_params(params))
        assert "hidden" not in repr(redact_biz_params({"x": [params]}))


def test_a_json_text_is_redacted_however_deep_it_is() -> None:
    for depth in (MAX_DEPTH + 1, 900):
        text = '{"a":' * depth + '{"token": "hidden"}' + "}" * depth
        assert "hidden" not in redact_biz_params({"text": text})["text"]


@pytest.mark.parametrize("odd", ["9" * 5000, "[" * 100_000 + "]" * 100_000])
def test_a_secret_beside_what_python_cannot_read_is_redacted(odd: str) -> None:
    text = '{"token": "hidden", "odd": ' + odd + "}"
    assert "hidden" not in redact_biz_params({"text": text})["text"]
    assert "hidden" not in repr(AppSettings(app_id="a", biz_params={"text": text}))


def test_the_argument_of_a_call_names_secrets_in_any_collection() -> None:
    for names in ({"pin"}, ["pin"], ("pin",), "pin", {"pin": 1}.keys(), ["pin", 5]):
        assert secret_names({"secret_biz_params": names}, ("a",)) == ["a", "pin"]
    assert secret_names({"secret_biz_params": 5}, ("a",)) == ("a",)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ((), {"pin": 4711, "user": {"pin": 4712, "code": "c"}}),
        (("pin",), {"pin": MASK, "user": {"pin": MASK, "code": "c"}}),
        (("user.pin",), {"pin": 4711, "user": {"pin": MASK, "code": "c"}}),
        (("user",), {"pin": 4711, "user": MASK}),
        (("pin", "user.pin"), {"pin": MASK, "user": {"pin": MASK, "code": "c"}}),
    ],
)
def test_secret_biz_params_are_names_or_paths(names: tuple[str, ...], shown: Any) -> None:
    biz_params = {"pin": 4711, "user": {"pin": 4712, "code": "c"}}
    settings = AppSettings(app_id="a", biz_params=biz_params, secret_biz_params=names)
    assert settings.model_dump()["biz_params"] == shown
    assert f"biz_params={shown}" in repr(settings)
    assert settings.biz_params == biz_params
    assert pickle.loads(pickle.dumps(settings)).biz_params == shown


def test_a_secretstr_is_sent_in_the_clear_and_shown_nowhere() -> None:
    biz_params = {"a": SecretStr("hidden"), "b": [{"c": SecretBytes("密".encode())}]}
    request = AppRequest(app_id="a", prompt="p", biz_params=biz_params)
    assert request.input()["biz_params"] == {"a": "hidden", "b": [{"c": "密"}]}
    settings = AppSettings(app_id="a", biz_params=biz_params)
    shown = {"a": MASK, "b": [{"c": MASK}]}
    for model in (request, settings):
        assert f"biz_params={shown}" in repr(model)
        assert model.model_dump()["biz_params"] == shown
    assert settings.model_copy().biz_params == biz_params
    assert b"hidden" not in pickle.dumps(settings)


def test_what_a_pickle_has_masked_is_not_sent() -> None:
    settings = AppSettings(app_id="a", api_key="k", biz_params=BIZ_PARAMS)
    app = BailianApp(pickle.loads(pickle.dumps(settings)), api_key="k")
    with pytest.raises(InvalidInputError, match="Pass the value again") as caught:
        app.invoke("hi")
    assert caught.value.field == "biz_params.user_defined_params.mcp-1.Authorization"


class Login(BaseModel):
    pin: SecretStr
    note: str | None = None


class Start(BaseModel):
    day: datetime.date
    login: Login | None = None
    logins: list[Login] = []
    key: SecretBytes | None = Field(default=None, alias="k")


def test_a_models_secrets_stay_secrets_among_json_values() -> None:
    start = Start(day=datetime.date(2026, 1, 2), login=Login(pin="1"), logins=[Login(pin="2")])
    values = to_json_values(start, exclude_none=True)
    assert values == {
        "day": "2026-01-02",
        "login": {"pin": SecretStr("1")},
        "logins": [{"pin": SecretStr("2")}],
    }
    assert set(secret_fields(Start)) == {"pin", "key", "k"}
    assert secret_fields(None) == ()


def test_a_digest_tells_secrets_apart_and_needs_none_without() -> None:
    digests = {
        secrets_digest({}, {"biz_params": biz_params}, ("pin",))
        for biz_params in (
            {"token": "a"}, {"token": "b"}, {"x": SecretStr("a")}, {"x": SecretStr("b")},
            {"pin": 1}, {"pin": 2},
        )
    }  # fmt: skip
    assert len(digests) == 6
    assert secrets_digest({"biz_params": {"city": "x"}}, {}) == ""


def test_ten_asterisks_are_sent_as_a_secretstr() -> None:
    with pytest.raises(InvalidInputError, match="as a SecretStr if it is the value itself"):
        BailianApp(app_id="a", api_key="k").invoke("p", biz_params={"rating": MASK})
    request = AppRequest(app_id="a", prompt="p", biz_params={"rating": SecretStr(MASK)})
    assert request.input()["biz_params"] == {"rating": MASK}
