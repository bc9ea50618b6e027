"""The page in a real browser: live, hostile texts, widths, keys, and many requests."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.browser import chromium

from bailian_apps.emulator import RECORDINGS, Call, Emulator, Recorder, Session
from bailian_apps.emulator.models import ReceivedRequest
from bailian_apps.emulator.page import exchanges
from bailian_apps.emulator.server.local_server import Outcome
from bailian_apps.inspector import render_frames

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "\"><svg onload=alert(4)>'",
    "</textarea></pre><iframe srcdoc='<script>alert(5)</script>'></iframe>",
    "javascript:alert(6)",
    "{{ 7 * 7 }} ${7*7} {% raw %}",
    "\u2028\u2029\u202e\ufeff\u0000",
    "<base href=https://evil.example/><link rel=stylesheet href=https://evil.example/x.css>",
]
TEXT = " ".join(HOSTILE)


class Gate:
    """An app that says one word, and the rest when it may."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __call__(self, call: Call) -> Iterator[dict[str, Any]]:
        yield {"output": {"text": f"first {call.prompt} ", "finish_reason": "null"}}
        while not self.opened.wait(0.05):
            if call.disconnected.is_set():
                return
        yield {"output": {"text": "last", "finish_reason": "stop"}}


@dataclass
class Tab:
    """A tab of the browser, with what it asked for and what went wrong."""

    page: Any
    asked: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])

    def wait(self, expression: str, argument: Any = None) -> Any:
        return self.page.wait_for_function(expression, arg=argument)

    def rows(self) -> list[str]:
        return self.page.locator("#rows .row").all_inner_texts()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: Any) -> Callable[..., Any]:
    @contextmanager
    def tab(server: Emulator | Recorder, **options: Any) -> Iterator[Tab]:
        """A tab with the page; it asks no other server for anything, and meets no problem."""
        defaults = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US"}
        context = browser.new_context(**{**defaults, **options})
        opened = Tab(context.new_page())
        page = opened.page
        page.on("request", lambda request: opened.asked.append(request.url))
        page.on("console", lambda message: opened.problems.append(message.text))
        page.on("pageerror", lambda error: opened.problems.append(str(error)))
        page.on("dialog", lambda each: (opened.problems.append(each.message), each.dismiss()))
        page.goto(server.page_url)
        page.wait_for_selector("#connection[data-state=on]")
        yield opened
        context.close()
        own = (server.page_url, "data:,")
        assert [url for url in opened.asked if not url.startswith(own)] == []
        assert opened.problems == []

    return tab


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    apps = {"echo": lambda call: f"You said: {call.prompt}"}
    with Emulator(apps=apps, api_key="sk-only-this", render_run=render_frames) as cloud:
        yield cloud


@pytest.fixture
def cloud(server: Emulator) -> Iterator[Emulator]:
    yield server
    server.reset()


@pytest.fixture
def call(post: Callable[..., Any]) -> Callable[..., Any]:
    def call(cloud: Emulator, app_id: str = "echo", **kwargs: Any) -> Any:
        return post(cloud, app_id, **{"key": "sk-only-this", "stream": True, **kwargs})

    return call


def test_a_call_is_seen_while_it_streams(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any]
) -> None:
    gate = Gate()
    cloud.add_app("gate", gate)
    calling = threading.Thread(target=call, args=(cloud, "gate"), kwargs={"prompt": "杭州"})
    with tab(cloud) as opened:
        page = opened.page
        assert page.locator("#empty").is_visible()
        calling.start()
        row = page.locator("#rows .row")
        row.wait_for()
        assert "running" in row.inner_text()
        row.click()
        page.click("[aria-controls=view-response]")
        opened.wait("() => document.getElementById('response-text').textContent.includes('first')")
        assert page.locator("#count").inner_text() == "1 of 1 requests · 1 running"
        gate.opened.set()
        calling.join()
        opened.wait("() => document.querySelector('#rows .status').textContent === '200'")
        opened.wait("() => document.getElementById('response-text').textContent.includes('last')")
        page.click("[aria-controls=view-run]")
        page.frame_locator("#run").get_by_text("first 杭州 last").first.wait_for()
        assert page.frames[1].evaluate("() => window.origin") == "null"  # it is in a sandbox


