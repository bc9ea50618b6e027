"""Two runs on one page: which steps are a pair, which words differ, and how long it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inspector.runs import HOSTILE, TRIP, hostile, large, step, usage
from support.browser import chromium, tab

from bailian_apps import AppResult
from bailian_apps.emulator import RECORDINGS
from bailian_apps.inspector import render_diff
from bailian_apps.inspector.diff import Part, compare, pair_steps
from bailian_apps.inspector.view import Run, view_of

OTHER = replace(
    TRIP,
    text="Begin at nine<ref>[1]</ref>, then the temple<ref>[2,9]</ref>.",
    steps=(
        *(each for each in TRIP.steps if each.id not in ("budget", "plan", "weather")),
        step("weather", 140, None, 1200, name="weather", kind="tool", type="api", output="sunny",
             parent_id="facts"),
        step("plan", 1310, 1700, 2600, name="Plan", reasoning="Dawn is best.", output="Begin at nine, 西湖边走走"),
        step("hotel", 2600, 2700, 3900, name="找酒店", kind="tool", type="api"),
    ),
    references=TRIP.references[:1],
    usage=usage(("qwen-plus", 2440, 300)),
    elapsed_ms=4080.0,
)  # fmt: skip


def texts(one: str, other: str) -> Part:
    made = compare(*(view_of(Run(result=AppResult(text=text))) for text in (one, other)))
    return next(part for part in made.texts if part.name == "Answer")


@pytest.mark.parametrize(
    ("one", "other", "pairs"),
    [
        ("a=x b=y", "b=y a=x", [(0, 1), (1, 0)]),  # two that ran at the same time
        ("a=x b=y", "a=x c=z b=y d=w", [(0, 0), (None, 1), (1, 2), (None, 3)]),
        ("b=y", "a=x b=y", [(None, 0), (0, 1)]),
        ("1=look 2=look", "7=look 8=book 9=look", [(0, 0), (None, 1), (1, 2)]),  # ids of calls
        ("a=x", "a=renamed", [(0, 0)]),
        ("a=x b=x", "b=x", [(0, None), (1, 0)]),
        ("", "a=x", [(None, 0)]),
        ("a=x", "", [(0, None)]),
    ],
)
def test_steps_are_paired_by_id_and_name_in_any_order(
    one: str, other: str, pairs: list[tuple[int | None, int | None]]
) -> None:
    steps = (
        [step(id_, name=name) for id_, _, name in (each.partition("=") for each in run.split())]
        for run in (one, other)
    )
    assert pair_steps(*steps) == pairs


@pytest.mark.parametrize(
    ("one", "other", "gone", "new"),
    [
        ("Begin at dawn. Then rest.", "Begin at nine. Then rest.", ["dawn"], ["nine"]),
        ("上午游西湖，下午喝茶。", "上午游灵隐寺，下午喝茶。", ["西湖"], ["灵隐寺"]),
        ("", "new text", [], ["new text"]),
        ('{"n": 12, "city": "杭州"}', '{"n": 13, "city": "杭州"}', ["12"], ["13"]),
    ],
)
def test_only_the_words_that_differ_are_marked(
    one: str, other: str, gone: list[str], new: list[str]
) -> None:
    part = texts(one, other)
    assert [text for kind, text in part.a if kind == "gone"] == gone
    assert [text for kind, text in part.b if kind == "new"] == new
    assert "".join(text for _, text in part.a) == one
    assert "".join(text for _, text in part.b) == other


def test_what_is_the_same_for_long_is_left_out() -> None:
    part = texts("同" * 5_000 + "甲。尾", "同" * 5_000 + "乙。尾")
    assert [kind for kind, _ in part.a] == ["same", "skipped", "same", "gone", "same"]
    assert part.a[1] == ("skipped", "4,520")
    cut = texts("a" * 30_000, "b " * 60_000)
    assert (cut.a[-1], cut.b[-1]) == (("skipped", "10,000"), ("skipped", "100,000"))


def test_totals_say_how_much_changed() -> None:
    made = compare(view_of(Run(result=TRIP)), view_of(Run(result=OTHER)))
    assert {total.name: (total.a, total.b, total.change) for total in made.totals} == {
        "Total": ("3.40 s", "4.08 s", "+680 ms (+20 %)"),
        "First word": ("3.00 s", "3.00 s", "="),
        "Steps": ("9", "9", "="),
        "Tokens in": ("2,440", "2,440", "="),
        "Tokens out": ("425", "300", "−125 (−29 %)"),
        "Attempts": ("2", "2", "="),
        "qwen-max": ("1,840 → 412", "", ""),
        "qwen-turbo": ("600 → 13", "", ""),
        "qwen-plus": ("", "2,440 → 300", ""),
    }
    bars = {pair.row.name: (pair.a, pair.b) for pair in made.pairs}["Answer"]
    # Both are on the longer run's axis.
    assert [(row.bar.start, row.bar.width) for row in bars if row and row.bar] == [
        (60.02, 7.98), (60.02, 21.58),
    ]  # fmt: skip


def test_secrets_are_masked_in_a_comparison() -> None:
    runs = (
        AppResult(steps=(step("a", input={"user_token": f"tok-{at}"}, output=json.dumps({"api_key": f"tok-{at}"})),))
        for at in range(2)
    )  # fmt: skip
    assert "tok-" not in render_diff(*runs)


def test_two_large_runs_are_compared_in_seconds() -> None:
    one, other = large(), large(words="西湖杭州 <i>words</i>, text. ")
    started = time.process_time()
    html = render_diff(one, other)
    assert time.process_time() - started < 30
    data = sum(len(each.output.encode()) for run in (one, other) for each in run.steps)
    assert len(html.encode()) < 1.5 * data  # both runs whole, and what differs


# ------------------------------------------------------------------ in the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def opened(page: Any, html: str, folder: Path) -> Any:
    path = folder / "diff.html"
    path.write_text(html, encoding="utf-8")
    page.goto(path.as_uri())
    return page


@pytest.mark.process
@pytest.mark.parametrize(
    ("width", "dark", "language"), [(1400, False, "en-US"), (1400, True, "zh-CN"), (380, False, "zh-CN")]
)  # fmt: skip
def test_two_runs_stand_side_by_side(
    browser: Any, tmp_path: Path, width: int, dark: bool, language: str
) -> None:
    html = render_diff(Run(result=TRIP, prompt="A day"), Run(result=OTHER, prompt="Two days"))
    options = {
        "viewport": {"width": width, "height": 900},
        "color_scheme": "dark" if dark else "light",
        "locale": language,
    }
    with tab(browser, **options) as shown:
        page = opened(shown.page, html, tmp_path)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        pairs = page.locator(".pair")
        assert pairs.count() == 11
        assert (
            pairs.locator("[data-t]", has_text="仅 B" if "zh" in language else "only in B").count()
            == 1
        )
        plan = page.locator("details.pair", has_text="Plan")
        plan.locator("summary").focus()
        page.keyboard.press("Enter")
        assert plan.locator("del:visible").all_inner_texts() == ["dawn"]
        assert plan.locator("ins:visible").all_inner_texts() == ["nine, 西湖边走走"]
        assert page.locator(".texts del").all_inner_texts() == ["A day", "dawn", "[2] Temples\n"]
        page.locator("details.run summary").first.click()
        page.locator(".run .answer").first.wait_for()  # the run is filled once it is open
        page.screenshot(path=tmp_path / "diff.png", full_page=True)
        if "zh" in language:
            words = "[data-t], h2, h3, button"
            left = page.locator(words).evaluate_all("all => all.map(each => each.textContent)")
            assert {w for w in left if w.isascii() and any(map(str.isalpha, w))} <= {
                "MCP", "Token", "?", "qwen-max", "qwen-turbo", "qwen-plus",
            }  # fmt: skip


@pytest.mark.process
def test_the_filter_and_the_buttons_work_on_pairs(browser: Any, tmp_path: Path) -> None:
    with tab(browser) as shown:
        page = opened(shown.page, render_diff(TRIP, OTHER), tmp_path)
        page.locator("#open-all").click()
        assert page.locator("details.pair[open]").count() == page.locator("details.pair").count()
        page.locator("#close-all").click()
        assert page.locator("details.pair[open]").count() == 0
        page.locator("#q").fill("西湖边")
        page.locator("#hits:not(:empty)").wait_for()
        assert page.locator(".pair:visible").count() == 1


@pytest.mark.process
def test_hostile_text_in_a_comparison_is_never_run(browser: Any, tmp_path: Path) -> None:
    """The tab checks that no script ran and nothing was asked for."""
    other = replace(hostile(), text="</ins><script>alert(9)</script>" + hostile().text[::-1])
    with tab(browser) as shown:
        page = opened(shown.page, render_diff(hostile(), other), tmp_path)
        page.keyboard.press("e")
        assert page.locator("main script, main iframe, main img, main style").count() == 0
        assert HOSTILE[0] in page.locator(".texts .part pre").first.inner_text()
    with tab(browser, java_script_enabled=False) as shown:
        page = opened(shown.page, render_diff(hostile(), TRIP), tmp_path)
        assert "alert(1)" in page.locator(".texts del").first.inner_text()


@pytest.mark.process
def test_two_recordings_are_compared_with_their_times(browser: Any, tmp_path: Path) -> None:
    recording = RECORDINGS / "travel-workflow.jsonl"
    with tab(browser) as shown:
        page = opened(shown.page, render_diff(recording, str(recording)), tmp_path)
        assert page.locator(".pair").count() >= 4
        assert set(page.locator(".pair .change").all_inner_texts()) == {"="}
        assert page.locator(".texts small").inner_text() == "the same"
