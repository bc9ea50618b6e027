"""A batch of background runs: one submission per prompt, whatever becomes of who waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bailian_apps import BailianApp, ConnectError, InvalidInputError
from bailian_apps.background.submission import Submission
from bailian_apps.batch import Budget, arun_batch, read_journal, run_batch
from bailian_apps.emulator import Call, Emulator, Failure
from bailian_apps.transport.responses_api import AsyncRuns

from .conftest import RunAll

PROGRAM = """
import sys
from bailian_apps import BailianApp
from bailian_apps.batch import run_batch

app = BailianApp(app_id="report", base_url=sys.argv[1])
list(run_batch(app, sys.argv[3:], journal=sys.argv[2], background=True))
"""
TEXTS = {"1": "report on a", "2": "report on b", "3": "report on c"}


def report(call: Call) -> str | Failure:
    if call.prompt == "bad":
        return Failure(status=500, code="InvokePluginFailed", message="the plugin is broken")
    if call.prompt == "internal":
        return Failure(status=500, code="InternalError", message="the cloud is broken")
    return f"report on {call.prompt}"


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    with Emulator(apps={"report": report}) as running:
        yield running


@pytest.fixture
def slow_cloud() -> Iterator[Emulator]:
    """Here runs are queued until the clock is moved."""
    with Emulator(apps={"report": report}, background_queue_s=600) as running:
        yield running


def app_of(cloud: Emulator, **settings: Any) -> BailianApp:
    return BailianApp(app_id="report", api_key="sk", base_url=cloud.base_url, **settings)


def paths(cloud: Emulator, method: str) -> set[str]:
    return {request.path for request in cloud.requests if request.method == method}


def posts(cloud: Emulator) -> int:
    return sum(
        request.method == "POST" and not request.path.endswith("/cancel")
        for request in cloud.requests
    )


def wait_for_questions(cloud: Emulator, runs: int) -> None:
    """Wait until so many runs were asked for, whose ids are stored then."""
    ends_at = time.monotonic() + 300
    while len(paths(cloud, "GET")) < runs:
        assert time.monotonic() < ends_at
        time.sleep(0.01)


def killed(cloud: Emulator, journal: Path, *prompts: str) -> None:
    """Kill a batch, of three prompts or those given, while it waits for its runs."""
    prompts = prompts or ("a", "b", "c")
    arguments = [sys.executable, "-c", PROGRAM, cloud.base_url, str(journal), *prompts]
    environment = {**os.environ, "DASHSCOPE_API_KEY": "sk"}
    with subprocess.Popen(arguments, env=environment) as process:
        wait_for_questions(cloud, len(prompts))
        process.send_signal(signal.SIGKILL)


def refuse_submissions(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Refuse all submissions but so many."""
    left = list(range(after))
    submit, asubmit = Submission.submit, Submission.asubmit

    def count() -> None:
        if not left:
            raise ConnectError("refused")
        left.pop()

    def counted(self: Submission, *args: Any) -> Any:
        count()
        return submit(self, *args)

    async def acounted(self: Submission, *args: Any) -> Any:
        count()
        return await asubmit(self, *args)

    monkeypatch.setattr(Submission, "submit", counted)
    monkeypatch.setattr(Submission, "asubmit", acounted)


def test_each_prompt_is_a_run(cloud: Emulator, run_all: RunAll, tmp_path: Path) -> None:
    app = app_of(cloud)
    prompts = ["a", "bad", {"prompt": "c", "id": "last"}]
    results = run_all(app, prompts, journal=tmp_path / "journal", background=True)
    assert (results["1"].text, results["last"].text) == ("report on a", "report on c")
    assert [result.attempts for result in results.values()] == [1, 1, 1]
    failure = results["2"].error
    assert failure is not None
    assert (results["2"].status, failure.type) == ("failed", "AppFailedError")
    assert failure.run_id is not None
    assert app.background_run(failure.run_id).refresh().status == "failed"
    assert posts(cloud) == 3
    again = run_all(app, prompts, journal=tmp_path / "journal", background=True)
    assert {key: value.text for key, value in again.items()} == {
        key: value.text for key, value in results.items()
    }
    assert posts(cloud) == 3
    run_all(app, prompts, journal=tmp_path / "journal", background=True, retry_failed=True)
    assert posts(cloud) == 4


