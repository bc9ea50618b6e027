"""An app as a Runnable: its inputs, its streamed results, and how it composes."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from pydantic import BaseModel, Field
from support import recordings

from bailian_apps import AppResult, InvalidInputError, ServerError
from bailian_apps.emulator import Call, Failure
from bailian_apps.langchain import BailianAppRunnable, ChatBailianApp

WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"
TEXT = recordings.expected_text(WORKFLOW.name)


class Trip(BaseModel):
    city: str
    day: datetime.date | None = Field(default=None, alias="日期")


@pytest.fixture
def cloud(start_cloud: Any) -> Any:
    return start_cloud(app=WORKFLOW)


@pytest.fixture
def make(cloud: Any, fields_of: Any) -> Any:
    return lambda source=cloud, **fields: BailianAppRunnable(**fields_of(source, **fields))


@pytest.fixture(params=["invoke", "ainvoke", "stream", "astream"])
def run(request: pytest.FixtureRequest) -> Any:
    """Runs on one of the four paths; returns the last result of a stream."""

    async def astream(runnable: Any, *given: Any, **kwargs: Any) -> Any:
        return [result async for result in runnable.astream(*given, **kwargs)][-1]

    def run(runnable: Any, *given: Any, **kwargs: Any) -> Any:
        if request.param == "invoke":
            return runnable.invoke(*given, **kwargs)
        if request.param == "ainvoke":
            return asyncio.run(runnable.ainvoke(*given, **kwargs))
        if request.param == "stream":
            return list(runnable.stream(*given, **kwargs))[-1]
        return asyncio.run(astream(runnable, *given, **kwargs))

    return run


def inputs(cloud: Any) -> list[dict[str, Any]]:
    return [request.body["input"] for request in cloud.requests]


def test_the_result_is_typed_and_complete(run: Any, make: Any) -> None:
    result = run(make(), "hi")
    assert isinstance(result, AppResult)
    assert (result.text, result.finish_reason) == (TEXT, "stop")
    assert [step.name for step in result.steps] == ["开始", "大模型_1", "大模型_2", "结束"]
    assert result.usage.models
    assert result.raw["output"]["text"] == TEXT


PROMPT = ChatPromptTemplate([("system", "be brief"), ("human", "hi")])


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("hi", {"prompt": "hi"}),
        (HumanMessage("hi"), {"prompt": "hi"}),
        ([("human", "one"), ("ai", "1"), ("human", "hi")], "messages"),
        (PROMPT.invoke({}), None),
        ({"prompt": "hi"}, {"prompt": "hi"}),
        ({"prompt": "hi", "session_id": None, "image_list": None}, {"prompt": "hi"}),
        ({"messages": [("human", "hi")]}, {"prompt": "hi"}),
        ({"messages": [HumanMessage("hi")], "city": "x"},
         {"prompt": "hi", "biz_params": {"city": "x"}}),
        ({"prompt": "hi", "session_id": "s"}, {"prompt": "hi", "session_id": "s"}),
        ({"prompt": "hi", "image_list": ["https://example.com/a.png"]},
         {"prompt": "hi", "image_list": ["https://example.com/a.png"]}),
        ({"prompt": "hi", "a": 1, "biz_params": {"a": 0, "prompt": "p"}},
         {"prompt": "hi", "biz_params": {"a": 1, "prompt": "p"}}),
    ],
)  # fmt: skip
def test_every_form_of_input_is_sent_as_expected(
    given: Any, sent: Any, run: Any, make: Any, cloud: Any
) -> None:
    run(make(), given)
    (received,) = inputs(cloud)
    if sent == "messages":
        assert [m["content"] for m in received["messages"]] == ["one", "1", "hi"]
    elif sent is None:
        assert [m["content"] for m in received["messages"]] == ["be brief", "hi"]
    else:
        assert received == sent


def test_with_a_schema_only_its_fields_are_sent(run: Any, make: Any, cloud: Any) -> None:
    app = make(biz_params_schema=Trip, biz_params={"lang": "zh"})
    run(app, {"prompt": "hi", "city": "杭州", "日期": "2024-05-01", "docs": [object()]})
    assert inputs(cloud)[0]["biz_params"] == {"lang": "zh", "city": "杭州", "日期": "2024-05-01"}
    run(app, {"prompt": "hi", "city": "杭州"})
    assert inputs(cloud)[1]["biz_params"] == {"lang": "zh", "city": "杭州"}
    with pytest.raises(InvalidInputError, match="city is missing"):
        run(app, {"prompt": "hi"})


@pytest.mark.parametrize("given", [7, {"city": "x"}, {}, {"prompt": "hi", "when": object()}])
def test_an_invalid_input_is_refused_before_sending(
    given: Any, run: Any, make: Any, cloud: Any
) -> None:
    with pytest.raises(InvalidInputError):
        run(make(), given)
    assert cloud.requests == []


def test_settings_can_be_overridden_per_call(run: Any, make: Any, cloud: Any) -> None:
    run(make(temperature=0.1), "hi", temperature=0.5, session_id="s")
    assert cloud.requests[0].body["parameters"]["temperature"] == 0.5
    assert inputs(cloud)[0]["session_id"] == "s"
    with pytest.raises(InvalidInputError, match="temprature"):
        run(make(), "hi", temprature=0.5)


def test_a_runnable_continues_the_conversation_of_a_chat_model(
    run: Any, make: Any, cloud: Any, fields_of: Any
) -> None:
    answer: AIMessage = ChatBailianApp(**fields_of(cloud)).invoke("one")
    run(make(), {"messages": [HumanMessage("one"), answer], "prompt": "two"})
    session_id = answer.response_metadata["session_id"]
    assert inputs(cloud)[1] == {"prompt": "two", "session_id": session_id}


@pytest.mark.parametrize("is_async", [False, True])
def test_streamed_results_grow_until_complete(is_async: bool, agent: Any, make: Any) -> None:
    app = make(lambda _: agent)

    async def astream() -> list[AppResult]:
        return [result async for result in app.astream("hi")]

    results = asyncio.run(astream()) if is_async else list(app.stream("hi"))
    for earlier, later in pairwise(results):
        assert later.text.startswith(earlier.text)
        assert later.reasoning.startswith(earlier.reasoning)
        assert [s.id for s in later.steps][: len(earlier.steps)] == [s.id for s in earlier.steps]
    assert len({result.text for result in results}) >= 2  # more, if the answer came in pieces
    assert any(step.status == "executing" for result in results for step in result.steps)
    # The last but one is folded here, the last is the core's own fold.
    same = {"finish_reason": "stop", "raw": results[-1].raw}
    assert replace(results[-2], **same) == results[-1]
    assert results[-1].reasoning == "先查"
    assert results[-1].references[0].text == "龙井"


def test_the_runnable_composes_with_other_runnables(run: Any, make: Any, cloud: Any) -> None:
    chain = RunnablePassthrough.assign(plan=make()) | (lambda state: state["plan"].text)
    assert run(chain, {"prompt": "hi", "city": "杭州"}) == TEXT
    assert inputs(cloud)[0] == {"prompt": "hi", "biz_params": {"city": "杭州"}}
    assert run(PROMPT | make() | (lambda result: result.text), {}) == TEXT
    both = run(RunnableParallel(a=make() | (lambda result: result.text)), "hi")
    assert both == {"a": TEXT}


def test_batch_and_abatch_return_results_in_order(make: Any) -> None:
    assert [result.text for result in make().batch(["a", "b", "c"])] == [TEXT] * 3
    assert [r.text for r in asyncio.run(make().abatch(["a", "b"]))] == [TEXT] * 2
    failed, well = make().batch([{}, "b"], return_exceptions=True)
    assert isinstance(failed, InvalidInputError)
    assert well.text == TEXT


@pytest.mark.filterwarnings("ignore:.*is in beta:Warning")
def test_the_schemas_describe_input_and_output(make: Any) -> None:
    app = make(biz_params_schema=Trip)
    schema = app.get_input_jsonschema()
    assert {"prompt", "messages", "session_id", "city", "日期"} <= set(schema["properties"])
    assert schema["required"] == ["city"]
    assert make().get_input_jsonschema()["additionalProperties"] is True
    result = app.get_output_jsonschema()["$defs"]["AppResult"]
    assert set(result["properties"]) == {field.name for field in fields(AppResult)}
    nodes = app.get_graph().to_json(with_schemas=True)["nodes"]
    assert [node["data"].get("title") for node in nodes] == [
        "BailianAppRunnableInput", None, "BailianAppRunnableOutput",
    ]  # fmt: skip
    assert app.as_tool(name="t", description="d").args["city"]["type"] == "string"


def test_closing_a_stream_ends_the_steps_and_the_connection(held: Any, make: Any, log: Any) -> None:
    stream = make(held).stream("hi", {"callbacks": [log]})
    assert next(result.text for result in stream if result.text) == "one"
    stream.close()
    name = "BailianAppRunnable"
    assert log.events == [("start", name), ("start", "mail"), ("error", "mail"), ("error", name)]
    assert held.disconnected.wait(60)


async def test_closing_an_async_stream_ends_the_steps_and_the_connection(
    held: Any, make: Any, log: Any
) -> None:
    stream = make(held).astream("hi", {"callbacks": [log]})
    async for result in stream:
        if result.text:
            break
    await stream.aclose()
    name = "BailianAppRunnable"
    assert log.events == [("start", name), ("start", "mail"), ("error", "mail"), ("error", name)]
    assert await asyncio.to_thread(held.disconnected.wait, 60)


async def test_astream_events_shows_growing_results(make: Any) -> None:
    events = [event async for event in make().astream_events("hi", version="v2")]
    streamed = [e["data"]["chunk"] for e in events if e["event"] == "on_chain_stream"]
    assert len(streamed) > 5
    assert streamed[-1].text == TEXT
    assert events[-1]["data"]["output"].text == TEXT


async def test_astream_events_of_a_chain_shows_growing_results(make: Any) -> None:
    chain = RunnablePassthrough() | make()
    events = [event async for event in chain.astream_events("hi", version="v2")]
    streamed = [
        event["data"]["chunk"]
        for event in events
        if (event["event"], event["name"]) == ("on_chain_stream", "BailianAppRunnable")
    ]
    assert len(streamed) > 5
    assert streamed[-1].text == TEXT


@pytest.mark.parametrize("path", ["ainvoke", "astream"])
async def test_cancelling_ends_the_steps_and_the_connection(
    path: str, held: Any, make: Any, log: Any
) -> None:
    app = make(held)

    async def run() -> None:
        if path == "ainvoke":
            await app.ainvoke("hi", {"callbacks": [log]})
        async for _ in app.astream("hi", {"callbacks": [log]}):
            pass

    begun = asyncio.Event()
    log.on_step = begun.set
    task = asyncio.create_task(run())
    await asyncio.wait_for(begun.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    name = "BailianAppRunnable"
    assert log.events == [("start", name), ("start", "mail"), ("error", "mail"), ("error", name)]
    assert await asyncio.to_thread(held.disconnected.wait, 60)


def test_an_error_has_both_classes_and_ends_the_run(run: Any, make: Any, log: Any) -> None:
    def app(_: Call) -> Any:
        yield {"output": {"text": "one", "finish_reason": "null"}}
        yield Failure(status=500, code="SystemError")

    with pytest.raises(ServerError) as caught:
        run(make(app), "hi", {"callbacks": [log]})
    assert caught.value.partial.text == "one"
    assert caught.value.is_retryable is False
    assert log.events[-1] == ("error", "BailianAppRunnable")


def test_no_secret_is_traced_or_dumped(run: Any, make: Any, traces: Any) -> None:
    tokens = {"user_defined_tokens": {"t": {"user_token": "tok-very-secret"}}}
    app = make(biz_params=tokens)
    given = {"prompt": "hi", "biz_params": tokens}
    run(app, given, {"callbacks": [traces]}, api_key="sk-other-key")
    seen = repr(app) + dumps(app) + repr([each.model_dump() for each in traces.roots])
    assert "tok-very" not in seen
    assert "sk-" not in seen
    assert "DASHSCOPE_API_KEY" in dumps(app)
    assert given["biz_params"] is tokens


def test_a_token_at_the_top_of_the_input_is_sent_and_not_traced(
    run: Any, make: Any, cloud: Any
) -> None:
    class Inputs(BaseCallbackHandler):
        run_inline = True
        seen: list[Any] = []  # noqa: RUF012

        def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
            self.seen.append(inputs)

    handler = Inputs()
    tokens = {"tool": {"user_token": "tok-secret"}}
    run(make(), {"prompt": "x", "user_defined_tokens": tokens}, config={"callbacks": [handler]})
    assert cloud.requests[0].biz_params == {"user_defined_tokens": tokens}
    assert handler.seen
    assert "tok-secret" not in str(handler.seen)


def test_biz_params_of_the_input_override_the_field(run: Any, make: Any, cloud: Any) -> None:
    runnable = make(biz_params={"lang": "zh", "city": "x"})
    run(runnable, {"prompt": "x", "biz_params": {"city": "H"}, "z": 1})
    assert cloud.requests[0].biz_params == {"lang": "zh", "city": "H", "z": 1}
    run(runnable, {"prompt": "x", "z": 1}, biz_params={"only": 1})
    assert cloud.requests[1].biz_params == {"only": 1}


def test_a_prompt_keyword_in_addition_to_the_input_is_refused(
    run: Any, make: Any, cloud: Any
) -> None:
    with pytest.raises(InvalidInputError, match="prompt is passed in addition to the input"):
        run(make(), "asked", prompt="other")
    assert not cloud.requests


def test_a_running_steps_output_grows(make: Any) -> None:
    outputs = [
        step.output
        for result in make().stream("x")
        for step in result.steps
        if step.status == "executing" and step.output
    ]
    assert outputs[0].startswith("西湖醋鱼,龙")
    assert any(each.startswith("西湖醋鱼,龙井虾仁,东坡肉,") for each in outputs)
