"""Sphinx builds docs/en and docs/zh with this, one site each; `docs/build_site.py` runs both."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

project = "bailian-apps"
release = metadata.version(project)
project_copyright = "The bailian-apps authors, Apache-2.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "chinese",
    "docstrings",
    "repository_links",
]
templates_path = ["_templates"]

myst_heading_anchors = 6

autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autoclass_content = "both"
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "shibuya"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_show_sourcelink = False
html_copy_source = False
html_use_index = False
html_search_scorer = str(DOCS / "_ext" / "search_scorer.js")
html_theme_options = {"accent_color": "iris", "show_ai_links": False, "toctree_maxdepth": 2}

# The folder of the pages: Sphinx's name of their language, its own name, the site's title.
LANGUAGES = {
    "en": ("en", "English", "bailian-apps: Bailian apps in LangChain and LlamaIndex"),
    "zh": ("zh_CN", "中文", "bailian-apps：在 LangChain 和 LlamaIndex 中使用百炼应用"),
}


def set_title(app: Sphinx, config: Config) -> None:
    """Give each language's site its title."""
    config.html_title = LANGUAGES[app.srcdir.name][2]


def add_language_switch(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Tell the templates the same page's address in the other language."""
    (other,) = LANGUAGES.keys() - {app.srcdir.name}
    up = "../" * (pagename.count("/") + 1)
    context["other_language"] = {
        "tag": LANGUAGES[other][0].replace("_", "-"),
        "name": LANGUAGES[other][1],
        "url": f"{up}{other}/{pagename}.html",
    }


def drop_remote_font(app: Sphinx, failure: Exception | None) -> None:
    """Take the one address of another host from the theme's style: a font for flags."""
    for style in Path(app.outdir, "_static").glob("shibuya.css"):
        text = style.read_text(encoding="utf-8")
        text = re.sub(r"@font-face\{[^}]*url\(https:[^}]*\}", "", text)
        style.write_text(text, encoding="utf-8")


def list_decisions(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the decisions below their list, in the navigation; on GitHub the list is enough."""
    if docname == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"


def setup(app: Sphinx) -> None:
    """Register the functions above."""
    app.connect("source-read", list_decisions)
    app.connect("config-inited", set_title)
    app.connect("html-page-context", add_language_switch)
    app.connect("build-finished", drop_remote_font)
