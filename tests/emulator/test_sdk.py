"""The official SDK cannot tell the emulator from the cloud."""

import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from dashscope import Application

from bailian_apps.emulator import Call, Emulator, Failure


@pytest.fixture
def ask() -> Callable[..., Any]:
    def ask(cloud: Emulator, app_id: str = "app", **kwargs: Any) -> Any:
        kwargs = {"prompt": "你好", "api_key": "key", **kwargs}
        return Application.call(app_id=app_id, base_address=cloud.base_url, **kwargs)

    return ask


def recorded_outputs(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().split("\n")
    return [json.loads(line[5:])["output"] for line in lines if line.startswith("data:")]


@pytest.mark.parametrize(
    "name",
    [
        "agent-plain-stream.sse",
        "agent-deep-thinking-elided-tail.sse",
        "workflow-two-llm.sse",
        "workflow-message-format.sse",
    ],
)
def test_a_stream_arrives_as_recorded(recordings: Path, ask: Callable[..., Any], name: str) -> None:
    with Emulator(apps={"app": recordings / name}) as cloud:
        stream = ask(cloud, stream=True, incremental_output=True, has_thoughts=True)
        received = [json.loads(str(response))["output"] for response in stream]
    recorded = recorded_outputs(recordings / name)
    assert len(received) == len(recorded)
    for got, wanted in zip(received, recorded, strict=True):
        assert {key: got[key] for key in wanted if key != "thoughts"} == {
            key: item for key, item in wanted.items() if key != "thoughts"
        }
        thoughts = zip(got.get("thoughts") or [], wanted.get("thoughts", []), strict=True)
        for got_thought, wanted_thought in thoughts:
            assert wanted_thought.items() <= got_thought.items()


def test_one_answer_arrives_whole(recordings: Path, ask: Callable[..., Any]) -> None:
    with Emulator(apps={"app": recordings / "agent2-sdk-response-object.json"}) as cloud:
        response = ask(cloud)
    recorded = json.loads((recordings / "agent2-sdk-response-object.json").read_text())
    assert response.status_code == HTTPStatus.OK
    assert response.request_id == recorded["request_id"]
    assert response.output.text == recorded["output"]["text"]
    assert response.usage.models[0].output_tokens == 296


def test_two_rounds_of_a_session(ask: Callable[..., Any]) -> None:
    def app(call: Call) -> str:
        return f"{len(call.turns)}: {call.prompt}"

    with Emulator(apps={"app": app}) as cloud:
        first = ask(cloud, prompt="一").output
        second = ask(cloud, prompt="二", session_id=first.session_id).output
    assert (first.text, second.text) == ("0: 一", "1: 二")
    assert second.session_id == first.session_id


def test_the_sdk_sees_errors_as_the_cloud_makes_them(ask: Callable[..., Any]) -> None:
    def throttled(call: Call) -> Failure:
        return Failure(status=429, code="Throttling", message="慢一点")

    with Emulator(apps={"app": throttled}, api_key="key") as cloud:
        throttling = ask(cloud)
        (throttled_stream,) = ask(cloud, stream=True)
        wrong_key = ask(cloud, api_key="other")
        unknown = ask(cloud, "nobody")
        (unknown_stream,) = ask(cloud, "nobody", stream=True)
    for response in (throttling, throttled_stream):
        assert (response.status_code, response.code) == (429, "Throttling")
        assert response.message == "慢一点"
    assert (wrong_key.status_code, wrong_key.code) == (401, "InvalidApiKey")
    for response in (unknown, unknown_stream):
        assert (response.status_code, response.code) == (400, "InvalidParameter")
        assert "AppId" in response.message


def test_a_connection_is_used_again(ask: Callable[..., Any]) -> None:
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        answers = [ask(cloud).output.text for _ in range(3)]
        answers += [response.output.text for response in ask(cloud, stream=True)]
    assert answers == ["好"] * 5
    assert len(cloud.requests) == 4
