"""Finds an API key among the arguments, before it is sent or printed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from bailian_apps.core.errors import InvalidInputError

# Keys of the vendor, and of others, begin so.
_KEY = re.compile(r"""['"]?\s*(?:bearer\s+)?sk-[^\s'"]+\s*['"]?""", re.I)
_KEY_IN_JSON = re.compile(r'"\s*(?:bearer\s+)?sk-[^\s"]+\s*"', re.I)
_NAMED = re.compile(r"[\w.-]+:?=(?s:(.*))")
# Its value is a key.
_KEY_OPTIONS = ("--api-key",)


def is_key(text: str) -> bool:
    """Whether a text is an API key, as a whole. A sentence about one is not."""
    key = os.environ.get("DASHSCOPE_API_KEY", "").strip()
    return _KEY.fullmatch(text.strip()) is not None or (len(key) > 8 and text.strip() == key)


def refuse_keys(arguments: Sequence[str]) -> None:
    """Refuse the arguments of a command if one of them is an API key, or has one as its value.

    Raises:
        InvalidInputError: One is. Other programs can see it in the list of processes, and the cloud
            would get it as a prompt or a parameter.
    """
    option = ""
    for place, argument in enumerate(arguments, 1):
        name, equals, value = argument.partition("=")
        if argument.startswith("--") and equals:
            option = name
        else:
            value = argument
        if option not in _KEY_OPTIONS and _holds_key(value):
            _refuse(option, place)
        option = argument if argument.startswith("--") and not equals else ""


def refuse_key_as_prompt(prompt: str) -> None:
    """Refuse a prompt that is an API key and nothing else.

    Raises:
        InvalidInputError: It is.
    """
    if is_key(prompt):
        raise InvalidInputError("PROMPT", "is an API key", "It was not sent. Ask a question")


def _holds_key(value: str) -> bool:
    named = _NAMED.fullmatch(value)
    return any(
        is_key(text) or (text.lstrip()[:1] in ("{", "[") and _KEY_IN_JSON.search(text) is not None)
        for text in ([value, named[1]] if named else [value])
    )


def _refuse(option: str, place: int) -> None:
    if option in ("--biz", "--biz-json"):
        hint = "Pass the tokens of users in a file: --biz-json @FILE"
    else:
        hint = "Set DASHSCOPE_API_KEY to your key, and replace a key that others may have seen"
    field = option or f"argument {place}"
    raise InvalidInputError(field, "is an API key, which the list of processes shows", hint)
