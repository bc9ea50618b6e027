"""The versions that are declared are the versions that are tested."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]
DECLARED = {
    *PROJECT["project"]["dependencies"],
    *(each for extra in EXTRAS.values() for each in extra if not each.startswith("bailian-apps")),
    *(each for group in ("test", "floor", "build") for each in GROUPS[group]),
}


@pytest.mark.parametrize("declared", sorted(DECLARED))
def test_the_oldest_version_that_is_allowed_is_tested(declared: str) -> None:
    """Where this fails, `make lock UPGRADE=--upgrade` or the floor in pyproject.toml is due."""
    requirement = Requirement(declared)
    (floor,) = [each.version for each in requirement.specifier if each.operator == ">="]
    lock = (ROOT / "requirements/floor.lock").read_text(encoding="utf-8")
    locked = re.findall(rf"^{re.escape(requirement.name)}==(\S+)", lock, re.M)
    assert [Version(each) for each in locked] == [Version(floor)]


def test_the_pythons_that_are_promised_are_tested() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    (matrix,) = re.findall(r"^ +python: (\[.+\])$", workflow, re.M)
    (sessions,) = re.findall(
        r"^PYTHONS = (\[.+\])$", (ROOT / "noxfile.py").read_text("utf-8"), re.M
    )
    assert sessions == matrix
    pythons = re.findall(r"[\d.]+", matrix)
    promised = re.findall(r":: (3\.\d+)$", "\n".join(PROJECT["project"]["classifiers"]), re.M)
    assert promised == pythons[: len(promised)]
    assert PROJECT["project"]["requires-python"] == f">={pythons[0]}"
