"""Answers in the shapes that no recording has, on each of the four ways to call an app."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from support.answers import ANSWERS, Answer, message, stop
from support.paths import PATHS

from bailian_apps import AppSettings, BailianApp, InvalidInputError
from bailian_apps.core.answer import OutputNodes
from bailian_apps.emulator import Call, Emulator


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_has_its_text_its_steps_and_its_final_text(path: str, answer: Answer) -> None:
    with Emulator(apps={"app": lambda call: answer.frames}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        outcome = PATHS[path](app, "hi", **answer.ask_with())
    result = outcome.result
    assert result is not None, outcome.error
    assert outcome.text == result.text == answer.text
    assert result.final_text == answer.final_text
    steps = {step.id: (step.output, step.reasoning) for step in result.steps}
    assert {step_id: steps[step_id] for step_id in answer.steps} == answer.steps


def test_output_nodes_is_a_setting_of_every_call_and_is_not_sent() -> None:
    frames = ANSWERS["output only"].frames
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        app = BailianApp(
            app_id="app", api_key="k", base_url=cloud.base_url, flow_stream_mode="message_format"
        )
        texts = [app.invoke("hi", output_nodes=each).text for each in get_args(OutputNodes)]
        assert texts == ["请稍候。", ""]
        assert all("output_nodes" not in str(request.body) for request in cloud.requests)
    assert AppSettings(app_id="a").output_nodes == "answer"
    with pytest.raises(InvalidInputError, match="output_nodes"):
        BailianApp(app_id="a", output_nodes="none")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["object", "output and end", "contradicted"])
def test_the_next_turn_goes_on_in_the_session(name: str) -> None:
    answer = ANSWERS[name]

    def app(call: Call) -> list[Any]:
        return answer.frames

    with Emulator(apps={"app": app}) as cloud:
        mine = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        first = mine.invoke("hi", **answer.ask_with())
        assert first.session_id
        mine.invoke("and then?", session_id=first.session_id, **answer.ask_with())
        assert cloud.requests[1].session_id == first.session_id


def test_a_partial_result_has_what_output_nodes_said() -> None:
    frames = [message("Output_1", "Output", "请稍"), stop("")]
    with Emulator(apps={"app": lambda call: frames[:1]}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        outcome = PATHS["stream"](app, "hi")
    assert outcome.error is not None
    assert outcome.error.partial is not None
    assert outcome.text == outcome.error.partial.text == "请稍"
