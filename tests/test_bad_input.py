"""Whatever is passed: it arrives as it is, or one printable line names the field and nothing is sent.

Each value that cannot be sent holds `MARKER`, which no error may show.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import json
import logging
import pickle
import re
import traceback
import types
import uuid
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from pydantic import BaseModel, SecretBytes, SecretStr
from support.paths import PATHS
from support.wire import WireServer, answer, event, stream

from bailian_apps import (
    AppSettings,
    BailianApp,
    BailianError,
    Client,
    HistoryTemplate,
    InvalidInputError,
    Timeout,
)
from bailian_apps.core.settings import CALL_NAMES, SETTING_NAMES
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

MARKER = "val-7f3"
SECRETS = {
    "api_key": "sk-hidden-1",
    "extra_headers": {"X-A": "tok-hidden-2"},
    "biz_params": {"user_defined_tokens": {"p": {"user_token": "tok-hidden-3"}}},
}
NASTY = (
    "\r\n",
    "\0",
    "\u200b",
    "\u202e",
    "\u2028",
    "\x1b[31m",
    "\ud800",
    "/../",
    "?a=b#",
    "%2F",
    " x",
)
DESCRIBED = {"name": "t", "description": "d"}


@dataclasses.dataclass
class Node:
    value: Any = None


class Model(BaseModel):
    value: Any = None


class Colour(enum.Enum):
    RED = MARKER


def _cyclic(kind: str) -> Any:
    made: Any = {"dict": {}, "list": [], "dataclass": Node(), "model": Model()}[kind]
    if kind == "dict":
        made["self"] = made
    elif kind == "list":
        made.append(made)
    else:
        made.value = made
    return made


def _deep(wrap: Callable[[Any], Any]) -> Any:
    made: Any = MARKER
    for _ in range(3000):
        made = wrap(made)
    return made


class Made:
    """A value under a name, because Hypothesis cannot show some of them."""

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self.value = value

    def __repr__(self) -> str:
        return self.name


def _within(item: Made, wrap: Callable[[Any], Any], name: str) -> Made:
    return Made(f"{name} of {item.name}", wrap(item.value))


TEXTS = {
    f"{where} {nasty!r}": where.format(nasty)
    for where in (MARKER + "{}", "{}" + MARKER, "https://a/{}" + MARKER)
    for nasty in NASTY
}
LEAVES = st.sampled_from(
    [
        *(Made(name, text) for name, text in TEXTS.items()),
        *(Made(f"SecretStr {name}", SecretStr(text)) for name, text in TEXTS.items()),
        *(
            Made(f"{type(value).__name__} {index}", value)
            for index, value in enumerate(
                [
                    *("", " \t", "k" * 50, MARKER * 20_000, None, True),
                    *(float("nan"), float("inf"), -1, 2**65, 10**5000, -(10**5000), 1e300, 1j),
                    *(MARKER.encode(), {MARKER}, frozenset({MARKER}), SecretBytes(b"\xff")),
                    *(datetime.datetime(2026, 1, 1), Decimal("sNaN"), uuid.uuid4(), Colour.RED),
                    *(Path(MARKER), Path(f"{MARKER}\0"), ValueError(MARKER), object(), dict),
                    *(_cyclic(kind) for kind in ("dict", "list", "dataclass", "model")),
                    *(_deep(lambda made: {"a": made}), _deep(lambda made: [made])),
                ]
            )
        ),
        Made("a type with an odd name", type("Odd\n\u202e" + "x" * 3000, (), {})()),
        Made("a type without a name", type("", (), {})()),
    ]
)
KEYS = ("a", "a\n\u202eb", "\ud800", "k" * 5000, "", "X-A", "user_defined_tokens", 1, None)
HOSTILE = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda item: _within(item, lambda value: [value, value], "list")),
        st.builds(
            lambda item, key: _within(item, lambda value: {key: value}, f"dict {key!r:.20}"),
            inner,
            st.sampled_from(KEYS),
        ),
        inner.map(lambda item: _within(item, lambda v: types.MappingProxyType({"a": v}), "proxy")),
        inner.map(lambda item: _within(item, lambda value: UserDict(a=value), "UserDict")),
        inner.map(lambda item: _within(item, lambda value: OrderedDict(a=value), "OrderedDict")),
    ),
    max_leaves=3,
)


async def _last(events: Any) -> None:
    async for _ in events:
        pass


WAYS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "constructor": lambda base, more: BailianApp(**base | more).invoke("hi"),
    "setting": lambda base, more: AppSettings(**base | more),
    "set later": lambda base, more: setattr(AppSettings(**base), *next(iter(more.items()))),
    "invoke": lambda base, more: BailianApp(**base).invoke(**{"prompt": "hi"} | more),
    "stream": lambda base, more: list(BailianApp(**base).stream(**{"prompt": "hi"} | more)),
    "ainvoke": lambda base, more: asyncio.run(
        BailianApp(**base).ainvoke(**{"prompt": "hi"} | more)
    ),
    "astream": lambda base, more: asyncio.run(
        _last(BailianApp(**base).astream(**{"prompt": "hi"} | more))
    ),
    "ChatBailianApp": lambda base, more: ChatBailianApp(**base | more).invoke("hi"),
    "model.invoke": lambda base, more: ChatBailianApp(**base).invoke("hi", **more),
    "model.ainvoke": lambda base, more: asyncio.run(
        ChatBailianApp(**base).ainvoke("hi", **more)
    ),
    "model.stream": lambda base, more: list(ChatBailianApp(**base).stream("hi", **more)),
    "model.bind": lambda base, more: ChatBailianApp(**base).bind(**more).invoke("hi"),
    "Runnable": lambda base, more: BailianAppRunnable(**base).invoke("hi", **more),
    "Retriever": lambda base, more: BailianAppRetriever(**base).invoke("hi", **more),
    "Tool": lambda base, more: BailianAppTool(**DESCRIBED, **base | more).invoke("hi"),
    "BailianAppLLM": lambda base, more: BailianAppLLM(**base | more).complete("hi"),
    "llm.complete": lambda base, more: BailianAppLLM(**base).complete("hi", **more),
    "llm.acomplete": lambda base, more: asyncio.run(
        BailianAppLLM(**base).acomplete("hi", **more)
    ),
    "QueryEngine": lambda base, more: BailianAppQueryEngine.from_defaults(**base | more).query("hi"),
    "LlamaIndexRetriever": lambda base, more: LlamaIndexRetriever.from_defaults(
        **base | more
    ).retrieve("hi"),
    "bailian_app_tool": lambda base, more: bailian_app_tool(**DESCRIBED, **base | more).call("hi"),
}  # fmt: skip
OF_CONSTRUCTORS = {
    "constructor", "setting", "set later", "ChatBailianApp", "Tool", "BailianAppLLM", "QueryEngine",
    "LlamaIndexRetriever", "bailian_app_tool",
}  # fmt: skip
OF_ANY_FIELD = {"invoke", "stream", "ainvoke", "astream"}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    with Emulator(apps={"a": lambda call: "ok"}, strict=False) as running:
        yield running


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def base_of(cloud: Emulator) -> dict[str, Any]:
    return {"app_id": "a", "base_url": cloud.base_url, "max_retries": 0, **SECRETS}


def assert_one_line(error: BaseException) -> None:
    shown = str(error)
    assert shown.isprintable()
    assert 0 < len(shown) <= 2_000
    assert MARKER not in shown
    assert "hidden" not in shown + repr(error)
    assert str(pickle.loads(pickle.dumps(error))) == shown


def assert_frames_are_clean(error: BaseException) -> None:
    """The frames of this package hold no secret, and have nothing whose repr raises."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "bailian_apps" in frame.f_code.co_filename:
            for value in list(frame.f_locals.values()):
                if type(value).__module__.startswith("bailian_apps"):
                    assert "hidden" not in repr(value)


