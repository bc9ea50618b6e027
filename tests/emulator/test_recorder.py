"""The recorder relays exchanges unchanged, and records them without secrets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import certifi
import dashscope
import pytest
import trustme
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.wire import SSE_HEAD, Do, WireServer, answer, chunk, event, frame, stream

from bailian_apps import BailianApp, BailianError, StreamInterruptedError
from bailian_apps.emulator import Emulator, Recorder, load_apps, load_recording
from bailian_apps.emulator.recorder.scrubbing import Scrubber

KEY = "sk-0123456789abcdef0123456789abcdef"
TOKEN = 'tok/en "7"\\ü'
TRAVEL = Path(__file__).parents[1] / "recordings" / "workflow-timed.jsonl"


def body_of(prompt: str = "你好", **fields: Any) -> bytes:
    parameters = {"incremental_output": True, "has_thoughts": True}
    body = {"model": "", "input": {"prompt": prompt, **fields}, "parameters": parameters}
    return json.dumps(body).encode()


@contextmanager
def exchange(
    base_url: str, body: bytes, *, sse: bool = True, app_id: str = "app", key: str = KEY
) -> Iterator[socket.socket]:
    """Send a request with a bare socket, which then has the answer's bytes."""
    url = urlsplit(base_url)
    lines = [
        f"POST {url.path}/apps/{app_id}/completion HTTP/1.1",
        f"Host: {url.netloc}",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cookie: session=cookie-secret",
        "Connection: close",
        *(["X-DashScope-SSE: enable"] if sse else []),
    ]
    with socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=60) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        yield client


def read_all(client: socket.socket) -> bytes:
    parts = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts += part
    return bytes(parts)


def parsed(raw: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool]:
    """The status, the headers of the whole way, the content, and whether that was all of it.

    How a body is cut into chunks is each connection's own affair.
    """
    head, _, rest = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.split(b"\r\n")
    headers = [
        (name.lower(), value.strip()) for name, _, value in (i.partition(b":") for i in lines)
    ]
    ours = {b"transfer-encoding", b"connection"}
    kept = sorted(header for header in headers if header[0] not in ours)
    content, whole = rest, True
    if (b"transfer-encoding", b"chunked") in headers:
        content, whole = b"", False
        while size := rest.partition(b"\r\n")[0]:
            length = int(size, 16)
            rest = rest.partition(b"\r\n")[2]
            if length == 0:
                whole = True
                break
            content += rest[:length]
            rest = rest[length + 2 :]
    elif b"content-length" in dict(headers):
        whole = len(content) == int(dict(headers)[b"content-length"])
    return int(status_line.split()[1]), kept, content, whole


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


