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

from pydantic import BaseModel, ValidationError

from bailian_apps import AppResult, BailianApp, BailianError
from bailian_apps.batch import Budget, run_batch
from bailian_apps.langchain import BailianAppRunnable

THRESHOLD = 0.8
REFUSALS = ("sorry", "cannot", "抱歉", "无法", "不能回答")


class Case(BaseModel, extra="forbid"):
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


SET = [
    Case(id="hours", question="When does Lingyin Temple open?", expect=["7:30"], cites=1),
    Case(id="boat", question="What is a boat on West Lake?", expect=["55 yuan"]),
    Case(id="tea", question="Where does Longjing tea grow?", expect=["West Lake"]),
    Case(id="off-topic", question="Write my resignation letter", refuses=True),
    Case(id="rain", question="What to do in the rain?", judge="Names a place with a roof."),
]
ANSWERS = {  # of the emulator's guide, by a word of the question
    "Temple": "It opens at 7:30.",
    "boat": "A boat is 45 yuan.",
    "tea": "On the hills west of West Lake.",
    "letter": "Sorry, I only know about travelling.",
    "rain": "Visit the China National Silk Museum.",
}


def connect(stack: ExitStack) -> tuple[BailianApp, BailianAppRunnable[Verdict] | None]:
    """Return the app to evaluate, and the judge if there is one."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        judge_id = os.environ.get("BAILIAN_JUDGE_APP_ID")
        judge = BailianAppRunnable(app_id=judge_id, output_schema=Verdict) if judge_id else None
        return BailianApp(), judge
    from bailian_apps.emulator import Agent, Emulator, Reference, Rule, Rules, TokenUsage, When

    cited = [Reference(text="Lingyin Temple: 7:30 to 17:30")]
    rules: list[Rule] = []
    for word, text in ANSWERS.items():
        usage = TokenUsage(model_id="qwen-plus", input_tokens=40, output_tokens=len(text) // 4)
        agent = Agent(text=text, references=cited, usage=usage)
        rules.append(Rule(when=When(prompt=word), agent=agent))
    verdict = Agent(text='{"passed": true, "reason": "A museum has a roof."}')
    cloud = stack.enter_context(Emulator(apps={"guide": Rules(rules=rules), "judge": verdict}))
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


def evaluate(cases: list[Case]) -> list[dict[str, Any]]:
    """Ask all questions, and check the answers."""
    prompts = [{"id": case.id, "prompt": case.question} for case in cases]
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        app, judge = connect(stack)
        batch = run_batch(app, prompts, concurrency=4, budget=Budget(tokens=500_000))
        for each in stack.enter_context(batch):
            row = rows[each.id] = {"id": each.id, "text": each.text, "tokens": 0, "seconds": 0.0}
            if each.result:
                row["why"] = "; ".join(faults(cases[each.position - 1], each.result, judge))
                row["tokens"] = each.result.usage.total_tokens
                row["seconds"] = round((each.result.elapsed_ms or 0) / 1000, 2)
            else:
                row["why"] = f"{each.status}: {each.error.message if each.error else 'the budget'}"
    return [rows[case.id] for case in cases]


def read_set(path: Path) -> list[Case]:
    """Read a set, and say in which line it is wrong."""
    cases: list[Case] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                cases += [Case.model_validate_json(line)] if line.strip() else []
            except ValidationError as error:
                first = error.errors()[0]
                sys.exit(f"{path}, line {number}: {first['msg']} {first['loc'] or ''}")
    return cases or sys.exit(f"{path}: no cases")


def main() -> int:
    """Evaluate, and compare with the results before."""
    parser = argparse.ArgumentParser(description="Evaluate an app over a set of questions.")
    parser.add_argument("--set", type=Path)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    cases = read_set(given.set) if given.set else SET
    before: list[dict[str, Any]] = []
    if given.results and given.results.exists():
        with given.results.open(encoding="utf-8") as lines:
            before = [json.loads(line) for line in lines]
    rows = evaluate(cases)

    for row in rows:
        mark = "FAIL" if row["why"] else "pass"
        print(f"{mark}  {row['id']:<10} {row['tokens']:>5} tokens  {row['seconds']:.2f} s", end="")
        print(f"  {row['why']}".rstrip())
    failed = {row["id"] for row in rows if row["why"]}
    passed = len(rows) - len(failed)
    print(f"{passed} of {len(rows)} passed ({passed / len(rows):.0%})")
    broken = [row["id"] for row in before if not row["why"] and row["id"] in failed]
    if broken:
        print(f"passed in {given.results}, which is kept: {', '.join(broken)}")
    elif given.results:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        given.results.write_text("".join(lines), encoding="utf-8")
    return int(passed / len(rows) < THRESHOLD or bool(broken))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BailianError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
