"""Draws the pictures of the READMEs from a real run: `python docs/make_pictures.py [FOLDER]`.

`bailian-apps run` calls the demo's travel app in the emulator, in a terminal of tmux. Its screens
become `terminal.svg`, one image that plays them at the speed of the run, and the waterfall of such
a run becomes `waterfall.svg`. The text in them is text. They are light or dark as the reader's
system is; who prefers less motion sees the last screen.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from bailian_apps import BailianApp
from bailian_apps.emulator import Emulator, load_apps
from bailian_apps.inspector import to_svg

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.screen import Screen, screen  # noqa: E402

IMAGES = Path(__file__).with_name("images")
APPS = ROOT / "integrations" / "bailian_apps" / "cli" / "demo.en.yaml"
PROMPT = "Plan a day in Hangzhou"
ARGUMENTS = ["run", "travel", PROMPT, "--steps"]
COLUMNS, ROWS = 106, 30
CELL, LINE, MARGIN, BAR = 7.8, 20, 18, 34  # pixels
EVERY_S, BEFORE_S, AFTER_S, WITHIN_S = 0.05, 0.8, 6.0, 100.0

_COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"]
_FONTS = """\
ui-monospace,SFMono-Regular,"SF Mono",Menlo,Consolas,"Liberation Mono","DejaVu Sans Mono",
"PingFang SC","Microsoft YaHei","Noto Sans Mono CJK SC","Noto Sans CJK SC",monospace"""
_STYLE = f"""\
svg{{--bg:#fbfcfd;--line:#dfe3e8;--ink:#1b212c;--dim:#6b7684;--red:#b3261e;--green:#1c7a4a;
--yellow:#8a5a00;--magenta:#9a3b8f;--cyan:#0b7285;font:13px {_FONTS}}}
@media(prefers-color-scheme:dark){{svg{{--bg:#13161b;--line:#2a303a;--ink:#e4e8ee;--dim:#98a3b2;
--red:#ff8577;--green:#5fcb93;--yellow:#e7b75c;--magenta:#e283d6;--cyan:#6fc7d8}}}}
text{{fill:var(--ink);white-space:pre}}.window{{fill:var(--bg);stroke:var(--line)}}
.dots{{fill:var(--line)}}.dim{{fill:var(--dim)}}.red{{fill:var(--red)}}.green{{fill:var(--green)}}
.yellow{{fill:var(--yellow)}}.magenta{{fill:var(--magenta)}}.cyan{{fill:var(--cyan)}}
.wide{{font-size:15px}}.bold{{font-weight:700}}
.italic{{font-style:italic}}.then text{{visibility:hidden}}
.t{{animation-timing-function:step-end;animation-iteration-count:infinite}}
@media(prefers-reduced-motion:reduce){{.t{{animation:none!important}}}}
"""


@dataclass(frozen=True)
class Line:
    """A line of the screen, and the seconds between which it stands there."""

    row: int
    text: str  # with its colours, as a terminal gets them
    start: float
    end: float | None  # None: to the end


def main(folder: Path) -> None:
    """Run the app twice, and write both pictures."""
    with Emulator(apps=load_apps(APPS), pace=1) as cloud:
        address = cloud.base_url
        with screen(shlex.join(ARGUMENTS), COLUMNS, ROWS, DASHSCOPE_HTTP_BASE_URL=address) as shown:
            screens = played([*record(shown)])
        result = BailianApp(app_id="travel", api_key="demo", base_url=address).invoke(PROMPT)
    svg = draw(lines_of(screens), screens[-1][0])
    (folder / "terminal.svg").write_text(svg, encoding="utf-8")
    (folder / "waterfall.svg").write_text(to_svg(result, title=PROMPT), encoding="utf-8")


def record(shown: Screen) -> Iterator[tuple[float, list[str]]]:
    """Yield each screen that differs from the one before, and the seconds of a clock."""
    before: list[str] = []
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        now, lines = time.monotonic(), shown.lines("-e")
        ended = "exit=" in lines[-1]
        lines = lines[:-1] if ended else lines
        if lines != before and any(lines):
            yield now, lines
            before = lines
        if ended:
            return
        time.sleep(EVERY_S)  # tmux cannot be waited for
    raise TimeoutError("\n".join(["the run does not end; on the screen:", *before]))


def played(screens: Sequence[tuple[float, list[str]]]) -> list[tuple[float, list[str]]]:
    """Return the screens without most of the time until the first step, when Python starts."""
    first = next(at for at, lines in screens if len(lines) > 1)
    last = max((at for at, lines in screens if at < first - BEFORE_S), default=0.0)
    return [(max(at - first + BEFORE_S, 0), lines) for at, lines in screens if at >= last]


def lines_of(screens: Sequence[tuple[float, list[str]]]) -> list[Line]:
    """Return the lines of all screens, each once for as long as it stays."""
    found: list[Line] = []
    for row in range(max(len(lines) for _, lines in screens)):
        column = [(at, lines[row] if row < len(lines) else "") for at, lines in screens]
        stretches = [(text, next(same)[0]) for text, same in groupby(column, lambda each: each[1])]
        ends = [*(start for _, start in stretches[1:]), None]
        for (text, start), end in zip(stretches, ends, strict=True):
            if text:
                found.append(Line(row, text, start, end))
    return found


def draw(lines: Sequence[Line], ended_s: float) -> str:
    """Return the image; what is on the screen at the end stands in the group `last`."""
    seconds = ended_s + AFTER_S
    names: dict[tuple[float, float | None], str] = {}
    for line in lines:
        names.setdefault((line.start, line.end), f"t{len(names)}")
    rules = [_rule(name, *times, seconds) for times, name in names.items()]
    width = round(2 * MARGIN + COLUMNS * CELL)
    height = BAR + LINE * (2 + max(line.row for line in lines)) + MARGIN
    command = _line(Text.assemble(("$ ", "green"), shlex.join(["bailian-apps", *ARGUMENTS])), 0)
    groups = {
        group: "\n".join(
            _line(AnsiDecoder().decode_line(line.text), line.row + 1, names[line.start, line.end])
            for line in lines
            if (line.end is None) == (group == "last")
        )
        for group in ("then", "last")
    }
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    dots = "".join(f'<circle cx="{x}" cy="18" r="5"/>' for x in (20, 38, 56))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">
<title id="title">{escape(shlex.join(["bailian-apps", *ARGUMENTS]))}</title>
<style>
{_STYLE}{"".join(rules)}</style>
<rect class="window" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>
<g class="dots">{dots}</g>
{command}
<g class="then" aria-hidden="true">
{groups["then"]}
</g>
<g class="last">
{groups["last"]}
</g>
</svg>
"""


def _rule(name: str, start: float, end: float | None, seconds: float) -> str:
    stops = f"0%{{visibility:hidden}}{100 * start / seconds:.2f}%{{visibility:visible}}"
    if end is not None:
        stops += f"{100 * end / seconds:.2f}%{{visibility:hidden}}"
    animation = f"animation-name:{name};animation-duration:{seconds:.1f}s"
    return f".{name}{{{animation}}}@keyframes {name}{{{stops}}}\n"


def _line(text: Text, row: int, name: str = "") -> str:
    """Draw a line. Each run of narrow and of wide characters has its place, whatever the font."""
    column, spans = 0, []
    for style, run in _runs(text):
        width = cell_len(run)
        if run.strip():
            x = round(MARGIN + CELL * column, 1)
            named = f' class="{style}"' if style else ""
            spans.append(
                f'<tspan x="{x:g}" textLength="{width * CELL:.1f}"{named}>{escape(run)}</tspan>'
            )
        column += width
    y = BAR + LINE * (row + 0.7)
    named = f' class="t {name}"' if name else ""
    return f'<text y="{y:g}"{named}>{"".join(spans)}</text>'


def _runs(text: Text) -> Iterator[tuple[str, str]]:
    styles = [""] * len(text.plain)
    for span in text.spans:
        for at in range(span.start, min(span.end, len(styles))):
            style = span.style
            styles[at] = _class(Style.parse(style) if isinstance(style, str) else style)
    keyed = zip(styles, (cell_len(each) > 1 for each in text.plain), text.plain, strict=True)
    for (style, wide), run in groupby(keyed, lambda each: each[:2]):
        yield f"{style} wide".strip() if wide else style, "".join(each[2] for each in run)


def _class(style: Style) -> str:
    """Return the classes of a style of the 16 colours."""
    names = [name for name in ("bold", "dim", "italic") if getattr(style, name)]
    if style.color is not None and style.color.number is not None:
        names.append(_COLOURS[style.color.number % 8])
    return " ".join(names)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
