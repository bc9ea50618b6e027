"""`bailian-apps init`: a scenario and a test of it, to start from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from bailian_apps.cli.view import print_note
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_, _

_FILES = {"apps.yaml": "apps.yaml", "test_apps.py": "test_apps.py.txt"}
"""The files that are written, and those of this package that they are copies of."""


def init(folder: Path, console: Console) -> None:
    """Write the starter files into a folder; the command's options."""
    there = [name for name in _FILES if (folder / name).exists()]
    if there:
        problem = N_("has {name} already; nothing was written").format(name=there[0])
        if there[1:]:
            problem = N_("has {one} and {other} already; nothing was written")
            problem = problem.format(one=there[0], other=there[1])
        raise InvalidInputError("FOLDER", problem, "Choose another folder, or move them away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in _FILES.items():
            text = (resources.files("bailian_apps.cli") / "starter" / source).read_text("utf-8")
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        problem = N_("cannot be written to: {path} ({reason})").format(
            path=error.filename, reason=error.strerror
        )
        raise InvalidInputError("FOLDER", problem, "Choose another folder") from None
    for name in _FILES:
        print_note(console, _("Wrote {path}").format(path=folder / name), "")
    commands = {
        _("Serve the apps:"): f"bailian-apps serve {folder / 'apps.yaml'}",
        _("Test them:"): f"python -m pytest {folder / 'test_apps.py'}",
    }
    cells = max(map(cell_len, commands))
    for what, command in commands.items():
        print_note(console, f"{set_cell_size(what, cells)}  {command}")
