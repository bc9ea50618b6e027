"""The code blocks and tables of the documentation's pages, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
LANGUAGES = ("en", "zh")

_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```\n?", re.M | re.S)


def page(name: str, language: str = "en") -> str:
    """The text of a page."""
    return (DOCS / language / f"{name}.md").read_text(encoding="utf-8")


def blocks(name: str, kind: str, language: str = "en") -> list[str]:
    """The code blocks of one kind on a page, in order."""
    return blocks_of(page(name, language), kind)


def blocks_of(text: str, kind: str) -> list[str]:
    """The code blocks of one kind in a text, in order."""
    return [code for each, code in every_block(text) if each == kind]


def every_block(text: str) -> list[tuple[str, str]]:
    """The kind and the code of each block in a text, in order."""
    return _BLOCK.findall(text)


def without_blocks(text: str) -> str:
    """A text without its code blocks."""
    return _BLOCK.sub("", text)


def sections(name: str, language: str = "en") -> dict[str, str]:
    """The sections of a page by their headings."""
    text = _BLOCK.sub(_without_headings, page(name, language))
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
