"""The fields and defaults of `ChatBailianApp`, and what it refuses."""

from __future__ import annotations

import asyncio
import logging
import pickle
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd
from langchain_core.messages import HumanMessage
from langchain_core.runnables import ConfigurableField

from bailian_apps import AppSettings, BailianApp, InvalidInputError, Timeout
from bailian_apps.emulator import Call
from bailian_apps.langchain import ChatBailianApp


def make(**fields: Any) -> ChatBailianApp:
    return ChatBailianApp(**{"app_id": "app", "api_key": "k", **fields})


def test_every_setting_is_a_field() -> None:
    assert AppSettings.model_fields.keys() <= ChatBailianApp.model_fields.keys()
    assert BailianApp(make(timeout=7)).settings.timeout == 7


def test_a_timeout_in_parts_is_dumped_traced_and_sent(
    start_cloud: Any, make_model: Any, ask: Any, log: Any
) -> None:
    parts = Timeout(total_s=60)
    model = make_model(start_cloud(app=lambda _: "hi"), timeout=parts)
    kwargs = dumpd(model)["kwargs"]
    assert kwargs["timeout"] == parts.model_dump()
    assert make(timeout=kwargs["timeout"]).timeout == parts
    answer = ask(model, "x", {"callbacks": [log]}, timeout=Timeout(total_s=50))
    assert answer.content == "hi"
    (params,) = [
        seen[2]["invocation_params"] for seen in log.seen if "invocation_params" in seen[-1]
    ]
    assert params["timeout"]["total_s"] == 50


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAILIAN_APP_ID", "from-env")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-env")
    model = ChatBailianApp()
    assert model.app_id == "from-env"
    assert model.api_key is not None
    assert model.api_key.get_secret_value() == "sk-env"


