"""Which values of a request or an answer are credentials, by their names."""

import re
import sys
from collections.abc import Mapping
from typing import Any, cast

from bailian_apps.emulator.wire.frames import NestingError, parse_json, to_json

MASK = "***"

PLAYGROUND_KEY = "playground"
"""The key of the page's calls to a server that takes any; it is worth nothing elsewhere."""

_WORD_ENDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z]+")
_CREDENTIAL = re.compile(
    r"(authorization|secret|passwd|pwd|cookie|credential|pass_?(word|phrase|code)"
    r"|(api|access|private|secret|app|auth|signing|encryption|subscription|account|ssh|session"
    r"|master|aes|hmac|encrypt)_?key)s?_"
    r"|_(auth|oauth|authentication|bearer|jwt|otp)_"
)
_CHINESE = re.compile("密码|口令|密钥|私钥|令牌|授权码")
_TOKEN = re.compile(r"tokens?_")
_COUNT = re.compile(
    r"_(max|min|num|number|count|total|limit|used|usage|budget|per|input|output|prompt"
    r"|completion|reasoning|cached|remaining)_"
)


def is_credential(name: str, *, may_count: bool = True) -> bool:
    """Return whether a name is a credential's, such as `user_token`, `apiKey` or `X-Api-Key`.

    Tokens that are counted, as in `max_tokens`, are none, where the value may be a number.
    """
    words = f"_{_WORD_ENDS.sub('_', name).lower()}_"
    if _CREDENTIAL.search(words) or _CHINESE.search(name):
        return True
    return bool(_TOKEN.search(words)) and not (may_count and _COUNT.search(words))


def is_secret(name: str, value: object) -> bool:
    """Return whether a value is secret by its name. A number of tokens, null and a bool are not."""
    if value is None or isinstance(value, bool):
        return False
    is_number = isinstance(value, int | float)
    if is_number and name.lower().endswith("tokens"):
        return False
    return is_credential(name, may_count=is_number or str(value).isdecimal())


def masked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers with their secrets masked; the scheme of a key stays."""
    masked = dict(headers)
    for name, value in headers.items():
        if is_secret(name, value):
            scheme, space, _ = value.partition(" ")
            masked[name] = f"{scheme} {MASK}" if space else MASK
    return masked


def redacted(value: Any) -> Any:
    """Return a JSON value with its secrets masked, in JSON texts too."""
    try:
        return _redacted(value)
    except RecursionError:  # JSON texts inside JSON texts, many times over
        return {MASK: MASK} if isinstance(value, dict) else MASK


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value).items()
        return {key: MASK if is_secret(key, item) else _redacted(item) for key, item in fields}
    if isinstance(value, list):
        return [_redacted(item) for item in cast("list[Any]", value)]
    parsed = parsed_json(value)
    return value if parsed is value else to_json(_redacted(parsed))


def parsed_json(value: Any) -> Any:
    """Return the parsed value of a JSON text with secrets; any other value itself."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            parsed = parse_json(value, sys.maxsize, lenient=True)
        except NestingError:  # Python cannot parse it, so it cannot be searched
            return MASK
        except ValueError:
            return value
        if _has_secrets(parsed):
            return parsed
    return value


def _has_secrets(value: Any) -> bool:
    remaining = [value]  # no recursion: a text may be nested more deeply than Python calls
    while remaining:
        value = remaining.pop()
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            if any(is_secret(name, item) for name, item in fields.items()):
                return True
            remaining += fields.values()
        elif isinstance(value, list):
            remaining += cast("list[Any]", value)
        elif parsed_json(value) is not value:
            return True
    return False
