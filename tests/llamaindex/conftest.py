"""Shared by the LlamaIndex tests: the eight LLM methods, and recorders of spans and events."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, CitationBlock, ThinkingBlock
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.memory import ChatMemoryBuffer
from pydantic import PrivateAttr

from bailian_apps.emulator import Emulator
from bailian_apps.llamaindex import BailianAppChatEngine, BailianAppLLM

CHAT_METHODS = ("chat", "stream_chat", "achat", "astream_chat")
COMPLETION_METHODS = ("complete", "stream_complete", "acomplete", "astream_complete")


@dataclass
class Seen:
    """What a caller saw of one call."""

    responses: list[Any] = field(default_factory=list)
    error: Exception | None = None

    @property
    def last(self) -> Any:
        return self.responses[-1]

    @property
    def raw(self) -> dict[str, Any]:
        return self.last.raw

    @property
    def text(self) -> str:
        message = getattr(self.last, "message", None)
        return self.last.text if message is None else message.content

    @property
    def streamed_text(self) -> str:
        return "".join(response.delta for response in self.responses)

    @property
    def streamed_thinking(self) -> str:
        kwargs = [response.additional_kwargs for response in self.responses]
        return "".join(each.get("thinking_delta", "") for each in kwargs)

    @property
    def thinking(self) -> str:
        blocks = self.last.message.blocks
        return "".join(block.content for block in blocks if isinstance(block, ThinkingBlock))

    @property
    def citations(self) -> list[str]:
        blocks = self.last.message.blocks
        return [block.cited_content.text for block in blocks if isinstance(block, CitationBlock)]


@dataclass(frozen=True)
class LLMMethod:
    """One of the eight LLM methods, behind one interface."""

    method: str

    @property
    def streams(self) -> bool:
        return "stream" in self.method

    @property
    def chats(self) -> bool:
        return self.method in CHAT_METHODS

    def __call__(self, llm: BailianAppLLM, prompt: Any = "你好", **kwargs: Any) -> Seen:
        if self.chats and isinstance(prompt, str):
            prompt = [ChatMessage(content=prompt)]
        seen = Seen()
        try:
            if self.method.startswith("a"):
                asyncio.run(self._call_async(seen, llm, prompt, kwargs))
            else:
                self._call(seen, llm, prompt, kwargs)
        except Exception as error:
            seen.error = error
        return seen

    def _call(self, seen: Seen, llm: BailianAppLLM, prompt: Any, kwargs: dict[str, Any]) -> None:
        answer = getattr(llm, self.method)(prompt, **kwargs)
        for response in answer if self.streams else [answer]:
            seen.responses.append(response)

    async def _call_async(
        self, seen: Seen, llm: BailianAppLLM, prompt: Any, kwargs: dict[str, Any]
    ) -> None:
        answer = await getattr(llm, self.method)(prompt, **kwargs)
        if not self.streams:
            seen.responses.append(answer)
            return
        async for response in answer:
            seen.responses.append(response)


@pytest.fixture(params=CHAT_METHODS + COMPLETION_METHODS)
def ask(request: pytest.FixtureRequest) -> LLMMethod:
    """Each of the eight methods."""
    return LLMMethod(request.param)


@pytest.fixture(params=CHAT_METHODS)
def chat(request: pytest.FixtureRequest) -> LLMMethod:
    """Each of the four chat methods."""
    return LLMMethod(request.param)


@pytest.fixture(params=COMPLETION_METHODS)
def complete(request: pytest.FixtureRequest) -> LLMMethod:
    """Each of the four completion methods."""
    return LLMMethod(request.param)


@pytest.fixture
def by_method() -> Callable[[str], LLMMethod]:
    """Makes one method from its name."""
    return LLMMethod


@pytest.fixture
def llm_of() -> Callable[..., BailianAppLLM]:
    """An LLM for an app of an emulator."""

    def llm_of(cloud: Any, app_id: str = "app", **settings: Any) -> BailianAppLLM:
        fields = {"api_key": "sk-test", "base_url": cloud.base_url, "max_retries": 0, **settings}
        return BailianAppLLM(app_id=app_id, **fields)

    return llm_of


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """LlamaIndex's synchronous `Memory` uses the thread's loop, and leaves its generators open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.fixture
def engine_of(loop: asyncio.AbstractEventLoop) -> Callable[..., BailianAppChatEngine]:
    def engine_of(cloud: Emulator, app_id: str = "app", **more: Any) -> BailianAppChatEngine:
        fields = {"api_key": "sk-test", "base_url": cloud.base_url, "max_retries": 0, **more}
        fields.setdefault("memory", ChatMemoryBuffer.from_defaults(token_limit=3000))
        return BailianAppChatEngine.from_defaults(app_id=app_id, **fields)

    return engine_of