@pytest.mark.parametrize("render", [None, render_frames], ids=["steps", "rendered"])
def test_hostile_texts_are_shown_and_never_run(
    tab: Callable[..., Any], call: Callable[..., Any], render: Any, tmp_path: Path
) -> None:
    name = "<img src=x onerror=alert(9)>"

    def hostile(call: Call) -> list[dict[str, Any]]:
        node = {"nodeId": TEXT, "nodeName": TEXT, "nodeType": TEXT, "nodeStatus": "success"}
        node["nodeResult"] = json.dumps({"result": TEXT})
        thought = {"response": json.dumps(node)}
        session = {"session_id": TEXT, "thoughts": [thought, {"action_name": TEXT}]}
        return [{"output": {**session, "text": TEXT, "finish_reason": "stop"}}]

    def failing(call: Call) -> str:
        raise ValueError(TEXT)

    apps = {name: hostile, "failing": failing}
    with Emulator(apps=apps, render_run=render) as cloud, tab(cloud) as opened:
        page = opened.page
        for app_id in ("%3Cimg%20src=x%20onerror=alert(9)%3E", "failing"):
            call(cloud, app_id, prompt=TEXT, biz_params={TEXT: TEXT}, headers={"X-Own": "<b>"})
        opened.wait("() => document.querySelectorAll('#rows .row.done').length === 2")
        assert name in opened.rows()[0]
        assert HOSTILE[0] in opened.rows()[0]
        for index in (0, 1):
            page.locator("#rows .row").nth(index).click()
            opened.wait(
                "n => document.getElementById('title').textContent.endsWith(n)", f"#{index + 1}"
            )
            for view in ("request", "response"):
                page.click(f"[aria-controls=view-{view}]")
                assert "alert(3)" in page.locator(f"#view-{view}").inner_text()
            page.click("[aria-controls=view-run]")
            page.frames[1].wait_for_load_state()
        for panel in ("apps", "sessions", "recordings", "playground"):
            page.click(f"#tab-{panel}")
        page.click("#tab-sessions")
        opened.wait("() => document.getElementById('sessions').textContent.includes('alert(3)')")
        page.fill("#filter", HOSTILE[2])
        page.click("#tab-playground")
        page.fill("#play-prompt", TEXT)
        page.fill("#play-biz", json.dumps({TEXT: TEXT}))
        page.select_option("#play-app", name)
        page.click("#play-run")
        opened.wait("() => document.getElementById('play-text').textContent.includes('alert(3)')")
        page.screenshot(path=tmp_path / "hostile.png")
        assert page.locator("main script, main svg, main img, main base, main link").count() == 0


@pytest.mark.parametrize("width", [380, 600, 820, 1280, 1600])
def test_everything_is_in_sight_at_every_width(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any], width: int, tmp_path: Path
) -> None:
    cloud.add_app("travel", RECORDINGS / "travel-workflow.jsonl")
    for prompt in ("杭州三日游", "a long prompt " * 30):
        call(cloud, "travel", prompt=prompt, parameters={"has_thoughts": True})
    scheme = "dark" if width in (600, 1280) else "light"
    with tab(cloud, viewport={"width": width, "height": 760}, color_scheme=scheme) as opened:
        page = opened.page
        page.locator("#rows .row").nth(1).wait_for()

        def check(name: str) -> None:
            page.screenshot(path=tmp_path / f"{width}-{name}.png")
            wide = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, name
            right = """() => Math.max(...[...document.querySelectorAll("main, #close, section:not([hidden])")]
                .map((each) => each.getBoundingClientRect().right))"""
            assert page.evaluate(right) <= width, name

        check("list")
        page.locator("#rows .row").nth(0).click()
        page.frame_locator("#run").get_by_text("大模型_1").first.wait_for()
        check("details")
        for panel in ("playground", "faults", "sessions", "apps", "recordings"):
            page.click(f"#tab-{panel}")
            check(panel)
        page.click("#close")
        assert page.locator("#grid").is_visible()
        back = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", back))) < 380) == (scheme == "dark")


