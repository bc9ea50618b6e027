"""The tables of settings in docs/app.md are those of the source."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

SCRIPT = Path(__file__).parents[1] / "docs" / "settings_table.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_the_tables_of_settings_are_up_to_date(script: dict[str, Any]) -> None:
    page = script["PAGE"].read_text(encoding="utf-8")
    assert script["updated"](page) == page, "run `python docs/settings_table.py`"


def test_a_stale_table_of_settings_is_written_anew(script: dict[str, Any]) -> None:
    page = script["PAGE"].read_text(encoding="utf-8")
    stale = page.replace("| `seed` |", "| `sead` |")
    assert stale != page
    assert script["updated"](stale) == page


def test_a_docstring_that_names_another_place_is_refused(script: dict[str, Any]) -> None:
    field = FieldInfo(annotation=str, default=None)
    field.metadata.append(script["Input"]("tone"))
    assert (
        script["row"]("tone", field, "How to speak. All apps. `input.tone`.")[3] == "`input.tone`"
    )
    with pytest.raises(ValueError, match="the docstring of tone"):
        script["row"]("tone", field, "How to speak. All apps. `parameters.tone`.")
