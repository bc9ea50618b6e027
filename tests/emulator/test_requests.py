"""Requests that are refused before any app runs, and the requests that the emulator keeps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bailian_apps.emulator import Emulator, ReceivedRequest
from bailian_apps.emulator.server import endpoint


def hello(call: object) -> str:
    return "你好"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("wanted", "sent", "status"),
    [
        (None, "anything", 200),
        (None, "", 401),
        (None, None, 401),
        ("right", "right", 200),
        ("right", "wrong", 401),
        ("right", "", 401),
        ("right", None, 401),
    ],
)
def test_the_key_of_a_request_is_checked(
    post: Callable[..., Any], wanted: str | None, sent: str | None, status: int, stream: bool
) -> None:
    with Emulator(apps={"app": hello}, api_key=wanted) as cloud:
        answer = post(cloud, key=sent, stream=stream)
    assert answer.status == status
    if status == 401:
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.body.pop("request_id")
        assert answer.body["code"] == "InvalidApiKey"
        assert answer.body["message"] == "Invalid API-key provided."


def test_an_unknown_app_is_an_event_in_a_stream(recordings: Path, post: Callable[..., Any]) -> None:
    recorded = (recordings / "error-app-id-invalid-elided.sse").read_text()
    with Emulator(apps={"app": hello}) as cloud:
        answer = post(cloud, "nobody", stream=True)
    assert answer.status == 200
    (frame,) = answer.frames
    normalized = answer.content.decode().replace(frame["request_id"], "d18bb1bc-…")
    assert normalized.replace(" The emulator serves app.", "") == recorded


def test_an_unknown_app_is_an_http_error_without_a_stream(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": hello}) as cloud:
        answer = post(cloud, "nobody")
        assert [request.app_id for request in cloud.requests] == ["nobody"]
        assert cloud.sessions == {}
    assert answer.status == 400
    assert answer.body["code"] == "InvalidParameter"
    assert answer.body["message"].startswith("Required parameter(AppId) missing or invalid")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ({"prompt": ""}, "prompt or messages"),
        ({"prompt": None}, "prompt or messages"),
        ({"prompt": None, "messages": []}, "prompt or messages"),
        ({"content": b"{"}, "must be a JSON object"),
        ({"content": b"\xff"}, "must be a JSON object"),
        ({"content": b"[]"}, "must be a JSON object"),
        ({"content": b'{"input":{"prompt":"hi"},"parameters":{"seed":NaN}}'}, "a JSON object"),
        ({"content": b"[" * 100_000}, "must be a JSON object"),
        ({"content": b'{"input":"hi"}'}, "prompt or messages"),
        (
            {"prompt": None, "messages": [{"role": "assistant", "content": "hi"}]},
            "must have the role user",
        ),
        ({"parameters": {"flow_stream_mode": "plus"}}, "flow_stream_mode must be one of full_"),
    ],
)
def test_a_bad_request_is_refused(
    post: Callable[..., Any], request_: dict[str, Any], problem: str, stream: bool
) -> None:
    with Emulator(apps={"app": hello}) as cloud:
        answer = post(cloud, stream=stream, **request_)
    assert answer.status == 400
    assert answer.body.keys() == {"code", "message", "request_id"}
    assert answer.body["code"] == "InvalidParameter"
    assert problem in answer.body["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/apps/app/completion", 404),
        ("POST", "/api/v1/apps/a/b/completion", 404),
        ("GET", "/api/v1/apps/app/completion", 405),
    ],
)
def test_an_unknown_path_names_the_served_one(
    post: Callable[..., Any], method: str, path: str, status: int
) -> None:
    with Emulator(apps={"app": hello}) as cloud:
        answer = post(cloud, path=path, method=method)
        assert cloud.requests == []
    assert answer.status == status
    assert f"{method} {path} is not served" in answer.body["message"]
    assert "POST /api/v1/apps/{app_id}/completion is." in answer.body["message"]


def test_requests_are_kept_with_the_key_masked(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": hello}) as cloud:
        post(cloud, key="sk-secret", prompt="一", biz_params={"city": "杭州"}, session_id="s")
        post(cloud, stream=True, prompt="二", parameters={"has_thoughts": True})
    first, second = cloud.requests
    assert (first.app_id, first.prompt, first.session_id, first.stream) == ("app", "一", "s", False)
    assert first.biz_params == {"city": "杭州"}
    assert first.input == {"biz_params": {"city": "杭州"}, "session_id": "s", "prompt": "一"}
    assert first.headers["authorization"] == "Bearer ***"
    assert "sk-secret" not in repr(first)
    assert (second.prompt, second.session_id, second.stream) == ("二", None, True)
    assert second.parameters == {"has_thoughts": True}
    assert not first.disconnected.is_set()


def test_a_long_run_keeps_its_newest_requests(
    post: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert endpoint.KEPT_REQUESTS == 10_000
    monkeypatch.setattr(endpoint, "KEPT_REQUESTS", 3)
    with Emulator(apps={"app": hello}) as cloud:
        kept = cloud.requests
        for prompt in "一二三四五":
            post(cloud, prompt=prompt)
        assert [request.prompt for request in kept] == ["三", "四", "五"]


def test_a_prompt_beside_messages_is_the_last_message() -> None:
    system = {"role": "system", "content": "简短"}
    body = {"input": {"messages": [system], "prompt": "你好"}}
    request = ReceivedRequest(app_id="app", body=body, headers={})
    assert request.messages == [system, {"role": "user", "content": "你好"}]
    assert request.prompt == "你好"


def test_the_prompt_is_the_text_of_the_last_message() -> None:
    parts = [{"text": "看"}, {"image": "https://example.com/a.png"}, {"text": "图"}]
    body = {"input": {"messages": [{"role": "user", "content": parts}]}}
    assert ReceivedRequest(app_id="app", body=body, headers={}).prompt == "看图"


def test_a_lone_surrogate_is_sent_escaped(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": lambda call: {"text": "\ud83d"}}) as cloud:
        answer = post(cloud)
    assert b'"text":"\\ud83d"' in answer.content
    assert json.loads(answer.content)["output"]["text"] == "\ud83d"
