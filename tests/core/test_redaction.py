"""Which arguments hold a secret, and what is left of them where they are shown."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import SecretStr

from bailian_apps import Timeout
from bailian_apps.core.redaction import (
    redact_kwargs,
    secret_kwargs,
    secrets_digest,
    unwrap_secrets,
    wrap_secrets,
)

TOKENS = {"user_defined_tokens": {"tool": {"user_token": "tok-secret"}}}
PARAMS = {"city": "杭州", **TOKENS}


def test_redacted_arguments_hold_neither_key_nor_tokens() -> None:
    kwargs = {"api_key": "sk-secret", "biz_params": PARAMS, "timeout": Timeout(connect_s=1)}
    redacted = redact_kwargs(kwargs)
    assert redacted["biz_params"] == {"city": "杭州"}
    assert redacted["timeout"]["connect_s"] == 1
    assert "secret" not in repr(redacted)
    assert kwargs["biz_params"] is PARAMS


def test_secret_arguments_are_those_that_redaction_changes() -> None:
    kwargs = {"api_key": "sk-secret", "biz_params": PARAMS, "temperature": 1}
    assert secret_kwargs(kwargs) == {"api_key": "sk-secret", "biz_params": PARAMS}
    assert secret_kwargs({"temperature": 1}) == {}


def test_other_tokens_have_another_digest() -> None:
    other = {"user_defined_tokens": {"tool": {"user_token": "tok-other"}}}
    digests = {secrets_digest(each) for each in (TOKENS, other)} | {secrets_digest(TOKENS, other)}
    assert len(digests) == 3
    assert secrets_digest(PARAMS) == secrets_digest(None, TOKENS)
    assert not any("secret" in digest for digest in digests)
    assert secrets_digest(None, {"city": "x"}, "text") == ""


def test_wrapped_arguments_show_no_secret_and_are_restored() -> None:
    kwargs: dict[str, Any] = {"api_key": "sk-secret", "biz_params": PARAMS, "temperature": 1}
    wrapped = wrap_secrets(kwargs)
    assert "secret" not in repr(wrapped)
    assert wrapped["biz_params"] == {"city": "杭州"}
    assert wrap_secrets(wrapped)["biz_params"] is wrapped["biz_params"]
    restored = unwrap_secrets(wrapped)
    assert restored["biz_params"] == PARAMS
    assert restored["api_key"] == SecretStr("sk-secret")


@pytest.mark.parametrize("kwargs", [{}, {"temperature": 1}, {"api_key": None, "biz_params": None}])
def test_arguments_without_secrets_stay_the_same(kwargs: dict[str, Any]) -> None:
    assert unwrap_secrets(wrap_secrets(kwargs)) == kwargs


def test_copies_and_pickles_of_wrapped_arguments_hold_no_tokens() -> None:
    wrapped = wrap_secrets({"biz_params": PARAMS})
    assert b"secret" not in pickle.dumps(wrapped)
    copied = copy.deepcopy(wrapped)["biz_params"]
    assert (type(copied), copied) == (dict, {"city": "杭州"})
