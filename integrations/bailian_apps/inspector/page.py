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
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from bailian_apps.core.documents import RetrievedDocument
from bailian_apps.core.result import DocReference
from bailian_apps.inspector.view import Row, View, as_json, format_ms

_FILES = ("page.html", "run.html", "icons.html", "page.css", "page.js", "waterfall.svg")

# What would steer a reader's eyes or a parser, or hide: controls, marks of direction, spaces
# without width, tags, lone surrogates. Joiners stay: emoji and some scripts need them. The same
# stands in page.js.
_UNSEEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
_BETWEEN = re.compile(r">\s*\n\s*<")
_SCRIPT_END = re.compile("</(?=script)", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")

# Of a text's beginning, for readers without scripts: characters of one, and of all.
_EXCERPT, _EXCERPTS, _STATIC_ANSWER = 600, 16_000, 20_000

_ROW_PX, _HEAD_PX, _TALLEST_PX = 33, 330, 720


def page(views: Sequence[View], *, title: str | None = None, compact: bool = False) -> str:
    """Return the page of one run or of several.

    Args:
        views: The runs.
        title: The page's title; by default that of the run, or how many there are.
        compact: Whether it is for a small frame.
    """
    style, script = _short("page.css"), _short("page.js")
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
        )
    )


def notebook_page(views: Sequence[View]) -> str:
    """Return the page in a frame of its own, as the output of a notebook's cell.

    The frame is a sandbox without an origin, so nothing in it reaches the notebook.
    """
    rows = sum(len(view.rows) for view in views)
    lines = sum(len(view.run.result.text) // 90 + 1 for view in views)
    height = min(_TALLEST_PX, _HEAD_PX + _ROW_PX * rows + 20 * min(lines, 12))
    source = html.escape(page(views, compact=True), quote=False).replace("'", "&#39;")
    return (
        f"<iframe srcdoc='{source}' sandbox=\"allow-scripts allow-popups "
        f'allow-popups-to-escape-sandbox" title="{visible(html.escape(views[0].title))}" '
        f'width="100%" height="{height}" frameborder="0" loading="lazy"></iframe>'
    )


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
        """Return the beginning of an answer."""
        return visible(text[:_STATIC_ANSWER]) + ("…" if len(text) > _STATIC_ANSWER else "")


@cache
def _asset(name: str) -> str:
    folder = resources.files("bailian_apps.inspector") / "templates"
    return (folder / name).read_text(encoding="utf-8")


@cache
def _short(name: str) -> str:
    """Return a style or script without comments and indentation: each notebook cell has it."""
    return re.sub(r"^ *\n|^ +|^/\*.*?\*/\n", "", _asset(name), flags=re.M | re.S)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(value: object) -> str:
    """Return JSON for a script element. Only `</script` and `<!--` could end it or hide its end.

    They get escapes of JSON, so a text full of `<` does not grow. Text stays UTF-8.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
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
