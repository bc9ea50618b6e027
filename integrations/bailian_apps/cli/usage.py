"""Help and usage errors in the language of the user.

Typer writes both in English, and newer versions have a click of their own that cannot be
translated. So help is translated before it is shown, text by text, and an error by its English
text. The texts of options and the docstrings of commands need no mark: `docs/messages.py` finds
them where they are translated, in the tree of commands.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterator
from functools import cache
from importlib import import_module
from typing import Any, cast

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

from bailian_apps.core.language import N_, Message, _, language

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Click's class; typer may have a click of its own."""

_ERRORS = (
    N_("{text} (Possible options: {names})"),
    N_("{text} Did you mean {names}?"),
    N_("Missing argument '{name}'."),
    N_("Missing option '{name}'."),
    N_("Missing command."),
    N_("No such option: {name}"),
    N_("No such command '{name}'."),
    N_("Got unexpected extra argument ({arguments})"),
    N_("Got unexpected extra arguments ({arguments})"),
    N_("Got unexpected extra argument(s) ({arguments})"),
    N_("Option '{name}' requires an argument."),
    N_("Option '{name}' does not take a value."),
    N_("Invalid value for '{name}': {text}"),
    N_("Invalid value: {text}"),
    N_("'{value}' is not a valid integer."),
    N_("'{value}' is not a valid float."),
    N_("'{value}' is not a valid integer range."),
    N_("'{value}' is not a valid float range."),
    N_("{value} is not in the range {range}."),
    N_("Input should be a valid integer, unable to parse string as an integer"),
    N_("Input should be a valid number, unable to parse string as a number"),
    N_("Input should be greater than or equal to {least}"),
    N_("Input should be less than or equal to {most}"),
    N_("{kind} '{path}' does not exist."),
    N_("{kind} '{path}' is not readable."),
    N_("{kind} '{path}' is a file."),
    N_("{kind} '{path}' is a directory."),
)
"""What typer and click say of arguments, of all their versions."""
_KINDS = (N_("path"), N_("file"), N_("directory"))
"""What a `{kind}` can be."""

_WIDE = "\u2e80-\u2fff\u3005-\u3007\u3021-\ufaff"
_OPENING, _CLOSING = "（“‘《【", "，。；：！？、）”’》】…"
# A Chinese character, or a word of others, with the punctuation that may not begin or end a line.
_WORD = re.compile(
    rf"\s*(?:[{_OPENING}]*(?:[{_WIDE}]|[^\s{_WIDE}{_OPENING}{_CLOSING}]+)[{_CLOSING}]*|\S)\s*"
)

_CONSTANTS = (
    "ABORTED_TEXT",
    "ARGUMENTS_PANEL_TITLE",
    "COMMANDS_PANEL_TITLE",
    "DEFAULT_STRING",
    "ERRORS_PANEL_TITLE",
    "OPTIONS_PANEL_TITLE",
    "REQUIRED_LONG_STRING",
    "RICH_HELP",
)
"""The texts of `typer.rich_utils`; `METAVARS` are those of its usage line."""
METAVARS = ("[OPTIONS]", "COMMAND [ARGS]...")


class _Translated:
    """What a command and a group of commands have in common."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Write the line that begins with `Usage:`."""
        command: Any = self
        pieces = [_(piece) for piece in command.collect_usage_pieces(ctx)]
        formatter.write_usage(ctx.command_path, " ".join(pieces), prefix=_("Usage: "))

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help`."""
        parent: Any = super()
        option = parent.get_help_option(ctx)
        if option is not None:
            option.help = _(option.help)
        return option


class Command(_Translated, TyperCommand):
    """A command."""


class Group(_Translated, TyperGroup):
    """A group of commands. The outermost one translates the help and the errors of all commands."""

    @override
    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line."""
        if language() != "en":
            _translate_typer()
            for command in commands_of(self):
                command.help = translated_help(command.help)
                for parameter in command.params:
                    parameter.help = parameter.help and _(parameter.help)
        return super().main(*args, **kwargs)

    @override
    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the arguments of the group."""
        with _translated_errors():
            return super().make_context(*args, **kwargs)

    @override
    def invoke(self, ctx: Any) -> Any:
        """Read the arguments of a command, and run it."""
        with _translated_errors():
            return super().invoke(ctx)


def commands_of(group: Any) -> Iterator[Any]:
    """Yield a group and all commands in it."""
    yield group
    for command in getattr(group, "commands", {}).values():
        yield from commands_of(command)


def typer_texts() -> Iterator[str]:
    """Yield the texts of `typer.rich_utils` that are shown."""
    from typer import rich_utils

    for name in _CONSTANTS:
        yield getattr(rich_utils, name, "")


def paragraphs(text: str | None) -> list[str]:
    """Return the paragraphs of a help text; each is a text to translate."""
    return (text or "").split("\n\n")


def translated_help(text: str | None) -> str | None:
    """Return a help text in the language of the user."""
    return text and "\n\n".join(_(each) for each in paragraphs(text))


def translated_error(text: str) -> str:
    """Return what typer or click say of an argument, in the language of the user."""
    for pattern, message in _patterns():
        if found := pattern.fullmatch(text):
            values = found.groupdict()
            if "text" in values:
                values["text"] = translated_error(values["text"])
            if "kind" in values:
                values["kind"] = _(values["kind"].lower())
            return _(message).format(**values)
    return text


@contextlib.contextmanager
def _translated_errors() -> Generator[None]:
    try:
        yield
    except UsageError as error:
        shown: Any = error
        text = translated_error(shown.format_message())
        shown.format_message = lambda: text
        raise


@cache
def _patterns() -> list[tuple[re.Pattern[str], Message]]:
    return [
        (re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(each)), re.DOTALL), each)
        for each in _ERRORS
    ]


def _translate_typer() -> None:
    from typer import rich_utils

    for name in _CONSTANTS:
        if text := getattr(rich_utils, name, ""):
            setattr(rich_utils, name, _(text))
    # Rich takes Chinese without spaces for one word, and cuts off what is too long for a column;
    # and it looks for spaces at the end of a line by characters, not by cells.
    wrapping: Any = import_module("rich._wrap")
    if hasattr(wrapping, "re_word"):
        wrapping.re_word = _WORD
        cast("Any", Text).rstrip_end = _rstrip_end


def _rstrip_end(text: Text, size: int) -> None:
    """Remove the spaces at the end of a line that stand beyond its width, in cells."""
    spaces = len(text.plain) - len(text.plain.rstrip())
    if (beyond := min(spaces, text.cell_len - size)) > 0:
        text.right_crop(beyond)
