"""Every relative link in the pages leads to a file, and to a heading of it. No network."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from support.pages import without_blocks

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)", re.M)
_PATH = re.compile(r"`((?:[\w.-]+/)+[\w-]+\.py)`")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.M)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    return set(map(anchor, _HEADING.findall(without_blocks(page.read_text(encoding="utf-8")))))


def links(text: str) -> list[str]:
    """The targets of the links in a page, code left out."""
    prose = _CODE.sub("", without_blocks(text))
    return [inline or reference for inline, reference in _LINK.findall(prose)]


def broken(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    found: list[str] = []
    for link in links(page.read_text(encoding="utf-8")):
        path, _, fragment = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not (target.exists() and target.is_relative_to(ROOT)) or (
            fragment and fragment not in anchors(target)
        ):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_file_that_a_page_names_exists(page: Path) -> None:
    package = ROOT / "integrations" / "bailian_apps"
    folders = (ROOT, ROOT / "integrations", package)
    named = _PATH.findall(without_blocks(page.read_text(encoding="utf-8")))
    assert [each for each in named if not any((f / each).is_file() for f in folders)] == []


def test_links_to_missing_files_and_headings_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# A page: `Name`\n[self](#a-page-name) [file](page.md) [web](https://example.com/no)\n"
        "[gone](gone.md) [heading](#gone) [outside](../) `[code](gone.md)`\n",
        encoding="utf-8",
    )
    assert broken(page) == ["gone.md", "#gone", "../"]
