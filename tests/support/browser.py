"""A real browser for pages: Debian's chromium, driven by playwright."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; a test is skipped without it, and fails where everything is to be tested.

    The fixture that uses it must not outlive its module: playwright's event loop would be the
    running one of the tests that follow.
    """
    api: Any = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        problem = f"{CHROMIUM} is not installed; apt-get install chromium"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(problem)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Tab:
    """A page of the browser, and all that went wrong or out in it.

    Attributes:
        page: Playwright's page.
        requests: The addresses that it asked for, but its own.
        problems: Errors, dialogs, and what it wrote to the console, such as a violation of its
            content security policy.
    """

    page: Any
    requests: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])


@contextmanager
def tab(browser: Any, **options: Any) -> Iterator[Tab]:
    """A new tab in a context of its own; it must have asked for nothing and met no problem."""
    context = browser.new_context(**options)
    opened = Tab(context.new_page())
    page = opened.page
    page.on(
        "request",
        lambda request: request.is_navigation_request() or opened.requests.append(request.url),
    )
    page.on("console", lambda message: opened.problems.append(message.text))
    page.on("pageerror", lambda error: opened.problems.append(str(error)))
    page.on("dialog", lambda dialog: (opened.problems.append(dialog.message), dialog.dismiss()))
    yield opened
    context.close()
    assert (opened.requests, opened.problems) == ([], [])
