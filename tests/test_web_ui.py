"""The server and the page of web-ui.md, in both languages: started as written, and used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.browser import chromium, tab
from support.pages import blocks_of

from bailian_apps.emulator import Call, Emulator

pytest.importorskip("fastapi.sse")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.process

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*/web-ui.md"))
ADDRESS = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")
NAMES = {"python": "chat.py", "html": "index.html"}
WAIT_S = 60


class App:
    """Mails something, says a hostile text, and goes on when it may."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.spoke = threading.Event()
        self.goes_on = threading.Event()

    def __call__(self, call: Call) -> Iterator[Any]:
        self.calls.append(call)
        step = {"action_type": "api", "action_name": "mail", "arguments": "{}"}
        step["observation"] = "sent"
        yield {"output": {"text": "<b>First</b> ", "thoughts": [step], "finish_reason": "null"}}
        self.spoke.set()
        while not self.goes_on.wait(0.01):
            if call.disconnected.is_set():
                return
        yield {"output": {"text": "last.", "finish_reason": "stop"}}


@contextmanager
def running(folder: Path, base_url: str) -> Iterator[str]:
    """Start the program that was saved in a folder; yields its address."""
    inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    given = {
        "DASHSCOPE_API_KEY": "sk-mine",
        "BAILIAN_APP_ID": "app",
        "DASHSCOPE_HTTP_BASE_URL": base_url,
        "PYTHONUTF8": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "chat:web", "--port", "0"],
        cwd=folder,
        env=inherited | given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            log = ""
            while not (found := ADDRESS.search(log)):
                line = process.stderr.readline()
                assert line, log
                log += line
            yield found[1]
        finally:
            process.kill()


@pytest.fixture(scope="module", params=PAGES, ids=lambda path: path.parent.name)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, App, Emulator]]:
    folder = tmp_path_factory.mktemp("site")
    page = request.param.read_text(encoding="utf-8")
    for language, name in NAMES.items():
        [block] = blocks_of(page, language)
        (folder / name).write_text(block, encoding="utf-8")
    app = App()
    with Emulator(apps={"app": app}) as cloud, running(folder, cloud.base_url) as address:
        yield address, app, cloud


@pytest.fixture
def app(site: tuple[str, App, Emulator]) -> App:
    _, app, cloud = site
    app.__init__()
    cloud.reset()
    return app


def events(response: httpx.Response) -> list[str]:
    return re.findall(r"^event: (\w+)$", response.text, re.M)


def test_an_answer_comes_as_events_and_a_failure_is_one(
    site: tuple[str, App, Emulator], app: App
) -> None:
    address, _, cloud = site
    app.goes_on.set()
    first = httpx.post(f"{address}/ask", json={"text": "hi"}, timeout=WAIT_S)
    assert sorted(set(events(first))) == ["done", "step", "text"]
    assert events(first)[-1] == "done"
    cloud.fail("http_401")
    assert events(httpx.post(f"{address}/ask", json={"text": "hi"})) == ["error"]
    assert httpx.post(f"{address}/ask", json={"text": ""}).status_code == 422


def test_a_user_who_leaves_closes_the_clouds_connection(
    site: tuple[str, App, Emulator], app: App
) -> None:
    path = f"{site[0]}/ask"
    with httpx.stream("POST", path, json={"text": "hi"}, timeout=WAIT_S) as response:
        assert any("First" in line for line in response.iter_lines())
    assert app.calls[0].disconnected.wait(WAIT_S)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def test_the_page_shows_steps_and_answers_and_continues_the_session(
    site: tuple[str, App, Emulator], app: App, browser: Any
) -> None:
    with tab(browser) as opened:
        page = opened.page
        page.goto(site[0])
        for number in range(2):
            page.fill("#text", f"question {number}")
            page.press("#text", "Enter")
            page.wait_for_function(
                "n => document.body.innerText.split('First').length > n + 1", arg=number
            )
            assert page.is_disabled("#send")
            app.goes_on.set()
            page.wait_for_selector("#send:enabled")
            app.goes_on.clear()
        lines = page.locator("#chat p").all_text_contents()
        assert [line.split()[-1] for line in lines] == ["0", "✓", "last.", "1", "✓", "last."]
        assert "<b>First</b> last." in lines
        assert "mail" in lines[1]
        opened.requests[:] = [
            url for url in opened.requests if not url.startswith((site[0], "data:"))
        ]
    assert [turn.user for turn in app.calls[1].turns] == ["question 0"]
