"""The documentation site: both languages build without a warning, and work in a browser."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from runpy import run_path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from docutils import nodes
from docutils.utils import new_document
from support.browser import chromium
from support.pages import LANGUAGES
from support.site import ROOT, Page, Site, built_site, read_page

DOCS = ROOT / "docs"
MODULES = ["", ".langchain", ".llamaindex", ".emulator", ".batch", ".inspector"]

needs_site = [pytest.mark.process, pytest.mark.timeout(1200)]


def names(language: str) -> set[str]:
    folder = DOCS / language
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}


@pytest.mark.parametrize(("language", "other"), [("en", "zh"), ("zh", "en")])
def test_every_page_has_one_in_the_other_language(language: str, other: str) -> None:
    assert sorted(names(language) - names(other)) == []


def test_no_space_is_left_between_chinese_lines() -> None:
    extension = run_path(str(DOCS / "_ext" / "chinese.py"))
    line_end, code = "\n", nodes.literal("", "code")
    text = nodes.paragraph(
        "",
        "",
        *(code, nodes.Text(line_end), code.deepcopy(), nodes.Text(line_end)),
        *(nodes.strong("", "“粗体”"), nodes.Text("")),
        *(nodes.Text(line_end), nodes.Text("乙，\nword\nword")),
    )
    document = new_document("page")
    document += [text, nodes.literal_block("", "甲\n乙")]
    extension["join_lines"](SimpleNamespace(srcdir=DOCS / "zh"), document)
    assert [each.astext() for each in document] == [
        "code\ncode“粗体”乙，word\nword",
        "甲\n乙",
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return built_site(tmp_path_factory.getbasetemp())


class TestBuiltPages:
    """What the files of the site hold."""

    pytestmark = needs_site

    def test_it_builds_without_a_warning(self, site: Site) -> None:
        assert (site.output, site.exit_code) == ("", 0)

    def test_it_holds_no_more_than_what_is_served(self, site: Site) -> None:
        assert {each.name for each in site.folder.iterdir()} == {*LANGUAGES, "index.html"}

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_every_link_leads_to_a_page_and_an_anchor(self, site: Site, language: str) -> None:
        page_at = cache(read_page)
        broken: list[str] = []
        for path in (site.folder / language).rglob("*.html"):
            page: Page = page_at(path)
            for link in page.links + page.loaded:
                address, _, anchor = unquote(link.partition("?")[0]).partition("#")
                if re.match(r"\w+:", address):
                    continue
                target = (path.parent / address).resolve() if address else path
                if not target.is_file() or (anchor and anchor not in page_at(target).ids):
                    broken.append(f"{path.relative_to(site.folder)}: {link}")
        assert broken == []

    def test_no_page_loads_anything_from_elsewhere(self, site: Site) -> None:
        for path in site.pages():
            page = read_page(path)
            assert [each for each in page.loaded if re.match(r"(\w+:)?//", each)] == [], path
            assert "iconify-icon" not in page.tags, path  # which asks api.iconify.design
        for path in site.folder.rglob("*.css"):
            assert re.findall(r"url\([\"']?https?:|@import", path.read_text("utf-8")) == [], path

    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize("module", MODULES)
    def test_every_public_name_is_described_once(
        self, site: Site, language: str, module: str
    ) -> None:
        module = f"bailian_apps{module}"
        pages = [read_page(path) for path in sorted((site.folder / language).glob("api*.html"))]
        for name in import_module(module).__all__:
            assert [f"{module}.{name}" in page.ids for page in pages].count(True) == 1, name

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_a_field_is_described_once(self, site: Site, language: str) -> None:
        text = (site.folder / language / "api.html").read_text(encoding="utf-8")
        for words, count in {
            "Seconds from one frame": 1,
            "Sampling temperature": 2,
        }.items():  # AppRequest
            assert text.count(words) == count, words
        assert "model_config" not in text


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def address(site: Site) -> Iterator[str]:
    handler = partial(QuietHandler, directory=str(site.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def new_page(browser: Any, address: str) -> Iterator[Any]:
    """Open pages; none may ask for anything of another host, or write to the console."""
    problems: list[str] = []
    contexts: list[Any] = []

    def new(**options: Any) -> Any:
        context = browser.new_context(base_url=address, **options)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "request",
            lambda request: (
                request.url.startswith((address, "data:")) or problems.append(request.url)
            ),
        )
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        return page

    yield new
    for context in contexts:
        context.close()
    assert problems == []


class TestBrowser:
    """What a reader sees of it."""

    pytestmark = needs_site

    @pytest.mark.parametrize(
        ("locale", "language"), [("zh-CN", "zh"), ("en-GB", "en"), ("fr-FR", "zh"), ("zh-TW", "zh")]
    )
    def test_the_start_page_chooses_the_language_of_the_browser(
        self, new_page: Any, locale: str, language: str
    ) -> None:
        page = new_page(locale=locale)
        page.goto("/")
        page.wait_for_url(f"**/{language}/index.html")

    @pytest.mark.parametrize(
        "name", ["index", "emulator", "decisions/0002-own-connections", "search"]
    )
    @pytest.mark.parametrize("width", [390, 1400])
    def test_the_switch_leads_to_the_same_page(self, new_page: Any, name: str, width: int) -> None:
        page = new_page(viewport={"width": width, "height": 800})
        page.goto(f"/en/{name}.html")
        page.click("a.language-switch")
        page.wait_for_url(f"**/zh/{name}.html")
        assert page.get_attribute("html", "lang") == "zh-CN"
        page.click("a.language-switch")
        page.wait_for_url(f"**/en/{name}.html")

    @pytest.mark.parametrize(
        ("language", "words", "name", "first"),  # among so many results
        [
            ("zh", "会话标记", "sessions", 2),
            ("zh", "流式输出", "streaming", 1),
            ("zh", "批量调用 进度日志", "batch", 5),
            ("zh", "如何取消", "background", 5),  # on no page does one follow the other
            ("zh", "怎么在 LangGraph 里恢复会话", "langgraph", 5),  # no page has all these words
            ("zh", "如何上传图片", "images-and-files", 3),  # only the changelog has them all
            ("zh", "怎么使用代理", "serving", 10),
            ("zh", "把应用作为智能体的工具", "llamaindex-agents", 5),
            ("zh", "session_id", "sessions", 40),
            ("zh", "BailianAppRetriever", "langchain-retriever", 10),
            ("en", "session_id", "sessions", 40),
            ("en", "session markers", "sessions", 5),
            ("en", "batch journal", "batch", 5),
            ("en", "how do I resume a session in LangGraph", "langgraph", 5),
            ("en", "can I test without the cloud", "testing", 5),
        ],
    )
    def test_a_search_finds_the_page(
        self, new_page: Any, language: str, words: str, name: str, first: int
    ) -> None:
        page = new_page()
        page.goto(f"/{language}/index.html")
        page.fill("form.searchbox input", words)
        page.press("form.searchbox input", "Enter")
        page.wait_for_url("**/search.html?*")
        page.wait_for_selector("#search-results .search-summary:not(:empty)")  # at the end
        page.wait_for_load_state("networkidle")
        found = page.eval_on_selector_all(
            "#search-results li a", "links => links.map(link => link.getAttribute('href'))"
        )
        assert f"{name}.html" in [link.partition("#")[0] for link in found[:first]]

    def test_a_query_is_cut_as_the_pages_are(self, new_page: Any) -> None:
        extension = run_path(str(DOCS / "_ext" / "chinese.py"))
        page = new_page()
        page.goto("/zh/search.html")
        for query, terms in {
            "会话标记": ["会话", "话标", "标记"],
            "用session_id续聊，Key！": ["用", "session_id", "续聊", "key"],
            "API Key": ["api", "key"],
            "葡萄牙语": ["葡萄", "萄牙", "牙语"],
            "如何": ["如何"],
            "ＡＰＩ 100 次": ["ａｐｉ", "100", "次"],
            "": [],
        }.items():
            assert extension["terms"](query) == terms
            assert page.evaluate("query => splitQuery(query)", query) == terms

    @pytest.mark.parametrize(
        "search", ["zh/search.html?q=葡萄牙语", "en/search.html?q=quantum+mechanics+lecture"]
    )
    def test_a_search_for_what_is_nowhere_finds_nothing(self, new_page: Any, search: str) -> None:
        page = new_page()
        page.goto(f"/{search}")
        page.wait_for_selector("#search-results .search-summary:not(:empty)")  # at the end
        assert page.locator("#search-results li").count() == 0

    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1400, "dark")])
    def test_no_page_is_wider_than_its_window(
        self, new_page: Any, site: Site, language: str, width: int, scheme: str
    ) -> None:
        page = new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        too_wide: list[str] = []
        for path in sorted((site.folder / language).glob("*.html")):
            page.goto(f"/{language}/{path.name}", wait_until="domcontentloaded")
            if page.evaluate("document.documentElement.scrollWidth") > width:
                too_wide.append(path.name)
            assert page.evaluate("document.documentElement.classList.contains('dark')") == (
                scheme == "dark"
            )
        assert too_wide == []

    def test_the_color_mode_is_remembered(self, new_page: Any) -> None:
        page = new_page(color_scheme="light")
        page.goto("/zh/index.html")
        is_dark = "document.documentElement.classList.contains('dark')"
        for _ in range(3):  # auto, light, dark
            if not page.evaluate(is_dark):
                page.click("button.js-theme")
        assert page.evaluate(is_dark)
        page.goto("/en/emulator.html")
        assert page.evaluate(is_dark)
