"""Pictures of runs: how long they take to make and to open, and how large the files are.

A page is opened in the real browser, where there is one; the time is until its script has run.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from bailian_apps import AppResult, Step
from bailian_apps.inspector import render

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.browser import ARGUMENTS, CHROMIUM

ROUNDS = 7
RUNS = {"4 steps, 400 characters": (4, 400), "500 steps, 5 MB": (500, 5_000_000)}
TEXTS = {"prose": "杭州西湖, West Lake. ", "markup": "<b>text</b> ", "JSON": '{"city": "杭州"} '}


def run_of(steps: int, size: int, words: str) -> AppResult:
    """Return a run whose steps have output of `size` bytes."""
    body = words * (size // steps // len(words.encode()) + 1)
    made = [
        Step(
            id=f"n{at}",
            kind="node",
            name=f"Node {at}",
            type="LLM",
            status="success",
            output=f"{at} {body}",
            parent_id=None if at % 10 == 0 else f"n{at - at % 10}",
            started_ms=at * 20.0,
            first_token_ms=at * 20.0 + 60,
            ended_ms=at * 20.0 + 200,
        )
        for at in range(steps)
    ]
    return AppResult(text="The answer.", steps=tuple(made), finish_reason="stop", elapsed_ms=1e4)


def opening_ms(path: Path) -> float | None:
    """Return the median time until a page can be used; None without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if not CHROMIUM.exists():
        return None
    times: list[float] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        for _ in range(ROUNDS):
            page = browser.new_page()
            page.goto(path.as_uri())
            page.locator(".scripted").wait_for()
            script = "performance.getEntriesByType('navigation')[0].domInteractive"
            times.append(page.evaluate(script))
            page.close()
        browser.close()
    return statistics.median(times)


def main() -> None:
    print("| run | text | made in | file / data | opened in |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (steps, size) in RUNS.items():
            for text, words in TEXTS.items():
                result = run_of(steps, size, words)
                data = sum(len(step.output.encode()) for step in result.steps)
                started = time.perf_counter()
                html = render(result)
                made_ms = (time.perf_counter() - started) * 1000
                path = Path(folder) / "run.html"
                path.write_text(html, encoding="utf-8")
                opened = opening_ms(path)
                ratio = f"{len(html.encode()) / data:.2f}" if data > 1e6 else "-"
                shown = "-" if opened is None else f"{opened:.0f} ms"
                print(f"| {name} | {text} | {made_ms:.0f} ms | {ratio} | {shown} |")


if __name__ == "__main__":
    main()
