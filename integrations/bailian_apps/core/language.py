"""In which language people read: Chinese where their locale is Chinese, else English.

A text is written in English, where it is used. `_` translates it at once, for what is printed. `N_`
marks one that is translated later, if at all: the texts of errors, which stay English for programs.
Constant texts of errors need no mark. The translations are in `bailian_apps/locale`;
`docs/messages.py` collects the texts. `gettext` is imported only where something is translated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from typing_extensions import Self, override

if TYPE_CHECKING:
    from gettext import NullTranslations

Language: TypeAlias = Literal["en", "zh"]

_CATALOG = ("locale", "zh_CN", "LC_MESSAGES", "bailian_apps.mo")
_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set decides, as POSIX has it
_WINDOWS_CHINESE = 0x04  # the primary language of an id of Windows


@cache
def language() -> Language:
    """Return the language of the people who use this process; read once, when it is needed.

    It is that of `BAILIAN_LANG` (`zh` or `en`), else that of the locale (where it is not C, the
    first of `LANGUAGE`, as gettext has it), else that of the desktop.
    """
    chosen = chosen_language()
    if chosen is not None:
        return chosen
    given = next((value for name in _VARIABLES if (value := os.environ.get(name))), None)
    if given and given.partition(".")[0] not in ("C", "POSIX"):
        given = os.environ.get("LANGUAGE", "").partition(":")[0] or given
    return _known(given or _desktop_language())


@cache
def chosen_language() -> Language | None:
    """Return the language that `BAILIAN_LANG` names; one that is not known means English."""
    chosen = os.environ.get("BAILIAN_LANG", "").strip()
    return _known(chosen) if chosen else None


def use_english() -> None:
    """Use English from now on: for output that programs read, and where Chinese cannot be shown."""
    os.environ["BAILIAN_LANG"] = "en"
    forget_language()


def forget_language() -> None:
    """Let the variables be read again."""
    language.cache_clear()
    chosen_language.cache_clear()


class Message(str):
    """An English text that can be translated later, with the values that were put into it."""

    __slots__ = ("msgid", "values")
    msgid: str
    values: dict[str, Any] | None

    def __new__(cls, msgid: str, values: dict[str, Any] | None = None) -> Self:
        """Make a text, of `values` in the places that `msgid` names."""
        kept = None if values is None else {name: _kept(each) for name, each in values.items()}
        text = super().__new__(cls, msgid if kept is None else str(msgid).format(**kept))
        text.msgid, text.values = str(msgid), kept
        return text

    @override
    def format(self, *_: object, **values: Any) -> Message:
        """Return the text with values in its places."""
        return Message(self.msgid, values)

    @override
    def __reduce__(self) -> tuple[type[Message], tuple[str, dict[str, Any] | None]]:
        """Pickle what it was made of."""
        return Message, (self.msgid, self.values)


class _ErrorText(Message):
    """The text of an error of this package, inside another text."""

    __slots__ = ("chinese",)
    chinese: str

    def __new__(cls, english: str, chinese: str) -> Self:
        text = super().__new__(cls, english)
        text.chinese = chinese
        return text

    @override
    def __reduce__(self) -> Any:
        return _ErrorText, (str(self), self.chinese)


def _kept(value: object) -> str | float:
    """Return a value as one that every process can unpickle; of an exception, its text."""
    if isinstance(value, Exception):
        if describe := getattr(value, "describe", None):
            value = _ErrorText(describe("en"), describe("zh"))
        elif value.args and isinstance(value.args[0], Message):
            value = value.args[0]
    if isinstance(value, Message):
        return value
    for kind in (str, bool, int, float):
        if isinstance(value, kind):  # a subclass may be the caller's own
            return value if type(value) is kind else kind(value)
    return str(value)


def N_(text: str) -> Message:
    """Mark a text that is translated later, by `translated`; `format` takes the values in it."""
    return text if isinstance(text, Message) else Message(text)


def joined(texts: Iterable[str], separator: str = "; ") -> Message:
    """Return several texts as one, which is translated text by text, and so is the separator."""
    values = {f"text{number}": text for number, text in enumerate(texts)}
    msgid = "{separator}".join(f"{{{name}}}" for name in values)
    return Message(msgid, {**values, "separator": N_(separator)})


def quoted(text: str) -> Message:
    """Return a text of others, such as the cloud's: it stays as it is in every language."""
    return text if isinstance(text, Message) else Message("{text}", {"text": text})


def _(text: str) -> str:
    """Translate a text of a program into the language of its user."""
    return translated(text)


def ngettext(one: str, many: str, count: int) -> str:
    """Translate a text with a number, `{count}`, in the form that this number takes."""
    if language() == "en":
        return (one if count == 1 else many).format(count=count)
    return _catalog().ngettext(one, many, count).format(count=count)


def translated(text: str, into: Language | None = None) -> str:
    """Return a text in a language; by default in that of the user.

    Args:
        text: A text that is in the catalogue, or a `Message`. Any other stays as it is.
        into: The language.
    """
    if not text or (into or language()) == "en":
        return str(text)
    if not isinstance(text, Message):
        return _catalog().gettext(text)
    if isinstance(text, _ErrorText):
        return text.chinese
    template = _catalog().gettext(text.msgid)
    if text.values is None:
        return template
    values = {
        name: translated(value, "zh") if isinstance(value, Message) else value
        for name, value in text.values.items()
    }
    return template.format(**values)


def import_error(text: Message) -> ImportError:
    """Return the error of a missing package; its language, and its note, are as those of errors."""
    error = ImportError(translated(text, chosen_language() or "en"))
    if sys.version_info >= (3, 11) and adds_translations():
        error.add_note(translated(text))
    return error


def adds_translations() -> bool:
    """Whether errors get a note in Chinese: only the locale is Chinese, so they stay English."""
    return language() == "zh" and chosen_language() is None


@cache
def _catalog() -> NullTranslations:
    import gettext
    from importlib import resources
    from io import BytesIO

    path = resources.files("bailian_apps")  # in a folder or in a zip file
    for name in _CATALOG:
        path = path.joinpath(name)
    try:
        return gettext.GNUTranslations(BytesIO(path.read_bytes()))
    except OSError:  # it is missing or broken, which must not hide what failed
        return gettext.NullTranslations()


def _known(name: str | None) -> Language:
    return "zh" if name is not None and name.lower().startswith("zh") else "en"


def _desktop_language() -> str | None:
    """Return the language of the user's desktop, on the systems where variables rarely name it."""
    try:
        if sys.platform == "win32":
            import ctypes

            ui_language = ctypes.windll.kernel32.GetUserDefaultUILanguage()
            return "zh" if ui_language & 0x3FF == _WINDOWS_CHINESE else None
        if sys.platform == "darwin":
            import plistlib

            path = Path.home() / "Library" / "Preferences" / ".GlobalPreferences.plist"
            return str(plistlib.loads(path.read_bytes())["AppleLanguages"][0])
    except Exception:  # no such call, file or setting
        return None
    return None
