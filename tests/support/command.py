"""`bailian-apps` as a user runs it: a process, or, where only its words count, a call."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bailian_apps.cli import main

BAILIAN = str(Path(sys.executable).with_name("bailian-apps"))


def environment(**more: str) -> dict[str, str]:
    """A user's environment, without what belongs to this machine."""
    inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    return inherited | {"PYTHONUTF8": "1", "DASHSCOPE_API_KEY": "sk-mine"} | more


def bailian(
    *arguments: str, stdin: str | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [BAILIAN, *arguments],
        env=environment(**more),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def exit_code_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process, which is a second faster."""
    monkeypatch.setattr(sys, "argv", ["bailian-apps", *arguments])
    logger = logging.getLogger("bailian_apps")
    before = list(logger.handlers)
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        logger.handlers[:] = before
    return 0
