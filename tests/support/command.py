"""`bailian-apps` as a user runs it: a process, or, where only its words count, a call."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bailian_apps.cli import main
from support.scripts import ENVIRONMENT

BAILIAN = str(Path(sys.executable).with_name("bailian-apps"))


def free_port() -> str:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def served(
    command: str, folder: Path, variables: dict[str, str], servers: ExitStack
) -> tuple[subprocess.Popen[str], str]:
    """Start `serve` or `record` on a port of its own, until `servers` is closed.

    Returns:
        The process, which listens, and its port.
    """
    process = servers.enter_context(
        subprocess.Popen(
            ["bash", "-c", f"exec {command.strip()} --port 0"],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )
    servers.callback(process.kill)
    assert process.stdout is not None
    printed = ""
    while "Press Ctrl-C to stop" not in printed:
        line = process.stdout.readline()
        assert line, f"{command}: {printed}"
        printed += line
    [port] = re.findall(r"^export \w+=http://127\.0\.0\.1:(\d+)/", printed, re.M)
    return process, port


def on_ports(commands: str, ports: dict[str, str]) -> str:
    """Commands with other ports in place of those that a page names."""
    return re.sub(r"\b\d+\b", lambda number: ports.get(number[0], number[0]), commands)


def environment(**more: str) -> dict[str, str]:
    """A user's environment, without what belongs to this machine."""
    return ENVIRONMENT | {"DASHSCOPE_API_KEY": "sk-mine"} | more


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
