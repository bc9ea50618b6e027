"""The key and the users' tokens are in no repr, trace or dump."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd
from support import recordings

from bailian_apps.langchain import ChatBailianApp

TOKEN = "tok-very-secret"
KEY = "sk-secret-key"
OTHER_KEY = "sk-other-key"
BIZ = {"city": "杭州", "user_defined_tokens": {"tool": {"user_token": TOKEN}}}
SHOWN = {"city": "杭州", "user_defined_tokens": "**********"}
WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"


def assert_no_secret(*shown: Any) -> None:
    for text in map(str, shown):
        assert TOKEN not in text
        assert KEY not in text
        assert OTHER_KEY not in text


def make() -> ChatBailianApp:
    return ChatBailianApp(app_id="app", api_key=KEY, biz_params=BIZ)


def test_no_repr_or_dump_of_the_model_has_a_secret() -> None:
    model = make()
    assert_no_secret(
        repr(model),
        str(model),
        json.dumps(dumpd(model)),
        json.dumps(model.to_json()),
        model.model_dump(),
        model.model_dump_json(),
        model.asdict() if hasattr(model, "asdict") else "",
        model._identifying_params,
        model._get_invocation_params(),
        model._get_ls_params(),
        model._get_llm_string(),
    )
    assert model.model_dump()["biz_params"] == SHOWN
    assert model.biz_params == BIZ


def test_the_dumped_model_names_the_keys_environment_variable() -> None:
    kwargs = dumpd(make())["kwargs"]
    assert kwargs["api_key"] == {"lc": 1, "type": "secret", "id": ["DASHSCOPE_API_KEY"]}
    assert kwargs["biz_params"] == SHOWN


@pytest.mark.parametrize("per_call", [True, False])
def test_no_trace_and_no_answer_has_a_secret(
    per_call: bool, start_cloud: Any, make_model: Any, ask: Any, log: Any, traces: Any
) -> None:
    cloud = start_cloud(app=WORKFLOW)
    secrets: dict[str, Any] = {"biz_params": BIZ, "api_key": OTHER_KEY}
    model = make_model(cloud, **({} if per_call else secrets))
    answer = ask(model, "hi", {"callbacks": [log, traces]}, **(secrets if per_call else {}))
    assert cloud.requests[0].biz_params == BIZ  # they were sent
    assert_no_secret(answer, log.seen, log.custom, [run.model_dump() for run in traces.roots])
    (start,) = [seen for seen in log.seen if "invocation_params" in str(seen)]
    assert f"'biz_params': {SHOWN}" in str(start)  # and the rest is traced


def test_no_error_of_a_call_has_a_secret(make_model: Any, ask: Any, log: Any) -> None:
    model = make_model(recordings.FOLDER / "error-app-id-invalid-elided.sse", biz_params=BIZ)
    with pytest.raises(Exception, match="AppId") as caught:
        ask(model, "hi", {"callbacks": [log]})
    assert_no_secret(repr(caught.value), caught.value, vars(caught.value), log.seen)


@pytest.mark.parametrize("field", ["api_key", "biz_params"])
def test_no_validation_error_has_a_secret(field: str) -> None:
    wrong: dict[str, Any] = {
        "api_key": f"{KEY}\n{TOKEN}",
        "biz_params": {"user_defined_tokens": {TOKEN, KEY}},
    }
    with pytest.raises(ValueError, match=field) as caught:
        ChatBailianApp(app_id="app", **{field: wrong[field]})
    assert_no_secret(repr(caught.value), caught.value)


def test_another_users_tokens_get_no_cached_answer(start_cloud: Any, make_model: Any) -> None:
    cloud = start_cloud(app=lambda call: json.dumps(call.biz_params))
    model = make_model(cloud, cache=InMemoryCache())
    mine = model.invoke("hi", biz_params=BIZ)
    again = model.invoke("hi", biz_params=BIZ)
    tokens = {"tool": {"user_token": "other"}}
    other = model.invoke("hi", biz_params={**BIZ, "user_defined_tokens": tokens})
    assert again.content == mine.content != other.content
    assert len(cloud.requests) == 2
    model.biz_params = {**BIZ, "user_defined_tokens": {"tool": {"user_token": "third"}}}
    assert "third" in model.invoke("hi").content
