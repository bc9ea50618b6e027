"""The page in a real browser: what is shown, what is never run, and how it is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inspector.runs import HOSTILE, TRIP, hostile, large, step
from support.browser import chromium, tab
from support.recordings import FOLDER

from bailian_apps import AppResult, DocReference
from bailian_apps.inspector import notebook_html, render

pytestmark = pytest.mark.process

TWO_LLM = FOLDER / "workflow-two-llm.sse"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open a page; at the end nothing may have been asked for, and no problem met."""
    opened: list[Any] = []

    def show(html: str, **options: Any) -> Any:
        path = tmp_path / f"page{len(opened)}.html"
        path.write_text(html, encoding="utf-8")
        context = tab(browser, **options)
        opened.append(context)
        page = context.__enter__().page
        page.goto(path.as_uri())
        return page

    yield show
    for context in opened:
        context.__exit__(None, None, None)


def row(page: Any, name: str) -> Any:
    return page.locator(".row:not(.head)", has=page.get_by_text(name, exact=True))


def names(page: Any) -> list[str]:
    """The names of the rows that can be seen."""
    return page.locator(".row:not(.head) .label").locator("visible=true").all_inner_texts()


def picture(page: Any, folder: Path, name: str) -> Path:
    """Take a picture of the whole page, to be looked at; it has more than one colour."""
    path = folder / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 10_000
    return path


def test_hostile_text_is_shown_and_never_run(show: Any, tmp_path: Path) -> None:
    """The fixture checks that no script ran and nothing was asked for."""
    page = show(render(hostile()))
    page.keyboard.press("e")
    for at, bad in enumerate(HOSTILE):
        detail = page.locator(".detail").nth(at)
        output = detail.locator(".part pre").last.text_content()
        for word in bad.split(" "):
            if word.isprintable():
                assert word in output
    assert page.locator("main script, main iframe, main img, main base, main style").count() == 0
    links = page.locator("a[href]").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert [link for link in links if not link.startswith("#doc-")] == [
        'https://evil.example/"onclick=alert(8)'
    ]
    assert page.locator("a[target]").get_attribute("rel") == "noopener noreferrer nofollow"
    signs = page.locator(".ctl").all_inner_texts()
    codes = ("0000", "0007", "001B", "007F", "202E", "2066", "D800", "DFFF", "2028")
    assert {f"U+{code}" for code in codes} <= {*signs}
    picture(page, tmp_path, "hostile")


def test_the_answer_leads_to_the_documents_that_it_cites(show: Any) -> None:
    page = show(render(TRIP))
    answer = page.locator(".said .answer")
    assert answer.locator("sup").all_inner_texts() == ["[1]", "[2][9]"]
    assert answer.locator("sup a").count() == 2  # there is no document 9
    answer.locator("sup a").nth(1).click()
    assert page.evaluate("document.activeElement.id") == "doc-0-2"
    assert page.locator(".doc a").all_inner_texts() == ["example.com ↗"]
    assert "javascript:alert(1)" in page.locator("#doc-0-2").inner_text()


def test_a_notebook_shows_the_answer_first_in_a_frame_that_fits(show: Any) -> None:
    """A frame cannot take the height of its page, so the height is estimated."""
    ran = {"finish_reason": "stop", "first_token_ms": 3.0, "elapsed_ms": 9.0}
    steps = tuple(step(f"n{at}", at, at + 1, at + 2) for at in range(5))
    for result in (
        AppResult(**ran),
        AppResult(text="杭州西湖春晓" * 40, session_id="s" * 32, request_id="r" * 36, **ran),
        AppResult(text="- one\n" * 8, steps=steps, **ran),
        AppResult(text="word " * 100, steps=(step("a", duration_ms=3.0),), finish_reason="stop"),
        AppResult(text="x", references=TRIP.references, context_lost=True, **ran),
        TRIP,
        replace(TRIP, text="word " * 5_000),
    ):
        page = show(
            f"<!doctype html>{notebook_html(result)}", viewport={"width": 1000, "height": 900}
        )
        height = page.locator("iframe").bounding_box()["height"]
        (_, frame) = page.frames
        answer = frame.locator(".said .answer").bounding_box()
        assert answer["y"] + answer["height"] <= height
        if result.steps:
            assert answer["y"] < frame.locator(".grid").bounding_box()["y"]
        if result.references:
            assert frame.locator(".doc").first.bounding_box()["y"] > answer["y"] + answer["height"]
        whole = frame.locator(".page").bounding_box()["height"]
        assert height == 720 <= whole or height == pytest.approx(whole, abs=50)


