"""Callable apps: their argument, their answers and their failures."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from bailian_apps.emulator import Call, Emulator, Failure

DELTAS = {"incremental_output": True}
THROTTLED = Failure(status=429, code="Throttling", message="慢一点", headers={"Retry-After": "1"})


def payload(text: str, finish_reason: str = "null") -> dict[str, Any]:
    return {"output": {"text": text, "finish_reason": finish_reason}, "usage": {"models": []}}


def test_a_text_streams_as_the_deltas_of_an_agent(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": lambda call: "很高兴认识你！"}) as cloud:
        deltas = post(cloud, stream=True, parameters=DELTAS)
        grown = post(cloud, stream=True)
        whole = post(cloud)
    assert [output["text"] for output in deltas.outputs] == ["很高兴认", "识你！", ""]
    assert [output["text"] for output in grown.outputs] == ["很高兴认"] + ["很高兴认识你！"] * 2
    assert [output["finish_reason"] for output in deltas.outputs] == ["null", "null", "stop"]
    assert whole.output["text"] == "很高兴认识你！"
    assert whole.output["finish_reason"] == "stop"
    assert len({frame["request_id"] for frame in deltas.frames}) == 1


@pytest.mark.parametrize("bare", [True, False])
def test_a_payload_is_a_whole_answer(post: Callable[..., Any], bare: bool) -> None:
    output = {"text": "好", "finish_reason": "stop", "doc_references": [{"index_id": "1"}]}
    with Emulator(apps={"app": lambda call: output if bare else {"output": output}}) as cloud:
        answer = post(cloud)
    assert answer.body.keys() == {"output", "request_id"}
    session_id = answer.output.pop("session_id")
    assert {**answer.output, "session_id": session_id} == {**output, "session_id": session_id}


def test_a_list_of_payloads_streams_as_frames(post: Callable[..., Any]) -> None:
    frames = [payload("甲"), {"output": None}, payload("乙"), payload("", "stop")]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        answer = post(cloud, stream=True, parameters=DELTAS)
        whole = post(cloud)
    texts = [frame["output"] and frame["output"]["text"] for frame in answer.frames]
    assert texts == ["甲", None, "乙", ""]
    assert answer.frames[0]["usage"] == {"models": []}
    assert whole.output["text"] == "甲乙"


def test_an_app_sees_the_request(post: Callable[..., Any]) -> None:
    seen: list[Call] = []

    def app(call: Call) -> str:
        seen.append(call)
        return "好"

    with Emulator(apps={"app": app}) as cloud:
        answer = post(cloud, prompt="去哪", biz_params={"city": "杭州"})
        (request,) = cloud.requests
    (call,) = seen
    assert (call.prompt, call.biz_params, call.messages) == ("去哪", {"city": "杭州"}, [])
    assert call.request is request
    assert call.session_id == answer.output["session_id"]
    assert call.request_id == answer.body["request_id"]


async def text(call: Call) -> str:
    await asyncio.sleep(0)
    return "甲乙"


def generator(call: Call) -> Iterator[dict[str, Any]]:
    yield payload("甲")
    yield payload("乙")
    yield payload("", "stop")


async def async_generator(call: Call) -> AsyncIterator[dict[str, Any]]:
    for item in generator(call):
        await asyncio.sleep(0)
        yield item


async def returns_generator(call: Call) -> Iterator[dict[str, Any]]:
    return generator(call)


class Stateful:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, call: Call) -> str:
        self.calls += 1
        return "甲乙"


@pytest.mark.parametrize(
    "app",
    [text, generator, async_generator, returns_generator, Stateful()],
    ids=["text", "generator", "async generator", "returns a generator", "object"],
)
@pytest.mark.parametrize("stream", [True, False])
def test_every_kind_of_function_is_an_app(post: Callable[..., Any], app: Any, stream: bool) -> None:
    with Emulator(apps={"app": app}) as cloud:
        answer = post(cloud, stream=stream, parameters=DELTAS)
    outputs = answer.outputs if stream else [answer.output]
    assert "".join(output["text"] for output in outputs) == "甲乙"
    assert outputs[-1]["finish_reason"] == "stop"


def test_a_generator_keeps_its_stream_open(open_stream: Callable[..., Any]) -> None:
    released = threading.Event()

    def app(call: Call) -> Iterator[dict[str, Any]]:
        yield payload("甲")
        assert released.wait(60)
        yield payload("", "stop")

    with Emulator(apps={"app": app}) as cloud, open_stream(cloud) as response:
        head = b"".join(response.readline() for _ in range(5))
        assert "甲".encode() in head
        assert not cloud.requests[0].disconnected.is_set()
        released.set()
        assert b'"finish_reason":"stop"' in response.read()
        assert not cloud.requests[0].disconnected.is_set()


def test_an_app_that_blocks_does_not_delay_another(post: Callable[..., Any]) -> None:
    entered = threading.Event()

    def blocks(call: Call) -> str:
        entered.set()
        call.disconnected.wait(120)  # longer than a client waits
        return "晚了"

    with Emulator(apps={"blocks": blocks, "app": lambda call: "好"}) as cloud:
        caller = threading.Thread(target=_ignore_errors, args=(post, cloud, "blocks"))
        caller.start()
        assert entered.wait(60)
        assert post(cloud).output["text"] == "好"
    caller.join()


def test_concurrent_streams_take_turns(post: Callable[..., Any]) -> None:
    arrived: list[Call] = []
    both = asyncio.Event()
    order: list[str] = []

    async def app(call: Call) -> AsyncIterator[dict[str, Any]]:
        arrived.append(call)
        if len(arrived) == 2:
            both.set()
        await both.wait()
        for _ in range(10):
            order.append(call.session_id)
            yield payload("甲")

    with Emulator(apps={"app": app}) as cloud:
        callers = [
            threading.Thread(target=post, args=(cloud,), kwargs={"stream": True}) for _ in range(2)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    one, other = (call.session_id for call in arrived)
    assert sorted(order) == sorted([one, other] * 10)
    assert order[:10] not in ([one] * 10, [other] * 10)


def _ignore_errors(post: Callable[..., Any], cloud: Emulator, app_id: str) -> None:
    try:
        post(cloud, app_id)
    except OSError:
        return
    raise AssertionError("the emulator answered after its end")


def returned(call: Call) -> Failure:
    return THROTTLED


def raised(call: Call) -> str:
    raise THROTTLED


def raised_by_generator(call: Call) -> Iterator[dict[str, Any]]:
    raise THROTTLED
    yield payload("never")


async def raised_by_async(call: Call) -> str:
    raise THROTTLED


@pytest.mark.parametrize("app", [returned, raised, raised_by_generator, raised_by_async])
@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_before_the_stream_is_an_http_error(
    post: Callable[..., Any], app: Any, stream: bool
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        answer = post(cloud, stream=stream)
    assert answer.status == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.body.keys() == {"code", "message", "request_id"}
    assert (answer.body["code"], answer.body["message"]) == ("Throttling", "慢一点")


def yields_failure(call: Call) -> Iterator[Any]:
    yield payload("甲")
    yield Failure(status=500, code="InternalError.Algo", message="断")


def raises_failure(call: Call) -> Iterator[Any]:
    yield payload("甲")
    raise Failure(status=500, code="InternalError.Algo", message="断")


async def raises_failure_async(call: Call) -> AsyncIterator[Any]:
    yield payload("甲")
    raise Failure(status=500, code="InternalError.Algo", message="断")


@pytest.mark.parametrize("app", [yields_failure, raises_failure, raises_failure_async])
def test_a_failure_in_the_stream_is_an_event(post: Callable[..., Any], app: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        answer = post(cloud, stream=True)
        whole = post(cloud)
    assert answer.status == 200
    assert answer.events == ["result", "error"]
    assert b"id:2\nevent:error\n:HTTP_STATUS/500\ndata:" in answer.content
    assert (answer.frames[1]["code"], answer.frames[1]["message"]) == ("InternalError.Algo", "断")
    assert answer.frames[1]["request_id"] == answer.frames[0]["request_id"]
    assert (whole.status, whole.body["code"]) == (500, "InternalError.Algo")


def test_a_failure_yielded_first_is_an_event_too(post: Callable[..., Any]) -> None:
    def app(call: Call) -> Iterator[Any]:
        yield Failure(status=400, code="DataInspectionFailed")

    with Emulator(apps={"app": app}) as cloud:
        answer = post(cloud, stream=True)
    assert (answer.status, answer.events) == (200, ["error"])
    assert b":HTTP_STATUS/400\n" in answer.content


def raises(call: Call) -> str:
    raise ZeroDivisionError("one over nought")


@pytest.mark.parametrize("stream", [True, False])
def test_an_exception_is_an_internal_error(post: Callable[..., Any], stream: bool) -> None:
    with Emulator(apps={"app": raises}) as cloud:
        answer = post(cloud, stream=stream)
    assert answer.status == 500
    assert answer.body["code"] == "InternalError"
    assert "ZeroDivisionError('one over nought')" in answer.body["message"]


def test_an_exception_in_the_stream_is_an_event(post: Callable[..., Any]) -> None:
    def app(call: Call) -> Iterator[Any]:
        yield payload("甲")
        raise ZeroDivisionError

    with Emulator(apps={"app": app}) as cloud:
        answer = post(cloud, stream=True)
    assert answer.events == ["result", "error"]
    assert answer.frames[1]["code"] == "InternalError"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (None, "an app returned None; it must return a text"),
        (7, "an app returned 7; it must return a text"),
        (["甲"], "an app returned '甲'; it must return a payload"),
        ([], "yielded no frame"),
    ],
)
def test_an_answer_of_a_wrong_type_is_reported(
    post: Callable[..., Any], answer: Any, problem: str
) -> None:
    with Emulator(apps={"app": lambda call: answer}) as cloud:
        received = post(cloud)
    assert received.status == 500
    assert problem in received.body["message"]


def test_a_generator_without_a_frame_is_an_empty_stream(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": lambda call: iter(())}) as cloud:
        answer = post(cloud, stream=True)
    assert (answer.status, answer.content) == (200, b"")


def test_a_source_that_is_not_an_app_is_refused() -> None:
    with pytest.raises(TypeError, match="7 is not an app; pass the path of a recording"):
        Emulator(apps={"app": 7})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"status": 99}, "status=99 must be an HTTP status from 200 to 599"),
        ({"status": 600}, "status=600 must be an HTTP status from 200 to 599"),
        (
            {"headers": {"Retry-After": 1}},
            "headers['Retry-After'] must be a single-line string, not 1",
        ),
        ({"headers": {"X": "1\r\nY: 2"}}, "must be a single-line string"),
    ],
)
def test_a_failure_must_be_valid_http(
    post: Callable[..., Any], arguments: dict[str, Any], message: str
) -> None:
    def app(call: Call) -> Failure:
        return Failure(**{"status": 429, "code": "Throttling", **arguments})

    with Emulator(apps={"app": app}) as cloud:
        answer = post(cloud)
    assert (answer.status, answer.body["code"]) == (500, "InternalError")
    assert message in answer.body["message"]


def test_an_answer_that_is_not_json_is_an_internal_error(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": lambda call: {"text": float("nan")}}) as cloud:
        answer = post(cloud)
    assert (answer.status, answer.body["code"]) == (500, "InternalError")
