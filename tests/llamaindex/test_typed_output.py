"""`output_schema`: the answer of an app as an object, through the query engine and the tool."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from llama_index.core.base.response.schema import PydanticResponse
from llama_index.core.tools import QueryEngineTool
from llama_index.core.workflow import Context, StartEvent, StopEvent, Workflow, step
from pydantic import BaseModel

from bailian_apps import InvalidInputError, InvalidOutputError
from bailian_apps.emulator import Emulator
from bailian_apps.llamaindex import BailianAppQueryEngine, bailian_app_tool

ANSWER = '```json\n{"city": "Hangzhou", "days": 2}\n```'


class Trip(BaseModel):
    city: str
    days: int


TRIP = Trip(city="Hangzhou", days=2)


def engine_of(llm: Any, **more: Any) -> BailianAppQueryEngine:
    return BailianAppQueryEngine.from_defaults(llm=llm, output_schema=Trip, **more)


def queried(engine: BailianAppQueryEngine, *, is_async: bool) -> Any:
    return asyncio.run(engine.aquery("hi")) if is_async else engine.query("hi")


@pytest.mark.parametrize("is_async", [False, True])
def test_a_query_returns_the_validated_object(is_async: bool, llm_of: Any) -> None:
    with Emulator(apps={"app": lambda call: ANSWER}) as cloud:
        response = queried(engine_of(llm_of(cloud)), is_async=is_async)
        assert isinstance(response, PydanticResponse)
        assert (response.response, response.days) == (TRIP, 2)
        assert response.metadata["request_id"]
        tool = QueryEngineTool.from_defaults(engine_of(llm_of(cloud)), name="t", description="d")
        assert tool.call("hi").content == TRIP.model_dump_json()


@pytest.mark.parametrize("is_async", [False, True])
def test_an_answer_that_does_not_fit_is_an_error_and_not_resent(
    is_async: bool, llm_of: Any
) -> None:
    with Emulator(apps={"app": lambda call: '{"city": "Hangzhou"}'}) as cloud:
        with pytest.raises(InvalidOutputError, match="days is missing") as caught:
            queried(engine_of(llm_of(cloud, idempotent=True)), is_async=is_async)
        assert len(cloud.requests) == 1
    assert caught.value.fields == ("days",)
    assert caught.value.partial is not None
    assert caught.value.partial.text == '{"city": "Hangzhou"}'
    assert caught.value.partial.session_id


def test_a_streaming_engine_takes_no_output_schema(llm_of: Any) -> None:
    with Emulator(apps={"app": lambda call: ANSWER}) as cloud:
        with pytest.raises(InvalidInputError, match="streaming cannot be combined with"):
            engine_of(llm_of(cloud), streaming=True)
        with pytest.raises(InvalidInputError, match="output_schema must be a pydantic model"):
            BailianAppQueryEngine(llm=llm_of(cloud), output_schema=dict)  # type: ignore[type-var]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_tool_returns_the_object_and_shows_the_text(is_async: bool, llm_of: Any) -> None:
    with Emulator(apps={"app": lambda call: ANSWER}) as cloud:
        tool = bailian_app_tool(llm=llm_of(cloud), name="t", description="d", output_schema=Trip)
        output = asyncio.run(tool.acall("hi")) if is_async else tool.call("hi")
        unpickled = pickle.loads(pickle.dumps(tool))
        assert unpickled._output_schema is Trip
    assert output.content == ANSWER
    assert isinstance(output.raw_output, PydanticResponse)
    assert output.raw_output.response == TRIP


def test_a_tool_in_a_workflow_keeps_its_conversation_and_its_schema(llm_of: Any) -> None:
    with Emulator(apps={"app": lambda call: ANSWER}) as cloud:
        llm = llm_of(cloud)
        heard: list[Any] = []
        listening = llm.with_event_listener(heard.append)
        tool = bailian_app_tool(llm=listening, name="t", description="d", output_schema=Trip)

        class Twice(Workflow):
            @step
            async def both(self, ctx: Context, event: StartEvent) -> StopEvent:
                outputs = [await tool.acall(prompt=word, ctx=ctx) for word in ("one", "two")]
                return StopEvent(result=[output.raw_output.response for output in outputs])

        async def run() -> Any:
            return await Twice().run()

        assert asyncio.run(run()) == [TRIP, TRIP]
        assert cloud.requests[1].input["prompt"] == "two"
        assert cloud.requests[1].session_id
        assert heard, "the listener of the LLM hears the tool's runs too"


def test_a_tool_raises_for_an_answer_that_does_not_fit(llm_of: Any) -> None:
    with Emulator(apps={"app": lambda call: "a lake"}) as cloud:
        tool = bailian_app_tool(llm=llm_of(cloud), name="t", description="d", output_schema=Trip)
        with pytest.raises(InvalidOutputError, match="Invalid JSON"):
            tool.call("hi")
