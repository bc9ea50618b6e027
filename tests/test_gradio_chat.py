"""The Gradio example in a real browser: streaming, steps, sessions, failures, Stop and Retry."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.browser import chromium
from support.scripts import ENVIRONMENT

from bailian_apps.emulator import Call, Emulator, Failure

pytestmark = pytest.mark.process

EXAMPLE = Path(__file__).parents[1] / "examples/gradio_chat.py"


class Guide:
    """An app that says its first words, and the rest when it may."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def __call__(self, call: Call) -> Iterator[Any]:
        if call.prompt == "fail":
            yield Failure(status=400, code="DataInspectionFailed", message="not that")
            return
        thought = {
            "action_type": "api",
            "action_name": "Search",
            "action_input": "{}",
            "observation": "two lakes",
        }
        output = {"thoughts": [thought], "finish_reason": "null"}
        yield {"output": {**output, "text": f"You said {call.prompt}"}}
        while not self.may_end.wait(0.05):
            if call.disconnected.is_set():
                return
        yield {"output": {**output, "text": ", the end.", "finish_reason": "stop"}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@contextmanager
def served(cloud: Emulator, folder: Path) -> Iterator[str]:
    """The example in a process of its own; its address."""
    pytest.importorskip("gradio")
    variables = {
        "DASHSCOPE_API_KEY": "any",
        "BAILIAN_APP_ID": "guide",
        "DASHSCOPE_HTTP_BASE_URL": cloud.base_url,
        "PYTHONUNBUFFERED": "1",
    }
    with subprocess.Popen(
        [sys.executable, str(EXAMPLE)],
        cwd=folder,
        env=ENVIRONMENT | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield found[0]
                    break
            else:
                pytest.fail("the example did not start")
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def guide() -> Guide:
    return Guide()


@pytest.fixture(scope="module")
def cloud(guide: Guide) -> Iterator[Emulator]:
    with Emulator(apps={"guide": guide}, strict=True) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def address(cloud: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(cloud, tmp_path_factory.mktemp("gradio")) as address:
        yield address


@pytest.fixture
def page(browser: Any, address: str, guide: Guide, cloud: Emulator) -> Iterator[Any]:
    """The page in a new tab; it asks no other server for anything."""
    guide.may_end.clear()
    cloud.reset()
    context = browser.new_context(locale="en-US", viewport={"width": 1000, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    asked: list[str] = []
    problems: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.goto(address)
    opened.get_by_role("textbox").wait_for()
    yield opened
    context.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert problems == []


def send(page: Any, text: str) -> None:
    box = page.get_by_role("textbox")
    box.fill(text)
    box.press("Enter")


def see(page: Any, text: str) -> None:
    page.get_by_text(text, exact=True).first.wait_for()


def prompts(cloud: Emulator) -> list[tuple[str | None, bool]]:
    """What each request asked, and whether it continued a session."""
    return [(request.prompt, bool(request.session_id)) for request in cloud.requests]


def test_an_answer_streams_with_its_steps_and_the_next_turn_continues_the_session(
    page: Any, guide: Guide, cloud: Emulator
) -> None:
    send(page, "one")
    see(page, "You said one")  # while the app is still speaking
    see(page, "Steps (1)")
    guide.may_end.set()
    see(page, "You said one, the end.")
    page.get_by_text("Steps (1)").click()
    page.get_by_text("Search: two lakes").wait_for()
    send(page, "two")
    see(page, "You said two, the end.")
    assert prompts(cloud) == [("one", False), ("two", True)]


def test_two_chats_have_two_sessions(
    page: Any, browser: Any, address: str, guide: Guide, cloud: Emulator
) -> None:
    guide.may_end.set()
    send(page, "one")
    see(page, "You said one, the end.")
    other = browser.new_page()
    other.goto(address)
    send(other, "two")
    see(other, "You said two, the end.")
    other.close()
    send(page, "three")
    see(page, "You said three, the end.")
    assert prompts(cloud) == [("one", False), ("two", False), ("three", True)]
    assert cloud.requests[2].session_id is not None


def test_a_failed_turn_shows_the_error_and_the_session_continues(
    page: Any, guide: Guide, cloud: Emulator
) -> None:
    guide.may_end.set()
    send(page, "one")
    see(page, "You said one, the end.")
    send(page, "fail")
    page.get_by_text("DataInspectionFailed").first.wait_for()
    send(page, "three")
    see(page, "You said three, the end.")
    assert [prompt for prompt, _ in prompts(cloud)][:2] == ["one", "fail"]
    assert len(cloud.requests) == 3


def test_stop_closes_the_connection(page: Any, cloud: Emulator) -> None:
    send(page, "one")
    see(page, "You said one")
    page.locator(".stop-button").click()
    assert cloud.requests[0].disconnected.wait(60)


@pytest.mark.parametrize("button", ["Retry", "Clear"])
def test_retry_and_clear_take_turns_back(
    button: str, page: Any, guide: Guide, cloud: Emulator
) -> None:
    guide.may_end.set()
    send(page, "one")
    see(page, "You said one, the end.")
    guide.may_end.clear()
    page.get_by_role("button", name=button).first.click()
    if button == "Clear":
        page.get_by_text("You said one, the end.").wait_for(state="detached")
        send(page, "one")
    see(page, "You said one")  # the app is speaking again
    guide.may_end.set()
    see(page, "You said one, the end.")
    assert prompts(cloud) == [("one", False)] * 2
