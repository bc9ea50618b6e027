"""Session rounds: one call continues a session; the next ones, or after a loss, resend the history."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.wire import WAIT_S, Do, WireServer, answer, frame

from bailian_apps import BailianApp, RateLimitError
from bailian_apps.client import SessionRounds
from bailian_apps.core.history import Plan, plan_request
from bailian_apps.core.turns import Turn
from bailian_apps.emulator import Emulator, Failure
from bailian_apps.run import Run
from bailian_apps.transport import name_lookup, sync_pool

KEY = (None, "app", "s")


def test_a_round_is_claimed_once_and_an_earlier_one_never() -> None:
    claims = SessionRounds()
    assert claims.claim(KEY, 3)
    assert not claims.claim(KEY, 3)
    assert not claims.claim(KEY, 2)
    assert claims.claim(KEY, 4)
    assert claims.claim(("https://elsewhere", "app", "s"), 3)
    assert claims.claim((None, "other", "s"), 3)


def test_a_released_round_can_be_claimed_again() -> None:
    claims = SessionRounds()
    claims.claim(KEY, 3)
    claims.release(KEY, 3)
    assert not claims.claim(KEY, 2)
    assert claims.claim(KEY, 3)
    claims.claim(KEY, 4)
    claims.release(KEY, 3)
    assert not claims.claim(KEY, 4)


def test_the_session_claimed_longest_ago_is_dropped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bailian_apps.client.MAX_SESSIONS", 2)
    claims = SessionRounds()
    for name, round_ in (("a", 2), ("b", 2), ("a", 3), ("c", 2)):
        assert claims.claim((None, "app", name), round_)
    assert not claims.claim((None, "app", "a"), 3)
    assert not claims.claim((None, "app", "c"), 2)
    assert claims.claim((None, "app", "b"), 2)


def test_of_many_threads_one_claims_the_round() -> None:
    claims = SessionRounds()
    with ThreadPoolExecutor(16) as pool:
        for round_ in range(2, 200):
            assert sum(pool.map(lambda _, r=round_: claims.claim(KEY, r), range(16))) == 1


def begun(app: BailianApp) -> list[Turn]:
    """A conversation with one round, and the user's next message."""
    first = plan_request([Turn(role="user", text="one")], app.settings)
    result = Run(app.settings, first).invoke()
    answer = Turn(role="assistant", text=result.text, marker=first.marker(result))
    return [Turn(role="user", text="one"), answer, Turn(role="user", text="two")]


def stream_async(app: BailianApp, plan: Plan) -> list[Any]:
    """The events of a run, natively async."""

    async def events() -> list[Any]:
        return [event async for event in Run(app.settings, plan).astream()]

    return asyncio.run(events())


def stream_sync(app: BailianApp, plan: Plan) -> list[Any]:
    """The events of a run."""
    return list(Run(app.settings, plan).stream())


@pytest.mark.parametrize("stream", [stream_sync, stream_async])
def test_of_a_repeated_run_only_the_second_answer_is_delivered(stream: Any) -> None:
    with Emulator(apps={"app": lambda call: f"{len(call.messages)} messages"}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url, idempotent=True)
        turns = begun(app)
        cloud.forget()
        started, *deltas, finished = stream(app, plan_request(turns, app.settings))
        assert started.whole_history
        assert not started.context_lost
        assert "".join(event.text for event in deltas) == "3 messages"
        assert finished.result.attempts == 2
        assert len(cloud.requests) == 3


def test_a_repeated_run_is_retried_too() -> None:
    busy = Failure(status=429, code="Throttling", headers={"Retry-After": "0"})
    answers: list[Any] = ["1", "a new session", busy, "2"]
    with Emulator(apps={"app": lambda call: answers.pop(0)}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url, idempotent=True)
        turns = begun(app)
        cloud.forget()
        result = Run(app.settings, plan_request(turns, app.settings)).invoke()
        assert (result.text, result.attempts, result.whole_history) == ("2", 3, True)


def test_the_loss_of_a_session_that_the_caller_names_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Emulator(apps={"app": lambda call: "a new session"}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url, idempotent=True)
        started, *_, finished = app.stream("two", session_id="forgotten")
        assert started.context_lost
        assert finished.result.context_lost
        assert not finished.result.whole_history
        [record] = caplog.records
        assert "has lost the conversation" in record.getMessage()
        assert len(cloud.requests) == 1


