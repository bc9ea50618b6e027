"""What pages in Chinese need: a search that finds words, and no spaces where a line ends.

Sphinx's own Chinese search cuts the text into words with jieba, but a query only where it has a
space: a query of several words finds nothing. Here the index and the query hold every two
neighbouring characters; that needs no dictionary, and both sides cut alike.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.search import SearchLanguage

_RUNS = re.compile(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+")


def terms(text: str) -> list[str]:
    """Return pairs of Chinese characters (or one that stands alone), and all other words."""
    found: list[str] = []
    for run in _RUNS.findall(text.lower()):
        if "\u3400" <= run[0] <= "\u9fff" and len(run) > 1:
            found += [run[at : at + 2] for at in range(len(run) - 1)]
        else:
            found.append(run)
    return found


class ChinesePairs(SearchLanguage):
    """Sphinx's hooks for a language: how its search index and its queries are cut."""

    lang = "zh"
    language_name = "Chinese"
    js_splitter_code = r"""
function splitQuery(query) {
  const terms = [];
  for (const run of query.toLowerCase().match(/[\u3400-\u9fff]+|[\p{L}\p{N}_]+/gu) || []) {
    for (const part of run.match(/[\u3400-\u9fff]+|[^\u3400-\u9fff]+/g)) {
      if (!/^[\u3400-\u9fff]{2}/.test(part)) terms.push(part);
      else for (let at = 0; at + 2 <= part.length; at++) terms.push(part.slice(at, at + 2));
    }
  }
  return terms;
}
"""

    def split(self, input: str) -> list[str]:  # noqa: A002, its name in Sphinx
        """Cut a text of a page."""
        return terms(input)


# Chinese characters, and full-width punctuation, beside which no space stands.
_WIDE = "\u3400-\u9fff\u3000-\u303f\uff00-\uffef“”‘’…—"
_MARKS = "\u3000-\u303f\uff00-\uffef“”‘’…—"
_LINE_END = re.compile(
    rf"(?<=[{_WIDE}])\n(?=[{_WIDE}])|(?<=[{_MARKS}])\n|\n(?=[{_MARKS}])",
)


def join_lines(app: Sphinx, doctree: nodes.document) -> None:
    """Join the lines of a paragraph without a space between Chinese characters."""
    if app.srcdir.name != "zh":
        return
    for text in list(doctree.findall(nodes.Text)):
        if "\n" not in text or isinstance(text.parent, nodes.FixedTextElement):
            continue
        siblings = text.parent.children
        after = siblings[siblings.index(text) + 1 :]
        following = after[0].astext()[:1] if after else ""
        joined = _LINE_END.sub("", f"{text}{following}")
        text.parent.replace(text, nodes.Text(joined[: len(joined) - len(following)]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Take the place of Sphinx's own Chinese search."""
    app.add_search_language(ChinesePairs)
    app.connect("doctree-read", join_lines, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
