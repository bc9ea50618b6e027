"""LlamaIndex's event per chunk: sent while there is a handler, skipped while there is none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import (
    CallbackManager,
    CBEventType,
    EventPayload,
    LlamaDebugHandler,
)
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
)
from llama_index.core.llms import callbacks

from bailian_apps import ServerError
from bailian_apps.emulator import Call, Emulator, Failure
from bailian_apps.llamaindex import BailianAppLLM

TEXT = "西湖在杭州"
IN_PROGRESS = (LLMChatInProgressEvent, LLMCompletionInProgressEvent)
END = (LLMChatEndEvent, LLMCompletionEndEvent)


class Reader:
    """An app, and a reader of its stream: the app sends a frame when the last one was read."""

    def __init__(self, *, fails_after: int | None = None) -> None:
        self._fails_after = fails_after
        self._may_send = threading.Semaphore(1)
        self.chunks: list[Any] = []

    def app(self, call: Call) -> Iterator[Any]:
        for count, text in enumerate(TEXT):
            assert self._may_send.acquire(timeout=60)
            if count == self._fails_after:
                yield Failure(status=500, code="SystemError")
                return
            yield {"output": {"text": text, "finish_reason": "null"}}
        yield {"output": {"text": "", "finish_reason": "stop"}}

    def on_chunk(self, chunk: Any) -> None:
        self.chunks.append(chunk)
        self._may_send.release()

    async def read(self, llm: BailianAppLLM, method: str) -> None:
        prompt: Any = [ChatMessage(content="?")] if "chat" in method else "?"
        if method.startswith("a"):
            async for chunk in await getattr(llm, method)(prompt):
                self.on_chunk(chunk)
        else:
            for chunk in getattr(llm, method)(prompt):
                self.on_chunk(chunk)

    def run(self, llm_of: Any, method: str, **fields: Any) -> list[Any]:
        with Emulator(apps={"app": self.app}) as cloud:
            asyncio.run(self.read(llm_of(cloud, **fields), method))
        assert [chunk.delta for chunk in self.chunks] == [*TEXT, ""]
        return self.chunks


@pytest.fixture(params=["stream_chat", "astream_chat", "stream_complete", "astream_complete"])
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The events that LlamaIndex's callbacks create, with or without a handler."""
    created: list[Any] = []

    def recording(event: type[Any]) -> Any:
        def create(**fields: Any) -> Any:
            created.append(event(**fields))
            return created[-1]

        return create

    for event in (*IN_PROGRESS, *END):
        monkeypatch.setattr(callbacks, event.__name__, recording(event))
    return created


def of_kinds(events: list[Any], kinds: tuple[type[Any], ...]) -> list[Any]:
    return [event.response for event in events if isinstance(event, kinds)]


def test_without_a_handler_only_the_first_and_last_chunk_have_an_event(
    method: str, llm_of: Any, created: list[Any]
) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    chunks = Reader().run(llm_of, method, callback_manager=CallbackManager([debug]))
    assert of_kinds(created, IN_PROGRESS) == [chunks[0], chunks[-1]]
    assert of_kinds(created, END) == chunks[-1:]
    [(_, end)] = debug.get_event_pairs(CBEventType.LLM)
    assert end.payload is not None
    assert chunks[-1] in end.payload.values()


def test_with_a_handler_every_chunk_has_an_event(method: str, llm_of: Any, events: Any) -> None:
    chunks = Reader().run(llm_of, method)
    assert of_kinds(events.events, IN_PROGRESS) == chunks
    assert of_kinds(events.events, END) == chunks[-1:]


@pytest.mark.parametrize("after", [1, 3])
def test_a_handler_receives_events_from_its_registration_on(
    method: str, llm_of: Any, events: Any, after: int
) -> None:
    get_dispatcher().event_handlers.remove(events)

    class Registering(Reader):
        def on_chunk(self, chunk: Any) -> None:
            if len(self.chunks) == after - 1:
                get_dispatcher().add_event_handler(events)
            super().on_chunk(chunk)

    chunks = Registering().run(llm_of, method)
    assert of_kinds(events.events, IN_PROGRESS) == chunks[after:]
    assert of_kinds(events.events, END) == chunks[-1:]


@pytest.mark.parametrize("fails_after", [0, 1, 3])
def test_an_error_is_published_once_by_the_callback(
    method: str, llm_of: Any, fails_after: int
) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    with pytest.raises(ServerError) as caught:
        Reader(fails_after=fails_after).run(
            llm_of, method, callback_manager=CallbackManager([debug])
        )
    [(_, end)] = debug.get_event_pairs(CBEventType.LLM)
    assert end.payload == {EventPayload.EXCEPTION: caught.value}
