"""What surrounds a command: the characters its terminal can encode, and the shell's own words."""

from __future__ import annotations

import codecs
import os
import sys
from functools import cache
from importlib import import_module

from rich.console import Console

# What can stand for a character that a terminal cannot show, the nearest first.
_INSTEAD = {
    "✓": "√+",
    "✗": "×x",
    "…": (".",),
    "–": "-",
    "—": "-",
    "─": "-",
    "·": "-",
    "‖": "|",
    "■": "#",
    "→": ">",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}
_POWERSHELL = ("powershell", "pwsh")


def prepare_streams() -> None:
    """Let the standard streams write any text: what they cannot encode, as what looks like it."""
    codecs.register_error("bailian_apps.nearest", _encode_nearest)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="bailian_apps.nearest")  # type: ignore[union-attr]


def can_show_chinese() -> bool:
    """Whether the standard streams can write Chinese."""
    try:
        for stream in (sys.stdout, sys.stderr):
            "中文，。：（）".encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _encode_nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_nearest(each, error.encoding) for each in text), error.end


def _nearest(character: str, encoding: str) -> str:
    for other in _INSTEAD.get(character, ()):
        try:
            other.encode(encoding)
        except UnicodeEncodeError:
            continue
        return other
    return "?"


def console(*, stderr: bool = False) -> Console:
    """Return a console of a standard stream.

    Other encodings than UTF-8 belong to terminals that draw some characters, such as `…`, twice as
    wide as rich counts: lines end a little earlier there.
    """
    made = Console(stderr=stderr)
    if made.is_terminal and not made.encoding.startswith("utf"):
        made.width = max(made.width - 4, 20)
    return made


def export_line(name: str, value: str) -> str:
    """Return the line that sets an environment variable in the shell that runs this command.

    Args:
        name: The variable.
        value: Its value as POSIX shells read it, which may be in quotes and have a comment.
    """
    shell = _shell()
    if shell == "cmd":  # quotes and comments would be part of the value
        return f"set {name}={value.partition('  #')[0].strip(chr(34))}"
    if shell in _POWERSHELL:
        return f"$env:{name}={value}" if value.startswith('"') else f'$env:{name}="{value}"'
    return f"export {name}={value}"


def variable(name: str) -> str:
    """Return the value of an environment variable as the text of that shell has it."""
    shell = _shell()
    if shell == "cmd":
        return f"%{name}%"
    return f"$env:{name}" if shell in _POWERSHELL else f"${name}"


@cache
def _shell() -> str:
    try:
        # typer brings it
        return str(import_module("shellingham").detect_shell()[0])
    except Exception:  # it knows no shell here, or no way to find one
        return "cmd" if os.name == "nt" else "sh"
