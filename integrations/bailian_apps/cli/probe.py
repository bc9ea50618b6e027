"""`bailian-apps probe`: asks an app a few questions, to find out how to call it.

Each question is one request, sent once: none goes through `Run`, which may send a request again.
What the answers mean is in `probe_report`.
"""

from __future__ import annotations

import contextlib
import random
import re
import sys
import time
import unicodedata
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from bailian_apps.app import BailianApp
from bailian_apps.cli.probe_report import is_failure, outcome, print_report, print_rows, report_of
from bailian_apps.cli.run import print_json
from bailian_apps.cli.view import print_note
from bailian_apps.client import default_client
from bailian_apps.core.decoder import Decoder
from bailian_apps.core.errors import (
    AuthenticationError,
    BadRequestError,
    BailianError,
    BillingError,
    ConnectError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServiceUnavailableError,
)
from bailian_apps.core.events import STEP_DELTAS, AppEvent, TextDelta
from bailian_apps.core.invalid_input import invalid_options
from bailian_apps.core.language import _
from bailian_apps.core.request import AppRequest, WireOptions
from bailian_apps.core.result import AppResult
from bailian_apps.core.retry import asks_for_prompt
from bailian_apps.core.settings import CALL_NAMES, AppSettings
from bailian_apps.transport.request_builder import build_request

if TYPE_CHECKING:
    from bailian_apps.cli.probe_recordings import Recordings

PROMPT = "List the numbers from 1 to 30, separated by commas."
"""Harmless, and its answer is long enough to show whether it streams."""

MAX_CALLS = 8
"""The most requests that a probe sends."""

_RECALL = "Which number did I ask you to remember?"
_MODES = ("message_format", "message_format_plus")
# Every further question would get these too.
_LASTING_ERRORS = (
    AuthenticationError,
    PermissionDeniedError,
    BillingError,
    RateLimitError,
    ServiceUnavailableError,
    ConnectError,
)


@dataclass(kw_only=True)
class Answer:
    """What the request of one question got.

    Attributes:
        question: The name of the question.
        mode: The stream mode; the cloud's default is `"full_thoughts"`.
        asked_session: The session that the request named.
        result: The run, as far as it came.
        error: What failed.
        frames: How many frames came.
        streamed: The text of the answer in each frame before the last one.
        step_frames: How many frames had text or reasoning of each step, by its id.
        first_text_s: Seconds until the first text of the answer.
        seconds: Seconds until the end.
    """

    question: str
    mode: str
    asked_session: str | None
    result: AppResult = field(default_factory=AppResult)
    error: BailianError | None = None
    frames: int = 0
    streamed: list[str] = field(default_factory=list[str])
    step_frames: dict[str, int] = field(default_factory=dict[str, int])
    first_text_s: float | None = None
    seconds: float = 0.0

    @property
    def answered(self) -> bool:
        """Whether the whole answer came."""
        return self.result.finish_reason is not None

    @property
    def refused(self) -> bool:
        """Whether the cloud refused the request for what it has. That answers a question."""
        kinds = (BadRequestError, NotFoundError)  # not those of the content inspection
        return type(self.error) in kinds and self.frames == 0

    @property
    def streams(self) -> bool:
        """Whether the text of the answer came piece by piece."""
        return len(self.streamed) > 1

    def has(self, number: str) -> bool:
        """Whether the text of the answer has the number, perhaps grouped as in 12,345."""
        text = unicodedata.normalize("NFKC", self.result.text)
        grouped = rf"{number[:-3]}[,.' ]?{number[-3:]}"
        # Not a part of 123456, of 12,345,678 or of 0.12345.
        return re.search(rf"(?<!\d)(?<!\d\.){grouped}(?!\d|[,.]\d{{3}}(?!\d))", text) is not None

    def count(self, events: list[AppEvent], *, last: bool, elapsed_s: float) -> None:
        """Count the frame that these events are from."""
        self.frames += 1
        if text := "".join(event.text for event in events if isinstance(event, TextDelta)):
            self.streamed += [] if last else [text]
            self.first_text_s = elapsed_s if self.first_text_s is None else self.first_text_s
        with_text = (e.step_id for e in events if isinstance(e, STEP_DELTAS))
        for step_id in dict.fromkeys(with_text):
            self.step_frames[step_id] = self.step_frames.get(step_id, 0) + 1


