"""What the server of the page answers and keeps: its rule for web pages, secrets, bounds."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from bailian_apps.emulator import RECORDINGS, Call, Emulator, Recorder
from bailian_apps.emulator.faults.table import FAULTS
from bailian_apps.emulator.models import ReceivedRequest
from bailian_apps.emulator.page import exchanges, reading
from bailian_apps.emulator.page.exchanges import Exchange, Exchanges
from bailian_apps.emulator.page.reading import Answer
from bailian_apps.emulator.server.local_server import Outcome
from bailian_apps.inspector import render_frames

TOKEN = "t-0123456789-secret"


def parrot(call: Call) -> Any:
    """Repeat what it was sent, in small deltas."""
    text = json.dumps(call.request.input, ensure_ascii=False)
    for start in range(0, len(text), 7):
        yield {"output": {"text": text[start : start + 7], "finish_reason": "null"}}
    yield {"output": {"text": "", "finish_reason": "stop"}}


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with Emulator(apps={"app": parrot}, render_run=render_frames) as cloud:
        yield cloud


@pytest.fixture
def cloud(server: Emulator) -> Iterator[Emulator]:
    yield server
    server.reset()


@pytest.fixture
def client(cloud: Emulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cloud.page_url, trust_env=False) as client:
        yield client


@contextmanager
def listening(client: httpx.Client, last: str | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of the page's stream: `id`, `event` and `data`."""
    headers = {"last-event-id": last} if last else {}
    with client.stream("GET", "/__emulator__/page/events", headers=headers) as answer:

        def read() -> Iterator[dict[str, Any]]:
            fields: dict[str, Any] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                else:
                    yield {**fields, "data": json.loads(fields["data"])}
                    fields = {}

        yield read()


def events(client: httpx.Client, count: int, last: str | None = None) -> list[dict[str, Any]]:
    with listening(client, last) as found:
        return list(islice(found, count))


def ended(client: httpx.Client) -> list[dict[str, Any]]:
    """The rows of all requests, when all have ended: a client has its answer a little earlier."""
    rows: dict[int, dict[str, Any]] = {}
    with listening(client) as found:
        for event in found:
            if event["event"] == "rows":
                rows |= {row["n"]: row for row in event["data"]}
            if rows and all(row["state"] != "running" for row in rows.values()):
                return list(rows.values())
    raise AssertionError("the stream has ended")


def rows_of(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for each in found if each["event"] == "rows" for row in each["data"]]


def test_the_page_loads_nothing_from_elsewhere_and_cannot_be_framed(client: httpx.Client) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "<script>" not in page.text
    assert "style=" not in page.text
    run = client.get("/__emulator__/page/requests/1/run").headers["content-security-policy"]
    assert "sandbox allow-scripts" in run
    assert "frame-ancestors 'self'" in run
    assert "allow-same-origin" not in run


@pytest.mark.parametrize(
    ("accepted", "language"),
    [("", "en"), ("zh-CN,zh;q=0.9", "zh-CN"), ("ZH", "zh-CN"), ("de,zh;q=0.5", "en")],
)
def test_the_page_speaks_the_first_language_of_the_browser(
    client: httpx.Client, accepted: str, language: str
) -> None:
    page = client.get("/", headers={"accept-language": accepted}).text
    assert f'<html lang="{language}">' in page
    assert ("提示词" in page) == (language == "zh-CN")


PATHS = [
    ("GET", "/"),
    ("GET", "/__emulator__/page/events"),
    ("GET", "/__emulator__/page/requests/1"),
    ("DELETE", "/__emulator__/page/requests"),
    ("POST", "/__emulator__/page/apps/app/completion"),
]


