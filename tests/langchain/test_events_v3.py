"""`stream_events(version="v3")`: LangChain's protocol events, made by the model itself."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from support import recordings
from support.events import without_times

from bailian_apps import ServerError
from bailian_apps.emulator import Call, Failure

if not hasattr(BaseChatModel, "_iter_v2_events"):
    pytest.skip("an older langchain-core has no v3", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:.*is in beta:Warning")

WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"


def streamed(is_async: bool, model: Any, config: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    """The events, and the message."""

    async def astreamed() -> Any:
        stream = await model.astream_events("hi", config, version="v3", **kwargs)
        return [event async for event in stream], await stream

    if is_async:
        return asyncio.run(astreamed())
    stream = model.stream_events("hi", config, version="v3", **kwargs)
    return list(stream), stream.output


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return request.param


def brief(events: list[Any]) -> list[str]:
    """Each event as its kind and block type; consecutive deltas as one."""
    kinds: dict[int, str] = {}
    words: list[str] = []
    for event in events:
        if event["event"] == "content-block-start":
            kinds[event["index"]] = event["content"]["type"]
        word = event["event"].removeprefix("content-block-")
        words.append(f"{word} {kinds[event['index']]}" if "index" in event else word)
    return [word for word, _ in groupby(words)]


def test_a_steps_block_finishes_when_the_step_finishes(
    is_async: bool, agent: Any, make_model: Any
) -> None:
    events, _ = streamed(is_async, make_model(lambda _: agent))
    assert brief(events) == [
        "message-start",
        "start reasoning",
        "delta reasoning",
        "start server_tool_call",
        "finish server_tool_call",
        "start server_tool_result",
        "finish server_tool_result",
        "start server_tool_call",
        "finish server_tool_call",
        "start server_tool_result",
        "finish server_tool_result",
        "start text",
        "delta text",
        "finish reasoning",
        "finish text",
        "message-finish",
    ]
    starts = [e["content"] for e in events if e["event"] == "content-block-start"]
    assert starts[1]["name"] == "weather"
    assert starts[1]["args"] == {}


def test_a_steps_block_starts_before_the_step_ends(is_async: bool, make_model: Any) -> None:
    events, _ = streamed(is_async, make_model(WORKFLOW))
    first = next(e for e in events if e["event"] == "content-block-start")
    assert first["content"]["value"]["name"] == "开始"
    assert "status" not in first["content"]["value"]
    words = brief(events)
    assert words.count("start non_standard") == words.count("finish non_standard") == 4
    assert words.index("finish non_standard") < words.index("start text")


@pytest.mark.parametrize("source", ["workflow", "agent"])
def test_the_v3_message_equals_the_message_of_invoke(
    source: str, is_async: bool, agent: Any, make_model: Any
) -> None:
    model = make_model(WORKFLOW if source == "workflow" else lambda _: agent, output_version="v1")
    _, message = streamed(is_async, model)
    invoked = model.invoke("hi")

    def blocks(message: Any) -> list[Any]:
        return sorted(message.content, key=lambda block: block["index"])

    assert without_times(blocks(message)) == without_times(blocks(invoked))
    assert message.usage_metadata == invoked.usage_metadata
    assert message.text == invoked.text
    changing = ("session_id", "request_id", "bailian")
    fixed = {k: v for k, v in invoked.response_metadata.items() if k not in changing}
    same = {k: message.response_metadata[k] for k in fixed}
    assert without_times(same) == without_times(fixed)
    assert message.response_metadata["bailian"]["session_id"]


def test_a_stop_sequence_ends_the_v3_stream(is_async: bool, agent: Any, make_model: Any) -> None:
    events, message = streamed(is_async, make_model(lambda _: agent), stop=["，"])
    assert message.text == "晴"
    assert brief(events)[-1] == "message-finish"
    assert "bailian" not in message.response_metadata


def test_an_error_ends_the_steps_and_the_run(is_async: bool, make_model: Any, log: Any) -> None:
    def app(_: Call) -> Any:
        mail = [{"action_type": "api", "action_name": "mail"}]
        yield {"output": {"text": "one", "finish_reason": "null", "thoughts": mail}}
        yield Failure(status=500, code="SystemError")

    with pytest.raises(ServerError):
        streamed(is_async, make_model(app), {"callbacks": [log]})
    assert log.events == [
        ("start", "model"), ("start", "mail"), ("error", "mail"), ("error", "model"),
    ]  # fmt: skip


def test_the_v3_message_has_the_text_that_streamed(is_async: bool, make_model: Any) -> None:
    thought = (
        '{"nodeId":"End_1","nodeType":"End","nodeStatus":"executing",'
        '"nodeResult":"{\\"result\\":\\"draft\\"}"}'
    )

    def app(_: Call) -> list[Any]:
        return [
            {"output": {"finish_reason": "null", "thoughts": [{"response": thought}]}},
            {"output": {"finish_reason": "stop", "text": "the final text"}},
        ]

    model = make_model(app)
    events, message = streamed(is_async, model)
    deltas = [e["delta"]["text"] for e in events if e["event"] == "content-block-delta"]
    assert deltas == ["draft"]
    assert message.text == model.invoke("hi").text == "draft"
    assert message.response_metadata["final_text"] == "the final text"


async def test_closing_a_v3_stream_ends_the_steps_and_the_connection(
    held: Any, make_model: Any, log: Any
) -> None:
    stream = await make_model(held).astream_events("hi", {"callbacks": [log]}, version="v3")
    async for event in stream:
        if event["event"] == "content-block-delta":
            break
    await stream.aclose()
    assert await asyncio.to_thread(held.disconnected.wait, 60)
    assert log.events == [
        ("start", "model"), ("start", "mail"), ("error", "mail"), ("error", "model"),
    ]  # fmt: skip
