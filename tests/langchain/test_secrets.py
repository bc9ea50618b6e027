"""The key and the users' tokens are in no repr, trace or dump."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import pickle
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, dumps
from pydantic import BaseModel, SecretStr
from support import recordings

from bailian_apps import InvalidInputError
from bailian_apps.emulator import Emulator
from bailian_apps.langchain import BailianAppRunnable, BailianAppTool, ChatBailianApp

TOKEN = "tok-very-secret"
KEY = "sk-secret-key"
OTHER_KEY = "sk-other-key"
SENT: dict[str, Any] = {
    "city": "杭州",
    "author": "Lu Xun",
    "user_defined_params": {"mcp": {"Authorization": f"Bearer {TOKEN}", "size": 3}},
    "user_defined_tokens": {"tool": {"user_token": TOKEN}},
    "login": [TOKEN],
    "pin": TOKEN,
}
BIZ = SENT | {"login": [SecretStr(TOKEN)]}
MASK = "**********"
SHOWN = SENT | {
    "user_defined_params": {"mcp": {"Authorization": MASK, "size": 3}},
    "user_defined_tokens": MASK,
    "login": [MASK],
    "pin": MASK,
}
NAMES = ("pin",)
WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"


def assert_no_secret(*shown: Any) -> None:
    for text in map(str, shown):
        assert TOKEN not in text
        assert KEY not in text
        assert OTHER_KEY not in text


def make() -> ChatBailianApp:
    return ChatBailianApp(app_id="app", api_key=KEY, biz_params=BIZ, secret_biz_params=NAMES)


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
    secrets: dict[str, Any] = {
        "biz_params": BIZ,
        "api_key": OTHER_KEY,
        "secret_biz_params": NAMES,
    }
    model = make_model(cloud, **({} if per_call else secrets))
    answer = ask(model, "hi", {"callbacks": [log, traces]}, **(secrets if per_call else {}))
    assert cloud.requests[0].biz_params == SENT
    assert_no_secret(answer, log.seen, log.custom, [run.model_dump() for run in traces.roots])
    (start,) = [seen for seen in log.seen if "invocation_params" in str(seen)]
    assert f"'biz_params': {SHOWN}" in str(start)  # and the rest is traced


def test_no_error_of_a_call_has_a_secret(make_model: Any, ask: Any, log: Any) -> None:
    model = make_model(
        recordings.FOLDER / "error-app-id-invalid-elided.sse",
        biz_params=BIZ,
        secret_biz_params=NAMES,
    )
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
    third = {"user_defined_params": {"mcp": {"Authorization": "one"}}, "pin": SecretStr("two")}
    for biz_params in (third, third | {"pin": SecretStr("three")}):
        asked = len(cloud.requests)
        for _ in range(2):
            model.invoke("hi", biz_params=biz_params)
        assert len(cloud.requests) == asked + 1
    for pin in (1, 2):
        biz_params = {"pin": pin}
        answer = model.invoke("hi", biz_params=biz_params, secret_biz_params=NAMES)
        assert answer.content == json.dumps(biz_params)


class Login(BaseModel):
    pin: SecretStr
    city: str
    user_token: str


@pytest.mark.parametrize("place", ["field", "call", "option", "variables", "schema"])
def test_no_trace_of_a_runnable_has_a_secret(
    place: str, fields_of: Any, log: Any, traces: Any
) -> None:
    sent: list[Any] = []
    fields = fields_of(lambda call: sent.append(call.biz_params) or "ok")
    given: dict[str, Any] = {"prompt": "hi"}
    secrets: dict[str, Any] = {"biz_params": BIZ, "secret_biz_params": NAMES}
    if place == "option":
        given["biz_params"] = BIZ
    elif place == "variables":
        given |= BIZ
    elif place == "schema":
        given |= {"pin": TOKEN, "city": "杭州", "user_token": TOKEN}
        fields["biz_params_schema"] = Login
    if place in ("option", "variables"):
        fields["secret_biz_params"] = NAMES
    runnable = BailianAppRunnable(**fields, **(secrets if place == "field" else {}))
    config = {"callbacks": [log, traces]}
    for name in ("invoke", "stream"):
        call = getattr(runnable, name)(given, config, **(secrets if place == "call" else {}))
        list(call if name == "stream" else [])

    async def asynchronously() -> None:
        kwargs = secrets if place == "call" else {}
        await runnable.ainvoke(given, config, **kwargs)
        async for _ in runnable.astream(given, config, **kwargs):
            pass

    asyncio.run(asynchronously())
    assert (
        sent
        == [{"pin": TOKEN, "city": "杭州", "user_token": TOKEN} if place == "schema" else SENT] * 4
    )
    assert_no_secret(repr(runnable), log.seen, [run.model_dump() for run in traces.roots])
    if place in ("variables", "schema"):
        shown = traces.roots[0].inputs
        assert (shown["prompt"], shown["city"], shown["pin"]) == ("hi", "杭州", MASK)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_no_trace_of_a_tool_has_a_secret_argument(
    asynchronous: bool, fields_of: Any, log: Any, traces: Any
) -> None:
    sent: list[Any] = []
    fields = fields_of(lambda call: sent.append(call.biz_params) or "ok")
    tool = BailianAppTool(**fields, name="t", description="d", biz_params_schema=Login)
    arguments = {"prompt": "hi", "pin": TOKEN, "city": "杭州", "user_token": TOKEN}
    config: Any = {"callbacks": [log, traces]}
    if asynchronous:
        asyncio.run(tool.ainvoke(arguments, config))
    else:
        tool.invoke(arguments, config)
    assert sent == [{"pin": TOKEN, "city": "杭州", "user_token": TOKEN}]
    assert_no_secret(log.seen, [run.model_dump() for run in traces.roots])
    assert MASK in str(traces.roots[0].inputs)
    assert "杭州" in str(traces.roots[0].inputs)


@pytest.mark.parametrize("place", ["option", "variables", "call"])
def test_no_event_of_a_runnable_has_a_secret(place: str, fields_of: Any) -> None:
    sent: list[Any] = []
    fields = fields_of(lambda call: sent.append(call.biz_params) or "ok")
    runnable = BailianAppRunnable(**fields, secret_biz_params=("pin", "user.code"))
    params = BIZ | {"user": {"code": TOKEN}}
    given: Any = {"prompt": "hi", "messages": [("user", "hello")]}
    given |= {"option": {"biz_params": params}, "variables": params}.get(place, {})

    async def events() -> list[Any]:
        kwargs: Any = {"biz_params": params} if place == "call" else {}
        return [each async for each in runnable.astream_events(given, version="v2", **kwargs)]

    seen = asyncio.run(events())
    assert sent == [SENT | {"user": {"code": TOKEN}}]
    assert_no_secret(seen)
    assert seen[0]["data"]["input"]["prompt"] == "hi"
    assert seen[0]["data"]["input"]["messages"] == [("user", "hello")]


def test_what_bind_returns_shows_no_secret_and_sends_it(make_model: Any) -> None:
    secrets: dict[str, Any] = {
        "biz_params": BIZ,
        "api_key": OTHER_KEY,
        "secret_biz_params": NAMES,
        "extra_headers": {"X-Tenant": TOKEN},
        "extra_body": {"parameters": {"userToken": TOKEN}},
    }
    with Emulator(apps={"app": lambda _: "ok"}, strict=False) as cloud:
        model = make_model(cloud)
        bound = model.bind(**secrets)
        each_bound = (
            bound,
            bound.with_config(tags=["x"]),
            bound.with_retry(),
            model.bind(seed=1).bind(**secrets),
            model.with_config(tags=["x"]).bind(**secrets),
            model.bind(seed=1).with_retry().bind(**secrets),
            model.with_retry().bind(**secrets),
            model.with_retry().with_retry().bind(**secrets),
            copy.copy(bound),
            copy.deepcopy(bound),
            bound.model_copy(deep=True),
        )
        for each in each_bound:
            assert_no_secret(
                repr(each), str(each), each.model_dump(), dumps(each), pickle.dumps(each)
            )
            asked = len(cloud.requests)
            each.invoke("hi")
            list(each.stream("hi"))
            for request in cloud.requests[asked:]:
                assert request.biz_params == SENT
                assert request.parameters["userToken"] == request.headers["x-tenant"] == TOKEN
            assert len(cloud.requests) == asked + 2
        listening = model.with_listeners().bind(**secrets)  # LangChain's listeners are not pickled
        assert_no_secret(repr(listening), str(listening), dumps(listening))
        asked = len(cloud.requests)
        with pytest.raises(InvalidInputError, match="is masked"):
            pickle.loads(pickle.dumps(bound)).invoke("hi")
        assert len(cloud.requests) == asked
        assert json.loads(dumps(bound))["id"][-1] == "RunnableBinding"


@pytest.mark.parametrize(
    "arguments",
    [
        {"apikey": KEY},
        {"max_tokens": KEY},
        {"biz_params": {"pin": TOKEN}, "secret_biz_params": "pin"},
        {"biz_params": {"pin": TOKEN}, "secret_biz_params": {"pin"}},
    ],
)
def test_no_trace_of_a_call_with_wrong_arguments_has_a_secret(
    arguments: dict[str, Any], start_cloud: Any, make_model: Any, ask: Any, log: Any, traces: Any
) -> None:
    model = make_model(start_cloud(app=lambda _: "ok"))
    for secret in (arguments, arguments | {"seed": -1}):
        with contextlib.suppress(InvalidInputError):
            ask(model, "hi", {"callbacks": [log, traces]}, **secret)
    assert traces.roots
    assert_no_secret(log.seen, [run.model_dump() for run in traces.roots])
