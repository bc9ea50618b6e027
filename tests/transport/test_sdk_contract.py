"""Compares our requests and frames with those of the SDK's public `Application.call`.

The tests run on the newest SDK, on the oldest that is supported, and on one in between.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from importlib.metadata import version
from typing import Any

import pytest
from support import recordings
from support.paths import PATHS
from support.wire import SSE_HEAD, Answer, Do, WireServer, answer, chunk, event, frame, stream

from bailian_apps import (
    AppRequest,
    AppSettings,
    BailianApp,
    BailianError,
    InvalidInputError,
    StreamInterruptedError,
)
from bailian_apps.client import default_client
from bailian_apps.core.request import Input, Parameter
from bailian_apps.emulator import Emulator
from bailian_apps.transport.request_builder import build_request, sdk_defaults

SDK = tuple(int(part) for part in version("dashscope").split(".")[:3])
NAMES = [path.name for path in recordings.ALL if path.name not in recordings.ERRORS]
GOOD = stream(event(frame("你好", "stop")))


def served(name: str) -> list[bytes | Do]:
    return stream(*(event(each) for each in recordings.frames(name)))


def call_sdk(server: WireServer, **arguments: Any) -> list[Any]:
    from dashscope import Application

    given = {"app_id": "app", "api_key": "sk-test", "prompt": "hi", "stream": True}
    given |= {"base_address": server.base_url, "incremental_output": True, "has_thoughts": True}
    return list(Application.call(**(given | arguments)))


def ours(server: WireServer, workspace: str | None = None, **fields: Any) -> list[dict[str, Any]]:
    settings = AppSettings(
        app_id="app",
        api_key="sk-test",
        base_url=server.base_url,
        workspace=workspace,  # type: ignore[arg-type]
    )
    fields = {"prompt": "hi", **fields}
    request = AppRequest(app_id="app", **fields)
    client = default_client()

    async def collect() -> list[dict[str, Any]]:
        return [each async for some in await client.aframes(request, settings) for each in some]

    sync = [each for some in client.frames(request, settings) for each in some]
    assert asyncio.run(collect()) == sync
    return sync


@pytest.mark.parametrize("name", NAMES)
def test_our_frames_equal_those_of_application_call(name: str) -> None:
    with WireServer(*[served(name)] * 3) as server:
        theirs = call_sdk(server)
        frames = ours(server)
    assert frames == recordings.frames(name)
    for our, their in zip(frames, theirs, strict=True):
        assert their.status_code == 200
        assert our.get("request_id", "") == their.request_id
        for name in ("text", "finish_reason", "session_id"):
            assert our["output"].get(name) == getattr(their.output, name)
        listed = [each.get("response") for each in our["output"].get("thoughts") or []]
        assert listed == [each.response for each in their.output.thoughts or []]


REQUESTS: dict[str, dict[str, Any]] = {
    "prompt": {},
    "session": {"session_id": "s", "biz_params": {"city": "杭州"}, "memory_id": "m"},
    "media": {"image_list": ["https://x/y.png"], "file_list": ["https://x/y.pdf"]},
    "messages": {"prompt": None, "messages": [{"role": "user", "content": "你好"}]},
    "options": {"rag_options": {"pipeline_ids": ["p"]}, "temperature": 0.5, "enable_thinking": True,
                "flow_stream_mode": "message_format", "doc_reference_type": "simple"},
    "workspace": {"workspace": "ws-1"},
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_our_request_equals_that_of_application_call(name: str) -> None:
    """Byte for byte, except for the order of keys: that of the caller's arguments."""
    with WireServer(*[GOOD] * 3) as server:
        call_sdk(server, **REQUESTS[name])
        ours(server, **REQUESTS[name])
    theirs, sync, native = server.posts
    if SDK < (1, 24, 7) and name == "media":  # this SDK sends it as a parameter
        theirs["input"]["file_list"] = theirs["parameters"].pop("file_list")
    if SDK < (1, 27, 5):
        theirs["parameters"].pop("workspace", None)  # a header, which this SDK sends here too
    assert theirs == sync == native
    heads = [comparable(head) for head in server.heads]
    assert heads[0] == heads[1] == heads[2]
    if SDK >= (1, 27, 5):  # older ones escape what is not ASCII
        bodies = [b"".join(sorted(body.split(b","))) for body in server.bodies]
        assert len({len(body) for body in bodies}) == 1
        assert server.bodies[1] == server.bodies[2]


SAMPLES: dict[str, Any] = {
    "prompt": "hi", "messages": [{"role": "user", "content": "hi"}], "biz_params": {"city": "x"},
    "rag_options": {"pipeline_ids": ["p"]}, "flow_stream_mode": "a_new_mode", "temperature": 0.5,
    "top_p": 0.5, "top_k": 5, "seed": 7, "dialog_round": 3, "mcp_servers": ["maps"],
    "image_list": ["https://x/y.png"], "file_list": ["https://x/y.pdf"], "doc_tag_codes": ["t"],
    "doc_reference_type": "simple", "memory_id": "m", "session_id": "s", "model_id": "qwen",
}  # fmt: skip
"""A value of each field that is not a bool; those are False."""


