"""`bailian-apps chat`: a conversation with an app, in a terminal."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from bailian_apps.app import BailianApp
from bailian_apps.cli.view import format_error, print_note, show
from bailian_apps.core.errors import BailianError
from bailian_apps.core.events import AppEvent, TextDelta
from bailian_apps.core.history import plan_request
from bailian_apps.core.turns import Turn
from bailian_apps.run import Run

HELP = """\
/new        start a new conversation
/history    show this conversation
/save FILE  save it as JSON, or as Markdown if FILE ends in .md
/help       show this help
/quit       leave; Ctrl-D and Ctrl-C leave, too
Ctrl-C during an answer stops the answer. To send a line that starts with /, write // instead."""


class Chat:
    """A conversation with an app. It is empty or ends with an answer."""

    def __init__(
        self,
        app: BailianApp,
        console: Console,
        media: Mapping[str, Any],
        *,
        session_id: str | None,
        steps: bool,
    ) -> None:
        """Start a conversation, or continue a session. All but the answers goes to `console`.

        Args:
            app: The app to call.
            console: Where all but the answers goes.
            media: The images and files of the first message, see `media` in `cli.run`.
            session_id: A session to continue.
            steps: Whether to show the steps.
        """
        self._app = app
        self._console = console
        self._session_id = session_id
        self._steps = steps
        self._images = tuple(media.get("image_list", ()))
        self._files = tuple(media.get("file_list", ()))
        self._turns: list[Turn] = []
        self._saved: set[Path] = set()

    def run(self) -> None:
        """Read and send lines until the user leaves."""
        at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        if at_terminal:
            with contextlib.suppress(ImportError):  # gives `input` line editing and a history
                import readline  # noqa: F401  # pyright: ignore[reportUnusedImport]
            print_note(self._console, f"App {self._app.settings.app_id}. /help lists the commands.")
        while True:
            try:
                line = input("> " if at_terminal else "").strip()
            except (EOFError, KeyboardInterrupt):
                if at_terminal:
                    print_note(self._console, "")
                return
            except UnicodeDecodeError:
                self._print_error("The line is not UTF-8 text. It was not sent.")
                continue
            if line in ("/quit", "/exit"):
                return
            if line.startswith("/") and not line.startswith("//"):
                self._run_command(*line.partition(" ")[::2])
            elif line:
                self._send(line.removeprefix("/"))

    def _run_command(self, command: str, argument: str) -> None:
        if command == "/new":
            self._turns.clear()
            self._session_id = None
            print_note(self._console, "A new conversation.")
        elif command == "/history":
            for turn in self._turns:
                print_note(
                    self._console, f"{turn.role}: {turn.text}", "" if turn.role == "user" else "dim"
                )
        elif command == "/save":
            self._save(argument.strip())
        elif command == "/help":
            print_note(self._console, HELP)
        else:
            self._print_error(f"Unknown command {command}. /help lists the commands.")

    def _send(self, text: str) -> None:
        question = Turn(role="user", text=text, images=self._images, files=self._files)
        answer: list[str] = []
        try:
            settings = self._app.settings
            plan = plan_request([*self._turns, question], settings, session_id=self._session_id)
            with Run(settings, plan, client=self._app.client).stream() as events:
                result = show(_collect_text(events, answer), self._console, steps=self._steps)
        except KeyboardInterrupt:
            print_note(self._console, "stopped")
            self._keep_partial_turn(question, answer)
        except BailianError as error:
            self._print_error(format_error(error))
            self._keep_partial_turn(question, answer)
        else:
            self._keep(
                question, Turn(role="assistant", text=result.text, marker=plan.marker(result))
            )
            if result.context_lost:
                self._print_error(  # after the logged warning that names the sessions
                    "The app answered without the earlier conversation. Your next message is sent "
                    "together with all of it."
                )

    def _keep_partial_turn(self, question: Turn, answer: list[str]) -> None:
        """Keep what arrived of an answer that did not end, without a session: it may lack it."""
        if answer:
            self._keep(question, Turn(role="assistant", text="".join(answer)))

    def _keep(self, question: Turn, answer: Turn) -> None:
        self._turns += [question, answer]
        self._session_id = None  # from now on the turns' markers name the session
        self._images, self._files = (), ()  # they are part of the conversation

    def _save(self, name: str) -> None:
        if not name:
            self._print_error("/save needs a file name, such as /save chat.md")
            return
        try:
            path = Path(name).expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a NUL
            self._print_error(f"{name} is not a valid file name: {error}")
            return
        text = self._as_markdown() if path.suffix == ".md" else self._as_json()
        try:
            with path.open("w" if path in self._saved else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            self._print_error(f"{path} already exists. Choose another name.")
        except OSError as error:
            self._print_error(f"{path} cannot be written: {error.strerror}")
        else:
            self._saved.add(path)
            print_note(self._console, f"Saved {len(self._turns)} messages in {path}")

    def _as_json(self) -> str:
        messages = [
            {"role": turn.role, "content": turn.text}
            | ({"session_id": turn.marker.session_id} if turn.marker else {})
            for turn in self._turns
        ]
        saved = {"app_id": self._app.settings.app_id, "messages": messages}
        return json.dumps(saved, ensure_ascii=False, indent=2) + "\n"

    def _as_markdown(self) -> str:
        return "\n".join(
            f"**{'You' if turn.role == 'user' else self._app.settings.app_id}**\n\n{turn.text}\n"
            for turn in self._turns
        )

    def _print_error(self, text: str) -> None:
        print_note(self._console, text, "red")


def _collect_text(events: Iterable[AppEvent], answer: list[str]) -> Generator[AppEvent]:
    """Yield the events, and append the text of the answer to `answer`."""
    for event in events:
        if isinstance(event, TextDelta):
            answer.append(event.text)
        yield event