@pytest.mark.parametrize(("method", "path"), PATHS, ids=[path for _, path in PATHS])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "evil.example:8790"},
        {"host": "127.0.0.1.evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ],
    ids=str,
)
def test_a_foreign_page_gets_nothing_of_the_page(
    cloud: Emulator, client: httpx.Client, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = client.request(method, path, headers=headers)
    assert answer.status_code == 403
    assert not cloud.requests


@pytest.mark.parametrize("origin", ["http://localhost:5173", "http://127.0.0.1:1"])
def test_another_page_of_this_machine_changes_nothing_by_the_page(
    cloud: Emulator, client: httpx.Client, post: Callable[..., Any], origin: str
) -> None:
    post(cloud)
    for method, path in PATHS[3:]:
        assert client.request(method, path, headers={"origin": origin}).status_code == 403
    assert len(cloud._cloud.exchanges) == 1


@pytest.mark.parametrize(
    ("server", "peer"),
    [("192.168.1.5", "192.168.1.9"), ("127.0.0.1", "192.168.1.9"), ("172.17.0.2", "127.0.0.1")],
)
def test_another_machine_does_not_get_the_page(server: str, peer: str) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    emulator = Emulator(apps={}, host="0.0.0.0")
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", b"192.168.1.5:8790")],
        "server": (server, 8790),
        "client": (peer, 50000),
    }
    asyncio.run(emulator._app(scope, receive, send))
    assert sent[0]["status"] == 403


def test_secrets_are_masked_wherever_the_page_has_them(
    cloud: Emulator, client: httpx.Client, post: Callable[..., Any]
) -> None:
    biz_params = {"user_defined_tokens": {"tool": {"user_token": TOKEN}}, "city": "杭州"}
    parameters = {"incremental_output": True}
    for stream in (True, False):
        answer = post(
            cloud, stream=stream, key="sk-secret-key", biz_params=biz_params, parameters=parameters
        )
        assert TOKEN in answer.content.decode() or stream
    shown = [json.dumps(ended(client), ensure_ascii=False)]
    for number in (1, 2):
        shown.append(client.get(f"/__emulator__/page/requests/{number}").text)
        shown.append(client.get(f"/__emulator__/page/requests/{number}/run").text)
    shown.append(client.get("/__emulator__/page/sessions").text)
    assert shown[-1].count("user_token") == 2
    for each in shown:
        assert TOKEN not in each
        assert TOKEN[:8] not in each
        assert "sk-secret-key" not in each
    (stream_row, _) = ended(client)
    assert "杭州" in stream_row["biz"]
    details = client.get("/__emulator__/page/requests/1").json()
    assert details["response"]["text"].count("event:result") == details["frames"] > 5
    assert '"Authorization: Bearer $DASHSCOPE_API_KEY"' in details["curl"]


def test_whatever_a_fault_sends_can_be_shown(
    cloud: Emulator, client: httpx.Client, post: Callable[..., Any]
) -> None:
    for fault in (name for name in FAULTS if not name.startswith("stall")):
        cloud.reset()
        cloud.fail(fault)
        try:
            received = post(cloud, stream=True).content.decode()
        except (OSError, HTTPException, UnicodeDecodeError):  # as the fault has it
            received = None
        (row,) = ended(client)
        details = client.get("/__emulator__/page/requests/1").json()
        assert row["fault"] == details["fault"] == fault
        assert client.get("/__emulator__/page/requests/1/run").status_code == 200, fault
        if received is not None and fault not in ("gzip", "large_frame"):
            shown = details["response"]["text"]
            assert shown == received or json.loads(shown) == json.loads(received), fault


def test_without_a_renderer_the_steps_are_listed(post: Callable[..., Any]) -> None:
    apps = {"app": RECORDINGS / "travel-workflow.jsonl"}

    def broken(*_: object, **__: object) -> str:
        raise RuntimeError("no <picture>")

    for render, problem in [(None, ""), (broken, "RuntimeError: no &lt;picture&gt;")]:
        with (
            Emulator(apps=apps, render_run=render) as cloud,
            httpx.Client(base_url=cloud.page_url, trust_env=False) as client,
        ):
            post(cloud, stream=True, parameters={"has_thoughts": True})
            run = client.get("/__emulator__/page/requests/1/run").text
        names = re.findall("<td>(.*?)</td>", run)
        assert names == [
            *("开始", "success", "大模型_1", "success"),
            *("大模型_2", "success", "结束", "success"),
        ]
        assert problem in run


