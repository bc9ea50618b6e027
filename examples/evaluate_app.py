"""Evaluate an app over a set of questions, and fail if it has become worse: for CI.

    pip install "bailian-apps[langchain,batch,emulator]"
    python examples/evaluate_app.py [--set SET.jsonl] [--results RESULTS.jsonl]

It prints a line for each case, with its tokens, its time and why it failed. The exit code is 1 if
less than 80 % passed, or if a case failed that passed in the run that wrote RESULTS.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it evaluates that app in the cloud: bring a set
about what it knows. `BAILIAN_JUDGE_APP_ID` may name an app that judges answers; tell it in the
console to answer with the JSON of `Verdict`. Otherwise it starts the emulator with a travel guide,
which answers one of five questions wrongly, and a judge.
"""

import argparse
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bailian_apps import AppResult, BailianApp, BailianError
from bailian_apps.batch import Budget, run_batch
from bailian_apps.langchain import BailianAppRunnable

THRESHOLD = 0.8
REFUSALS = ("sorry", "cannot", "抱歉", "无法", "不能回答")
SET: list[dict[str, Any]] = [
    {"id": "hours", "question": "When does Lingyin Temple open?", "expect": ["7:30"], "cites": 1},
    {"id": "boat", "question": "What is a boat on West Lake?", "expect": ["55 yuan"]},
    {"id": "tea", "question": "Where does Longjing tea grow?", "expect": ["West Lake"]},
    {"id": "off-topic", "question": "Write my resignation letter", "refuses": True},
    {"id": "rain", "question": "What to do in the rain?", "judge": "Names a place with a roof."},
]


class Case(BaseModel):
    """A line of a set: a question, and what its answer is checked for."""

    id: str
    question: str
    expect: list[str] = []  # words that it has to contain
    cites: int = 0  # how many documents it has to cite
    refuses: bool = False  # whether it has to refuse
    judge: str = ""  # what the judge decides


class Verdict(BaseModel):
    """The judge's answer."""

    passed: bool
    reason: str


def connect(stack: ExitStack) -> tuple[BailianApp, BailianAppRunnable[Verdict] | None]:
    """Return the app to evaluate, and the judge if there is one."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        judge_id = os.environ.get("BAILIAN_JUDGE_APP_ID")
        judge = BailianAppRunnable(app_id=judge_id, output_schema=Verdict) if judge_id else None
        return BailianApp(), judge
    from bailian_apps.emulator import Agent, Emulator, Reference, Rule, Rules, TokenUsage, When

    def says(about: str, text: str, *cited: str) -> Rule:
        references = [Reference(text=passage) for passage in cited]
        usage = TokenUsage(model_id="qwen-plus", input_tokens=40, output_tokens=len(text) // 4)
        return Rule(
            when=When(prompt=about), agent=Agent(text=text, references=references, usage=usage)
        )

    guide = [
        says("Temple", "It opens at 7:30.", "Lingyin Temple: 7:30 to 17:30"),
        says("boat", "A boat is 45 yuan."),
        says("tea", "On the hills west of West Lake."),
        says("rain", "Visit the China National Silk Museum."),
        says("letter", "Sorry, I only know about travelling."),
    ]
    verdict = Agent(text='{"passed": true, "reason": "A museum has a roof."}')
    cloud = stack.enter_context(Emulator(apps={"guide": Rules(rules=guide), "judge": verdict}))
    access: dict[str, Any] = {"api_key": "any", "base_url": cloud.base_url}
    judge = BailianAppRunnable(app_id="judge", output_schema=Verdict, **access)
    return BailianApp(app_id="guide", **access), judge


def faults(case: Case, answer: AppResult, judge: BailianAppRunnable[Verdict] | None) -> list[str]:
    """Return what is wrong with an answer."""
    text = answer.text.lower()
    found = [f"does not say {word!r}" for word in case.expect if word.lower() not in text]
    if len(answer.references) < case.cites:
        found.append(f"cites {len(answer.references)} of {case.cites} documents")
    if case.refuses and not any(word in text for word in REFUSALS):
        found.append("does not refuse")
    if case.judge and judge:
        asked = f"Question: {case.question}\nAnswer: {answer.text}\nCriterion: {case.judge}"
        try:
            verdict = judge.invoke(asked)
            found += [] if verdict.passed else [f"the judge: {verdict.reason}"]
        except BailianError as error:  # such as an answer that is no `Verdict`
            found.append(f"not judged: {error.message}")
    elif case.judge:
        found.append("not judged: set BAILIAN_JUDGE_APP_ID")
    return found


def evaluate(cases: list[Case], journal: Path | None) -> list[dict[str, Any]]:
    """Ask all questions, and check the answers; a run that was killed continues."""
    prompts = [{"id": case.id, "prompt": case.question} for case in cases]
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        app, judge = connect(stack)
        limits: dict[str, Any] = {"concurrency": 4, "budget": Budget(tokens=500_000)}
        batch = stack.enter_context(run_batch(app, prompts, journal=journal, **limits))
        for each in batch:
            row = rows[each.id] = {"id": each.id, "text": each.text, "tokens": 0, "seconds": 0.0}
            if each.result:
                row["why"] = "; ".join(faults(cases[each.position - 1], each.result, judge))
                row["tokens"] = each.result.usage.total_tokens
                row["seconds"] = round((each.result.elapsed_ms or 0) / 1000, 2)
            else:
                row["why"] = f"{each.status}: {each.error.message if each.error else 'the budget'}"
    return [rows[case.id] for case in cases]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate an app over a set of questions.")
    parser.add_argument("--set", type=Path)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    cases = [Case.model_validate(each) for each in (read(given.set) if given.set else SET)]
    before = read(given.results) if given.results and given.results.exists() else []
    journal = given.results and given.results.with_suffix(".journal")
    rows = evaluate(cases, journal)

    for row in rows:
        mark = "FAIL" if row["why"] else "pass"
        print(f"{mark}  {row['id']:<10} {row['tokens']:>5} tokens  {row['seconds']:.2f} s", end="")
        print(f"  {row['why']}".rstrip())
    passed = {row["id"] for row in rows if not row["why"]}
    share = len(passed) / len(rows)
    print(f"{len(passed)} of {len(rows)} passed ({share:.0%})")
    broken = [row["id"] for row in before if not row["why"] and row["id"] not in passed]
    if broken:
        print(f"passed in {given.results}, which is kept: {', '.join(broken)}")
    elif given.results:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        given.results.write_text("".join(lines), encoding="utf-8")
    if journal:
        journal.unlink()  # the next evaluation asks anew
    return int(share < THRESHOLD or bool(broken))


if __name__ == "__main__":
    sys.exit(main())
