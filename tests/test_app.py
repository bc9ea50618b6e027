"""`BailianApp` over the emulator: the real SDK, real sockets, every recording."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support import recordings
from support.paths import PATHS, STREAMING, Outcome

from bailian_apps import (
    AuthenticationError,
    BadRequestError,
    BailianApp,
    RunFinished,
    RunStarted,
    StepDelta,
    StreamInterruptedError,
    TextDelta,
)
from bailian_apps.emulator import Call, Emulator

NAMES = [path.name for path in recordings.ALL if path.name not in recordings.ERRORS]


def app_of(cloud: Emulator, app_id: str = "app", **settings: Any) -> BailianApp:
    return BailianApp(app_id=app_id, api_key="sk-test", base_url=cloud.base_url, **settings)


def replay(name: str, path: str) -> Outcome:
    with Emulator(apps={"app": recordings.FOLDER / name}) as cloud:
        app = app_of(cloud, flow_stream_mode=recordings.MODES.get(name))
        return PATHS[path](app, "hi")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in recordings.UNFINISHED])
def test_every_recording_on_every_path(name: str, path: str) -> None:
    outcome = replay(name, path)
    assert outcome.error is None
    assert outcome.result is not None
    assert outcome.text == outcome.result.text == recordings.expected_text(name)
    expected = recordings.node_texts(name)
    assert {s.id: s.output for s in outcome.result.steps if s.id in expected} == expected
    if path in STREAMING:
        assert isinstance(outcome.events[0], RunStarted)
        assert isinstance(outcome.events[-1], RunFinished)
        for step in outcome.result.steps:
            deltas = [
                e.text for e in outcome.events if isinstance(e, StepDelta) and e.step_id == step.id
            ]
            assert "".join(deltas) == step.output


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", sorted(recordings.UNFINISHED))
def test_a_recording_without_its_end_is_an_error_that_keeps_what_came(name: str, path: str) -> None:
    outcome = replay(name, path)
    assert isinstance(outcome.error, StreamInterruptedError)
    assert outcome.error.partial is not None
    assert outcome.error.partial.steps
    assert outcome.error.session_id


@pytest.mark.parametrize("mode", ["message_format", "message_format_plus", "agent_format"])
@pytest.mark.parametrize("path", PATHS)
def test_one_workflow_answers_the_same_in_every_mode(mode: str, path: str) -> None:
    with Emulator(apps={"app": recordings.FOLDER / "workflow-timed.jsonl"}) as cloud:
        outcome = PATHS[path](app_of(cloud), "hi", flow_stream_mode=mode)
        assert cloud.requests[0].parameters["flow_stream_mode"] == mode
    assert outcome.text == "亲,对我的介绍还满意吗"


@pytest.mark.parametrize("path", PATHS)
def test_two_turns_in_one_session(path: str) -> None:
    with Emulator(apps={"app": lambda call: f"{len(call.turns)} turns before"}) as cloud:
        app = app_of(cloud)
        first = PATHS[path](app, "one").result
        assert first is not None
        second = PATHS[path](app, "two", session_id=first.session_id)
        assert second.text == "1 turns before"
        assert cloud.requests[1].input == {"prompt": "two", "session_id": first.session_id}


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_key(path: str) -> None:
    with Emulator(apps={"app": lambda _: "hi"}, api_key="sk-right") as cloud:
        error = PATHS[path](app_of(cloud), "hi").error
        assert isinstance(error, AuthenticationError)
        assert (error.code, error.status_code) == ("InvalidApiKey", 401)
        assert "DASHSCOPE_API_KEY" in str(error)
        assert error.request_id
        assert "sk-" not in str(error).replace("InvalidApiKey", "")
        assert PATHS[path](app_of(cloud), "hi", api_key="sk-right").text == "hi"


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_app_id(path: str) -> None:
    with Emulator(apps={}) as cloud:
        error = PATHS[path](app_of(cloud, "nobody"), "hi").error
    assert isinstance(error, BadRequestError)
    assert error.code == "InvalidParameter"
    assert "app_id: copy it" in str(error)


def test_what_is_refused_sends_nothing() -> None:
    with Emulator(apps={"app": lambda _: "hi"}) as cloud:
        for overrides in ({"app_id": "a/b"}, {"biz_params": {"x": object()}}, {"nonsense": 1}):
            with pytest.raises(ValueError, match=r"app_id|biz_params\.x|nonsense"):
                app_of(cloud).invoke("hi", **overrides)
        with pytest.raises(ValueError, match="prompt is empty"):
            app_of(cloud).invoke("")
        assert not cloud.requests


def test_overrides_hold_for_one_call() -> None:
    with Emulator(apps={"app": lambda _: "one", "other": lambda _: "two"}) as cloud:
        app = app_of(cloud, biz_params={"city": "杭州"}, thoughts=False)
        assert (
            app.invoke("hi", app_id="other", biz_params={"city": "苏州"}, thoughts=True).text
            == "two"
        )
        assert app.invoke("hi").text == "one"
        first, second = cloud.requests
    assert (first.biz_params, first.parameters["has_thoughts"]) == ({"city": "苏州"}, True)
    assert (second.biz_params, second.parameters["has_thoughts"]) == ({"city": "杭州"}, False)


def test_pieces_come_as_they_are_said() -> None:
    """The first piece is there while the app is still held back."""
    told = threading.Event()

    def app(call: Call) -> Any:
        yield {"text": "一", "finish_reason": "null"}
        assert told.wait(60)
        yield {"text": "二", "finish_reason": "stop"}

    with Emulator(apps={"app": app}) as cloud:
        texts = []
        for event in app_of(cloud).stream("hi"):
            if isinstance(event, TextDelta):
                texts.append(event.text)
                told.set()
    assert texts == ["一", "二"]


async def test_many_tasks_share_one_app() -> None:
    with Emulator(apps={"app": lambda call: f"to {call.prompt}"}) as cloud:
        app = app_of(cloud)
        results = await asyncio.gather(*(app.ainvoke(f"{n}") for n in range(50)))
    assert [result.text for result in results] == [f"to {n}" for n in range(50)]


def test_many_threads_share_one_app() -> None:
    with Emulator(apps={"app": lambda call: f"to {call.prompt}"}) as cloud:
        app = app_of(cloud)
        with ThreadPoolExecutor(20) as pool:
            results = list(pool.map(lambda n: app.invoke(f"{n}").text, range(50)))
    assert results == [f"to {n}" for n in range(50)]