def test_a_step_opens_to_all_that_is_known_of_it(show: Any) -> None:
    page = show(render(TRIP))
    row(page, "route_planner").click()
    detail = page.locator(".detail")
    assert "12345678901234567890" in detail.inner_text()  # as it is written
    assert "**********" in detail.inner_text()
    assert "tok-12345" not in page.content()
    row(page, "weather").click()
    assert page.locator(".part.bad pre").inner_text() == "HTTP 504: upstream timed out"
    row(page, "Search").click()
    assert page.locator(".detail .doc .score").all_inner_texts() == ["Score 0.873", "Score 0.741"]
    row(page, "Plan").click()
    facts = page.locator(".detail").last.locator(".meta").inner_text()
    for part in ("1.69 s", "590 ms", "1.31 s – 3.00 s", "1.68 s", "1,840 → 412"):
        assert part in facts


def test_rows_are_used_with_the_keyboard_alone(show: Any) -> None:
    page = show(render(TRIP))
    press = page.keyboard.press

    def focused() -> str:
        return page.evaluate("document.activeElement.querySelector?.('.label')?.textContent ?? ''")

    press("j")
    assert focused() == "开始"
    press("j")
    press("ArrowDown")
    assert focused() == "Search"
    press("ArrowLeft")
    assert focused() == "Gather facts"
    press("ArrowLeft")
    facts = row(page, "Gather facts")
    assert facts.get_attribute("aria-expanded") == "false"
    assert "Search" not in names(page)
    press("ArrowDown")
    assert focused() == "Ask for a budget"
    press("k")
    press("ArrowRight")
    assert facts.get_attribute("aria-expanded") == "true"
    press("End")
    assert focused() == "Answer"
    press("Home")
    press("Enter")
    assert page.locator(".detail:visible").count() == 1
    press("Enter")
    assert page.locator(".detail:visible").count() == 0
    press("e")
    assert page.locator(".detail:visible").count() == len(TRIP.steps)
    press("c")
    assert page.locator(".detail:visible").count() == 0
    press("?")
    assert page.locator("dialog").is_visible()
    press("Escape")
    assert not page.locator("dialog").is_visible()
    assert page.locator('.row[tabindex="0"]').count() == 1


def test_a_screen_reader_hears_which_rows_are_open_and_below_which(show: Any) -> None:
    page = show(render(TRIP))

    def heard(*names: str) -> list[str]:
        lines = page.locator(".grid").aria_snapshot().splitlines()
        rows = [line.split('"')[1:] for line in lines if line.lstrip().startswith("- row ")]
        return [told.strip(" :") for name, told in rows if name.startswith(names)]

    assert heard("Gather facts", "Search", "Plan", "Answer") == [
        "[expanded] [level=1]", "[level=2]", "[level=1]", "[level=1]"
    ]  # fmt: skip
    row(page, "Search").click()
    assert heard("Search", "Details of Search") == ["[expanded] [level=2]", "[level=3]"]
    page.keyboard.press("ArrowLeft")
    assert heard("Search", "Details of Search") == ["[level=2]"]
    assert row(page, "Search").get_attribute("aria-expanded") == "false"
    page.keyboard.press("ArrowRight")
    assert heard("Details of Search") == ["[level=3]"]
    assert row(page, "Answer").get_attribute("aria-expanded") is None
    page.keyboard.press("c")
    assert heard("Details") == []
    headings = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(each => each.tagName)")
    assert headings[0] == "H1"
    assert set(headings[1:]) == {"H2"}


