"""Finds an API key in arguments and messages, before it is sent or printed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_

# Keys of the vendor, and of others, begin so.
_KEY = re.compile(r"""['"]?\s*(?:bearer\s+)?sk-[^\s'"]+\s*['"]?""", re.I)
_KEY_IN_JSON = re.compile(r'"\s*(?:bearer\s+)?sk-[^\s"]+\s*"', re.I)
_LONG_KEY = re.compile(r"(?<![A-Za-z0-9])sk-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{20,}")
_NAMED = re.compile(r"[\w.-]+:?=(?s:(.*))")
# Its value is a key.
_KEY_OPTIONS = ("--api-key",)


def is_key(text: str) -> bool:
    """Whether a text is an API key, as a whole. A sentence about one is not."""
    text = text.strip()
    return _KEY.fullmatch(text) is not None or text == _environment_key()


def holds_key(text: str) -> bool:
    """Whether a text holds what looks like an API key, or the key of the environment."""
    key = _environment_key()
    return _LONG_KEY.search(text) is not None or (key is not None and key in text)


def _environment_key() -> str | None:
    """The key of the environment, unless it is so short that other text may equal it."""
    key = os.environ.get("DASHSCOPE_API_KEY", "").strip()
    return key if len(key) > 8 else None


def refuse_keys(arguments: Sequence[str]) -> None:
    """Refuse the arguments of a command if one of them is an API key, or has one as its value.

    Raises:
        InvalidInputError: One is. Other programs can see it in the list of processes, and the cloud
            would get it as a prompt or a parameter.
    """
    option = ""
    for place, argument in enumerate(arguments):  # the first is the command
        name, equals, value = argument.partition("=")
        if argument.startswith("--") and equals:
            option = name
        else:
            value = argument
        if option not in _KEY_OPTIONS and _is_or_names_key(value):
            _refuse(option, place, arguments[0])
        option = argument if argument.startswith("--") and not equals else ""


def refuse_key_as_prompt(prompt: str) -> None:
    """Refuse a prompt that is an API key and nothing else.

    Raises:
        InvalidInputError: It is.
    """
    if is_key(prompt):
        raise InvalidInputError("PROMPT", "is an API key", "It was not sent. Ask a question")


def _is_or_names_key(value: str) -> bool:
    named = _NAMED.fullmatch(value)
    return any(
        is_key(text) or (text.lstrip()[:1] in ("{", "[") and _KEY_IN_JSON.search(text) is not None)
        for text in ([value, named[1]] if named else [value])
    )


def _refuse(option: str, place: int, command: str) -> None:
    if option in ("--biz", "--biz-json"):
        hint = N_("Pass the tokens of users in a file: --biz-json @FILE")
    else:
        hint = N_("Set DASHSCOPE_API_KEY to your key, and replace a key that others may have seen")
    field = option
    if not option:
        of_command = N_("argument {place} of {command}").format(place=place, command=command)
        field = of_command if place else N_("the command")
    raise InvalidInputError(field, "is an API key, which the list of processes shows", hint)
