"""The loop of a chat: reads a message or a slash command, calls the app, shows the answer."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from bailian_apps.app import BailianApp
from bailian_apps.cli.chat.conversation import Conversation, read_conversation
from bailian_apps.cli.chat.line_editor import line_reader
from bailian_apps.cli.chat.screen import RunScreen
from bailian_apps.cli.chat.slash_commands import COMMANDS
from bailian_apps.cli.chat.storage import Autosave, LineHistory, state_folder
from bailian_apps.cli.keys import holds_key
from bailian_apps.cli.view import (
    format_error,
    print_note,
    print_references,
    print_totals,
    screen_text,
)
from bailian_apps.core.attachments import Image, InlineImage
from bailian_apps.core.errors import APIError, AppFailedError, BailianError, ServerError
from bailian_apps.core.events import AppEvent, RunFinished, fold
from bailian_apps.core.history import Plan, plan_request
from bailian_apps.core.language import _
from bailian_apps.core.request import AppRequest
from bailian_apps.core.result import AppResult
from bailian_apps.core.retry import did_not_start
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.turns import Turn
from bailian_apps.run import Run
from bailian_apps.terminal import one_line
from bailian_apps.transport.request_builder import build_request

_SHOWN_CHARS = 500


class Chat:
    """A conversation with an app, in a terminal or through a pipe.

    Attributes:
        settings: The settings of each call; `/biz` replaces them.
        console: Where all but the answers goes.
        conversation: What was said.
        result: The newest run of which anything arrived, whole or as far as it came.
        unanswered: The newest message, if no answer to it arrived.
        show_steps: Whether the steps get lines of their own.
        show_reasoning: Whether what the app thinks gets lines of its own.
        written: The files that this chat has written and may overwrite.
    """

    def __init__(
        self,
        app: BailianApp,
        console: Console,
        media: Mapping[str, Any],
        *,
        session_id: str | None = None,
        steps: bool = True,
        store: bool = True,
        load: Path | None = None,
        continue_newest: bool = False,
    ) -> None:
        """Start a conversation, or continue one.

        Args:
            app: The app to call.
            console: Where all but the answers goes.
            media: The images and files of the first message, see `media` in `cli.run`.
            session_id: A session to continue.
            steps: Whether to show the steps.
            store: Whether to keep lines and chats in the user's state directory.
            load: A saved chat to continue.
            continue_newest: Whether to continue this app's newest chat.

        Raises:
            InvalidInputError: No call could be sent, or the chat to continue cannot be read.
        """
        self.settings = app.settings
        self.console = console
        self.result = AppResult()
        self.unanswered: Turn | None = None
        self.show_steps = steps
        self.show_reasoning = False
        self.written: set[Path] = set()
        self._client = app.client
        _require_key(app.settings)
        folder = state_folder()
        self._reader = line_reader(
            {command.name: _(command.help) for command in COMMANDS.values()},
            paths_after=[each.name for each in COMMANDS.values() if "FILE" in each.argument],
            history=LineHistory(folder) if store else None,
        )
        autosave = Autosave(app.settings, folder)
        if continue_newest:
            load = autosave.newest()
            autosave.start(load)
        # What runs in a script leaves nothing on disk.
        self._autosave = autosave if store and self._reader.at_terminal else None
        self.conversation = Conversation() if load is None else self.read(load)
        self.conversation.session_id = session_id
        self.conversation.images = tuple(map(_absolute, media.get("image_list", ())))
        self.conversation.files = tuple(media.get("file_list", ()))

    def run(self) -> None:
        """Read and send messages until the user leaves."""
        at_terminal = self._reader.at_terminal
        if at_terminal:
            self.note(_("App {id}. /help lists the commands.").format(id=self.settings.app_id))
            self.show_end()
        while True:
            try:
                text = self._reader.read().strip()
            except (EOFError, KeyboardInterrupt):
                if at_terminal:
                    self.note("")
                return
            except UnicodeDecodeError:
                self.error(_("The line is not UTF-8 text. It was not sent."))
                continue
            is_command = text.startswith("/") and not text.startswith("//")
            if is_command and "\n" not in text:
                self._run_command(*text.partition(" ")[::2])
            elif is_command and text.split()[0] in COMMANDS:
                self.error(
                    _("A command has one line. To send this as a message, begin it with //.")
                )
            elif text:
                self.ask(self.conversation.question(text if is_command else text.removeprefix("/")))

    def ask(self, question: Turn) -> bool:
        """Send a message and show its answer; return whether any of an answer arrived."""
        if holds_key(question.text):
            self.error(
                _("The message holds an API key, and was not sent. Write it without the key.")
            )
            return False
        self.unanswered = question
        turns = [*self.conversation.turns, question]
        events: list[AppEvent] = []
        plan: Plan | None = None
        try:
            with self._reader.busy():
                session_id = self.conversation.session_id
                plan = plan_request(turns, self.settings, session_id=session_id)
                self._show(Run(self.settings, plan, client=self._client), events)
        except KeyboardInterrupt:
            self.note(_("stopped. The app may have run; /retry asks again."))
        except BailianError as error:
            self.error(format_error(error))
            self.note(_what_became_of(error))
        finished = events[-1] if events else None
        if plan is not None and isinstance(finished, RunFinished):
            self.result = finished.result
            self._keep(question, self.result.text, plan)
            return True
        partial = functools.reduce(fold, events, AppResult())
        if partial.text or partial.steps:
            self.result = partial
        if partial.text:
            self._keep(question, partial.text)
        return bool(partial.text)

    def start(self, conversation: Conversation) -> None:
        """Leave the conversation for another one."""
        self.conversation = conversation
        self.unanswered = None
        self.result = AppResult()
        if self._autosave is not None:
            self._autosave.start()

    def read(self, path: Path) -> Conversation:
        """Read a saved chat.

        Raises:
            InvalidInputError: It cannot be read.
        """
        return read_conversation(path, self.settings)

    def show_end(self) -> None:
        """Show how the conversation ends, if it has begun."""
        turns = self.conversation.turns
        if not turns:
            return
        count = len(turns)
        self.note(_("Continuing a chat of {count} messages, which ends with:").format(count=count))
        for turn in turns[-2:]:
            text = screen_text(turn.text)
            self.note(f"{turn.role}: {text[:_SHOWN_CHARS]}{'…' * (len(text) > _SHOWN_CHARS)}")

    def note(self, text: str) -> None:
        """Print what the chat has to say."""
        print_note(self.console, text)

    def error(self, text: str) -> None:
        """Print what went wrong."""
        print_note(self.console, text, "red")

    def _run_command(self, name: str, argument: str) -> None:
        command = COMMANDS.get("/quit" if name == "/exit" else name)
        if command is None:
            unknown = _("Unknown command {name}. /help lists the commands.")
            self.error(unknown.format(name=one_line(name)))
            return
        try:
            command.run(self, argument.strip())
        except BailianError as error:
            # An option has its errors, too.
            self.error(error.describe().replace(f"--{name[1:]}", name))

    def _show(self, run: Run, events: list[AppEvent]) -> None:
        """Show a run, and append its events to `events`."""
        options = {"steps": self.show_steps, "reasoning": self.show_reasoning}
        with run.stream() as stream, RunScreen(self.console, **options) as screen:
            for event in stream:
                events.append(event)
                screen.show(event)
        if not isinstance(finished := events[-1], RunFinished):
            return
        if self.show_steps or self._reader.at_terminal:
            print_references(finished.result.references, self.console)
        if self.show_steps:
            print_totals(finished.result, self.console)

    def _keep(self, question: Turn, answer: str, plan: Plan | None = None) -> None:
        """Add the exchange to the conversation.

        Without a plan the answer did not end. It has no marker then: its session may lack it.
        """
        self.unanswered = None
        marker = plan.marker(self.result) if plan else None
        self.conversation.keep(question, Turn(role="assistant", text=answer, marker=marker))
        if self.result.context_lost and plan:
            self.error(  # after the logged warning that names the sessions
                _(
                    "The app answered without the earlier conversation. Your next message is sent "
                    "together with all of it."
                )
            )
        if self._autosave is not None:
            try:
                self._autosave.save(self.conversation)
            except OSError as error:
                self._autosave = None
                problem = _("This chat cannot be kept for --continue: {reason}")
                self.error(problem.format(reason=error.strerror))


def _require_key(settings: AppSettings) -> None:
    """Raise at the start what the first message would fail with."""
    if settings.api_key is None:  # then the SDK looks for a file
        build_request(AppRequest(app_id=settings.app_id, prompt="-"), settings)


def _absolute(image: Image) -> Image:
    """Return an image that is found again from another working directory."""
    if isinstance(image, InlineImage) and image.path is not None:
        return InlineImage(image.path.resolve(), f"image {image.path}")
    return image


def _what_became_of(error: BailianError) -> str:
    """What an error means for the message, and what to do."""
    if did_not_start(error):
        return _("The app did not run. /retry asks again.")
    if isinstance(error, AppFailedError):
        return _("The app ran, and failed. /retry asks again: it runs a second time.")
    if isinstance(error, APIError) and not isinstance(error, ServerError):
        return _("The cloud refused the request. /retry asks again.")
    return _("The app may have run. /retry asks again: it may run a second time.")