@pytest.mark.parametrize(
    "name", sorted(AppRequest.model_fields.keys() - {"app_id", "extra_body", "secret_biz_params"})
)
def test_every_field_of_the_body_has_the_name_and_place_of_the_sdk(name: str) -> None:
    """As docs/en/parameters.md shows them: there, the SDK's name is the wire's."""
    marks = AppRequest.model_fields[name].metadata
    wire_name = next(mark.name for mark in marks if isinstance(mark, (Input, Parameter))) or name
    value = SAMPLES.get(name, False)
    prompt = {"prompt": None} if name == "messages" else {}
    with WireServer(*[GOOD] * 3) as server:
        call_sdk(server, **prompt, **{wire_name: value})
        ours(server, **prompt, **{name: value})
    theirs, sync, native = server.posts
    if SDK < (1, 24, 7) and name == "file_list":
        theirs["input"]["file_list"] = theirs["parameters"].pop("file_list")
    if SDK < (1, 27, 5):
        theirs["parameters"].pop("workspace", None)
    assert theirs == sync == native
    assert value in (sync["input"].get(wire_name), sync["parameters"].get(wire_name))


@pytest.mark.parametrize(
    "name", sorted(AppRequest.model_fields.keys() - {"app_id", "extra_body", "secret_biz_params"})
)
def test_the_strict_emulator_takes_every_field_of_the_body(name: str) -> None:
    with Emulator(apps={"app": lambda call: "ok"}, strict=True) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        values = SAMPLES | {
            "flow_stream_mode": "message_format",  # it knows no others
            "session_id": app.invoke("hi").session_id,
        }
        given = {} if name == "messages" else {"prompt": "hi"}
        assert app.invoke(**given | {name: values.get(name, False)}).text == "ok"


def test_extra_headers_and_body_arrive_as_those_of_the_sdk() -> None:
    with WireServer(*[GOOD] * 2) as server:
        call_sdk(server, headers={"X-Trace": "t-1"}, thinking_budget=5, debug={"on": True})
        BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url).invoke(
            "hi",
            extra_headers={"X-Trace": "t-1"},
            extra_body={"parameters": {"thinking_budget": 5, "debug": {"on": True}}},
        )
    server.posts[0]["parameters"].pop("workspace", None)  # as above
    assert server.posts[0] == server.posts[1]
    assert comparable(server.heads[0]) == comparable(server.heads[1])
    assert comparable(server.heads[1])["x-trace"] == "t-1"


def comparable(head: bytes) -> dict[str, str]:
    """The request line and the headers, without those of the HTTP library and of the caller."""
    line, *lines = head.decode().strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
    for name in ("accept-encoding", "connection", "content-length"):
        headers.pop(name, None)
    agent = headers["user-agent"]
    headers["user-agent"] = agent.partition("; incremental_to_full")[0].partition("; bailian-apps")[
        0
    ]
    return {"": line, **headers}


@pytest.mark.parametrize("path", ["sync", "async"])
def test_the_workspace_is_a_header_and_not_a_parameter(path: str) -> None:
    with WireServer(GOOD) as server:
        app = BailianApp(
            app_id="app", api_key="sk-test", base_url=server.base_url + "/", workspace="ws-1"
        )
        assert (
            app.invoke("hi") if path == "sync" else asyncio.run(app.ainvoke("hi"))
        ).text == "你好"
    assert b"X-DashScope-WorkSpace: ws-1" in server.heads[0]
    assert server.posts[0]["parameters"] == {"incremental_output": True, "has_thoughts": True}


def test_without_a_key_the_sdk_chooses_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import dashscope

    key_file = tmp_path / "api_key"
    key_file.write_text("sk-file\n")
    monkeypatch.setattr(dashscope, "api_key", None)
    monkeypatch.setattr(dashscope, "api_key_file_path", str(key_file))
    with WireServer(GOOD) as server:
        app = BailianApp(app_id="app", base_url=server.base_url)
        assert app.invoke("hi").text == "你好"
        assert b"Authorization: Bearer sk-file" in server.heads[0]
        key_file.write_text("sk-one\nsk-two")
        with pytest.raises(InvalidInputError, match="api_key is empty, or has") as caught:
            app.invoke("hi")
        assert "sk-" not in str(caught.value)
        key_file.unlink()
        with pytest.raises(InvalidInputError, match="api_key is missing"):
            app.invoke("hi")
        assert len(server.posts) == 1


def test_a_default_address_that_needs_a_workspace_is_an_error_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import dashscope

    address = "https://{workspace_id}.example.com/api/v1"
    monkeypatch.setattr(dashscope, "base_http_api_url", address)
    with pytest.raises(InvalidInputError, match="workspace is missing"):
        BailianApp(app_id="app", api_key="sk-test").invoke("hi")


