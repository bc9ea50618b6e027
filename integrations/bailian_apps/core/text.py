"""Text that arrives in pieces (surrogates, suffixes, stop sequences), or fits one line. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACES = re.compile(r"\s+")


def printable(text: str) -> str:
    """Return text in one line: each character that is not printable is escaped."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def one_line(text: str, length: int) -> str:
    """Return any text as one printable line, in which line breaks are spaces.

    Args:
        text: The text.
        length: How many characters it may have. A longer one is cut in the middle.
    """
    if not text.isprintable():
        text = printable(_SPACES.sub(" ", _cut(text, 4 * length)).strip())
    return _cut(text, length)


def _cut(text: str, length: int) -> str:
    tail = length // 4
    return text if len(text) <= length else f"{text[: length - tail - 1]}…{text[-tail:]}"


def repair_surrogates(text: str) -> str:
    """Return text that can be encoded: surrogate pairs are joined, lone halves become U+FFFD.

    An app's server may cut its answer between the two halves, because JSON can write each of them.
    """
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class SurrogateBuffer:
    """Takes text that may be cut inside a surrogate pair, and returns whole characters."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        """Start at the beginning of a text."""
        self._half = ""

    def push(self, piece: str, *, last: bool = False) -> str:
        """Add a piece and return what is complete.

        Args:
            piece: The next piece. Half of a pair at its end is kept for the next piece.
            last: Whether no more pieces follow, so that nothing is kept.
        """
        piece = self._half + piece
        if piece.isascii() or not _SURROGATE.search(piece):
            return piece
        self._half = "" if last or not "\ud800" <= piece[-1] <= "\udbff" else piece[-1]
        return repair_surrogates(piece.removesuffix(self._half))

    def reset(self) -> None:
        """Forget the half that is kept: the next piece repeats it."""
        self._half = ""


def new_suffix(known: list[str], value: str) -> str:
    """Return what `value` adds to `known`, whether it is the whole text so far or a delta."""
    size = sum(map(len, known))
    return value[size:] if len(value) >= size and value.startswith("".join(known)) else value


class StopFilter:
    """Cuts a text before the first stop sequence, however it is divided into pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Look for any of `stops`."""
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Add a piece and return what is certainly not part of a stop sequence.

        What may be the beginning of one is held back.
        """
        text = self._held + text
        self._held = ""
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.found = True
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        if held:
            self._held = text[-held:]
            return text[:-held]
        return text

    def flush(self) -> str:
        """Return what was held back: the text has ended."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` begin `stop`."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