def root_of(error: InvalidInputError) -> str:
    return re.split(r"[.\[]", error.field, maxsplit=1)[0]


@settings(max_examples=400)
@given(
    way_and_name=st.sampled_from(
        [
            (way, name)
            for way in WAYS
            for name in sorted(
                SETTING_NAMES
                if way in OF_CONSTRUCTORS
                else CALL_NAMES
                if way in OF_ANY_FIELD
                else CALL_NAMES - {"prompt", "messages"}
            )
        ]
    ),
    made=HOSTILE,
)
def test_a_value_is_sent_or_refused_by_its_field(
    cloud: Emulator, way_and_name: tuple[str, str], made: Made
) -> None:
    way, name = way_and_name
    before = len(cloud.requests)
    error: BaseException | None = None
    try:
        WAYS[way](base_of(cloud), {name: made.value})
    except Exception as raised:
        error = raised
    if isinstance(error, InvalidInputError):
        assert root_of(error) == name
        assert_one_line(error)
        assert_frames_are_clean(error)
        assert error.request_state == "not_sent"
        assert len(cloud.requests) == before
    elif error is not None:  # it was sent: text that is too long for a server
        assert isinstance(error, BailianError)
        assert name in ("api_key", "app_id", "workspace", "extra_headers", "base_url")
        assert_one_line(error)


PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.one_of(
        PLAIN,
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(PLAIN, inner, max_size=3),
        st.dictionaries(PLAIN, inner, max_size=3).map(OrderedDict),
    ),
    max_leaves=10,
)
IDS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=40)


@settings(max_examples=150)
@given(
    way=st.sampled_from(["invoke", "ainvoke", "model.invoke", "llm.complete", "Runnable"]),
    params=st.dictionaries(
        PLAIN.filter(lambda key: key != "user_defined_tokens"), JSON, min_size=1
    ),
    options=st.dictionaries(PLAIN, JSON, min_size=1),
    memory_id=IDS,
    model_id=IDS,
)
def test_what_is_unusual_and_valid_arrives_as_it_is(
    cloud: Emulator,
    way: str,
    params: dict[str, Any],
    options: dict[str, Any],
    memory_id: str,
    model_id: str,
) -> None:
    more = {"biz_params": params, "rag_options": options}
    WAYS[way](base_of(cloud), {**more, "memory_id": memory_id, "model_id": model_id})
    sent = cloud.requests[-1]
    assert sent.input["biz_params"] == params
    assert sent.parameters["rag_options"] == options
    assert (sent.input["memory_id"], sent.parameters["model_id"]) == (memory_id, model_id)


@settings(max_examples=60)
@given(prompt=PLAIN.filter(str.strip), session_id=IDS, path=st.sampled_from(list(PATHS)))
def test_an_unusual_prompt_and_session_arrive_as_they_are(
    cloud: Emulator, prompt: str, session_id: str, path: str
) -> None:
    app = BailianApp(**base_of(cloud))
    assert PATHS[path](app, prompt, session_id=session_id).error is None
    sent = cloud.requests[-1].input
    assert (sent["prompt"], sent["session_id"]) == (prompt, session_id)


@pytest.mark.parametrize("number", [2**64, -(2**200), 10**4299])
def test_a_long_integer_is_sent_digit_by_digit(number: int) -> None:
    with WireServer(stream(event({"output": {"text": "ok", "finish_reason": "stop"}}))) as server:
        app = BailianApp(app_id="a", api_key="k", base_url=server.base_url)
        app.invoke("hi", biz_params={"n": number})
        assert b'"n": %s}' % str(number).encode() in server.bodies[0]


NO_SESSION: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{
        path: lambda base, path=path: PATHS[path](BailianApp(**base), "hi", session_id="").result
        for path in PATHS
    },
    "extra_body": lambda base: BailianApp(**base).invoke(
        "hi", extra_body={"input": {"session_id": ""}}
    ),
    "model": lambda base: ChatBailianApp(**base, session_id="").invoke("hi"),
    "model.invoke": lambda base: ChatBailianApp(**base).invoke("hi", session_id=""),
    "Runnable": lambda base: BailianAppRunnable(**base).invoke({"prompt": "hi", "session_id": ""}),
    "llm.complete": lambda base: BailianAppLLM(**base).complete("hi", session_id=""),
    "llm.chat": lambda base: BailianAppLLM(**base).chat([ChatMessage("hi")], session_id=""),
}


