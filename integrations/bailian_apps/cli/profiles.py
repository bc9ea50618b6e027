"""Profiles: the settings of several apps, by name, in a TOML file.

There are two files: the user's own, and one in the current folder. That folder may be someone
else's work, such as a clone, so its file cannot send the user's key to an address of its choice.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import typer

from bailian_apps.cli.keys import is_key
from bailian_apps.cli.view import read_problem
from bailian_apps.core.endpoint import REGIONS
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_, _
from bailian_apps.core.settings import AppSettings
from bailian_apps.terminal import strip_controls

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "bailian-apps.toml"

_KEY_HINT = N_(
    'Write api_key_env = "PROD_KEY" and set that variable, or add allow_key = true to keep the '
    "key in this file"
)


@dataclass(frozen=True, slots=True)
class Profile:
    """The settings of one app.

    Attributes:
        name: Its name.
        path: The file that it is in.
        is_own: Whether that is the user's own file, not one of the current folder.
        fields: The table as written. It may hold a key.
    """

    name: str
    path: Path
    is_own: bool
    fields: Mapping[str, Any]

    def settings(self, *, with_address: bool = True, with_key: bool = True) -> dict[str, Any]:
        """Return the settings of the profile, with its key if it names one.

        Args:
            with_address: Whether its address is used, because the command names no other.
            with_key: Whether the variable with its key is read: nothing else needs one.

        Raises:
            InvalidInputError: The profile is not valid. The error shows no value.
        """
        fields = dict(self.fields)
        variable, may_hold_key = fields.pop("api_key_env", None), fields.pop("allow_key", False)
        if may_hold_key is not True and may_hold_key is not False:
            raise self._error("allow_key", "must be true or false")
        if "api_key" in fields and not may_hold_key:
            raise self._error("api_key", "is a key in a file", _KEY_HINT)
        if "api_key" in fields and variable is not None:
            raise self._error("api_key_env", "is given beside api_key", "Leave one out")
        for name, value in fields.items():
            if name != "api_key" and _holds_key(value):
                raise self._error(name, "holds an API key", _KEY_HINT)
        if with_address and not self.is_own and "api_key" not in fields:
            self._check_address(fields.get("base_url"))
        if variable is not None:
            name = self._key_variable(variable)
            if with_key:
                fields["api_key"] = self._key_in(name)
        try:
            AppSettings.of({"app_id": "app", "api_key": "any"} | fields)
        except InvalidInputError as error:
            raise InvalidInputError.of(
                [each.renamed(self._place(each.field)) for each in error.each()]
            ) from None
        return fields

    def _key_variable(self, variable: object) -> str:
        if not isinstance(variable, str) or not variable or is_key(variable):
            problem = N_("must be the name of an environment variable")
            raise self._error("api_key_env", problem, "Write the name, such as PROD_KEY")
        return variable

    def _key_in(self, variable: str) -> str:
        key = os.environ.get(variable, "").strip()
        if not key:
            raise self._error(
                "api_key_env",
                N_("names {variable}, which is not set").format(variable=variable),
                "Set it",
            )
        return key

    def _check_address(self, url: object) -> None:
        """Refuse an address that a file of the current folder gives to the user's key."""
        if url is None or (isinstance(url, str) and url.lower() in REGIONS):
            return
        raise self._error(
            "base_url",
            "would get your key: this file is in the current folder, and may be another's",
            N_(
                "Move the profile to {path}, pass --base-url, or, for an emulator, add "
                'api_key = "any-key" and allow_key = true'
            ).format(path=own_file()),
        )

    def _error(self, field: str, problem: str, hint: str = "") -> InvalidInputError:
        return InvalidInputError(self._place(field), problem, hint)

    def _place(self, field: str) -> str:
        place = N_("{field} of profile {name} ({path})")
        return place.format(field=field, name=self.name, path=self.path)


def _holds_key(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_key, cast("dict[str, object]", value).values()))
    if isinstance(value, list):
        return any(map(_holds_key, cast("list[object]", value)))
    return isinstance(value, str) and is_key(value)


def own_file() -> Path:
    """The user's own file, in the platform's folder for settings."""
    return Path(typer.get_app_dir("bailian-apps")) / FILE_NAME


def find_profile(name: str) -> Profile:
    """Return the profile of a name.

    Raises:
        InvalidInputError: A file cannot be read, no file has the profile, or both have it.
    """
    profiles = all_profiles()
    found = [each for each in profiles if each.name == name]
    if len(found) == 1:
        return found[0]
    field = N_("--profile (or BAILIAN_PROFILE)")
    if found:
        one, other = (each.path for each in found)
        problem = N_("names a profile of both {one} and {other}").format(one=one, other=other)
        raise InvalidInputError(field, problem, "Rename one of them")
    known = ", ".join(each.name for each in profiles)
    hint = N_("Write it into {own} or {name} in the current folder")
    hint = hint.format(own=own_file(), name=FILE_NAME)
    if known:
        hint = N_("These exist: {known}").format(known=known)
    raise InvalidInputError(field, "names a profile that does not exist", hint)


def all_profiles() -> list[Profile]:
    """Return the profiles of both files, the user's own first.

    Raises:
        InvalidInputError: A file cannot be read.
    """
    own, here = own_file(), Path(FILE_NAME)
    profiles = _read(own, is_own=True)
    if not (here.exists() and own.exists() and here.samefile(own)):
        profiles += _read(here, is_own=False)
    return profiles


def print_profiles() -> None:
    """Print the profiles, a line each, and where they are written.

    Raises:
        InvalidInputError: A file cannot be read.
    """
    profiles = all_profiles()
    width = max((len(each.name) for each in profiles), default=0)
    for each in profiles:
        app_id = each.fields.get("app_id", _("the app of BAILIAN_APP_ID"))
        shown = _("an API key!") if _holds_key(app_id) else app_id
        print(strip_controls(f"{each.name:{width}}  {shown}  ({each.path})"))  # noqa: T201
    if not profiles:
        text = _("No profiles. Write them to {own}, or to {name} here.")
        print(text.format(own=own_file(), name=FILE_NAME))  # noqa: T201


def _read(path: Path, *, is_own: bool) -> list[Profile]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            str(path), N_("cannot be read ({reason})").format(reason=read_problem(error))
        ) from None
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        where = str(error).rpartition("(")[2].rstrip(")")
        hint = N_("Correct it")
        if place := re.fullmatch(r"at line (\d+), column (\d+)", where):
            line, column = place.groups()
            hint = N_("Correct it at line {line}, column {column}")
            hint = hint.format(line=line, column=column)
        elif where == "at end of document":
            hint = N_("Correct it at end of document")
        raise InvalidInputError(str(path), "is not TOML", hint) from None  # it may quote a key
    for name, table in tables.items():
        if not isinstance(table, dict):
            hint = N_("Write the settings of an app below a line such as [prod]")
            raise InvalidInputError(
                N_("{name} in {path}").format(name=name, path=path), "is not in a profile", hint
            )
    named = cast("dict[str, dict[str, Any]]", tables)
    return [Profile(name, path, is_own, table) for name, table in named.items()]
