"""Real runs under llama-index-observability-otel and OpenInference.

With either tracer, however a run starts and ends, it exports one tree without open spans, leaves
the consumer's context unchanged, and logs no warning.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.memory import ChatMemoryBuffer
from support import recordings

from bailian_apps import RateLimitError
from bailian_apps.emulator import Call, Emulator, Failure
from bailian_apps.llamaindex import (
    BailianAppChatEngine,
    BailianAppQueryEngine,
    BailianAppRetriever,
    bailian_app_tool,
)

pytest.importorskip("opentelemetry.sdk")
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

# OpenInference uses a deprecated method of pydantic; as an error it would lose its LLM span.
pytestmark = pytest.mark.filterwarnings("ignore:The `json` method is deprecated")

HELLO = [ChatMessage(content="你好")]


@dataclass
class Tracer:
    """What a tracer exported."""

    name: str
    exporter: InMemorySpanExporter
    open_spans: Callable[[], Any]
    log: pytest.LogCaptureFixture

    @property
    def spans(self) -> list[Any]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def named(self, name: str) -> Any:
        [span] = [span for span in self.spans if span.name == name]
        return span

    def tree(self, parent: Any = None) -> list[tuple[str, list[Any]]]:
        """Names and children, from the roots."""
        parent_id = None if parent is None else parent.context.span_id
        return [
            (span.name, self.tree(span))
            for span in self.spans
            if (span.parent.span_id if span.parent else None) == parent_id
        ]

    def expect_clean(self) -> None:
        assert not self.open_spans()
        assert not trace.get_current_span().get_span_context().is_valid
        assert [r.getMessage() for r in self.log.records if r.levelname != "INFO"] == []


def _otel(provider: TracerProvider) -> Iterator[Callable[[], Any]]:
    base = pytest.importorskip("llama_index.observability.otel.base")
    root = get_dispatcher()
    handler = base.OTelCompatibleSpanHandler(provider.get_tracer("test"))
    events = base.OTelCompatibleEventHandler(span_handler=handler)
    root.add_span_handler(handler)
    root.add_event_handler(events)
    yield lambda: {**handler.open_spans, **handler.all_spans, **handler._events_by_span}
    root.span_handlers.remove(handler)
    root.event_handlers.remove(events)


def _openinference(provider: TracerProvider) -> Iterator[Callable[[], Any]]:
    module = pytest.importorskip("openinference.instrumentation.llama_index")
    instrumentor = module.LlamaIndexInstrumentor()
    instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    yield lambda: instrumentor._span_handler.open_spans
    instrumentor.uninstrument()


@pytest.fixture(params=["otel", "openinference"])
def tracer(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Tracer]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    caplog.set_level("WARNING")
    running = (_otel if request.param == "otel" else _openinference)(provider)
    yield Tracer(request.param, exporter, next(running), caplog)
    next(running, None)
    provider.shutdown()


def node(id_: str, status: str, result: str = "") -> dict[str, str]:
    fields = {"nodeId": id_, "nodeName": id_, "nodeType": "LLM", "nodeStatus": status}
    return {"response": json.dumps({**fields, "nodeResult": json.dumps({"result": result})})}


def frame(*thoughts: dict[str, str], text: str = "", finish: str = "null") -> dict[str, Any]:
    return {"output": {"thoughts": list(thoughts), "text": text, "finish_reason": finish}}


OVERLAPPING = [
    frame(node("left", "executing", "甲")),
    frame(node("left", "executing"), node("right", "executing", "丙")),
    frame(node("left", "success"), node("right", "executing")),
    frame(node("left", "success"), node("right", "success"), text="答", finish="stop"),
]
RUN = ("BailianApp.run", [("node left", []), ("node right", [])])


def overlapping(call: Call) -> Any:
    return OVERLAPPING


def held(call: Call) -> Iterator[dict[str, Any]]:
    """Sends text with an open step, then waits until the client disconnects."""
    yield frame(node("outer", "executing"), text="答")
    call.disconnected.wait(60)


def test_every_method_exports_the_same_tree(ask: Any, llm_of: Any, tracer: Tracer) -> None:
    with Emulator(apps={"app": overlapping}) as cloud:
        assert ask(llm_of(cloud)).error is None
    gc.collect()
    assert tracer.tree() == [(f"BailianAppLLM.{ask.method}", [RUN])]
    assert {span.status.status_code.name for span in tracer.spans} <= {"OK", "UNSET"}
    tracer.expect_clean()


def test_an_error_is_on_every_span_it_ended(ask: Any, llm_of: Any, tracer: Tracer) -> None:
    def failing(call: Call) -> Iterator[Any]:
        yield frame(node("outer", "executing"))
        yield Failure(status=429, code="Throttling", message="慢一点")

    with Emulator(apps={"app": failing}) as cloud:
        assert isinstance(ask(llm_of(cloud)).error, RateLimitError)
    gc.collect()
    for name in ("BailianApp.run", "node outer"):
        assert tracer.named(name).status.status_code.name == "ERROR"
        assert "慢一点" in (tracer.named(name).status.description or "")
    tracer.expect_clean()


def test_closing_early_ends_every_exported_span(
    by_method: Any, llm_of: Any, tracer: Tracer
) -> None:
    with Emulator(apps={"app": held}) as cloud:
        chunks = llm_of(cloud).stream_chat(HELLO)
        next(chunks)
        chunks.close()
        assert cloud.requests[0].disconnected.wait(60)
    del chunks
    gc.collect()
    assert tracer.tree() == [
        ("BailianAppLLM.stream_chat", [("BailianApp.run", [("node outer", [])])])
    ]
    assert tracer.named("BailianApp.run").status.status_code.name == "ERROR"
    tracer.expect_clean()


async def test_cancelling_the_task_ends_every_exported_span(llm_of: Any, tracer: Tracer) -> None:
    received = asyncio.Event()

    async def listen() -> None:
        async for _ in await llm_of(cloud).astream_chat(HELLO):
            received.set()

    with Emulator(apps={"app": held}) as cloud:
        task = asyncio.create_task(listen())
        await asyncio.wait_for(received.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)
    del task
    gc.collect()
    assert tracer.tree() == [
        ("BailianAppLLM.astream_chat", [("BailianApp.run", [("node outer", [])])])
    ]
    tracer.expect_clean()


def test_an_unread_stream_exports_its_run(llm_of: Any, tracer: Tracer) -> None:
    with Emulator(apps={"app": held}) as cloud:
        chunks = llm_of(cloud).stream_chat(HELLO)
        del chunks
        gc.collect()
    run = tracer.named("BailianApp.run")
    assert run.status.status_code.name == "ERROR"
    assert "the stream was never read" in run.status.description
    if tracer.name == "otel":  # OpenInference still waits a minute for the LLM's last event
        assert tracer.tree() == [("BailianAppLLM.stream_chat", [("BailianApp.run", [])])]
    tracer.expect_clean()


async def test_an_unread_async_stream_exports_its_run(llm_of: Any, tracer: Tracer) -> None:
    with Emulator(apps={"app": held}) as cloud:
        chunks = await llm_of(cloud).astream_chat(HELLO)
        del chunks
        gc.collect()
    run = tracer.named("BailianApp.run")
    assert run.status.status_code.name == "ERROR"
    assert "the stream was never read" in run.status.description
    if tracer.name == "otel":  # OpenInference still waits a minute for the LLM's last event
        assert tracer.tree() == [("BailianAppLLM.astream_chat", [("BailianApp.run", [])])]
    tracer.expect_clean()


def memory() -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(token_limit=3000)


def below_llm(tracer: Tracer, llm: str) -> list[Any]:
    return tracer.tree(tracer.named(f"BailianAppLLM.{llm}"))


@pytest.mark.parametrize("engine", [SimpleChatEngine, BailianAppChatEngine])
def test_streaming_chat_engines_export_a_tree(llm_of: Any, tracer: Tracer, engine: Any) -> None:
    """`SimpleChatEngine` reads the stream in a thread."""
    with Emulator(apps={"app": overlapping}) as cloud:
        response = engine.from_defaults(llm=llm_of(cloud), memory=memory()).stream_chat("你好")
        assert "".join(response.response_gen) == "答"
    del response
    gc.collect()
    assert below_llm(tracer, "stream_chat") == [RUN]
    tracer.expect_clean()


@pytest.mark.parametrize("engine", [SimpleChatEngine, BailianAppChatEngine])
async def test_streaming_chat_engines_export_a_tree_async(
    llm_of: Any, tracer: Tracer, engine: Any
) -> None:
    """`SimpleChatEngine` reads the stream in a task."""
    with Emulator(apps={"app": overlapping}) as cloud:
        chat = engine.from_defaults(llm=llm_of(cloud), memory=memory())
        response = await chat.astream_chat("你好")
        assert "".join([delta async for delta in response.async_response_gen()]) == "答"
    del response
    gc.collect()
    assert below_llm(tracer, "astream_chat") == [RUN]
    tracer.expect_clean()


def test_a_streaming_query_engine_exports_a_tree(llm_of: Any, tracer: Tracer) -> None:
    with Emulator(apps={"app": overlapping}) as cloud:
        engine = BailianAppQueryEngine(llm=llm_of(cloud), streaming=True)
        response: Any = engine.query("你好")
        assert "".join(response.response_gen) == "答"
    del response
    gc.collect()
    assert below_llm(tracer, "stream_complete") == [RUN]
    tracer.expect_clean()


async def test_a_streaming_query_engine_exports_a_tree_async(llm_of: Any, tracer: Tracer) -> None:
    with Emulator(apps={"app": overlapping}) as cloud:
        engine = BailianAppQueryEngine(llm=llm_of(cloud), streaming=True)
        response: Any = await engine.aquery("你好")
        assert "".join([delta async for delta in response.async_response_gen()]) == "答"
    del response
    gc.collect()
    assert below_llm(tracer, "astream_complete") == [RUN]
    tracer.expect_clean()


def test_a_retriever_and_a_tool_export_a_tree(llm_of: Any, tracer: Tracer) -> None:
    with Emulator(apps={"app": overlapping}) as cloud:
        BailianAppRetriever(llm=llm_of(cloud)).retrieve("你好")
        bailian_app_tool(llm=llm_of(cloud), name="n", description="d").call(prompt="你好")
    assert below_llm(tracer, "complete") == [RUN]
    assert below_llm(tracer, "chat") == [RUN]
    tracer.expect_clean()


@pytest.mark.parametrize("tracer", ["openinference"], indirect=True)
def test_tokens_are_counted_once(chat: Any, llm_of: Any, tracer: Tracer) -> None:
    """OpenInference reads them from the LLM's span; the run's span must not repeat them."""
    name = "workflow-two-llm-fixed-end.sse"
    with Emulator(apps={"app": recordings.FOLDER / name}) as cloud:
        seen = chat(llm_of(cloud))
        usage = seen.raw["usage"]
    del seen
    gc.collect()
    counts = [
        (span.name, span.attributes["llm.token_count.prompt"])
        for span in tracer.spans
        if "llm.token_count.prompt" in span.attributes
    ]
    assert counts == [(f"BailianAppLLM.{chat.method}", usage["prompt_tokens"])]
