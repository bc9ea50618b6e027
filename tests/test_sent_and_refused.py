"""What is sent, what is sent again, and what an error shows: on every path of a call."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from support.images import PNG
from support.paths import PATHS
from support.wire import WireServer, answer, event, frame, stream

from bailian_apps import BailianApp, ConnectError, InvalidInputError, Timeout
from bailian_apps.emulator import Emulator

each_path = pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
GOOD = stream(event(frame("好", "stop")))
OUTPUT = {"text": "half", "session_id": "s"}


def app_at(server: WireServer, **settings: Any) -> BailianApp:
    return BailianApp(**{"app_id": "app", "api_key": "k", "base_url": server.base_url, **settings})


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@each_path
@pytest.mark.parametrize("setting", [None, "ws-1"])
def test_a_workspace_in_extra_headers_is_not_in_an_error(
    path: Callable[..., Any], setting: str | None
) -> None:
    refused = answer("403 Forbidden", body(code="App.AccessDenied", message="No."))
    with WireServer(refused) as server:
        headers = {"x-dashscope-workspace": SecretStr("ws-hidden")}
        error = path(app_at(server, workspace=setting, extra_headers=headers), "hi").error
        assert b"ws-hidden" in server.heads[0]
    assert "(127.0.0.1 was asked)" in str(error)


@each_path
@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("401 Unauthorized", "InvalidApiKey"),
        ("429 Busy", "Throttling"),
        ("503 Busy", "ModelServingError"),
        ("400 Bad Request", "InvalidParameter"),
    ],
)
@pytest.mark.parametrize("form", ["JSON", "error event", "frame before the error event"])
def test_an_error_with_an_output_is_never_sent_again_unasked(
    path: Callable[..., Any], status: str, code: str, form: str
) -> None:
    fields = {"code": code, "message": "Required parameter(prompt) missing."}
    if form == "JSON":
        failed = answer(status, body(output=OUTPUT, **fields), "application/json", "Retry-After: 0")
    elif form == "error event":
        failed = answer(
            status, event({"output": OUTPUT, **fields}, name="error"), "text/event-stream"
        )
    else:
        events = event({"output": OUTPUT}) + event(fields, name="error")
        failed = answer(status, events, "text/event-stream")
    keys = iter(["k-1", "k-2"])
    with WireServer(failed, GOOD) as server:
        app = app_at(server, api_key=lambda: next(keys))
        messages = [{"role": "user", "content": "hi"}]
        error = path(app, None, messages=messages).error
        assert len(server.posts) == 1
    assert (error.code, error.request_state, error.attempts) == (code, "unknown", 1)
    assert error.partial.text == "half"


@each_path
@pytest.mark.parametrize("form", ["JSON", "stream"])
@pytest.mark.parametrize(
    "extra",
    [
        {"code": 200},
        {"code": "200"},
        {"code": 0},
        {"code": ""},
        {"error": "none", "errorCode": "7"},
        {"data": {"code": "X"}},
    ],
    ids=str,
)
def test_an_answer_with_an_output_fails_only_by_its_code(
    path: Callable[..., Any], form: str, extra: dict[str, Any]
) -> None:
    whole = {**frame("好", "stop"), **extra}
    good = answer("200 OK", body(**whole)) if form == "JSON" else stream(event(whole))
    with WireServer(good) as server:
        outcome = path(app_at(server), "hi")
    assert outcome.error is None
    assert outcome.result.text == "好"


@each_path
@pytest.mark.parametrize("form", ["JSON", "stream"])
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({**frame("好", "stop"), "code": "Odd.Thing"}, "Odd.Thing"),
        ({"errorCode": "Odd.Thing"}, "Odd.Thing"),
        ({"error": {"code": "Odd.Thing"}}, "Odd.Thing"),
        ({"code": 200, "data": {"errorCode": "Odd.Thing"}}, "Odd.Thing"),
        ({"error": "no", "output": {}}, None),
    ],
    ids=str,
)
def test_an_error_with_status_200_is_one_in_json_and_in_a_stream(
    path: Callable[..., Any], form: str, fields: dict[str, Any], code: str | None
) -> None:
    failed = answer("200 OK", body(**fields)) if form == "JSON" else stream(event(fields))
    with WireServer(failed) as server:
        error = path(app_at(server), "hi").error
    assert (type(error).__name__, error.code) == ("APIError", code)
    assert error.request_state == "unknown"


@each_path
def test_a_session_of_extra_body_is_named_where_it_was_lost(
    path: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    extra = {"input": {"session_id": "s-mine"}}
    failed = answer("500 Oops", body(code="InternalError", message="No."))
    with WireServer(GOOD, failed) as server, caplog.at_level(logging.WARNING):
        app = app_at(server, extra_body=extra)
        assert path(app, "hi").text == "好"
        assert path(app, "hi").error.session_id == "s-mine"
    assert "answered in session session-1 instead of s-mine" in caplog.text


@each_path
def test_every_wrong_image_and_file_is_named_beside_other_options(path: Callable[..., Any]) -> None:
    app = BailianApp(app_id="a", api_key="k")
    wrong = {"file_list": ["/x", "https://a"], "image_list": ["x", PNG, 3]}
    more = {"session_id": 5, "imags": 1, "sesion": 2}
    error = path(app, "hi", **wrong, **more).error
    assert [each.field for each in error.each()] == [
        "image_list[0]",
        "image_list[2]",
        "file_list[0]",
        "session_id",
        "imags",
        "sesion",
    ]


@pytest.mark.parametrize("single", [PNG, Path("a.png"), "https://a/b.png", {"url": "https://a"}])
def test_a_single_image_or_file_is_not_taken_for_a_list(single: Any) -> None:
    app = BailianApp(app_id="a", api_key="k")
    for field, what in (("image_list", "images"), ("file_list", "addresses")):
        error = PATHS["invoke"](app, "hi", **{field: single}).error
        assert error.field == field
        assert f"must be a list of {what}, and is of type {type(single).__name__}" in str(error)


def test_images_of_an_iterator_are_sent_as_those_of_a_list() -> None:
    with Emulator(apps={"a": lambda call: "ok"}) as cloud:
        app = BailianApp(app_id="a", api_key="k", base_url=cloud.base_url)
        app.invoke("hi", image_list=(each for each in ["https://a/1.png", "HTTPS://a/2.png"]))
        sent = cloud.requests[-1].body["input"]["image_list"]
    assert sent == ["https://a/1.png", "HTTPS://a/2.png"]


@each_path
@pytest.mark.parametrize("field", ["image_list", "file_list"])
def test_an_oss_address_in_extra_body_has_its_header(path: Callable[..., Any], field: str) -> None:
    with WireServer(GOOD, GOOD) as server:
        app = app_at(server)
        path(app, "hi", extra_body={"input": {field: ["OSS://bucket/a.png"]}})
        path(app, "hi", extra_body={"input": {field: None}})
        has_header = [b"X-DashScope-OssResourceResolve: enable" in head for head in server.heads]
    assert has_header == [True, False]


def test_a_setting_in_extra_body_is_named_as_an_argument() -> None:
    with pytest.raises(InvalidInputError) as caught:
        BailianApp(app_id="a", extra_body={"app_id": "b"})
    assert str(caught.value).endswith("takes only 'input' and 'parameters'. Pass app_id= itself")


def test_headers_with_one_name_in_two_cases_are_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        BailianApp(app_id="a", extra_headers={"X-A": "1", "x-a": "2"})
    assert caught.value.field == "extra_headers.x-a"
    assert "is given twice" in caught.value.problem


def test_an_unknown_key_of_a_message_is_refused_with_those_it_has() -> None:
    messages = [{"role": "user", "content": "hi", "name": "x"}]
    error = PATHS["invoke"](BailianApp(app_id="a", api_key="k"), None, messages=messages).error
    expected = "messages[0].name is not a key of a message. Pass only role and content"
    assert str(error) == expected


@pytest.mark.parametrize("name", ["ainvoke", "astream"])
def test_an_async_callable_key_is_limited_by_the_calls_deadline(name: str) -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return "k"

    began = time.monotonic()
    with WireServer() as server:
        app = app_at(server, api_key=never, timeout=Timeout(total_s=0.05))
        error = PATHS[name](app, "hi").error
        assert server.posts == []
    assert isinstance(error, ConnectError)
    assert (error.message, error.attempts) == ("the callable api_key took longer than total_s", 0)
    assert time.monotonic() - began < 30


def test_a_missing_workspace_has_one_hint_with_every_sdk() -> None:
    app = BailianApp(app_id="a", api_key="k", base_url="cn-beijing")
    error = PATHS["invoke"](app, "hi").error
    expected = "workspace is missing. Pass workspace=: the address holds {workspace_id}"
    assert str(error) == expected


def test_the_example_of_session_files_shows_its_usage() -> None:
    script = Path(__file__).parents[1] / "examples" / "session_files.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Usage: python examples/session_files.py")
