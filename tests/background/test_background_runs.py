"""Background runs against the emulator: states, results, failures, and what is sent again."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clock import moving_clock
from support.images import PNG

from bailian_apps import (
    AppFailedError,
    AuthenticationError,
    BackgroundRun,
    BailianApp,
    BailianError,
    Client,
    ConnectError,
    ConnectionLostError,
    InvalidInputError,
    NoResultError,
    NotFoundError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    SubmissionUnknownError,
    Timeout,
    Usage,
    submission_mark,
)
from bailian_apps.emulator import Agent, Call, Emulator, Failure, Thought

FAST: Any = {"poll_s": 0.01}


def echo(call: Call) -> str:
    return f"{call.prompt}!"


def failing(call: Call) -> Failure:
    return Failure(status=500, code="InvokePluginFailed", message="the plugin is broken")


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    thinker = Agent(thoughts=[Thought(reasoning="Let me see.")], text="Green <ref>[1]</ref> tea")
    apps: dict[str, Any] = {"echo": echo, "failing": failing, "thinker": thinker}
    with Emulator(apps=apps, api_key="sk-secret", background_queue_s=60, background_run_s=60) as it:
        yield it


@pytest.fixture
def make_app(cloud: Emulator) -> Callable[..., BailianApp]:
    def make(app_id: str = "echo", **fields: Any) -> BailianApp:
        fields = {"api_key": "sk-secret", "base_url": cloud.base_url} | fields
        return BailianApp(app_id=app_id, **fields)

    return make


def methods(cloud: Emulator) -> list[str]:
    return [request.method for request in cloud.requests]


def finished(cloud: Emulator, run: BackgroundRun) -> BackgroundRun:
    cloud.advance(200)
    return run.wait(timeout_s=60, **FAST)


def test_a_run_is_queued_then_running_then_completed(cloud: Any, make_app: Any) -> None:
    run = make_app().submit("Hello")
    assert (run.status, run.ended) == ("queued", False)
    cloud.advance(60)
    assert run.refresh().status == "running"
    cloud.advance(60)
    assert run.wait(timeout_s=60, **FAST).status == "completed"
    result = run.result()
    assert (result.text, result.finish_reason, result.usage) == ("Hello!", "stop", Usage())
    assert result.raw["id"] == run.id
    assert result.request_id


async def test_an_async_program_does_all_of_it_too(cloud: Any, make_app: Any) -> None:
    run = await make_app().asubmit("Hello")
    statuses = []
    async for status in run.awatch(timeout_s=60, **FAST):
        statuses.append(status)
        cloud.advance(60)
    assert statuses[0] == "queued"
    assert statuses[-1] == "completed"
    assert (await run.await_end()).result().text == "Hello!"
    await run.adelete()
    with pytest.raises(NotFoundError) as raised:
        await run.arefresh()
    assert (raised.value.run_id, raised.value.status_code) == (run.id, 404)
    assert raised.value.request_id
    other = await (await make_app().asubmit("Stop")).acancel()
    assert other.status == "cancelled"


def test_another_object_with_the_id_finds_the_run(cloud: Any, make_app: Any) -> None:
    submitted = make_app().submit("Hello")
    found = make_app().background_run(submitted.id)
    assert found.status is None
    with pytest.raises(NoResultError, match="not known"):
        found.result()
    assert finished(cloud, found).result().text == "Hello!"
    assert methods(cloud)[0] == "POST"
    assert set(methods(cloud)[1:]) == {"GET"}


def test_reasoning_is_a_step_and_marks_are_stripped_as_the_settings_say(
    cloud: Any, make_app: Any
) -> None:
    run = finished(cloud, make_app("thinker", citation_marks="strip").submit("Tea?"))
    result = run.result()
    assert result.text == "Green  tea"
    assert result.reasoning == "Let me see."
    [step] = result.steps
    assert (step.kind, step.reasoning, step.status) == ("reasoning", "Let me see.", "success")


def test_a_failed_run_raises_the_error_of_its_code(cloud: Any, make_app: Any) -> None:
    run = finished(cloud, make_app("failing").submit("Hello"))
    assert run.status == "failed"
    with pytest.raises(AppFailedError, match="the plugin is broken") as raised:
        run.result()
    error = raised.value
    assert (error.code, error.run_id, error.is_retryable) == ("InvokePluginFailed", run.id, False)
    assert error.request_id
    assert run.id in str(error)


def test_a_cancelled_run_has_no_result_and_an_ended_run_stays_what_it_is(
    cloud: Any, make_app: Any
) -> None:
    run = make_app().submit("Hello").cancel()
    assert run.status == "cancelled"
    with pytest.raises(NoResultError, match="was cancelled") as raised:
        run.wait().result()
    assert (raised.value.status, raised.value.run_id) == ("cancelled", run.id)
    other = finished(cloud, make_app().submit("Hello"))
    assert other.cancel().status == "completed"
    assert other.result().text == "Hello!"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_cancellation_that_came_too_late_does_not_lose_the_result(
    cloud: Any, make_app: Any, is_async: bool
) -> None:
    run = finished(cloud, make_app(max_retries=0).submit("Hello"))
    cloud.fail("http_500", nth=2)  # the question after it
    with pytest.raises(ServerError):
        if is_async:
            asyncio.run(run.acancel())
        else:
            run.cancel()
    assert run.status == "completed"
    assert run.result().text == "Hello!"


def test_only_a_run_that_has_ended_can_be_deleted(cloud: Any, make_app: Any) -> None:
    run = make_app().submit("Hello")
    with pytest.raises(BailianError, match="has ended"):
        run.delete()
    finished(cloud, run).delete()
    with pytest.raises(NotFoundError):
        run.refresh()


def test_a_deletion_whose_answer_was_lost_is_not_an_error(cloud: Any, make_app: Any) -> None:
    run = finished(cloud, make_app().submit("Hello"))
    cloud.fail("close_before_headers")
    run.delete()
    assert methods(cloud)[-2:] == ["DELETE", "DELETE"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_deletion_that_was_throttled_first_does_not_hide_that_there_is_no_run(
    cloud: Any, make_app: Any, is_async: bool
) -> None:
    run = make_app().background_run("never-submitted")
    cloud.fail("throttled")
    with moving_clock(), pytest.raises(NotFoundError):
        if is_async:
            asyncio.run(run.adelete())
        else:
            run.delete()
    assert methods(cloud) == ["DELETE", "DELETE"]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"session_id": "s"}, "session_id"),
        ({"flow_stream_mode": "message_format"}, "flow_stream_mode"),
        ({"thoughts": True}, "thoughts"),
        ({"temperature": 0.0}, "temperature"),
        ({"rag_options": {"pipeline_ids": ["p"]}}, "rag_options"),
        ({"memory_id": "m"}, "memory_id"),
        ({"extra_body": {"input": {"a": 1}}}, "extra_body"),
        ({"doc_tag_codes": ["t"]}, "doc_tag_codes"),
        ({"mark": 7}, "mark"),
        ({"biz_parms": {}}, "biz_parms"),
    ],
)
def test_what_a_background_run_cannot_carry_is_refused_before_anything_is_sent(
    cloud: Any, make_app: Any, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInputError) as raised:
        make_app().submit("Hello", **given)
    assert raised.value.field == field
    assert not cloud.requests


def test_settings_of_the_app_that_cannot_be_sent_are_named_once(
    cloud: Any, make_app: Any, caplog: Any
) -> None:
    app = make_app(temperature=0.5, flow_stream_mode="message_format", client=Client())
    for _ in range(2):
        app.submit("Hello", session_id="", memory_id=None)
    [record] = [record for record in caplog.records if "do without" in record.message]
    assert "flow_stream_mode, temperature" in record.message
    assert "temperature" not in cloud.requests[0].body


def test_a_conversation_with_images_and_files_is_the_input(cloud: Any, make_app: Any) -> None:
    make_app().submit(
        messages=[
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "I like tea"},
            {"role": "assistant", "content": "Noted"},
            {"role": "user", "content": "What is this?"},
        ],
        image_list=["https://example.com/a.png", PNG],
        file_list=["https://example.com/a.pdf"],
        biz_params={"city": "Hangzhou"},
    )
    body = cloud.requests[0].body
    assert body["biz_params"] == {"city": "Hangzhou"}
    assert body["background"] is True
    *history, last = body["input"]
    assert [each["content"] for each in history] == ["Be brief", "I like tea", "Noted"]
    text, image, inline, file = last["content"]
    assert text == {"type": "input_text", "text": "What is this?"}
    assert image == {"type": "input_image", "image_url": "https://example.com/a.png"}
    assert inline["image_url"].startswith("data:image/png;base64,")
    assert file == {"type": "input_file", "file_url": "https://example.com/a.pdf"}


def test_a_history_can_be_folded_into_one_prompt(cloud: Any, make_app: Any) -> None:
    messages = [("user", "I like tea"), ("assistant", "Noted"), ("user", "What do I like?")]
    given = [{"role": role, "content": text} for role, text in messages]
    make_app(history_format="prompt").submit(messages=given)
    sent = cloud.requests[0].body["input"]
    assert isinstance(sent, str)
    assert all(text in sent for _, text in messages)


@pytest.mark.parametrize(
    ("fault", "error", "attempts"),
    [
        ("close_before_headers", ConnectionLostError, 1),
        ("http_500", ServerError, 1),
        ("throttled", RateLimitError, 3),
        ("http_503", BailianError, 3),
        ("http_401", AuthenticationError, 1),
    ],
)
def test_a_submission_is_sent_again_only_if_no_run_was_started(
    cloud: Any, make_app: Any, fault: str, error: type[BailianError], attempts: int
) -> None:
    cloud.fail(fault, times=9)
    with moving_clock(), pytest.raises(error) as raised:
        make_app(max_retries=2).submit("Hello")
    assert methods(cloud) == ["POST"] * attempts
    assert raised.value.attempts == attempts


def test_the_log_has_the_id_of_a_submitted_run(make_app: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "bailian_apps")
    run = make_app().submit("Hello")
    assert f"submitted run {run.id} of app echo" in caplog.messages


def test_an_idempotent_app_is_submitted_again_after_a_lost_answer(
    cloud: Any, make_app: Any
) -> None:
    cloud.fail("close_before_headers")
    run = make_app(idempotent=True).submit("Hello")
    assert methods(cloud) == ["POST", "POST"]
    assert finished(cloud, run).result().text == "Hello!"


@pytest.mark.parametrize(
    "fault", ["close_before_headers", "reset_before_headers", "http_500", "http_503", "throttled"]
)
def test_waiting_goes_on_through_failures_that_pass(cloud: Any, make_app: Any, fault: str) -> None:
    run = make_app().submit("Hello")
    cloud.advance(200)
    cloud.fail(fault, times=3)
    assert run.wait(timeout_s=60, **FAST).result().text == "Hello!"
    assert methods(cloud).count("POST") == 1
    assert methods(cloud).count("GET") >= 4


@pytest.mark.parametrize("is_async", [False, True])
def test_waiting_ends_at_its_deadline_and_can_be_taken_up_again(
    cloud: Any, make_app: Any, is_async: bool
) -> None:
    run = make_app().submit("Hello")
    with pytest.raises(RequestTimeoutError, match=r"timeout_s=0\.05") as raised:
        if is_async:
            asyncio.run(run.await_end(timeout_s=0.05, **FAST))
        else:
            run.wait(timeout_s=0.05, **FAST)
    assert raised.value.run_id == run.id
    assert finished(cloud, run).result().text == "Hello!"


def test_failures_that_last_longer_than_timeout_allows_for_silence_are_raised(
    cloud: Any, make_app: Any
) -> None:
    run = make_app(timeout=30).submit("Hello")
    cloud.fail("http_500", times=99)
    with moving_clock() as clock, pytest.raises(ServerError) as raised:
        watched = threading.Timer(0.2, clock.advance, [40.0])
        watched.start()
        run.wait(timeout_s=3600, **FAST)
    assert (raised.value.run_id, raised.value.status_code) == (run.id, 500)
    assert methods(cloud).count("GET") > 1


def test_a_wrong_key_ends_waiting_at_once(cloud: Any, make_app: Any) -> None:
    run = make_app().submit("Hello")
    with pytest.raises(AuthenticationError) as raised:
        make_app(api_key="sk-other").background_run(run.id).wait(timeout_s=60, **FAST)
    assert raised.value.run_id == run.id
    assert methods(cloud) == ["POST", "GET"]


def test_a_key_callable_is_read_for_each_request(cloud: Any, make_app: Any) -> None:
    keys = iter(["sk-old", "sk-secret", "sk-secret", "sk-secret"])
    run = make_app(api_key=lambda: next(keys)).submit("Hello")
    run.refresh()
    assert methods(cloud) == ["POST", "POST", "GET"]


async def test_a_slow_key_callable_does_not_outlast_the_limits(cloud: Any, make_app: Any) -> None:
    run = make_app().submit("Hello")

    async def slow() -> str:
        await asyncio.sleep(600)
        return "sk-secret"

    app = make_app(api_key=slow, timeout=Timeout(total_s=0.1), max_retries=0)
    with pytest.raises(ConnectError, match="api_key took longer") as refused:
        await app.asubmit("Hello")
    assert (refused.value.request_state, refused.value.attempts) == ("not_sent", 0)
    with pytest.raises(RequestTimeoutError, match="it goes on") as raised:
        await app.background_run(run.id).await_end(timeout_s=0.1)
    assert raised.value.run_id == run.id
    assert methods(cloud) == ["POST"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_key_that_comes_after_total_s_sends_nothing(
    cloud: Any, make_app: Any, is_async: bool
) -> None:
    def slow() -> str:
        time.sleep(0.2)
        return "sk-secret"

    app = make_app(api_key=slow, timeout=Timeout(total_s=0.1))
    with pytest.raises(ConnectError) as refused:
        asyncio.run(app.asubmit("Hello")) if is_async else app.submit("Hello")
    assert (refused.value.request_state, refused.value.attempts) == ("not_sent", 0)
    assert not cloud.requests


def test_a_closed_client_refuses_and_nothing_listens_is_a_connect_error(make_app: Any) -> None:
    client = Client()
    app = make_app(client=client)
    run = app.submit("Hello")
    client.close()
    for call in (lambda: app.submit("Hello"), run.refresh):
        with pytest.raises(InvalidInputError, match="client is closed"):
            call()
    with pytest.raises(ConnectError) as raised:
        make_app(base_url="http://127.0.0.1:1/api/v1", max_retries=0).submit("Hello")
    assert raised.value.is_retryable


@pytest.mark.parametrize("is_async", [False, True])
def test_total_s_bounds_the_wait_for_a_free_slot(cloud: Any, make_app: Any, is_async: bool) -> None:
    client = Client()
    app = make_app(max_concurrency=1, timeout=Timeout(total_s=0.2), client=client)
    with client.slot(app.settings, deadline=None), pytest.raises(RequestTimeoutError) as raised:
        if is_async:
            asyncio.run(app.asubmit("Hello"))
        else:
            app.submit("Hello")
    assert raised.value.request_state == "not_sent"
    assert not cloud.requests


@pytest.mark.parametrize("run_id", ["", "a/b", "../x", "a b", 7, "?x"])
def test_an_id_that_is_none_is_refused(cloud: Any, make_app: Any, run_id: Any) -> None:
    with pytest.raises(InvalidInputError) as raised:
        make_app().background_run(run_id)
    assert raised.value.field == "run_id"


def test_an_address_without_api_v1_is_refused(make_app: Any) -> None:
    with pytest.raises(InvalidInputError, match="does not end with /api/v1"):
        make_app(base_url="http://127.0.0.1:9/gateway").submit("Hello")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), True, "1", 2e9])
def test_a_time_that_is_no_number_of_seconds_is_refused(make_app: Any, seconds: Any) -> None:
    run = make_app().submit("Hello")
    for given in ({"timeout_s": seconds}, {"poll_s": seconds}):
        with pytest.raises(InvalidInputError) as raised:
            run.wait(**given)
        assert raised.value.field in given


class TestMarks:
    """What shows whether a run may have been submitted."""

    def test_a_mark_is_valid_once(self, cloud: Any, make_app: Any) -> None:
        mark = submission_mark()
        make_app().submit("Hello", mark=mark)
        with pytest.raises(SubmissionUnknownError, match="submitted with this mark") as raised:
            make_app().submit("Hello", mark=mark)
        assert not raised.value.is_retryable
        assert methods(cloud) == ["POST"]

    async def test_a_mark_of_another_process_is_refused(self, cloud: Any, make_app: Any) -> None:
        with pytest.raises(SubmissionUnknownError):
            await make_app().asubmit("Hello", mark="from-before")
        assert not cloud.requests

    def test_an_idempotent_app_is_submitted_with_any_mark(self, cloud: Any, make_app: Any) -> None:
        make_app(idempotent=True).submit("Hello", mark="from-before")
        assert methods(cloud) == ["POST"]

    def test_a_mark_is_used_up_unless_no_run_was_started(self, cloud: Any, make_app: Any) -> None:
        mark = submission_mark()
        cloud.fail("throttled")
        app = make_app(max_retries=0)
        with pytest.raises(RateLimitError):
            app.submit("Hello", mark=mark)
        cloud.fail("close_before_headers")
        with pytest.raises(ConnectionLostError):
            app.submit("Hello", mark=mark)
        with pytest.raises(SubmissionUnknownError):
            app.submit("Hello", mark=mark)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.process
    def test_a_forked_child_does_not_submit_with_its_parents_mark(
        self, cloud: Any, make_app: Any
    ) -> None:
        code = (
            "import os\n"
            "from bailian_apps import BailianApp, SubmissionUnknownError, submission_mark\n"
            "mark = submission_mark()\n"
            "child = os.fork()\n"
            f"app = BailianApp(app_id='echo', api_key='sk-secret', base_url={cloud.base_url!r})\n"
            "try:\n"
            "    app.submit('Hello', mark=mark)\n"
            "except SubmissionUnknownError:\n"
            "    os._exit(7)\n"
            "if child:\n"
            "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == "7\n"
        assert methods(cloud) == ["POST"]


class TestSecrets:
    """No key and no token is shown; both are sent."""

    def test_no_log_shows_a_secret_of_a_failed_submission(
        self, cloud: Any, make_app: Any, caplog: Any
    ) -> None:
        params = {"user_defined_tokens": {"tool": {"user_token": "tok-secret"}}, "city": "x"}
        caplog.set_level(logging.DEBUG)
        cloud.fail("http_500")
        app = make_app(extra_headers={"X-Secret": "header-secret"})
        with pytest.raises(ServerError) as raised:
            app.submit("Hello", biz_params=params)
        assert cloud.requests[0].body["biz_params"] == params
        for record in caplog.records:
            assert "-secret" not in record.getMessage(), record.name
        assert raised.value.__cause__ is None
        assert raised.value.__context__ is None

    def test_a_run_shows_and_pickles_no_key(
        self, cloud: Any, make_app: Any, monkeypatch: Any
    ) -> None:
        run = make_app().submit("Hello")
        assert "secret" not in repr(run)
        stored = pickle.dumps(run)
        assert b"sk-secret" not in stored
        lost = pickle.loads(stored)
        assert (lost.id, lost.status) == (run.id, "queued")
        with pytest.raises(InvalidInputError, match="api_key is masked"):
            lost.refresh()
        monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-secret")
        kept = pickle.loads(pickle.dumps(make_app().background_run(run.id)))
        assert kept.refresh().status == "queued"

    def test_what_the_environment_holds_for_openai_is_not_sent(
        self, cloud: Any, make_app: Any, monkeypatch: Any
    ) -> None:
        for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
            monkeypatch.setenv(name, "other-cloud")
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Other: other-cloud")
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
        make_app(workspace="ws", extra_headers={"X-Own": "mine"}).submit("Hello").refresh()
        for request in cloud.requests:
            assert "other-cloud" not in repr(request.headers)
            assert request.headers["x-dashscope-workspace"] == "ws"
            assert request.headers["x-own"] == "mine"

    def test_a_variable_for_openai_that_its_client_refuses_is_a_typed_error(
        self, cloud: Any, make_app: Any, monkeypatch: Any
    ) -> None:
        client = Path(pytest.importorskip("openai").__file__).with_name("_client.py")
        if "OPENAI_CUSTOM_HEADERS" not in client.read_text(encoding="utf-8"):
            pytest.skip("an older openai does not read the variable")
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Other: th\u00e9-secret")
        with pytest.raises(ConnectError, match="OPENAI_CUSTOM_HEADERS") as raised:
            make_app().submit("Hello")
        assert "secret" not in str(raised.value)
        assert not cloud.requests


@pytest.mark.process
def test_without_its_extra_a_submission_names_the_extra_to_install(make_app: Any) -> None:
    code = (
        "import sys; sys.modules['openai'] = None\n"
        "from bailian_apps import BailianApp\n"
        f"app = BailianApp(app_id='a', api_key='k', base_url={make_app().settings.base_url!r})\n"
        "app.submit('hi')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "bailian-apps[background]"' in done.stderr


@pytest.mark.timeout(120)
async def test_a_wait_that_is_cancelled_ends(cloud: Any, make_app: Any) -> None:
    """At any moment, also when an answer has just arrived; the run goes on."""
    run = await make_app().asubmit("Hello")
    for _ in range(20):
        asked = len(cloud.requests)
        waiting = asyncio.ensure_future(run.await_end(timeout_s=600, poll_s=0.001))
        while len(cloud.requests) == asked:  # noqa: ASYNC110 - the emulator has no event
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert (await run.arefresh()).status == "queued"
