"""The pictures are those that the scripts draw: of a run of today, and the diagrams of the pages."""

from __future__ import annotations

import re
import runpy
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from support.screen import needs_tmux

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
NAMES = ("terminal.svg", "waterfall.svg")
DIAGRAMS = [
    f"{name}.{language}.svg"
    for name in ("sessions", "steps", "streaming", "requests", "failures")
    for language in ("en", "zh")
]
SVG = "{http://www.w3.org/2000/svg}"


def words(svg: Path) -> list[str]:
    """What is read in a picture at the end, without what differs from run to run."""
    root = ET.fromstring(svg.read_text(encoding="utf-8"))
    ends = root.findall(f"{SVG}g[@class='last']")
    texts = ["".join(text.itertext()) for end in ends or [root] for text in end.iter(f"{SVG}text")]
    same = [re.sub(r"session \w+|[\d.,]+( m?s\b)?", "", text) for text in texts]
    return [text for text in same if text.strip()]  # an axis has as many marks as there was time


@pytest.mark.process
@needs_tmux
def test_the_pictures_are_those_of_a_run_of_today(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "docs" / "make_pictures.py"))["main"](tmp_path)
    for name in NAMES:
        assert words(tmp_path / name) == words(IMAGES / name), "run `python docs/make_pictures.py`"
    played = ET.fromstring((tmp_path / "terminal.svg").read_text(encoding="utf-8"))
    assert len(played.findall(f"{SVG}g[@class='then']/{SVG}text")) > 3  # it moves


def test_the_diagrams_are_those_of_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    runpy.run_path(str(ROOT / "docs" / "make_diagrams.py"))["main"](tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(DIAGRAMS)
    for name in DIAGRAMS:
        drawn = (tmp_path / name).read_bytes()
        assert drawn == (IMAGES / name).read_bytes(), "run `python docs/make_diagrams.py`"


@pytest.mark.parametrize("name", DIAGRAMS)
def test_no_text_of_a_diagram_is_smaller_than_the_page_s_code(name: str) -> None:
    text = (IMAGES / name).read_text(encoding="utf-8")
    assert 'viewBox="0 0 700 ' in text
    assert set(re.findall(r"(?:font-size:|font:)(\d+)px", text)) == {"13", "12"}
    has_chinese = re.search("[\u4e00-\u9fff]", text) is not None
    assert has_chinese == (".zh." in name)


@pytest.mark.parametrize("name", [*NAMES, *DIAGRAMS])
def test_a_picture_is_small_and_loads_nothing(name: str) -> None:
    text = (IMAGES / name).read_text(encoding="utf-8")
    assert len(text.encode()) < 60_000
    assert "<script" not in text
    assert set(re.findall(r"https?://[^\"\s<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme:dark" in text.replace(" ", "")


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_both_readmes_show_both_pictures(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = re.findall(r"^!\[([^\]]+)\]\(docs/images/([\w.]+)\)$", text, re.M)
    assert [name for _, name in shown] == [*NAMES]
    assert all(len(words) > 10 for words, _ in shown)
