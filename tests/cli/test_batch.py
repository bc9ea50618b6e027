"""`batch`: its files, what it refuses before anything is sent, its exit codes, Ctrl-C."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import BAILIAN, bailian, environment, exit_code_of
from support.pages import blocks_of

from bailian_apps.cli.batch_run import (
    BUDGET_REACHED,
    SOME_FAILED,
    SOME_UNKNOWN,
)
from bailian_apps.emulator import Call, Emulator

PAGES = sorted((Path(__file__).parents[2] / "docs").glob("*/batch.md"))


def echo(call: Call) -> str:
    return f"{call.prompt}|{json.dumps(call.biz_params, ensure_ascii=False)}"


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Emulator]:
    with Emulator(apps={"echo": echo}, api_key="sk-mine") as running:
        monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
        monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", running.base_url)
        monkeypatch.setenv("BAILIAN_APP_ID", "echo")
        monkeypatch.chdir(tmp_path)
        yield running


def write_lines(*values: Any) -> None:
    text = "".join(f"{v if isinstance(v, str) else json.dumps(v)}\n" for v in values)
    Path("in.jsonl").write_text(text, encoding="utf-8")


def read_lines(path: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_a_line_in_becomes_a_line_out_in_the_same_order(
    cloud: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(
        {"prompt": "one", "biz_params": {"city": "杭州"}},
        "",
        {"id": "b", "messages": [{"role": "user", "content": "two"}], "temperature": 0.5},
    )
    assert exit_code_of(monkeypatch, "batch", "in.jsonl", "out.jsonl") == 0
    one, two = read_lines()
    assert (one["id"], one["status"], one["text"]) == ("1", "answered", 'one|{"city": "杭州"}')
    assert (two["id"], two["attempts"]) == ("b", 1)
    assert set(one) == {
        "id", "status", "text", "attempts", "session_id", "request_id", "usage",
    }  # fmt: skip
    assert capsys.readouterr().err == "2 of 2 done, 2 answered, 2 calls, 0 tokens\n"
    assert Path("out.jsonl").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in Path().iterdir()) == [
        "in.jsonl", "out.jsonl", "out.jsonl.journal",
    ]  # fmt: skip

    assert exit_code_of(monkeypatch, "batch", "in.jsonl", "out.jsonl") == 0
    assert read_lines() == [one, two]
    assert len(cloud.requests) == 2


def test_all_bad_lines_are_reported_before_anything_is_sent(
    cloud: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(
        {"prompt": "good"},
        {"prompt": ""},
        "not JSON",
        "[1]",
        {"promt": "x"},
        {"prompt": "x", "temperature": 9, "top_p": 2},
        {"id": "a", "prompt": "x"},
        {"id": "a", "prompt": "x"},
        {"prompt": "x", "api_key": "sk-other"},
    )
    assert exit_code_of(monkeypatch, "batch", "in.jsonl", "out.jsonl") == 2
    shown = capsys.readouterr().err
    assert re.findall(r"^line (\d+):", shown, re.M) == ["2", "3", "4", "5", "6", "8", "9"]
    assert "line 6: 2 arguments are not valid: (1) temperature" in shown
    assert "line 8: id 'a' is used twice" in shown
    assert shown.endswith(
        "InvalidInputError: IN has 7 prompts that cannot be sent; nothing was sent\n"
    )
    assert "sk-other" not in shown
    assert cloud.requests == []
    assert not Path("out.jsonl.journal").exists()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_are_read_and_written(
    cloud: Emulator, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    rows = [
        {"id": "a", "prompt": "one", "biz_params.city": "杭州", "temperature": 0.5},
        {"id": "b", "prompt": 'with "quotes",\nand lines', "biz_params.city": None},
    ]
    if kind == "csv":
        with Path("in.csv").open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), "in.parquet")
    cloud.fail("http_400", nth=2)
    code = exit_code_of(monkeypatch, "batch", f"in.{kind}", f"out.{kind}", "--concurrency", "1")
    assert code == SOME_FAILED
    assert cloud.requests[0].parameters["temperature"] == 0.5
    if kind == "csv":
        done = list(csv.DictReader(io.StringIO(Path("out.csv").read_text(encoding="utf-8"))))
    else:
        done = parquet.read_table("out.parquet").to_pylist()
    assert [row["id"] for row in done] == ["a", "b"]
    assert done[0]["text"] == 'one|{"city": "杭州"}'
    assert (done[1]["status"], done[1]["error"], done[1]["code"]) == (
        "failed", "BadRequestError", "InvalidParameter",
    )  # fmt: skip
    assert cloud.requests[1].prompt == rows[1]["prompt"]


@pytest.mark.process
def test_standard_input_and_output_take_json_lines(cloud: Emulator) -> None:
    given = '{"prompt": "one"}\n{"prompt": "two"}\n'
    done = bailian(
        "batch", "-", "-", "--app", "echo", "--concurrency", "1", stdin=given,
        DASHSCOPE_HTTP_BASE_URL=cloud.base_url,
    )  # fmt: skip
    assert done.returncode == 0
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["one|{}", "two|{}"]
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "options", "code", "statuses"),
    [
        ("http_400", [], SOME_FAILED, ["failed", "answered"]),
        ("http_500", [], SOME_UNKNOWN, ["unknown", "answered"]),
        ("http_500", ["--idempotent"], 0, ["answered", "answered"]),
        (None, ["--max-calls", "1"], BUDGET_REACHED, ["answered", "not_started"]),
        ("throttled_for_an_hour", [], 9, ["not_started", "not_started"]),
    ],
)
def test_the_exit_code_says_what_became_of_the_prompts(
    cloud: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str | None,
    options: list[str],
    code: int,
    statuses: list[str],
) -> None:
    write_lines({"prompt": "one"}, {"prompt": "two"})
    if fault is not None:
        cloud.fail(fault)
    command = ["batch", "in.jsonl", "out.jsonl", "--concurrency", "1", *options]
    assert exit_code_of(monkeypatch, *command) == code
    assert [line["status"] for line in read_lines()] == statuses
    to_go_on = f"to go on: bailian-apps {' '.join(command)}\n"
    assert (to_go_on in capsys.readouterr().err) == (code != 0)


def test_the_command_that_goes_on_shows_no_credential(
    cloud: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.add_app("echo", lambda call: "not an echo")
    write_lines({"prompt": "one"}, {"prompt": "two"})
    tokens = '{"user_defined_tokens": {"p": {"user_token": "hidden-1"}}, "city": "x"}'
    command = ["batch", "in.jsonl", "out.jsonl", "--max-calls", "1", "--concurrency", "1"]
    command += ["--biz", "access_token=hidden-2", "--biz-json", tokens, "--biz=token=hidden-3"]
    command += ["--set", 'extra_headers:={"X-Tenant": "hidden-4"}']
    command += ["--set", 'secret_biz_params:=["pin"]', "--biz", "pin=hidden-5"]
    assert exit_code_of(monkeypatch, *command) == BUDGET_REACHED
    shown = capsys.readouterr().err
    assert "to go on: bailian-apps batch in.jsonl" in shown
    assert '"city": "x"' in shown
    written = b"".join(path.read_bytes() for path in Path().glob("out*"))
    assert "hidden" not in shown
    assert b"hidden" not in written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.txt", "out.jsonl"], "IN must end in one of .jsonl, .ndjson, .csv, .parquet, or be -"),
        (["none.jsonl", "out.jsonl"], "IN cannot be read: No such file or directory"),
        (["in.jsonl", "none/out.jsonl"], "OUT is in a folder that does not exist"),
        (["in.jsonl", "in.jsonl"], "OUT exists already. Delete it, or pass another path"),
        (["in.jsonl", "out.jsonl", "--max-calls", "0"], "budget.calls must be a positive integer"),
        (["in.jsonl", "out.jsonl", "--journal", "in.jsonl"], "journal is not a journal"),
    ],
)
def test_wrong_arguments_are_refused(
    cloud: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    write_lines({"prompt": "one"})
    assert exit_code_of(monkeypatch, "batch", *arguments) == 2
    assert message in capsys.readouterr().err
    assert cloud.requests == []


class Slow:
    """An app whose calls wait until they are released, or their client leaves."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.release = threading.Event()

    def __call__(self, call: Call) -> str:
        self.started.release()
        while not (self.release.wait(0.05) or call.disconnected.is_set()):
            pass
        return "done"