def test_each_of_several_runs_is_reached_with_the_keyboard_alone(show: Any, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.sse").write_bytes(TWO_LLM.read_bytes())
    (tmp_path / "empty.json").write_text('{"output": {"text": "No step."}}')
    page = show(render(tmp_path))
    press = page.keyboard.press

    def focused() -> str:
        return page.evaluate(
            "((row) => row.matches('.row') && row.closest('.run').id + row.ariaLevel)(document.activeElement)"
        )

    page.locator("#run-3 summary").focus()
    press("Enter")
    press("j")
    assert focused() == "run-31"
    page.locator("#run-3 summary").focus()
    for _ in page.locator("#run-3 .facts button").all():
        press("Tab")
    press("Tab")
    assert focused() == "run-31"
    press("Enter")
    assert page.locator("#run-3 .detail:visible").count() == 1
    page.locator("#run-2 summary").click()
    press("j")
    assert focused() == "run-21"
    assert page.locator('.row[tabindex="0"]').count() == 2  # one of each run that has steps


def test_the_filter_finds_a_run_by_its_name(show: Any, tmp_path: Path) -> None:
    for name in ("first.sse", "second.sse"):
        (tmp_path / name).write_bytes(TWO_LLM.read_bytes())
    (tmp_path / "empty.json").write_text('{"output": {"text": "No step."}}')
    page = show(render(tmp_path))
    for word, runs in (("second", ["run-3"]), ("empty", ["run-1"]), ("LLM", ["run-2", "run-3"])):
        page.locator("#q").fill(word)
        page.wait_for_function(
            "runs => [...document.querySelectorAll('.run')].filter(e => !e.hidden).map(e => e.id).join() === runs",
            arg=",".join(runs),
        )
    page.locator("#q").press("Enter")  # all are closed
    assert page.evaluate("document.activeElement.parentNode.id") == "run-2"


def test_the_row_of_the_answer_leads_to_it(show: Any) -> None:
    page = show(render(TRIP))
    page.keyboard.press("j")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.matches('.answer.flash')")


def test_a_long_line_is_laid_out_in_pieces(show: Any) -> None:
    """As one, 200,000 characters of two scripts took chromium 52 s."""
    line = "杭州<b>x " * 30_000 + "\U0001f600" * 8_000
    page = show(render(AppResult(text="x", steps=(step("long", 1, 2, 3, output=line),))))
    row(page, "long").click()
    page.get_by_role("button", name="Show all").click(timeout=5_000)
    assert page.locator(".detail pre").last.text_content() == line
    assert page.locator(".detail .ctl").count() == 0  # no pair is torn apart


@pytest.mark.parametrize("before", [0, 5, 10])
def test_no_citation_pair_or_line_end_is_torn_where_a_long_text_is_cut(
    show: Any, before: int
) -> None:
    part = "<ref>[1]</ref>\U0001f600\r\n<"  # 19 units: some stand across every cut
    text = "." * before + part.replace("\n", "") * 2000 + part * 2000
    page = show(render(AppResult(text=text, references=(DocReference(index_id="1"),))))
    answer = page.locator(".said .answer pre")
    assert "ref>" not in answer.text_content()
    page.get_by_role("button", name="Show all").click()
    assert answer.locator("sup a").count() == 4000
    assert answer.locator(".ctl").count() == 0
    text = "".join(answer.locator(".piece").all_text_contents())
    assert text == "." * before + "[1]\U0001f600\n<" * 4000


def test_the_row_in_focus_is_never_under_the_toolbar(show: Any) -> None:
    page = show(render(large(60, 60)), viewport={"width": 1000, "height": 500})
    page.keyboard.press("j")
    page.keyboard.press("End")
    for _ in range(40):
        page.keyboard.press("k")
        assert page.evaluate(
            "document.activeElement.getBoundingClientRect().top"
            " >= document.querySelector('.toolbar').getBoundingClientRect().bottom"
        )


def test_an_anchor_that_is_no_text_is_no_problem(show: Any) -> None:
    page = show(render(TRIP))
    page.evaluate("location.hash = '#%'")
    page.keyboard.press("j")


def test_the_filter_finds_words_inside_steps(show: Any) -> None:
    page = show(render(TRIP))
    page.keyboard.press("/")
    page.keyboard.type("春晓")
    page.locator("#hits:not(:empty)").wait_for()
    assert names(page) == ["Gather facts", "Search"]  # and what it is below
    page.keyboard.press("Escape")
    assert len(names(page)) == len(TRIP.steps) + 1


@pytest.mark.parametrize(
    ("width", "dark", "language"),
    [(1600, False, "en-US"), (1600, True, "zh-CN"), (380, False, "zh-CN"), (380, True, "en-GB")],
)
def test_the_page_fits_its_reader(
    show: Any, tmp_path: Path, width: int, dark: bool, language: str
) -> None:
    page = show(
        render(TRIP, title="A day in Hangzhou"),
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        locale=language,
    )
    chinese = language.startswith("zh")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.documentElement.lang") == ("zh-CN" if chinese else "en")
    assert page.get_by_text("总耗时" if chinese else "Total", exact=True).is_visible()
    red, green, blue = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (red + green + blue < 150) == dark
    weather = row(page, "weather")
    assert weather.locator(".state").inner_text().split() == ["✗", "失败" if chinese else "failed"]
    weather.click()
    picture(page, tmp_path, f"{width}-{'dark' if dark else 'light'}-{language}")


def test_the_total_of_a_run_with_retries_is_that_of_the_last_attempt(show: Any) -> None:
    for language, words in (("en-US", "last attempt"), ("zh-CN", "最后一次尝试")):
        page = show(render(TRIP), locale=language)
        assert page.locator(".stat").first.inner_text().split("\n")[1] == f"3.40 s {words}"
    assert (
        "last attempt" not in show(render(replace(TRIP, attempts=1))).content().split("<script")[0]
    )


@pytest.mark.parametrize("width", [820, 1300])
def test_the_type_of_a_step_stays_readable(show: Any, width: int) -> None:
    page = show(render(TRIP), viewport={"width": width, "height": 900})
    kind = row(page, "Plan").locator(".type")
    assert kind.evaluate("each => each.scrollWidth <= each.clientWidth")
    label = row(page, "weather").locator(".label")
    assert label.evaluate("each => each.scrollWidth <= each.clientWidth")


def test_a_phone_opens_all_steps_by_touch(show: Any) -> None:
    phone = {"viewport": {"width": 380, "height": 700}, "has_touch": True, "is_mobile": True}
    for language, words in (("en-US", "Expand all"), ("zh-CN", "全部展开")):
        page = show(render(TRIP), locale=language, **phone)
        page.get_by_role("button", name=words).tap()
        assert page.locator(".detail:visible").count() == len(TRIP.steps)
        assert page.evaluate("document.documentElement.scrollWidth") == 380
        assert page.locator("#q").bounding_box()["width"] > 60


def test_an_image_inside_a_page_leaves_the_page_as_it_was(show: Any) -> None:
    own = (
        '<h1 id="title">Own</h1><svg id="own" class="bar"><text class="head soft">own</text></svg>'
    )
    looks = "[...document.querySelectorAll('#own, #own *')].map(e => JSON.stringify([...getComputedStyle(e)].map(n => [n, getComputedStyle(e).getPropertyValue(n)]))).join()"
    plain = show(f"<!doctype html>{own}").evaluate(looks)
    page = show(f"<!doctype html>{own}{TRIP.to_svg()}{TRIP.to_svg()}")
    assert page.evaluate(looks) == plain
    assert page.locator("#title").count() == 1
    assert page.get_by_role("img", name="Run").count() == 2
    assert (
        page.locator(".bailian-run .k-llm .bar").first.evaluate("e => getComputedStyle(e).fill")
        == "rgb(47, 111, 219)"
    )


def test_every_word_of_the_page_is_in_both_languages(show: Any) -> None:
    page = show(render(TRIP), locale="zh-CN")
    page.keyboard.press("e")
    page.keyboard.press("?")
    fixed = "[data-t], h2, h3, dt:not(dialog dt), button, .note"
    words = page.locator(fixed).evaluate_all("all => all.map(each => each.textContent)")
    left = {word for word in words if word.isascii() and any(map(str.isalpha, word))}
    assert left <= {"MCP", "Token"}


def test_parallel_steps_overlap_in_time(show: Any) -> None:
    page = show(render(TRIP))
    bars = {}
    for name in ("Plan", "Check"):
        boxes = [each.bounding_box() for each in row(page, name).locator("rect").all()[:2]]
        bars[name] = (boxes[0]["x"], boxes[1]["x"], boxes[1]["x"] + boxes[1]["width"])
    assert bars["Plan"][0] == pytest.approx(bars["Check"][0], abs=1)
    assert bars["Check"][1] < bars["Plan"][1] < bars["Check"][2] < bars["Plan"][2]


def test_paper_has_every_step_open(show: Any) -> None:
    page = show(render(TRIP), color_scheme="dark")
    page.emulate_media(media="print")
    page.locator(".detail").first.wait_for()
    assert page.locator(".detail:visible").count() == len(TRIP.steps)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".toolbar").is_visible()
    assert page.pdf()[:5] == b"%PDF-"
    page.emulate_media(media="screen")
    page.locator(".detail:visible").first.wait_for(state="hidden")