def test_the_page_can_be_used_by_the_keyboard_alone(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any]
) -> None:
    for index in range(5):
        call(cloud, prompt=f"prompt {index}")
    with tab(cloud, permissions=["clipboard-read", "clipboard-write"]) as opened:
        page, keys = opened.page, opened.page.keyboard

        def title(number: int) -> None:
            ends = "n => document.getElementById('title').textContent === n"
            opened.wait(ends, f"echo #{number}")

        opened.wait("() => document.querySelectorAll('#rows .row').length === 5")
        keys.press("/")
        keys.type("prompt")
        keys.press("Enter")
        keys.press("Home")
        keys.press("Enter")
        title(1)
        keys.press("ArrowDown")
        keys.press("j")
        title(3)
        keys.press("End")
        keys.press("k")
        title(4)
        keys.press("c")
        page.wait_for_selector("#toast:not([hidden])")
        copied = page.evaluate("() => navigator.clipboard.readText()")
        assert "/api/v1/apps/echo/completion" in copied
        assert "prompt 3" in copied
        assert "sk-only-this" not in copied
        page.focus("#tab-details")
        keys.press("ArrowRight")
        assert page.locator("#playground").is_visible()
        keys.press("Escape")
        assert page.locator("#playground").is_hidden()
        assert page.evaluate("() => document.activeElement.id") == "grid"
        keys.press("p")
        keys.type("typed")
        keys.press("Control+Enter")
        opened.wait("() => document.getElementById('play-text').textContent === 'You said: typed'")


def test_the_playground_streams_checks_and_continues(
    cloud: Emulator, tab: Callable[..., Any]
) -> None:
    gate = Gate()
    cloud.add_app("gate", gate)
    cloud.add_app("turns", lambda call: f"{len(call.turns)} before, {call.biz_params}")
    with tab(cloud) as opened:
        page = opened.page

        def text(expected: str) -> None:
            opened.wait("t => document.getElementById('play-text').textContent === t", expected)

        page.select_option("#play-app", "turns")
        page.click("#play-run")
        assert page.locator("#play-problem").inner_text() == "Enter a prompt"
        page.fill("#play-prompt", "Hello")
        for written, problem in [("{city", "is not JSON"), ("[1]", "must be a JSON object")]:
            page.fill("#play-biz", written)
            page.click("#play-run")
            assert problem in page.locator("#play-problem").inner_text()
            assert page.locator("#play-biz").get_attribute("aria-invalid") == "true"
        assert cloud.requests == []
        page.fill("#play-biz", '{"city": "杭州"}')
        page.check("#play-continue")
        for number, answer in enumerate(("deltas", "whole", "json")):
            page.select_option("#play-answer", answer)
            page.click("#play-run")
            text(f"{number} before, {{'city': '杭州'}}")
            page.wait_for_selector("#play-show:not([hidden])")
        assert [request.stream for request in cloud.requests] == [True, True, False]
        page.uncheck("#play-continue")
        page.fill("#play-session", "")
        page.select_option("#play-app", "gate")
        page.select_option("#play-answer", "deltas")
        page.click("#play-run")
        text("first Hello ")
        gate.opened.set()
        text("first Hello last")
        page.click("#play-show")
        opened.wait("() => document.getElementById('title').textContent === 'gate #4'")
        page.click("#again")
        assert page.input_value("#play-prompt") == "Hello"
        assert json.loads(page.input_value("#play-biz")) == {"city": "杭州"}


@pytest.mark.parametrize(
    "mode", ["", "full_thoughts", "message_format", "message_format_plus", "agent_format"]
)
@pytest.mark.parametrize("answer", ["deltas", "whole", "json"])
def test_the_playground_shows_the_answer_of_a_workflow_in_every_mode(
    cloud: Emulator, tab: Callable[..., Any], mode: str, answer: str
) -> None:
    cloud.add_app("travel", RECORDINGS / "travel-workflow.jsonl")
    with tab(cloud) as opened:
        page = opened.page
        page.select_option("#play-app", "travel")
        page.fill("#play-prompt", "杭州")
        page.select_option("#play-mode", mode)
        page.select_option("#play-answer", answer)
        page.click("#play-run")
        page.wait_for_selector("#play-show:not([hidden])")
        assert page.locator("#play-text").inner_text() == "亲,对我的介绍还满意吗"


def test_faults_are_staged_and_cleared(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any]
) -> None:
    with tab(cloud) as opened:
        page = opened.page
        page.click("#tab-faults")
        page.fill("#fault-filter", "throttled_retry")
        assert page.locator("#fault-list li:visible").count() == 1
        page.fill("#fault-times", "2")
        page.click("#fault-list li:visible button")
        pending = "t => document.getElementById('pending').textContent.includes(t)"
        opened.wait(pending, "throttled_retry_now 2 left")
        assert call(cloud).status == 429
        opened.wait(pending, "throttled_retry_now 1 left")
        page.click("#clear-faults")
        opened.wait(pending, "No fault is staged")
        assert call(cloud).status == 200
        opened.wait("() => document.querySelectorAll('#rows .row.done').length === 2")
        page.fill("#filter", "throttled")
        opened.wait("() => document.querySelectorAll('#rows .row').length === 1")
        assert ["429" in row for row in opened.rows()] == [True]


