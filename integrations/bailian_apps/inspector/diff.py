"""What differs between two runs: their totals, their steps in pairs, and their words. Pure."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import chain
from typing import Literal, TypeAlias

from bailian_apps.core.result import Step
from bailian_apps.inspector.drawable import as_json
from bailian_apps.inspector.view import Bar, Row, View, format_ms

Piece: TypeAlias = "tuple[Literal['same', 'gone', 'new', 'skipped'], str]"
"""A stretch of a text; of one that is left out, how many characters it has."""

# A word, a character of a script without spaces, white space, or a sign.
_WORD = re.compile(r"[^\W\u2e80-\uffef]+|\s+|.", re.S)
_SENTENCE_END = re.compile(r"(?<=[。！？\n])|(?<=[.!?])(?=\s)")
# Beyond, comparing word by word takes seconds.
_MOST_COMPARED = 1_000_000
# Characters: of what is the same beside what is not; of a text; of all steps' texts together.
_CONTEXT, _LONGEST, _LONGEST_STEPS = 240, 20_000, 600_000


@dataclass(frozen=True, slots=True)
class Total:
    """A number of both runs, in words, and how much it changed."""

    name: str
    a: str
    b: str
    change: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A text of both runs, in pieces; `same` if it does not differ."""

    name: str
    a: Sequence[Piece]
    b: Sequence[Piece]
    same: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A step of both runs, or of one.

    Attributes:
        row: The row whose name and icon stand for both.
        a: The first run's, its bar on the scale that both runs share; None if it has no such step.
        b: The second run's.
        change: How much longer or shorter it took.
        parts: The texts that differ.
    """

    row: Row
    a: Row | None
    b: Row | None
    change: str = ""
    parts: Sequence[Part] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs and what differs between them."""

    a: View
    b: View
    totals: Sequence[Total]
    pairs: Sequence[Pair]
    texts: Sequence[Part]


