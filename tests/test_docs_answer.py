"""The table of an answer's fields in docs/app.md has every field."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from bailian_apps import AppResult

PAGE = Path(__file__).parents[1] / "docs" / "app.md"


def test_the_table_of_an_answer_has_every_field() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## The answer\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(listed) == sorted(["AppResult", *(field.name for field in fields(AppResult))])