def test_a_page_that_connects_again_gets_what_changed_since(
    cloud: Emulator, client: httpx.Client, post: Callable[..., Any]
) -> None:
    post(cloud, prompt="one")
    ended(client)
    first = events(client, 2)
    assert [each["event"] for each in first] == ["clear", "rows"]
    post(cloud, prompt="two")
    ended(client)
    again = events(client, 2, first[-1]["id"])
    assert [each["event"] for each in again] == ["rows", "state"]
    assert [row["prompt"] for row in rows_of(again)] == ["two"]
    cloud.reset()
    post(cloud, prompt="three")
    ended(client)
    reset = events(client, 2, again[0]["id"])
    assert [each["event"] for each in reset] == ["clear", "rows"]
    assert [row["prompt"] for row in rows_of(reset)] == ["three"]


def test_the_state_has_apps_faults_and_sessions(
    cloud: Emulator, client: httpx.Client, post: Callable[..., Any]
) -> None:
    cloud.add_app("recorded", Path(__file__).parents[1] / "recordings" / "workflow-timed.jsonl")
    cloud.fail("throttled", nth=3, times=2)
    post(cloud)
    ended(client)
    cloud.advance(60)
    state = next(each["data"] for each in events(client, 3) if each["event"] == "state")
    assert [(app["id"], app["kind"]) for app in state["apps"]] == [
        ("app", "function"),
        ("recorded", "recording"),
    ]
    assert state["apps"][1]["modes"][0] == "full_thoughts"
    (fault,) = state["faults"]
    assert (fault["name"], fault["nth"], fault["left"]) == ("throttled", 3, 2)
    assert (state["sessions"], state["rounds"], state["clock_s"]) == (1, 1, 60)


def exchange(store: Exchanges, pieces: int, size: int) -> Exchange:
    body: Any = b'{"input":{"prompt":"hi"}}'
    kept = store.begin(ReceivedRequest(app_id="app", body=body, headers={}), Outcome())
    for index in range(pieces):
        kept.add(b"%08d" % index + bytes(size - 8))
    kept.end()
    return kept


def test_the_memory_of_a_server_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 4_000_000
    monkeypatch.setattr(exchanges, "KEPT_BYTES", limit)
    monkeypatch.setattr(exchanges, "MAX_ANSWER_BYTES", limit // 4)
    tracemalloc.start()
    store = Exchanges()
    for _ in range(1000):
        exchange(store, pieces=20, size=700)  # 14 MB in all
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert store.kept_bytes <= limit
    assert 0.7 * limit < held < 1.3 * limit
    assert store.dropped == 1000 - len(store) == store.first_number - 1
    assert [each.number for each in store.since(0)][-1] == 1000


def test_of_an_answer_without_end_only_the_start_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "MAX_ANSWER_BYTES", 100_000)
    store = Exchanges()
    long = exchange(store, pieces=1000, size=1000)
    assert long.is_cut
    assert store.kept_bytes < 110_000


def test_the_number_of_kept_exchanges_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "KEPT_EXCHANGES", 10)
    store = Exchanges()
    body: Any = {}
    running = store.begin(ReceivedRequest(app_id="app", body=body, headers={}), Outcome())
    for _ in range(15):
        exchange(store, pieces=1, size=100)
    running.add(b"late")  # what is dropped grows no more
    running.end()
    assert (len(store), store.dropped, store.first_number) == (10, 6, 7)
    assert running.pieces == []
    assert store.running() == []
    assert len(list(islice(store.since(0), 20))) == 10


