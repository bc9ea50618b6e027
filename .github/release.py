"""Check that a tag can be released from a repository, and print the release's notes.

`python .github/release.py TAG REPOSITORY_URL` prints the changelog's section of the version, with
links to the repository. `make install` has what it needs.
"""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
CHANGELOG = "CHANGELOG.md"


def release_notes(tag: str, repository: str) -> str:
    """Return the changelog's section of a tag.

    Raises:
        SystemExit: The tag, the repository or the changelog is not that of pyproject.toml.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version, address = project["version"], project["urls"]["Repository"]
    if tag != f"v{version}":
        sys.exit(f"The tag is {tag}, but the version in pyproject.toml is {version}.")
    if repository.casefold() != address.casefold():
        sys.exit(
            f"This repository is {repository}, but [project.urls] in pyproject.toml has {address}: "
            "the links on PyPI would lead there. Change [project.urls]."
        )
    changelog = (ROOT / CHANGELOG).read_text(encoding="utf-8")
    section = re.search(
        rf"^## {re.escape(version)} - [^\n]*\n(.*?)(?=^## |\Z)", changelog, re.M | re.S
    )
    if section is None:
        sys.exit(f"{CHANGELOG} has no section `## {version} - YYYY-MM-DD`.")
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))
    return str(hook["with_absolute_links"](section[1].strip(), CHANGELOG, ROOT, address, tag))


if __name__ == "__main__":
    print(release_notes(*sys.argv[1:]))
