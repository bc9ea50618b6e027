"""The tables of the fields of answers, steps and documents in result.md are complete."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from support.pages import LANGUAGES, page

from bailian_apps import AppResult, DocReference, RetrievedDocument, Step


def tables(language: str) -> list[list[str]]:
    """The names in the first column of each table of the page, heads included."""
    return [
        [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
        for table in re.findall(r"(?:^\|.*\n)+", page("result", language), re.M)
    ]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("at", "of", "more"),
    [
        (0, AppResult, {"AppResult", "documents"}),
        (1, Step, {"failed", "query", "documents"}),
        (3, DocReference, {"DocReference"}),
        (4, RetrievedDocument, {"RetrievedDocument"}),
    ],
    ids=["AppResult", "Step", "DocReference", "RetrievedDocument"],
)
def test_the_table_has_every_field(language: str, at: int, of: type, more: set[str]) -> None:
    listed = tables(language)[at]
    assert sorted(listed) == sorted({field.name for field in fields(of)} | more)
    assert all(hasattr(of, name) for name in more - {of.__name__})