class Probe:
    """The questions to one app, and their answers so far.

    Attributes:
        answers: The answers by the names of their questions, in the order of the calls.
        numbers: What the app has to repeat: a number of the session, of the messages and of the
            system message. They differ, so that each can come from one place only.
    """

    def __init__(self, app: BailianApp, prompt: str, recordings: Recordings | None = None) -> None:
        """Prepare the questions; nothing is sent.

        Args:
            app: The app.
            prompt: What to ask where any prompt will do.
            recordings: Where to record each call, if anywhere.

        Raises:
            InvalidInputError: The prompt is empty.
        """
        if not prompt.strip():
            raise InvalidInputError("--prompt", "is empty", "Leave it out, or pass a text")
        self.answers: dict[str, Answer] = {}
        self.numbers = tuple(map(str, random.sample(range(10_000, 100_000), 3)))
        self._client = app.client or default_client()
        self._settings: AppSettings = app.settings
        self._prompt = prompt
        self._remember = f"Remember the number {self.numbers[0]}. {prompt}"
        self._recordings = recordings
        self._messages = (
            {"role": "system", "content": f"End every answer with the number {self.numbers[2]}."},
            {
                "role": "user",
                "content": f"Remember the number {self.numbers[1]}. Reply with OK only.",
            },
            {"role": "assistant", "content": "OK"},
            {"role": "user", "content": _RECALL},
        )

    def plan(self) -> dict[str, str]:
        """What is asked, by the names of the questions. Not all of them have to be."""
        in_session = _('in the session of that: "{prompt}"').format(prompt=_RECALL)
        unknown = _('in a session that does not exist: "{prompt}"').format(prompt=self._prompt)
        mode = _("that prompt in this stream mode, if the app is a workflow")
        return {
            "first": f'"{self._remember}"',
            "session": in_session,
            "messages": _("such a conversation as messages, with a system message"),
            "no system": _("the same without the system message, if that is refused"),
            "one prompt": _("the same as one prompt, if no number came back so far"),
            "unknown session": unknown,
        } | dict.fromkeys(_MODES, mode)

    def check(self) -> None:
        """Build the first request, to find what is missing before anything is sent.

        Raises:
            InvalidInputError: It cannot be sent.
        """
        build_request(_request_of(self._settings, {"prompt": self._remember}), self._settings)

    def ask_all(self) -> Iterator[tuple[str, Answer | None]]:
        """Ask the questions; yield the name of each before it is sent, and then its answer.

        Ends after an error that every further question would get too.
        """
        for question, fields in self._questions():
            yield question, None
            answer = self._ask(question, fields)
            yield question, answer
            if answer.error and (question == "first" or isinstance(answer.error, _LASTING_ERRORS)):
                return

    def _questions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what to send; each question is chosen when those before it are answered."""
        yield "first", {"prompt": self._remember}
        first = self.answers["first"].result
        known = False
        if first.session_id:
            yield "session", {"prompt": _RECALL, "session_id": first.session_id}
            known = self.answers["session"].has(self.numbers[0])
        yield "messages", {"messages": self._messages}
        messages = self.answers["messages"]
        if messages.refused and messages.error and not asks_for_prompt(messages.error):
            yield "no system", {"messages": self._messages[1:]}
            messages = self.answers["no system"]
        if not (known or messages.has(self.numbers[1])):
            turns = [(message["role"], message["content"]) for message in self._messages]
            yield "one prompt", {"prompt": self._settings.history_template.fold(turns)}
        yield "unknown session", {"prompt": self._prompt, "session_id": uuid.uuid4().hex}
        if any(step.kind == "node" for step in first.steps):
            for mode in _MODES:
                yield mode, {"prompt": self._prompt, "flow_stream_mode": mode}

    def _ask(self, question: str, fields: dict[str, Any]) -> Answer:
        """Send one request, once, and read what it gets."""
        settings = self._settings.with_overrides(
            {"thoughts": True, "flow_stream_mode": fields.pop("flow_stream_mode", None)}
        )
        request = _request_of(settings, fields)
        mode, asked = request.sent("flow_stream_mode"), request.sent("session_id")
        decoder = Decoder(
            flow_stream_mode=mode, output_nodes=settings.output_nodes, asked_session=asked
        )
        answer = Answer(question=question, mode=mode or "full_thoughts", asked_session=asked)
        self.answers[question] = answer
        recording = self._recordings.begin(request, settings) if self._recordings else None
        started = time.monotonic()
        try:
            with contextlib.closing(self._client.frames(request, settings)) as frames:
                for frame in (frame for arrived in frames for frame in arrived):
                    if recording is not None:
                        recording.feed(frame)
                    events = decoder.feed(frame)
                    elapsed_s = time.monotonic() - started
                    answer.count(events, last=decoder.finished, elapsed_s=elapsed_s)
            answer.result = decoder.finish()
        except BailianError as error:
            error.__context__ = error.__traceback__ = None  # they hold the key
            answer.result, answer.error = decoder.partial(), error
        finally:
            answer.seconds = time.monotonic() - started
            if recording is not None:
                recording.end(answer.error, finished=decoder.finished)
        return answer


def _request_of(settings: AppSettings, fields: dict[str, Any]) -> AppRequest:
    shared = {name: getattr(settings, name) for name in WireOptions.model_fields}
    try:
        return AppRequest.model_validate(shared | fields)
    except ValidationError:
        raise InvalidInputError.of(invalid_options(shared | fields, names=CALL_NAMES)) from None


def probe(
    app: BailianApp,
    console: Console,
    *,
    prompt: str,
    yes: bool,
    as_json: bool,
    folder: Path | None,
) -> None:
    """Probe an app and print the report to standard output.

    Args:
        app: The app.
        console: Where the questions and the progress go.
        prompt: What to ask where any prompt will do.
        yes: Whether to start without asking.
        as_json: Whether to print the report as JSON.
        folder: Where to write the report and the recordings, if anywhere.

    Raises:
        InvalidInputError: An argument is not valid; nothing was sent.
        BailianError: A file could not be written, which ends the probe, or the first error that
            left a question unanswered; the report is printed.
        KeyboardInterrupt: It was interrupted; the report of what is known is printed.
    """
    recordings = None
    if folder is not None:
        from bailian_apps.cli.probe_recordings import Recordings

        recordings = Recordings(folder, app.settings)
    asked = Probe(app, prompt, recordings)
    asked.check()
    _require_consent(asked, app.settings.app_id, console, yes=yes)
    if recordings is not None:
        recordings.open()
    ended: BaseException | None = None
    try:
        _show_progress(asked, console)
    except (KeyboardInterrupt, BailianError) as stop:  # the latter: a file was not written
        ended = stop
    report = report_of(app.settings.app_id, asked.answers, asked.numbers)
    if as_json:
        print_json(report)
    elif report["kind"] is not None:  # else nothing is known
        console.print()
        print_report(report, Console())
    if recordings is not None:
        try:
            recordings.save_report(report)
        except BailianError as error:
            ended = ended or error
        else:
            saved = _("Saved in {folder}. Review the files before you publish them.")
            print_note(console, saved.format(folder=folder))
    if ended is not None:
        raise ended
    for answer in asked.answers.values():
        if answer.error is not None and is_failure(answer):
            raise answer.error


def _require_consent(asked: Probe, app_id: str, console: Console, *, yes: bool) -> None:
    """Print the questions, and end the program unless `--yes` or the user agrees to them."""
    if not (yes or sys.stdin.isatty()):
        raise InvalidInputError(
            "--yes", "is needed without a terminal", "Add it to start the calls"
        )
    _print_plan(asked, app_id, console)
    if not (yes or _confirms(console)):
        print_note(console, _("Nothing was sent."))
        raise SystemExit(1)


def _print_plan(asked: Probe, app_id: str, console: Console) -> None:
    text = _(
        "This calls app {id} up to {count} times, at your cost. Each call does what the app does, "
        "such as sending mail. It asks:"
    )
    before, after = text.format(id="\0", count=MAX_CALLS).split("\0")
    console.print(Text.assemble(before, (app_id, "bold"), after))
    console.print()
    print_rows(asked.plan().items(), console)
    console.print()


def _confirms(console: Console) -> bool:
    try:
        return console.input(_("Start? [y/N] "), markup=False).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _show_progress(asked: Probe, console: Console) -> None:
    width = max(map(len, asked.plan()))
    with console.status("") as status:  # nothing where the console is not a terminal
        for question, answer in asked.ask_all():
            status.update(f"{question} …")
            if answer is not None:
                line = Text.assemble((f"{question:{width}}  ", "bold"), outcome(answer))
                console.print(line, soft_wrap=True)
