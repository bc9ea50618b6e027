"""The log of `serve`: a line for each call, on a narrow screen and in a file."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from rich.cells import cell_len
from rich.console import Console

from bailian_apps import BailianApp, BailianError
from bailian_apps.cli.serve_log import CallLog
from bailian_apps.core.language import forget_language
from bailian_apps.emulator import Agent, Emulator, ErrorAnswer
from bailian_apps.emulator.models import ReceivedRequest
from bailian_apps.emulator.server.local_server import LOGGED, Outcome

LONG = "杭州有什么好吃的？ And " + "where to walk " * 9 + "\nwith\ttwo children"
APPS = {
    "trip": Agent(text="ok"),
    "a-very-long-id-of-an-app": Agent(text="ok"),
    "busy": ErrorAnswer(code="Throttling", message="Slow down " * 9, status=429),
}


@contextmanager
def logged(*, width: int, terminal: bool, verbose: bool = False) -> Iterator[list[str]]:
    """The lines that a cloud's log prints; while it runs, its address instead."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    handler = CallLog(console, APPS, verbose=verbose)
    logger = logging.getLogger("bailian_apps.emulator")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(handler.level)
    lines: list[str] = []
    try:
        with Emulator(apps=APPS) as cloud:
            handler.print_head()
            lines.append(cloud.base_url)
            yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    lines[:] = file.getvalue().splitlines()


def ask(base_url: str, app_id: str, prompt: str) -> None:
    app = BailianApp(app_id=app_id, api_key="sk-mine", base_url=base_url, max_retries=0)
    try:
        app.invoke(prompt)
    except BailianError:
        assert app_id not in ("trip", "a-very-long-id-of-an-app")


@pytest.mark.parametrize("width", [60, 80])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    with logged(width=width, terminal=True) as lines:
        for app_id in (*APPS, "nobody"):
            ask(lines[0], app_id, LONG)
    assert [line for line in lines if cell_len(line) > width] == []
    calls = [line for line in lines if re.match(r"\d\d:", line)]
    assert len(calls) == 4
    assert all("杭州有什" in line for line in calls[:3])
    assert len({re.search(r"  +\d{3} ", line).end() for line in calls}) == 1  # type: ignore[union-attr]
    assert "a-very-long-id-…" in calls[1]


def test_in_a_file_ids_are_whole_and_each_error_is_one_line() -> None:
    with logged(width=60, terminal=False) as lines:
        for app_id in (*APPS, "nobody"):
            ask(lines[0], app_id, LONG)
    assert len(lines) == 1 + 4 + 2
    assert re.match(r"time      app +session  prompt$", lines[0])
    assert re.match(
        r"[\d:]{8}  trip              200 +\d+ ms  \w{6}   杭州有什么好吃的？ And ", lines[1]
    )
    assert "a-very-long-id-of-an-app  200" in lines[2]
    assert "\t" not in "".join(lines)
    assert lines[4] == "          Throttling: " + ("Slow down " * 9).strip()
    assert lines[6].endswith("The emulator serves trip, a-very-long-id-of-an-app, busy.")


def test_only_a_verbose_log_has_admin_requests() -> None:
    for verbose in (False, True):
        with logged(width=60, terminal=False, verbose=verbose) as lines:
            admin = lines[0].replace("/api/v1", "/__emulator__")
            httpx.get(f"{admin}/sessions", trust_env=False)
            httpx.get(f"{lines[0]}/models", trust_env=False)
            ask(lines[0], "trip", "hi")
        shown = [re.sub(r"^[\d:]{8}  |  \d+ ms$", "", line) for line in lines]
        wrong_path = "GET /api/v1/models  404"
        expected = ["GET /__emulator__/sessions  200", wrong_path] if verbose else [wrong_path]
        assert shown[1:-1] == expected


def test_a_fault_and_a_lost_connection_are_noted() -> None:
    with logged(width=60, terminal=False) as lines:
        admin = lines[0].replace("/api/v1", "/__emulator__")
        for fault in ("throttled", "close_between_frames"):
            httpx.post(f"{admin}/faults", json={"name": fault}, trust_env=False)
            with pytest.raises(AssertionError):  # it fails, although it is the app that answers
                ask(lines[0], "trip", "hi")
    throttled, closed = [line for line in lines if "  trip" in line]
    assert "  429  " in throttled
    assert throttled.endswith("fault throttled  hi")
    assert closed.endswith("fault close_between_frames  cut off  hi")


@pytest.mark.parametrize(
    ("facts", "english", "chinese"),
    [
        ({"nearest": "1.jsonl"}, "nearest 1.jsonl", "最相近的录制文件 1.jsonl"),
        ({"recorded": True}, "passed on, recorded", "已转发并录制"),
        ({"recorded": False}, "passed on, not recorded", "已转发，未录制"),
    ],
)
def test_what_answered_is_said_in_the_language_of_the_user(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], english: str, chinese: str
) -> None:
    request = ReceivedRequest(app_id="trip", body={}, headers={})
    outcome = Outcome(status=200, complete=True, request=request, **facts)
    assert str(outcome).strip() == english
    file = io.StringIO()
    logged_before = LOGGED.set(outcome)
    monkeypatch.setenv("BAILIAN_LANG", "zh")
    forget_language()
    try:
        CallLog(Console(file=file, width=200), ["trip"], verbose=False).emit(
            logging.makeLogRecord({"took_ms": 1.0})
        )
    finally:
        LOGGED.reset(logged_before)
        monkeypatch.undo()
        forget_language()
    assert f"  {chinese}" in file.getvalue()
