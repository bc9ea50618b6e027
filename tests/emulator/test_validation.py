"""A strict emulator checks requests against the documented API; by default it takes all."""

from collections.abc import Callable
from typing import Any

import pytest

from bailian_apps.emulator import Emulator


def hello(call: object) -> str:
    return "你好"


USER = {"role": "user", "content": "hi"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"promt": "x"}, "Unknown parameter(input.promt); did you mean prompt?"),
    ({"parameters": {"temprature": 1}}, "Unknown parameter(parameters.temprature); did you mean t"),
    ({"parameters": {"timeout": 3}}, "Unknown parameter(parameters.timeout)"),
    ({"parameters": {"rag_options": {"file_id": []}}}, "(parameters.rag_options.file_id); did you"),
    ({"prompt": 5}, "parameter(input.prompt) missing or invalid: Input should be a valid string"),
    ({"session_id": 5}, "(input.session_id)"),
    ({"biz_params": "x"}, "(input.biz_params)"),
    ({"biz_params": {"user_defined_params": 1}}, "(input.biz_params.user_defined_params)"),
    ({"biz_params": {"user_defined_tokens": {"t": "secret"}}}, "user_defined_tokens.t)"),
    ({"image_list": "http://x"}, "(input.image_list)"),
    ({"file_list": [1]}, "(input.file_list.0)"),
    ({"doc_reference_type": "both"}, "'simple' or 'indexed'"),
    ({"parameters": {"incremental_output": "on"}}, "(parameters.incremental_output)"),
    ({"parameters": {"has_thoughts": 1}}, "valid boolean"),
    ({"parameters": {"enable_thinking": "yes"}}, "valid boolean"),
    ({"parameters": {"temperature": 2}}, "less than 2"),
    ({"parameters": {"temperature": True}}, "valid number"),
    ({"parameters": {"top_p": 0}}, "greater than 0"),
    ({"parameters": {"top_p": 1.1}}, "less than or equal to 1"),
    ({"parameters": {"top_k": -1}}, "greater than or equal to 0"),
    ({"parameters": {"seed": 1.5}}, "valid integer"),
    ({"parameters": {"rag_options": {"file_ids": ["f"] * 101}}}, "at most 100 items"),
    ({"prompt": None, "messages": [{**USER, "role": "bot"}, USER]}, "(input.messages.0.role)"),
    ({"prompt": None, "messages": [{"role": "user", "content": 5}, USER]}, "a string or a list"),
    ({"prompt": None, "messages": [USER, {**USER, "role": "system"}, USER]}, "must be the first"),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("request_", "message"), REFUSED, ids=lambda value: str(value)[:50])
def test_a_strict_emulator_refuses_a_mistake(
    post: Callable[..., Any], request_: dict[str, Any], message: str, stream: bool
) -> None:
    with Emulator(apps={"app": hello}, strict=True) as cloud:
        answer = post(cloud, stream=stream, **request_)
        assert cloud.sessions == {}
    assert (answer.status, answer.body["code"]) == (400, "InvalidParameter")
    assert message in answer.body["message"]
    assert "secret" not in answer.body["message"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "request_",
    [
        *(request_ for request_, _ in REFUSED),
        {"image_list": "x"},
        {"session_id": {}},
        {"session_id": [1]},
        {"parameters": {"flow_stream_mode": "of_next_year"}},
        {"parameters": {"flow_stream_mode": [1]}},
        {"parameters": {"has_thoughts": {}, "incremental_output": 1}},
        {"parameters": "none"},
        {"biz_params": [1]},
    ],
    ids=lambda value: str(value)[:50],
)
def test_the_default_takes_every_request_that_can_be_answered(
    post: Callable[..., Any], request_: dict[str, Any], stream: bool
) -> None:
    if "parameters" in request_ and not isinstance(request_["parameters"], dict):
        request_ = {"content": b'{"input":{"prompt":"hi"},"parameters":"none"}'}
    with Emulator(apps={"app": hello}, strict=False, unknown_session="error") as cloud:
        answer = post(cloud, stream=stream, **request_)
    assert answer.status == 200
    assert (answer.outputs[-1] if stream else answer.output)["text"] == "你好"


def test_every_documented_parameter_is_accepted(post: Callable[..., Any]) -> None:
    parameters = {
        "incremental_output": True,
        "has_thoughts": None,
        "flow_stream_mode": "message_format_plus",
        "enable_thinking": False,
        "model_id": "qwen-max",
        "temperature": 1,
        "top_p": 1,
        "top_k": 0,
        "seed": 2**31,
        "rag_options": {
            "pipeline_ids": ["p"] * 6,
            "file_ids": ["f"] * 100,
            "session_file_ids": ["s"],
            "tags": ["t"],
            "metadata_filter": {"a": "b"},
            "structured_filter": {"a": 1},
        },
    }
    fields = {
        "session_id": "s",
        "memory_id": "m",
        "biz_params": {"any": 1, "user_defined_tokens": {"t": {"user_token": "x"}}},
        "image_list": ["https://example.com/a.png"],
        "file_list": [],
        "doc_tag_codes": ["t"],
        "doc_reference_type": "simple",
    }
    parts = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"text": "hi"}]}]
    with Emulator(apps={"app": hello}, strict=True) as cloud:
        assert post(cloud, parameters=parameters, **fields).status == 200
        assert post(cloud, prompt=None, messages=parts).status == 200