@pytest.mark.process
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_finishes_calls_in_flight_and_twice_ends_them(
    cloud: Emulator, tmp_path: Path, presses: int
) -> None:
    slow = Slow()
    cloud.add_app("slow", slow)
    write_lines(*({"prompt": f"p{n}"} for n in range(6)))
    command = [BAILIAN, "batch", "in.jsonl", "out.jsonl", "--app", "slow", "--concurrency", "2"]
    variables = environment(DASHSCOPE_HTTP_BASE_URL=cloud.base_url)
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for _ in range(2):
            assert slow.started.acquire(timeout=60)
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == (
            "finishing 2 requests in flight; Ctrl-C again ends them\n"
        )
        if presses == 2:
            process.send_signal(signal.SIGINT)
        else:
            slow.release.set()
        shown = process.stderr.read()
        assert process.wait(60) == 130
    assert shown.endswith(f"to go on: bailian-apps {' '.join(command[1:])}\n")
    if presses == 1:
        statuses = [line["status"] for line in read_lines()]
        assert statuses == ["answered"] * 2 + ["not_started"] * 4
    else:
        assert not Path("out.jsonl").exists()
    slow.release.set()
    done = bailian(*command[1:], DASHSCOPE_HTTP_BASE_URL=cloud.base_url)
    statuses = [line["status"] for line in read_lines()]
    if presses == 1:
        assert (done.returncode, statuses) == (0, ["answered"] * 6)
    else:
        assert (done.returncode, statuses) == (SOME_UNKNOWN, ["unknown"] * 2 + ["answered"] * 4)
    assert len(cloud.requests) == 6


def test_a_batch_of_background_runs(cloud: Emulator) -> None:
    write_lines({"prompt": "a"}, {"prompt": "b"})
    command = ["batch", "in.jsonl", "out.jsonl", "--app", "echo", "--background"]
    done = bailian(*command, DASHSCOPE_HTTP_BASE_URL=cloud.base_url)
    assert (done.returncode, [line["status"] for line in read_lines()]) == (0, ["answered"] * 2)
    assert {request.method for request in cloud.requests} == {"POST", "GET"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parent.name)
def test_the_page_lists_the_exit_codes(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    for code in (SOME_FAILED, SOME_UNKNOWN, BUDGET_REACHED, 130):
        assert f"| {code} |" in page


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parent.name)
def test_the_command_and_the_lines_of_the_page_fit(
    path: Path, cloud: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = path.read_text(encoding="utf-8")
    line_in, line_out = blocks_of(page, "json")
    Path("in.jsonl").write_text(line_in, encoding="utf-8")
    [command] = re.findall(r"^bailian-apps (batch in\.jsonl .*)$", page, re.M)
    arguments = command.replace("APP_ID", "echo").split()
    assert exit_code_of(monkeypatch, *arguments) == 0
    [line] = read_lines()
    documented = json.loads(line_out)
    assert (line["id"], set(line)) == (documented["id"], set(documented))
    assert set(line["usage"]) <= set(documented["usage"])