def test_the_defaults_are_those_of_the_sdk(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import dashscope

    monkeypatch.setattr(dashscope, "base_http_api_url", "https://example.com/api/v1")
    monkeypatch.setattr(dashscope, "api_key_file_path", str(tmp_path / "key"))
    assert sdk_defaults() == ("https://example.com/api/v1", tmp_path / "key")
    monkeypatch.setattr(dashscope, "api_key_file_path", None)
    assert sdk_defaults().key_file.name == "api_key"


def test_a_region_that_needs_a_workspace_is_an_error_without_one() -> None:
    app = BailianApp(
        app_id="app", api_key="sk-test", base_url="https://{workspace_id}.example.com/api/v1"
    )
    with pytest.raises(InvalidInputError, match="workspace is missing"):
        app.invoke("hi")
    request = build_request(
        AppRequest(app_id="app", prompt="hi"), app.settings.with_overrides({"workspace": "ws-1"})
    )
    assert request.url == "https://ws-1.example.com/api/v1/apps/app/completion"
    assert "sk-test" not in repr(request)


@pytest.mark.parametrize("path", ["sync", "async"])
def test_neither_key_nor_prompt_reaches_a_log(path: str, caplog: pytest.LogCaptureFixture) -> None:
    tokens = {"user_defined_tokens": {"tool": {"user_token": "tok-secret"}}}
    with (
        caplog.at_level(logging.DEBUG),
        WireServer(GOOD, [SSE_HEAD, chunk(b"x"), Do.RESET]) as server,
    ):
        app = BailianApp(
            app_id="app", api_key="sk-secret", base_url=server.base_url, biz_params=tokens
        )
        app.invoke("my prompt") if path == "sync" else asyncio.run(app.ainvoke("my prompt"))
        with pytest.raises(StreamInterruptedError) as caught:
            app.invoke("my prompt") if path == "sync" else asyncio.run(app.ainvoke("my prompt"))
        assert "secret" not in repr(caught.value)
    logged = caplog.text + "".join(str(record.args) for record in caplog.records)
    for hidden in ("sk-secret", "tok-secret", "my prompt", "你好"):
        assert hidden not in logged
    assert json.dumps(server.posts[0]["input"]["biz_params"]) == json.dumps(tokens)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "served",
    [
        [Do.RESET],
        [SSE_HEAD, chunk(b"x"), Do.RESET],
        [Do.STALL],
        answer("500 No", b'{"code":"Oops"}'),
    ],
    ids=["reset", "cut", "silent", "500"],
)
def test_an_error_leads_to_neither_key_nor_prompt(path: str, served: Answer) -> None:
    """Error reporters follow causes and contexts, and record the variables of each frame."""
    with WireServer(served) as server:
        app = BailianApp(
            app_id="app", api_key="sk-secret", base_url=server.base_url, max_retries=0,
            timeout=0.25, biz_params={"user_defined_tokens": {"tool": {"user_token": "tok-secret"}}},
        )  # fmt: skip
        error: BaseException | None = PATHS[path](app, "hi").error
    assert error is not None
    while error is not None:
        assert "secret" not in repr(error) + repr(vars(error))
        assert not hasattr(error, "request")  # as requests' own errors have, with its headers
        for frame_, _ in traceback.walk_tb(error.__traceback__):
            if "bailian_apps" in frame_.f_code.co_filename:
                assert "secret" not in repr(frame_.f_locals)
            assert "site-packages" not in frame_.f_code.co_filename
        error = error.__cause__ or error.__context__


async def test_a_call_cancelled_before_its_retry_leads_to_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retrying = asyncio.Event()
    monkeypatch.setattr(
        logging.getLogger("bailian_apps.run"), "filters", [lambda _: retrying.set()]
    )
    busy = answer("429 X", b'{"code":"Throttling"}', "application/json", "Retry-After: 9")
    with WireServer(busy) as server:
        app = BailianApp(app_id="app", api_key="sk-secret", base_url=server.base_url)
        task = asyncio.create_task(app.ainvoke("hi"))
        await retrying.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    error: BaseException | None = caught.value
    while error is not None:
        for frame_, _ in traceback.walk_tb(error.__traceback__):
            if frame_.f_code.co_filename != __file__:
                assert "sk-secret" not in repr(frame_.f_locals)
        error = error.__cause__ or error.__context__


def test_the_log_of_the_sdk_still_works_for_others(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), WireServer(GOOD, GOOD) as server:
        BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url).invoke("ours")
        call_sdk(server, prompt="theirs")
    assert "theirs" in caplog.text
    assert "ours" not in caplog.text


def test_json_nested_too_deep_is_a_typed_error() -> None:
    huge = answer("200 OK", b'{"output":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    with WireServer(huge) as server:
        app = BailianApp(app_id="app", api_key="sk-test", base_url=server.base_url)
        with pytest.raises(BailianError):
            app.invoke("hi")


def test_an_sdk_without_a_private_name_names_the_versions_that_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dashscope.api_entities import api_request_factory

    from bailian_apps.transport.request_builder import load_sdk

    monkeypatch.delattr(api_request_factory, "_build_api_request")
    load_sdk.cache_clear()
    try:
        app = BailianApp(app_id="app", api_key="sk-test", base_url="http://127.0.0.1:9/api/v1")
        with pytest.raises(ImportError, match=r'_build_api_request.*"dashscope>=1\.22\.2,<3"'):
            app.invoke("hi")
    finally:
        load_sdk.cache_clear()