def test_sessions_and_the_clock_are_seen_and_moved(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any]
) -> None:
    for prompt in ("one", "two"):
        call(cloud, prompt=prompt)
    with tab(cloud) as opened:
        page = opened.page
        page.click("#tab-sessions")
        count = "n => document.querySelectorAll('#session-list li:not(.none)').length === n"
        opened.wait(count, 2)
        page.locator("#session-list li").first.get_by_role("button", name="Forget").click()
        opened.wait(count, 1)
        (left,) = cloud.sessions.values()
        assert isinstance(left, Session)
        assert left.turns[0].user == "one"
        page.click("[data-advance='1800']")
        opened.wait("() => document.getElementById('clock-now').textContent === '1,800 s ahead'")
        page.fill("#clock-seconds", "1800")
        page.keyboard.press("Enter")
        opened.wait(count, 0)
        assert cloud.sessions == {}


def test_ten_thousand_requests_are_bounded_and_quick_to_filter(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any], tmp_path: Path
) -> None:
    store = cloud._cloud.exchanges
    piece = b'data:{"output":{"text":"' + b"x" * 5000 + b'"}}\n\n'
    for index in range(exchanges.KEPT_EXCHANGES + 500):
        body: Any = json.dumps({"input": {"prompt": f"question-{index}"}}).encode()
        request = ReceivedRequest(app_id="echo", body=body, headers={}, body_bytes=len(body))
        kept = store.begin(request, Outcome(status=200, complete=True))
        kept.add(piece)
        kept.end()
    assert store.kept_bytes <= exchanges.KEPT_BYTES
    with tab(cloud) as opened:
        page = opened.page
        opened.wait(
            "() => document.getElementById('count').textContent.startsWith('10,000 of 10,000')"
        )
        page.locator("#count", has_text="500 older").wait_for()
        assert "500 older ones are gone" in page.locator("#count").inner_text()
        assert page.locator("#rows .row").count() < 80
        assert "question-10499" in opened.rows()[-1]
        page.evaluate(  # two frames later the list is filtered
            """async () => {
              const field = document.getElementById("filter");
              field.value = "question-7777";
              field.dispatchEvent(new Event("input"));
              await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            }"""
        )
        assert ["question-7777" in row for row in opened.rows()] == [True]
        page.fill("#filter", "")
        page.focus("#grid")
        page.keyboard.press("Home")
        opened.wait("() => document.querySelector('#rows .prompt').textContent === 'question-500'")
        page.screenshot(path=tmp_path / "many.png")
        page.check("#follow")
        call(cloud, prompt="one more")
        opened.wait("() => document.getElementById('count').textContent.includes('501 older')")
        opened.wait("() => document.getElementById('rows').textContent.includes('one more')")
        page.click("#clear")
        page.locator("#empty").wait_for()
        assert len(store) == 0


def test_a_page_of_the_recorder_shows_calls_and_recordings(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any], tmp_path: Path
) -> None:
    with (
        Recorder(tmp_path / "out", upstream=cloud.base_url, render_run=render_frames) as proxy,
        tab(proxy) as opened,
    ):
        page = opened.page
        assert page.locator("#tab-playground").count() == 0
        call(proxy, prompt="杭州")
        page.locator("#rows .row.done").click()
        page.frame_locator("#run").get_by_text("You said: 杭州").first.wait_for()
        page.click("#tab-recordings")
        shown = "t => document.getElementById('recording-list').textContent.includes(t)"
        opened.wait(shown, proxy.recordings[0].name)


def test_a_page_connects_again_and_follows_a_reset(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any]
) -> None:
    with tab(cloud, locale="zh-CN") as opened:
        page = opened.page
        call(cloud, prompt="before")
        page.locator("#rows .row.done").get_by_text("before").wait_for()
        assert page.locator("#count").inner_text() == "1 / 1 个请求"
        cloud.reset()
        call(cloud, prompt="after")
        page.locator("#rows").get_by_text("after").wait_for()
        assert [("before" in row, "after" in row) for row in opened.rows()] == [(False, True)]


