"""Which values are credentials, by their names. Pure."""

from __future__ import annotations

import functools
import itertools
import re

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_CHINESE = re.compile("密码|口令|密钥|私钥|令牌|授权码")
_CREDENTIALS = frozenset({"auth", "oauth", "authentication", "bearer", "jwt", "otp"})
_KEYS = (
    "api", "access", "private", "secret", "app", "auth", "signing", "encryption", "subscription",
    "account", "ssh", "session", "master", "aes", "hmac", "encrypt",
)  # fmt: skip
"""A key is a credential after one of these words, and not in `sort_key` or `keyword`."""
_COMPOUNDS = {"key": _KEYS, "word": ("pass",), "phrase": ("pass",), "code": ("pass",)}
"""Words in two parts, by the second: `api_key`, `pass-word`. In one part they are endings."""
_ENDINGS = tuple(
    word + plural
    for word in (
        "authorization", "secret", "passwd", "pwd", "cookie", "credential",
        *(first + second for second, firsts in _COMPOUNDS.items() for first in firsts),
    )
    for plural in ("", "s")
)  # fmt: skip
_COUNTS = frozenset({
    "max", "min", "num", "number", "count", "total", "limit", "used", "usage", "budget", "per",
    "input", "output", "prompt", "completion", "reasoning", "cached", "remaining",
})  # fmt: skip
"""Tokens are a model's, not a user's, beside one of these words, as in `max_tokens`."""

_STEMS = (
    "auth", "bearer", "jwt", "otp", "pwd", "pass", "secret", "cookie", "credential", "token", "key",
    "密", "口令", "私钥", "令牌", "授权码", "\\u",
)  # fmt: skip
"""One of them is in every credential's name, also as JSON, where `\\u` begins any letter."""


@functools.lru_cache(maxsize=4096)
def is_credential_name(name: str, *, may_count: bool = True) -> bool:
    """Return whether a name is a credential's, by its words.

    The words may be joined as in `user_token`, `apiKey`, `X-Api-Key` or `clientsecret`.

    Args:
        name: The name.
        may_count: Whether the value can be a number of tokens, as of `max_tokens`.
    """
    if _CHINESE.search(name):
        return True
    words = [word.lower() for word in _WORD.findall(name)]
    for first, second in itertools.pairwise(words):
        if first.endswith(_COMPOUNDS.get(second.removesuffix("s"), ())):
            return True
    endings = _ENDINGS
    if not may_count or _COUNTS.isdisjoint(words):
        endings += ("token", "tokens")
    return any(word in _CREDENTIALS or word.endswith(endings) for word in words)


def is_credential(name: str, value: object) -> bool:
    """Return whether a value is a credential by its name. A bool and a number of tokens are not."""
    if not is_credential_name(name, may_count=False) or isinstance(value, bool):
        return False
    is_number = isinstance(value, (int, float))
    if is_number and name.lower().endswith("tokens"):
        return False
    is_digits = isinstance(value, str) and value.isdecimal()
    return is_credential_name(name, may_count=is_number or is_digits)


def may_name_credentials(json_text: str) -> bool:
    """Return whether a JSON text may have a credential's name. Parsing it would cost far more."""
    lower = json_text.lower()
    return any(stem in lower for stem in _STEMS)