def compare(a: View, b: View) -> Comparison:
    """Return what differs between two runs."""
    end = max((view.axis.end for view in (a, b) if view.axis), default=0.0)
    rows = [[_on_scale(row, view, end) for row in view.rows] for view in (a, b)]
    steps = [[row for row in each if row.step] for each in rows]
    found = pair_steps(*([row.step for row in each if row.step] for each in steps))
    at = [(_at(steps[0], i), _at(steps[1], j)) for i, j in found]
    at.append((_answer(rows[0]), _answer(rows[1])))
    longest = min(_LONGEST, _LONGEST_STEPS // len(at))
    pairs = [pair for each in at for pair in _pair(*each, longest)]
    texts = [
        _part("Prompt", a.run.prompt or "", b.run.prompt or ""),
        _part("Answer", a.run.result.text, b.run.result.text),
        _part("Cited documents", _documents(a), _documents(b)),
    ]
    # The answers are shown even if they are the same.
    return Comparison(
        a=a,
        b=b,
        totals=[*_totals(a, b)],
        pairs=pairs,
        texts=[part for part in texts if part.name == "Answer" or not part.same],
    )


def pair_steps(one: Sequence[Step], other: Sequence[Step]) -> list[tuple[int | None, int | None]]:
    """Pair the steps of two runs: those of one id and name, of one name, of one node.

    Returns:
        The positions of each pair, in the order of the first run; None beside a step without a
        pair. What only the second run did follows what came before it there.
    """
    partners: dict[int, int] = {}
    keys: list[Callable[[Step], object]] = [
        lambda step: (step.id, step.kind, step.name),
        lambda step: (step.kind, step.name),
        lambda step: step.id if step.kind == "node" else None,  # a node that has another name now
    ]
    for key in keys:
        taken = {*partners.values()}
        waiting: dict[object, deque[int]] = defaultdict(deque)
        for at, step in enumerate(other):
            if at not in taken and key(step) is not None:
                waiting[key(step)].append(at)
        for at, step in enumerate(one):
            if at not in partners and (same := waiting.get(key(step))):
                partners[at] = same.popleft()
    taken, before = {*partners.values()}, -1
    alone: dict[int, list[int]] = defaultdict(list)
    for at in range(len(other)):
        if at in taken:
            before = at
        else:
            alone[before].append(at)
    pairs: list[tuple[int | None, int | None]] = [(None, at) for at in alone[-1]]
    for at in range(len(one)):
        partner = partners.get(at)
        pairs.append((at, partner))
        pairs += [(None, each) for each in alone.get(-2 if partner is None else partner, ())]
    return pairs


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; together they are the text."""
    return [each for each in _SENTENCE_END.split(text) if each]


def differences(one: Sequence[str], other: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield stretches of two lists in order, each with its counterpart: equal, or replaced."""
    if len(one) * len(other) > _MOST_COMPARED:
        yield from _ends(one, other)
        return
    matcher = SequenceMatcher(str.isspace, one, other, autojunk=False)
    for _, a, a_end, b, b_end in matcher.get_opcodes():
        yield [*one[a:a_end]], [*other[b:b_end]]


def _ends(one: Sequence[str], other: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """As `differences`, of lists that are long: what both begin and end with is equal."""
    shorter = min(len(one), len(other))
    start = next((at for at in range(shorter) if one[at] != other[at]), shorter)
    rest = shorter - start
    end = next((at for at in range(rest) if one[-1 - at] != other[-1 - at]), rest)
    for a, b in (
        (one[:start], other[:start]),
        (one[start : len(one) - end], other[start : len(other) - end]),
        (one[len(one) - end :], other[len(other) - end :]),
    ):
        if a or b:
            yield [*a], [*b]


def _part(name: str, one: str, other: str, longest: int = _LONGEST) -> Part:
    if one == other:
        same: list[Piece] = [*_short([("same", one)], longest)]
        return Part(name, same, same, same=True)
    a: list[Piece] = []
    b: list[Piece] = []
    for left, right in differences(sentences(one), sentences(other)):
        words = (_WORD.findall("".join(side)) for side in (left, right))
        for gone, new in [(left, right)] if left == right else differences(*words):
            _add(a, "same" if gone == new else "gone", gone)
            _add(b, "same" if gone == new else "new", new)
    return Part(name, [*_short(a, longest)], [*_short(b, longest)])


def _add(pieces: list[Piece], kind: Literal["same", "gone", "new"], words: Sequence[str]) -> None:
    text = "".join(words)
    if pieces and pieces[-1][0] == kind:
        pieces[-1] = (kind, pieces[-1][1] + text)
    elif text:
        pieces.append((kind, text))


def _short(pieces: Sequence[Piece], left: int) -> Iterator[Piece]:
    """Leave out the middle of what is the same, and the end of what is too long to be read."""
    for at, (kind, text) in enumerate(pieces):
        if len(text) > left:
            yield kind, text[:left]
            rest = len(text) - left + sum(len(each) for _, each in pieces[at + 1 :])
            yield "skipped", f"{rest:,}"
            return
        left -= len(text)
        if kind == "same" and len(text) > 3 * _CONTEXT:
            yield "same", text[:_CONTEXT]
            yield "skipped", f"{len(text) - 2 * _CONTEXT:,}"
            yield "same", text[-_CONTEXT:]
        else:
            yield kind, text


def _pair(a: Row | None, b: Row | None, longest: int) -> Iterator[Pair]:
    if a is None or b is None:
        if row := a or b:
            yield Pair(row=row, a=a, b=b)
        return
    parts: list[Part] = []
    if (one := a.step) and (other := b.step):
        parts = [
            _part("Error", one.error or "", other.error or "", longest),
            _part("Input", as_json(one.input), as_json(other.input), longest),
            _part("Reasoning", one.reasoning, other.reasoning, longest),
            _part("Output", one.output, other.output, longest),
        ]
    parts = [part for part in parts if not part.same]
    yield Pair(row=b, a=a, b=b, change=_took(a.ms, b.ms), parts=parts)


def _at(rows: Sequence[Row], at: int | None) -> Row | None:
    return None if at is None else rows[at]


def _answer(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.step is None), None)


def _on_scale(row: Row, view: View, end: float) -> Row:
    """Return a row whose bar is measured on an axis with another end."""
    bar, axis = row.bar, view.axis
    if bar is None or axis is None:
        return row
    factor = axis.end / end
    first = None if bar.first is None else round(bar.first * factor, 3)
    start, width = round(bar.start * factor, 3), round(bar.width * factor, 3)
    return replace(row, bar=Bar(start=start, width=width, first=first, reported=bar.reported))


def _totals(a: View, b: View) -> Iterator[Total]:
    one, other = a.run.result, b.run.result
    for name, left, right in (
        ("Total", one.elapsed_ms, other.elapsed_ms),
        ("First word", one.first_token_ms, other.first_token_ms),
    ):
        if left is not None or right is not None:
            yield Total(name, _ms(left), _ms(right), _took(left, right))
    counts = [("Steps", a.count, b.count)]
    if a.models or b.models:
        used = one.usage, other.usage
        counts.append(("Tokens in", used[0].input_tokens, used[1].input_tokens))
        counts.append(("Tokens out", used[0].output_tokens, used[1].output_tokens))
    if one.attempts > 1 or other.attempts > 1:
        counts.append(("Attempts", one.attempts, other.attempts))
    for name, left, right in counts:
        yield Total(name, f"{left:,}", f"{right:,}", _change(left, right, "{:,.0f}".format))
    given, written = ({name: each for name, *each in view.models} for view in (a, b))
    if len({*given, *written}) > 1:
        for name in dict.fromkeys(chain(given, written)):
            tokens = [" → ".join(f"{n:,}" for n in each.get(name, ())) for each in (given, written)]
            yield Total(name, *tokens)


def _took(one: float | None, other: float | None) -> str:
    if one is None or other is None:
        return ""
    return _change(one, other, format_ms)


def _ms(ms: float | None) -> str:
    return "" if ms is None else format_ms(ms)


def _change(one: float, other: float, form: Callable[[float], str]) -> str:
    if form(one) == form(other):
        return "="
    percent = f" ({100 * (other - one) / one:+.0f} %)" if one else ""
    return f"{'+' if other > one else '−'}{form(abs(other - one))}{percent}".replace("(-", "(−")


def _documents(view: View) -> str:
    return "".join(
        f"[{each.index_id}] {each.title or each.doc_name or each.doc_id or ''}\n"
        for each in view.run.result.references
    )
