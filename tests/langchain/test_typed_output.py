"""`output_schema`: the answer of an app as an object, through a Runnable and a tool."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnablePassthrough
from langchain_core.tools import ToolException
from pydantic import BaseModel
from support.wire import WAIT_S

from bailian_apps import InvalidInputError, InvalidOutputError
from bailian_apps.emulator import Call
from bailian_apps.langchain import BailianAppRunnable, BailianAppTool

PIECES = ['```json\n{"city": "Hang', 'zhou", "dis', 'hes": ["fish", "te', 'a"]}\n```']
ANSWER = "".join(PIECES)
CALL = {"type": "tool_call", "id": "1", "name": "travel", "args": {"prompt": "hi"}}


class Trip(BaseModel):
    city: str
    dishes: list[str] = []


TRIP = Trip(city="Hangzhou", dishes=["fish", "tea"])


WRONG = '{"dishes": "fish"}'


def wrong(call: Call) -> str:
    return WRONG


@pytest.fixture(params=["invoke", "ainvoke", "stream", "astream"])
async def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs on one of the four paths; returns the last output of a stream."""

    async def run(runnable: Any, *given: Any) -> Any:
        if request.param == "invoke":
            return runnable.invoke(*given)
        if request.param == "ainvoke":
            return await runnable.ainvoke(*given)
        if request.param == "stream":
            return list(runnable.stream(*given))[-1]
        return [output async for output in runnable.astream(*given)][-1]

    return run


async def test_a_runnable_returns_the_validated_object(fields_of: Any, run: Any) -> None:
    app = BailianAppRunnable(**fields_of(lambda _: ANSWER), output_schema=Trip)
    assert await run(app, "hi") == TRIP


async def test_an_answer_that_does_not_fit_is_an_error_of_both_and_is_not_resent(
    start_cloud: Any, fields_of: Any, run: Any
) -> None:
    cloud = start_cloud(app=wrong)
    app = BailianAppRunnable(**fields_of(cloud, idempotent=True), output_schema=Trip)
    with pytest.raises(InvalidOutputError) as caught:
        await run(app, "hi")
    error: Any = caught.value
    assert isinstance(error, OutputParserException)
    assert (error.fields, error.is_retryable) == (("city", "dishes"), False)
    assert error.llm_output == error.partial.text == WRONG
    assert len(cloud.requests) == 1


@pytest.mark.parametrize("output_node", ["", "One moment … "])
async def test_a_stream_yields_the_object_as_it_grows(
    output_node: str, start_cloud: Any, fields_of: Any
) -> None:
    """Each piece is sent when the object of the one before it has arrived."""
    arrived = threading.Semaphore(1)

    def frame(name: str, text: str) -> dict[str, Any]:
        message = {"node_id": name, "node_type": name, "message": {"content": text}}
        return {"output": {"workflow_message": message, "session_id": "s"}, "request_id": "r"}

    def slowly(call: Call) -> Iterator[dict[str, Any]]:
        yield frame("Output", output_node)
        for piece in PIECES:
            assert arrived.acquire(timeout=WAIT_S)
            yield frame("End", piece)
        last = {"session_id": "s", "text": output_node + ANSWER, "finish_reason": "stop"}
        yield {"output": last, "request_id": "r"}

    fields = fields_of(start_cloud(app=slowly), flow_stream_mode="message_format")
    app = BailianAppRunnable(**fields, output_schema=Trip)
    seen: list[Trip] = []
    for output in app.stream("hi"):
        seen.append(output)
        arrived.release()
    assert seen == [
        Trip(city="Hang"),
        Trip(city="Hangzhou"),
        Trip(city="Hangzhou", dishes=["fish", "te"]),
        TRIP,
    ]


