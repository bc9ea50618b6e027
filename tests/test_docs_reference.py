"""The reference pages name what is sent, and what the frameworks receive, in both languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from llama_index.core.callbacks import CallbackManager, EventPayload
from llama_index.core.callbacks.base_handler import BaseCallbackHandler as LegacyHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage
from support.pages import LANGUAGES, page, without_blocks

import bailian_apps
from bailian_apps.core.documents import RetrievedDocument
from bailian_apps.core.events import AppEvent
from bailian_apps.core.request import AppRequest, Input, Parameter
from bailian_apps.emulator import Agent, Emulator, Node, Workflow
from bailian_apps.langchain import BailianAppRetriever, BailianAppTool, ChatBailianApp
from bailian_apps.llamaindex import BailianAppLLM

in_both = pytest.mark.parametrize("language", LANGUAGES)

FLOW = Workflow(
    nodes=[
        Node(
            name="search",
            type="Retrieval",
            output={"content": "Broken Bridge", "score": 0.9},
            after=[],
        ),
        Node(
            name="model",
            reasoning="Local ones",
            output="West Lake",
            usage={"model_id": "qwen-max", "input_tokens": 2, "output_tokens": 1},
        ),
        Node(name="other", type="Script", when={"prompt": "never"}, output="x"),
        Node(name="end", type="End", mirrors="model", after=["model", "other"]),
    ]
)
GUIDE = Agent(
    thoughts=[
        {"reasoning": "The weather first."},
        {
            "tool": "weather",
            "arguments": ['{"city":', '"Hangzhou"}'],
            "observation": {"celsius": 20},
        },
        {
            "retrieval": "docs",
            "arguments": {"query": "lake"},
            "observation": [{"content": "Bridge"}],
        },
    ],
    references=[{"title": "Almanac", "text": "It rains."}],
    text="Take an umbrella<ref>[1]</ref>.",
    usage={"model_id": "qwen-max", "input_tokens": 2, "output_tokens": 1},
)
FAILING = Workflow(
    nodes=[
        Node(
            name="api",
            type="API",
            output="x",
            fails={"code": "AppProcessFailed", "message": "Boom"},
        ),
        Node(name="end", type="End"),
    ]
)


def names_on(name: str, language: str) -> set[str]:
    """Every word in code of a page."""
    code = re.findall(r"`([^`]+)`", without_blocks(page(name, language)))
    return {word for each in code for word in re.findall(r"[\w-]+", each)}


@pytest.fixture(scope="module")
def settings() -> Iterator[dict[str, Any]]:
    with Emulator(apps={"flow": FLOW, "guide": GUIDE, "failing": FAILING}) as cloud:
        yield {"api_key": "k", "base_url": cloud.base_url, "max_retries": 0}


@in_both
def test_the_wire_table_has_the_place_of_every_field_of_a_request(language: str) -> None:
    text = page("wire", language)
    for name, field in AppRequest.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, (Input, Parameter)):
                part = "input" if isinstance(mark, Input) else "parameters"
                assert f"`{name}`" in text, name
                assert f"`{part}.{mark.name or name}`" in text, name


@in_both
def test_the_wire_table_has_every_field_of_a_passage(language: str) -> None:
    assert set(RetrievedDocument.__slots__) <= names_on("wire", language)


def test_the_tables_of_both_languages_have_the_same_names() -> None:
    for name in ("wire", "events", "errors", "steps"):
        english, chinese = (names_on(name, language) for language in LANGUAGES)
        words = {word for word in english ^ chinese if word.isascii()}
        assert words <= {"NAME", "VERSION"}, name


@in_both
def test_the_page_of_events_has_every_event_of_a_stream(language: str) -> None:
    names = names_on("events", language)
    for kind in get_args(AppEvent):
        assert hasattr(bailian_apps, kind.__name__)
        assert {kind.__name__, *kind.__slots__} <= names


class Recorder(BaseCallbackHandler):
    """Keeps the names of all callbacks, and of what they got."""

    run_inline = True

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.metadata: set[str] = set()


def _record(name: str) -> Any:
    def callback(self: Recorder, *args: Any, **kwargs: Any) -> None:
        self.seen.add(name)
        own = {key for key in kwargs.get("metadata") or {} if key.startswith(("bailian", "ls_"))}
        self.metadata |= own - {"ls_integration", "ls_retriever_name"}  # LangChain's own
        if name == "on_chain_end":
            self.seen |= set(args[0])
        elif name == "on_custom_event":
            self.seen |= {args[0], args[1]["event"], *args[1], *args[1]["step"]}

    return callback


for _name in dir(BaseCallbackHandler):
    if _name.startswith("on_"):
        setattr(Recorder, _name, _record(_name))


@pytest.fixture(scope="module")
def langchain_seen(settings: dict[str, Any]) -> set[str]:
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    seen: set[str] = set()
    for app_id in ("flow", "guide"):
        model = ChatBailianApp(app_id=app_id, **settings)
        message = model.invoke("hi", config)
        list(model.stream("hi", config))
        seen |= {str(block["type"]) for block in message.content_blocks}
        seen |= set(message.response_metadata) | set(message.additional_kwargs)
        assert message.usage_metadata
        seen |= set(message.usage_metadata)
        for event in model.stream_events("hi", version="v3"):
            seen.add(str(event["event"]))
    tool = BailianAppTool(app_id="guide", name="t", description="d", **settings)
    tool.invoke("hi", config)
    BailianAppRetriever(app_id="guide", **settings).invoke("hi", config)
    with pytest.raises(bailian_apps.AppFailedError):
        ChatBailianApp(app_id="failing", **settings).invoke("hi", config)
    return seen | recorder.seen | recorder.metadata


@in_both
def test_the_page_of_events_names_what_langchain_receives(
    language: str, langchain_seen: set[str]
) -> None:
    fields = set(bailian_apps.Step.__dataclass_fields__)
    assert langchain_seen - fields - names_on("events", language) == set()
    section = page("events", language).split("\n## ")[2]
    callbacks = set(re.findall(r"`(on_\w+)`", section.split("### `astream_events`")[0]))
    assert callbacks - langchain_seen == {"on_tool_error", "on_retriever_error"}


@pytest.fixture(scope="module")
def llamaindex_seen(settings: dict[str, Any]) -> set[str]:
    seen: set[str] = set()

    class Events(BaseEventHandler):
        def handle(self, event: Any, **_: Any) -> None:
            if event.span_id is not None:
                seen.add(type(event).__name__)

    class Legacy(LegacyHandler):
        def on_event_start(self, kind: Any, payload: Any = None, *_: Any, **__: Any) -> str:
            seen.update({kind.name, *(EventPayload(key).name for key in payload)})
            return "id"

        def on_event_end(self, kind: Any, payload: Any = None, *_: Any, **__: Any) -> None:
            seen.update({kind.name, *(EventPayload(key).name for key in payload)})

        def start_trace(self, trace_id: str | None = None) -> None: ...

        def end_trace(self, *_: Any, **__: Any) -> None: ...

    dispatcher = get_dispatcher()
    handler = Events()
    dispatcher.add_event_handler(handler)
    try:
        for app_id in ("flow", "guide"):
            llm = BailianAppLLM(app_id=app_id, step_events=True, message_blocks="all", **settings)
            llm.callback_manager = CallbackManager([Legacy([], [])])
            response = llm.chat([ChatMessage(content="hi")])
            seen |= {type(block).__name__ for block in response.message.blocks}
            seen |= set(response.raw) | set(response.raw["usage"])
            list(llm.stream_chat([ChatMessage(content="hi")]))
            list(llm.stream_complete("hi"))
        llm = BailianAppLLM(app_id="failing", **settings)
        with pytest.raises(bailian_apps.AppFailedError):
            llm.complete("hi")
    finally:
        dispatcher.event_handlers.remove(handler)
    return seen


@in_both
def test_the_page_of_events_names_what_llamaindex_receives(
    language: str, llamaindex_seen: set[str]
) -> None:
    names = names_on("events", language) - {"input_tokens"}
    assert llamaindex_seen - names == set()
    section = page("events", language).split("\n## ")[4]
    listed = set(re.findall(r"`(\w+Event)`", section.split("\n### ")[0]))
    engines = {name for name in listed if name.startswith("StreamChat")}
    assert listed - engines == {name for name in llamaindex_seen if name.endswith("Event")}


def test_the_functions_that_move_a_conversation_are_the_same_in_both_languages() -> None:
    functions = [
        re.findall(r"^(def to_\w+.*?)^\n\n", page("memory-stores", language), re.M | re.S)
        for language in LANGUAGES
    ]
    assert len(functions[0]) == 2
    assert functions[0] == functions[1]


@in_both
@pytest.mark.parametrize("name", ["sessions", "steps", "streaming", "requests", "failures"])
def test_a_page_shows_the_diagram_of_its_language(language: str, name: str) -> None:
    shown = re.findall(r"^!\[([^\]]+)\]\(\.\./images/([\w.]+)\)$", page(name, language), re.M)
    assert [picture for _, picture in shown] == [f"{name}.{language}.svg"]
    assert len(shown[0][0]) > 20
