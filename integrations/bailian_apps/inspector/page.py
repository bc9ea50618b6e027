"""The page: a template, filled with what can be seen at once; the rest is data that a script reads.

Everything that came from an app is text. The template escapes it; the data stand as JSON in a
script element that is never run. The content security policy names the page's own style and script
by their hashes and allows nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from bailian_apps.core.documents import RetrievedDocument
from bailian_apps.core.result import DocReference
from bailian_apps.inspector.diff import Comparison
from bailian_apps.inspector.drawable import as_json
from bailian_apps.inspector.view import Row, View, format_ms

_FILES = (
    "page.html",
    "run.html",
    "diff.html",
    "icons.html",
    "colors.css",
    "page.css",
    "diff.css",
    "texts.js",
    "page.js",
    "waterfall.svg",
)

# What would steer a reader's eyes or a parser, or hide: controls, marks of direction, spaces
# without width, tags, lone surrogates. Joiners stay: emoji and some scripts need them.
_UNSEEN_RANGES = (
    "0-8 b-1f 7f-9f ad 61c 180e 200b 200e 200f 2028-202e 2060-206f feff fff9-fffb fffe ffff "
    "d800-dfff e0000-e007f"
)
_HEX = re.compile("[0-9a-f]+")
_UNSEEN_IN_JS = _HEX.sub(r"\\u{\g<0>}", _UNSEEN_RANGES).replace(" ", "")
_UNSEEN_IN_PYTHON = _HEX.sub(lambda code: chr(int(code[0], 16)), _UNSEEN_RANGES).replace(" ", "")
_UNSEEN = re.compile(f"[{_UNSEEN_IN_PYTHON}]")
_BETWEEN = re.compile(r">\s*\n\s*<")
_SCRIPT_END = re.compile("</(?=script)", re.IGNORECASE)
_CITATION = re.compile(r"<ref>([^<]{1,64})</ref>")
_SURROGATE = re.compile("[\ud800-\udfff]")

# Of a text's beginning, for readers without scripts: characters of one, and of all.
_EXCERPT, _EXCERPTS, _STATIC_ANSWER = 600, 16_000, 20_000

# Of a notebook's frame, which cannot be as high as its page: pixels, as page.css has them.
_TALLEST_PX, _ANSWER_PX, _HEAD_PX, _BANNER_PX = 720, 300, 179, 48
_LINE_PX, _ROW_PX, _PART_PX, _DOCUMENT_PX, _RUN_PX = 23, 32, 42, 84, 50
_LINE, _IDS = 125, 2.5  # narrow characters and ids of a line


def page(
    views: Sequence[View],
    *,
    title: str | None = None,
    compact: bool = False,
    comparison: Comparison | None = None,
) -> str:
    """Return the page of one run or of several.

    Args:
        views: The runs.
        title: The page's title; by default that of the run, or how many there are.
        compact: Whether it is for a small frame.
        comparison: What differs between two runs, to stand above them.
    """
    style = _short("colors.css") + _short("page.css")
    script = _short("texts.js") + _short("page.js")
    if comparison is not None:
        style += _short("diff.css")
    if title is None:
        title = views[0].title if len(views) == 1 else f"{len(views)} runs"
    return (
        environment()
        .get_template("page.html")
        .render(
            title=title,
            views=views,
            data=Markup(_script_json([_data(view) for view in views])),  # noqa: S704 - escaped there
            style=Markup(style),  # noqa: S704 - ours
            script=Markup(script),  # noqa: S704 - ours
            style_hash=_hash(style),
            script_hash=_hash(script),
            compact=compact,
            excerpts=_Excerpts(),
            comparison=comparison,
        )
    )


def notebook_page(views: Sequence[View]) -> str:
    """Return the page in a frame of its own, as the output of a notebook's cell.

    The frame is a sandbox without an origin, so nothing in it reaches the notebook.
    """
    if len(views) == 1:
        height = min(_TALLEST_PX, _height(views[0]))
    else:
        height = min(_TALLEST_PX, _HEAD_PX + _RUN_PX * len(views))
    source = html.escape(page(views, compact=True), quote=False).replace("'", "&#39;")
    return (
        f"<iframe srcdoc='{source}' sandbox=\"allow-scripts allow-popups "
        f'allow-popups-to-escape-sandbox" title="{visible(html.escape(views[0].title))}" '
        f'width="100%" height="{height}" frameborder="0" loading="lazy"></iframe>'
    )


def _height(view: View) -> int:
    """Estimate the height of the page of a run, in a frame of the usual width."""
    result = view.run.result
    ids = [*filter(None, (view.run.app_id, result.session_id, result.request_id)), *view.models]
    banners = [
        view.run.error,
        view.state == "unfinished",
        result.context_lost,
        result.whole_history,
    ]
    height = _HEAD_PX + _LINE_PX * math.ceil(len(ids) / _IDS) + _BANNER_PX * sum(map(bool, banners))
    for text in filter(None, (view.run.prompt, result.text or " ", result.final_text)):
        # An answer that is higher scrolls.
        lines = sum(math.ceil(text_width(line) / _LINE) or 1 for line in text[:5000].split("\n"))
        height += _PART_PX + min(_LINE_PX * lines, _ANSWER_PX)
    if view.rows:
        height += _PART_PX + _ROW_PX * len(view.rows) + _LINE_PX
    if not view.count or view.timing != "arrival":
        height += _LINE_PX
    return height + (_PART_PX + _DOCUMENT_PX * len(result.references) if result.references else 0)


@cache
def environment() -> Environment:
    """Return the templates of this package; they escape all that they are given."""
    made = Environment(
        loader=DictLoader({name: _asset(name) for name in _FILES}),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"visible": visible, "ms": format_ms, "squeeze": _squeeze}
    return made


def visible(text: object) -> str:
    """Return a text in which characters that cannot be seen have a sign in their place."""
    return _UNSEEN.sub(_sign, str(text))


def text_width(text: str) -> int:
    """Return the width of a text in narrow characters; a Chinese one is two wide."""
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _squeeze(markup: str) -> str:
    """Return markup without the white space between its elements: every piece is a node."""
    return _BETWEEN.sub("><", markup)


def _sign(found: re.Match[str]) -> str:
    return " " if found[0] == "\r" else f"⟨U+{ord(found[0]):04X}⟩"


class _Excerpts:
    """The beginnings of texts, for readers without scripts; of few, so that a page stays small."""

    def __init__(self) -> None:
        self._left = _EXCERPTS

    def of(self, text: str, limit: int = _EXCERPT) -> str:
        """Return the beginning of a text; nothing once there were enough."""
        size = min(limit, self._left, len(text))
        self._left -= size
        return visible(text[:size]) + ("…" if size < len(text) else "")

    def answer(self, text: str) -> str:
        """Return the beginning of an answer, its citations as plain numbers."""
        beginning = _CITATION.sub(r"\1", text[:_STATIC_ANSWER])
        return visible(beginning) + ("…" if len(text) > _STATIC_ANSWER else "")


@cache
def _asset(name: str) -> str:
    folder = resources.files("bailian_apps.inspector") / "templates"
    return (folder / name).read_text(encoding="utf-8")


@cache
def _short(name: str) -> str:
    """Return a style or script without comments and indentation: each notebook cell has it."""
    text = re.sub(r"^ *\n|^ +|^/\*.*?\*/\n", "", _asset(name), flags=re.M | re.S)
    return text.replace("UNSEEN_RANGES", _UNSEEN_IN_JS)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(value: object) -> str:
    """Return JSON for a script element. Only `</script` and `<!--` could end it or hide its end.

    They get escapes of JSON, so a text full of `<` does not grow. Text stays UTF-8.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = _SCRIPT_END.sub(r"<\\/", text).replace("<!--", "<\\u0021--")
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _data(view: View) -> dict[str, Any]:
    """Return what the script shows of a run when it is asked to."""
    result = view.run.result
    thought = any(step.reasoning for step in result.steps)
    return _without_empty(
        {
            "answer": result.text,
            "final": result.final_text,
            "reasoning": None if thought else result.reasoning,
            "prompt": view.run.prompt,
            "request": view.request,
            "docs": [_reference(each) for each in result.references],
            "steps": [_step(row) for row in view.rows],
        }
    )


