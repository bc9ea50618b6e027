"""Masks secrets in recordings: the key, and the credentials of an app's users.

Both are learned from the requests. An answer may repeat them anywhere, escaped in nested JSON, or
split between two deltas.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from bailian_apps.emulator.credentials import MASK, is_secret, parsed_json
from bailian_apps.emulator.wire.frames import NestingError, parse_json, parse_object, to_json

_MIN_LENGTH = 4
"""A shorter secret is masked in its own field, but not searched for: any text contains it."""

_MIN_PREFIX = 8

_SCHEME = re.compile(r"(bearer|basic|token) +", re.IGNORECASE)

_Path: TypeAlias = tuple[object, ...]


class Scrubber:
    """Masks all secrets that it has learned."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Create a scrubber without secrets; `names` are those of further secrets."""
        self._names = {name.casefold() for name in names}
        self._patterns: dict[str, re.Pattern[str]] = {}

    def learn(self, secret: str) -> None:
        """Mask this secret from now on."""
        if len(secret) >= _MIN_LENGTH and secret not in self._patterns:
            known = {**self._patterns, secret: re.compile("".join(map(_forms_of, secret)))}
            # A new dict, because another thread may be iterating over the old one.
            self._patterns = known

    def learn_tokens(self, value: object) -> None:
        """Learn the values whose names are a credential's, at any depth."""
        for name, item in _items(self._parsed(value)):
            for secret in _leaves(item) if self._is_secret(str(name), item) else ():
                self.learn(secret)
                if scheme := _SCHEME.match(secret):
                    self.learn(secret[scheme.end() :])
            self.learn_tokens(item)

    def text(self, text: str) -> str:
        """Return a text with its secrets masked."""
        for start, end in reversed(self._spans(text)):
            text = text[:start] + MASK + text[end:]
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON value with its secrets masked, in names too."""
        if isinstance(value, dict):
            return {
                self.text(name): _masked(item) if self._is_secret(name, item) else self.value(item)
                for name, item in _items(value)
            }
        if isinstance(value, list):
            return [self.value(item) for _, item in _items(value)]
        if isinstance(value, str):
            parsed = self._parsed(value)
            return self.text(value if parsed is value else to_json(self.value(parsed)))
        return MASK if str(value) in self._patterns else value

    def _is_secret(self, name: str, value: object) -> bool:
        return name.casefold() in self._names or is_secret(name, value)

    def _parsed(self, value: Any) -> Any:
        """Return the parsed value of a JSON text with secrets; any other value itself."""
        parsed = parsed_json(value)
        if parsed is not value or not self._names or not isinstance(value, str):
            return parsed
        if value.lstrip()[:1] in ("{", "["):
            try:
                inner = parse_json(value, sys.maxsize, lenient=True)
                return inner if self._has_names(inner) else value
            except (NestingError, RecursionError):  # too deep to be searched
                return MASK
            except ValueError:
                pass
        return value

    def _has_names(self, value: Any) -> bool:
        return any(
            self._is_secret(str(name), item)
            or self._has_names(item)
            or self._parsed(item) is not item
            for name, item in _items(value)
        )

    def deltas(self, payloads: list[Any]) -> None:
        """Mask, in place, secrets that are split over several payloads."""
        by_path: dict[_Path, list[_Piece]] = {}
        for payload in payloads:
            for piece in _pieces(payload, (), lambda: None):
                by_path.setdefault(piece.path, []).append(piece)
        for pieces in by_path.values():
            joined = "".join(piece.text for piece in pieces)
            spans = self._spans(joined)
            at = 0
            for piece in pieces:  # in a cumulative stream, each piece may end with a prefix
                spans += self._prefix_at_end(piece.text, at)
                at += len(piece.text)
            spans += self._prefix_at_end(joined, 0)
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
        """Return the spans of the secrets in a text, without overlaps."""
        spans: list[tuple[int, int]] = []
        for start, end in sorted(
            match.span() for pattern in self._patterns.values() for match in pattern.finditer(text)
        ):
            if spans and start < spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        return spans

    def _prefix_at_end(self, text: str, at: int) -> list[tuple[int, int]]:
        """Return the span of an incomplete secret at the end of the text, which starts at `at`."""
        for secret in self._patterns:
            for length in range(len(secret) - 1, _MIN_PREFIX - 1, -1):
                if text.endswith(secret[:length]):
                    return [(at + len(text) - length, at + len(text))]
        return []


@dataclass(frozen=True, slots=True)
class _Piece:
    """One text of a payload; the texts of one path are consecutive deltas."""

    path: _Path
    text: str
    replace: Callable[[str], None]


def _pieces(value: Any, path: _Path, changed: Callable[[], None]) -> Iterator[_Piece]:
    """Yield the texts of an object or array at `path`, including those of JSON nested in texts.

    `changed` is called after one of them was replaced.
    """
    if isinstance(value, dict):  # parallel nodes alternate at the same path
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


def _leaves(value: Any) -> Iterator[str]:
    value = parsed_json(value)
    if isinstance(value, dict | list):
        for _, item in _items(value):
            yield from _leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _masked(value: Any) -> Any:
    """Return a value with all leaves masked."""
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in _items(value)}
    if isinstance(value, list):
        return [_masked(item) for _, item in _items(value)]
    return value if value is None or isinstance(value, bool) else MASK


def _forms_of(char: str) -> str:
    """Return a pattern for a character, plain or escaped by JSON (at any depth) or in URLs."""
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
