"""What a chat keeps on disk: the lines that were written, and the chats. Readable by the user only.

All of it is in the user's state directory, and nothing of it with `--no-history`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from prompt_toolkit.history import FileHistory
from typing_extensions import override

from bailian_apps.cli.chat.conversation import Conversation, read_app
from bailian_apps.cli.keys import holds_key
from bailian_apps.core.credentials import is_credential_name
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.settings import AppSettings

_KEY = re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9._-]{4,}")
_ASSIGNED = re.compile(r"(?<![\w-])([\w-]{1,64})[\"']?\s{0,3}[:=]{1,2}\s{0,3}\S")
_BEARER = re.compile(r"\bbearer\s+\S", re.IGNORECASE)
_MAX_HISTORY_BYTES = 1024 * 1024


def state_folder() -> Path:
    """Return the folder for what a program keeps between its runs, as the system names it."""
    if given := os.environ.get("XDG_STATE_HOME"):
        return Path(given) / "bailian-apps"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "bailian-apps"
    return Path.home() / ".local" / "state" / "bailian-apps"


def holds_secret(text: str) -> bool:
    """Whether a text holds a key (`sk-…`), a bearer token, or a value named as a credential."""
    if holds_key(text) or _KEY.search(text) or _BEARER.search(text):
        return True
    return any(is_credential_name(found[1]) for found in _ASSIGNED.finditer(text))


def write_private(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a file that only its owner can read.

    Raises:
        FileExistsError: It exists, and `overwrite` is false.
        OSError: It cannot be written.
    """
    if not overwrite:
        with os.fdopen(_create(path), "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        return
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(_create(beside), "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        beside.replace(path)  # whoever reads sees the old file or the new one
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


class LineHistory(FileHistory):
    """The lines that the user wrote, in a file. A line that holds a secret is not stored."""

    def __init__(self, folder: Path) -> None:
        """Use the file `history` in `folder`."""
        super().__init__(str(folder / "history"))
        self._path = folder / "history"

    @override
    def load_history_strings(self) -> Iterable[str]:
        """Return the lines, newest first; none if the file cannot be read."""
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    @override
    def store_string(self, string: str) -> None:
        """Append a line, if it holds no secret; a disk that refuses it does not end the chat."""
        if holds_secret(string):
            return
        with contextlib.suppress(OSError):
            _make_private_folder(self._path.parent)
            self._shorten()
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600))
            super().store_string(string)

    def _shorten(self) -> None:
        """Drop the older half of a large file."""
        if self._path.exists() and self._path.stat().st_size > _MAX_HISTORY_BYTES:
            kept = self._path.read_text(encoding="utf-8", errors="replace")[
                -_MAX_HISTORY_BYTES // 2 :
            ]
            write_private(self._path, kept[kept.find("\n# ") + 1 :], overwrite=True)


class Autosave:
    """Keeps the file of one conversation up to date, for `chat --continue`."""

    def __init__(self, settings: AppSettings, folder: Path) -> None:
        """Keep the chats of an app in its own folder below `folder`."""
        self._settings = settings
        self._folder = folder / "chats" / quote(settings.app_id, safe="")
        self._path: Path | None = None

    def start(self, path: Path | None = None) -> None:
        """Begin another conversation, in a file of its own or in `path`."""
        self._path = path

    def save(self, conversation: Conversation) -> None:
        """Write the conversation.

        Raises:
            OSError: It cannot be written.
        """
        _make_private_folder(self._folder)
        if self._path is None:
            now = datetime.now()
            self._path = self._folder / f"{now:%Y%m%d-%H%M%S-%f}.json"
        write_private(self._path, conversation.to_json(self._settings), overwrite=True)

    def newest(self) -> Path:
        """Return the file of the conversation that was saved last, of this app at this address.

        Raises:
            InvalidInputError: There is none.
        """

        def saved_at(path: Path) -> float:
            with contextlib.suppress(OSError):
                return path.stat().st_mtime
            return 0.0

        for path in sorted(self._folder.glob("*.json"), key=saved_at, reverse=True):
            with contextlib.suppress(InvalidInputError):
                if read_app(path)[1] == self._settings.base_url:
                    return path
        raise InvalidInputError(
            "--continue",
            "found no chat with this app at this address",
            "Leave it out to begin one, or open a file with --load FILE",
        )


def _make_private_folder(folder: Path) -> None:
    for each in (*reversed(folder.parents), folder):  # `parents=True` would not set their mode
        if not each.exists():
            each.mkdir(mode=0o700, exist_ok=True)