@pytest.fixture(params=CHAT_METHODS)
def send(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Callable[..., Any]:
    """Send a message by one of the four methods and read the whole answer."""
    method = request.param

    async def send_async(engine: Any, *args: Any, **kwargs: Any) -> Any:
        response = await getattr(engine, method)(*args, **kwargs)
        if "stream" in method:
            deltas = [delta async for delta in response.async_response_gen()]
            assert response.response == "".join(deltas)
        return response

    def send(engine: Any, *args: Any, **kwargs: Any) -> Any:
        if method.startswith("a"):
            return loop.run_until_complete(send_async(engine, *args, **kwargs))
        response = getattr(engine, method)(*args, **kwargs)
        if "stream" in method:
            deltas = list(response.response_gen)
            assert response.response == "".join(deltas)
        return response

    send.method = method  # type: ignore[attr-defined]
    return send


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keeps what an LLM streams alive, so that only an explicit close can end it."""
    kept: list[Any] = []

    def keeping(method: Any) -> Any:
        def keep(*args: Any, **kwargs: Any) -> Any:
            kept.append(method(*args, **kwargs))
            return kept[-1]

        async def akeep(*args: Any, **kwargs: Any) -> Any:
            kept.append(await method(*args, **kwargs))
            return kept[-1]

        return akeep if inspect.iscoroutinefunction(method) else keep

    for name in ("stream_chat", "astream_chat", "stream_complete", "astream_complete"):
        monkeypatch.setattr(BailianAppLLM, name, keeping(getattr(BailianAppLLM, name)))
    return kept


@dataclass
class RecordedSpan:
    """One reported span."""

    id: str
    parent_id: str | None
    inputs: dict[str, Any]
    instance: Any
    outcome: str = "open"
    result: Any = None
    error: BaseException | None = None

    @property
    def name(self) -> str:
        return self.id.partition("-")[0]


class SpanRecorder(SimpleSpanHandler):
    """Records every span with its inputs and its result or error, in the order of entry."""

    _notes: dict[str, RecordedSpan] = PrivateAttr(default_factory=dict)
    _order: list[str] = PrivateAttr(default_factory=list)
    _awaited: dict[str, Callable[[], None]] = PrivateAttr(default_factory=dict)

    def when_entered(self, name: str, call: Callable[[], None]) -> None:
        self._awaited[name] = call

    def new_span(self, id_: str, bound_args: Any, *args: Any, **kwargs: Any) -> Any:
        parent_id, instance = kwargs.get("parent_span_id"), kwargs.get("instance")
        self._notes[id_] = RecordedSpan(id_, parent_id, dict(bound_args.arguments), instance)
        self._order.append(f"enter {self._notes[id_].name}")
        self._awaited.pop(self._notes[id_].name, lambda: None)()
        return super().new_span(id_, bound_args, *args, **kwargs)

    def prepare_to_exit_span(self, id_: str, *args: Any, **kwargs: Any) -> Any:
        self._end(id_, "exit", result=kwargs.get("result"))
        return super().prepare_to_exit_span(id_, *args, **kwargs)

    def prepare_to_drop_span(self, id_: str, *args: Any, **kwargs: Any) -> Any:
        self._end(id_, "drop", error=kwargs.get("err"))
        return super().prepare_to_drop_span(id_, *args, **kwargs)

    def _end(self, id_: str, outcome: str, **what: Any) -> None:
        note = self._notes[id_]
        assert note.outcome == "open", f"{note.name} ended twice"
        note.outcome = outcome
        result = what.get("result")
        note.result = None if inspect.isgenerator(result) or inspect.isasyncgen(result) else result
        note.error = what.get("error")
        self._order.append(f"{outcome} {note.name}")

    @property
    def notes(self) -> list[RecordedSpan]:
        return list(self._notes.values())

    @property
    def order(self) -> list[str]:
        return self._order

    def named(self, name: str) -> RecordedSpan:
        [note] = [note for note in self.notes if note.name == name]
        return note

    def tree(self, parent_id: str | None = None) -> list[tuple[Any, ...]]:
        """The spans below a parent: name, outcome, result and children of each."""
        return [
            (
                "LLM" if parent_id is None else note.name,
                note.outcome,
                None if parent_id is None else note.result,
                self.tree(note.id),
            )
            for note in self.notes
            if note.parent_id == parent_id
        ]

    def forget_results(self) -> None:
        """Drop the returned values, which would otherwise stay alive."""
        for note in self.notes:
            note.result = None

    def clear(self) -> None:
        self._notes.clear()
        self._order.clear()
        self.completed_spans.clear()
        self.dropped_spans.clear()


@pytest.fixture
def spans() -> Iterator[SpanRecorder]:
    """Records every LlamaIndex span of the test; fails if one stays open."""
    recorder, root = SpanRecorder(), get_dispatcher()
    root.add_span_handler(recorder)
    yield recorder
    root.span_handlers.remove(recorder)
    assert not recorder.open_spans


class EventRecorder(BaseEventHandler):
    """Records every event."""

    _events: list[Any] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "EventRecorder"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self._events.append(event)

    @property
    def events(self) -> list[Any]:
        return self._events

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self._events if isinstance(event, kind)]


@pytest.fixture
def events() -> Iterator[EventRecorder]:
    """Records every LlamaIndex event of the test."""
    recorder, root = EventRecorder(), get_dispatcher()
    root.add_event_handler(recorder)
    yield recorder
    root.event_handlers.remove(recorder)
