"""List the licences of all that the package installs, in both languages: `make licences`.

It writes docs/en/licences.md and docs/zh/licences.md from what is installed in the environment that
runs it, and fails where a licence is unknown or not in PERMITTED.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
# The names of old metadata that do not follow SPDX.
SPDX = {
    "Academic Free License (AFL)": "AFL",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSF License": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
PERMITTED = {
    *("0BSD", "AFL", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0"),
    *("CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib"),
}


def declared() -> dict[str, list[Requirement]]:
    """Return what the project requires: always (under ""), and with each extra but `all`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts: dict[str, list[str]] = {"": project["dependencies"]} | project["optional-dependencies"]
    return {
        extra: [Requirement(text) for text in required]
        for extra, required in texts.items()
        if extra != "all"
    }


def installed_by(requirements: Iterable[Requirement]) -> set[str]:
    """Return the names of the packages that requirements install, and of what these require."""
    found: set[tuple[str, str]] = set()
    waiting = [(each.name, extra) for each in requirements for extra in ("", *each.extras)]
    while waiting:
        name, extra = waiting.pop()
        name = canonicalize_name(name)
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for text in metadata.requires(name) or []:
            each = Requirement(text)
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                waiting += [(each.name, more) for more in ("", *each.extras)]
    return {name for name, _ in found}


def licences(names: Iterable[str]) -> dict[str, str]:
    """Return the licence of each installed package, in SPDX's words."""
    done = subprocess.run(  # noqa: S603 - the names are of packages that are installed
        [
            sys.executable,
            "-m",
            "piplicenses",
            "--format=json",
            "--with-system",
            "--packages",
            *names,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = {}
    for each in json.loads(done.stdout):
        line: str = each["License"].strip().split("\n")[0]  # some metadata hold the whole text
        names = [SPDX.get(name, name) for name in line.split("; ")]
        found[canonicalize_name(each["Name"])] = ", ".join(names)
    return found


def refused(licence: str) -> bool:
    """Say whether a licence is unknown, or names one that is not permitted."""
    names = re.sub(r"\b(AND|OR|WITH)\b|[(),]", " ", licence).split()
    return not names or not PERMITTED.issuperset(names)


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield each package, its licence, and the extras that install it (none: always)."""
    by_extra = {extra: installed_by(required) for extra, required in declared().items()}
    every = sorted({name for names in by_extra.values() for name in names})
    found = licences(every)
    for name in every:
        extras = [extra for extra, names in by_extra.items() if name in names]
        yield name, found[name], "" if "" in extras else ", ".join(f"`[{e}]`" for e in extras)


def page(language: str, table: list[tuple[str, str, str]]) -> str:
    """Return the page in a language."""
    python = ".".join(map(str, sys.version_info[:2]))
    head, columns, always = {
        "en": (
            "# Licences\n\nbailian-apps is under [Apache-2.0](../../LICENSE). `pip install` also "
            "installs the packages below, with the\nlicences that their metadata declares. The "
            "list is that of [dev.lock](../../requirements/dev.lock) "
            f"on Python {python} on Linux;\n"
            "`make licences` writes it. None of them is under the GPL, LGPL or AGPL.\n",
            "| package | licence | installed with |",
            "every install",
        ),
        "zh": (
            "# 依赖的许可证\n\nbailian-apps 采用 [Apache-2.0](../../LICENSE) 许可证。`pip install` "
            "还会安装下列软件包，许可证以各包的元数据为准。清单对应 "
            f"Linux、Python {python} 和 [dev.lock](../../requirements/dev.lock) 中的版本，由 "
            "`make licences` 生成。其中没有 GPL、LGPL 和 AGPL 许可证。\n",
            "| 软件包 | 许可证 | 安装方式 |",
            "始终安装",
        ),
    }[language]
    lines = [f"| `{name}` | {licence} | {by or always} |" for name, licence, by in table]
    return "\n".join([head, columns, "|---|---|---|", *lines, ""])


def main() -> None:
    """Write both pages."""
    table = list(rows())
    for language in ("en", "zh"):
        path = ROOT / "docs" / language / "licences.md"
        path.write_text(page(language, table), encoding="utf-8")
    if wrong := [f"{name}: {licence}" for name, licence, _ in table if refused(licence)]:
        sys.exit("\n".join(["These licences are unknown or not permitted:", *wrong]))


if __name__ == "__main__":
    main()
