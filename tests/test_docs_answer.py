"""The tables of an answer's and of a step's fields in docs/en/app.md are complete."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from bailian_apps import AppResult, Step

PAGE = Path(__file__).parents[1] / "docs/en/app.md"


def names_in_table(heading: str) -> list[str]:
    """The names in the first column of a section's first table."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    table = re.split(r"\n(?!\|)", section[section.index("\n| ") + 1 :])[0]
    return [
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]


@pytest.mark.parametrize(
    ("heading", "of", "more"),
    [
        ("The answer", AppResult, {"AppResult", "documents"}),
        ("Steps", Step, {"failed", "query", "documents"}),
    ],
)
def test_the_table_has_every_field(heading: str, of: type, more: set[str]) -> None:
    listed = names_in_table(heading)
    assert sorted(listed) == sorted({field.name for field in fields(of)} | more)
    assert all(hasattr(of, name) for name in more - {of.__name__})
