"""The example service: its workers die, its clients leave, and conversations go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import psycopg
import pytest
from support import service as services
from support.service import Service, new_thread, say, saying, text_in

from bailian_apps.emulator import Call, Emulator, Failure

pytestmark = pytest.mark.process

STEP = {"action_type": "api", "action_name": "mail", "action_input_stream": "{}", "arguments": "{}"}


class App:
    """Answers with what it knows; to "wait" and "long", not to the end until it may."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.goes_on = threading.Event()

    def __call__(self, call: Call) -> Iterator[Any]:
        self.calls.append(call)
        yield {"output": {"text": "I know: ", "finish_reason": "null", "thoughts": [STEP]}}
        if call.prompt.endswith("fail"):
            yield Failure(status=500, code="InternalError", message="it broke")
        while call.prompt.endswith("wait") and not self.goes_on.wait(0.01):
            if call.disconnected.is_set():
                return
        known = " ".join([*(turn.user for turn in call.turns), call.prompt])
        yield {"output": {"text": known, "finish_reason": "stop"}}

    def prompts(self) -> list[str]:
        return [call.prompt for call in self.calls]


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[App, Emulator]]:
    app = App()
    with Emulator(apps={"app": app}, strict=True) as cloud:
        yield app, cloud


@pytest.fixture
def app(shared: tuple[App, Emulator]) -> App:
    app, cloud = shared
    app.__init__()
    cloud.reset()
    return app


@pytest.fixture
def cloud(app: App, shared: tuple[App, Emulator]) -> Emulator:
    return shared[1]


Start = Callable[..., Service]


@pytest.fixture(scope="module")
def start(shared: tuple[App, Emulator]) -> Iterator[Start]:
    """Starts a service that ends with the tests."""
    with ExitStack() as stack:
        base_url = shared[1].base_url
        yield lambda *args, **kwargs: stack.enter_context(
            services.running(base_url, *args, **kwargs)
        )


@pytest.fixture(scope="module")
def small(start: Start) -> Service:
    """A service for one answer at a time, which keeps conversations in memory."""
    return start(SERVICE_MAX_STREAMS="1", SERVICE_HEARTBEAT_S="0.05")


@pytest.fixture(scope="module")
def started(start: Start, postgres: str) -> list[Service]:
    return [start(DATABASE_URL=postgres) for _ in range(2)]


