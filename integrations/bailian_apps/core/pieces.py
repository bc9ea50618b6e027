"""The JSON that a node says, piece by piece: deltas, or all that it has so far. Pure.

Of the vendor's two pages on `message_format_plus`, one calls every content a delta, the other calls
JSON content a snapshot that replaces the one before. The one recording has deltas
(workflow-message-format-plus-elided.sse, in tests/recordings). So a node's own pieces decide, once:
one that does not begin with what is known shows that they are deltas; enough that do, snapshots.
Until then, what is not the same in both readings is held back. In doubt they are deltas: that may
double a text, but never lose one.
"""

from __future__ import annotations

from typing import Any

from bailian_apps.core.values import JsonObject, Piece, json_object

# So many characters do not come again by chance with more behind them, as "1" before "10" may. The
# same piece again shows nothing before the node's last: deltas repeat too.
_ENOUGH = 8


class NodePieces:
    """Reads the pieces of one node, some of which are JSON."""

    __slots__ = (
        "_deltas",
        "_emitted",
        "_form",
        "_growths",
        "_held",
        "_known",
        "_passed",
        "_repeated",
    )

    def __init__(self) -> None:
        """Start before the first piece."""
        self._held = ""  # a JSON value, which a newer one may replace
        self._form: str | None = None  # "deltas" or "snapshots", once a wrapped piece has shown it
        self._deltas: list[Piece] = []  # wrapped pieces, unless they are snapshots
        self._emitted = 0  # how many of these were passed on
        self._passed: tuple[str, str] = ("", "")  # what these are, as snapshots
        self._known: tuple[str, str] = ("", "")  # output and reasoning so far, if snapshots
        self._repeated = 0  # how many characters of that came again
        self._growths = 0  # how often it came again with more behind it

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
        output, reasoning = _joined(self._deltas[self._emitted :])
        return output + self._held, reasoning

    def close(self) -> tuple[str, str]:
        """Return what was held back: the node has ended."""
        held, self._held = self.held, ""
        self._emitted = len(self._deltas)
        return held

    def _push_wrapped(self, piece: Piece, *, last: bool) -> tuple[str, str]:
        if self._form == "deltas":
            if last:
                piece = self._without_whole(piece)
            self._deltas.append(piece)
            self._emitted += 1
            return piece.output, piece.reasoning
        pairs = list(zip((piece.output, piece.reasoning), self._known, strict=True))
        again = [(text, known) for text, known in pairs if text and known]
        if self._form is None:
            self._form = self._form_with(again, last=last)
        output, reasoning = (t if t.startswith(known) else known + t for t, known in pairs)
        self._known = (output, reasoning)
        if self._form == "snapshots":
            new = output[len(self._passed[0]) :], reasoning[len(self._passed[1]) :]
            self._deltas.clear()
            self._emitted = 0
        else:
            self._deltas.append(piece)
            if self._form is None and (again or self._emitted < len(self._deltas) - 1):
                return "", ""
            new = _joined(self._deltas[self._emitted :])
            self._emitted = len(self._deltas)
        self._passed = self._known
        return new

    def _without_whole(self, piece: Piece) -> Piece:
        """Return the last delta without texts that are all that the node has said."""
        texts = zip((piece.output, piece.reasoning), _joined(self._deltas), strict=True)
        output, reasoning = (
            "" if len(text) >= _ENOUGH and text == whole else text for text, whole in texts
        )
        return Piece(output, reasoning)

    def _form_with(self, again: list[tuple[str, str]], *, last: bool) -> str | None:
        """Return the form of a node's pieces, with the texts that come where one is known."""
        if not all(text.startswith(known) for text, known in again):
            return "deltas"
        repeated = sum(len(known) for _, known in again)
        self._repeated += repeated
        self._growths += any(text != known for text, known in again)
        grown = self._growths > 0 and self._repeated >= _ENOUGH
        shown = grown or (last and repeated >= _ENOUGH)
        certain = shown or self._growths > 1 or (last and len(again) > 1)
        return "snapshots" if certain else None


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