def test_a_call_that_may_have_run_does_not_release_its_round() -> None:
    """Its last attempt certainly did not start, but the one before may have run."""
    answers: list[Any] = [
        "1",
        Failure(status=500, code="InternalError"),
        Failure(status=429, code="Throttling"),
        "2",
    ]
    with Emulator(apps={"app": lambda call: answers.pop(0)}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        turns = begun(app)
        with pytest.raises(RateLimitError) as caught:
            Run(
                app.settings.with_overrides({"idempotent": True, "max_retries": 1}),
                plan_request(turns, app.settings),
            ).invoke()
        assert caught.value.attempts == 2
        assert Run(app.settings, plan_request(turns, app.settings)).invoke().whole_history


THROTTLED = Failure(status=429, code="Throttling", headers={"Retry-After": "30"})


def closed(app: BailianApp, plan: Plan, logged: threading.Event) -> None:
    events = Run(app.settings, plan).stream()
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(next, events)
        assert logged.wait(WAIT_S)
        events.close()
        error = waiting.exception(WAIT_S)
    assert isinstance(error, RateLimitError)
    assert (error.attempts, error.session_id) == (1, plan.session_id)


def cancelled(app: BailianApp, plan: Plan, logged: threading.Event) -> None:
    async def begin_and_cancel() -> None:
        call = asyncio.create_task(Run(app.settings, plan).ainvoke())
        assert await asyncio.to_thread(logged.wait, WAIT_S)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(begin_and_cancel())


@pytest.mark.parametrize("give_up", [closed, cancelled])
def test_a_call_given_up_before_its_second_attempt_releases_its_round(
    give_up: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = ["1", THROTTLED, "2"]
    logged = threading.Event()
    with Emulator(apps={"app": lambda call: answers.pop(0)}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        plan = plan_request(begun(app), app.settings)
        app_log = logging.getLogger("bailian_apps.run")
        app_log.addFilter(noted := lambda record: logged.set() or True)
        try:
            give_up(app, plan, logged)
        finally:
            app_log.removeFilter(noted)
        assert not Run(app.settings, plan).invoke().whole_history
        assert len(cloud.requests) == 3


@pytest.mark.parametrize("is_async", [False, True])
def test_a_call_that_was_cancelled_before_it_was_sent_releases_its_round(
    is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps(frame("ok", "stop")).encode()
    answers = [answer("200 OK", body, "application/json", "Connection: close")] * 2
    looked_up = threading.Event()

    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    async def unanswered(*_: object, **__: object) -> Any:
        looked_up.set()
        await asyncio.Event().wait()

    async def cancelled(app: BailianApp, plan: Plan) -> None:
        call = asyncio.create_task(Run(app.settings, plan).ainvoke())
        assert await asyncio.to_thread(looked_up.wait, WAIT_S)
        call.cancel()
        await call

    with WireServer(*answers) as server:
        url = server.base_url.replace("127.0.0.1", "localhost")
        app = BailianApp(app_id="app", api_key="k", base_url=url)
        plan = plan_request(begun(app), app.settings)
        with monkeypatch.context() as patched:
            patched.setattr(sync_pool, "look_up", interrupted)
            patched.setattr(name_lookup.Resolver, "resolve", unanswered)
            if is_async:
                with pytest.raises(asyncio.CancelledError):
                    asyncio.run(cancelled(app, plan))
            else:
                with pytest.raises(KeyboardInterrupt):
                    Run(app.settings, plan).invoke()
        assert not Run(app.settings, plan).invoke().whole_history
        assert len(server.posts) == 2


def test_a_call_that_was_cancelled_once_it_was_sent_keeps_its_round() -> None:
    async def cancelled(app: BailianApp, plan: Plan) -> None:
        call = asyncio.create_task(Run(app.settings, plan).ainvoke())
        assert await asyncio.to_thread(arrived.wait, WAIT_S)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    arrived = threading.Event()
    whole = answer("200 OK", json.dumps(frame("ok", "stop")).encode())
    with WireServer(whole, [arrived.set, Do.STALL], whole) as server:
        app = BailianApp(app_id="app", api_key="k", base_url=server.base_url)
        plan = plan_request(begun(app), app.settings)
        asyncio.run(cancelled(app, plan))
        assert Run(app.settings, plan).invoke().whole_history


def test_two_spellings_of_one_address_share_their_sessions() -> None:
    with Emulator(apps={"app": lambda call: "ok"}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        plan = plan_request(begun(app), app.settings)
        assert not Run(app.settings, plan).invoke().whole_history
        elsewhere = app.settings.with_overrides({"base_url": cloud.base_url + "/"})
        assert Run(elsewhere, plan).invoke().whole_history


def test_a_session_that_the_caller_names_is_always_continued() -> None:
    with Emulator(apps={"app": lambda call: "ok"}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        turns = begun(app)
        session_id = turns[1].marker.session_id if turns[1].marker else None
        for _ in range(2):
            named = plan_request(turns, app.settings, session_id=session_id)
            assert not Run(app.settings, named).invoke().whole_history
        assert Run(app.settings, plan_request(turns, app.settings)).invoke().whole_history


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.process
def test_a_forked_child_does_not_wait_for_its_parents_lock() -> None:
    script = """
        import os
        from bailian_apps.client import default_client
        CLAIMS = default_client().session_rounds
        key = (None, "app", "s")
        CLAIMS.claim(key, 2)
        with CLAIMS._lock:
            child = os.fork()
        if not child:
            os._exit(0 if not CLAIMS.claim(key, 2) and CLAIMS.claim(key, 3) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert CLAIMS.claim(key, 3)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=WAIT_S)


def test_a_signal_handler_may_claim_while_its_thread_does() -> None:
    class Interrupting(str):
        __slots__ = ()

        def __hash__(self) -> int:
            """Claim again, as a signal handler may while the lock is held."""
            if not handled:
                handled.append(True)
                assert claims.claim(KEY, 2)
            return super().__hash__()

    handled: list[bool] = []
    claims = SessionRounds()
    claiming = threading.Thread(
        target=lambda: claims.claim((None, "app", Interrupting("t")), 2), daemon=True
    )
    claiming.start()
    claiming.join(WAIT_S)
    assert not claiming.is_alive()
    assert not claims.claim(KEY, 2)
