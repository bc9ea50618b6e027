"""Apps that take only a prompt: a refused history is sent once more, as a prompt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from support.clock import moving_clock
from support.paths import PATHS

from bailian_apps import (
    BadRequestError,
    BailianApp,
    Client,
    HistoryTemplate,
    RateLimitError,
    RequestTimeoutError,
    RunStarted,
)
from bailian_apps.core.api_errors import api_error
from bailian_apps.core.history import plan_request
from bailian_apps.core.retry import asks_for_prompt, did_not_start
from bailian_apps.core.turns import Turn
from bailian_apps.emulator import Call, Emulator, Failure, Node, PromptOnly, Workflow
from bailian_apps.run import Run

HISTORY = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "I am Mei."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Who am I?"},
]
PROMPT = HistoryTemplate().fold([(each["role"], each["content"]) for each in HISTORY])
MISSING = "Required parameter(Prompt) missing or invalid, please check the request parameters."


def echo(call: Call) -> str:
    return call.prompt


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    with Emulator(apps={"app": PromptOnly(echo), "other": PromptOnly(echo)}) as cloud:
        yield cloud


def app_of(cloud: Emulator, **settings: Any) -> BailianApp:
    settings = {"app_id": "app", "client": Client(), **settings}
    return BailianApp(api_key="k", base_url=cloud.base_url, **settings)


def call(app: BailianApp, path: str, **options: Any) -> Any:
    return PATHS[path](app, None, messages=HISTORY, **options)


def sent(cloud: Emulator) -> list[list[str]]:
    return [sorted(request.input) for request in cloud.requests]


@pytest.mark.parametrize("path", PATHS)
def test_a_refused_history_is_sent_once_more_as_a_prompt(path: str, cloud: Emulator) -> None:
    outcome = call(app_of(cloud, max_retries=0), path, image_list=["http://x/1"])
    assert outcome.error is None
    assert outcome.text == outcome.result.text == PROMPT
    assert (outcome.result.attempts, outcome.result.history_format) == (2, "prompt")
    assert outcome.result.whole_history
    assert all(each.whole_history for each in outcome.events if isinstance(each, RunStarted))
    assert sent(cloud) == [["image_list", "messages"], ["image_list", "prompt"]]


def test_the_client_remembers_the_app_at_its_address(cloud: Emulator) -> None:
    client = Client()
    app = app_of(cloud, client=client)
    assert app.invoke(messages=HISTORY).attempts == 2
    assert app.invoke(messages=HISTORY).attempts == 1
    assert app.invoke(messages=HISTORY, app_id="other").attempts == 2
    assert app_of(cloud, client=Client()).invoke(messages=HISTORY).attempts == 2
    with Emulator(apps={"app": echo}) as elsewhere:
        result = app_of(elsewhere, client=client).invoke(messages=HISTORY)
    assert (result.attempts, result.history_format) == (1, "messages")


@pytest.mark.parametrize("path", PATHS)
def test_the_prompt_format_sends_no_messages(path: str, cloud: Emulator) -> None:
    template = {"user": "U: {text}", "conversation": "{text}!"}
    app = app_of(cloud, history_format="prompt", history_template=template)
    outcome = call(app, path)
    assert outcome.text == "系统：Be kind.\n\nU: I am Mei.\n\n助手：Hello.\n\nU: Who am I?!"
    assert (outcome.result.attempts, sent(cloud)) == (1, [["prompt"]])
    assert app.invoke("Hello").history_format is None


@pytest.mark.parametrize("path", PATHS)
def test_an_error_event_that_asks_for_a_prompt_is_answered_with_one(path: str) -> None:
    """A stream is refused with an event, as tests/recordings/error-app-id-invalid-elided.sse."""

    def app(call: Call) -> Any:
        if "prompt" not in call.request.input:
            yield Failure(status=400, code="InvalidParameter", message=MISSING)
        yield {"output": {"text": "ok", "finish_reason": "stop"}}

    with Emulator(apps={"app": app}) as cloud:
        outcome = call(app_of(cloud, max_retries=0), path)
        assert (outcome.text, outcome.result.attempts) == ("ok", 2)
        assert sent(cloud) == [["messages"], ["prompt"]]


@pytest.mark.parametrize("path", PATHS)
def test_an_app_that_refuses_the_prompt_too_is_not_asked_again(path: str) -> None:
    refusal = Failure(status=400, code="InvalidParameter", message=MISSING)
    with Emulator(apps={"app": lambda call: refusal}) as cloud:
        outcome = call(app_of(cloud), path)
        assert isinstance(outcome.error, BadRequestError)
        assert outcome.error.attempts == 2
        assert sent(cloud) == [["messages"], ["prompt"]]
        client = Client()
        for _ in range(2):
            asked = len(cloud.requests)
            call(app_of(cloud, client=client), path)
            assert sent(cloud)[asked:] == [["messages"], ["prompt"]], "it was not remembered"
        prompt = PATHS[path](app_of(cloud), "Hello")
        assert prompt.error is not None
        assert prompt.error.attempts == 1


@pytest.mark.parametrize("path", PATHS)
def test_the_prompt_is_retried_as_often_as_any_request(path: str) -> None:
    busy = Failure(status=429, code="Throttling", headers={"Retry-After": "0"})
    refusal = Failure(status=400, code="InvalidParameter", message=MISSING)
    answers: list[Any] = [busy, refusal, busy, busy, busy]
    with Emulator(apps={"app": lambda call: answers.pop(0)}) as cloud:
        outcome = call(app_of(cloud, max_retries=2), path)
        assert isinstance(outcome.error, RateLimitError)
        assert outcome.error.attempts == 4  # the first, two retries, and the one with a prompt
        assert sent(cloud) == [["messages"]] * 2 + [["prompt"]] * 2


def test_after_a_frame_nothing_is_sent_again() -> None:
    def app(call: Call) -> Any:
        yield {"output": {"text": "half", "finish_reason": "null"}}
        yield Failure(status=400, code="InvalidParameter", message=MISSING)

    with Emulator(apps={"app": app}) as cloud:
        outcome = call(app_of(cloud), "stream")
        assert isinstance(outcome.error, BadRequestError)
        assert outcome.error.partial is not None
        assert len(cloud.requests) == 1


@pytest.mark.parametrize("path", PATHS)
def test_the_deadline_of_the_call_holds_for_the_second_request(path: str) -> None:
    with moving_clock() as clock:

        def app(call: Call) -> Any:
            clock.advance(10)
            return Failure(status=400, code="InvalidParameter", message=MISSING)

        with Emulator(apps={"app": app}) as cloud:
            outcome = call(app_of(cloud, timeout={"total_s": 5}), path)
            assert isinstance(outcome.error, (BadRequestError, RequestTimeoutError))
            assert len(cloud.requests) == 1


def test_both_requests_hold_one_concurrency_slot(cloud: Emulator) -> None:
    app = app_of(cloud, max_concurrency=1)

    async def both() -> list[Any]:
        return await asyncio.gather(*(app.ainvoke(messages=HISTORY) for _ in range(2)))

    assert [result.attempts for result in asyncio.run(both())] == [2, 2]
    assert sent(cloud) == [["messages"], ["prompt"]] * 2


def turns_of(app: BailianApp, *texts: str) -> tuple[list[Turn], list[Any]]:
    """A conversation of some rounds after a system text; and the results."""
    turns, results = [Turn(role="system", text="Be kind.")], list[Any]()
    for text in texts:
        turns.append(Turn(role="user", text=text))
        plan = plan_request(turns, app.settings)
        results.append(result := Run(app.settings, plan, client=app.client).invoke())
        turns.append(Turn(role="assistant", text=result.text, marker=plan.marker(result)))
    return turns, results


@pytest.mark.parametrize("history_format", ["messages", "prompt"])
def test_a_system_text_opens_a_session_and_is_sent_once(
    history_format: Any, cloud: Emulator
) -> None:
    app = app_of(cloud, history_format=history_format)
    turns, results = turns_of(app, "one", "two", "three")
    prompts = [request.prompt for request in cloud.requests if "prompt" in request.input]
    assert prompts == ["系统：Be kind.\n\n用户：one", "two", "three"]
    assert [result.whole_history for result in results] == [True, False, False]
    assert len({result.session_id for result in results}) == 1
    assert [turn.marker.round for turn in turns if turn.marker] == [1, 2, 3]

    turns[0] = Turn(role="system", text="Be brief.")
    turns.append(Turn(role="user", text="four"))
    plan = plan_request(turns, app.settings)
    result = Run(app.settings, plan, client=app.client).invoke()
    assert result.session_id != results[0].session_id
    assert result.text == HistoryTemplate().fold([(turn.role, turn.text) for turn in turns])


@pytest.mark.parametrize("history_format", ["messages", "prompt"])
def test_a_blank_system_text_is_not_sent_and_opens_a_session_as_none(history_format: Any) -> None:
    blank = [Turn(role="system", text=text) for text in ("", " \n")]
    with Emulator(apps={"app": echo}) as cloud:
        app = app_of(cloud, history_format=history_format)
        plan = plan_request([*blank, Turn(role="user", text="one")], app.settings)
        result = Run(app.settings, plan, client=app.client).invoke()
        assert (result.text, result.whole_history) == ("one", False)
        messages = [{"role": "system", "content": turn.text} for turn in blank]
        app.invoke(messages=[*messages, *HISTORY[1:3], messages[0], HISTORY[3]])
        assert "system" not in str(cloud.requests[-1].input)
        app.invoke(messages=HISTORY[1:])
        assert cloud.requests[-1].input == cloud.requests[-2].input


def test_a_branch_sends_the_history_as_a_prompt_and_gets_a_session_of_its_own(
    cloud: Emulator,
) -> None:
    app = app_of(cloud, history_format="prompt")
    turns, results = turns_of(app, "one", "two")
    branch = [*turns[:3], Turn(role="user", text="other")]
    plan = plan_request(branch, app.settings)
    assert plan.session_id == results[0].session_id
    result = Run(app.settings, plan, client=app.client).invoke()
    assert (result.whole_history, result.context_lost) == (True, False)
    assert result.session_id != results[0].session_id
    branch += [
        Turn(role="assistant", text=result.text, marker=plan.marker(result)),
        Turn(role="user", text="more"),
    ]
    more = Run(app.settings, plan_request(branch, app.settings), client=app.client).invoke()
    assert (more.text, more.session_id) == ("more", result.session_id)


def test_a_forgotten_session_is_opened_again_by_a_prompt(cloud: Emulator) -> None:
    app = app_of(cloud, history_format="prompt", idempotent=True)
    turns, _ = turns_of(app, "one")
    cloud.forget()
    turns.append(Turn(role="user", text="two"))
    plan = plan_request(turns, app.settings)
    result = Run(app.settings, plan, client=app.client).invoke()
    assert (result.attempts, result.context_lost) == (2, False)
    assert result.text.endswith("用户：two")
    marker = plan.marker(result)
    assert marker is not None
    assert (marker.round, marker.session_id) == (1, result.session_id)


@pytest.mark.parametrize(
    ("message", "asks"),
    [
        (MISSING, True),
        ("Required parameter(prompt) missing or invalid", True),
        ("Required parameter(input.prompt) missing or invalid.", True),
        ("The parameter prompt is required.", True),
        ("prompt must not be empty", True),
        ("Missing required parameter: input.prompt", True),
        ("The prompt exceeds the required maximum length of 30720.", False),
        ("Required parameter missing: prompt variable 'city' in biz_params", False),
        ("prompt variable city is required", False),
        ("The prompt is missing the variable city", False),
        ("Node LLM_1: prompt is empty", False),
        ("Parameter prompt of node 'Image' is required", False),
        ("prompt is required for node 'Image'", False),
        ("Plugin send_mail: required prompt template not found", False),
        ('Either "prompt" or "messages" must exist and cannot both be none', False),
        ("Required parameter(AppId) missing or invalid", False),
        ("The prompt is too long.", False),
    ],
)
def test_only_a_missing_prompt_asks_for_one(message: str, asks: bool) -> None:
    error = api_error("InvalidParameter", message, status_code=400)
    assert asks_for_prompt(error) is asks
    assert did_not_start(error) is asks
    for code, status in (("AppProcessFailed", 400), ("InvalidParameter", 500), (None, 400)):
        assert not asks_for_prompt(api_error(code, message, status_code=status))


TRIP = Workflow(nodes=[Node(name="answer", output="You asked: {prompt}")])


def test_a_workflow_that_was_sent_messages_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Emulator(apps={"app": TRIP, "agent": echo}) as cloud:
        app = app_of(cloud)
        app.invoke("one")
        app.invoke(messages=HISTORY[-1:])
        app.invoke(messages=HISTORY, history_format="prompt")
        app.invoke(messages=HISTORY, app_id="agent")
        assert not caplog.records
        app.invoke(messages=HISTORY, flow_stream_mode="message_format")
        app.invoke(messages=HISTORY)
        BailianApp(app.settings, client=app.client).invoke(messages=HISTORY)
    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "bailian_apps.run")
    assert "app app is a workflow and was sent 4 messages" in record.getMessage()
    assert "historyList" in record.getMessage()
    assert 'history_format="prompt"' in record.getMessage()
