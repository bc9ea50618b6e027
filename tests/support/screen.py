"""A real terminal: a window of tmux, in which a command runs."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
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
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            lines = self.lines()
            if any(text in line for line in lines):
                return lines
            time.sleep(0.1)  # tmux cannot be waited for
        raise AssertionError("\n".join([f"{text!r} does not come; on the screen:", *self.lines()]))

    def press(self, key: str) -> None:
        self.tmux("send-keys", key)


@contextmanager
def screen(arguments: str, columns: int, rows: int, **more: str) -> Iterator[Screen]:
    """Run `bailian-apps` with these arguments in a terminal; it ends with a line `exit=…`."""
    shown = Screen(f"bailian-{uuid.uuid4().hex[:12]}")
    command = f"{BAILIAN} {arguments}; echo exit=$?; exec cat"
    size = ("-x", str(columns), "-y", str(rows))
    shown.tmux("new-session", "-d", *size, command, **more)
    try:
        yield shown
    finally:
        shown.tmux("kill-server")
