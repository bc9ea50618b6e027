"""The log of `bailian-apps serve`: a line for each call, for people."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from time import strftime

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.text import Text
from typing_extensions import override

from bailian_apps.cli.view import print_note, translated_record
from bailian_apps.core.language import N_, _
from bailian_apps.emulator.server.local_server import LOGGED, Outcome
from bailian_apps.terminal import strip_controls

_PROMPT_CELLS = 60
_APP_CELLS = 16
_SESSION_CHARS, _SESSION_CELLS = 6, 7
_HEAD = (N_("time"), N_("app"), N_("session"), N_("prompt"))


def _notes(outcome: Outcome) -> Iterator[str]:
    """Yield what `str` of an outcome says, in the language of the user."""
    if outcome.event_status:
        yield _("error event {status}").format(status=outcome.event_status)
    if outcome.fault:
        yield _("fault {name}").format(name=outcome.fault)
    if outcome.nearest:
        yield _("nearest {name}").format(name=outcome.nearest)
    if outcome.recorded is not None:
        yield _("passed on, recorded") if outcome.recorded else _("passed on, not recorded")
    if not outcome.complete:
        yield _("cut off")


class CallLog(logging.Handler):
    """Prints what the emulator logs: time, app, status, duration, session, notes and prompt.

    In a terminal a line is cut where the screen ends. An error's message follows its line.
    """

    def __init__(self, console: Console, app_ids: Iterable[str], *, verbose: bool) -> None:
        """Print to `console`; `verbose` also prints what is no call, such as admin requests."""
        super().__init__(logging.DEBUG if verbose else logging.INFO)
        self._console = console
        longest = max(map(cell_len, app_ids), default=0)
        self._app_cells = min(max(longest, len("travel")), _APP_CELLS)

    def print_head(self) -> None:
        """Print the names of the columns."""
        time, app, session, prompt = map(_, _HEAD)
        self._print(self._line(time, app, "", "", session, [], prompt), "dim")

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        time = strftime("%H:%M:%S")
        outcome = LOGGED.get()
        took_ms: float = getattr(record, "took_ms", 0.0)
        if outcome is None:
            style = "yellow" if record.levelno >= logging.WARNING else ""
            print_note(self._console, f"{time}  {translated_record(record).getMessage()}", style)
            return
        took = f"{took_ms:.0f} ms" if took_ms < 1000 else f"{took_ms / 1000:.1f} s"
        request, status = outcome.request, str(outcome.status or "-")
        if request is None:
            target: str = getattr(record, "target", "")
            self._print(Text(f"{time}  {target}  {status}  {took}"), "dim")
            return
        notes = list(_notes(outcome))
        session = (outcome.session_id or "-")[:_SESSION_CHARS]
        failed = outcome.error or not outcome.complete or (outcome.status or 500) >= 400
        line = self._line(time, request.app_id, status, took, session, notes, request.prompt)
        self._print(line, "yellow" if failed else "")
        if outcome.error:
            self._print_error(outcome.error)

    def _line(
        self,
        time: str,
        app_id: str,
        status: str,
        took: str,
        session: str,
        notes: list[str],
        prompt: str,
    ) -> Text:
        app = Text(strip_controls(app_id))
        if self._console.is_terminal:
            app.truncate(self._app_cells, overflow="ellipsis")
        cells = set_cell_size(app.plain, max(self._app_cells, app.cell_len))
        shown = Text(" ".join(strip_controls(prompt).split()))
        shown.truncate(_PROMPT_CELLS, overflow="ellipsis")
        time, session = set_cell_size(time, 8), set_cell_size(session, _SESSION_CELLS)
        head = f"{time}  {cells}  {status:>3}  {took:>6}  {session}"
        return Text("  ".join([head, *notes, shown.plain]))

    def _print(self, line: Text, style: str) -> None:
        if self._console.is_terminal:
            line.truncate(self._console.width, overflow="ellipsis")
        line.rstrip()
        self._console.print(line, style=style, soft_wrap=True, highlight=False)

    def _print_error(self, error: str) -> None:
        text = Text(" ".join(strip_controls(error).split()))
        indent = len("00:00:00  ")
        if self._console.is_terminal:
            self._console.print(Padding(text, (0, 0, 0, indent)), style="dim", highlight=False)
        else:
            self._console.print(Text(" " * indent) + text, soft_wrap=True, highlight=False)
