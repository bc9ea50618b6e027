"""`run_batch` and `arun_batch`: results, failures as data, limits, the budget."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bailian_apps import AppResult, BailianApp, InvalidInputError
from bailian_apps.batch import (
    BatchCounts,
    Budget,
    arun_batch,
    conductor,
    read_journal,
    run_batch,
)
from bailian_apps.batch.pace import Pace
from bailian_apps.emulator import Agent, Call, Emulator, Failure, TokenUsage

from .conftest import RunAll


class Crowd:
    """An app that answers when `size` calls of it are open, and counts them."""

    def __init__(self, size: int = 1) -> None:
        self.barrier = threading.Barrier(size)
        self.open = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, call: Call) -> str:
        with self.lock:
            self.open += 1
            self.most = max(self.most, self.open)
        self.barrier.wait(30)
        with self.lock:
            self.open -= 1
        return f"re: {call.prompt}"


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    apps: dict[str, Any] = {"echo": lambda call: f"re: {call.prompt}"}
    with Emulator(apps=apps, api_key="sk-mine") as running:
        yield running


def app_of(cloud: Emulator, app_id: str = "echo", **settings: Any) -> BailianApp:
    return BailianApp(app_id=app_id, api_key="sk-mine", base_url=cloud.base_url, **settings)


def test_every_prompt_has_one_result_and_one_request(cloud: Emulator, run_all: RunAll) -> None:
    results = run_all(app_of(cloud), (f"p{n}" for n in range(40)), concurrency=5)
    assert {key: result.text for key, result in results.items()} == {
        str(n + 1): f"re: p{n}" for n in range(40)
    }
    assert {(each.status, each.attempts) for each in results.values()} == {("answered", 1)}
    assert sorted(request.prompt or "" for request in cloud.requests) == sorted(
        f"p{n}" for n in range(40)
    )
    assert len({result.result and result.result.session_id for result in results.values()}) == 40


def test_a_prompt_has_its_own_settings_and_id(cloud: Emulator, run_all: RunAll) -> None:
    prompts = [
        {"id": "a", "prompt": "one", "biz_params": {"city": "杭州"}},
        {"id": 7, "messages": [{"role": "user", "content": "two"}], "temperature": 0.5},
    ]
    results = run_all(app_of(cloud), prompts)
    assert set(results) == {"a", "7"}
    one, two = sorted(cloud.requests, key=lambda request: "messages" in request.input)
    assert one.input["biz_params"] == {"city": "杭州"}
    assert two.input["messages"] == prompts[1]["messages"]
    assert (one.parameters.get("temperature"), two.parameters["temperature"]) == (None, 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "prompts must hold str or mappings, not an int"),
        ("", "prompt is empty. Pass the user's prompt"),
        ({"prompt": "x", "id": True}, "id must be a str or an int, not a bool"),
        ({"prompt": "x", "id": "\ud800"}, "id has half of a surrogate pair"),
        (
            {"prompt": "x", "api_key": "sk-other"},
            "api_key belongs to the batch. Pass it to the app",
        ),
        ({"promt": "x"}, "promt is not a setting. Did you mean 'prompt'?"),
        ({"prompt": "x", "temperature": 9}, "temperature must be less than 2"),
    ],
    ids=str,
)
def test_what_cannot_be_sent_is_a_failure_among_the_results(
    cloud: Emulator, run_all: RunAll, given: Any, message: str
) -> None:
    results = run_all(app_of(cloud), [given, "good"])
    assert results["2"].text == "re: good"
    failed = results["1"]
    assert (failed.status, failed.attempts) == ("failed", 0)
    assert failed.error is not None
    assert (failed.error.type, failed.error.request_state) == ("InvalidInputError", "not_sent")
    assert message in failed.error.message
    assert len(cloud.requests) == 1


@pytest.mark.parametrize(
    ("fault", "status", "error", "state"),
    [
        ("http_400", "failed", "BadRequestError", "answered"),
        ("app_failed", "failed", "AppFailedError", "answered"),
        ("http_500", "unknown", "ServerError", "answered"),
        ("close_before_headers", "unknown", "ConnectionLostError", "unknown"),
        ("reset_between_frames", "unknown", "StreamInterruptedError", "unknown"),
    ],
)
def test_a_failure_is_data_with_what_is_certain_about_it(
    cloud: Emulator, run_all: RunAll, fault: str, status: str, error: str, state: str
) -> None:
    cloud.fail(fault)
    results = run_all(app_of(cloud), ["one", "two"], concurrency=1)
    first = results["1"]
    assert (first.status, first.attempts, first.text) == (status, 1, None)
    assert first.error is not None
    assert (first.error.type, first.error.request_state) == (error, state)
    assert results["2"].text == "re: two"
    assert len(cloud.requests) == 2


@pytest.mark.parametrize("fault", ["http_500", "close_before_headers", "reset_between_frames"])
def test_with_idempotent_what_may_have_run_is_sent_again(
    cloud: Emulator, run_all: RunAll, fault: str
) -> None:
    cloud.fail(fault)
    results = run_all(app_of(cloud, idempotent=True), ["one"])
    assert (results["1"].status, results["1"].attempts) == ("answered", 2)
    assert len(cloud.requests) == 2


@pytest.mark.parametrize("fault", ["throttled_retry_now", "http_503_retry_now", "throttled"])
def test_a_refusal_delays_the_prompt_and_does_not_count_as_a_retry(
    cloud: Emulator, run_all: RunAll, fault: str
) -> None:
    cloud.fail(fault, times=4)  # more than max_retries
    results = run_all(app_of(cloud, max_retries=1), ["one"])
    assert (results["1"].status, results["1"].attempts) == ("answered", 5)


def test_without_retries_a_refusal_is_a_failure(cloud: Emulator, run_all: RunAll) -> None:
    cloud.fail("throttled")
    results = run_all(app_of(cloud, max_retries=0), ["one"])
    assert (results["1"].status, results["1"].attempts) == ("failed", 1)


def test_a_server_that_asks_for_an_hour_ends_the_batch(cloud: Emulator, run_all: RunAll) -> None:
    cloud.fail("throttled_for_an_hour", nth=2)
    results = run_all(app_of(cloud), ["one", "two", "three"], concurrency=1)
    assert [results[key].status for key in "123"] == ["answered", "not_started", "not_started"]
    assert results["2"].error is not None
    assert results["2"].error.type == "RateLimitError"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("http_401", "AuthenticationError"),
        ("http_403", "PermissionDeniedError"),
        ("bill_overdue", "BillingError"),
    ],
)
def test_an_error_of_every_prompt_ends_the_batch(cloud: Emulator, fault: str, error: str) -> None:
    cloud.fail(fault, times=100)
    with run_batch(app_of(cloud), [f"p{n}" for n in range(20)], concurrency=1) as batch:
        results = list(batch)
    assert batch.stopped_by == error
    assert [each.status for each in results] == ["failed"] * 3 + ["not_started"] * 17
    assert len(cloud.requests) == 3


def test_concurrency_is_shared_by_the_batches_of_a_process(cloud: Emulator) -> None:
    crowd = Crowd()
    cloud.add_app("crowd", crowd)
    app = app_of(cloud, "crowd")

    def one() -> None:
        assert len(list(run_batch(app, ["x"] * 30, concurrency=3))) == 30

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()

    async def another() -> None:
        assert len([each async for each in arun_batch(app, ["y"] * 30, concurrency=3)]) == 30

    asyncio.run(another())
    for thread in threads:
        thread.join()
    assert crowd.most <= 3


def test_so_many_requests_are_in_flight(cloud: Emulator, run_all: RunAll) -> None:
    crowd = Crowd(size=6)
    cloud.add_app("crowd", crowd)
    assert len(run_all(app_of(cloud, "crowd"), ["x"] * 12, concurrency=6)) == 12
    assert crowd.most == 6


def test_max_concurrency_of_the_app_limits_a_batch(cloud: Emulator, run_all: RunAll) -> None:
    crowd = Crowd(size=2)
    cloud.add_app("crowd", crowd)
    app = app_of(cloud, "crowd", max_concurrency=2)
    assert len(run_all(app, ["x"] * 8, concurrency=8)) == 8
    assert crowd.most == 2


def test_requests_are_spaced_by_the_limit_a_minute(cloud: Emulator, run_all: RunAll) -> None:
    times: list[float] = []

    def app(call: Call) -> str:
        times.append(time.monotonic())
        return "x"

    cloud.add_app("timed", app)
    before = time.monotonic()
    run_all(app_of(cloud, "timed"), ["x"] * 6, concurrency=6, requests_per_minute=1200)
    assert time.monotonic() - before >= 5 * 0.05
    assert len(times) == 6


def test_one_refusal_pauses_all_and_spaces_them_out() -> None:
    pace = Pace()
    sent_at = time.monotonic()
    assert pace.wait_s(None) == 0
    assert pace.refused(sent_at, 5.0)
    assert pace.refused(sent_at, 1.0)  # was in flight, and asks for less
    wait_s = pace.wait_s(None)
    assert wait_s is not None
    assert 4 < wait_s <= 5
    assert pace.pause_s == pytest.approx(wait_s, abs=0.5)


def test_a_batch_whose_requests_are_all_refused_ends() -> None:
    pace = Pace()
    goes_on = [pace.refused(time.monotonic() + n, 0.0) for n in range(1, 12)]
    assert goes_on.index(False) == 9
    pace.answered()
    assert pace.refused(time.monotonic() + 99, 0.0)
    assert not pace.refused(time.monotonic() + 100, 301.0)


def test_a_budget_of_calls_counts_repeated_ones(cloud: Emulator, run_all: RunAll) -> None:
    cloud.fail("throttled_retry_now")
    results = run_all(
        app_of(cloud), [f"p{n}" for n in range(10)], concurrency=1, budget=Budget(calls=4)
    )
    statuses = [results[str(n)].status for n in range(1, 11)]
    assert statuses == ["answered"] * 3 + ["not_started"] * 7
    assert len(cloud.requests) == 4


def test_a_budget_of_tokens_or_time_ends_the_batch(cloud: Emulator, run_all: RunAll) -> None:
    used = TokenUsage(model_id="qwen", input_tokens=7, output_tokens=3)
    cloud.add_app("agent", Agent(text="x", usage=used))
    prompts = [f"p{n}" for n in range(5)]
    results = run_all(app_of(cloud, "agent"), prompts, concurrency=1, budget=Budget(tokens=15))
    assert [each.status for each in results.values()].count("answered") == 2
    results = run_all(app_of(cloud), prompts, budget=Budget(time_s=1e-9))
    assert {each.status for each in results.values()} == {"not_started"}


@pytest.mark.parametrize("limits", [{"calls": 0}, {"tokens": 1.5}, {"time_s": -1}, {"calls": True}])
def test_a_budget_of_nothing_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"budget\.{next(iter(limits))} must be a positive"
    ):
        Budget(**limits)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("concurrency", 0),
        ("concurrency", True),
        ("requests_per_minute", 0),
        ("budget", {"calls": 1}),
    ],
)
def test_wrong_arguments_are_refused_at_once(cloud: Emulator, option: str, value: Any) -> None:
    for function in (run_batch, arun_batch):
        with pytest.raises(InvalidInputError, match=option):
            function(app_of(cloud), ["x"], **{option: value})
    with pytest.raises(InvalidInputError, match="app must be a BailianApp"):
        run_batch("app", ["x"])  # type: ignore[arg-type]


def test_the_input_is_read_as_prompts_are_sent(cloud: Emulator) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "x"

    with run_batch(app_of(cloud), endless(), concurrency=4) as batch:
        for _ in range(10):
            next(batch)
    assert read <= 15


def test_an_async_input_does_not_delay_results(cloud: Emulator) -> None:
    async def run() -> list[str]:
        answered = asyncio.Event()

        async def prompts() -> AsyncIterator[str]:
            yield "first"
            await answered.wait()
            yield "second"

        texts: list[str] = []
        async with arun_batch(app_of(cloud), prompts()) as batch:
            async for result in batch:
                texts.append(result.text or "")
                answered.set()
        return texts

    assert asyncio.run(run()) == ["re: first", "re: second"]


def test_an_error_of_the_input_is_raised_when_all_calls_have_ended(
    cloud: Emulator, run_all: RunAll, tmp_path: Any
) -> None:
    def broken() -> Iterator[str]:
        yield from ("one", "two")
        raise RuntimeError("the input is broken")

    with pytest.raises(RuntimeError, match="the input is broken"):
        run_all(app_of(cloud), broken(), journal=tmp_path / "journal")
    statuses = [each.status for each in read_journal(tmp_path / "journal")]
    assert len(statuses) == 2
    assert statuses.count("answered") == len(cloud.requests)
    assert "unknown" not in statuses


def test_an_id_that_is_used_twice_is_refused(
    cloud: Emulator, run_all: RunAll, tmp_path: Any
) -> None:
    prompts = [{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}]
    for journal in (None, tmp_path / "journal"):
        with pytest.raises(InvalidInputError, match="id 'a' is used twice"):
            run_all(app_of(cloud), prompts, journal=journal)
    prompts = ["x", {"id": 1, "prompt": "y"}]
    for journal in (None, tmp_path / "another"):
        with pytest.raises(InvalidInputError, match="id '1' is used twice"):
            run_all(app_of(cloud), prompts, journal=journal)
    assert "y" not in [request.prompt for request in cloud.requests]


def test_stopping_lets_calls_in_flight_finish(cloud: Emulator) -> None:
    started, release = threading.Semaphore(0), threading.Event()

    def slow(call: Call) -> str:
        started.release()
        release.wait(30)
        return "done"

    cloud.add_app("slow", slow)
    with run_batch(app_of(cloud, "slow"), [f"p{n}" for n in range(9)], concurrency=3) as batch:

        def stop() -> None:
            for _ in range(3):
                started.acquire(timeout=30)
            batch.stop()
            release.set()

        threading.Thread(target=stop).start()
        statuses = [result.status for result in batch]
    assert sorted(statuses) == ["answered"] * 3 + ["not_started"] * 6
    assert batch.stopped_by == "stop"


def test_stopping_does_not_wait_for_a_repetition(
    cloud: Emulator, run_all: RunAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conductor, "retry_delay_s", lambda *_, **__: 3600.0)
    cloud.fail("http_500")
    app = app_of(cloud, idempotent=True)
    results = run_all(app, ["one"], budget=Budget(time_s=0.5))
    assert (results["1"].status, results["1"].attempts) == ("unknown", 1)


def blocked(started: threading.Semaphore) -> Any:
    def app(call: Call) -> str:
        started.release()
        call.disconnected.wait(30)
        return "late"

    return app


def test_closing_ends_the_calls_in_flight_at_once(cloud: Emulator, tmp_path: Any) -> None:
    started = threading.Semaphore(0)
    cloud.add_app("blocked", blocked(started))
    cloud.add_app("mixed", lambda call: "quick" if call.prompt == "0" else blocked(started)(call))
    app, journal = app_of(cloud, "mixed"), tmp_path / "journal"
    with run_batch(app, "0123", journal=journal, concurrency=4) as batch:
        assert next(batch).text == "quick"
        for _ in range(3):
            started.acquire(timeout=30)
    assert all(request.disconnected.wait(30) for request in cloud.requests if request.prompt != "0")

    async def leave() -> None:
        async with arun_batch(app, "0123", journal=tmp_path / "other", concurrency=4) as batch:
            assert (await anext(batch)).text == "quick"
            for _ in range(3):
                await asyncio.to_thread(started.acquire, timeout=30)

    asyncio.run(leave())
    assert all(request.disconnected.wait(30) for request in cloud.requests if request.prompt != "0")
    for path in (journal, tmp_path / "other"):
        statuses = [each.status for each in read_journal(path)]
        assert statuses == ["answered"] + ["unknown"] * 3


def test_the_counts_are_given_after_each_result(cloud: Emulator, run_all: RunAll) -> None:
    seen: list[tuple[int, int]] = []

    def look(counts: BatchCounts) -> None:
        seen.append((counts.done, counts.calls))

    run_all(app_of(cloud), ["a", "b", "c"], concurrency=1, progress=look)
    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_progress_is_a_plain_line_where_there_is_no_terminal(
    cloud: Emulator, run_all: RunAll, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.fail("http_400")
    run_all(app_of(cloud), ["a", "b"], concurrency=1, progress=True)
    assert capsys.readouterr().err == "2 of 2 done, 1 answered, 1 failed, 2 calls, 0 tokens\n"


def test_a_result_keeps_everything_but_the_last_frame(cloud: Emulator, run_all: RunAll) -> None:
    app = app_of(cloud)
    (result,) = run_all(app, ["x"]).values()
    assert isinstance(result.result, AppResult)
    assert result.result.raw == {}
    assert result.result.finish_reason == "stop"


def test_the_app_may_fail_for_some_prompts(cloud: Emulator, run_all: RunAll) -> None:
    def picky(call: Call) -> Any:
        if call.prompt == "bad":
            return Failure(status=400, code="InvalidParameter", message="Bad.")
        return "good"

    cloud.add_app("picky", picky)
    results = run_all(app_of(cloud, "picky"), ["good", "bad", "good"])
    assert [results[key].status for key in "123"] == ["answered", "failed", "answered"]
    line = results["2"].to_dict()
    assert line["error"]["code"] == "InvalidParameter"
    assert "text" not in line
