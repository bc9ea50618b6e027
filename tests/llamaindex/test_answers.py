"""Answers in the shapes that no recording has, by all eight methods of the LLM and by engines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from support.answers import ANSWERS, Answer

from bailian_apps.emulator import Emulator
from bailian_apps.llamaindex import BailianAppQueryEngine


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_response_has_the_answer_and_its_steps(answer: Answer, ask: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": lambda call: answer.frames}) as cloud:
        seen = ask(llm_of(cloud, **answer.ask_with()))
    assert seen.error is None
    assert seen.text == answer.text
    assert seen.raw.get("final_text") == answer.final_text
    steps = {step["id"]: (step["output"], step["reasoning"]) for step in seen.raw["steps"]}
    assert {step_id: steps[step_id] for step_id in answer.steps} == answer.steps
    if ask.streams:
        assert seen.streamed_text == answer.text


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_query_engine_has_the_answer(answer: Answer, is_async: bool) -> None:
    with Emulator(apps={"app": lambda call: answer.frames}) as cloud:
        engine = BailianAppQueryEngine.from_defaults(
            app_id="app", api_key="k", base_url=cloud.base_url, **answer.ask_with()
        )
        got = asyncio.run(engine.aquery("hi")) if is_async else engine.query("hi")
    assert str(got) == answer.text


@pytest.mark.parametrize("name", ["object", "output and end", "end alone at last", "contradicted"])
def test_the_next_turn_of_a_conversation_goes_on_in_the_session(
    name: str, chat: Any, llm_of: Any
) -> None:
    answer = ANSWERS[name]
    with Emulator(apps={"app": lambda call: answer.frames}) as cloud:
        llm = llm_of(cloud, **answer.ask_with())
        first = chat(llm, [ChatMessage(content="hi")])
        history = [ChatMessage(content="hi"), first.last.message, ChatMessage(content="then?")]
        chat(llm, history)
        assert cloud.requests[1].session_id == first.raw["session_id"]
        assert cloud.requests[1].input["prompt"] == "then?"