def test_a_reader_without_scripts_sees_the_steps_and_the_answer(show: Any) -> None:
    page = show(render(TRIP), java_script_enabled=False)
    text = page.locator("body").inner_text()
    for part in (
        "Gather facts",
        "1,840 → 412",
        "Begin at dawn[1], then the temple[2,9].",
        "HTTP 504: upstream timed out",
    ):
        assert part in text
    assert not page.locator(".toolbar").is_visible()


def test_several_frames_of_a_notebook_do_not_meet(show: Any) -> None:
    page = show(f"<!doctype html><body>{notebook_html(TRIP)}{notebook_html(hostile())}")
    frames = page.frames[1:]
    assert len(frames) == 2
    frames[0].locator("sup a").first.click()
    assert frames[0].evaluate("document.activeElement.id") == "doc-0-1"
    assert frames[1].evaluate("document.activeElement.id") == ""
    assert frames[0].evaluate("origin") == "null"


def test_a_large_run_opens_whole(show: Any) -> None:
    page = show(render(large()))
    assert page.locator(".row:not(.head)").count() == 500
    for key in ("j", "End", "Enter"):
        page.keyboard.press(key)
    page.locator(".detail pre", has_text="499 杭州西湖").wait_for()
    assert page.locator(".detail pre").inner_text().startswith("499 杭州西湖 <b>text</b>")
    page.keyboard.press("e")
    assert page.locator(".detail").count() == 500