@pytest.fixture
def new_database(postgres: str) -> str:
    """One that has no tables."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE service")
    return postgres.removesuffix("/postgres") + "/service"


@pytest.fixture
def two(started: list[Service], start: Start, postgres: str) -> list[Service]:
    """Two services with one database; one that a test has killed is replaced."""
    dead = [each for each in started if each.process.poll() is not None]
    for each in dead:
        started[started.index(each)] = start(DATABASE_URL=postgres)
    return list(started)


def first_text(events: Iterator[Any]) -> None:
    next(data for name, data in events if name == "text")


def state_at_rest(url: str, thread: str) -> Any:
    """What a worker reports of a thread, once nobody holds it any more."""
    while (state := httpx.get(f"{url}{thread}").json())["answering"]:
        pass
    return state


def test_a_second_turn_of_a_thread_is_refused_by_every_worker(app: App, two: list[Service]) -> None:
    thread = new_thread(two[0].url)
    with saying(two[0].url, thread, "wait") as (_, events):
        first_text(events)
        for worker in two:
            assert httpx.get(f"{worker.url}{thread}").json()["answering"]
            refused = httpx.post(f"{worker.url}{thread}/messages", json={"text": "Again"})
            assert (refused.status_code, len(app.calls)) == (409, 1)
        app.goes_on.set()
        assert list(events)[-1] == ("done", {})
    assert say(two[1].url, thread, "Again")[-1] == ("done", {})


def test_a_worker_killed_between_turns_loses_no_session(
    app: App, cloud: Emulator, two: list[Service]
) -> None:
    thread = new_thread(two[0].url)
    events = say(two[0].url, thread, "My name is Ada.")
    assert {name for name, _ in events} == {"step", "text", "done"}
    assert {data["name"] for name, data in events if name == "step"} == {"mail"}
    two[0].process.kill()
    two[0].process.wait()
    answer = say(two[1].url, thread, "Who am I?")
    assert text_in(answer) == "I know: My name is Ada. Who am I?"
    [session] = cloud.sessions
    sent = [(request.session_id, request.prompt) for request in cloud.requests]
    assert sent == [(None, "My name is Ada."), (session, "Who am I?")]


@pytest.mark.parametrize("ports", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_worker_killed_within_an_answer_is_reported_and_not_asked_again(
    ports: int, app: App, cloud: Emulator, start: Start, request: pytest.FixtureRequest
) -> None:
    if ports == 1:  # the killed one is replaced, and either may answer
        url = request.getfixturevalue("new_database")  # both create its tables at once
        first = second = start(workers=2, DATABASE_URL=url)
    else:
        first, second = request.getfixturevalue("two")
    thread = new_thread(first.url)
    say(first.url, thread, "My name is Ada.")
    with saying(first.url, thread, "Please wait") as (response, events):
        first_text(events)
        os.kill(first.worker_of(response), signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            list(events)
    state = state_at_rest(second.url, thread)
    assert state["unanswered"]
    assert state["messages"][-1] == {"role": "human", "text": "Please wait"}
    assert app.prompts() == ["My name is Ada.", "Please wait"]

    events = say(second.url, thread, "Who am I?")
    assert events[0] == ("unanswered", {"text": "Please wait", "request_state": "unknown"})
    # What the cloud's session has of that turn is unknown, so the history is sent whole.
    assert cloud.requests[2].session_id is None
    for known in ("My name is Ada.", "Please wait", "(This answer was interrupted.)", "Who am I?"):
        assert known in app.calls[2].prompt
    say(second.url, thread, "And now?")  # in the session that this has opened
    assert app.prompts()[3:] == ["And now?"]
    assert [turn.user for turn in app.calls[3].turns] == [app.calls[2].prompt]


def test_a_client_that_leaves_closes_the_clouds_connection(app: App, small: Service) -> None:
    thread = new_thread(small.url)
    for _ in range(3):  # the slot and the thread are free again
        with saying(small.url, thread, "wait") as (response, events):
            assert response.headers["x-accel-buffering"] == "no"
            first_text(events)
        assert app.calls[-1].disconnected.wait(30)
        assert state_at_rest(small.url, thread)["unanswered"]
    assert len(app.calls) == 3


def test_a_full_worker_answers_503_and_a_silent_app_has_heartbeats(
    app: App, small: Service
) -> None:
    thread, other = (f"{new_thread(small.url)}" for _ in range(2))
    path = f"{small.url}{thread}/messages"
    with httpx.stream("POST", path, json={"text": "wait"}, timeout=60) as response:
        lines = response.iter_lines()
        assert ": still there" in lines
        full = httpx.post(f"{small.url}{other}/messages", json={"text": "hi"})
        assert (full.status_code, full.headers["retry-after"]) == (503, "2")
        for probe in ("healthz", "readyz"):
            assert httpx.get(f"{small.url}/{probe}").status_code == 200
        app.goes_on.set()
        assert "event: done" in lines
    assert say(small.url, other, "hi")[-1] == ("done", {})
    assert "DATABASE_URL is not set" in "".join(small.log)


def test_a_request_that_was_refused_is_taken_back_and_another_is_not(
    app: App, cloud: Emulator, small: Service
) -> None:
    thread = new_thread(small.url)
    say(small.url, thread, "My name is Ada.")
    cloud.fail("http_401")
    name, data = say(small.url, thread, "Who am I?")[-1]
    assert (name, data["request_state"], data["taken_back"]) == ("error", "answered", True)
    assert not httpx.get(f"{small.url}{thread}").json()["unanswered"]
    assert text_in(say(small.url, thread, "Who?")) == "I know: My name is Ada. Who?"
    assert cloud.requests[-1].session_id is not None
    name, data = say(small.url, thread, "fail")[-1]
    assert (name, data["request_state"], data["taken_back"]) == ("error", "unknown", False)
    assert httpx.get(f"{small.url}{thread}").json()["unanswered"]


@pytest.mark.parametrize("in_time", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_sigterm_lets_answers_end_within_the_limit(in_time: bool, app: App, start: Start) -> None:
    service = start("--timeout-graceful-shutdown", "60" if in_time else "1")
    with saying(service.url, new_thread(service.url), "wait") as (_, events):
        first_text(events)
        service.process.terminate()
        service.wait_for("Shutting down")
        with pytest.raises(httpx.ConnectError):
            httpx.post(f"{service.url}/api/threads")
        if in_time:
            app.goes_on.set()
            assert list(events)[-1] == ("done", {})
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                list(events)
            assert app.calls[0].disconnected.wait(30)
    assert service.process.wait(60) in (0, -signal.SIGTERM)


def test_an_invalid_message_reaches_nobody(app: App, small: Service) -> None:
    thread = new_thread(small.url)
    path = f"{small.url}{thread}/messages"
    for text in ("", "  ", "x" * 8001):
        assert httpx.post(path, json={"text": text}).status_code == 422
    assert httpx.post(f"{small.url}/api/threads/no-id/messages").status_code == 422
    # What a page of another site can send without asking.
    headers = {"Content-Type": "text/plain"}
    foreign = httpx.post(path, content='{"text": "hi"}', headers=headers)
    assert (foreign.status_code, app.calls) == (422, [])
