"""Collect the texts that people read, and compile their translations: `make messages`.

It writes `bailian_apps/locale/zh_CN/LC_MESSAGES/bailian_apps.po` anew, keeps its translations, and
compiles the `.mo` beside it. It lists what has no translation, because it is new or its English has
changed: write that into the `.po`, and call this again. `tests/test_translations.py` checks both.
"""

from __future__ import annotations

import ast
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from typer.main import get_command

import bailian_apps
from bailian_apps.cli import usage
from bailian_apps.cli.commands import app

PACKAGE = Path(bailian_apps.__file__).parent
PO = PACKAGE / "locale" / "zh_CN" / "LC_MESSAGES" / "bailian_apps.po"

# Which arguments of a call are texts, counted from 0.
ARGUMENTS = {
    "_": (0,),
    "N_": (0,),
    "InvalidInputError": (1, 2),
    "environment_error": (0,),
    "unsupported": (1,),
    "_error": (1, 2),  # of a profile
    "_refuse": (0, 1),  # of an image
    "warning": (0,),  # of a logger
    "info": (0,),
}
_ONLY_VALUES = re.compile(r"(?:%s[: ]*)+")
OF_THE_EMULATOR = {"warning": (0,), "info": (0,), "error": (0,), "ImportError": (0,)}
"""The emulator translates nothing; the command line translates what it logs."""
_OWN_DATE = datetime(2025, 1, 1, tzinfo=timezone.utc)  # a date of each run would be a change

Text = str | tuple[str, str]
"""A text, or the two forms of one with a number."""


def texts() -> Iterator[tuple[Text, str]]:
    """Yield each text to translate, and the file that it is in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        places = OF_THE_EMULATOR if name.startswith("emulator/") else ARGUMENTS
        for text in texts_of(path.read_text(encoding="utf-8"), places):
            yield text, name
    for command in usage.commands_of(get_command(app)):
        for text in [*usage.paragraphs(command.help), *(each.help for each in command.params)]:
            if text and not _is_example(text):
                yield text, "cli/commands.py"
    for text in (*usage.typer_texts(), *usage.METAVARS, "Show this message and exit."):
        yield text, "cli/usage.py"


def texts_of(source: str, arguments: Mapping[str, Sequence[int]]) -> Iterator[Text]:
    """Yield the texts in the source of a module, which are `arguments` of calls."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        if name == "ngettext":
            one, many = (_constant(each) for each in node.args[:2])
            if one and many:
                yield one, many
        is_error = arguments is ARGUMENTS and name.endswith("Error")
        for place in arguments.get(name, (0,) if is_error else ()):
            text = _constant(node.args[place]) if place < len(node.args) else ""
            if text and not _ONLY_VALUES.fullmatch(text):
                yield text


def _constant(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_example(paragraph: str) -> bool:
    """Whether a paragraph of a help text is commands without a word about them."""
    lines = paragraph.split("\n")
    return all(line.startswith("[bold]") and line.endswith("[/]") for line in lines)


def catalog() -> Catalog:
    """Return the catalogue of the texts, with the translations that there are."""
    old = Catalog(locale="zh_CN")
    if PO.exists():
        with PO.open("rb") as file:
            old = read_po(file, locale="zh_CN")
    new = Catalog(
        locale="zh_CN",
        project="bailian-apps",
        header_comment="# Translations of bailian-apps into Simplified Chinese.",
        language_team="zh_CN",
        last_translator="the bailian-apps authors",
        creation_date=_OWN_DATE,
        revision_date=_OWN_DATE,
        fuzzy=False,
    )
    for text, path in texts():
        new.add(text, locations=[(path, 0)])
    for message in new:
        if message.id and (known := old.get(message.id)) is not None:
            message.string, message.flags = known.string, set(known.flags)
    return new


def main() -> None:
    """Write both files; list what is not translated."""
    made = catalog()
    PO.parent.mkdir(parents=True, exist_ok=True)
    text = io.BytesIO()
    write_po(text, made, width=100, include_lineno=False, sort_by_file=True)
    PO.write_bytes(text.getvalue())
    with PO.with_suffix(".mo").open("wb") as file:
        write_mo(file, made)
    missing = [each.id for each in made if each.id and not all(_forms(each.string))]
    for each in missing:
        sys.stderr.write(f"not translated: {each!r}\n")
    raise SystemExit(bool(missing))


def _forms(string: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return tuple(string) if isinstance(string, tuple | list) else (string or "",)


if __name__ == "__main__":
    main()
