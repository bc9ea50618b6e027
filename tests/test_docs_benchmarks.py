"""benchmarks.md and scaling.md have the same figures in both languages."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
EN, ZH = ROOT / "docs" / "en", ROOT / "docs" / "zh"
FIGURE = re.compile(r"\d(?:[\d,.]*\d)?")


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "pages.py"))


def rows(page: Path) -> list[list[str]]:
    """The figures in each row of a page's tables."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [sorted(FIGURE.findall(line)) for line in lines if line.startswith("|")]


@pytest.mark.parametrize("name", ["benchmarks.md", "scaling.md"])
def test_the_tables_of_both_pages_have_the_same_figures(name: str) -> None:
    assert len(rows(EN / name)) > 20
    assert rows(EN / name) == rows(ZH / name)


def test_the_chinese_parts_are_those_that_the_benchmark_writes(script: dict[str, Any]) -> None:
    english = script["parts_of"](EN / "benchmarks.md")
    assert len(english) == 12
    written = {name: script["in_chinese"](report) for name, report in english.items()}
    assert script["parts_of"](ZH / "benchmarks.md") == written
    words = re.sub(r"`[^`]*`", "", " ".join(written.values()))
    assert (
        re.findall(r"\b(?:a|an|by|of|and|the|from|in|with|frames?|streams|median)\b", words) == []
    )


def test_a_report_is_put_between_its_markers(script: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "zh" / "page.md"
    page.parent.mkdir()
    page.write_text("# 甲\n\n<!-- growth -->\n\nold\n\n<!-- end -->\n\n乙\n", encoding="utf-8")
    script["write"](
        page, "growth", "| workflow | bytes |\n|---|---:|\n| 2 nodes × 3 frames | 4,000 |"
    )
    assert page.read_text("utf-8") == (
        "# 甲\n\n<!-- growth -->\n\n| 工作流 | 字节数 |\n|---|---:|\n| 2 个节点 × 3 帧 | 4,000 |\n\n"
        "<!-- end -->\n\n乙\n"
    )