@pytest.mark.parametrize("way", NO_SESSION)
def test_an_empty_session_id_is_none(
    cloud: Emulator, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = NO_SESSION[way](base_of(cloud))
    assert not getattr(result, "context_lost", False)
    assert caplog.text == ""
    assert way == "extra_body" or "session_id" not in cloud.requests[-1].input


TOKENS = {"user_defined_tokens": {"p": {"user_token": f"{MARKER}\r\n"}}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"session_id": " \t"}, "session_id is blank. Pass the id, or leave it out"),
        ({"session_id": "a\0"}, "session_id has a line break, or a control or invisible character"),
        ({"mcp_servers": ["a", "b\u200b"]}, "mcp_servers[1] has a line break, or a control or inv"),
        ({"biz_params": TOKENS}, "biz_params.user_defined_tokens.p.user_token has a line break or"),
        ({"extra_body": {"input": {"biz_params": TOKENS}}}, "extra_body.input.biz_params.user_def"),
        ({"biz_params": {"a": UserDict(b=1)}}, "biz_params.a is an UserDict, which JSON cannot rep"
         "resent. Pass dict(value)"),
        ({"biz_params": {"a": Node()}}, "biz_params.a is a Node, which JSON cannot represent. Pass "
         "dataclasses.asdict(value)"),
        ({"biz_params": {"a": Colour.RED}}, "biz_params.a is a Colour, which JSON cannot represent"
         ". Pass .value"),
        ({"biz_params": {"a\n\u202e": {1}}}, "biz_params.a\\n\\u202e is a set, which JSON cannot"),
        ({"biz_params": {"a": {"\ud800": 1}}}, "biz_params.a has a key with half of a surrogate pai"),
        ({"top_k": 2**63}, "top_k must be less than or equal to 9223372036854775807"),
        ({"biz_params": {"n": 10**4300}}, "biz_params.n is an int of more than 4,300 digits. Pass "),
        ({"timeout": 1e10}, "timeout must be at most 1e9 seconds"),
        ({"base_url": "http://a\x1b"}, "base_url is not an http(s) URL or the name of a region"),
    ],
)  # fmt: skip
def test_an_error_says_what_to_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        BailianApp(app_id="a", api_key="k").invoke("hi", **options)
    assert str(caught.value).startswith(message)
    assert_one_line(caught.value)


def chat_engine() -> BailianAppChatEngine:
    memory = ChatMemoryBuffer.from_defaults(token_limit=1000)
    return BailianAppChatEngine.from_defaults(**BASE, memory=memory)


