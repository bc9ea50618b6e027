"""`extra_body`, `extra_headers` and regions: what is sent, what is refused, and what is shown."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.memory import ChatMemoryBuffer
from pydantic import SecretStr
from support.paths import PATHS

from bailian_apps import AppSettings, BailianApp, InvalidInputError
from bailian_apps.core.endpoint import REGIONS
from bailian_apps.core.request import AppRequest
from bailian_apps.emulator import Emulator
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
)
from bailian_apps.llamaindex import BailianAppChatEngine, BailianAppLLM, BailianAppQueryEngine
from bailian_apps.transport.request_builder import build_request

EXTRA: dict[str, Any] = {
    "extra_body": {
        "input": {"answer_tone": "kind", "biz_params": {"apiKey": SecretStr("tok-hidden")}},
        "parameters": {"thinking_budget": 5, "stream": True, "task": "x", "temperature": 1},
    },
    "extra_headers": {"X-Tenant": "tok-hidden", "user-agent": SecretStr("mine")},
}


def check_sent(cloud: Emulator) -> None:
    request = cloud.requests[-1]
    sent = request.body
    assert sent["input"]["answer_tone"] == "kind"
    assert sent["input"]["biz_params"] == {"apiKey": "tok-hidden"}
    expected = {"thinking_budget": 5, "stream": True, "task": "x", "temperature": 1}
    assert sent["parameters"] == {"incremental_output": True, "has_thoughts": True} | expected
    assert request.headers["user-agent"] == "mine"
    assert request.headers["x-tenant"] == "tok-hidden"


WAYS: dict[str, Callable[..., Any]] = {
    "BailianApp": lambda **s: BailianApp(**s).invoke("hi"),
    "ChatBailianApp": lambda **s: ChatBailianApp(**s).invoke("hi"),
    "BailianAppRunnable": lambda **s: BailianAppRunnable(**s).invoke("hi"),
    "BailianAppTool": lambda **s: BailianAppTool(name="t", description="d", **s).invoke("hi"),
    "BailianAppRetriever": lambda **s: BailianAppRetriever(**s).invoke("hi"),
    "BailianAppLLM": lambda **s: BailianAppLLM(**s).complete("hi"),
    "BailianAppQueryEngine": lambda **s: BailianAppQueryEngine.from_defaults(**s).query("hi"),
    "BailianAppChatEngine": lambda **s: BailianAppChatEngine.from_defaults(
        memory=ChatMemoryBuffer.from_defaults(token_limit=1000), **s
    ).chat("hi"),
}


@pytest.mark.parametrize("way", WAYS)
def test_extra_body_and_headers_are_sent_as_settings_of_every_class(way: str) -> None:
    with Emulator(apps={"app": lambda call: "ok"}, strict=False) as cloud:
        WAYS[way](app_id="app", api_key="k", base_url=cloud.base_url, temperature=0, **EXTRA)
        check_sent(cloud)


PER_CALL: dict[str, Callable[..., Any]] = {
    "ChatBailianApp": lambda settings, **o: ChatBailianApp(**settings).invoke("hi", **o),
    "ChatBailianApp.stream": lambda settings, **o: list(ChatBailianApp(**settings).stream("hi", **o)),
    "ChatBailianApp.bind": lambda settings, **o: ChatBailianApp(**settings).bind(**o).invoke("hi"),
    "BailianAppRunnable": lambda settings, **o: BailianAppRunnable(**settings).invoke("hi", **o),
    "BailianAppRetriever": lambda settings, **o: BailianAppRetriever(**settings).invoke("hi", **o),
    "BailianAppLLM": lambda settings, **o: BailianAppLLM(**settings).complete("hi", **o),
    "BailianAppLLM.stream_complete": lambda settings, **o: list(
        BailianAppLLM(**settings).stream_complete("hi", **o)
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", PER_CALL)
def test_extra_body_and_headers_are_sent_as_options_of_a_call(way: str) -> None:
    with Emulator(apps={"app": lambda call: "ok"}, strict=False) as cloud:
        settings = {"app_id": "app", "api_key": "k", "base_url": cloud.base_url}
        PER_CALL[way](settings, **EXTRA)
        check_sent(cloud)


@pytest.mark.parametrize("way", PER_CALL)
def test_a_misspelt_option_of_a_call_is_refused_with_the_right_name(way: str) -> None:
    settings = {"app_id": "app", "api_key": "k", "base_url": "http://127.0.0.1:9/v1"}
    with pytest.raises(
        InvalidInputError, match=r"temprature is not a setting\. Did you mean 'temp"
    ):
        PER_CALL[way](settings, temprature=1)


@pytest.mark.parametrize("way", WAYS)
def test_a_misspelt_setting_is_refused_with_the_right_name(way: str) -> None:
    for name, meant in (
        ("worspace", "workspace"),
        ("dashscope_api_key", "api_key"),
        ("has_thoughts", "thoughts"),
        ("extra_header", "extra_headers"),
    ):
        with pytest.raises(
            InvalidInputError, match=f"{name} is not a setting. Did you mean '{meant}'"
        ):
            WAYS[way](app_id="app", **{name: "x"})


@pytest.mark.parametrize("path", PATHS)
def test_what_extra_body_sends_decides_how_the_answer_is_read(path: str) -> None:
    """As a setting would: the session that is asked for, and the stream mode."""
    with Emulator(apps={"app": lambda call: "ok"}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        session = app.invoke("one").session_id
        extra = {
            "input": {"session_id": session},
            "parameters": {"flow_stream_mode": "agent_format"},
        }
        outcome = PATHS[path](app, "two", extra_body=extra)
        assert outcome.result is not None
        assert (outcome.result.session_id, outcome.result.context_lost) == (session, False)
        assert cloud.requests[-1].parameters["flow_stream_mode"] == "agent_format"


@pytest.mark.parametrize(
    ("settings", "field", "message"),
    [
        ({"extra_body": {"thinking_budget": 5}}, "extra_body",
         "Pass extra_body={\"parameters\": {'thinking_budget': …}}"),
        ({"extra_body": {"parameters": [1]}}, "extra_body.parameters", "must be a dict, not a list"),
        ({"extra_body": "{}"}, "extra_body", "must be a dict of JSON values, not a str"),
        ({"extra_body": {"parameters": {"a": {1, 2}}}}, "extra_body.parameters.a", "is a set"),
        ({"extra_body": {"parameters": {"incremental_output": False}}},
         "extra_body.parameters.incremental_output", "must be True"),
        ({"extra_headers": {"Authorization": "Bearer tok-hidden"}}, "extra_headers.Authorization",
         "cannot be replaced. Pass api_key="),
        ({"extra_headers": {"host": "tok-hidden"}}, "extra_headers.host", "Pass base_url="),
        ({"extra_headers": {"CONTENT-LENGTH": "5"}}, "extra_headers.CONTENT-LENGTH", "Leave it out"),
        ({"extra_headers": {"X-A": "tok-hidden\r\nX-B: 1"}}, "extra_headers.X-A", "line break"),
        ({"extra_headers": {"X-A": SecretStr("tok-hidden\n")}}, "extra_headers.X-A", "line break"),
        ({"extra_headers": {"X-A": "tok-hidden é"}}, "extra_headers.X-A", "not ASCII"),
        ({"extra_headers": {"X-A": 5}}, "extra_headers.X-A", "must be a str, not an int"),
        ({"extra_headers": {"X A": "tok-hidden"}}, "extra_headers", "has a name that no HTTP header"),
        ({"extra_headers": {"X-A\r\nX-B": "1"}}, "extra_headers", "has a name that no HTTP header"),
        ({"extra_headers": ["tok-hidden"]}, "extra_headers", "must be a dict of str, not a list"),
        ({"base_url": "atlantis"}, "base_url", "is not an http(s) URL or the name of a region"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_without_its_value(
    settings: dict[str, Any], field: str, message: str
) -> None:
    for refuse in (
        lambda: BailianApp(app_id="app", api_key="k", **settings),
        lambda: BailianApp(app_id="app", api_key="k").invoke("hi", **settings),
        lambda: ChatBailianApp(app_id="app", api_key="k").invoke("hi", **settings),
        lambda: BailianAppLLM(app_id="app", api_key="k").complete("hi", **settings),
    ):
        with pytest.raises(InvalidInputError) as caught:
            refuse()
        assert caught.value.field == field
        assert message in str(caught.value)
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "adapter", [AppSettings, ChatBailianApp, BailianAppRunnable, BailianAppLLM]
)
def test_the_values_are_in_no_repr_dump_and_pickle(adapter: Callable[..., Any]) -> None:
    made = adapter(app_id="app", api_key="sk-hidden", **EXTRA)
    shown = [repr(made), str(made.model_dump()), made.model_dump_json()]
    if isinstance(made, (ChatBailianApp, BailianAppRunnable)):
        from langchain_core.load import dumps

        shown.append(dumps(made))
    for each in (*shown, repr(pickle.dumps(made))):
        assert "hidden" not in each
    assert all("**********" in each and "X-Tenant" in each for each in shown)


@pytest.mark.parametrize("lost", ["extra_body", "extra_headers"])
def test_an_unpickled_object_asks_for_a_masked_value_again(lost: str) -> None:
    made = AppSettings(app_id="app", **{lost: EXTRA[lost]})
    app = BailianApp(pickle.loads(pickle.dumps(made)))
    with pytest.raises(InvalidInputError, match=rf"{lost}\..* is masked"):
        app.invoke("hi")
    with Emulator(apps={"app": lambda call: "ok"}, strict=False) as cloud:
        given = {lost: EXTRA[lost], "api_key": "k", "base_url": cloud.base_url}
        assert app.invoke("hi", **given).text == "ok"


def test_the_values_reach_no_callback_of_a_framework() -> None:
    from langchain_core.callbacks import BaseCallbackHandler
    from llama_index_instrumentation import get_dispatcher
    from llama_index_instrumentation.event_handlers import BaseEventHandler

    published: list[str] = []

    class Collect(BaseEventHandler):
        @classmethod
        def class_name(cls) -> str:
            return "Collect"

        def handle(self, event: Any, **_: Any) -> None:
            published.append(f"{event!r} {event.model_dump()}")

    class CollectStarts(BaseCallbackHandler):
        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            runs.append(f"{args} {kwargs}")

    runs: list[str] = []
    handler = Collect()
    get_dispatcher().add_event_handler(handler)
    try:
        with Emulator(apps={"app": lambda call: "ok"}, strict=False) as cloud:
            fields = {"app_id": "app", "api_key": "k", "base_url": cloud.base_url}
            BailianAppLLM(**fields).complete("hi", **EXTRA)
            BailianAppLLM(**fields, **EXTRA).complete("hi")
            config: Any = {"callbacks": [CollectStarts()]}
            ChatBailianApp(**fields).invoke("hi", config, **EXTRA)
            list(ChatBailianApp(**fields, **EXTRA).stream("hi", config))
    finally:
        get_dispatcher().event_handlers.remove(handler)
    assert published
    assert len(runs) == 2
    assert "hidden" not in "".join(published) + "".join(runs)


@pytest.mark.parametrize("name", REGIONS)
def test_a_region_is_an_address_by_name(name: str) -> None:
    settings = AppSettings(app_id="app", api_key="k", base_url=name.upper(), workspace="ws-1")
    request = build_request(AppRequest(app_id="app", prompt="hi"), settings)
    address = REGIONS[name].replace("{workspace_id}", "ws-1")
    assert request.url == f"{address}/apps/app/completion"


def test_the_host_of_a_workspace_is_an_error_without_a_workspace() -> None:
    app = BailianApp(app_id="app", api_key="k", base_url="ap-southeast-1")
    with pytest.raises(InvalidInputError, match="workspace is missing"):
        app.invoke("hi")


def test_the_regions_of_workspace_hosts_are_those_of_the_sdk() -> None:
    env = pytest.importorskip("dashscope.common.env")
    if not hasattr(env, "MAAS_REGIONS"):
        pytest.skip("this SDK has no workspace hosts")
    ours = {name for name, url in REGIONS.items() if "{workspace_id}" in url}
    assert ours == {*env.MAAS_REGIONS, "cn-beijing"}


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_stream_mode_is_sent_and_its_answer_is_read(path: str) -> None:
    from support.wire import WireServer, event, frame, stream

    with WireServer(stream(event(frame("你好", "stop")))) as server:
        app = BailianApp(app_id="app", api_key="k", base_url=server.base_url)
        assert PATHS[path](app, "hi", flow_stream_mode="a_new_mode").text == "你好"
        assert server.posts[0]["parameters"]["flow_stream_mode"] == "a_new_mode"
