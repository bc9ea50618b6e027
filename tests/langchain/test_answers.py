"""Answers in the shapes that no recording has, as LangChain's messages and results."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from support.answers import ANSWERS, Answer

from bailian_apps import AppResult
from bailian_apps.langchain import BailianAppRunnable, BailianAppTool


@pytest.fixture(params=ANSWERS, ids=list(ANSWERS))
def answer(request: pytest.FixtureRequest) -> Answer:
    return ANSWERS[request.param]


@pytest.mark.parametrize("output_version", ["v0", "v1"])
def test_a_message_has_the_answer_and_its_steps(
    answer: Answer, output_version: str, make_model: Any, ask: Any
) -> None:
    model = make_model(
        lambda call: answer.frames, output_version=output_version, **answer.ask_with()
    )
    got = ask(model)
    assert got.text == answer.text
    texts = [block["text"] for block in got.content_blocks if block["type"] == "text"]
    assert "".join(texts) == answer.text
    assert got.response_metadata.get("final_text") == answer.final_text
    if output_version == "v0":
        steps = {step["id"]: step.get("output") for step in got.additional_kwargs.get("steps", [])}
        assert steps.items() >= {key: output for key, (output, _) in answer.steps.items()}.items()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_the_runnable_and_the_tool_have_the_answer(
    answer: Answer, is_async: bool, fields_of: Any
) -> None:
    fields = fields_of(lambda call: answer.frames, **answer.ask_with())
    runnable = BailianAppRunnable(**fields)
    tool = BailianAppTool(name="t", description="d", **fields)
    call = {"type": "tool_call", "id": "1", "name": "t", "args": {"prompt": "hi"}}

    async def partials() -> list[AppResult]:
        return [each async for each in runnable.astream("hi")]

    if is_async:
        results = asyncio.run(partials())
        message = asyncio.run(tool.ainvoke(call))
    else:
        results = list(runnable.stream("hi"))
        message = tool.invoke(call)
    assert results[-1].text == message.content == answer.text
    names = ("reasoning", "final_text", "attempts")
    assert {name: message.artifact[name] for name in names} == {
        name: getattr(results[-1], name) for name in names
    }
    assert results[-1].final_text == answer.final_text
    assert all(answer.text.startswith(each.text) for each in results)


@pytest.mark.parametrize("name", ["object", "output and end", "end alone at last", "contradicted"])
def test_the_next_turn_of_a_conversation_goes_on_in_the_session(
    name: str, start_cloud: Any, make_model: Any, ask: Any
) -> None:
    answer = ANSWERS[name]
    cloud = start_cloud(app=lambda call: answer.frames)
    model = make_model(cloud, **answer.ask_with())
    first = ask(model, [HumanMessage("hi")])
    ask(model, [HumanMessage("hi"), first, HumanMessage("and then?")])
    assert cloud.requests[1].session_id == first.response_metadata["session_id"]
    assert cloud.requests[1].input["prompt"] == "and then?"
