"""Errors of the cloud in every shape, from `BailianApp` and both adapters, whole and streamed.

The table of codes is the one of docs/en/errors.md, which is that of the vendor's error page
(help.aliyun.com/zh/model-studio/error-code); docs/zh/errors.md has the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.paths import PATHS, STREAMING

import bailian_apps
from bailian_apps import BailianApp, BailianError
from bailian_apps.core import api_errors
from bailian_apps.core.api_errors import api_error
from bailian_apps.core.retry import is_retryable
from bailian_apps.emulator import Call, Emulator, Failure
from bailian_apps.langchain import ChatBailianApp
from bailian_apps.langchain import errors as langchain_errors
from bailian_apps.llamaindex import BailianAppLLM

DOCS = Path(__file__).parents[1] / "docs"
ROW = re.compile(
    r"\| (\d+)(?: or none| 或无)? \| ((?:`[^`]+`[,、]? ?)+)\| ([^|]+) \| `(\w+)` \| (yes|no|是|否) \|"
)


@dataclass(frozen=True)
class Documented:
    """One code of the table in docs/en/errors.md."""

    status: int
    code: str
    error: type[BailianError]
    again: bool


def documented(language: str) -> list[Documented]:
    page = DOCS / language / "errors.md"
    rows: list[Documented] = []
    for status, codes, _, error, again in ROW.findall(page.read_text(encoding="utf-8")):
        rows += [
            Documented(int(status), code, getattr(bailian_apps, error), again in ("yes", "是"))
            for code in re.findall("`([^`]+)`", codes)
        ]
    return rows


ROWS = documented("en")
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status}-{row.code}")


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    """A cloud whose app fails with the status, code and message in its prompt."""

    def failing(call: Call) -> Any:
        status, code, message = call.prompt.split("|")
        return Failure(status=int(status), code=code, message=message)

    def talking(call: Call) -> list[dict[str, Any]]:
        texts = [("你", "null"), ("好", "null"), ("", "stop")]
        return [{"output": {"text": text, "finish_reason": why}} for text, why in texts]

    with Emulator(apps={"failing": failing, "talking": talking}) as cloud:
        yield cloud


def test_the_table_has_every_known_code() -> None:
    assert set(api_errors._BY_CODE) <= {row.code for row in ROWS}
    assert len(ROWS) > 60
    assert len({(row.status, row.code) for row in ROWS}) == len(ROWS)


def test_the_chinese_table_has_the_same_codes() -> None:
    assert documented("zh") == ROWS


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_of_langchains_classes_is_that_of_the_source(language: str) -> None:
    text = (DOCS / language / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+Error`[,、]? ?)+)\| `(\w+)` \|$", text, re.M)
    listed = {own: theirs for names, theirs in rows for own in re.findall(r"\w+", names)}
    assert listed == {kind.__name__: name for kind, name in langchain_errors._COUNTERPARTS.items()}


@each_row
@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_a_code_of_the_vendors_page_is_its_error(
    cloud: Emulator, row: Documented, path: Callable[..., Any]
) -> None:
    cloud.reset()
    app = BailianApp(app_id="failing", api_key="k", base_url=cloud.base_url, max_retries=0)
    error = path(app, f"{row.status}|{row.code}|Something failed.").error
    assert type(error) is row.error
    assert error.message.startswith("Something failed.")
    assert error.status_code == (None if row.status == 200 else row.status)
    assert error.request_id
    assert row.code.endswith(error.code)
    assert is_retryable(error) is row.again
    assert len(cloud.requests) == 1


@each_row
def test_a_code_alone_decides_in_a_stream(row: Documented) -> None:
    assert type(api_error(row.code, "x", status_code=row.status)) is row.error
    by_code = api_error(row.code, "x")
    assert by_code.request_state == "unknown"
    assert not is_retryable(by_code)
    if any(row.code.startswith(known) for known in api_errors._BY_CODE):
        assert type(by_code) is row.error


def chat(model: ChatBailianApp, prompt: str) -> Any:
    return model.invoke(prompt)


def stream_chat(model: ChatBailianApp, prompt: str) -> Any:
    return list(model.stream(prompt))


def achat(model: ChatBailianApp, prompt: str) -> Any:
    return asyncio.run(model.ainvoke(prompt))


def astream_chat(model: ChatBailianApp, prompt: str) -> Any:
    async def read() -> list[Any]:
        return [chunk async for chunk in model.astream(prompt)]

    return asyncio.run(read())


def complete(llm: BailianAppLLM, prompt: str) -> Any:
    return llm.complete(prompt)


def stream_complete(llm: BailianAppLLM, prompt: str) -> Any:
    return list(llm.stream_complete(prompt))


def acomplete(llm: BailianAppLLM, prompt: str) -> Any:
    return asyncio.run(llm.acomplete(prompt))


def astream_complete(llm: BailianAppLLM, prompt: str) -> Any:
    async def read() -> list[Any]:
        return [chunk async for chunk in await llm.astream_complete(prompt)]

    return asyncio.run(read())


CALLS: dict[str, tuple[type[Any], Callable[[Any, str], Any]]] = {
    "ChatBailianApp.invoke": (ChatBailianApp, chat),
    "ChatBailianApp.stream": (ChatBailianApp, stream_chat),
    "ChatBailianApp.ainvoke": (ChatBailianApp, achat),
    "ChatBailianApp.astream": (ChatBailianApp, astream_chat),
    "BailianAppLLM.complete": (BailianAppLLM, complete),
    "BailianAppLLM.stream_complete": (BailianAppLLM, stream_complete),
    "BailianAppLLM.acomplete": (BailianAppLLM, acomplete),
    "BailianAppLLM.astream_complete": (BailianAppLLM, astream_complete),
    "BailianApp.invoke": (BailianApp, lambda app, prompt: app.invoke(prompt)),
    "BailianApp.stream": (BailianApp, lambda app, prompt: list(app.stream(prompt))),
}
each_call = pytest.mark.parametrize(("kind", "call"), CALLS.values(), ids=list(CALLS))

NOT_AUTHORISED = "BailianGateway.Workspace.NotAuthorised"
SHAPES: dict[str, tuple[str, str, str, int | None]] = {
    "nested_error": ("AuthenticationError", "InvalidApiKey", "Incorrect key.", 401),
    "nested_throttled": (
        "RateLimitError",
        "limit_requests",
        "Requests rate limit exceeded.",
        429,
    ),
    "error_with_request_id_in_camel_case": (
        "BadRequestError",
        "InvalidParameter",
        "Not valid.",
        400,
    ),
    "error_with_request_id_in_header": (
        "PermissionDeniedError",
        "App.AccessDenied",
        "App access denied.",
        403,
    ),
    "status_in_code": (
        "PermissionDeniedError",
        NOT_AUTHORISED,
        "The workspace is not authorised.",
        None,
    ),
    "gateway_error": (
        "PermissionDeniedError",
        NOT_AUTHORISED,
        "The workspace is not authorised.",
        None,
    ),
    "nested_error_event": (
        "BadRequestError",
        "invalid_parameter_error",
        "Injected by the emulator.",
        400,
    ),
    "nested_error_in_result_event": (
        "BadRequestError",
        "invalid_parameter_error",
        "Injected by the emulator.",
        None,
    ),
}


@each_call
@pytest.mark.parametrize("shape", SHAPES)
def test_every_way_to_call_reads_an_error_in_every_shape(
    cloud: Emulator, shape: str, kind: Any, call: Callable[[Any, str], Any]
) -> None:
    cloud.reset()
    name, code, message, status = SHAPES[shape]
    model = kind(app_id="talking", api_key="k", base_url=cloud.base_url, max_retries=0)
    cloud.fail(shape)
    with pytest.raises(getattr(bailian_apps, name)) as caught:
        call(model, "hi")
    error = caught.value
    assert type(error).__name__ == name
    assert (error.code, error.status_code) == (code, status)
    assert error.message.split(" | ")[0] == message
    assert re.fullmatch(r"[0-9a-f-]{36}", error.request_id or "")
    assert (error.partial is None) == (shape != "nested_error_event")
    assert len(cloud.requests) == 1


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_a_nested_refusal_is_sent_again(cloud: Emulator, path: Callable[..., Any]) -> None:
    cloud.reset()
    cloud.fail("nested_throttled")
    outcome = path(BailianApp(app_id="talking", api_key="k", base_url=cloud.base_url), "hi")
    assert outcome.text == "你好"
    assert outcome.result.attempts == 2


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_a_refused_key_or_workspace_is_named_with_the_host_that_was_asked(
    cloud: Emulator, path: Callable[..., Any]
) -> None:
    cloud.reset()
    app = BailianApp(app_id="failing", api_key="k", base_url=cloud.base_url, max_retries=0)
    key = str(path(app, "401|InvalidApiKey|Invalid API-key provided.").error)
    assert "a key belongs to one region, which base_url= selects (127.0.0.1 was asked)" in key
    denied = str(path(app, "403|App.AccessDenied|No.", workspace="ws_1").error)
    assert "for another workspace pass workspace=" in denied
    assert "pass base_url= (127.0.0.1, workspace ws_1, was asked)" in denied
    missing = str(path(app, "404|WorkSpaceNotFound|No.", workspace="ws_1").error)
    assert "workspace: pass the id as the console shows it" in missing
    assert "(127.0.0.1, workspace ws_1, was asked)" in missing
    app_id = str(path(app, "400|InvalidParameter|Required parameter(AppId) missing.").error)
    assert "check that it is the app's region (127.0.0.1 was asked)" in app_id
    not_found = str(path(app, "404|App.NotFound|No.").error)
    assert "check that the app is in the key's workspace" in not_found
    assert "for another region pass base_url= (127.0.0.1 was asked)" in not_found


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        ("FlowNotPublished", "x", "publish the app in the console"),
        ("InvalidURL.Timeout", "x", "the cloud has to be able to fetch each address"),
        ("InvalidFile.DownloadFailed", "x", "fetch and read each file"),
        ("ModelNotFound", "x", "model_id: check the name"),
        ("Arrearage", "x", "balance and purchases"),
        ("Throttling", "x", ""),
        ("SystemError", "x", ""),
    ],
)
def test_an_error_says_what_to_do(code: str, message: str, hint: str) -> None:
    text, _, shown = str(api_error(code, message, status_code=400).message).partition(" | ")
    assert text == message
    assert hint in shown
    assert bool(shown) == bool(hint)


@pytest.mark.parametrize("code", ["Throttling.AllocationQuota", "insufficient_quota"])
def test_a_used_up_free_quota_is_not_waited_for(code: str) -> None:
    free = api_error(code, "Free allocated quota exceeded.", status_code=429)
    assert isinstance(free, bailian_apps.BillingError)
    assert not is_retryable(free)
    limited = api_error(code, "Allocated quota exceeded.", status_code=429)
    assert isinstance(limited, bailian_apps.RateLimitError)


@pytest.mark.parametrize(
    ("code", "status", "shown_code", "shown_status", "name"),
    [
        ("403-App.AccessDenied", None, "App.AccessDenied", 403, "PermissionDeniedError"),
        ("403-App.AccessDenied", 400, "App.AccessDenied", 400, "PermissionDeniedError"),
        ("200-Odd.Thing", None, "Odd.Thing", None, "APIError"),
        ("429-Odd.Thing", None, "Odd.Thing", 429, "RateLimitError"),
        ("999-Odd.Thing", None, "999-Odd.Thing", None, "APIError"),
        ("Odd.NotAuthorised", 200, "Odd.NotAuthorised", 200, "PermissionDeniedError"),
    ],
)
def test_a_status_in_front_of_a_code_is_taken_off(
    code: str, status: int | None, shown_code: str, shown_status: int | None, name: str
) -> None:
    error = api_error(code, "x", status_code=status)
    assert (error.code, error.status_code) == (shown_code, shown_status)
    assert type(error).__name__ == name
    assert not is_retryable(error)  # a status in a code does not say that the run did not start


def test_a_stream_that_is_an_error_streams_nothing(cloud: Emulator) -> None:
    for name in STREAMING:
        cloud.reset()
        cloud.fail("nested_error_in_result_event")
        app = BailianApp(app_id="talking", api_key="k", base_url=cloud.base_url)
        outcome = PATHS[name](app, "hi")
        assert outcome.text == ""
        assert outcome.error is not None
        assert outcome.error.request_state == "unknown"


@pytest.mark.parametrize("idempotent", [False, True])
def test_an_error_of_each_path_says_whether_the_call_may_be_made_again(
    cloud: Emulator, idempotent: bool
) -> None:
    settings: dict[str, Any] = {"api_key": "k", "base_url": cloud.base_url, "max_retries": 0}
    for name, path in PATHS.items():
        cloud.reset()
        cloud.fail("http_500")
        outcome = path(BailianApp(app_id="talking", idempotent=idempotent, **settings), "hi")
        assert outcome.error is not None, name
        assert outcome.error.is_retryable is idempotent, name
