"""Takes secrets out of what is recorded: the key, and the tokens of an app's users.

Both are known from the requests. An answer may repeat them anywhere, escaped by JSON in JSON, or
in two halves, one at the end of a delta and one at the start of the next.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from bailian_apps.emulator.wire.frames import parse_object, to_json

MASK = "***"
TOKENS = "user_defined_tokens"

_SHORTEST = 4
"""A shorter secret is masked where it stands, but not searched for: it is in every answer."""

_SHORTEST_BEGINNING = 8

_Path: TypeAlias = tuple[object, ...]


class Scrubber:
    """Masks secrets; what it has once been told, it masks ever after."""

    def __init__(self) -> None:
        """Begin without a secret."""
        self._patterns: dict[str, re.Pattern[str]] = {}

    def learn(self, secret: str) -> None:
        """Mask this from now on."""
        if len(secret) >= _SHORTEST and secret not in self._patterns:
            known = {**self._patterns, secret: re.compile("".join(map(_forms_of, secret)))}
            # A new dict, because another thread may be scrubbing with the old one.
            self._patterns = known

    def learn_tokens(self, value: object) -> None:
        """Learn what stands under `user_defined_tokens`, however deep."""
        for name, item in _items(_opened(value)):
            for secret in _leaves(item) if name == TOKENS else ():
                self.learn(secret)
            self.learn_tokens(item)

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        for start, end in reversed(self._spans(text)):
            text = text[:start] + MASK + text[end:]
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON value without secrets, in its names neither."""
        if isinstance(value, dict):
            return {
                self.text(name): _masked(item) if name == TOKENS else self.value(item)
                for name, item in _items(value)
            }
        if isinstance(value, list):
            return [self.value(item) for _, item in _items(value)]
        if isinstance(value, str):
            opened = _opened(value)
            return self.text(value if opened is value else to_json(self.value(opened)))
        return MASK if str(value) in self._patterns else value

    def deltas(self, payloads: list[Any]) -> None:
        """Mask, in place, what is told in pieces over several payloads."""
        said: dict[_Path, list[_Piece]] = {}
        for payload in payloads:
            for piece in _pieces(payload, (), lambda: None):
                said.setdefault(piece.path, []).append(piece)
        for pieces in said.values():
            joined = "".join(piece.text for piece in pieces)
            spans = self._spans(joined)
            at = 0
            for piece in pieces:  # the cumulative kind repeats it, each time with more of it
                spans += self._beginning(piece.text, at)
                at += len(piece.text)
            spans += self._beginning(joined, 0)
            if not spans:
                continue
            chars = list(joined)
            for start, end in spans:
                chars[start:end] = [MASK] + [""] * (end - start - 1)
            at = 0
            for piece in pieces:
                piece.replace("".join(chars[at : at + len(piece.text)]))
                at += len(piece.text)

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Find the secrets in a text; no two spans overlap."""
        spans: list[tuple[int, int]] = []
        for start, end in sorted(
            match.span() for pattern in self._patterns.values() for match in pattern.finditer(text)
        ):
            if spans and start < spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        return spans

    def _beginning(self, text: str, at: int) -> list[tuple[int, int]]:
        """Find the secret that the text, which begins at `at`, does not tell to its end."""
        for secret in self._patterns:
            for length in range(len(secret) - 1, _SHORTEST_BEGINNING - 1, -1):
                if text.endswith(secret[:length]):
                    return [(at + len(text) - length, at + len(text))]
        return []


@dataclass(frozen=True, slots=True)
class _Piece:
    """One text of a payload; all texts of one path are told one after the other."""

    path: _Path
    text: str
    replace: Callable[[str], None]


def _pieces(value: Any, path: _Path, changed: Callable[[], None]) -> Iterator[_Piece]:
    """Yield the texts of a JSON value, those of JSON inside of a text too.

    Args:
        value: An object or an array; anything else has no texts.
        path: Where it stands.
        changed: Called after a text of it was replaced.
    """
    if isinstance(value, dict):  # nodes that run at the same time take turns in one place
        fields = cast("dict[str, Any]", value)
        path = (*path, fields.get("nodeId"), fields.get("node_id"))
    for name, item in _items(value):
        here = (*path, name)
        if not isinstance(item, str):
            yield from _pieces(item, here, changed)
            continue

        def replace(text: str, name: Any = name) -> None:
            value[name] = text
            changed()

        inner = parse_object(item)
        if inner is None:
            yield _Piece(here, item, replace)
        else:
            yield from _pieces(inner, here, lambda put=replace, inner=inner: put(to_json(inner)))


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).items()
    return enumerate(cast("list[Any]", value)) if isinstance(value, list) else ()


def _opened(value: Any) -> Any:
    """Return what a JSON text says, if there may be tokens in it; else the value itself."""
    if isinstance(value, str) and TOKENS in value:
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _leaves(value: Any) -> Iterator[str]:
    value = _opened(value)
    if isinstance(value, dict | list):
        for _, item in _items(value):
            yield from _leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _masked(value: Any) -> Any:
    """Return a value with its names, and nothing of what stands under them."""
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in _items(value)}
    if isinstance(value, list):
        return [_masked(item) for _, item in _items(value)]
    return MASK


def _forms_of(char: str) -> str:
    """Return a pattern of a character as it is, and as JSON (however deep) and URLs escape it."""
    if char.isascii() and char.isalnum():
        return char
    utf16 = char.encode("utf-16-be", "surrogatepass")
    units = [utf16[at : at + 2].hex() for at in range(0, len(utf16), 2)]
    forms = [
        re.escape(char),
        "(?i:" + "".join(rf"\\+u{unit}" for unit in units) + ")",
        "(?i:" + "".join(f"%{byte:02x}" for byte in char.encode("utf-8", "surrogatepass")) + ")",
    ]
    if char == "\\":
        forms[0] = r"\\+"
    elif char in '"/':
        forms[0] = rf"\\*{char}"
    elif char in "\b\f\n\r\t":
        forms.append(r"\\+" + json.dumps(char)[2:-1])
    return f"(?:{'|'.join(forms)})"
