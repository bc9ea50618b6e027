"""No frame of this package on an error's traceback holds a key or a token."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from llama_index.core.memory import ChatMemoryBuffer
from pydantic import BaseModel
from support.wire import WAIT_S, Do, WireServer

import bailian_apps
from bailian_apps import BailianApp, BailianError, InvalidInputError
from bailian_apps.emulator import Emulator
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
)
from bailian_apps.llamaindex import (
    BailianAppChatEngine,
    BailianAppLLM,
    BailianAppQueryEngine,
    bailian_app_tool,
)
from bailian_apps.llamaindex import BailianAppRetriever as LlamaIndexRetriever

HOME = Path(bailian_apps.__file__).parent
KEY, TOKEN = "sk-hidden-0815", "hidden-token-4711"
BIZ_PARAMS = {"user_defined_params": {"mcp": {"Authorization": TOKEN}}, "pin": f"{TOKEN}-2"}
SECRETS: dict[str, Any] = {
    "api_key": KEY,
    "biz_params": BIZ_PARAMS,
    "secret_biz_params": ("pin",),
    "extra_body": {"input": {"biz_params": {"apiKey": TOKEN}}, "parameters": {"pin": TOKEN}},
    "extra_headers": {"X-Tenant": TOKEN},
}


def circular(**fields: Any) -> dict[str, Any]:
    fields["a"] = [fields]
    return fields


def deep(value: dict[str, Any]) -> dict[str, Any]:
    for _ in range(3000):
        value = {"a": value}
    return value


UNBOUNDED: list[tuple[str, dict[str, Any], str]] = [
    ("biz_params", circular(token=TOKEN), "refers to itself"),
    ("biz_params", deep({"token": TOKEN}), "is nested too deeply"),
    ("extra_body", {"input": circular(token=TOKEN)}, "refers to itself"),
    ("extra_body", {"parameters": deep({"token": TOKEN})}, "is nested too deeply"),
]

MEMORY = ChatMemoryBuffer.from_defaults(token_limit=3000)


class Params(BaseModel):
    user_token: str


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    """A cloud that refuses every key of this module."""
    with Emulator(apps={"a": lambda call: "ok"}, api_key="another") as cloud:
        yield cloud


def frames_with_secrets(error: BaseException | None, home: Path | None) -> list[str]:
    """The frames below the test on the tracebacks of an error and its causes."""
    found: list[str] = []
    while error is not None:
        at = error.__traceback__
        while at is not None:
            code = at.tb_frame.f_code
            file = Path(code.co_filename)
            ours = home is None or home in file.parents
            shown = repr(at.tb_frame.f_locals) if ours and file != Path(__file__) else ""
            if KEY in shown or TOKEN in shown:
                found.append(f"{file.name}:{code.co_name}")
            at = at.tb_next
        error = error.__cause__ or error.__context__
    return found


async def alast(items: Any) -> None:
    async for _ in items:
        pass


async def achunks(call: Any) -> None:
    await alast(await call)


def engine_of(llm: BailianAppLLM) -> BailianAppChatEngine:
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
    return BailianAppChatEngine(llm=llm, memory=memory)


WAYS: dict[str, Callable[[Any, Any, Any, dict[str, Any]], Any]] = {
    "BailianApp.invoke": lambda app, _, __, kw: app.invoke("hi", **kw),
    "BailianApp.stream": lambda app, _, __, kw: list(app.stream("hi", **kw)),
    "BailianApp.ainvoke": lambda app, _, __, kw: asyncio.run(app.ainvoke("hi", **kw)),
    "BailianApp.astream": lambda app, _, __, kw: asyncio.run(alast(app.astream("hi", **kw))),
    "chat.invoke": lambda _, chat, __, kw: chat.invoke("hi", **kw),
    "chat.stream": lambda _, chat, __, kw: list(chat.stream("hi", **kw)),
    "chat.ainvoke": lambda _, chat, __, kw: asyncio.run(chat.ainvoke("hi", **kw)),
    "chat.astream": lambda _, chat, __, kw: asyncio.run(alast(chat.astream("hi", **kw))),
    "LLM.complete": lambda _, __, llm, kw: llm.complete("hi", **kw),
    "LLM.stream_complete": lambda _, __, llm, kw: list(llm.stream_complete("hi", **kw)),
    "LLM.acomplete": lambda _, __, llm, kw: asyncio.run(llm.acomplete("hi", **kw)),
    "LLM.astream_complete": lambda _, __, llm, kw: asyncio.run(
        achunks(llm.astream_complete("hi", **kw))
    ),
    "engine.chat": lambda _, __, llm, kw: engine_of(llm).chat("hi", **kw),
    "engine.achat": lambda _, __, llm, kw: asyncio.run(engine_of(llm).achat("hi", **kw)),
}
SUBMISSIONS: dict[str, Callable[[Any, Any, Any, dict[str, Any]], Any]] = {
    "BailianApp.submit": lambda app, _, __, kw: app.submit("hi", **kw),
    "BailianApp.asubmit": lambda app, _, __, kw: asyncio.run(app.asubmit("hi", **kw)),
}
RUNNABLE_WAYS: dict[str, Callable[[Any, Any, dict[str, Any]], Any]] = {
    "invoke": lambda app, given, kw: app.invoke(given, **kw),
    "stream": lambda app, given, kw: list(app.stream(given, **kw)),
    "ainvoke": lambda app, given, kw: asyncio.run(app.ainvoke(given, **kw)),
    "astream": lambda app, given, kw: asyncio.run(alast(app.astream(given, **kw))),
}
WRONG = {"top_k": -1}
UNSENDABLE = {"biz_params": {"token": TOKEN, "x": {1, 2}}}
MISSPELT = {"apikey": KEY, "user_token": TOKEN}
NO_OBJECT = {"biz_params": f'{{"token": "{TOKEN}"}}'}


@pytest.mark.parametrize("extra", [{}, WRONG, UNSENDABLE, NO_OBJECT, MISSPELT])
@pytest.mark.parametrize("way", [*WAYS, *SUBMISSIONS])
def test_a_call_that_fails_leaves_its_secrets_in_no_frame(
    cloud: Emulator, way: str, extra: dict[str, Any]
) -> None:
    fields = {"app_id": "a", "api_key": "k", "base_url": cloud.base_url}
    objects = BailianApp(**fields), ChatBailianApp(**fields), BailianAppLLM(**fields)
    with pytest.raises(BailianError) as caught:
        (WAYS | SUBMISSIONS)[way](*objects, SECRETS | extra)
    assert frames_with_secrets(caught.value, HOME) == []


@pytest.mark.parametrize(("field", "value", "problem"), UNBOUNDED)
@pytest.mark.parametrize("way", WAYS)
def test_a_value_without_an_end_is_refused_and_in_no_frame(
    cloud: Emulator, way: str, field: str, value: Any, problem: str
) -> None:
    fields = {"app_id": "a", "api_key": "k", "base_url": cloud.base_url}
    objects = (
        BailianApp(**fields),
        ChatBailianApp(**fields, cache=InMemoryCache()),
        BailianAppLLM(**fields),
    )
    for call in (
        lambda: WAYS[way](*objects, {field: value}),
        lambda: type(objects[1])(**fields, **{field: value}),
        lambda: type(objects[2])(**fields, **{field: value}),
    ):
        with pytest.raises(InvalidInputError, match=problem) as caught:
            call()
        assert caught.value.field.startswith(field)
        assert frames_with_secrets(caught.value, HOME) == []


@pytest.mark.parametrize("way", [*WAYS, *SUBMISSIONS])
def test_secrets_in_fields_are_in_no_frame_at_all(cloud: Emulator, way: str) -> None:
    fields = SECRETS | {"app_id": "a", "base_url": cloud.base_url}
    objects = BailianApp(**fields), ChatBailianApp(**fields), BailianAppLLM(**fields)
    with pytest.raises(BailianError) as caught:
        (WAYS | SUBMISSIONS)[way](*objects, {})
    assert frames_with_secrets(caught.value, None) == []


@pytest.mark.parametrize("extra", [{}, WRONG])
@pytest.mark.parametrize("given", ["field", "call", "option", "variable"])
@pytest.mark.parametrize("way", RUNNABLE_WAYS)
def test_a_failed_runnable_leaves_its_secrets_in_no_frame(
    cloud: Emulator, way: str, given: str, extra: dict[str, Any]
) -> None:
    fields = {"app_id": "a", "base_url": cloud.base_url}
    fields |= SECRETS if given == "field" else {"api_key": "k"}
    dicts: dict[str, Any] = {"option": {"biz_params": BIZ_PARAMS}, "variable": {"token": TOKEN}}
    input_ = {"prompt": "hi"} | dicts.get(given, {})
    with pytest.raises(BailianError) as caught:
        kwargs = SECRETS if given == "call" else {"secret_biz_params": ("pin",)}
        RUNNABLE_WAYS[way](BailianAppRunnable(**fields), input_, kwargs | extra)
    assert frames_with_secrets(caught.value, HOME) == []


def call_tools(cloud: Emulator, kind: str) -> Any:
    fields: Any = {"app_id": "a", "api_key": KEY, "base_url": cloud.base_url}
    fields |= {"name": "t", "description": "d"}
    arguments = {"prompt": "hi", "user_token": TOKEN}
    if kind.startswith("LangChain"):
        tool = BailianAppTool(**fields, biz_params_schema=Params)
        return (
            tool.invoke(arguments)
            if kind.endswith("sync")
            else asyncio.run(tool.ainvoke(arguments))
        )
    other = bailian_app_tool(**fields, params=Params)
    return (
        other.call(**arguments) if kind.endswith("sync") else asyncio.run(other.acall(**arguments))
    )


@pytest.mark.parametrize("kind", ["LangChain sync", "LangChain", "LlamaIndex sync", "LlamaIndex"])
def test_a_failed_tool_leaves_its_arguments_in_no_frame(cloud: Emulator, kind: str) -> None:
    with pytest.raises(BailianError) as caught:
        call_tools(cloud, kind)
    assert frames_with_secrets(caught.value, HOME) == []


def test_a_failed_retriever_leaves_its_secrets_in_no_frame(cloud: Emulator) -> None:
    retriever = BailianAppRetriever(app_id="a", api_key="k", base_url=cloud.base_url)
    for ask in (
        lambda: retriever.invoke("hi", **SECRETS),
        lambda: asyncio.run(retriever.ainvoke("hi", **SECRETS)),
    ):
        with pytest.raises(BailianError) as caught:
            ask()
        assert frames_with_secrets(caught.value, HOME) == []


@pytest.mark.parametrize("extra", [WRONG, UNSENDABLE, NO_OBJECT, MISSPELT, {"api_key": f"{KEY}\n"}])
@pytest.mark.parametrize(
    "make",
    [
        BailianApp,
        ChatBailianApp,
        BailianAppRunnable,
        BailianAppRetriever,
        lambda **fields: BailianAppTool(name="t", description="d", **fields),
        BailianAppLLM,
        lambda **fields: BailianAppChatEngine.from_defaults(memory=MEMORY, **fields),
        BailianAppQueryEngine.from_defaults,
        LlamaIndexRetriever.from_defaults,
        lambda **fields: bailian_app_tool(name="t", description="d", **fields),
    ],
)
def test_a_constructor_that_refuses_leaves_no_secret_in_a_frame(
    make: Callable[..., Any], extra: dict[str, Any]
) -> None:
    with pytest.raises(BailianError) as caught:
        make(app_id="a", **(SECRETS | extra))
    assert frames_with_secrets(caught.value, HOME) == []
    assert TOKEN not in str(caught.value)
    assert KEY not in str(caught.value)


def make_each(cloud: Emulator, **fields: Any) -> list[tuple[Any, Callable[..., Any]]]:
    """Every object that can be pickled, and how to call it."""
    fields |= {"app_id": "a", "base_url": cloud.base_url}
    named: Any = fields | {"name": "t", "description": "d"}
    return [
        (BailianApp(**fields), lambda app, **kw: app.invoke("hi", **kw)),
        (ChatBailianApp(**fields), lambda chat, **kw: chat.invoke("hi", **kw)),
        (BailianAppRunnable(**fields), lambda app, **kw: app.invoke("hi", **kw)),
        (BailianAppRetriever(**fields), lambda app, **kw: app.invoke("hi", **kw)),
        (BailianAppLLM(**fields), lambda llm, **kw: llm.complete("hi", **kw)),
        (
            BailianAppTool(**named, biz_params_schema=Params, remember=True),
            lambda tool: tool.invoke({"prompt": "hi", "user_token": TOKEN}),
        ),
        (
            bailian_app_tool(**named, params=Params),
            lambda tool: tool.call(prompt="hi", user_token=TOKEN),
        ),
    ]


def test_a_pickle_with_the_environments_key_can_be_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Emulator(apps={"a": lambda call: "ok"}, api_key=KEY) as cloud:
        monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
        for made, ask in make_each(cloud):
            pickled = pickle.dumps(made)
            assert KEY.encode() not in pickled
            asked = len(cloud.requests)
            ask(pickle.loads(pickled))
            assert len(cloud.requests) == asked + 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({name: SECRETS[name]}, name)
        for name in ("api_key", "biz_params", "extra_body", "extra_headers")
    ],
)
def test_a_pickle_that_lost_a_secret_sends_nothing_until_it_is_given_again(
    fields: dict[str, Any], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "of-another-account")
    with Emulator(apps={"a": lambda call: "ok"}, strict=False) as cloud:
        for made, ask in make_each(cloud, **fields):
            pickled = pickle.dumps(made)
            assert KEY.encode() not in pickled
            again, asked = pickle.loads(pickled), len(cloud.requests)
            with pytest.raises(InvalidInputError, match="is masked") as caught:
                ask(again)
            assert caught.value.field.startswith(field)
            assert len(cloud.requests) == asked
            if "ool" not in type(again).__name__:
                ask(again, **fields)
                assert len(cloud.requests) == asked + 1


@pytest.mark.parametrize(
    "way", ["BailianApp.ainvoke", "BailianApp.asubmit", "chat.ainvoke", "LLM.acomplete"]
)
def test_a_cancelled_call_leaves_its_secrets_in_no_frame(way: str) -> None:
    of_a_run = {name: value for name, value in SECRETS.items() if name != "extra_body"}
    calls: dict[str, Callable[[dict[str, Any]], Any]] = {
        "BailianApp.ainvoke": lambda fields: BailianApp(**fields).ainvoke("hi", **SECRETS),
        "BailianApp.asubmit": lambda fields: BailianApp(**fields).asubmit("hi", **of_a_run),
        "chat.ainvoke": lambda fields: ChatBailianApp(**fields).ainvoke("hi", **SECRETS),
        "LLM.acomplete": lambda fields: BailianAppLLM(**fields).acomplete("hi", **SECRETS),
    }

    async def cancel_once_asked() -> asyncio.CancelledError:
        fields = {"app_id": "a", "api_key": "k", "base_url": server.base_url}
        task = asyncio.ensure_future(calls[way](fields))
        assert await asyncio.to_thread(server.asked.wait, WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return caught.value

    with WireServer([Do.STALL]) as server:
        error = asyncio.run(cancel_once_asked())
        assert TOKEN in str(server.posts[0])
    assert frames_with_secrets(error, HOME) == []
