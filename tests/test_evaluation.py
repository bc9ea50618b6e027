"""The example and the pages that evaluate an app: what passes, what fails, and what leaves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.collector import collector
from support.pages import LANGUAGES, blocks
from support.scripts import ENVIRONMENT, Done, run_script

from bailian_apps.emulator import RECORDINGS, Agent, Call, Emulator, Reference

pytestmark = pytest.mark.process

EXAMPLE = Path(__file__).parents[1] / "examples/evaluate_app.py"


def evaluate(folder: Path, *arguments: str, **variables: str) -> Done:
    """Run the example."""
    done = subprocess.run(
        [sys.executable, EXAMPLE, *arguments],
        cwd=folder,
        env=ENVIRONMENT | variables,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def verdicts(done: Done) -> dict[str, str]:
    """Whether each case passed."""
    return {name: mark for mark, name in re.findall(r"^(pass|FAIL)  (\S+)", done.stdout, re.M)}


def on(cloud: Emulator, **more: str) -> dict[str, str]:
    """The variables with which the example evaluates an app of `cloud`."""
    variables = {"DASHSCOPE_API_KEY": "sk-mine", "BAILIAN_APP_ID": "mine"}
    return variables | {"DASHSCOPE_HTTP_BASE_URL": cloud.base_url} | more


def test_the_example_shows_what_failed_as_the_pages_say(tmp_path: Path) -> None:
    done = evaluate(tmp_path)
    assert (done.exit_code, done.stderr) == (0, "")
    shown = re.sub(r"\d\.\d\d s", "", done.stdout)
    for language in LANGUAGES:
        assert re.sub(r"\d\.\d\d s", "", blocks("evaluation", "text", language)[0]) == shown


def test_an_app_that_knows_nothing_of_the_set_fails(tmp_path: Path) -> None:
    with Emulator(apps={"mine": RECORDINGS / "travel-workflow.jsonl"}, api_key="sk-mine") as cloud:
        done = evaluate(tmp_path, **on(cloud))
        assert {request.app_id for request in cloud.requests} == {"mine"}  # there is no judge
    assert (done.exit_code, done.stderr) == (1, "")
    assert "FAIL  hours         85 tokens" in done.stdout
    assert "does not say '7:30'; cites 0 of 1 documents" in done.stdout
    assert "does not refuse" in done.stdout
    assert "not judged: set BAILIAN_JUDGE_APP_ID" in done.stdout
    assert "0 of 5 passed (0%)" in done.stdout


def test_a_case_that_passed_before_and_fails_now_is_named_and_the_file_is_kept(
    tmp_path: Path,
) -> None:
    cases = [{"id": str(n), "question": f"question {n}", "expect": ["yes"]} for n in range(10)]
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    (tmp_path / "set.jsonl").write_text(lines, encoding="utf-8")
    arguments = ("--set", "set.jsonl", "--results", "results.jsonl")
    wrong = "question 3"

    def answer(call: Call) -> str:
        return "no" if call.prompt == wrong else "Yes."

    with Emulator(apps={"mine": answer}, api_key="sk-mine") as cloud:
        first = evaluate(tmp_path, *arguments, **on(cloud))
        assert (first.exit_code, first.stderr) == (0, "")
        kept = (tmp_path / "results.jsonl").read_bytes()
        wrong = "question 7"
        second = evaluate(tmp_path, *arguments, **on(cloud))
        assert len(cloud.requests) == 20  # a finished run is not continued
    assert second.exit_code == 1
    assert second.stdout.endswith(
        "9 of 10 passed (90%)\npassed in results.jsonl, which is kept: 7\n"
    )
    assert (tmp_path / "results.jsonl").read_bytes() == kept
    assert {path.name for path in tmp_path.iterdir()} == {"set.jsonl", "results.jsonl"}


def test_a_case_that_left_the_set_is_not_missed(tmp_path: Path) -> None:
    cases = [json.dumps({"id": name, "question": name}) + "\n" for name in ("old", "new")]
    arguments = ("--set", "set.jsonl", "--results", "results.jsonl")
    with Emulator(apps={"mine": lambda _: "one\u2028two"}, api_key="sk-mine") as cloud:
        for lines in (cases[:1], cases[1:]):
            (tmp_path / "set.jsonl").write_text("".join(lines), encoding="utf-8")
            done = evaluate(tmp_path, *arguments, **on(cloud))
            assert (done.exit_code, done.stderr) == (0, "")
    [row] = (tmp_path / "results.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert (json.loads(row)["id"], json.loads(row)["text"]) == ("new", "one\u2028two")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("", "set.jsonl: no cases\n"),
        ('{"id": "1", "question": "?"}\n{"id": "2",\n', "set.jsonl, line 2: Invalid JSON: "),
        ('{"id": "1", "question": "?", "expects": []}\n', "set.jsonl, line 1: Extra inputs are"),
        ('{"id": "1", "question": "?"}\n' * 2, "InvalidInputError: "),
        (None, "FileNotFoundError: "),
    ],
)
def test_a_set_that_is_wrong_is_refused_in_one_line(
    lines: str | None, why: str, tmp_path: Path
) -> None:
    if lines is not None:
        (tmp_path / "set.jsonl").write_text(lines, encoding="utf-8")
    with Emulator(apps={"mine": lambda _: "7:30"}, api_key="sk-mine") as cloud:
        done = evaluate(tmp_path, "--set", "set.jsonl", **on(cloud))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(why)
    assert len(done.stderr.splitlines()) == 1


def test_the_judge_decides_and_one_that_answers_otherwise_is_named(tmp_path: Path) -> None:
    case = {"id": "rain", "question": "What to do?", "judge": "Names a place with a roof."}
    (tmp_path / "set.jsonl").write_text(json.dumps(case), encoding="utf-8")
    answers = iter(['{"passed": false, "reason": "a park has none"}', "No."])
    with Emulator(apps={"mine": lambda _: "Go to the park."}, api_key="sk-mine") as cloud:
        cloud.add_app("judge", lambda _: next(answers))
        variables = on(cloud, BAILIAN_JUDGE_APP_ID="judge")
        refused, unread = (evaluate(tmp_path, "--set", "set.jsonl", **variables) for _ in range(2))
        asked = cloud.requests[1].prompt
    assert refused.exit_code == unread.exit_code == 1
    assert "the judge: a park has none" in refused.stdout
    assert "FAIL  rain" in unread.stdout
    assert "not judged: " in unread.stdout
    assert asked == (
        "Question: What to do?\nAnswer: Go to the park.\nCriterion: Names a place with a roof."
    )


def test_a_question_that_fails_does_not_end_the_evaluation(tmp_path: Path) -> None:
    with Emulator(apps={"mine": lambda _: "Sorry, 7:30"}, api_key="sk-mine") as cloud:
        cloud.fail("http_400", nth=2)
        done = evaluate(tmp_path, **on(cloud))
    assert len(verdicts(done)) == 5
    assert "  failed: " in done.stdout


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_code_in_the_page_runs_and_nothing_leaves(language: str, tmp_path: Path) -> None:
    code = "\n".join(blocks("evaluation", "python", language)).replace('"…"', '"judge"')
    guide = Agent(text="7:30", references=[Reference(title="hours", text="7:30 to 17:30")])

    def judge(call: Call) -> str:
        return "YES" if "YES or NO" in (call.prompt or "") else "4.5\nIt is the same hour."

    with (
        collector() as server,
        Emulator(apps={"mine": guide, "judge": judge}, api_key="sk-mine") as cloud,
    ):
        environment = ENVIRONMENT | on(cloud, LANGSMITH_ENDPOINT=server.url)
        done = run_script(code, tmp_path, environment)
        asked = [request.app_id for request in cloud.requests]
    assert done.exit_code == 0, done.stderr
    assert server.requests == []
    assert asked == ["mine"] * 5 + ["judge"] * 2
    lines = done.stdout.splitlines()
    assert sorted(lines[:2])[1] == "hours pass"
    assert sorted(line for line in lines if line.startswith("says_it")) == [
        "says_it False 7:30",
        "says_it True 7:30",
    ]
    assert lines[-2].endswith("True")
    assert lines[-1].endswith("True 4.5 It is the same hour.")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_set_in_the_page_is_one_that_the_example_reads(language: str, tmp_path: Path) -> None:
    lines = blocks("evaluation", "json", language)[0]
    (tmp_path / "set.jsonl").write_text(lines, encoding="utf-8")
    with Emulator(apps={"mine": lambda _: "7:30"}, api_key="sk-mine") as cloud:
        done = evaluate(tmp_path, "--set", "set.jsonl", **on(cloud))
    assert set(verdicts(done)) == {"hours", "off-topic", "rain"}