BASE = {"app_id": "a", "api_key": "k", "base_url": "http://127.0.0.1:9/api/v1"}


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: Timeout(connect_s=-1), "connect_s"),
        (lambda: Timeout(total_s=float("nan")), "total_s"),
        (lambda: Timeout(conect_s=MARKER), "conect_s"),  # pyright: ignore[reportCallIssue]
        (lambda: BailianApp(**BASE, timeout={"connect_s": MARKER, 1: 2}), "timeout.connect_s"),
        (lambda: HistoryTemplate(user=MARKER), "user"),
        (lambda: BailianApp(**BASE, history_template={"user": MARKER}), "history_template.user"),
        (lambda: AppSettings(app_id="a", top_k=MARKER), "top_k"),  # pyright: ignore[reportArgumentType]
        (lambda: BailianApp({"app_id": MARKER}), "settings"),  # pyright: ignore[reportArgumentType]
        (lambda: Client(ca_bundle=[MARKER]), "ca_bundle"),  # pyright: ignore[reportArgumentType]
        (lambda: Client(max_idle_connections=MARKER), "max_idle_connections"),  # pyright: ignore[reportArgumentType]
        (lambda: Client(proxy=f"{MARKER}\n"), "proxy"),
        (lambda: ChatBailianApp(**BASE).invoke("hi", stop=MARKER), "stop"),
        (lambda: ChatBailianApp(**BASE).invoke("hi", stop=[5]), "stop"),
        (lambda: list(ChatBailianApp(**BASE).stream("hi", stop=5)), "stop"),
        (lambda: ChatBailianApp(**BASE).invoke([{"role": "user", "content": {MARKER: 1}}]),
         "messages.content.str"),
        (lambda: ChatBailianApp(**BASE).invoke([{"rol": "user", "content": MARKER}]), "messages"),
        (lambda: BailianAppRunnable(**BASE).invoke({"messages": [{"rol": MARKER}]}), "messages"),
        (lambda: BailianAppRunnable(**BASE).invoke([object()]), "messages"),
        (lambda: BailianAppRetriever(**BASE).invoke({MARKER: 1}), "query"),
        (lambda: BailianAppRetriever(**BASE).invoke(""), "prompt"),
        (lambda: BailianAppRetriever(**BASE).invoke("hi", k=-1), "k"),
        (lambda: BailianAppTool(**DESCRIBED, **BASE).invoke([MARKER]), "input"),
        (lambda: BailianAppLLM(**BASE).complete([MARKER]), "prompt"),
        (lambda: BailianAppQueryEngine(llm=MARKER), "llm"),
        (lambda: BailianAppQueryEngine(app=MARKER), "app"),
        (lambda: chat_engine().chat([MARKER]), "message"),
    ],
)  # fmt: skip
def test_an_argument_of_a_wrong_type_is_named(call: Callable[[], Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.field == field
    assert_one_line(caught.value)
    assert_frames_are_clean(caught.value)


def test_a_cache_is_not_asked_with_a_value_that_cannot_be_written() -> None:
    from langchain_core.caches import InMemoryCache

    model = ChatBailianApp(**BASE, cache=InMemoryCache())
    for value in (10**5000, _deep(lambda made: {"a": made})):
        with pytest.raises(InvalidInputError, match="temperature must be"):
            model.invoke("hi", temperature=value)


def test_a_key_of_a_wrong_type_is_in_no_event_of_llamaindex() -> None:
    from llama_index_instrumentation import get_dispatcher
    from llama_index_instrumentation.event_handlers import BaseEventHandler

    published: list[str] = []

    class Collect(BaseEventHandler):
        @classmethod
        def class_name(cls) -> str:
            return "Collect"

        def handle(self, event: Any, **_: Any) -> None:
            published.append(f"{event!r} {event.model_dump()}")

    handler = Collect()
    get_dispatcher().add_event_handler(handler)
    try:
        for key in (b"sk-hidden", ["sk-hidden"], {"key": "sk-hidden"}, _cyclic("dict")):
            with pytest.raises(InvalidInputError, match="api_key must be a str, a SecretStr or"):
                BailianAppLLM(**BASE).complete("hi", api_key=key)
    finally:
        get_dispatcher().event_handlers.remove(handler)
    assert "hidden" not in "".join(published)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("form", ["JSON", "event", "not JSON"])
@pytest.mark.parametrize(
    "message",
    [
        "first\r\n\tsecond\u3000third",
        "\x1b[2J\0\u202e\u200b",
        "错" * 100_000,
        "\ud800",
        "x\n" * 5_000,
    ],
    ids=["lines", "controls", "long", "surrogate", "many lines"],
)
def test_an_answer_of_any_text_is_an_error_of_one_line(path: str, form: str, message: str) -> None:
    fields = {"code": f"InvalidApiKey.{message}", "message": message, "request_id": message}
    body = stream(event(json.dumps(fields), name="error", status=401))
    if form == "JSON":
        body = answer("401 Unauthorized", json.dumps(fields).encode())
    elif form == "not JSON":
        body = answer("401 Unauthorized", message.encode("utf-8", "replace"), "text/x\x1b-odd")
    with WireServer(body) as server:
        app = BailianApp(app_id="a", api_key="sk-hidden", base_url=server.base_url)
        error = PATHS[path](app, "hi").error
    assert_one_line(error)
    assert len(repr(error)) <= 2_100
    assert "HTTP 401" in str(error) or len(message) > 1_000 or form == "event"


def test_line_breaks_of_the_cloud_become_spaces_and_stay_in_message() -> None:
    error = BailianError("first\r\n\tsecond\u3000third", code="A\x1b")
    assert str(error) == "[A\\x1b] first second third"
    assert error.message == "first\r\n\tsecond\u3000third"
    long = BailianError("a" * 5_000 + " | api_key: set DASHSCOPE_API_KEY")
    assert str(long).endswith("aaa | api_key: set DASHSCOPE_API_KEY")
    assert len(str(long)) == 2_000


def test_a_refused_constructor_leaves_nothing_whose_repr_raises() -> None:
    made: dict[str, Callable[..., Any]] = {
        "AppSettings": AppSettings, "BailianApp": BailianApp, "ChatBailianApp": ChatBailianApp,
        "BailianAppRunnable": BailianAppRunnable, "BailianAppRetriever": BailianAppRetriever,
        "BailianAppTool": lambda **fields: BailianAppTool(**DESCRIBED, **fields),
        "BailianAppLLM": BailianAppLLM, "Timeout": Timeout, "HistoryTemplate": HistoryTemplate,
        "Client": lambda **_: Client(max_idle_connections=0),
    }  # fmt: skip
    for make in made.values():
        with pytest.raises(InvalidInputError) as caught:
            make(app_id="", no_such_setting=1)
        for frame, _ in traceback.walk_tb(caught.tb.tb_next):
            for value in list(frame.f_locals.values()):
                assert repr(value)
