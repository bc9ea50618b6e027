"""The file itself: what it holds, what it may load, and how large it is."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from inspector.runs import HOSTILE, TRIP, hostile, large, step, usage

from bailian_apps import AppResult, BailianError, DocReference, Step
from bailian_apps.inspector import render, render_frames, to_svg
from bailian_apps.inspector.sources import runs_of
from bailian_apps.inspector.view import Run, View, format_ms, view_of


class Elements(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def view(*steps: Step, **fields: object) -> View:
    return view_of(Run(result=AppResult(steps=steps, **fields)))  # pyright: ignore


def data_of(html: str) -> list[dict[str, object]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("result", [TRIP, hostile(), AppResult()], ids=["trip", "hostile", "empty"])
def test_a_page_loads_nothing_and_runs_only_its_own_script(result: AppResult) -> None:
    html = result.to_html()
    elements = Elements(html).found
    policy = next(a["content"] for tag, a in elements if a.get("http-equiv"))
    assert policy is not None
    assert "'unsafe-inline'" not in policy
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    for tag, attributes in elements:
        assert not {"src", "style", "srcdoc", "action"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        if tag == "use":
            assert (attributes["href"] or "").startswith("#i-")
        else:
            assert "href" not in attributes
    assert [a.get("type") for tag, a in elements if tag == "script"] == ["application/json", None]
    html.encode("utf-8")


def test_data_come_out_as_they_went_in() -> None:
    result = hostile()
    (run,) = data_of(render(result))
    assert run["answer"] == result.text
    outputs = [values.get("output") for values in run["steps"]]  # type: ignore[attr-defined]
    assert outputs[: len(HOSTILE)] == [*HOSTILE]


@pytest.mark.parametrize("words", ["杭州西湖，", "<", "</", '{"a": 1}\n', "<b>&amp;</b> "])
def test_a_large_file_is_little_more_than_its_data(words: str) -> None:
    result = large(words=words)
    data = sum(len(each.output.encode()) for each in result.steps)
    assert len(render(result).encode()) <= 1.5 * data


def test_a_small_run_is_small_in_a_notebook() -> None:
    html = TRIP._repr_html_()
    assert len(html.encode()) < 70_000
    ((tag, frame),) = Elements(html).found
    assert tag == "iframe"
    assert frame["sandbox"] == "allow-scripts allow-popups allow-popups-to-escape-sandbox"
    assert (frame["srcdoc"] or "").startswith("<!doctype html>")
    assert data_of(frame["srcdoc"] or "") == data_of(render(TRIP))


def test_a_notebook_shows_a_result_that_is_the_last_line_of_a_cell() -> None:
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, _ = formatters.DisplayFormatter().format(TRIP)
    assert shown["text/html"] == TRIP._repr_html_()


def test_secrets_are_masked_wherever_they_stand() -> None:
    secret = "tok-98765"
    told = {"user_token": secret, "deep": [json.dumps({"api_key": secret})]}
    result = AppResult(
        steps=(
            step("a", input=told, output=json.dumps(told)),
            step("b", input=json.dumps(told), kind="tool"),
            step("c", kind="retrieval", output=json.dumps([{"text": "t", "password": secret}])),
        )
    )
    request = {
        "input": {"prompt": "p", "biz_params": {"user_defined_tokens": {"t": secret}, **told}}
    }
    frames = [(1.0, {"output": {"text": "x", "finish_reason": "stop"}})]
    for page in (render(result), render_frames(frames, request=request), to_svg(result)):
        assert secret not in page
    assert "**********" in render_frames(frames, request={"app_id": "a", "body": request})
    told_as_text = json.dumps(told)
    shown = AppResult(
        text=told_as_text,
        final_text=told_as_text,
        reasoning=told_as_text,
        steps=(step("a", error=told_as_text, reasoning=told_as_text, status="fail"),),
        references=(DocReference(text=told_as_text),),
    )
    assert secret not in render(shown)
    assert secret not in render(BailianError(told_as_text))
    assert secret not in render_frames(frames, request={"input": {"prompt": told_as_text}})
    assert (shown.text, shown.steps[0].error) == (told_as_text, told_as_text)  # only the page masks
    for body in ({}, {"body": None}, {"body": {}}):
        head = {"app_id": "a", "headers": {"X-User": secret}}
        assert secret not in render_frames(frames, request=head | body)


@pytest.mark.parametrize("field", ["id", "name", "type", "status", "parent_id", "title", "doc_url"])
def test_a_name_that_is_json_is_masked_too(field: str) -> None:
    named = {field: json.dumps({"api_key": "tok-98765"})}
    result = AppResult(steps=(step("a", 1, 2, 3),), references=(DocReference(),))
    if field in Step.__slots__:
        result = replace(result, steps=(replace(result.steps[0], **named),))
    else:
        result = replace(result, references=(DocReference(**named),))
    for picture in (render(result), to_svg(result)):
        assert "tok-98765" not in picture


ODD = (float("inf"), float("-inf"), float("nan"), 10**400, 1e308, 5e-324, "x", True, [1], {}, b"x")


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd)[:8])
def test_stored_values_of_any_type_are_drawn(odd: Any) -> None:
    times = ("started_ms", "first_token_ms", "ended_ms", "duration_ms")
    texts = ("id", "name", "type", "status", "reasoning", "error", "output", "parent_id")
    names = ("index_id", "title", "doc_id", "doc_name", "doc_url", "text", "score")
    drawn = [
        AppResult(steps=(replace(step("a", 1, 2, 3), **{name: odd}),)) for name in times + texts
    ]
    drawn += [AppResult(references=(DocReference(**{name: odd}),)) for name in names]
    drawn += [AppResult(**{name: odd}) for name in ("text", "session_id", "attempts", "elapsed_ms")]
    spent = usage(("m", odd, odd))
    drawn += [AppResult(usage=spent, steps=(step("a", 1, 2, 3, usage=spent),))]
    for result in drawn:
        assert to_svg(result)
        html = render(result)
        text = re.search(r'id="data">(.*?)</script>', html, re.S)
        assert text
        json.loads(text[1], parse_constant=pytest.fail)  # a browser reads no NaN


def test_a_time_or_a_score_that_is_text_is_a_number() -> None:
    stored = {"id": "a", "kind": "node", "name": "a", "started_ms": "10", "ended_ms": "90ms"}
    message = {"steps": [stored], "usage": {}, "session_id": "s", "elapsed_ms": "100",
               "references": [{"score": "0.5", "page_number": 3, "title": 7}]}  # fmt: skip
    (row, *_) = view_of(runs_of(message)[0]).rows
    assert row.bar is not None
    assert (row.bar.start, row.bar.width, row.took) == (10, 80, "80 ms")
    assert data_of(render(message))[0]["docs"] == [{"title": "7", "score": "0.5"}]


@pytest.mark.parametrize("ms", [float("inf"), float("-inf"), float("nan")])
def test_times_that_are_no_numbers_are_not_known(ms: float) -> None:
    stored = Step.from_dict(step("a", ms, ms, ms, duration_ms=ms).to_dict())
    result = AppResult(steps=(stored,), first_token_ms=ms, elapsed_ms=ms)
    assert view_of(Run(result=result)).timing == "none"
    assert render(result)
    assert to_svg(result)


@pytest.mark.parametrize(
    "character", ["\xad", "\u200b", "\u2060", "\ufffe", "\uffff", "\U000e0041"]
)
def test_what_hides_in_a_name_is_shown_by_its_code(character: str) -> None:
    result = AppResult(steps=(step("a", name=f"x{character}"),))
    assert f"U+{ord(character):04X}" in render(result)
    assert f"U+{ord(character):04X}" in "".join(ET.fromstring(to_svg(result)).itertext())


def test_input_that_has_no_json_is_named_by_its_type() -> None:
    assert "<class 'dict'>" in render(AppResult(steps=(step("a", input={(1, 2): 3}),)))


def test_an_image_of_a_run_is_xml_whatever_its_text() -> None:
    svg = to_svg(hostile())
    root = ET.fromstring(svg)
    assert not [
        each for each in root.iter() if each.tag.rpartition("}")[2] in ("script", "image", "a")
    ]
    assert "alert(1)&lt;/scrip" in svg
    assert set(re.findall(r'(?:href|src)="([^"]*)"', svg)) <= {
        f"#i-{k}" for k in ("llm", "retrieval", "node", "answer")
    }
    assert to_svg(large()).count("<g ") == 60
    assert "… + 440" in to_svg(large())


def test_files_are_written_where_a_path_is_given(tmp_path: Path) -> None:
    html = TRIP.to_html(tmp_path / "run.html", title="杭州")
    svg = TRIP.to_svg(tmp_path / "run.svg")
    assert (tmp_path / "run.html").read_text(encoding="utf-8") == html
    assert (tmp_path / "run.svg").read_text(encoding="utf-8") == svg
    assert "<title>杭州</title>" in html


# ------------------------------------------------------------------- what is drawn


def test_children_stand_below_their_parent_and_cycles_at_the_top() -> None:
    rows = view(
        step("a"), step("b", parent_id="a"), step("c"), step("d", parent_id="b"),
        step("e", parent_id="gone"), step("f", parent_id="g"), step("g", parent_id="f"), step("h", parent_id="a"),
    ).rows  # fmt: skip
    assert [(row.name, row.level, row.has_children) for row in rows] == [
        ("a", 1, True), ("b", 2, True), ("d", 3, False), ("h", 2, False), ("c", 1, False),
        ("e", 1, False), ("f", 1, False), ("g", 1, False),
    ]  # fmt: skip


def test_bars_mean_arrival_or_the_clouds_own_times_or_there_are_none() -> None:
    arrived = view(step("a", 10, 20, 90), elapsed_ms=100.0)
    assert arrived.timing == "arrival"
    assert arrived.rows[0].bar is not None
    assert (arrived.rows[0].bar.start, arrived.rows[0].bar.width) == (10, 80)
    stored = view(step("a", duration_ms=400.0), step("b"))
    assert stored.timing == "reported"
    assert [row.bar is not None for row in stored.rows] == [True, False]
    assert view(step("a")).timing == "none"
    assert view(step("a")).axis is None


def test_a_step_that_was_listed_when_it_was_over_has_the_clouds_length() -> None:
    (row, *_) = view(step("a", 500, 500, 500, duration_ms=300.0), elapsed_ms=500.0).rows
    assert row.bar is not None
    assert row.bar.reported
    assert row.took == "300 ms"
    assert row.bar.start < row.bar.start + row.bar.width


def test_a_step_that_never_ended_runs_to_the_end_of_the_run() -> None:
    (row, *_) = view(step("a", 100, None, None, status="executing"), elapsed_ms=400.0).rows
    assert (row.state, row.took) == ("running", "300 ms")


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999.4, "999 ms"),
        (999.6, "1.00 s"),
        (9_994, "9.99 s"),
        (12_340, "12.3 s"),
        (125_000, "2 m 05 s"),
    ],
)
def test_durations_are_short_words(ms: float, text: str) -> None:
    assert format_ms(ms) == text


def test_the_answer_has_a_row_unless_the_app_lists_it_as_a_step() -> None:
    assert [row.name for row in view_of(Run(result=TRIP)).rows][-1] == "Answer"
    listed = replace(TRIP, steps=(step("r", 1, 2, 3, kind="response"),))
    assert [row.category for row in view_of(Run(result=listed)).rows] == ["answer"]
