"""What the READMEs promise: the versions of the table, the test, and both languages alike."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import environment
from support.pages import blocks_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.zh-CN.md"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", READMES)
def test_the_versions_are_those_of_the_project(name: str) -> None:
    extras = PROJECT["optional-dependencies"]
    required = [*PROJECT["dependencies"], *extras["langchain"], *extras["llamaindex"]]
    rows = re.findall(r"^\| `([\w-]+)`.* \| `([^`]+)` \|$", read(name), re.M)
    assert len(rows) == 4
    assert {package + versions for package, versions in rows} < set(required)


@pytest.mark.parametrize("name", READMES)
def test_the_pythons_are_those_of_the_project(name: str) -> None:
    pythons = re.findall(r":: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.M)
    (row,) = re.findall(r"^\| Python \| (.+) \|$", read(name), re.M)
    assert re.findall(r"[\d.]+", row) == [pythons[0], pythons[-1]]


@pytest.mark.parametrize("name", READMES)
def test_the_extras_are_those_of_the_project(name: str) -> None:
    (install,) = re.findall(r"^pip install .+$", read(name), re.M)
    named = re.findall(r"\[(\w+)\]", install)
    assert sorted(named) == sorted(set(PROJECT["optional-dependencies"]) - {"all"})


@pytest.mark.process
@pytest.mark.parametrize("name", READMES)
def test_the_test_passes(name: str, tmp_path: Path) -> None:
    (block,) = [code for code in blocks_of(read(name), "python") if "def test_" in code]
    (tmp_path / "test_readme.py").write_text(block, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--noconftest"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "1 passed" in done.stdout


def test_both_have_the_same_parts() -> None:
    english, chinese = map(read, READMES)
    pattern = r"^(#+|```\w*|\|---.*|!\[|- |\| )"
    assert re.findall(pattern, english, re.M) == re.findall(pattern, chinese, re.M)
    targets = [re.findall(r"\]\(([^)#]+)", text) for text in (english, chinese)]
    assert [t.replace("docs/en/", "docs/zh/") for t in targets[0][1:] if "docs/" in t] == [
        t
        for t in targets[1][1:]
        if "docs/" in t and t[8:-3] not in ("contributing", "changelog", "security")
    ]
