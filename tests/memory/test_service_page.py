"""The page of the example service in a real browser."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import service as services
from support.browser import chromium, tab
from support.service import Service

from bailian_apps.emulator import Call, Emulator

pytestmark = pytest.mark.process

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}"


class App:
    """Says one word and a hostile text, has a hostile step, and goes on when it may."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.goes_on = threading.Event()

    def __call__(self, call: Call) -> Iterator[Any]:
        self.calls.append(call)
        thoughts = [{"action_type": "api", "action_name": HOSTILE, "arguments": "{}"}]
        output: dict[str, Any] = {"text": f"First {HOSTILE} ", "thoughts": thoughts}
        yield {"output": {**output, "finish_reason": "null"}}
        while not self.goes_on.wait(0.01):
            if call.disconnected.is_set():
                return
        thoughts[0]["observation"] = "sent"
        yield {"output": {"text": "last.", "thoughts": thoughts, "finish_reason": "stop"}}


@pytest.fixture(scope="module")
def app() -> App:
    return App()


@pytest.fixture(scope="module")
def service(app: App) -> Iterator[Service]:
    with Emulator(apps={"app": app}) as cloud, services.running(cloud.base_url) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, service: Service, app: App) -> Iterator[Any]:
    """The page; it asks no other server for anything, and breaks no rule of its policy."""
    app.calls.clear()
    app.goes_on.clear()
    with tab(browser) as opened:
        opened.page.goto(service.url)
        yield opened.page
        foreign = [url for url in opened.requests if not url.startswith((service.url, "data:"))]
        opened.requests[:] = foreign


def ask(page: Any, text: str) -> None:
    """Ask, and wait until the answer begins."""
    page.fill("#text", text)
    page.press("#text", "Enter")
    page.wait_for_selector("li.ai:last-child > p:not(:empty)")


def shown(page: Any, selector: str) -> list[str]:
    return page.locator(selector).all_text_contents()


def test_an_answer_and_its_steps_are_seen_as_they_come(page: Any, app: App) -> None:
    ask(page, f"Hello {HOSTILE}")
    assert shown(page, "li.ai > p") == [f"First {HOSTILE} "]
    assert shown(page, "li.ai li") == [HOSTILE]
    assert page.locator("li.ai li").get_attribute("data-status") == "…"
    app.goes_on.set()
    page.wait_for_selector("#stop", state="hidden")
    assert shown(page, "li.ai > p") == [f"First {HOSTILE} last."]
    assert page.locator("li.ai li").get_attribute("data-status") == "✓"
    ask(page, "And now?")
    page.wait_for_selector("#stop", state="hidden")
    page.reload()
    page.wait_for_selector("li:nth-child(4)")
    texts = [f"Hello {HOSTILE}", f"First {HOSTILE} last.", "And now?"]
    assert shown(page, "li > p") == [*texts, texts[1]]
    assert page.locator("#messages img, #messages script").count() == 0


def leave(page: Any) -> None:
    page.goto("about:blank")
    page.go_back()


def reload(page: Any) -> None:
    page.reload()


def stop(page: Any) -> None:
    page.click("#stop")


@pytest.mark.parametrize("way", [leave, reload, stop])
def test_leaving_closes_the_clouds_connection_and_is_reported(
    way: Any, page: Any, app: App, service: Service
) -> None:
    ask(page, "Hello")
    assert re.search(r"#[\w-]{36}$", page.url)
    way(page)
    assert app.calls[0].disconnected.wait(30)
    while not page.locator("li.note button").count():
        page.reload()  # the thread is held until the connection is closed
        page.wait_for_selector("li.note")
    assert "was not asked again" in shown(page, "li.note p")[0]
    assert len(app.calls) == 1
    app.goes_on.set()
    page.click("li.note button")  # Ask again
    page.wait_for_selector("li.ai:last-child p:not(:empty)")
    page.wait_for_selector("#stop", state="hidden")
    assert len(app.calls) == 2
    assert "Hello" in app.calls[1].prompt


def test_the_page_has_a_strict_policy(page: Any, service: Service) -> None:
    response = page.goto(service.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
