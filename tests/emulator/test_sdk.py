"""The official SDK works with the emulator as with the cloud."""

import inspect
import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from dashscope import Application
from dashscope.api_entities.dashscope_response import Message

from bailian_apps.emulator import Call, Emulator, Failure

pytestmark = pytest.mark.usefixtures("requests_of_this_sdk")


@pytest.fixture
def ask() -> Callable[..., Any]:
    def ask(cloud: Emulator, app_id: str = "app", **kwargs: Any) -> Any:
        kwargs = {"prompt": "你好", "api_key": "key", **kwargs}
        return Application.call(app_id=app_id, base_address=cloud.base_url, **kwargs)

    return ask


def test_the_sdk_reads_a_whole_answer(recordings: Path, ask: Callable[..., Any]) -> None:
    with Emulator(apps={"app": recordings / "agent2-sdk-response-object.json"}) as cloud:
        response = ask(cloud)
    recorded = json.loads((recordings / "agent2-sdk-response-object.json").read_text())
    assert response.status_code == HTTPStatus.OK
    assert response.request_id == recorded["request_id"]
    assert response.output.text == recorded["output"]["text"]
    assert response.usage.models[0].output_tokens == 296


def test_the_sdk_continues_a_session(ask: Callable[..., Any]) -> None:
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


DOCUMENTED: dict[str, Any] = {
    "session_id": "s",
    "biz_params": {
        "city": "杭州",
        "user_prompt_params": {"city": "杭州"},
        "user_defined_params": {"tool": {"article_index": 2}},
        "user_defined_tokens": {"tool": {"user_token": "t"}},
    },
    "has_thoughts": True,
    "doc_tag_codes": ["tag"],
    "doc_reference_type": "indexed",
    "memory_id": "m",
    "image_list": ["https://example.com/a.png"],
    "file_list": ["https://example.com/a.pdf"],
    "rag_options": {
        "pipeline_ids": ["p"],
        "file_ids": ["f"],
        "metadata_filter": {"name": "x"},
        "tags": ["t"],
        "structured_filter": {"age": 3},
        "session_file_ids": ["s"],
    },
    "temperature": 1.9,
    "top_p": 0.8,
    "top_k": 50,
    "seed": 2**64 - 1,
}
HISTORY = [{"user": "今天天气很好", "bot": "适合出门"}]
MESSAGES = [Message("system", "简短"), Message("user", [{"text": "看"}])]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        *({name: value} for name, value in DOCUMENTED.items()),
        DOCUMENTED,
        {"workspace": "w"},
        {"incremental_output": True},
        {"incremental_output": False},
        {"history": HISTORY},
        {"messages": MESSAGES},
        {"messages": MESSAGES, "prompt": None},
        {"flow_stream_mode": "message_format_plus", "enable_thinking": True, "model_id": "m"},
        {"request_timeout": 5, "headers": {"X-DashScope-OssResourceResolve": "enable"}},
    ],
    ids=lambda arguments: ",".join(arguments),
)
def test_every_documented_argument_is_accepted(
    ask: Callable[..., Any], arguments: dict[str, Any], stream: bool
) -> None:
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        answer = ask(cloud, stream=stream, **arguments)
        assert {each.status_code for each in (answer if stream else [answer])} == {200}
        v2 = pytest.importorskip("dashscope.v2", reason="this dashscope has no v2 client")
        with v2.Client(api_key="key", base_url=cloud.base_url) as client:
            fields = {"app_id": "app", "prompt": "你好", "stream": stream, **arguments}
            known = inspect.signature(client.apps.completions.create).parameters
            fields = {name: value for name, value in fields.items() if name in known}
            answer = client.apps.completions.create(**fields)
            assert {each.text or "好" for each in (answer if stream else [answer])} == {"好"}


def test_the_sdk_can_reuse_a_connection(ask: Callable[..., Any]) -> None:
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        answers = [ask(cloud).output.text for _ in range(3)]
        answers += [response.output.text for response in ask(cloud, stream=True)]
    assert answers == ["好"] * 5
    assert len(cloud.requests) == 4
