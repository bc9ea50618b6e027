"""The pages about the command line have every command and every option, and no others."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer.main
from support.pages import LANGUAGES, page, rows, sections

from bailian_apps.cli.commands import app

ELSEWHERE = {"chat": "chat", "probe": "probe"}  # commands with a page of their own
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def commands() -> dict[str, set[str]]:
    """The options of each command that does something; those of a group's, together."""
    group: Any = typer.main.get_command(app)
    found: dict[str, set[str]] = {}
    for name, command in group.commands.items():
        parts = list(getattr(command, "commands", {}).values()) or [command]
        found[name] = {
            option
            for part in parts
            for parameter in part.params
            if parameter.param_type_name == "option"
            # A flag that is on by default is documented as the one that turns it off.
            for option in (parameter.default is True and parameter.secondary_opts) or parameter.opts
        }
    return found


def section_of(command: str, language: str) -> str:
    """What is written about a command."""
    if command in ELSEWHERE:
        return page(ELSEWHERE[command], language)
    if command == "recordings":
        command = "record"
    found = sections("command-line", language).items()
    return "\n".join(text for heading, text in found if re.match(rf"{command}\b", heading))


def shared(language: str) -> dict[str, set[str]]:
    """The options in the table of the settings of a call, by the commands that have them."""
    text = page("command-line", language)
    options: dict[str, set[str]] = {}
    for first, second, *_ in rows(text):
        for command in re.split(r", |、", second) if first.startswith("`--") else ():
            options.setdefault(command, set()).update(_OPTION.findall(first))
    return options


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pages_have_every_option(language: str) -> None:
    for command, options in commands().items():
        written = section_of(command, language) if command != "demo" else "--pace"
        documented = set(_OPTION.findall(written)) | shared(language).get(command, set())
        assert options - {"--help", "-h"} <= documented, command


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_tables_have_no_option_that_does_not_exist(language: str) -> None:
    known = commands()
    for command, options in known.items():
        tables = [first for first, *_ in rows(section_of(command, language))]
        listed = {option for first in tables for option in _OPTION.findall(first)}
        if command in ("record", "recordings"):
            options = known["record"] | known["recordings"]
        assert listed <= options, command
    for command, listed in shared(language).items():
        if command in known:
            assert listed <= known[command], command
    assert set(known) <= set(re.findall(r"`([a-z]+)`", page("command-line", language)))