def test_the_recorder_has_the_page_and_relays_the_rest(
    tmp_path: Path, post: Callable[..., Any]
) -> None:
    with (
        Emulator(apps={"app": parrot}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url, render_run=render_frames) as proxy,
        httpx.Client(base_url=proxy.page_url, trust_env=False) as client,
    ):
        answer = post(proxy, stream=True, biz_params={"api_token": TOKEN})
        ended(client)
        assert 'data-kind="recorder"' in client.get("/").text
        found = events(client, 3)
        (row,) = rows_of(found[:2])
        details = client.get("/__emulator__/page/requests/1")
        assert client.get("/__emulator__/requests").status_code == 200  # the upstream's own
        assert client.post("/__emulator__/page/apps/app/completion").status_code == 404
    assert answer.status == 200
    assert (row["app"], row["state"], row["status"]) == ("app", "done", 200)
    assert found[2]["data"]["recordings"] == [{"file": proxy.recordings[0].name}]
    assert details.json()["frames"] > 5
    assert TOKEN not in details.text


def test_the_page_of_the_recorder_masks_what_recordings_do(
    tmp_path: Path, post: Callable[..., Any]
) -> None:
    """The key, and the names that were added; an upstream may repeat both."""

    def repeat(call: Call) -> str:
        return f"sk-my-real-key calls {call.biz_params['phone']}"

    with (
        Emulator(apps={"app": repeat}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url, mask=["phone"]) as proxy,
        httpx.Client(base_url=proxy.page_url, trust_env=False) as client,
    ):
        biz_params = {"phone": "13800001111"}
        prompt = "sk-my-real-key 13800001111"
        post(proxy, key="sk-my-real-key", prompt=prompt, biz_params=biz_params)
        shown = [json.dumps(ended(client))]
        shown += [client.get(f"/__emulator__/page/requests/1{end}").text for end in ("", "/run")]
    assert "*** calls ***" in shown[1]
    for each in shown:
        assert "my-real-key" not in each
        assert "13800001111" not in each


def shown_answer(content: bytes, coding: str, piece: int = 7) -> Answer:
    body: Any = b"{}"
    kept = Exchanges().begin(ReceivedRequest(app_id="app", body=body, headers={}), Outcome())
    kept.coding = coding
    for start in range(0, len(content), piece):
        kept.add(content[start : start + piece])
    return Answer(kept)


STREAM = b'id:1\nevent:result\ndata:{"output":{"text":"hi"}}\n\n' * 2


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_a_compressed_answer_is_shown_as_text(
    coding: str, compress: Callable[[bytes], bytes]
) -> None:
    content = compress(STREAM)
    assert shown_answer(content, coding).text == STREAM.decode()
    assert len(shown_answer(content, coding).frames) == 2
    assert shown_answer(content[:-9], coding).text.startswith("id:1")
    assert shown_answer(b"not compressed", coding).text == f"({coding}, 14 bytes)"
    assert shown_answer(b"\x8b\x03", "br").text == "(br, 2 bytes)"


def test_a_compressed_answer_expands_to_no_more_than_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "MAX_ANSWER_BYTES", 1000)
    content = gzip.compress(bytes(1_000_000))
    assert len(shown_answer(content, "gzip", piece=len(content)).text) == 1000


def test_the_recorder_shows_what_its_upstream_compressed(
    tmp_path: Path, post: Callable[..., Any]
) -> None:
    with (
        Emulator(apps={"app": parrot}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
        httpx.Client(base_url=proxy.page_url, trust_env=False) as client,
    ):
        cloud.fail("gzip")
        post(proxy, stream=True)
        ended(client)
        details = client.get("/__emulator__/page/requests/1").json()
    assert details["frames"] > 3
    assert details["response"]["text"].startswith("id:1\nevent:result")


def test_a_long_request_leaves_room_for_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "MAX_ANSWER_BYTES", 10_000)
    store = Exchanges()
    body: Any = b'{"input":{}}'
    request = ReceivedRequest(app_id="app", body=body, headers={}, body_bytes=50_000)
    kept = store.begin(request, Outcome())
    for _ in range(10):
        kept.add(bytes(100))
    assert not kept.is_cut
    assert len(kept.pieces) == 10
    kept.add(bytes(50_000))  # one piece that is too long
    assert kept.is_cut
    assert sum(len(content) for _, content in kept.pieces) <= 10_000
    assert kept.answer_bytes == 51_000