def test_clear_leaves_what_arrives_meanwhile_and_resets_the_details(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any]
) -> None:
    with tab(cloud) as opened:
        page = opened.page
        call(cloud, prompt="before")
        page.locator("#rows .row.done").click()
        opened.wait("() => document.getElementById('title').textContent === 'echo #1'")

        def answer_late(route: Any) -> None:
            response = route.fetch()
            call(cloud, prompt="meanwhile")
            late.append((route, response))

        late: list[Any] = []
        page.route("**/page/requests", answer_late)
        page.click("#clear")
        page.locator("#rows").get_by_text("meanwhile").wait_for()
        ((route, response),) = late
        route.fulfill(response=response)
        page.locator("#choose").wait_for()
        assert page.locator("#chosen").is_hidden()
        assert ["meanwhile" in row for row in opened.rows()] == [True]


def test_a_request_that_the_filter_hides_can_be_shown(
    cloud: Emulator, tab: Callable[..., Any]
) -> None:
    with tab(cloud) as opened:
        page = opened.page
        page.fill("#filter", "nothing has this")
        page.fill("#play-prompt", "Hello")
        page.click("#play-run")
        page.click("#play-show")
        opened.wait("() => document.getElementById('title').textContent === 'echo #1'")
        assert page.input_value("#filter") == ""
        opened.wait("() => document.querySelectorAll('#rows .row').length === 1")


def test_a_hidden_page_closes_its_stream_and_continues_it_later(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any]
) -> None:
    turn = """state => {
      Object.defineProperty(document, "hidden", { value: state, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with tab(cloud) as opened:
        page = opened.page
        call(cloud, prompt="seen")
        page.locator("#rows .row.done").get_by_text("seen").wait_for()
        with page.expect_event("requestfailed", lambda each: "/events" in each.url):
            page.evaluate(turn, True)
        call(cloud, prompt="unseen")
        assert len(opened.rows()) == 1
        page.evaluate(turn, False)
        page.locator("#rows .row.done").get_by_text("unseen").wait_for()
        assert len(opened.rows()) == 2
        assert re.search(r"/events\?last=\w+-\d+$", opened.asked[-1])


def test_the_details_of_a_slow_answer_are_asked_for_less_often(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any]
) -> None:
    ended = threading.Event()

    def growing(call: Call) -> Iterator[dict[str, Any]]:
        while not ended.wait(0.02):
            yield {"output": {"text": "x", "finish_reason": "null"}}
        yield {"output": {"text": "end", "finish_reason": "stop"}}

    cloud.add_app("growing", growing)
    calling = threading.Thread(target=call, args=(cloud, "growing"))
    with tab(cloud) as opened:
        page = opened.page
        page.evaluate(
            """() => {
              const own = window.fetch;
              window.asked = [];
              window.fetch = async (url, ...rest) => {
                const answer = await own(url, ...rest);
                if (!/requests\\/1$/.test(url)) return answer;
                const started = performance.now();
                await new Promise((done) => setTimeout(done, 300));
                window.asked.push([started, performance.now()]);
                return answer;
              };
            }"""
        )
        calling.start()
        page.locator("#rows .row.running").click()
        opened.wait("() => window.asked.length === 2")
        (_, first), (second, _) = page.evaluate("() => window.asked")
        assert second - first > 4 * 300 - 50
        ended.set()
        calling.join()
        opened.wait("() => document.getElementById('response-text').textContent.includes('end')")


def test_a_recording_leads_to_its_request(
    cloud: Emulator, tab: Callable[..., Any], call: Callable[..., Any], tmp_path: Path
) -> None:
    with Recorder(tmp_path / "out", upstream=cloud.base_url) as proxy, tab(proxy) as opened:
        page = opened.page
        call(proxy, prompt="one")
        call(proxy, prompt="two")
        page.click("#tab-recordings")
        line = page.locator("#recording-list li").filter(has_text=proxy.recordings[0].name)
        line.get_by_role("button", name="Show request").click()
        opened.wait("() => document.getElementById('title').textContent === 'echo #1'")
        for width in (600, 1000, 1600):
            page.set_viewport_size({"width": width, "height": 700})
            assert page.locator(".head .fault").is_hidden()
            tracks = page.evaluate(
                "() => getComputedStyle(document.querySelector('.head')).gridTemplateRows"
            )
            assert len(tracks.split()) == 1, width