async def test_objects_flow_through_a_chain(fields_of: Any, run: Any) -> None:
    app = BailianAppRunnable(**fields_of(lambda _: ANSWER), output_schema=Trip)
    chain = RunnablePassthrough.assign(trip=app) | (lambda state: state["trip"].city)
    assert await run(chain, {"prompt": "hi"}) == "Hangzhou"
    assert app.batch(["a", "b"]) == [TRIP, TRIP]
    assert app.get_output_jsonschema()["title"] == "Trip"
    assert app.with_config(tags=["a"]).invoke("hi") == TRIP


async def test_fields_that_are_configurable_keep_the_schema(fields_of: Any) -> None:
    from langchain_core.runnables import ConfigurableField

    app = BailianAppRunnable(**fields_of(lambda _: ANSWER), output_schema=Trip)
    configurable = app.configurable_fields(temperature=ConfigurableField(id="t"))
    assert configurable.invoke("hi", {"configurable": {"t": 0.5}}) == TRIP


def test_only_a_pydantic_model_is_an_output_schema(fields_of: Any) -> None:
    for make in (BailianAppRunnable, BailianAppTool):
        fields = fields_of(lambda _: ANSWER) | {"name": "travel", "description": "Plans."}
        with pytest.raises(InvalidInputError, match="output_schema must be a pydantic model"):
            make(**fields, output_schema={"type": "object"})
    with pytest.raises(InvalidInputError, match="Did you mean 'output_schema'"):
        BailianAppRunnable(**fields_of(lambda _: ANSWER), output_shema=Trip)


def tool_of(fields: dict[str, Any], **more: Any) -> BailianAppTool:
    return BailianAppTool(name="travel", description="Plans.", output_schema=Trip, **fields, **more)


async def test_a_tool_returns_the_object_and_a_tool_call_its_text(fields_of: Any) -> None:
    tool = tool_of(fields_of(lambda _: ANSWER))
    assert tool.invoke("hi") == await tool.ainvoke({"prompt": "hi"}) == TRIP
    for message in (tool.invoke(CALL), await tool.ainvoke(CALL)):
        assert isinstance(message, ToolMessage)
        assert (type(message.content), message.content) == (str, ANSWER)
        assert message.artifact["output"] == TRIP.model_dump()
        json.dumps(message.artifact)


async def test_a_tool_raises_for_an_answer_that_does_not_fit(fields_of: Any) -> None:
    tool = tool_of(fields_of(wrong))
    for given in ("hi", {"prompt": "hi"}):
        with pytest.raises(InvalidOutputError):
            tool.invoke(given)
        with pytest.raises(InvalidOutputError):
            await tool.ainvoke(given)
    raising = tool_of(fields_of(wrong), handle_tool_error=False)
    with pytest.raises(InvalidOutputError):
        raising.invoke(CALL)
    with pytest.raises(InvalidOutputError):
        await raising.ainvoke(CALL)


async def test_a_models_tool_call_gets_the_answer_that_does_not_fit(fields_of: Any) -> None:
    def handler(error: ToolException) -> str:
        assert isinstance(error.__cause__, InvalidOutputError)
        return ", ".join(error.__cause__.fields)

    cases = {True: f"would run again. Its answer:\n{WRONG}", "No.": "No.", handler: "city, dishes"}
    for handle, content in cases.items():
        tool = tool_of(fields_of(wrong), handle_tool_error=handle)
        for message in (tool.invoke(CALL), await tool.ainvoke(CALL)):
            assert (message.status, message.tool_call_id, message.name) == ("error", "1", "travel")
            assert message.content.endswith(content)
            assert message.artifact["answer"] == WRONG
            assert message.artifact["bailian"]["session_id"]
            assert "output" not in message.artifact
            json.dumps(message.artifact)


def test_a_tool_without_a_schema_has_no_output_in_its_artifact(fields_of: Any) -> None:
    tool = BailianAppTool(name="travel", description="Plans.", **fields_of(lambda _: ANSWER))
    assert tool.invoke("hi") == ANSWER
    assert "output" not in tool.invoke(CALL).artifact
