"""The journal: a batch that was killed goes on, and asks nothing twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bailian_apps import BailianApp, DocReference, InvalidInputError, ModelUsage, Step, Usage
from bailian_apps.batch import BatchResult, Budget, read_journal, run_batch
from bailian_apps.batch.values import KILLED, dump_result, load_result
from bailian_apps.core.result import AppResult
from bailian_apps.emulator import Call, Emulator

from .conftest import RunAll

# A batch of which two prompts are answered and two are in flight when it is killed.
PROGRAM = """
import sys
from bailian_apps import BailianApp
from bailian_apps.batch import run_batch
base_url, journal = sys.argv[1:]
app = BailianApp(app_id="half", api_key="sk-mine", base_url=base_url)
for result in run_batch(app, ["a", "b", "hang", "hang", "c"], journal=journal, concurrency=4):
    print(result.id, flush=True)
"""


class Half:
    """An app that answers, but not the prompt `hang` while `hangs` is set."""

    def __init__(self) -> None:
        self.hangs = True
        self.hanging = threading.Semaphore(0)

    def __call__(self, call: Call) -> str:
        if call.prompt == "hang" and self.hangs:
            self.hanging.release()
            call.disconnected.wait(60)
        return f"re: {call.prompt}"


@pytest.fixture
def half() -> Half:
    return Half()


@pytest.fixture
def cloud(half: Half) -> Iterator[Emulator]:
    apps: dict[str, Any] = {"half": half, "echo": lambda call: f"re: {call.prompt}"}
    with Emulator(apps=apps, api_key="sk-mine") as running:
        yield running


def app_of(cloud: Emulator, app_id: str = "echo", **settings: Any) -> BailianApp:
    return BailianApp(app_id=app_id, api_key="sk-mine", base_url=cloud.base_url, **settings)


def kill_a_batch(cloud: Emulator, half: Half, journal: Path) -> None:
    """Run the program until two prompts hang and the others are answered, then kill it."""
    command = [sys.executable, "-c", PROGRAM, cloud.base_url, str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert {process.stdout.readline().strip() for _ in range(3)} == {"1", "2", "5"}
        for _ in range(2):
            assert half.hanging.acquire(timeout=60)
        process.send_signal(signal.SIGKILL)
    half.hangs = False


@pytest.mark.process
def test_a_killed_batch_goes_on_without_a_second_request(
    cloud: Emulator, half: Half, run_all: RunAll, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    kill_a_batch(cloud, half, journal)
    prompts = ["a", "b", "hang", "hang", "c", "d"]
    results = run_all(app_of(cloud, "half"), prompts, journal=journal)
    assert [results[key].status for key in "123456"] == [
        "answered", "answered", "unknown", "unknown", "answered", "answered",
    ]  # fmt: skip
    assert results["1"].text == "re: a"
    assert [results[key].from_journal for key in "126"] == [True, True, False]
    assert (results["3"].error, results["3"].attempts) == (KILLED, 1)
    assert len(cloud.requests) == 6

    app = app_of(cloud, "half", idempotent=True)
    results = run_all(app, prompts, journal=journal)
    assert {each.status for each in results.values()} == {"answered"}
    assert [results[key].attempts for key in "123456"] == [1, 1, 2, 2, 1, 1]
    assert len(cloud.requests) == 8


def test_what_was_answered_is_not_asked_again(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    first = run_all(app_of(cloud), "abcdef", journal=journal, budget=Budget(calls=4))
    assert [each.status for each in first.values()].count("answered") == 4
    second = run_all(app_of(cloud), "abcdef", journal=journal)
    assert [second[key].text for key in "123456"] == [f"re: {letter}" for letter in "abcdef"]
    assert sum(each.from_journal for each in second.values()) == 4
    assert sorted(request.prompt or "" for request in cloud.requests) == list("abcdef")
    assert [each.text for each in read_journal(journal)] == [f"re: {each}" for each in "abcdef"]


def test_failed_prompts_are_asked_again_on_request_only(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    journal, app = tmp_path / "journal", app_of(cloud)
    cloud.fail("http_400")
    cloud.fail("http_500", nth=2)
    run_all(app, "abc", journal=journal, concurrency=1)
    again = run_all(app, "abc", journal=journal)
    assert [again[key].status for key in "123"] == ["failed", "unknown", "answered"]
    assert again["1"].error is not None
    assert (again["1"].error.type, again["1"].error.code) == ("BadRequestError", "InvalidParameter")
    assert len(cloud.requests) == 3
    again = run_all(app, "abc", journal=journal, retry_failed=True)
    assert [again[key].status for key in "123"] == ["answered", "unknown", "answered"]
    assert (again["1"].attempts, len(cloud.requests)) == (2, 4)


def test_a_prompt_that_was_refused_is_not_in_flight_while_it_waits(
    cloud: Emulator, tmp_path: Path
) -> None:
    cloud.fail("throttled_for_an_hour")
    list(run_batch(app_of(cloud), "ab", journal=tmp_path / "journal", concurrency=1))
    first, second = read_journal(tmp_path / "journal")
    assert (first.status, first.attempts) == ("not_started", 1)
    assert first.error is not None
    assert first.error.type == "RateLimitError"
    assert (second.status, second.attempts) == ("not_started", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"app_id": "half"}, "app_id differs"),
        ({"temperature": 0.5}, "temperature differs"),
        ({"biz_params": {"city": "北京"}}, "biz_params differs"),
    ],
    ids=str,
)
def test_the_journal_of_other_settings_is_refused(
    cloud: Emulator, run_all: RunAll, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    app = app_of(cloud)
    run_all(app, "ab", journal=tmp_path / "journal")
    other = BailianApp(app.settings.with_overrides(change))
    with pytest.raises(InvalidInputError, match=f"journal belongs to another batch: {message}"):
        run_all(other, "ab", journal=tmp_path / "journal")
    assert len(cloud.requests) == 2


def test_the_journal_of_another_input_is_refused(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    app, journal = app_of(cloud), tmp_path / "journal"
    run_all(app, "ab", journal=journal)
    others = [{"id": "x", "prompt": "a"}]
    with pytest.raises(InvalidInputError, match="journal belongs to a batch of other prompts"):
        run_all(app, others, journal=journal)
    with pytest.raises(InvalidInputError, match="another prompt with the id '2'"):
        run_all(app, "ax", journal=journal)
    assert [each.text for each in run_all(app, "abc", journal=journal).values()][-1] == "re: c"


def test_what_does_not_change_the_question_may_change(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    token = {"user_defined_tokens": {"plugin": {"user_token": "first-token"}}}
    prompts = [{"prompt": "a", "biz_params": token}]
    run_all(app_of(cloud), prompts, journal=journal)
    token["user_defined_tokens"]["plugin"]["user_token"] = "second-token"
    app = app_of(cloud, timeout=5, max_retries=7, idempotent=True, max_concurrency=3)
    assert run_all(app, prompts, journal=journal)["1"].from_journal

    journal = tmp_path / "another"
    for pin, timeout in (("hidden-1", 5), ("hidden-2", 6)):
        app = app_of(cloud, secret_biz_params=["pin"])
        prompts = [{"prompt": "a", "biz_params": {"pin": pin}, "timeout": timeout}]
        assert run_all(app, prompts, journal=journal)["1"].status == "answered"


def test_another_image_is_another_input(cloud: Emulator, run_all: RunAll, tmp_path: Path) -> None:
    first, second = (b"\x89PNG\r\n\x1a\n" + bytes([each] * 90) for each in (1, 2))
    prompt: dict[str, Any] = {"prompt": "a", "image_list": [first]}
    run_all(app_of(cloud), [prompt], journal=tmp_path / "journal")
    assert run_all(app_of(cloud), [prompt], journal=tmp_path / "journal")["1"].from_journal
    with pytest.raises(InvalidInputError, match="belongs to a batch of other prompts"):
        run_all(app_of(cloud), [{**prompt, "image_list": [second]}], journal=tmp_path / "journal")


def test_what_may_have_run_stays_unknown_when_its_repetition_is_refused(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    journal, again = tmp_path / "journal", app_of(cloud, idempotent=True)
    cloud.fail("close_before_headers")
    run_all(app_of(cloud), "a", journal=journal)
    for fault in ("throttled_for_an_hour", "http_400"):
        cloud.fail(fault)
        assert run_all(again, "a", journal=journal)["1"].status == "unknown"
        (stored,) = read_journal(journal)
        assert stored.status == "unknown"
    run_all(again, "a", journal=journal, budget=Budget(time_s=1e-9))
    assert run_all(app_of(cloud), "a", journal=journal)["1"].attempts == 3
    assert len(cloud.requests) == 3


def test_what_was_refused_after_an_attempt_that_may_have_run_is_unknown(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    cloud.fail("close_before_headers")
    cloud.fail("throttled_for_an_hour", nth=2)
    app = app_of(cloud, idempotent=True)
    assert run_all(app, "a", journal=tmp_path / "journal")["1"].status == "unknown"
    (stored,) = read_journal(tmp_path / "journal")
    assert (stored.status, stored.attempts) == ("unknown", 2)


def test_a_failure_stays_when_its_repetition_was_not_sent(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    cloud.fail("http_400", times=2)
    journal, app = tmp_path / "journal", app_of(cloud)
    run_all(app, "ab", journal=journal)
    # One takes the turn of this minute, the other waits for the next one when the batch ends.
    options: dict[str, Any] = {"requests_per_minute": 1, "budget": Budget(time_s=0.5)}
    results = run_all(app, "ab", journal=journal, retry_failed=True, **options)
    assert sorted(each.status for each in results.values()) == ["answered", "failed"]
    assert sorted(each.status for each in read_journal(journal)) == ["answered", "failed"]


def test_an_answer_with_half_of_a_surrogate_pair_is_kept(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    cloud.add_app("echo", lambda call: "half \ud83d")
    text = run_all(app_of(cloud), "a", journal=tmp_path / "journal")["1"].text
    assert run_all(app_of(cloud), "a", journal=tmp_path / "journal")["1"].text == text


def test_a_journal_is_of_one_batch_at_a_time(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    with run_batch(app_of(cloud), "ab", journal=journal) as batch:
        next(batch)
        with pytest.raises(InvalidInputError, match="journal is in use by another batch"):
            run_all(app_of(cloud), "ab", journal=journal)
        code = f"from bailian_apps.batch import read_journal; list(read_journal({str(journal)!r}))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert "journal is in use by another batch" in done.stderr
    assert len(run_all(app_of(cloud), "ab", journal=journal)) == 2


@pytest.mark.parametrize("content", [b"not a database" * 100, b"\0" * 4096, "other"], ids=str)
def test_a_file_that_is_no_journal_is_refused_and_kept(
    cloud: Emulator, tmp_path: Path, content: bytes | str
) -> None:
    path = tmp_path / "file"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE mine (a)")
        connection.close()
    before = path.read_bytes()
    with pytest.raises(InvalidInputError, match="journal is not a journal"):
        list(run_batch(app_of(cloud), "ab", journal=path))
    assert path.read_bytes() == before
    with pytest.raises(InvalidInputError, match="journal cannot be opened: No such file"):
        list(run_batch(app_of(cloud), "ab", journal=tmp_path / "none" / "journal"))
    with pytest.raises(InvalidInputError, match="journal does not exist"):
        list(read_journal(tmp_path / "none"))


def test_the_journal_holds_no_secret_and_is_its_owners(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    app = app_of(
        cloud,
        biz_params={"user_defined_params": {"mcp": {"Authorization": "hidden-4711"}}},
        extra_headers={"X-Tenant": "hidden-4711"},
    )
    prompts = [{"prompt": "a", "biz_params": {"apiKey": "hidden-0815"}}, {"prompt": "a secret"}]
    before = os.umask(0)
    try:
        run_all(app, prompts, journal=tmp_path / "journal")
    finally:
        os.umask(before)
    files = list(tmp_path.iterdir())
    content = b"".join(file.read_bytes() for file in files)
    for secret in (b"sk-mine", b"hidden-4711", b"hidden-0815", b"hidden"):
        assert secret not in content
    assert b"re: a" in content
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_disk_that_is_full_ends_the_batch_with_an_error(
    cloud: Emulator, run_all: RunAll, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = tmp_path / "journal"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
        with pytest.raises(InvalidInputError, match="journal cannot be written"):
            run_all(app_of(cloud), [f"{n}" * 3000 for n in range(60)], journal=journal)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    sent = len(cloud.requests)
    assert 0 < sent < 60
    known = [each.status for each in read_journal(journal)]
    assert known.count("answered") + known.count("unknown") == sent


def test_an_answer_comes_back_whole() -> None:
    answer = AppResult(
        text="杭州 <ref>[1]</ref>",
        reasoning="Hm.",
        reasoning_steps=("thought-0",),
        steps=(
            Step(
                id="a", kind="node", name="大模型", status="success", input={"x": [1]}, output="y"
            ),
            Step(
                id="b",
                kind="tool",
                name="t",
                usage=Usage(models=(ModelUsage(model_id="m", input_tokens=1),)),
            ),
        ),
        references=(DocReference(index_id="1", title="t", images=("u",), page_number=(1, 2)),),
        usage=Usage(models=(ModelUsage(model_id="m", input_tokens=1, output_tokens=2),)),
        session_id="s",
        request_id="r",
        finish_reason="stop",
        attempts=3,
    )
    assert load_result(dump_result(answer)) == answer


def test_credentials_in_a_step_are_not_written() -> None:
    given = {"city": "x", "user_token": "hidden-1", "body": '{"api_key": "hidden-2"}'}
    step = Step(id="a", kind="tool", name="t", input=given, output={"access_token": "hidden-3"})
    text = dump_result(AppResult(text="x", steps=(step,)))
    assert "hidden" not in text
    assert load_result(text).steps[0].input["city"] == "x"


def test_a_result_without_a_journal_and_with_one_are_the_same(
    cloud: Emulator, run_all: RunAll, tmp_path: Path
) -> None:
    def comparable(result: BatchResult) -> dict[str, Any]:
        line = result.to_dict()
        return {name: value for name, value in line.items() if not name.endswith("_id")}

    without = run_all(app_of(cloud), "a")["1"]
    run_all(app_of(cloud), "a", journal=tmp_path / "journal")
    (stored,) = read_journal(tmp_path / "journal")
    assert comparable(stored) == comparable(without)
