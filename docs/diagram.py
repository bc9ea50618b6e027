"""A diagram that is drawn in English and in Chinese; `make_diagrams.py` has those of the pages.

Its coordinates are those of a picture 700 units wide.
"""

# ruff: noqa: E501 - the style
from __future__ import annotations

from html import escape
from typing import TypeAlias

LANGUAGES = ("en", "zh")
WIDTH = 700

Words: TypeAlias = "str | tuple[str, str]"
"""A text of both languages, or its English and its Chinese."""

_STYLE = """\
svg{--bg:#fff;--line:#c3cad4;--ink:#1b212c;--soft:#586375;--fill:#f4f6f9;--blue:#2563c9;--green:#0a7a55;--amber:#a85c00;--red:#b3261e;font:13px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","PingFang SC","Hiragino Sans GB","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
@media (prefers-color-scheme:dark){svg{--bg:#13161b;--line:#414a58;--ink:#e4e8ee;--soft:#a5afbd;--fill:#1c2129;--blue:#7eadfa;--green:#45c69f;--amber:#e5a04a;--red:#ff8a7d}}
text{fill:var(--ink)}.soft{fill:var(--soft)}.head{font-weight:600}.mid{text-anchor:middle}.end{text-anchor:end}.code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Noto Sans CJK SC",monospace;font-size:12px}
.card{fill:var(--bg);stroke:var(--line)}.box{fill:var(--fill);stroke:var(--line)}.blue{--k:var(--blue)}.green{--k:var(--green)}.amber{--k:var(--amber)}.red{--k:var(--red)}
rect.blue,rect.green,rect.amber,rect.red{fill:var(--k);fill-opacity:.13;stroke:var(--k)}text.blue,text.green,text.amber,text.red{fill:var(--k)}.solid{fill-opacity:.75!important}.dash{stroke-dasharray:4 3}
path{fill:none;stroke:var(--k,var(--soft));stroke-width:1.4}path.tip{fill:var(--k,var(--soft));stroke:none}"""


class Diagram:
    """One picture in one language."""

    def __init__(self, language: str, height: int, title: Words) -> None:
        """Start with an empty card."""
        self.language = language
        self._height = height
        self._title = self.words(title)
        self._parts: list[str] = []

    def words(self, words: Words) -> str:
        """Return a text in this picture's language."""
        return words if isinstance(words, str) else words[LANGUAGES.index(self.language)]

    def text(self, x: float, y: float, words: Words, kind: str = "") -> None:
        """Write text; each line break starts a line."""
        shown = self.words(words)
        for number, line in enumerate(shown.split("\n")):
            given = f' class="{kind}"' if kind else ""
            at = f'x="{x:g}" y="{y + 17 * number:g}"'
            self._parts.append(f"<text {at}{given}>{escape(line, quote=False)}</text>")

    def box(
        self, x: float, y: float, width: float, height: float, words: Words = "", kind: str = "box"
    ) -> None:
        """Draw a box with text in its middle."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" '
            f'class="{kind}"/>'
        )
        if shown := self.words(words):
            lines = shown.count("\n")
            self.text(x + width / 2, y + height / 2 + 4.5 - 8.5 * lines, shown, "mid")

    def arrow(self, *points: tuple[float, float], kind: str = "") -> None:
        """Draw an arrow through points that lie at right angles."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        (from_x, from_y), (x, y) = points[-2:]
        tip = {
            (1, 0): f"M{x:g} {y:g}l-7 -4v8z",
            (-1, 0): f"M{x:g} {y:g}l7 -4v8z",
            (0, 1): f"M{x:g} {y:g}l-4 -7h8z",
            (0, -1): f"M{x:g} {y:g}l-4 7h8z",
        }[(x > from_x) - (x < from_x), (y > from_y) - (y < from_y)]
        color = kind.replace("dash", "").strip()
        self._parts.append(f'<path d="{path}" class="{kind}"/>' if kind else f'<path d="{path}"/>')
        self._parts.append(f'<path d="{tip}" class="{f"tip {color}".strip()}"/>')

    def line(self, x: float, y: float, to_x: float, to_y: float, kind: str = "") -> None:
        """Draw a line."""
        self._parts.append(f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}" class="{kind}"/>')

    def svg(self) -> str:
        """Return the picture."""
        title = escape(self._title, quote=False)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" '
                f'width="{WIDTH}" height="{self._height}" role="img" aria-labelledby="title" '
                f'lang="{self.language}">',
                f'<title id="title">{title}</title>',
                f"<style>\n{_STYLE}\n</style>",
                f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{self._height - 1}" rx="8" '
                'class="card"/>',
                *self._parts,
                "</svg>\n",
            ]
        )
