"""The documentation site, built once for all workers of a test run."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from support.pages import LANGUAGES

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Site:
    """What `docs/build_site.py` made.

    Attributes:
        folder: The pages.
        exit_code: How it ended.
        output: What it printed: warnings.
    """

    folder: Path
    exit_code: int
    output: str

    def pages(self) -> Iterator[Path]:
        """Every page, of both languages."""
        return (page for language in LANGUAGES for page in (self.folder / language).rglob("*.html"))


def built_site(temporary: Path) -> Site:
    """Build the site, or return what another worker of the run has built.

    Args:
        temporary: Pytest's base folder, which each worker has below that of the run.
    """
    shared = temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary
    site, report = shared / "site", shared / "site.json"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not report.exists():
            done = subprocess.run(
                [sys.executable, ROOT / "docs" / "build_site.py", site],
                capture_output=True,
                text=True,
                check=False,
                env={k: v for k, v in os.environ.items() if k not in ("DOCS_SOURCE_URL",)},
            )
            report.write_text(json.dumps([done.returncode, done.stdout + done.stderr]))
        return Site(site, *json.loads(report.read_text()))


@dataclass
class Page(HTMLParser):
    """What a page names: its anchors, its links, and what a browser loads for it."""

    ids: set[str] = field(default_factory=set[str])
    links: list[str] = field(default_factory=list[str])
    loaded: list[str] = field(default_factory=list[str])
    tags: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes: dict[str, Any] = dict(attrs)
        self.tags.add(tag)
        self.ids.update(attributes[name] for name in ("id", "name") if attributes.get(name))
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        elif tag == "link" and attributes.get("href"):
            # A search engine follows these; a browser loads the others.
            named = attributes.get("rel") in ("alternate", "index", "next", "prev", "search")
            (self.links if named else self.loaded).append(attributes["href"])
        elif attributes.get("src"):
            self.loaded.append(attributes["src"])


def read_page(path: Path) -> Page:
    """Read a page that was built."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page
