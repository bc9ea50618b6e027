"""A terminal as a person has it: a program runs in tmux, which draws its screen."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pytest
from typing_extensions import Self

WAIT_S = 60.0
_POLL_S = 0.05
_numbers = itertools.count()

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Terminal:
    """A screen with one program, between entering and leaving the context."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        columns: int = 80,
        rows: int = 30,
        folder: Path | None = None,
    ) -> None:
        self._socket = f"bailian-tests-{os.getpid()}-{next(_numbers)}"
        assignments = [f"{name}={value}" for name, value in environment.items()]
        program = shlex.join(["env", "-i", *assignments, *command])
        # Cooked lines end the screen, so that the exit status can be read from it.
        script = f'{program}; echo "[left with $?]"; cat'
        size = ("-x", str(columns), "-y", str(rows))
        place = ("-c", str(folder)) if folder else ()
        self._start = ("-f", os.devnull, "new-session", "-d", *size, *place, script)

    def __enter__(self) -> Self:
        self._tmux(*self._start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tmux("kill-server")

    def type(self, text: str, key: str = "Enter") -> None:
        """Type a text, and press a key; `""` for none."""
        if text:
            self._tmux("send-keys", "-l", text)
        if key:
            self._tmux("send-keys", key)

    def press(self, *keys: str) -> None:
        """Press keys by their names in tmux, such as `C-c`."""
        self._tmux("send-keys", *keys)

    def paste(self, text: str) -> None:
        """Paste a text as the terminal does: in brackets, where the program has asked for them."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-p")

    def text(self, *, scrollback: bool = False, escapes: bool = False) -> str:
        """What the screen shows, with what has left it at the top, with its colours."""
        more = (*(("-S", "-") if scrollback else ()), *(("-e",) if escapes else ()))
        return self._tmux("capture-pane", "-p", *more).rstrip("\n")

    def wait_for(self, wanted: str | Callable[[str], object], *, scrollback: bool = True) -> str:
        """Return the screen as soon as it shows a text, or fulfils a condition."""
        shows = wanted if callable(wanted) else lambda screen: wanted in screen
        deadline = time.monotonic() + WAIT_S
        while not shows(screen := self.text(scrollback=scrollback)):
            if time.monotonic() > deadline:
                raise AssertionError(f"the screen never showed {wanted!r}:\n{screen}")
            time.sleep(_POLL_S)
        return screen

    def wait_for_prompt(self) -> str:
        """Wait until the program asks for the next message."""
        return self.wait_for(lambda screen: screen.rpartition("\n")[2].rstrip() == ">")

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._socket, *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=WAIT_S,
            env={name: value for name, value in os.environ.items() if name != "TMUX"}
            | {"LC_ALL": "C.UTF-8"},
        )
        assert done.returncode == 0 or "kill-server" in arguments, done.stderr
        return done.stdout