HTML = "<html>Bad Gateway 网关</html>".encode("gbk")
ANSWERS: dict[str, list[bytes | Do]] = {
    "stream": stream(event(frame("你")), event(frame("好", "stop"))),
    "error event": stream(event(frame("你")), event({"code": "Oops"}, name="error", status=500)),
    "json": answer("200 OK", json.dumps(frame("你好", "stop")).encode()),
    "throttled": answer(
        "429 Too Many Requests",
        b'{"code":"Throttling","message":"m"}',
        "application/json",
        "Retry-After: 7",
    ),
    "html": answer("502 Bad Gateway", HTML, "text/html; charset=gbk", "X-Trace: a", "X-Trace: b"),
    "empty 503": answer("503 Service Unavailable", b""),
    "redirect": answer("302 Found", b"", "text/plain", "Location: http://127.0.0.1:1/"),
    "cookies": answer(
        "200 OK", json.dumps(frame("a", "stop")).encode(), "application/json", "Set-Cookie: a=b"
    ),
    "odd lines": stream(
        b"\xef\xbb\xbf: hi\n\n", b"data: [DONE]\n\n", b"event:done\r\ndata:\xff\r\n\r\n"
    ),
    "cut between frames": [SSE_HEAD, chunk(event(frame("你"))), Do.CLOSE],
    "cut inside a frame": [
        SSE_HEAD,
        chunk(event(frame("你"))),
        chunk(event(frame("好"))[:30]),
        Do.CLOSE,
    ],
    "cut inside json": [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
        Do.CLOSE,
    ],
    "no end": [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        event(frame("a", "stop")),
        Do.CLOSE,
    ],
    "dropped": [Do.CLOSE],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_client_gets_the_same_bytes_as_without_the_recorder(name: str, tmp_path: Path) -> None:
    with WireServer(*[[*ANSWERS[name], Do.CLOSE]] * 2) as server:
        with exchange(server.base_url, body_of()) as client:
            directly = read_all(client)
        with (
            Recorder(tmp_path, upstream=server.base_url) as proxy,
            exchange(proxy.base_url, body_of()) as client,
        ):
            through = read_all(client)
        assert server.posts[0] == server.posts[1]
    if directly:
        assert parsed(through) == parsed(directly)
    else:
        assert not through
    (path,) = proxy.recordings
    with Emulator(apps={"app": path}) as cloud, exchange(cloud.base_url, body_of()) as client:
        replayed = read_all(client)
    if not directly:
        assert not replayed
        return
    status, _, content, whole = parsed(directly)
    assert (parsed(replayed)[0], parsed(replayed)[3]) == (status, whole)
    payloads = [line for line in content.split(b"\n") if line.startswith(b"data:{")]
    if name.startswith("cut inside json"):
        assert parsed(replayed)[2] in (b"", content)
    elif payloads:
        ids = ("request_id", "session_id")
        assert [
            _without(ids, line)
            for line in parsed(replayed)[2].split(b"\n")
            if line.startswith(b"data:{")
        ] == [_without(ids, line) for line in payloads]
    elif not content.startswith(b"{"):
        assert parsed(replayed)[2] == content


def _without(names: tuple[str, ...], line: bytes) -> Any:
    try:
        payload = json.loads(line[5:])
    except ValueError:
        return line
    for fields in (payload, payload.get("output", {})):
        for name in names:
            fields.pop(name, None)
    return payload


def test_the_upstream_sees_the_request_of_the_client(tmp_path: Path) -> None:
    with WireServer([*ANSWERS["json"], Do.CLOSE], [*ANSWERS["json"], Do.CLOSE]) as server:
        with exchange(server.base_url, body_of()) as client:
            read_all(client)
        with Recorder(tmp_path, upstream=server.base_url) as proxy:
            with exchange(proxy.base_url, body_of()) as client:
                read_all(client)
            host = urlsplit(proxy.base_url).netloc.encode()
        direct, through = (
            {
                line.partition(b":")[0].lower(): line.partition(b":")[2].strip()
                for line in head.split(b"\r\n")[1:]
                if line
            }
            for head in server.heads
        )
        lines = [head.split(b"\r\n")[0] for head in server.heads]
    assert lines[0] == lines[1]
    assert through.pop(b"accept-encoding") == b"identity"
    assert host not in through.values()
    for headers in (direct, through):
        headers.pop(b"connection", None)
    assert through == direct


def test_a_frame_is_relayed_as_soon_as_it_arrives(tmp_path: Path) -> None:
    go_on = threading.Event()

    def app(call: Any) -> Iterator[dict[str, Any]]:
        yield frame("one")
        assert go_on.wait(60)
        yield frame("two", "stop")

    with (
        Emulator(apps={"app": app}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
        exchange(proxy.base_url, body_of()) as client,
    ):
        seen = b""
        while b'"one"' not in seen:
            seen += client.recv(65536)
        assert proxy.recordings == []
        assert list(tmp_path.iterdir()) == []  # nothing is there in part
        go_on.set()
        assert b'"two"' in read_all(client)
        (path,) = proxy.recordings  # it is written when the client sees the end
    offsets = [each["offset_ms"] for each in records(path)[1:]]
    assert offsets == sorted(offsets)
    assert len(offsets) == 2


def test_a_disconnect_of_the_client_ends_the_call_upstream(tmp_path: Path) -> None:
    with (
        WireServer([SSE_HEAD, chunk(event(frame("你"))), Do.STALL]) as server,
        Recorder(tmp_path, upstream=server.base_url) as proxy,
    ):
        with exchange(proxy.base_url, body_of()) as client:
            while b"data:" not in client.recv(65536):
                pass
        assert server.gone.wait(60)
    (path,) = proxy.recordings
    assert records(path)[-1]["cut"] == "client"
    with Emulator(apps={"app": path}) as cloud:
        app = BailianApp(app_id="app", api_key="any-key", base_url=cloud.base_url)
        with pytest.raises(StreamInterruptedError) as caught:
            app.invoke("hi")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "你"


def test_a_disconnect_after_the_last_frame_is_not_a_cut(tmp_path: Path) -> None:
    with (
        WireServer([SSE_HEAD, chunk(event(frame("你", "stop"))), Do.STALL]) as server,
        Recorder(tmp_path, upstream=server.base_url) as proxy,
    ):
        with exchange(proxy.base_url, body_of()) as client:
            while b"data:" not in client.recv(65536):
                pass
        assert server.gone.wait(60)
    assert [each.get("cut") for each in records(proxy.recordings[0])] == [None, None]


def test_stopping_cuts_open_exchanges_and_records_them(tmp_path: Path) -> None:
    with WireServer([SSE_HEAD, chunk(event(frame("你"))), Do.STALL]) as server:
        proxy = Recorder(tmp_path, upstream=server.base_url)
        proxy.start()
        with exchange(proxy.base_url, body_of()) as client:
            while b"data:" not in client.recv(65536):
                pass
            proxy.stop()
            proxy.stop()
            assert not parsed(SSE_HEAD + read_all(client))[3]
    assert records(proxy.recordings[0])[-1]["cut"] == "recorder"


@pytest.mark.usefixtures("requests_of_this_sdk")
def test_the_sdk_gets_the_same_frames(tmp_path: Path) -> None:
    def frames_at(base_url: str) -> list[Any]:
        answers = dashscope.Application.call(
            app_id="travel",
            prompt="杭州",
            api_key=KEY,
            stream=True,
            incremental_output=True,
            has_thoughts=True,
            base_address=base_url,
        )
        return [(each.status_code, each.request_id, each.output, each.usage) for each in answers]

    with Emulator(apps={"travel": TRAVEL}) as first:
        directly = frames_at(first.base_url)
    with (
        Emulator(apps={"travel": TRAVEL}) as second,
        Recorder(tmp_path, upstream=second.base_url) as proxy,
    ):
        assert frames_at(proxy.base_url) == directly
    with Emulator(apps={"travel": proxy.recordings[0]}) as third:
        assert frames_at(third.base_url) == directly


def test_a_recording_keeps_the_pace(tmp_path: Path, sleep: Any) -> None:
    with (
        Emulator(apps={"travel": TRAVEL}, pace=20) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
    ):
        BailianApp(app_id="travel", api_key=KEY, base_url=proxy.base_url).invoke("hi")
    recording = load_recording(proxy.recordings[0])
    recorded = [each.offset_ms for each in recording.frames]
    meant = [each.offset_ms / 20 for each in load_recording(TRAVEL).frames]
    assert all(late >= due for late, due in zip(recorded, meant, strict=True))
    assert recording.request is not None
    assert (recording.request.app_id, recording.request.prompt) == ("travel", "hi")
    with Emulator(apps={"travel": recording}, pace=1, sleep=sleep) as cloud:
        BailianApp(app_id="travel", api_key=KEY, base_url=cloud.base_url).invoke("hi")
    assert sum(sleep.waits) * 1000 == pytest.approx(recorded[-1])


def test_files_are_private_numbered_and_named(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er"
    out.mkdir(parents=True)
    (out / "0041-other-json.jsonl").write_text("kept")
    with (
        WireServer(
            [*ANSWERS["stream"], Do.CLOSE], [*ANSWERS["throttled"], Do.CLOSE], [Do.CLOSE]
        ) as server,
        Recorder(out, upstream=server.base_url) as proxy,
    ):
        for app_id in ("app", "a%2F..%2Fb", "app"):
            with exchange(proxy.base_url, body_of(), app_id=app_id) as client:
                read_all(client)
    names = [path.name for path in proxy.recordings]
    assert names == ["0042-app-stream.jsonl", "0043-a_b-429.jsonl", "0044-app-lost.jsonl"]
    assert {path.stat().st_mode & 0o777 for path in proxy.recordings} == {0o600}
    assert sorted(each.name for each in out.iterdir()) == ["0041-other-json.jsonl", *names]
    assert (out / "0041-other-json.jsonl").read_text() == "kept"


@pytest.mark.parametrize("app_id", ["..", "%2e%2e%2f..%2fx", "%00%0a%1b[31m", "a" * 300, "应用"])
def test_a_hostile_app_id_stays_in_the_folder(app_id: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quoted = quote(app_id, safe="%.[")
    with (
        WireServer([*ANSWERS["json"], Do.CLOSE]) as server,
        Recorder(out, upstream=server.base_url) as proxy,
        exchange(proxy.base_url, body_of(), app_id=quoted) as client,
    ):
        read_all(client)
    (path,) = out.iterdir()
    assert re.fullmatch(r"0001-[A-Za-z0-9_]{1,80}-json\.jsonl", path.name)
    assert records(path)[0]["request"]["app_id"] == unquote(quoted)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert list(load_apps(out)) == [unquote(quoted)]


def test_recorders_that_share_a_folder_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "0001-app-json.jsonl").symlink_to(tmp_path / "planted")
    calls = 8

    def call(proxy: Recorder, prompt: str) -> None:
        with exchange(proxy.base_url, body_of(prompt), sse=False) as client:
            assert parsed(read_all(client))[3]

    with (
        Emulator(apps={"app": lambda call: "ok"}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as one,
        Recorder(tmp_path, upstream=cloud.base_url) as two,
    ):
        prompts = {each: [f"{each} {n}" for n in range(calls)] for each in (0, 1)}
        threads = [
            threading.Thread(target=call, args=((one, two)[each], prompt))
            for each, asked in prompts.items()
            for prompt in asked
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(set(one.recordings)) == len(set(two.recordings)) == calls
    written = sorted(path for path in tmp_path.iterdir() if not path.is_symlink())
    assert written == sorted([*one.recordings, *two.recordings])
    assert len({path.name[:4] for path in written}) == 2 * calls
    recorded = [records(path)[0]["request"]["body"]["input"]["prompt"] for path in written]
    assert sorted(recorded) == sorted(prompts[0] + prompts[1])


def test_recorders_that_take_turns_have_numbers_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "0002-notes.txt").write_text("taken, too")
    with (
        Emulator(apps={"a": lambda call: "ok", "b": lambda call: "ok"}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as one,
        Recorder(tmp_path, upstream=cloud.base_url) as two,
    ):
        for proxy, app_id in [(one, "a"), (two, "b"), (two, "b"), (one, "a"), (two, "b")]:
            with exchange(proxy.base_url, body_of(), sse=False, app_id=app_id) as client:
                assert parsed(read_all(client))[3]
    assert [each.name for each in one.recordings] == ["0003-a-json.jsonl", "0006-a-json.jsonl"]
    assert [each.name[:6] for each in two.recordings] == ["0004-b", "0005-b", "0007-b"]


def test_a_recorder_that_is_started_again_keeps_what_it_wrote_before(tmp_path: Path) -> None:
    with Emulator(apps={"app": lambda call: "ok"}) as cloud:
        proxy = Recorder(tmp_path / "out", upstream=cloud.base_url)
        for run in range(3):
            with proxy, exchange(proxy.base_url, body_of(), sse=False) as client:
                read_all(client)
            proxy.recordings[run].rename(tmp_path / f"{run}.jsonl")
    names = [f"000{n}-app-json.jsonl" for n in (1, 2, 3)]
    assert [each.name for each in proxy.recordings] == names


def test_saving_does_not_list_a_large_folder_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 2001):
        (tmp_path / f"{number:04}-old-json.jsonl").touch()
    listed: list[str] = []
    listdir = os.listdir

    def counting(path: Any) -> list[str]:
        listed.append(str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", counting)
    with (
        Emulator(apps={"app": lambda call: "ok"}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
    ):
        for _ in range(20):
            with exchange(proxy.base_url, body_of(), sse=False) as client:
                read_all(client)
    assert [each.name[:4] for each in proxy.recordings] == [str(n) for n in range(2001, 2021)]
    assert listed.count(str(tmp_path)) == 1


def test_other_requests_pass_and_are_not_recorded(tmp_path: Path) -> None:
    with (
        Emulator(apps={}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
        exchange(proxy.base_url, body_of(), app_id="a/b") as client,
    ):
        assert parsed(read_all(client))[0] == 404
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_upstream_is_a_503_that_may_be_retried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        Recorder(tmp_path, upstream=f"http://127.0.0.1:{port}/api/v1") as proxy,
        exchange(proxy.base_url, body_of()) as client,
    ):
        status, _, content, _ = parsed(read_all(client))
    assert status == 503
    assert json.loads(content)["code"] == "RecorderNotConnected"
    assert f"cannot connect to http://127.0.0.1:{port}" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_folder_does_not_affect_the_client(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        WireServer([*ANSWERS["json"], Do.CLOSE]) as server,
        Recorder(tmp_path / "out", upstream=server.base_url) as proxy,
    ):
        (tmp_path / "out").rmdir()
        with exchange(proxy.base_url, body_of()) as client:
            assert parsed(read_all(client))[3]
    assert proxy.recordings == []
    assert "is not recorded" in caplog.text


def test_a_compressed_answer_is_relayed_but_its_body_is_not_recorded(tmp_path: Path) -> None:
    packed = answer("200 OK", b"\x1f\x8bpacked", "application/json", "Content-Encoding: gzip")
    with (
        WireServer([*packed, Do.CLOSE]) as server,
        Recorder(tmp_path, upstream=server.base_url) as proxy,
        exchange(proxy.base_url, body_of()) as client,
    ):
        assert parsed(read_all(client))[2] == b"\x1f\x8bpacked"
    assert records(proxy.recordings[0])[1]["raw"] == ""


@pytest.mark.parametrize(
    ("upstream", "problem"),
    [
        ("dashscope.aliyuncs.com", "must be an http"),
        ("https://u:p@host/api/v1", "user name or password"),
        ("https://host/api/v1?a=b", "must be an http"),
    ],
)
def test_an_invalid_upstream_address_is_refused(upstream: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Recorder("out", upstream=upstream)


LOOP = [
    *[("LLM", "n", status, text) for status, text in (("executing", "一"), ("executing", "一"))],
    ("LLM", "n", "success", "二"),
    ("LLM", "n", "success", ""),
    ("LLM", "n", "executing", "三"),
    ("LLM", "n", "success", ""),
    ("End", "e", "executing", "一一"),
    ("End", "e", "success", "二三"),
]


def looping(_: Any) -> list[dict[str, Any]]:
    """A node that runs twice and outputs a word twice, and an answer that streams."""

    def thought(type_: str, id_: str, status: str, text: str) -> Any:
        result = json.dumps({"result": text})
        node = {"nodeId": id_, "nodeType": type_, "nodeStatus": status, "nodeResult": result}
        return {"response": json.dumps(node)}

    frames = [{"thoughts": [thought(*each)], "finish_reason": "null"} for each in LOOP]
    return [{"output": each} for each in [*frames, {"text": "一一二三", "finish_reason": "stop"}]]


def thinking(_: Any) -> list[dict[str, Any]]:
    """An agent that thinks, and outputs a word twice."""
    texts = [("嗯", ""), ("嗯", ""), ("", "哈"), ("", "哈"), ("", "")]
    return [
        frame(
            text,
            "stop" if place == 4 else "null",
            thoughts=[{"action_type": "reasoning", "thought": mind, "response": mind}],
        )
        for place, (mind, text) in enumerate(texts)
    ]


@pytest.mark.parametrize("mode", [None, "message_format", "message_format_plus", "agent_format"])
@pytest.mark.parametrize("app", [looping, thinking, lambda call: "哈哈", TRAVEL])
def test_a_cumulative_recording_replays_as_deltas_and_cumulative(
    app: Any, mode: str | None, tmp_path: Path
) -> None:
    asked = {"has_thoughts": True} | ({"flow_stream_mode": mode} if mode else {})
    whole = json.dumps({"input": {"prompt": "hi"}, "parameters": asked}).encode()

    def result_at(base_url: str) -> Any:
        mine = BailianApp(app_id="app", api_key=KEY, base_url=base_url, flow_stream_mode=mode)
        result = mine.invoke("hi")
        return result.text, result.reasoning, result.steps, result.final_text, result.usage

    def outputs(answer: bytes) -> list[Any]:
        lines = parsed(answer)[2].split(b"\n")
        return [_without(("session_id", "request_id"), i) for i in lines if i[:5] == b"data:"]

    def fold_at(base_url: str) -> Any:
        with exchange(base_url, body_of(), sse=False) as client:
            answer = json.loads(parsed(read_all(client))[2])["output"]
        return answer["text"], answer["finish_reason"]

    with (
        Emulator(apps={"app": app}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
    ):
        with exchange(proxy.base_url, whole) as client:
            recorded = outputs(read_all(client))
        directly, folded = result_at(cloud.base_url), fold_at(cloud.base_url)
    with Emulator(apps={"app": proxy.recordings[0]}) as cloud:
        with exchange(cloud.base_url, whole) as client:
            assert outputs(read_all(client)) == recorded
        assert result_at(cloud.base_url) == directly
        assert fold_at(cloud.base_url) == folded


def test_a_feature_missing_in_the_recording_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        Emulator(apps={"app": TRAVEL}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
    ):
        app = BailianApp(app_id="app", api_key=KEY, base_url=proxy.base_url)
        text = app.invoke("hi", thoughts=False).text
        app.invoke("hi", flow_stream_mode="agent_format")
        app.invoke("hi")
    for path, asked, missing in zip(
        proxy.recordings,
        [{}, {"flow_stream_mode": "message_format"}, {"flow_stream_mode": "message_format"}],
        [
            ": recorded without has_thoughts; the replay has no steps",
            ": recorded with flow_stream_mode=agent_format; it is replayed in that mode",
            None,
        ],
        strict=True,
    ):
        caplog.clear()
        with Emulator(apps={"app": path}) as cloud:
            app = BailianApp(app_id="app", api_key=KEY, base_url=cloud.base_url)
            assert app.invoke("hi", **asked).text == text
        assert caplog.messages == ([path.name + missing] if missing else [])


@pytest.mark.parametrize("sse", [True, False])
def test_a_cut_recording_is_cut_at_the_same_time(tmp_path: Path, sse: bool, sleep: Any) -> None:
    path = tmp_path / "cut.jsonl"
    data = {"output": {"text": "a", "finish_reason": "null"}}
    head = {"request": {"app_id": "app"}, "response": None}
    lines = [head, {"offset_ms": 40, "data": data}, {"offset_ms": 700, "cut": "upstream"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    with (
        Emulator(apps={"app": path}, pace=1, sleep=sleep) as cloud,
        exchange(cloud.base_url, body_of(), sse=sse) as client,
    ):
        assert (b'"a"' in read_all(client)) is sse
    assert sum(sleep.waits) == pytest.approx(0.7)


# ---------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_an_upstream_with_tls_is_recorded(
    authority: trustme.CA, tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with (
        WireServer([*ANSWERS["stream"], Do.CLOSE], tls=tls) as server,
        Recorder(tmp_path / "out", upstream=server.base_url) as proxy,
        exchange(proxy.base_url, body_of()) as client,
    ):
        assert server.base_url.startswith("https://")
        assert parsed(read_all(client))[3]
    assert [each.output["text"] for each in load_recording(proxy.recordings[0]).frames] == [
        "你", "好"
    ]  # fmt: skip


def test_an_upstream_with_an_untrusted_certificate_gets_nothing(
    tls: ssl.SSLContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        WireServer([*ANSWERS["stream"], Do.CLOSE], tls=tls) as server,
        Recorder(tmp_path, upstream=server.base_url) as proxy,
        exchange(proxy.base_url, body_of()) as client,
    ):
        status, _, content, _ = parsed(read_all(client))
        assert not server.posts
    assert status == 503
    assert "certificate" in json.loads(content)["message"]
    assert "certificate verify failed" in caplog.text
    assert "SSL_CERT_FILE" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["file", "folder"])
@pytest.mark.parametrize(
    "source", ["ca_bundle", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"]
)
def test_the_certificates_that_calls_trust_are_trusted(
    source: str,
    form: str,
    authority: trustme.CA,
    tls: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    if form == "folder":
        command = ["openssl", "x509", "-subject_hash", "-noout", "-in", str(ca)]
        digest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        ca = tmp_path / "certificates"
        ca.mkdir()
        authority.cert_pem.write_to_path(str(ca / f"{digest}.0"))
    if source != "ca_bundle":
        monkeypatch.setenv(source, str(ca))
    given = {"ca_bundle": ca} if source == "ca_bundle" else {}
    with (
        WireServer([*ANSWERS["stream"], Do.CLOSE], tls=tls) as server,
        Recorder(tmp_path / "out", upstream=server.base_url, **given) as proxy,
        exchange(proxy.base_url, body_of()) as client,
    ):
        assert parsed(read_all(client))[0] == 200


@pytest.mark.parametrize(("name", "problem"), [("gone", "No such file"), ("text", "in PEM form")])
def test_certificates_that_cannot_be_read_are_an_error_with_their_source(
    name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("no certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / name))
    with pytest.raises(OSError, match=f"^REQUESTS_CA_BUNDLE: .*{name}: .*{problem}"):
        Recorder(tmp_path / "out")
    Recorder(tmp_path / "out", ca_bundle=certifi.where())


def test_a_recorder_cannot_be_started_twice(tmp_path: Path) -> None:
    with Recorder(tmp_path) as proxy, pytest.raises(RuntimeError, match="already running"):
        proxy.start()
    with pytest.raises(RuntimeError, match="not running"):
        _ = proxy.base_url


def test_a_folder_answers_each_call_with_its_recording(tmp_path: Path) -> None:
    def app(call: Any) -> str:
        return f"{call.prompt} in {call.biz_params.get('city', 'no city')}"

    asked: list[dict[str, Any]] = [
        {"prompt": "Eat"},
        {"prompt": "Eat", "biz_params": {"city": "杭州"}},
        {"prompt": "See (it)"},
    ]
    with (
        Emulator(apps={"app": app, "other": lambda call: "other"}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
    ):
        mine = BailianApp(app_id="app", api_key=KEY, base_url=proxy.base_url)
        texts = [mine.invoke(**each).text for each in asked]
        mine.invoke("any", app_id="other")
    with Emulator(apps=load_apps(tmp_path)) as cloud:
        mine = BailianApp(app_id="app", api_key=KEY, base_url=cloud.base_url)
        assert [mine.invoke(**each).text for each in asked] == texts
        assert mine.invoke("whatever", app_id="other").text == "other"
        with pytest.raises(BailianError):
            mine.invoke("What was never recorded")


# ------------------------------------------------------------------------ secrets


def test_no_secret_reaches_the_disk(tmp_path: Path) -> None:
    tokens = {"tool": {"user_token": TOKEN, "pin": 918273}}
    nested = json.dumps({"nodeId": "n", "nodeResult": json.dumps({"result": f"{TOKEN} {KEY}"})})

    def app(call: Any) -> Iterator[dict[str, Any]]:
        assert call.biz_params["user_defined_tokens"] == tokens
        echoed = {
            "thoughts": [{"response": nested}],
            "user_defined_tokens": {"other": "never-seen"},
        }
        yield frame(f"key {KEY[:9]}", **echoed, n=918273)
        yield frame(KEY[9:] + TOKEN[:4], **{KEY: 1})
        yield frame(TOKEN[4:], inner=json.dumps({"user_defined_tokens": "never-seen"}))
        yield frame("end", "stop")

    with (
        Emulator(apps={"app": app}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
    ):
        body = body_of(f"my key is {KEY}", biz_params={"user_defined_tokens": tokens, "a": 1})
        with exchange(proxy.base_url, body) as client:
            seen = read_all(client).decode()
    assert KEY[9:] in seen  # the client gets everything
    assert "never-seen" in seen
    text = proxy.recordings[0].read_text(encoding="utf-8")
    for secret in (KEY, TOKEN, json.dumps(TOKEN)[1:-1], "918273", "never-seen", "cookie-secret"):
        assert secret not in text
    head, *frames = records(proxy.recordings[0])
    assert head["request"]["body"]["input"] == {
        "prompt": "my key is ***",
        "biz_params": {
            "user_defined_tokens": {"tool": {"user_token": "***", "pin": "***"}},
            "a": 1,
        },
    }
    outputs = [each["data"]["output"] for each in frames]
    assert "".join(output["text"] for output in outputs) == "key ******end"
    result = json.loads(json.loads(outputs[0]["thoughts"][0]["response"])["nodeResult"])
    assert result == {"result": "*** ***"}


@pytest.mark.parametrize("name", ["Authorization", "accessToken", "db-password", "api_key"])
def test_a_credential_is_masked_by_its_name(name: str, tmp_path: Path) -> None:
    def app(call: Any) -> Any:
        yield frame("I use hidden-4711", thoughts=[{"response": json.dumps({name: "of-the-app"})}])
        yield frame("", "stop", usage={"models": [{"input_tokens": 5, "image_tokens": 7}]})

    mcp = {"mcp-1": {name: "Bearer hidden-4711", "size": 3}}
    biz_params = {"user_defined_params": mcp, "author": "Lu Xun", "max_tokens": "100"}
    biz_params["json"] = json.dumps({name: "hidden-4711", "size": 3})
    with (
        Emulator(apps={"app": app}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
        exchange(proxy.base_url, body_of("hi", biz_params=biz_params)) as client,
    ):
        read_all(client)
    text = proxy.recordings[0].read_text(encoding="utf-8")
    assert "hidden-4711" not in text
    assert "of-the-app" not in text
    head, *frames = records(proxy.recordings[0])
    mcp["mcp-1"][name] = "***"
    recorded = head["request"]["body"]["input"]["biz_params"]
    assert json.loads(recorded["json"]) == {name: "***", "size": 3}
    assert recorded == biz_params | {"json": recorded["json"]}
    assert "".join(each["data"]["output"]["text"] for each in frames) == "I use ***"
    with Emulator(apps=load_apps(tmp_path)) as cloud:
        for user in ("Bearer mine", "yours"):  # a recording replays whatever the credential
            mcp["mcp-1"][name] = user
            biz_params["json"] = json.dumps({name: user, "size": 3})
            with exchange(cloud.base_url, body_of("hi", biz_params=biz_params)) as client:
                assert "I use" in read_all(client).decode()


@pytest.mark.parametrize(
    "odd", ["NaN", "1e999", "1" * 5000, "[" * 129 + "]" * 129, "[" * 10**5 + "]" * 10**5]
)
def test_a_credential_in_a_text_beside_an_odd_value_is_masked(odd: str, tmp_path: Path) -> None:
    text = '{"api_key": "hidden-4711", "odd": ' + odd + "}"
    with (
        Emulator(apps={"app": lambda _: [frame("I use hidden-4711", "stop")]}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
        exchange(proxy.base_url, body_of("hi", biz_params={"json": text})) as client,
    ):
        read_all(client)
    assert text not in json.dumps(cloud.requests[-1].body)
    assert '"api_key": "hidden' not in json.dumps(records(proxy.recordings[0])).replace("\\", "")


def test_a_request_body_that_is_not_json_is_not_kept(tmp_path: Path) -> None:
    with (
        Emulator(apps={}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
        exchange(proxy.base_url, b'{"user_defined_tokens": "abc' + KEY.encode(), sse=False) as c,
    ):
        assert parsed(read_all(c))[0] == 400
    assert records(proxy.recordings[0])[0]["request"]["body"] is None


@pytest.mark.parametrize(
    "header", [KEY, f"Bearer {KEY}", f"Bearer other-key\r\nAuthorization: {KEY}"]
)
def test_the_key_is_masked_in_every_form_of_the_header(header: str, tmp_path: Path) -> None:
    with (
        WireServer([*ANSWERS["json"], Do.CLOSE]) as server,
        Recorder(tmp_path, upstream=server.base_url) as proxy,
    ):
        url = urlsplit(proxy.base_url)
        body = body_of(f"my key is {KEY}")
        head = (
            f"POST {url.path}/apps/app/completion HTTP/1.1\r\nHost: {url.netloc}\r\n"
            f"Authorization: {header}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        with socket.create_connection((str(url.hostname), int(url.port or 0))) as client:
            client.sendall(head.encode() + body)
            assert parsed(read_all(client))[3]
    assert records(proxy.recordings[0])[0]["request"]["body"]["input"] == {
        "prompt": "my key is ***"
    }


def test_a_token_of_an_earlier_request_stays_secret(tmp_path: Path) -> None:
    with (
        Emulator(apps={"app": lambda call: f"hello {TOKEN}"}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
    ):
        for fields in ({"biz_params": {"user_defined_tokens": {"t": TOKEN}}}, {}):
            with exchange(proxy.base_url, body_of(**fields), sse=False) as client:
                read_all(client)
    assert records(proxy.recordings[1])[1]["data"]["output"]["text"] == "hello ***"


def test_an_incomplete_secret_in_a_cut_stream_is_masked() -> None:
    scrubber = Scrubber()
    scrubber.learn(KEY)
    payloads: list[Any] = [{"text": f"it is {KEY[:12]}"}, {"text": KEY[12:25]}]
    scrubber.deltas(payloads)
    assert payloads == [{"text": "it is ***"}, {"text": ""}]


def test_a_secret_split_between_alternating_nodes_is_masked() -> None:
    def node(name: str, text: str) -> Any:
        return {"workflow_message": {"node_id": name, "message": {"content": text}}}

    scrubber = Scrubber()
    scrubber.learn(KEY)
    payloads: list[Any] = [node("a", KEY[:20]), node("b", "other"), node("a", KEY[20:])]
    scrubber.deltas(payloads)
    assert KEY[20:] not in json.dumps(payloads)


SECRETS = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n*"), min_size=6, max_size=24
).filter(lambda secret: secret.strip() == secret and len(set(secret)) > 3)
PLACES = (
    "text",
    "name",
    "nested",
    "twice nested",
    "error message",
    "split",
    "split nested",
    "list",
)


def place(secret: str, where: str, cut: int) -> list[Any]:
    cut = cut % len(secret)
    left, right = "«" + secret[:cut], secret[cut:] + "»"
    whole = left + right
    node = [
        {"response": json.dumps({"nodeId": "n", "nodeResult": json.dumps({"result": t})})}
        for t in (left, right)
    ]
    return {
        "text": [{"output": {"text": whole}}],
        "name": [{"output": {whole: 1}}],
        "nested": [{"output": {"a": json.dumps({"b": whole})}}],
        "twice nested": [{"a": json.dumps([json.dumps({"b": whole}, ensure_ascii=False)])}],
        "error message": [{"code": "x", "message": whole}],
        "split": [{"output": {"text": left}}, {"output": {"text": right}}],
        "split nested": [{"output": {"thoughts": [node[0]]}}, {"output": {"thoughts": [node[1]]}}],
        "list": [{"output": {"a": [[whole], {"b": [whole]}]}}],
    }[where]


def strings(value: Any) -> Iterator[str]:
    """Every text of a value, JSON inside of texts opened."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value
        with contextlib.suppress(ValueError):
            inner = json.loads(value)
            if isinstance(inner, dict | list):
                yield from strings(inner)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(secret=SECRETS, where=st.sampled_from(PLACES), cut=st.integers(0, 99))
@example(secret='a"b/c\\d', where="twice nested", cut=3)
@example(secret="x😀\\\\nyü", where="split nested", cut=2)
def test_a_secret_is_masked_at_every_place(secret: str, where: str, cut: int) -> None:
    scrubber = Scrubber()
    scrubber.learn(secret)
    payloads = scrubber.value(place(secret, where, cut))
    scrubber.deltas(payloads)
    found = list(strings(payloads))
    assert not [text for text in found if secret in text]
    told_in_order = "".join(found)
    assert secret not in told_in_order
    assert "***" in told_in_order


@settings(max_examples=30, deadline=None)
@given(
    token=SECRETS,
    where=st.sampled_from(PLACES),
    cut=st.integers(0, 99),
    in_prompt=st.booleans(),
    key=st.text(st.sampled_from("abcdefXYZ0123456789-_."), min_size=8, max_size=40),
)
def test_neither_key_nor_token_reaches_the_disk(
    token: str,
    where: str,
    cut: int,
    in_prompt: bool,
    key: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    key = "sk-" + key
    frames = [*place(token, where, cut), *place(key, where, cut), frame("end", "stop")]
    for each in frames:
        each.setdefault("output", {})
    out = tmp_path_factory.mktemp("out")
    with (
        Emulator(apps={"app": lambda call: frames}) as cloud,
        Recorder(out, upstream=cloud.base_url) as proxy,
    ):
        prompt = f"{key} and {token}" if in_prompt else "hi"
        body = body_of(prompt, biz_params={"user_defined_tokens": {"t": {"user_token": token}}})
        with exchange(proxy.base_url, body, key=key) as client:
            read_all(client)
    (path,) = proxy.recordings
    found = list(strings(records(path)))
    assert not [text for text in found if token in text or key in text]
    assert load_recording(path).frames[-1].finished