def test_model_is_an_alias_of_app_id() -> None:
    model = ChatBailianApp(model="app", api_key="k")
    assert model.app_id == model.model == "app"
    assert model._get_ls_params()["ls_model_name"] == "app"
    with pytest.raises(InvalidInputError, match="model differs from app_id"):
        ChatBailianApp(model="a", app_id="b")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"app_idd": "x"}, "app_idd is not a setting. Did you mean 'app_id'?"),
        ({"max_retry": 3}, "max_retry is not a setting"),
        ({"app_id": ""}, "app_id is empty. Pass app_id= or set BAILIAN_APP_ID"),
        ({"app_id": "a/b"}, "app_id has a character that an app id cannot have"),
        ({"temperature": 2}, "temperature"),
        ({"streaming": "perhaps"}, "streaming must be a valid boolean"),
    ],
)
def test_an_invalid_field_raises_an_error_that_names_it(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make(**fields)
    assert str(caught.value).startswith(message)


def test_max_tokens_is_accepted_with_a_warning_and_not_sent(
    start_cloud: Any, make_model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = start_cloud(app=lambda _: "hi")
    with caplog.at_level(logging.WARNING, "bailian_apps"):
        model = make_model(cloud, max_tokens=5)
    assert "max_tokens=5 is not sent" in caplog.text
    model.invoke("hi")
    assert "max_tokens" not in str(cloud.requests[0].body)


def test_max_tokens_of_a_call_is_accepted_with_a_warning_and_not_sent(
    start_cloud: Any, make_model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = start_cloud(app=lambda _: "hi")
    model = make_model(cloud)

    async def acalls() -> None:
        await model.ainvoke("hi", max_tokens=7)
        assert [chunk async for chunk in model.astream("hi", max_tokens=7)]

    with caplog.at_level(logging.WARNING, "bailian_apps"):
        model.invoke("hi", max_tokens=7)
        assert list(model.stream("hi", max_tokens=7))
        model.bind(max_tokens=7).invoke("hi")
        model.batch(["hi"], max_tokens=7)
        asyncio.run(acalls())
    assert caplog.text.count("max_tokens=7 is not sent") == len(cloud.requests) == 6
    assert not any("max_tokens" in str(request.body) for request in cloud.requests)


def test_bind_tools_and_structured_output_raise_with_advice() -> None:
    with pytest.raises(NotImplementedError, match="in its console"):
        make().bind_tools([])
    with pytest.raises(NotImplementedError, match="PydanticOutputParser"):
        make().with_structured_output({})


def test_the_class_itself_does_not_claim_tools_or_schemas() -> None:
    """langchain-tests, for one, asks whether a class overrides these methods."""
    for name in ("bind_tools", "with_structured_output"):
        assert getattr(ChatBailianApp, name) is getattr(BaseChatModel, name)


def test_an_agent_without_tools_of_its_own_runs(start_cloud: Any, make_model: Any) -> None:
    agents = pytest.importorskip("langchain.agents")
    model = make_model(start_cloud(app=lambda _: "hi"))

    def look_up(word: str) -> str:
        """Look up a word."""
        return word

    state = agents.create_agent(model).invoke({"messages": [HumanMessage("hi")]})
    assert state["messages"][-1].text == "hi"
    with pytest.raises(NotImplementedError, match="in its console"):
        agents.create_agent(model, tools=[look_up]).invoke({"messages": [HumanMessage("hi")]})


def test_the_profile_has_no_tool_calling_but_reasoning() -> None:
    profile = getattr(make(), "profile", None)
    if profile is None:
        pytest.skip("this langchain-core has no model profiles")
    assert profile["tool_calling"] is False
    assert profile["reasoning_output"] is True


def test_a_global_cache_is_not_used_by_default(start_cloud: Any, make_model: Any) -> None:
    cloud = start_cloud(app=lambda _: "hi")
    model = make_model(cloud)
    set_llm_cache(InMemoryCache())
    try:
        model.invoke("hi")
        model.invoke("hi")
    finally:
        set_llm_cache(None)
    assert len(cloud.requests) == 2


def test_a_copy_with_all_fields_set_still_streams(start_cloud: Any, make_model: Any) -> None:
    cloud = start_cloud(app=lambda _: "a longer answer", other=lambda _: "another, longer answer")
    model = make_model(cloud).configurable_fields(app_id=ConfigurableField(id="app"))
    chunks = list(model.stream("hi", {"configurable": {"app": "other"}}))
    assert "".join(chunk.text for chunk in chunks) == "another, longer answer"
    assert len(chunks) > 2


def test_one_model_serves_many_calls_at_once(start_cloud: Any, make_model: Any) -> None:
    model = make_model(start_cloud(app=lambda call: call.prompt * 3))
    prompts = [f"<{number}>" for number in range(8)]
    answers = model.batch(prompts)
    assert [answer.content for answer in answers] == [prompt * 3 for prompt in prompts]
    assert len({answer.response_metadata["session_id"] for answer in answers}) == 8


async def test_abatch_returns_the_answers_in_order(start_cloud: Any, make_model: Any) -> None:
    model = make_model(start_cloud(app=lambda call: call.prompt * 3))
    answers = await model.abatch(["a", "b"])
    assert [answer.content for answer in answers] == ["aaa", "bbb"]


def test_the_model_can_be_pickled_and_copied(
    start_cloud: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(start_cloud(app=lambda _: "hi"))
    monkeypatch.setenv(
        "DASHSCOPE_API_KEY", model.api_key.get_secret_value()
    )  # where a pickled model reads its key again
    assert pickle.loads(pickle.dumps(model)).invoke("x").content == "hi"
    assert model.model_copy(update={"temperature": 0.5}).temperature == 0.5


def streamed_otherwise(_: Call) -> list[dict[str, Any]]:
    """A workflow whose last frame has another text than its End node streamed."""
    thought = (
        '{"nodeId":"End_1","nodeType":"End","nodeStatus":"executing",'
        '"nodeResult":"{\\"result\\":\\"draft\\"}"}'
    )
    return [
        {"output": {"finish_reason": "null", "thoughts": [{"response": thought}]}},
        {"output": {"finish_reason": "stop", "text": "the final text"}},
    ]


@pytest.mark.parametrize("output_version", ["v0", "v1"])
def test_a_final_text_that_differs_from_the_stream_is_in_the_metadata(
    output_version: str, make_model: Any, ask: Any
) -> None:
    model = make_model(streamed_otherwise, output_version=output_version)
    answer = ask(model)
    assert answer.text == "draft"
    assert answer.response_metadata["final_text"] == "the final text"
    cut_off = ask(model, stop=["text"])
    assert cut_off.response_metadata["final_text"] == "the final "


def test_reasoning_tools_and_citations_become_standard_blocks(
    agent: Any, make_model: Any, ask: Any
) -> None:
    model, v1 = (make_model(lambda _: agent, output_version=v) for v in ("v0", "v1"))

    def standard(message: Any) -> list[Any]:
        return [
            {k: v for k, v in block.items() if k != "index"} for block in message.content_blocks
        ]

    blocks = standard(ask(model))
    assert blocks == [
        {"type": "reasoning", "reasoning": "先查"},
        {
            "type": "server_tool_call",
            "id": "thought-1",
            "name": "weather",
            "args": {"city": "杭州"},
        },
        {
            "type": "server_tool_result",
            "tool_call_id": "thought-1",
            "status": "success",
            "output": '{"sky": "clear"}',
        },
        {
            "type": "server_tool_call",
            "id": "thought-2",
            "name": "知识检索",
            "args": {"query": "茶"},
        },
        {
            "type": "server_tool_result",
            "tool_call_id": "thought-2",
            "status": "success",
            "output": '[{"text": "龙井", "title": "茶"}]',
        },
        {
            "type": "text",
            "text": "晴，喝茶<ref>[1]</ref>",
            "annotations": [
                {
                    "type": "citation",
                    "title": "茶",
                    "url": "https://example.com/tea",
                    "cited_text": "龙井",
                    "extras": {"index_id": "1"},
                }
            ],
        },
    ]
    assert standard(ask(v1)) == blocks


def test_usage_is_counted_once(agent: Any, make_model: Any, ask: Any) -> None:
    answer = ask(make_model(lambda _: agent))
    assert answer.usage_metadata == {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    assert answer.response_metadata["model_usage"] == [
        {"model_id": "qwen-max", "input_tokens": 7, "output_tokens": 3}
    ]
    assert answer.response_metadata["model_name"] == "app"
    assert answer.response_metadata["model_provider"] == "bailian"
