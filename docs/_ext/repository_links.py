"""Links of a page to files outside of it, such as `../../examples/rag.py`.

Where the environment variable `DOCS_SOURCE_URL` holds the address of the repository's files
(`https://github.com/OWNER/NAME/blob/v1.0.0`), a link leads there. Otherwise the site has a page of
each linked file, and of each linked folder a list of what is in it. Links to the README lead to the
start page, those to CHANGELOG.md and its like to their pages, those to a page of the other language
to that page. What is in docs/publishing is for other sites, so here it is a file like any other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PUBLISHING = DOCS / "publishing"
SOURCE_URL = os.environ.get("DOCS_SOURCE_URL", "").rstrip("/")
PAGES = {
    "README.md": "index",
    "README.zh-CN.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
}
LEXERS = {".py": "python", ".ipynb": "json", ".yaml": "yaml", ".jsonl": "json", ".sh": "sh"}
_LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")


def page_of(path: Path, language: str) -> str:
    """Return the address of the site's page for a file or folder, from a language's root."""
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES:
        return f"{PAGES[name]}.html"
    if path.suffix == ".md" and _is_part_of_site(path):
        folder, _, page = path.relative_to(DOCS).with_suffix(".html").as_posix().partition("/")
        return page if folder == language else f"../{folder}/{page}"
    if SOURCE_URL:
        return f"{SOURCE_URL}/{name}"
    return f"source/{name}.html"


def target_of(link: str, folder: Path) -> Path | None:
    """Return the file or folder that a relative link leads to."""
    for base in (folder, ROOT):  # ROOT for the files that a page includes
        path = Path(os.path.normpath(base / link))
        if link and path.exists() and path.is_relative_to(ROOT):
            return path
    return None


def resolve(app: Sphinx, doctree: nodes.document) -> None:
    """Lead the links that are no links between pages of one language."""
    docname = app.env.docname
    folder = Path(app.env.doc2path(docname)).parent
    for node in list(doctree.findall(addnodes.pending_xref)) + list(
        doctree.findall(addnodes.download_reference)
    ):
        if node.get("reftype") != "myst":
            continue
        link, _, fragment = node["reftarget"].partition("#")
        if node.get("refdomain") == "doc":  # a Markdown file, without its suffix
            if not link.startswith("/"):  # one of this language
                continue
            link, fragment = f"{link}.md", node.get("reftargetid")
        path = target_of(link, folder)
        if path is None:
            continue
        address = page_of(path, app.srcdir.name)
        if "://" not in address:
            address = "../" * docname.count("/") + address
        address += f"#{fragment}" if fragment else ""
        node.replace_self(nodes.reference("", "", *node.children, refuri=address))


def linked_files() -> list[Path]:
    """Return what the pages of both languages link to outside of docs/, and what is in folders."""
    found: set[Path] = set()
    pages = [page for page in DOCS.rglob("*.md") if _is_part_of_site(page)]
    for page in [*pages, *(ROOT / name for name in PAGES)]:
        for link in _LINK.findall(page.read_text(encoding="utf-8")):
            path = target_of(link, page.parent)
            if (
                path
                and not _is_part_of_site(path)
                and path.relative_to(ROOT).as_posix() not in PAGES
            ):
                found.update(_with_children(path))
    return sorted(found)


def _is_part_of_site(path: Path) -> bool:
    return path.is_relative_to(DOCS) and not path.is_relative_to(PUBLISHING)


def _with_children(path: Path) -> Iterator[Path]:
    yield path
    for child in _children(path) if path.is_dir() else ():
        yield from _with_children(child)


def _children(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")))


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Make a page of each linked file or folder."""
    if SOURCE_URL:
        return
    for path in linked_files():
        name = path.relative_to(ROOT).as_posix()
        if path.is_dir():
            folder = escape(path.name)
            items = "".join(
                f'<li><a href="{folder}/{escape(child.name)}.html">{escape(child.name)}</a></li>'
                for child in _children(path)
            )
            body = f"<ul>{items}</ul>"
        else:
            text = path.read_text(encoding="utf-8")
            lexer = LEXERS.get(path.suffix, "text")
            body = app.builder.highlighter.highlight_block(text, lexer)
        title = PurePosixPath(name).name
        yield (
            f"source/{name}",
            {"title": title, "body": f"<h1>{escape(name)}</h1>{body}"},
            "page.html",
        )


def put_anchor_first(app: Sphinx, doctree: nodes.document) -> None:
    """Use GitHub's anchor of a heading in addresses; a selector cannot begin with a digit."""
    for section in doctree.findall(nodes.section):
        slug = section.get("slug")
        if slug in section["ids"] and not slug[0].isdigit():
            section["ids"].remove(slug)
            section["ids"].insert(0, slug)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions above, before Sphinx collects titles and downloads."""
    app.connect("doctree-read", resolve, priority=100)
    app.connect("doctree-read", put_anchor_first, priority=100)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
