"""`bailian-apps chat`: a conversation with an app, in a terminal."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from bailian_apps.app import BailianApp
from bailian_apps.cli.view import clean, note, show, told
from bailian_apps.core.errors import BailianError
from bailian_apps.core.events import AppEvent, TextDelta
from bailian_apps.core.history import plan_request
from bailian_apps.core.turns import Turn
from bailian_apps.run import stream

HELP = """\
/new        forget this conversation and begin another
/history    show it
/save FILE  write it as JSON, or as Markdown if FILE ends in .md
/help       show this
/quit       leave; Ctrl-D and Ctrl-C do, too
Ctrl-C during an answer stops the answer. A line that begins with // is sent with one /."""


class Chat:
    """One conversation: it ends with an answer, or is empty."""

    def __init__(
        self, app: BailianApp, console: Console, *, session_id: str | None, steps: bool
    ) -> None:
        """Begin a conversation.

        Args:
            app: Whom to talk to.
            console: Where everything but the answers goes.
            session_id: A session to go on in.
            steps: Whether the steps are shown.
        """
        self._app = app
        self._console = console
        self._session_id = session_id
        self._steps = steps
        self._turns: list[Turn] = []
        self._saved: set[Path] = set()

    def run(self) -> None:
        """Talk until the user leaves."""
        at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        if at_terminal:
            with contextlib.suppress(ImportError):  # it makes `input` an editor with a history
                import readline  # noqa: F401  # pyright: ignore[reportUnusedImport]
            note(self._console, f"App {self._app.settings.app_id}. /help lists the commands.")
        while True:
            try:
                line = input("> " if at_terminal else "").strip()
            except (EOFError, KeyboardInterrupt):
                if at_terminal:
                    note(self._console, "")
                return
            except UnicodeDecodeError:
                self._complain("that line is no UTF-8 text; it was not sent")
                continue
            if line in ("/quit", "/exit"):
                return
            if line.startswith("/") and not line.startswith("//"):
                self._obey(*line.partition(" ")[::2])
            elif line:
                self._ask(line.removeprefix("/"))

    def _obey(self, command: str, argument: str) -> None:
        if command == "/new":
            self._turns.clear()
            self._session_id = None
            note(self._console, "A new conversation.")
        elif command == "/history":
            for turn in self._turns:
                note(
                    self._console, f"{turn.role}: {turn.text}", "" if turn.role == "user" else "dim"
                )
        elif command == "/save":
            self._save(argument.strip())
        elif command == "/help":
            note(self._console, HELP)
        else:
            self._complain(f"{clean(command)} is no command; /help lists them")

    def _ask(self, words: str) -> None:
        said = Turn(role="user", text=words)
        answer: list[str] = []
        try:
            plan = plan_request(
                [*self._turns, said], self._app.settings, session_id=self._session_id
            )
            with stream(self._app.settings, plan, client=self._app.client) as events:
                result = show(_noting(events, answer), self._console, steps=self._steps)
        except KeyboardInterrupt:
            note(self._console, "stopped")
            self._keep_unfinished(said, answer)
        except BailianError as error:
            self._complain(told(error))
            self._keep_unfinished(said, answer)
        else:
            self._turns += [
                said, Turn(role="assistant", text=result.text, marker=plan.marker(result))
            ]  # fmt: skip
            self._session_id = None  # from here on the markers know
            if result.context_lost:
                self._complain(  # that it was forgotten is logged
                    "This answer was given without what was said before. With your next words, "
                    "all of it is sent again."
                )

    def _keep_unfinished(self, said: Turn, answer: list[str]) -> None:
        """Keep what was read of an answer that did not end. No session is certain to hold it."""
        if answer:
            self._turns += [said, Turn(role="assistant", text="".join(answer))]
            self._session_id = None

    def _save(self, name: str) -> None:
        if not name:
            self._complain("/save wants the name of a file, such as chat.md")
            return
        try:
            path = Path(name).expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a NUL
            self._complain(f"{clean(name)} is no name of a file: {error}")
            return
        text = self._as_markdown() if path.suffix == ".md" else self._as_json()
        try:
            with path.open("w" if path in self._saved else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            self._complain(f"{path} exists already; choose another name")
        except OSError as error:
            self._complain(f"{path} was not written: {error.strerror}")
        else:
            self._saved.add(path)
            note(self._console, f"{len(self._turns)} messages in {path}")

    def _as_json(self) -> str:
        messages: list[dict[str, Any]] = []
        for turn in self._turns:
            message: dict[str, Any] = {"role": turn.role, "content": turn.text}
            if turn.marker is not None:
                message["session_id"] = turn.marker.session_id
            messages.append(message)
        saved = {"app_id": self._app.settings.app_id, "messages": messages}
        return json.dumps(saved, ensure_ascii=False, indent=2) + "\n"

    def _as_markdown(self) -> str:
        return "\n".join(
            f"**{'You' if turn.role == 'user' else self._app.settings.app_id}**\n\n{turn.text}\n"
            for turn in self._turns
        )

    def _complain(self, text: str) -> None:
        note(self._console, text, "red")


def _noting(events: Iterable[AppEvent], answer: list[str]) -> Generator[AppEvent]:
    """The events, while `answer` gets the text that has come."""
    for event in events:
        if isinstance(event, TextDelta):
            answer.append(event.text)
        yield event
