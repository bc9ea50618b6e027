"""`bailian-apps recordings ls`: what a folder of recordings holds."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from bailian_apps.cli.shell import console as stdout_console
from bailian_apps.cli.view import print_note
from bailian_apps.core.decoder import Decoder
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_, _
from bailian_apps.emulator import Recording, load_recording
from bailian_apps.emulator.apps.recordings import SUFFIXES
from bailian_apps.terminal import strip_controls

_HEAD = (N_("file"), N_("app"), N_("mode"), N_("status"), N_("steps"), N_("size"), N_("prompt"))
_PROMPT_CELLS = 60
"""How much of a prompt a line shows at most."""


@dataclass(frozen=True)
class _Row:
    """One recording, as a line or a JSON object; what is not known is None."""

    file: str
    app_id: str | None
    prompt: str | None
    mode: str | None
    status: int
    steps: int
    bytes: int
    cut: bool


def list_recordings(folder: Path, console: Console, *, as_json: bool) -> bool:
    """List the recordings of a folder on standard output; return whether all can be read."""
    if not folder.is_dir():
        raise InvalidInputError("FOLDER", "is not a folder", "Pass the folder of your recordings")
    rows: list[_Row] = []
    problems: list[str] = []
    for path in sorted(each for each in folder.iterdir() if each.suffix in SUFFIXES):
        try:
            rows.append(_row(path, load_recording(path)))
        except ValueError as error:
            problems.append(str(error))
    if as_json:
        sys.stdout.write("".join(f"{json.dumps(asdict(r), ensure_ascii=False)}\n" for r in rows))
    elif rows:
        _print_table(rows)
    else:
        text = _("No recordings in {folder}; they end in {names}")
        print_note(console, text.format(folder=folder, names=", ".join(SUFFIXES)))
    for problem in problems:
        print_note(console, problem, "yellow")
    return not problems


def _row(path: Path, recording: Recording) -> _Row:
    request = recording.request
    decoder = Decoder(flow_stream_mode=recording.flow_stream_mode)
    status = 200
    for frame in recording.frames:
        if frame.event == "error":
            status = frame.status
        else:
            decoder.feed(frame.payload)
    return _Row(
        file=path.name,
        app_id=None if request is None else request.app_id,
        prompt=None if request is None else request.prompt,
        mode=recording.flow_stream_mode,
        status=status,
        steps=len(decoder.partial().steps),
        bytes=path.stat().st_size,
        cut=recording.cut_ms is not None,
    )


def _print_table(rows: list[_Row]) -> None:
    out = stdout_console()
    table = [list(map(_, _HEAD))]
    for row in rows:
        status = _("{status} cut").format(status=row.status) if row.cut else str(row.status)
        prompt = " ".join((row.prompt or "-").split())
        size = f"{row.bytes / 1024:.1f} kB"
        name, mode = row.app_id or "-", row.mode or "-"
        table.append([row.file, name, mode, status, str(row.steps), size, prompt])
    table = [[strip_controls(cell) for cell in line] for line in table]
    widths = [max(cell_len(line[index]) for line in table) for index in range(6)]
    for line in table:
        cells = [set_cell_size(cell, width) for cell, width in zip(line, widths, strict=False)]
        text = Text("  ".join(cells) + "  ")
        prompt = Text(line[6])
        prompt.truncate(_PROMPT_CELLS, overflow="ellipsis")
        text.append_text(prompt)
        if out.is_terminal:
            text.truncate(out.width, overflow="ellipsis")
        text.rstrip()
        out.print(text, soft_wrap=True, highlight=False)
