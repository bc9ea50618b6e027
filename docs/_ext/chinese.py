"""What pages in Chinese need: a search that finds words, and no spaces where a line ends.

Sphinx's own Chinese search cuts the text into words with jieba, but a query only where it has a
space: a query of several words finds nothing. Here the index and the query hold every two
neighbouring characters; that needs no dictionary, and both sides cut alike. A query leaves out a
pair that is on no page if the pairs before and after it are: "限流重试" is 限流 and 重试.
It also leaves out words such as 怎么 and 什么, unless it has no other.
What no page has as a whole is found by its parts, see search_scorer.js.
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
  const { terms, titleterms } = (typeof Search === "object" && Search._index) || {};
  const isKnown = (pair) => !terms || Object.hasOwn(terms, pair) || Object.hasOwn(titleterms, pair);
  // Pages rarely have a question's own words, which would count for much.
  const rest = query.replace(
    /请问|怎么[办样]?|怎样|如何|为什么|什么|能不能|能否|是否|可以|有没有|哪[些个]|[吗呢]/g, " "
  );
  const text = (rest.trim() ? rest : query).toLowerCase();
  const found = [];
  for (const run of text.match(/[\u3400-\u9fff]+|[\p{L}\p{N}_]+/gu) || []) {
    for (const part of run.match(/[\u3400-\u9fff]+|[^\u3400-\u9fff]+/g)) {
      if (!/^[\u3400-\u9fff]{2}/.test(part)) { found.push(part); continue; }
      const pairs = Array.from({ length: part.length - 1 }, (_, at) => part.slice(at, at + 2));
      // Where two words meet, their characters are a pair that perhaps no page has.
      const isOnPage = (at) => at in pairs && isKnown(pairs[at]);
      const isNeeded = (at) => isOnPage(at) || !isOnPage(at - 1) || !isOnPage(at + 1);
      found.push(...pairs.filter((_, at) => isNeeded(at)));
    }
  }
  return found;
}
"""

    def split(self, input: str) -> list[str]:  # noqa: A002, its name in Sphinx
        """Cut a text of a page."""
        return terms(input)


# Full-width punctuation, beside which no space stands, as between Chinese characters.
_MARKS = "\u3000-\u303f\uff00-\uffef“”‘’…—"
_WIDE = f"\u3400-\u9fff{_MARKS}"
_LINE_END = re.compile(
    rf"(?<=[{_WIDE}])\n(?=[{_WIDE}])|(?<=[{_MARKS}])\n|\n(?=[{_MARKS}])",
)


def join_lines(app: Sphinx, doctree: nodes.document) -> None:
    """Join the lines of a paragraph without a space between Chinese characters."""
    if app.srcdir.name != "zh":
        return
    for parent in {text.parent for text in doctree.findall(nodes.Text) if "\n" in text}:
        if isinstance(parent, nodes.FixedTextElement):
            continue
        # What stands beside a line's end may be in another node: bold, or code.
        whole = "".join(child.astext() for child in parent.children)
        joined = {match.start() for match in _LINE_END.finditer(whole)}
        start = 0
        for number, child in enumerate(parent.children):
            words = child.astext()
            if isinstance(child, nodes.Text):
                kept = (each for at, each in enumerate(words, start) if at not in joined)
                parent[number] = nodes.Text("".join(kept))
            start += len(words)


def setup(app: Sphinx) -> dict[str, bool]:
    """Take the place of Sphinx's own Chinese search."""
    app.add_search_language(ChinesePairs)
    app.connect("doctree-read", join_lines, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