def test_a_killed_batch_picks_up_its_runs(
    slow_cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    killed(slow_cloud, journal)
    runs = paths(slow_cloud, "GET")
    left = list(read_journal(journal))
    assert {result.status for result in left} == {"unknown"}
    assert {result.error and result.error.run_id for result in left} == {
        path.rsplit("/", 1)[-1] for path in runs
    }
    slow_cloud.advance(1000)
    calls_before = posts(slow_cloud)
    app = app_of(slow_cloud)
    results = run_all(app, ["a", "b", "c"], journal=journal, background=True)
    assert {key: result.text for key, result in results.items()} == TEXTS
    assert [result.attempts for result in results.values()] == [1, 1, 1]
    assert posts(slow_cloud) == calls_before == 3
    assert paths(slow_cloud, "GET") == runs


def test_a_killed_batch_that_goes_on_without_it_reports_the_runs(
    slow_cloud: Emulator, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    killed(slow_cloud, journal)
    results = list(run_batch(app_of(slow_cloud), ["a", "b", "c"], journal=journal))
    assert {result.status for result in results} == {"unknown"}
    assert all(result.error and result.error.run_id for result in results)
    assert posts(slow_cloud) == 3


def test_a_run_that_failed_while_nobody_waited_has_failed(
    slow_cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    app = app_of(slow_cloud)
    killed(slow_cloud, journal, "bad")
    slow_cloud.advance(1000)
    (result,) = run_all(app, ["bad"], journal=journal, background=True).values()
    assert result.error is not None
    assert (result.status, result.error.type) == ("failed", "AppFailedError")
    assert result.attempts == 1
    assert "the plugin is broken" in result.error.message
    assert posts(slow_cloud) == 1


def test_a_closed_batch_does_not_wait_for_its_runs(slow_cloud: Emulator, tmp_path: Path) -> None:
    app = app_of(slow_cloud)
    prompts: list[Any] = ["a", 7]
    batch = run_batch(app, prompts, journal=tmp_path / "j", background=True)
    assert next(batch).id == "2"  # no prompt; the first waits for its run
    wait_for_questions(slow_cloud, 1)
    batch.close()
    (left,) = read_journal(tmp_path / "j")
    assert left.status == "unknown"
    assert left.error is not None
    assert left.error.run_id is not None


def test_a_lost_run_is_unknown_and_is_not_submitted_again(
    slow_cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    killed(slow_cloud, journal)
    for path in paths(slow_cloud, "GET"):
        run = app_of(slow_cloud).background_run(path.rsplit("/", 1)[-1])
        run.cancel().delete()
    app = app_of(slow_cloud)
    results = run_all(app, ["a", "b", "c"], journal=journal, background=True)
    assert {result.status for result in results.values()} == {"unknown"}
    assert {result.error and result.error.type for result in results.values()} == {"NotFoundError"}
    assert posts(slow_cloud) == 3


@pytest.mark.parametrize("max_retries", [0, 2])
def test_an_idempotent_app_is_asked_again_if_its_run_is_gone(
    slow_cloud: Emulator, run_all: RunAll, tmp_path: Path, max_retries: int
) -> None:
    journal = tmp_path / "journal"
    killed(slow_cloud, journal)
    for path in paths(slow_cloud, "GET"):
        app_of(slow_cloud).background_run(path.rsplit("/", 1)[-1]).cancel().delete()
    app = app_of(slow_cloud, idempotent=True, max_retries=max_retries)
    with ThreadPoolExecutor(1) as pool:
        going_on = pool.submit(run_all, app, ["a", "b", "c"], journal=journal, background=True)
        wait_for_questions(slow_cloud, 6)
        slow_cloud.advance(1000)
        results = going_on.result()
    assert {key: result.text for key, result in results.items()} == TEXTS
    assert posts(slow_cloud) == 6


def test_a_run_that_is_gone_stays_unknown_if_its_repetition_is_refused(
    slow_cloud: Emulator, run_all: RunAll, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    killed(slow_cloud, journal, "a")
    (path,) = paths(slow_cloud, "GET")
    app = app_of(slow_cloud, idempotent=True)
    app.background_run(path.rsplit("/", 1)[-1]).cancel().delete()
    refuse_submissions(monkeypatch, after=0)
    budget = Budget(calls=1)
    (result,) = run_all(app, ["a"], journal=journal, background=True, budget=budget).values()
    assert result.status == "unknown"
    assert [left.status for left in read_journal(journal)] == ["unknown"]


def test_a_run_that_failed_has_failed_if_its_repetition_is_refused(
    cloud: Emulator, run_all: RunAll, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_submissions(monkeypatch, after=1)
    journal, app = tmp_path / "journal", app_of(cloud, idempotent=True)
    options: dict[str, Any] = {"journal": journal, "background": True, "budget": Budget(calls=2)}
    (result,) = run_all(app, ["internal"], **options).values()
    assert result.status == "failed"
    assert [left.status for left in read_journal(journal)] == ["failed"]
    assert posts(cloud) == 1


def test_the_id_is_kept_if_the_batch_is_closed_while_the_submission_ends(
    slow_cloud: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    closing_connection, close_connection = asyncio.Event(), AsyncRuns.__aexit__

    async def close(*arguments: Any) -> None:
        closing_connection.set()
        try:
            await asyncio.sleep(600)
        finally:
            await close_connection(*arguments)

    async def run() -> None:
        monkeypatch.setattr(AsyncRuns, "__aexit__", close)
        async with arun_batch(app_of(slow_cloud), ["a"], journal=journal, background=True) as batch:
            asking = asyncio.ensure_future(anext(batch))
            await closing_connection.wait()
            asking.cancel()
            await asyncio.wait([asking])

    asyncio.run(run())
    (left,) = read_journal(journal)
    assert left.error is not None
    assert (left.status, left.error.run_id is None) == ("unknown", False)


def test_a_run_whose_id_cannot_be_asked_for_stays_unknown(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    killed(cloud, journal, "a")
    with closing(sqlite3.connect(journal)) as connection, connection:
        row = ("in_flight", '{"run_id": "a/b"}')
        connection.execute("UPDATE prompts SET state = ?, content = ?", row)
    options: dict[str, Any] = {"journal": journal, "background": True, "retry_failed": True}
    for _ in range(2):
        (result,) = run_all(app_of(cloud), ["a"], **options).values()
        assert result.error is not None
        assert (result.status, result.error.run_id) == ("unknown", "a/b")
    assert posts(cloud) == 1


def test_a_question_that_fails_does_not_lose_the_run(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    cloud.fail("http_400", nth=2)
    (left,) = run_all(app_of(cloud), ["a"], journal=journal, background=True).values()
    assert (left.status, left.attempts) == ("unknown", 1)
    assert left.error is not None
    assert left.error.run_id is not None
    (result,) = run_all(app_of(cloud), ["a"], journal=journal, background=True).values()
    assert (result.text, result.attempts, posts(cloud)) == ("report on a", 1, 1)


def test_a_failure_that_an_older_journal_kept_is_no_run(cloud: Emulator, tmp_path: Path) -> None:
    """It left the content of a failure in the row of a prompt that it sent again."""
    journal = tmp_path / "journal"
    list(run_batch(app_of(cloud), ["bad"], journal=journal))
    with closing(sqlite3.connect(journal)) as connection, connection:
        connection.execute("UPDATE prompts SET state = 'in_flight'")
    (left,) = read_journal(journal)
    assert left.error is not None
    assert (left.status, left.error.run_id) == ("unknown", None)
    (result,) = run_batch(app_of(cloud), ["bad"], journal=journal, background=True)
    assert (result.status, posts(cloud)) == ("unknown", 1)


def test_what_a_run_cannot_carry_is_refused_unsent(cloud: Emulator, run_all: RunAll) -> None:
    results = run_all(app_of(cloud), [{"prompt": "a", "session_id": "s"}], background=True)
    error = results["1"].error
    assert error is not None
    assert error.type == InvalidInputError.__name__
    assert not cloud.requests
