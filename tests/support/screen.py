"""A real terminal: a window of tmux, in which a command runs."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from support.command import BAILIAN, environment

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")


class Screen:
    """What a user sees. `socket` is that of a tmux server of its own."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def tmux(self, *arguments: str, **more: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments],
            env=environment(TERM="xterm-256color", LANG="C.UTF-8", **more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def lines(self, *options: str) -> list[str]:
        """The lines on the screen; with `-e`, also their colours."""
        return self.tmux("capture-pane", "-p", *options).rstrip("\n").split("\n")

    def wait_for(self, text: str) -> list[str]:
        """The lines on the screen once a text is among them."""
        return self.wait_until(lambda lines: any(text in line for line in lines), text)

    def wait_for_prompt(self) -> list[str]:
        """The lines on the screen once the last one is the empty prompt of `chat`."""
        return self.wait_until(lambda lines: lines[-1].rstrip() == ">", "the prompt")

    def wait_until(self, shows: Callable[[list[str]], object], what: str) -> list[str]:
        """The lines on the screen once they fulfil a condition."""
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            lines = self.lines()
            if shows(lines):
                return lines
            time.sleep(0.1)  # tmux cannot be waited for
        raise AssertionError("\n".join([f"{what!r} does not come; on the screen:", *self.lines()]))

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)

    def paste(self, text: str) -> None:
        """Paste as a terminal does: in brackets, where the program has asked for them."""
        self.tmux("set-buffer", text)
        self.tmux("paste-buffer", "-p")

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)


@contextmanager
def screen(
    arguments: str, columns: int, rows: int, *, assignments: str = "", **more: str
) -> Iterator[Screen]:
    """Run `bailian-apps` with these arguments in a terminal; it ends with a line `exit=…`.

    `assignments` are variables as a shell sets them, for what tmux sets itself, such as TERM.
    """
    shown = Screen(f"bailian-{uuid.uuid4().hex[:12]}")
    command = f"{assignments} {BAILIAN} {arguments}; echo exit=$?; exec cat"
    size = ("-x", str(columns), "-y", str(rows))
    shown.tmux("new-session", "-d", *size, command, **more)
    try:
        yield shown
    finally:
        shown.tmux("kill-server")
