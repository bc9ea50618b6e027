"""Runs to draw: one of every kind of step and state, and one with everything that is hostile."""

from __future__ import annotations

import json
from typing import Any

from bailian_apps import AppResult, DocReference, ModelUsage, Step, Usage


def step(
    id_: str,
    started: float | None = None,
    first: float | None = None,
    ended: float | None = None,
    **fields: Any,
) -> Step:
    values = {"kind": "node", "name": id_, "type": "LLM", "status": "success"} | fields
    times = {"started_ms": started, "first_token_ms": first, "ended_ms": ended}
    return Step(id=id_, **times, **values)


def usage(*models: tuple[str, int, int]) -> Usage:
    return Usage(
        models=tuple(ModelUsage(model_id=m, input_tokens=i, output_tokens=o) for m, i, o in models)
    )


PASSAGES = json.dumps(
    [
        {"text": "苏堤春晓是西湖十景之首。", "score": 0.873, "title": "Guide", "doc_id": "d1"},
        {"text": "The temple opens at 07:00.", "score": 0.741, "title": "Temples", "page": 12},
    ],
    ensure_ascii=False,
)

TRIP = AppResult(
    text="Begin at dawn<ref>[1]</ref>, then the temple<ref>[2,9]</ref>.",
    steps=(
        step("start", 100, None, 101, name="开始", type="Start", duration_ms=0.0),
        step("facts", 110, None, 1300, name="Gather facts", type="Iteration"),
        step("guide", 120, 600, 610, name="Search", kind="retrieval", type="agentRag",
             input={"query": "杭州"}, output=PASSAGES, parent_id="facts"),
        step("route", 130, 900, 905, name="route_planner", kind="tool", type="mcp", parent_id="facts",
             input={"to": "temple", "user_token": "tok-12345"}, output='{"id":12345678901234567890}'),
        step("weather", 140, None, 1200, name="weather", kind="tool", type="api", status="fail",
             error="HTTP 504: upstream timed out", parent_id="facts"),
        step("budget", 1305, None, 1305, name="Ask for a budget", status="skip"),
        step("plan", 1310, 1900, 3000, name="Plan", reasoning="Dawn is best.", output="Begin at dawn",
             usage=usage(("qwen-max", 1840, 412)), duration_ms=1680.0),
        step("check", 1310, 1500, 2400, name="Check", output="ok"),
        step("wait", 3000, None, 3001, name="Confirm", type="Input", status="pause"),
    ),
    references=(
        DocReference(index_id="1", title="Guide", doc_name="guide.pdf", text="苏堤春晓", score=0.873,
                     doc_url="https://example.com/guide.pdf?a=1&b=2", page_number=(3, 4)),
        DocReference(index_id="2", title="Temples", doc_url="javascript:alert(1)", text="07:00"),
    ),
    usage=usage(("qwen-max", 1840, 412), ("qwen-turbo", 600, 13)),
    session_id="session-1", request_id="request-1", finish_reason="stop",
    attempts=2, context_lost=True, whole_history=True, history_format="messages",
    first_token_ms=3001.0, elapsed_ms=3400.0,
)  # fmt: skip

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!--<script>alert(3)</script>-->",
    "<img src=x onerror=alert(4)>",
    "<svg/onload=alert(5)>",
    "\"'><iframe src=//evil.example></iframe>",
    "</textarea></noscript></title></style><base href=//evil.example>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(6)",
    "nul \0 bell \x07 escape \x1b[31m delete \x7f",
    "right to left \u202e mark \u200f isolate \u2066",
    "lone surrogates \ud800 \udfff and a pair \U0001f600",
    "separators \u2028 \u2029 \ufeff",
    "&lt;b&gt; &amp;amp; &#x3c;",
    "]]><![CDATA[ --> */ // `${alert(7)}`",
)


def hostile() -> AppResult:
    """A run in which every text that an app decides is hostile."""
    text = "\n".join(HOSTILE)
    steps = [
        step(f"{bad}{at}", at * 10.0, at * 10.0 + 3, at * 10.0 + 9, name=bad, type=bad,
             input={bad: [bad]}, output=bad, reasoning=bad, usage=usage((bad, 1, 1)))
        for at, bad in enumerate(HOSTILE)
    ]  # fmt: skip
    failed = step("bad", 1, 2, 3, name=text, error=text, status=text)
    found = step(
        "found",
        1,
        2,
        3,
        kind="retrieval",
        output=json.dumps([{"text": text, "title": text, "docUrl": text, text: text}]),
    )
    return AppResult(
        text=text + "<ref>[1]</ref>",
        reasoning=text,
        steps=(*steps, failed, found),
        references=tuple(
            DocReference(
                index_id=str(at), title=bad, doc_url=bad, doc_name=bad, text=bad, doc_id=bad
            )
            for at, bad in enumerate((*HOSTILE, 'https://evil.example/"onclick=alert(8)'), 1)
        ),
        usage=usage(("m" + text, 1, 1)),
        session_id=text,
        request_id=text,
        finish_reason="stop",
        final_text=text,
        first_token_ms=10.0,
        elapsed_ms=200.0,
    )


def large(
    steps: int = 500, size: int = 5_000_000, words: str = "杭州西湖 <b>text</b>, words. "
) -> AppResult:
    """A run of many steps with much output, in loops of ten."""
    each = size // steps
    body = (words * (each // len(words.encode()) + 1))[:each]
    made = [
        step(f"n{at}", at * 20.0, at * 20.0 + 60, at * 20.0 + 200, name=f"Node {at}", output=f"{at} {body}",
             parent_id=None if at % 10 == 0 else f"n{at - at % 10}")
        for at in range(steps)
    ]  # fmt: skip
    return AppResult(
        text="The answer.", steps=tuple(made), finish_reason="stop", elapsed_ms=steps * 20.0 + 400
    )
