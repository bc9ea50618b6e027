"""The JSON that a node says, piece by piece: deltas, or all that it has so far. Pure.

Of the vendor's two pages on `message_format_plus`, one calls every content a delta, the other calls
JSON content a snapshot that replaces the one before. Nobody has recorded which, so a node's own
pieces decide: a piece that begins with what is known is a snapshot, another one a delta.
"""

from __future__ import annotations

from typing import Any

from bailian_apps.core.values import JsonObject, Piece, json_object


class NodePieces:
    """Reads the pieces of one node, some of which are JSON."""

    __slots__ = ("_doubtful", "_form", "_held", "_known")

    def __init__(self) -> None:
        """Start before the first piece."""
        self._held = ""  # a JSON value, which a newer one may replace
        self._form: str | None = None  # "deltas" or "snapshots", once a wrapped piece has shown it
        self._known = ("", "")  # of wrapped pieces: output and reasoning so far
        self._doubtful: list[Piece] = []  # equal to what was known: a delta, or nothing new

    def push(self, piece: Piece, *, last: bool) -> tuple[str, str]:
        """Add a piece and return the output and the reasoning that it certainly adds.

        Args:
            piece: The next piece.
            last: Whether the node has ended.
        """
        if piece.form == "wrapped":
            return self._push_wrapped(piece, last=last)
        if not piece.output:
            return "", piece.reasoning
        before, self._held = self._held, ""
        if piece.form is None:
            return before + piece.output, piece.reasoning
        self._held = piece.output
        replaces = piece.form == "value" or _grows(piece.output, before)
        return "" if replaces else before, piece.reasoning

    @property
    def held(self) -> tuple[str, str]:
        """The output and the reasoning that are held back."""
        output, reasoning = _joined(self._doubtful)
        return output + self._held, reasoning

    def close(self) -> tuple[str, str]:
        """Return what was held back: the node has ended."""
        held, self._held = self.held, ""
        self._doubtful.clear()
        return held

    def _push_wrapped(self, piece: Piece, *, last: bool) -> tuple[str, str]:
        if self._form == "deltas":
            return piece.output, piece.reasoning
        texts = (piece.output, piece.reasoning)
        pairs = list(zip(texts, self._known, strict=True))
        seen_before = [(text, known) for text, known in pairs if text and known]
        begins = all(text.startswith(known) for text, known in seen_before)
        if self._form is None and not begins:
            self._form = "deltas"
            pieces = [*self._doubtful, piece]
            self._doubtful.clear()
            return _joined(pieces)
        if self._form is None and seen_before:
            if all(text in ("", known) for text, known in pairs):
                # While a node runs, only a delta has a reason to come twice: "哈", "哈".
                if self._doubtful or not last:
                    self._doubtful.append(piece)
                return "", ""
            self._form = "snapshots"
            self._doubtful.clear()
        (output, more), (reasoning, thought) = (_added(text, known) for text, known in pairs)
        self._known = (output, reasoning)
        return more, thought


def _added(text: str, known: str) -> tuple[str, str]:
    """Return all that is known with this text, and what of it is new."""
    if text.startswith(known):
        return text, text[len(known) :]
    return known + text, text


def _joined(pieces: list[Piece]) -> tuple[str, str]:
    return (
        "".join([piece.output for piece in pieces]),
        "".join([piece.reasoning for piece in pieces]),
    )


def _grows(new: str, old: str) -> bool:
    """Whether an object has the keys of an older one, and each text in it begins as it did."""
    one, other = json_object(new), json_object(old)
    return (
        one is not None
        and other is not None
        and one.keys() == other.keys()
        and all(_continues(one, other, key) for key in one)
    )


def _continues(new: JsonObject, old: JsonObject, key: str) -> bool:
    value: Any = new[key]
    before: Any = old[key]
    if isinstance(value, str) and isinstance(before, str):
        return value.startswith(before)
    if isinstance(value, (dict, list)):
        return before is None or type(before) is type(value)  # pyright: ignore[reportUnknownArgumentType]
    return before is None or value == before
