"""The code blocks and tables of the documentation's pages, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
LANGUAGES = ("en", "zh")


def page(name: str, language: str = "en") -> str:
    """The text of a page."""
    return (DOCS / language / f"{name}.md").read_text(encoding="utf-8")


def blocks(name: str, kind: str, language: str = "en") -> list[str]:
    """The code blocks of one kind, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page(name, language), re.M | re.S)


def sections(name: str, language: str = "en") -> dict[str, str]:
    """The sections of a page by their headings."""
    text = re.sub(r"^```.*?^```\n", _without_headings, page(name, language), flags=re.M | re.S)
    parts = re.split(r"^## (.+)\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _without_headings(block: re.Match[str]) -> str:
    return block[0].replace("\n## ", "\n")


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of tables, without the lines below their heads."""
    cells = [
        re.split(r" *(?<!\\)\| *", line.strip("| "))
        for line in text.splitlines()
        if line[:1] == "|"
    ]
    return [row for row in cells if not re.fullmatch(r"[-: ]*", "".join(row))]
