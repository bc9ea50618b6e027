"""`bailian-apps init`: a scenario and a test of it, to start from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from rich.console import Console

from bailian_apps.cli.view import print_note
from bailian_apps.core.errors import InvalidInputError

_FILES = {"apps.yaml": "apps.yaml", "test_apps.py": "test_apps.py.txt"}
"""The files that are written, and those of this package that they are copies of."""


def init(folder: Path, console: Console) -> None:
    """Write the starter files into a folder; the command's options."""
    there = [name for name in _FILES if (folder / name).exists()]
    if there:
        problem = f"has {' and '.join(there)} already; nothing was written"
        raise InvalidInputError("FOLDER", problem, "Choose another folder, or move them away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in _FILES.items():
            text = (resources.files("bailian_apps.cli") / "starter" / source).read_text("utf-8")
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        problem = f"cannot be written to: {error.filename} ({error.strerror})"
        raise InvalidInputError("FOLDER", problem, "Choose another folder") from None
    for name in _FILES:
        print_note(console, f"Wrote {folder / name}", "")
    print_note(console, f"Serve the apps:  bailian-apps serve {folder / 'apps.yaml'}")
    print_note(console, f"Test them:       python -m pytest {folder / 'test_apps.py'}")
