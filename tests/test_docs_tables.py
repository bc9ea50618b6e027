"""The tables in docs/en/app.md and docs/en/parameters.md are those of the source."""

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


def test_the_table_of_parameters_is_up_to_date(script: dict[str, Any]) -> None:
    page = script["PARAMETERS_PAGE"].read_text(encoding="utf-8")
    table = script["parameters_table"]()
    assert script["updated"](page, table) == page, "run `python docs/settings_table.py`"


def test_the_table_of_parameters_names_recordings_that_exist(script: dict[str, Any]) -> None:
    folder = SCRIPT.parents[1] / "tests" / "recordings"
    assert {name for name in script["RECORDED"].values() if not (folder / name).is_file()} == set()


@pytest.mark.parametrize(
    ("kind", "marks"),
    [
        ("all", (True, True, True)),
        ("with a vision model", (True, True, True)),
        ("agent", (True, True, False)),
        ("agent and dialog workflows", (True, True, True)),
        ("agent 1.0", (True, False, False)),
        ("older agent", (True, False, False)),
        ("agent 1.0 and workflow", (True, False, True)),
        ("workflow", (False, False, True)),
    ],
)
def test_a_kind_of_app_is_marked_in_its_columns(
    script: dict[str, Any], kind: str, marks: tuple[bool, bool, bool]
) -> None:
    assert script["kinds_of_app"](kind) == marks


def test_the_keyword_arguments_of_calls_are_those_of_the_settings(script: dict[str, Any]) -> None:
    source = script["KEYWORDS"].read_text(encoding="utf-8")
    assert script["keywords_module"]() == source, "run `python docs/settings_table.py`"
