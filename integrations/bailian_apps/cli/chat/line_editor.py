"""Reads the user's messages: with an editor in a terminal, line by line from everything else."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app_session
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.vt100 import Vt100_Output
from typing_extensions import override

from bailian_apps.core.language import _
from bailian_apps.terminal import strip_controls

if sys.platform == "win32":
    import msvcrt
else:
    import termios

PROMPT = "> "
_MENU_ROWS = 6
# What the arrow and function keys send, and the marks around what is pasted.
_KEYS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~])")


class LineReader(Protocol):
    """Where messages come from."""

    at_terminal: bool
    """Whether a person sees what is printed, and is asked with a prompt."""

    def read(self) -> str:
        """Return the next message, which may have several lines.

        Raises:
            EOFError: There is none: Ctrl-D, or the end of a file.
            KeyboardInterrupt: Ctrl-C.
            UnicodeDecodeError: It is not text.
        """
        ...

    def busy(self) -> contextlib.AbstractContextManager[None]:
        """Return a context for the time of an answer, in which keys must not disturb it."""
        ...


class PlainReader:
    """Lines of standard input. A terminal that cannot move its cursor is asked with a prompt."""

    def __init__(self, *, at_terminal: bool) -> None:
        """Read lines; `at_terminal` is whether to show a prompt."""
        self.at_terminal = at_terminal

    def read(self) -> str:
        """Return the next line, with those that were pasted with it."""
        lines = [input(PROMPT if self.at_terminal else "")]
        while self.at_terminal and sys.platform != "win32" and _is_readable(sys.stdin.fileno()):
            try:
                lines.append(input())
            except EOFError:
                break
        return "\n".join(lines)

    @contextlib.contextmanager
    def busy(self) -> Generator[None]:
        """Drop what is typed at a terminal during an answer: it must not be sent unseen."""
        try:
            yield
        finally:
            if self.at_terminal and _drop_pending():
                sys.stderr.write(_("What you typed during the answer was not sent.") + "\n")


class LineEditor:
    """An editor with history and completion; what is pasted arrives as one message."""

    at_terminal = True

    def __init__(
        self, commands: Mapping[str, str], *, paths_after: Sequence[str], history: History | None
    ) -> None:
        """Make an editor for standard input and output.

        Args:
            commands: The slash commands, each with its description.
            paths_after: The commands whose argument may be the path of a file.
            history: Where the lines of earlier chats are; None keeps those of this chat in memory.
        """
        output = get_app_session().output
        if isinstance(output, Vt100_Output):
            output.enable_cpr = False  # a terminal that does not answer would get a warning
        self.completer = _CommandCompleter(commands, paths_after)
        self._typed = ""
        self._session = PromptSession[str](
            PROMPT,
            multiline=True,  # Enter sends all the same, see `_key_bindings`
            prompt_continuation=" " * len(PROMPT),
            completer=self.completer,
            # Rows for the menu are taken from the screen only while there can be one.
            complete_while_typing=Condition(self._writes_command),
            reserve_space_for_menu=_MENU_ROWS,
            history=history or InMemoryHistory(),
            key_bindings=_key_bindings(),
            output=output,
        )

    def _writes_command(self) -> bool:
        return self._session.default_buffer.text.startswith("/")

    def read(self) -> str:
        """Return the next message."""
        typed, self._typed = self._typed, ""
        return self._session.prompt(default=typed)

    @contextlib.contextmanager
    def busy(self) -> Generator[None]:
        """Keep what is typed during an answer for the next prompt. It is shown there, not sent."""
        if sys.platform == "win32":
            try:
                yield
            finally:
                self._typed = _pending_keys()
            return
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
        quiet = list(before)
        quiet[3] &= ~(termios.ECHO | termios.ICANON)
        quiet[3] |= termios.NOFLSH  # Ctrl-C interrupts, and does not drop what was typed
        termios.tcsetattr(fd, termios.TCSANOW, quiet)
        try:
            yield
        finally:
            self._typed = _pending_text(fd)
            termios.tcsetattr(fd, termios.TCSANOW, before)


def line_reader(
    commands: Mapping[str, str], *, paths_after: Sequence[str], history: History | None
) -> LineReader:
    """Return what reads the messages here; the arguments are those of `LineEditor`."""
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if at_terminal and os.environ.get("TERM", "").lower() not in ("dumb", "unknown"):
        return LineEditor(commands, paths_after=paths_after, history=history)
    return PlainReader(at_terminal=at_terminal)


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()
    writing = has_focus(DEFAULT_BUFFER)  # not searching

    @bindings.add("enter", filter=writing)
    def send(event: KeyPressEvent) -> None:
        """Send the message, or begin a line where the cursor is after a backslash at the end."""
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=writing)  # Alt+Enter sends these two
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c", filter=writing)
    def clear_or_leave(event: KeyPressEvent) -> None:
        """Drop what was typed; leave where nothing was."""
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return bindings


class _CommandCompleter(Completer):
    """Completes slash commands, and paths after those that take a file."""

    def __init__(self, commands: Mapping[str, str], paths_after: Sequence[str]) -> None:
        self._commands = commands
        self._paths_after = paths_after
        self._paths = PathCompleter(expanduser=True)

    @override
    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        before = document.text_before_cursor
        command, space, argument = before.partition(" ")
        if not before.startswith("/") or "\n" in before:
            return
        if not space:
            for name, description in self._commands.items():
                if name.startswith(command):
                    text = f"{name} " if name in self._paths_after else name
                    yield Completion(text, -len(command), name, description)
        elif command in self._paths_after:
            path = argument.lstrip()
            yield from self._paths.get_completions(Document(path), complete_event)


def _is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def _pending_text(fd: int) -> str:
    """Return what was typed and not read, without what steers a terminal."""
    typed = b""
    while _is_readable(fd) and (more := os.read(fd, 65536)):
        typed += more
    text = typed.decode(sys.stdin.encoding or "utf-8", "ignore")
    return strip_controls(_KEYS.sub("", text).replace("\r", "\n"))


if sys.platform == "win32":

    def _pending_keys() -> str:
        """Return what was typed and not read: the keys of a console, not of a stream."""
        typed = ""
        while msvcrt.kbhit():
            key = msvcrt.getwch()
            if key in ("\x00", "\xe0"):  # the first half of an arrow or function key
                msvcrt.getwch()
            else:
                typed += key
        return strip_controls(typed.replace("\r", "\n"))

    def _drop_pending() -> bool:
        """Drop what was typed and not read; return whether anything was."""
        return bool(_pending_keys())

else:

    def _drop_pending() -> bool:
        """Drop what was typed and not read; return whether anything was."""
        if not _is_readable(sys.stdin.fileno()):
            return False
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
        return True
