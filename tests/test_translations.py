"""The Chinese catalogue is complete, and no text of the command line is left out of it."""

from __future__ import annotations

import ast
import gettext
import importlib.util
import re
import string
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from babel.messages.catalog import Message
from babel.messages.pofile import read_po

import bailian_apps
from bailian_apps.cli import view

ROOT = Path(__file__).parents[1]
PACKAGE = Path(bailian_apps.__file__).parent
PO = PACKAGE / "locale" / "zh_CN" / "LC_MESSAGES" / "bailian_apps.po"
CHINESE = re.compile("[\u3400-\u9fff]")
# What is the same in both languages.
NAMES = {
    "messages",
    "tokens",
    "key",
    "API key",
    "none",
    ", ",
    ": ",
    "; ",
    ". ",
    "--save {reason}",
    "a {type}",
    "an {type}",
    " ({facts})",
    "Pass {field}=",
    "in Python",
    "Usage: ",
    "{text}. {hint}",
    'Pass extra_body={{"parameters": {{{name!r}: …}}}}',
    "id {id!r}",
    "{count} tokens",
}


def _messages() -> list[Message]:
    with PO.open("rb") as file:
        return [each for each in read_po(file, locale="zh_CN") if each.id]


def _strings(message: Message) -> tuple[str, str]:
    """The English text, with its plural, and the Chinese one."""
    english = message.id if isinstance(message.id, str) else message.id[1]
    chinese = message.string if isinstance(message.string, str) else message.string[0]
    return english, chinese


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("messages", ROOT / "docs" / "messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_catalogue_has_every_text_and_no_other(script: ModuleType) -> None:
    """Else run `make messages`."""
    collected = {text for text, _ in script.texts()}
    assert {each.id for each in _messages()} == collected


def test_the_compiled_catalogue_is_up_to_date() -> None:
    """Else run `make messages`."""
    with PO.with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for each in _messages():
        english, chinese = _strings(each)
        if isinstance(each.id, str):
            assert compiled.gettext(english) == chinese
        else:
            assert compiled.ngettext(*each.id, 2) == chinese


def test_every_text_is_translated() -> None:
    for each in _messages():
        english, chinese = _strings(each)
        assert chinese, english
        assert not each.fuzzy, english
        assert CHINESE.search(chinese) or english in NAMES or not re.search("[a-z]{3}", english), (
            english
        )


def test_translations_have_the_values_names_and_markup_of_their_texts() -> None:
    for each in _messages():
        english, chinese = _strings(each)
        for found_in in (_placeholders, _options, _variables, _tags):
            assert found_in(chinese) == found_in(english), english


def _placeholders(text: str) -> list[object]:
    percent = re.findall(r"%[-.\d]*[a-z]", text)
    try:
        named = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
    except ValueError:  # it is no template: `Pass an object such as {"a": 1}`
        named = set[str]()
    return [percent, named]


def _options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def _variables(text: str) -> set[str]:
    return set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text))


def _tags(text: str) -> int:
    return text.count("[/]")


def test_advice_for_programs_is_found_in_the_translations() -> None:
    chinese = dict(map(_strings, _messages()))
    for advice in view._PROGRAM_ADVICE:
        for english in chinese:
            if advice in english:
                assert chinese[advice] in chinese[english]


# ------------------------------------------------------------------ what is not marked

PRINTS = ("print_note", "note", "error", "print", "write", "SystemExit", "BadParameter")
ERRORS = ("InvalidInputError", "_error", "_not_a_chat", "unsupported", "_refuse")
WORDS = re.compile(r"[A-Za-z]{2,} [a-z]{2,}")


def _unmarked(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        if name in PRINTS:
            for given in node.args:
                if WORDS.search(_literal(given)):
                    yield _literal(given)
        elif name in ERRORS or name.endswith("Error"):
            for given in node.args[name == "InvalidInputError" :]:
                if isinstance(given, ast.JoinedStr) and re.search("[a-z]{2}", _literal(given)):
                    yield _literal(given)


def _literal(node: ast.expr) -> str:
    """What of a string stands in the source."""
    if isinstance(node, ast.JoinedStr):
        return "".join(each.value for each in node.values if isinstance(each, ast.Constant))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_no_text_is_printed_or_raised_without_a_mark() -> None:
    others = ("emulator", "page.py", "pytest_plugin.py", "__init__.py")
    for path in PACKAGE.rglob("*.py"):
        if not set(path.relative_to(PACKAGE).parts) & set(others):
            assert list(_unmarked(path.read_text(encoding="utf-8"))) == [], path


@pytest.mark.parametrize(
    "source", ["print_note(c, 'Nothing was sent.')", "raise ValueError(f'not a path: {p}')"]
)
def test_a_text_without_a_mark_is_found(source: str) -> None:
    assert list(_unmarked(source))
