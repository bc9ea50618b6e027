"""A Runnable and a tool that submit a background run and wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import ToolMessage
from pydantic import BaseModel
from typing_extensions import TypedDict

from bailian_apps import (
    AppFailedError,
    AppResult,
    InvalidInputError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    Timeout,
)
from bailian_apps.emulator import Agent, Call, Emulator, Failure, Thought
from bailian_apps.langchain import BailianAppRunnable, BailianAppTool


def report(call: Call) -> str:
    turns = [str(each["content"]) for each in call.messages]
    return f"{' / '.join(turns) or call.prompt} {call.biz_params}"


def failing(call: Call) -> Failure:
    return Failure(status=500, code="InvokePluginFailed", message="the plugin is broken")


class Trip(BaseModel):
    city: str


APPS: dict[str, Any] = {
    "report": report,
    "failing": failing,
    "json": lambda call: '{"city": "Hangzhou"}',
    "thinker": Agent(thoughts=[Thought(reasoning="Let me see.")], text="Green tea"),
}


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    with Emulator(apps=APPS) as it:
        yield it


@pytest.fixture
def runnable(cloud: Emulator) -> Callable[..., BailianAppRunnable]:
    def make(app_id: str = "report", **fields: Any) -> Any:
        settings = {"api_key": "sk", "base_url": cloud.base_url, "background": True}
        return BailianAppRunnable(app_id=app_id, **settings | fields)

    return make


@pytest.fixture
def tool(cloud: Emulator) -> Callable[..., BailianAppTool]:
    def make(app_id: str = "report", **fields: Any) -> BailianAppTool:
        settings = {"api_key": "sk", "base_url": cloud.base_url, "background": True}
        names = {"name": "reporter", "description": "Writes reports."}
        return BailianAppTool(app_id=app_id, **settings, **names, **fields)

    return make


def posts(cloud: Emulator) -> list[Any]:
    return [request.body for request in cloud.requests if request.method == "POST"]


def test_a_runnable_submits_a_run_and_returns_its_result(cloud: Any, runnable: Any) -> None:
    result = runnable().invoke({"prompt": "Tea", "city": "Hangzhou"})
    assert isinstance(result, AppResult)
    assert result.text == "Tea {'city': 'Hangzhou'}"
    [body] = posts(cloud)
    assert body == {"input": "Tea", "background": True, "biz_params": {"city": "Hangzhou"}}


async def test_an_async_runnable_streams_growing_results(cloud: Any, runnable: Any) -> None:
    results = [each async for each in runnable("thinker").astream("Tea?")]
    assert results[-1].text == "Green tea"
    assert results[-1].reasoning == "Let me see."
    assert len(posts(cloud)) == 1


def test_a_conversation_is_sent_whole(cloud: Any, runnable: Any) -> None:
    first = runnable().invoke([("user", "a"), ("ai", "b"), ("user", "c")])
    assert first.text.startswith("a / b / c")
    assert first.whole_history


def test_an_answer_can_be_an_object(runnable: Any) -> None:
    assert runnable("json", output_schema=Trip).invoke("Where?") == Trip(city="Hangzhou")


async def test_custom_events_have_the_id_and_each_status(cloud: Any, runnable: Any) -> None:
    events = [
        event["data"]
        async for event in runnable().astream_events("Tea", version="v2")
        if event["name"] == "bailian_run"
    ]
    statuses = [event["status"] for event in events]
    assert statuses[0] == "queued"
    assert statuses[-1] == "completed"
    [run_id] = {event["run_id"] for event in events}
    assert run_id in cloud.requests[-1].path


def test_a_graph_streams_the_statuses_and_the_answer(runnable: Any) -> None:
    graphs = pytest.importorskip("langgraph.graph")

    class State(TypedDict, total=False):
        prompt: str
        answer: str

    app = runnable()
    builder = graphs.StateGraph(State)
    builder.add_node("write", lambda state: {"answer": app.invoke(state["prompt"]).text})
    builder.add_edge(graphs.START, "write")
    builder.add_edge("write", graphs.END)
    streamed = list(builder.compile().stream({"prompt": "Tea"}, stream_mode=["custom", "messages"]))
    custom = [part for mode, part in streamed if mode == "custom"]
    assert [part["status"] for part in custom if part["type"] == "bailian_run"][-1] == "completed"
    texts = [part[0].text for mode, part in streamed if mode == "messages"]
    assert "".join(texts) == "Tea {}"


@pytest.mark.parametrize("given", [{"session_id": "s"}, {"temperature": 0.1}])
def test_what_a_run_cannot_carry_is_refused(cloud: Any, runnable: Any, given: Any) -> None:
    with pytest.raises(InvalidInputError, match="cannot be sent with a background run"):
        runnable().invoke("Tea", **given)
    assert not cloud.requests


@pytest.mark.parametrize("fault", ["throttled", "http_500"])
def test_a_failure_of_waiting_does_not_make_a_retry_submit_again(
    cloud: Any, runnable: Any, fault: str
) -> None:
    """The middle of a wait: `with_retry` must not repeat the whole call."""
    app = runnable(timeout=Timeout(between_frames_s=0.001))
    cloud.fail(fault, nth=2, times=99)
    with pytest.raises((RateLimitError, ServerError)) as raised:
        app.with_retry(stop_after_attempt=3, wait_exponential_jitter=False).invoke("Tea")
    assert not raised.value.is_retryable
    assert raised.value.run_id
    assert len(posts(cloud)) == 1


def test_a_throttled_submission_is_repeated_by_a_retry(cloud: Any, runnable: Any) -> None:
    cloud.fail("throttled")
    app = runnable(max_retries=0)
    app.with_retry(stop_after_attempt=2, wait_exponential_jitter=False).invoke("Tea")
    assert len(posts(cloud)) == 2


def test_total_s_bounds_the_wait_and_the_run_goes_on(runnable: Any) -> None:
    with Emulator(apps=APPS, background_queue_s=60) as slow:
        app = runnable(base_url=slow.base_url, timeout=Timeout(total_s=0.5))
        with pytest.raises(RequestTimeoutError) as raised:
            app.invoke("Tea")
        assert raised.value.run_id in slow.requests[-1].path


def test_a_tool_waits_for_its_run(cloud: Any, tool: Any) -> None:
    call = {"type": "tool_call", "id": "1", "name": "reporter", "args": {"prompt": "Tea"}}
    message = tool().invoke(call)
    assert isinstance(message, ToolMessage)
    assert message.content == "Tea {}"
    assert message.artifact["session_id"] is None
    assert posts(cloud) == [{"input": "Tea", "background": True}]


async def test_a_run_that_fails_is_an_error_for_the_model(tool: Any) -> None:
    call = {"type": "tool_call", "id": "1", "name": "reporter", "args": {"prompt": "Tea"}}
    message = await tool("failing").ainvoke(call)
    assert message.status == "error"
    assert "the plugin is broken" in message.content


def test_a_run_that_fails_is_raised_by_a_runnable(runnable: Any) -> None:
    with pytest.raises(AppFailedError, match="the plugin is broken"):
        runnable("failing").invoke("Tea")
