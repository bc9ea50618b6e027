"""The Responses API of the emulator, as OpenAI's official clients read it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast
from urllib.request import Request, urlopen

import openai
import pytest

from bailian_apps.emulator import RECORDINGS, Agent, Call, Emulator, Failure, Thought
from bailian_apps.emulator.responses_api.runs import Run, RunStore

PATH = "/apps/agent/{}/compatible-mode/v1"
WAIT_S = 60


def echo(call: Call) -> str:
    return f"{call.prompt}!"


def history(call: Call) -> str:
    return " | ".join(f"{each['role']}: {each['content']}" for each in call.messages)


def failing(call: Call) -> Iterator[Any]:
    yield {"output": {"text": "a beginning", "finish_reason": "null"}}
    yield Failure(status=500, code="InvokePluginFailed", message="the plugin is broken")


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    apps: dict[str, Any] = {
        "echo": echo,
        "history": history,
        "failing": failing,
        "broken": lambda call: 1 / 0,
        "thinker": Agent(thoughts=[Thought(reasoning="Let me see.")], text="Green tea"),
        "recorded": RECORDINGS / "travel-workflow.jsonl",
    }
    with Emulator(apps=apps, api_key="sk") as it:
        yield it


def address(cloud: Emulator, app_id: str) -> str:
    return cloud.base_url.removesuffix("/v1") + "/v2" + PATH.format(app_id)


def client(cloud: Emulator, app_id: str = "echo", **more: Any) -> openai.OpenAI:
    settings = {"api_key": "sk", "base_url": address(cloud, app_id), "max_retries": 0} | more
    return openai.OpenAI(**settings)


def aclient(cloud: Emulator, app_id: str = "echo") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="sk", base_url=address(cloud, app_id), max_retries=0)


def test_an_official_client_reads_an_answer(cloud: Emulator) -> None:
    with client(cloud) as api:
        response = api.responses.create(input="Hello", extra_body={"biz_params": {"a": 1}})
    assert (response.status, response.output_text, response.usage) == ("completed", "Hello!", None)
    [request] = cloud.requests
    assert (request.method, request.body["biz_params"]) == ("POST", {"a": 1})


async def test_an_official_async_client_reads_an_answer(cloud: Emulator) -> None:
    async with aclient(cloud, "recorded") as api:
        response = await api.responses.create(input="Hello")
        assert response.output_text
        async with api.responses.stream(input="Hello", model="any") as stream:
            deltas = [e.delta async for e in stream if e.type == "response.output_text.delta"]
            whole = await stream.get_final_response()
        assert "".join(deltas) == whole.output_text == response.output_text


def test_the_events_of_a_stream_come_in_the_order_of_the_page(cloud: Emulator) -> None:
    with client(cloud, "thinker") as api, api.responses.create(input="Tea?", stream=True) as events:
        seen = list(events)
    kinds = [event.type for event in seen]
    distinct = [kind for at, kind in enumerate(kinds) if kinds[at - 1 : at] != [kind]]
    one_item = ["output_item.added", "content_part.added", "{}.delta", "{}.done"]
    one_item += ["content_part.done", "output_item.done"]
    expected = ["created", "in_progress"]
    expected += [each.format("reasoning_text") for each in one_item]
    expected += [each.format("output_text") for each in one_item]
    assert distinct == [f"response.{each}" for each in [*expected, "completed"]]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    done: Any = seen[-1]
    assert [item.type for item in done.response.output] == ["reasoning", "message"]
    assert done.response.output[0].content[0].text == "Let me see."
    assert done.response.output_text == "Green tea"


def test_an_event_has_the_lines_of_the_page(cloud: Emulator) -> None:
    body = json.dumps({"input": "Hello", "stream": True}).encode()
    headers = {"Authorization": "Bearer sk", "Content-Type": "application/json"}
    asked = Request(f"{address(cloud, 'echo')}/responses", body, headers)
    with urlopen(asked) as answer:
        first = answer.read().decode().split("\n\n")[0].split("\n")
    assert first[:3] == ["id:1", "event:response.created", ":HTTP_STATUS/200"]
    assert json.loads(first[3].removeprefix("data:"))["response"]["status"] == "in_progress"


def test_a_background_response_can_be_retrieved_cancelled_and_deleted(cloud: Emulator) -> None:
    release = threading.Event()

    def slow(call: Call) -> str:
        while not call.disconnected.is_set() and not release.wait(0.01):
            pass
        return "done"

    cloud.add_app("slow", slow)
    with client(cloud, "slow") as api:
        first = api.responses.create(input="a", background=True)
        other = api.responses.create(input="b", background=True)
        assert first.status == "queued"
        assert api.responses.retrieve(first.id).status == "running"
        with pytest.raises(openai.BadRequestError, match="has ended"):
            api.responses.delete(first.id)
        assert api.responses.cancel(other.id).status == "cancelled"
        assert api.responses.retrieve(other.id).status == "cancelled"
        release.set()
        while (ended := api.responses.retrieve(first.id)).status == "running":
            pass
        assert (ended.status, ended.output_text) == ("completed", "done")
        late = api.responses.cancel(first.id)
        assert late.status == "failed"
        assert api.responses.retrieve(first.id).status == "completed"
        api.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            api.responses.retrieve(first.id)


async def test_an_official_async_client_does_the_same(cloud: Emulator) -> None:
    async with aclient(cloud) as api:
        run = await api.responses.create(input="Hello", background=True)
        while (run := await api.responses.retrieve(run.id)).status in ("queued", "running"):
            pass
        assert run.output_text == "Hello!"
        assert (await api.responses.cancel(run.id)).status == "failed"
        await api.responses.delete(run.id)
        with pytest.raises(openai.NotFoundError):
            await api.responses.retrieve(run.id)


def test_the_states_follow_the_clock_of_the_emulator() -> None:
    started: list[str] = []

    def app(call: Call) -> str:
        started.append(call.prompt)
        return "done"

    apps: dict[str, Any] = {"app": app}
    made = Emulator(apps=apps, background_queue_s=100, background_run_s=100)
    with made as cloud, client(cloud, "app") as api:
        run = api.responses.create(input="Hello", background=True)
        assert api.responses.retrieve(run.id).status == "queued"
        assert not started
        cloud.advance(100)
        assert api.responses.retrieve(run.id).status == "running"
        cloud.advance(100)
        while (ended := api.responses.retrieve(run.id)).status == "running":
            pass
        assert (ended.status, ended.output_text, started) == ("completed", "done", ["Hello"])
        cloud.reset()
        with pytest.raises(openai.NotFoundError):
            api.responses.retrieve(run.id)


@pytest.mark.parametrize(
    ("app_id", "code"), [("failing", "InvokePluginFailed"), ("broken", "InternalError")]
)
def test_an_app_that_fails_is_a_failed_response(cloud: Emulator, app_id: str, code: str) -> None:
    with client(cloud, app_id) as api:
        run = api.responses.create(input="Hello", background=True)
        while (run := api.responses.retrieve(run.id)).status in ("queued", "running"):
            pass
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.code == code
        with pytest.raises(openai.InternalServerError) as raised:
            api.responses.create(input="Hello")
    assert raised.value.code == code


def test_a_failure_in_a_stream_is_its_last_event(cloud: Emulator) -> None:
    with client(cloud, "failing") as api, api.responses.create(input="a", stream=True) as events:
        *_, last = list(events)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "InvokePluginFailed"


def test_an_app_reads_the_history_that_is_the_input(cloud: Emulator) -> None:
    part: Any = {"type": "input_text", "text": "What is my name?"}
    messages: Any = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "My name is Ada"},
        {"role": "assistant", "content": "Hello Ada"},
        {"role": "user", "content": [part]},
    ]
    with client(cloud, "history") as api:
        answer = api.responses.create(input=messages).output_text
    assert answer == (
        "system: Be brief | user: My name is Ada | assistant: Hello Ada | user: What is my name?"
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "input"),
        ({"input": ""}, "last message is empty"),
        ({"input": []}, "role user"),
        ({"input": [{"role": "assistant", "content": "a"}]}, "role user"),
        ({"input": [{"role": "user", "content": [{"type": "audio"}]}]}, r"input\..*content"),
        ({"input": "a", "background": "yes"}, "background"),
        ({"input": "a", "background": True, "stream": True}, "cannot be streamed"),
        ({"input": "a", "biz_params": []}, "biz_params"),
        ({"input": "a", "session_id": "s"}, r"Unknown parameter\(session_id\)"),
        ({"input": "a", "backgroud": True}, "did you mean background"),
    ],
)
def test_a_body_that_is_not_valid_is_refused(
    cloud: Emulator, body: dict[str, Any], problem: str
) -> None:
    with client(cloud) as api, pytest.raises(openai.BadRequestError, match=problem) as raised:
        api.post("/responses", body=body, cast_to=object)
    assert raised.value.code == "InvalidParameter"


def test_a_wrong_key_and_an_unknown_app_are_refused(cloud: Emulator) -> None:
    with client(cloud, api_key="other") as api, pytest.raises(openai.AuthenticationError):
        api.responses.create(input="a")
    with client(cloud, "nothing") as api, pytest.raises(openai.BadRequestError, match="AppId"):
        api.responses.create(input="a")


def test_a_run_belongs_to_its_app(cloud: Emulator) -> None:
    with client(cloud) as api, client(cloud, "history") as other:
        run = api.responses.create(input="a", background=True)
        with pytest.raises(openai.NotFoundError):
            other.responses.retrieve(run.id)


@pytest.mark.parametrize("fault", ["http_500", "throttled", "close_before_headers"])
def test_a_fault_hits_any_request_of_the_api(cloud: Emulator, fault: str) -> None:
    with client(cloud) as api:
        run = api.responses.create(input="a", background=True)
        cloud.fail(fault)
        with pytest.raises(openai.APIError):
            api.responses.retrieve(run.id)
        assert cloud.requests[-1].fault == fault
        assert api.responses.retrieve(run.id).id == run.id


def test_a_stream_can_be_cut_by_a_fault(cloud: Emulator) -> None:
    with client(cloud, "thinker") as api:
        cloud.fail("close_between_frames", after_frames=3)
        seen = []
        # httpx's own error, or since version 3 of the client one of its own.
        with pytest.raises(Exception, match=r"peer closed|Connection error"):
            seen.extend(event.type for event in api.responses.create(input="a", stream=True))
        assert "response.completed" not in seen


def test_runs_that_have_ended_are_forgotten_beyond_a_number(
    cloud: Emulator, monkeypatch: Any
) -> None:
    monkeypatch.setattr("bailian_apps.emulator.responses_api.runs.KEPT_RUNS", 2)
    with client(cloud) as api:
        runs = []
        for _ in range(4):
            run = api.responses.create(input="a", background=True)
            while api.responses.retrieve(run.id).status != "completed":
                pass
            runs.append(run.id)
        for gone in runs[:2]:
            with pytest.raises(openai.NotFoundError):
                api.responses.retrieve(gone)
        assert api.responses.retrieve(runs[3]).status == "completed"


def test_the_admin_clock_moves_runs_too_and_requests_show_their_method() -> None:
    apps: dict[str, Any] = {"echo": echo}
    with Emulator(apps=apps, background_queue_s=100) as cloud, client(cloud) as api:
        run = api.responses.create(input="a", background=True)
        admin = cloud.base_url.removesuffix("/api/v1") + "/__emulator__"
        body = json.dumps({"advance_s": 100}).encode()
        urlopen(Request(f"{admin}/clock", body)).close()
        while api.responses.retrieve(run.id).status != "completed":
            pass
        with urlopen(f"{admin}/requests") as answer:
            requests = json.loads(answer.read())["requests"]
        assert [request["method"] for request in requests][:2] == ["POST", "GET"]
        assert requests[1]["path"].endswith(run.id)


@pytest.mark.parametrize("name", ["background_queue_s", "background_run_s"])
def test_times_of_runs_must_not_be_negative(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Emulator(apps={}, **{name: -1})


@pytest.mark.parametrize("turns", range(6))
async def test_a_run_that_is_cancelled_as_the_clock_moves_is_not_answered(turns: int) -> None:
    answered: list[Run] = []

    async def answer(run: Run) -> None:
        answered.append(run)

    store = RunStore(queue_s=600, run_s=0)
    request = SimpleNamespace(app_id="echo", body_bytes=0, disconnected=threading.Event())
    run = store.submit(cast("Any", request), answer)
    await asyncio.sleep(0.01)
    store.advance(1)  # it stays in the queue
    for _ in range(turns):
        await asyncio.sleep(0)
    assert store.cancel(run)
    store.advance(1000)
    assert run.task is not None
    await asyncio.wait([run.task], timeout=60)
    assert run.task.cancelled()
    assert not answered
