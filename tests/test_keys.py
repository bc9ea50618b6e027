"""API keys: every form, on every path; a callable is read for each attempt."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr
from support.paths import PATHS
from support.wire import WireServer, answer, event, frame, stream

from bailian_apps import AppSettings, AuthenticationError, BailianApp, InvalidInputError, Timeout
from bailian_apps.emulator import Emulator
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
)
from bailian_apps.llamaindex import BailianAppLLM, BailianAppQueryEngine

GOOD = stream(event(frame("你好", "stop")))
REFUSED = answer("401 Unauthorized", b'{"code":"InvalidApiKey","message":"no"}')
BUSY = answer("503 Busy", b"{}", "application/json", "Retry-After: 0")
ASYNC = ("ainvoke", "astream")


def sent_keys(server: WireServer) -> list[str]:
    lines = [head.decode().split("\r\n") for head in server.heads]
    return [
        line[22:] for head in lines for line in head if line.startswith("Authorization: Bearer ")
    ]


def app_at(server: WireServer, api_key: object, **settings: Any) -> BailianApp:
    return BailianApp(app_id="app", api_key=api_key, base_url=server.base_url, **settings)


def in_turn(*keys: str | SecretStr) -> Callable[[], str | SecretStr]:
    """A callable that returns one key after another, as one that renews temporary keys."""
    return partial(next, iter(keys))


def awaited(provider: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def read() -> Any:
        await asyncio.sleep(0)
        return provider()

    return read


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "given",
    [
        "sk-a",
        SecretStr("sk-a"),
        "Bearer sk-a",
        SecretStr("bearer  sk-a"),
        lambda: "sk-a",
        lambda: SecretStr("sk-a"),
        lambda: "Bearer sk-a",
    ],
)
def test_a_key_of_every_form_is_sent_as_the_bare_key(given: object, path: str) -> None:
    with WireServer(GOOD) as server:
        assert PATHS[path](app_at(server, given), "hi").text == "你好"
        assert sent_keys(server) == ["sk-a"]


@pytest.mark.parametrize("source", ["environment", "file"])
def test_a_key_with_the_word_bearer_is_recognised_wherever_it_is_stored(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    import dashscope

    (tmp_path / "key").write_text("Bearer sk-stored\n")
    monkeypatch.setattr(dashscope, "api_key", " " if source == "file" else "Bearer sk-stored")
    monkeypatch.setattr(dashscope, "api_key_file_path", str(tmp_path / "key"))
    monkeypatch.setenv("DASHSCOPE_API_KEY", "" if source == "file" else "Bearer sk-stored")
    with WireServer(GOOD) as server:
        assert BailianApp(app_id="app", base_url=server.base_url).invoke("hi").text == "你好"
        assert sent_keys(server) == ["sk-stored"]


@pytest.mark.parametrize("key", ["Bearer", "Bearer ", "bearer\t", ""])
def test_the_word_bearer_alone_is_not_a_key(key: str) -> None:
    with pytest.raises(InvalidInputError, match="api_key is empty"):
        BailianApp(app_id="app", api_key=key)


@pytest.mark.parametrize("path", ASYNC)
def test_an_async_callable_gives_the_key_of_an_async_call(path: str) -> None:
    with WireServer(GOOD) as server:
        assert PATHS[path](app_at(server, awaited(lambda: "st-a")), "hi").text == "你好"
        assert sent_keys(server) == ["st-a"]


@pytest.mark.parametrize("path", ["invoke", "stream"])
def test_an_async_callable_is_refused_in_a_sync_call_before_sending(path: str) -> None:
    with WireServer() as server:
        error = PATHS[path](app_at(server, awaited(lambda: "st-a")), "hi").error
        assert isinstance(error, InvalidInputError)
        assert (error.field, error.request_state, error.attempts) == ("api_key", "not_sent", 0)
        assert "cannot await. Use ainvoke or astream" in str(error)
        assert server.posts == []


@pytest.mark.parametrize("path", PATHS)
def test_a_callable_is_read_for_each_attempt(path: str) -> None:
    with WireServer(BUSY, GOOD) as server:
        outcome = PATHS[path](app_at(server, in_turn("st-1", "st-2")), "hi")
        assert outcome.result is not None
        assert outcome.result.attempts == 2
        assert sent_keys(server) == ["st-1", "st-2"]


@pytest.mark.parametrize("path", PATHS)
def test_a_refused_key_is_read_once_more_and_another_one_is_sent(path: str) -> None:
    with WireServer(REFUSED, GOOD) as server:
        app = app_at(server, in_turn("st-old", "st-new"), max_retries=0)
        outcome = PATHS[path](app, "hi")
        assert outcome.result is not None
        assert (outcome.text, outcome.result.attempts) == ("你好", 2)
        assert sent_keys(server) == ["st-old", "st-new"]


@pytest.mark.parametrize("path", PATHS)
def test_a_refused_key_that_stays_the_same_is_not_sent_again(path: str) -> None:
    reads = itertools.count()
    with WireServer(REFUSED) as server:
        error = PATHS[path](app_at(server, lambda: f"st-{next(reads) * 0}"), "hi").error
        assert isinstance(error, AuthenticationError)
        assert (error.attempts, next(reads), sent_keys(server)) == (1, 2, ["st-0"])


@pytest.mark.parametrize("path", PATHS)
def test_a_second_refusal_is_final(path: str) -> None:
    with WireServer(REFUSED, REFUSED) as server:
        error = PATHS[path](app_at(server, in_turn("st-1", "st-2", "st-3")), "hi").error
        assert isinstance(error, AuthenticationError)
        assert (error.attempts, sent_keys(server)) == (2, ["st-1", "st-2"])


@pytest.mark.parametrize("path", PATHS)
def test_a_refusal_does_not_count_against_max_retries(path: str) -> None:
    with WireServer(REFUSED, BUSY, GOOD) as server:
        app = app_at(server, in_turn("st-1", "st-2", "st-3"), max_retries=1)
        outcome = PATHS[path](app, "hi")
        assert outcome.result is not None
        assert (outcome.result.attempts, sent_keys(server)) == (3, ["st-1", "st-2", "st-3"])


@pytest.mark.parametrize("path", PATHS)
def test_a_fixed_key_that_is_refused_is_sent_once(path: str) -> None:
    with WireServer(REFUSED) as server:
        error = PATHS[path](app_at(server, "sk-a"), "hi").error
        assert isinstance(error, AuthenticationError)
        assert (error.attempts, len(server.posts)) == (1, 1)


def raising() -> str:
    key = "st-secret"
    raise TimeoutError(f"no new key in place of the old one ({len(key)} characters)")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("provider", "problem"),
    [
        (raising, "api_key could not be read: the callable raised TimeoutError"),
        (lambda: "st-secret\nX: 1", "api_key is empty, or has"),
        (lambda: "", "api_key is empty, or has"),
        (lambda: None, "api_key is a callable that returned a NoneType"),
    ],
)
def test_a_callable_without_a_key_is_a_typed_error_that_shows_none(
    provider: Callable[[], Any], problem: str, path: str
) -> None:
    with WireServer() as server:
        error = PATHS[path](app_at(server, provider), "hi").error
        assert isinstance(error, InvalidInputError)
        assert str(error).startswith(problem)
        assert (error.request_state, error.attempts, server.posts) == ("not_sent", 0, [])
    assert isinstance(error.__cause__, TimeoutError if provider is raising else type(None))
    assert "secret" not in str(error)
    for frame_, _ in traceback.walk_tb(error.__traceback__):
        if "bailian_apps" in frame_.f_code.co_filename:
            assert "st-secret" not in repr(frame_.f_locals)


def test_a_callable_that_fails_after_a_refusal_is_the_error() -> None:
    with WireServer(REFUSED) as server:
        error = PATHS["invoke"](app_at(server, in_turn("st-1")), "hi").error
        assert isinstance(error, InvalidInputError)
        assert isinstance(error.__cause__, StopIteration)
        assert error.attempts == 1


def test_a_session_is_free_again_after_a_key_that_could_not_be_read() -> None:
    """The claim of its next round is released: the app certainly did not run."""
    from langchain_core.messages import HumanMessage

    with Emulator(apps={"app": lambda call: f"answer to {call.prompt}"}) as cloud:
        model = ChatBailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        first = model.invoke([HumanMessage("one")])
        messages = [HumanMessage("one"), first, HumanMessage("two")]
        with pytest.raises(InvalidInputError):
            model.invoke(messages, api_key=raising)
        model.invoke(messages)
        assert cloud.requests[-1].session_id == first.response_metadata["session_id"]


ADAPTERS: dict[str, Callable[..., Any]] = {
    "ChatBailianApp": lambda **s: ChatBailianApp(**s).invoke("hi"),
    "BailianAppRunnable": lambda **s: BailianAppRunnable(**s).invoke("hi"),
    "BailianAppTool": lambda **s: BailianAppTool(name="t", description="d", **s).invoke("hi"),
    "BailianAppRetriever": lambda **s: BailianAppRetriever(**s).invoke("hi"),
    "BailianAppLLM": lambda **s: BailianAppLLM(**s).complete("hi"),
    "BailianAppQueryEngine": lambda **s: BailianAppQueryEngine.from_defaults(**s).query("hi"),
}


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_takes_a_callable_and_renews_a_refused_key(adapter: str) -> None:
    with WireServer(REFUSED, GOOD) as server:
        provider = in_turn("st-old", "st-new")
        ADAPTERS[adapter](app_id="app", api_key=provider, base_url=server.base_url)
        assert sent_keys(server) == ["st-old", "st-new"]


@pytest.mark.parametrize("adapter", [ChatBailianApp, BailianAppRunnable, BailianAppLLM])
def test_a_callable_is_in_no_form_of_an_adapter_that_is_stored(adapter: Callable[..., Any]) -> None:
    made = adapter(app_id="app", api_key=in_turn("st-a"))
    assert "api_key" not in repr(made)
    assert "api_key" not in made.model_dump()
    assert made.model_copy(deep=True).api_key is not None


def test_a_pickle_asks_for_a_lost_callable_again() -> None:
    settings = pickle.loads(pickle.dumps(AppSettings(app_id="app", api_key=raising)))
    with pytest.raises(InvalidInputError, match="api_key is masked"):
        BailianApp(settings).invoke("hi")


def test_a_key_has_a_json_schema_as_a_password() -> None:
    schema = AppSettings.model_json_schema()["properties"]["api_key"]
    assert {"type": "string", "format": "password", "writeOnly": True} in schema["anyOf"]


@pytest.mark.parametrize("wrong", [5, ["sk-secret"], b"sk-secret"])
def test_a_key_of_another_type_is_refused_without_its_value(wrong: object) -> None:
    with pytest.raises(
        InvalidInputError, match="api_key must be a str, a SecretStr or a callable"
    ) as caught:
        BailianApp(app_id="app", api_key=wrong)
    assert "secret" not in str(caught.value)


def test_a_deadline_ends_a_call_whose_key_was_refused_again_and_again() -> None:
    with WireServer(REFUSED, REFUSED) as server:
        app = app_at(server, in_turn("st-1", "st-2"), timeout=Timeout(total_s=60))
        assert isinstance(PATHS["invoke"](app, "hi").error, AuthenticationError)


@pytest.mark.parametrize("turns", range(5))
async def test_a_call_that_is_cancelled_as_its_key_arrives_ends(turns: int) -> None:
    """`asyncio.wait_for` loses such a cancellation before Python 3.12, and the app would run."""
    asked, arrived = asyncio.Event(), asyncio.Event()

    async def key() -> str:
        asked.set()
        await arrived.wait()
        return "sk"

    with Emulator(apps={"a": lambda call: "hi"}) as cloud:
        app = BailianApp(
            app_id="a", api_key=key, base_url=cloud.base_url, timeout=Timeout(total_s=60)
        )
        call = asyncio.ensure_future(app.ainvoke("hi"))
        await asked.wait()
        arrived.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await app.ainvoke("hi")).text == "hi"