def _step(row: Row) -> dict[str, Any]:
    step = row.step
    if step is None:
        return {}
    documents = step.documents
    # What they hold is all that the output says: it stands once.
    are_all = bool(documents) and all(each.raw for each in documents)
    times = {"took": row.took, "span": row.span, "first": row.first}
    usage = step.usage.models if step.usage else ()
    return _without_empty(
        {
            **times,
            "id": step.id,
            "parent": step.parent_id,
            "cloud": None if step.duration_ms is None else format_ms(step.duration_ms),
            "models": [[each.model_id, each.input_tokens, each.output_tokens] for each in usage],
            "error": step.error,
            "input": as_json(step.input),
            "output": None if are_all else step.output,
            "reasoning": step.reasoning,
            "docs": [_document(each) for each in documents if are_all],
        }
    )


def _reference(document: DocReference) -> dict[str, Any]:
    pages = ", ".join(map(str, document.page_number))
    return _document_fields(document) | ({"pages": pages} if pages else {})


def _document(document: RetrievedDocument) -> dict[str, Any]:
    names = ("score", "index_id", "title", "doc_id", "doc_name", "doc_url")
    known = [getattr(document, name) for name in names]
    rest = {k: v for k, v in document.metadata.items() if k not in names and v not in known}
    return _document_fields(document) | ({"rest": as_json(rest)} if rest else {})


def _document_fields(document: DocReference | RetrievedDocument) -> dict[str, Any]:
    title = document.title or document.doc_name or document.doc_id
    name = document.doc_name if document.doc_name != title else None
    return _without_empty(
        {
            "n": document.index_id,
            "title": title,
            "name": name,
            "url": document.doc_url,
            "score": None if document.score is None else f"{document.score:.3g}",
            "text": document.text,
        }
    )


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", [], {})}
