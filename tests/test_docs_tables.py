"""The tables in settings.md and parameters.md, in both languages, are those of the source."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from bailian_apps import AppRequest, AppSettings, Timeout

SCRIPT = Path(__file__).parents[1] / "docs" / "settings_table.py"
PAGES = [f"{language}/{name}" for language in ("en", "zh") for name in ("settings", "parameters")]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def tables(script: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The text of each page, and what has to stand between its markers."""
    return {
        f"{path.parent.name}/{path.stem}": (path.read_text(encoding="utf-8"), text)
        for path, text in script["pages"]()
    }


@pytest.mark.parametrize("name", PAGES)
def test_the_tables_of_a_page_are_up_to_date(
    script: dict[str, Any], tables: dict[str, tuple[str, str]], name: str
) -> None:
    page, text = tables[name]
    assert script["updated"](page, text) == page, "run `python docs/settings_table.py`"


@pytest.mark.parametrize("name", PAGES)
def test_a_stale_table_is_replaced(
    script: dict[str, Any], tables: dict[str, tuple[str, str]], name: str
) -> None:
    page, text = tables[name]
    stale = page.replace("| `seed` |", "| `sead` |")
    assert stale != page
    assert script["updated"](stale, text) == page


def test_every_setting_has_a_chinese_description(script: dict[str, Any]) -> None:
    _, chinese = script["languages"]()
    fields = AppSettings.model_fields | AppRequest.model_fields | Timeout.model_fields
    assert sorted(chinese.meanings) == sorted(fields)
    assert [name for name, meaning in chinese.meanings.items() if not meaning.endswith("。")] == []


def test_no_chinese_word_is_left_over(
    script: dict[str, Any], tables: dict[str, tuple[str, str]]
) -> None:
    _, chinese = script["languages"]()
    english = tables["en/settings"][1] + tables["en/parameters"][1]
    cells = {cell for line in english.splitlines() for cell in re.split(r" \| |^\| | \|$|, ", line)}
    headings = {line.removeprefix("## ") for line in english.splitlines()}
    whole = [word for word in chinese.words if word not in cells | headings]
    assert [word for word in whole if f"| {word} |" not in english] == []


@pytest.mark.parametrize("missing", ["words", "meanings"])
def test_a_text_without_chinese_is_refused(script: dict[str, Any], missing: str) -> None:
    _, chinese = script["languages"]()
    texts = {part: dict(getattr(chinese, part)) for part in ("words", "meanings")}
    texts[missing].pop("seed" if missing == "meanings" else "the console's")
    with pytest.raises(ValueError, match=r"settings\.toml has no .* in \[" + missing):
        script["tables"](script["Language"]("zh", **texts))


def test_a_chinese_description_names_the_values_of_the_english_one(
    tables: dict[str, tuple[str, str]],
) -> None:
    """So a description that is out of date in what it names is found."""

    def named(language: str) -> dict[str, set[str]]:
        rows = re.findall(r"^\| `(\w+)` \|.* \| (.*) \|$", tables[f"{language}/settings"][1], re.M)
        return {name: set(re.findall(r"`[^`]+`", meaning)) for name, meaning in rows}

    english, chinese = named("en"), named("zh")
    missing = {name: sorted(english[name] - chinese[name]) for name in english}
    assert {name: codes for name, codes in missing.items() if codes} == {}


def test_a_docstring_that_names_another_place_is_refused(script: dict[str, Any]) -> None:
    field = FieldInfo(annotation=str, default=None)
    field.metadata.append(script["Input"]("tone"))
    assert (
        script["row"]("tone", field, "How to speak. All apps. `input.tone`.")[3] == "`input.tone`"
    )
    with pytest.raises(ValueError, match="the docstring of tone"):
        script["row"]("tone", field, "How to speak. All apps. `parameters.tone`.")


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
