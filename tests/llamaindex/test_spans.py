"""The app's steps as spans: the same tree by every method, and no span stays open."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.instrumentation.events.agent import AgentToolCallEvent
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.retrieval import (
    RetrievalEndEvent,
    RetrievalStartEvent,
)
from llama_index.core.instrumentation.events.span import SpanDropEvent
from llama_index.core.instrumentation.span import SimpleSpan, active_span_id
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler, SimpleSpanHandler
from pydantic import PrivateAttr
from support import recordings

from bailian_apps import AppFailedError, BailianApp, RateLimitError, ServerError
from bailian_apps.core.events import StepStarted
from bailian_apps.core.result import Step
from bailian_apps.emulator import Call, Emulator, Failure
from bailian_apps.llamaindex.spans import RunSpans
from bailian_apps.run import Run

HELLO = [ChatMessage(content="你好")]
METHODS = [
    f"{a}{s}{kind}" for a in ("", "a") for s in ("", "stream_") for kind in ("chat", "complete")
]


def node(id_: str, status: str, result: Any = "", kind: str = "LLM", **more: Any) -> dict[str, str]:
    """One node of a workflow's `thoughts`."""
    fields = {"nodeId": id_, "nodeName": id_, "nodeType": kind, "nodeStatus": status, **more}
    return {"response": json.dumps({**fields, "nodeResult": json.dumps({"result": result})})}


def frame(*thoughts: dict[str, Any], text: str = "", finish: str = "null") -> dict[str, Any]:
    return {"output": {"thoughts": list(thoughts), "text": text, "finish_reason": finish}}


OVERLAPPING = [
    frame(node("left", "executing", "甲")),
    frame(node("left", "executing", "乙"), node("right", "executing", "丙")),
    frame(node("left", "success"), node("right", "executing", "丁")),
    frame(node("left", "success"), node("right", "success"), text="答", finish="stop"),
]


def held(call: Call) -> Iterator[dict[str, Any]]:
    """Sends text with two open steps, then waits until the client disconnects."""
    yield frame(node("outer", "executing", "甲"))
    yield frame(node("outer", "executing"), node("End", "executing", "答", kind="End"))
    call.disconnected.wait(60)


@pytest.mark.parametrize(
    "name", ["workflow-two-llm-fixed-end.sse", "workflow-timed.jsonl", "workflow-two-llm.sse"]
)
def test_all_eight_methods_have_the_same_tree(
    by_method: Any, llm_of: Any, spans: Any, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    trees: list[Any] = []
    with Emulator(apps={"app": recordings.FOLDER / name}) as cloud:
        result = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url).invoke("你好")
        for method in METHODS:
            spans.clear()
            assert by_method(method)(llm_of(cloud)).error is None
            assert not spans.open_spans
            trees.append(spans.tree())
    assert trees[1:] == trees[:1] * 7
    assert not caplog.records
    [(_, outcome, _, [(run, run_outcome, answer, steps)])] = trees[0]
    assert (outcome, run, run_outcome, answer) == ("exit", "BailianApp.run", "exit", result.text)
    assert [
        (outcome, fields["name"], fields.get("output", "")) for _, outcome, fields, _ in steps
    ] == [("exit", step.name, step.output) for step in result.steps]
    assert all(name.startswith("node ") and not children for name, _, _, children in steps)


def test_overlapping_steps_are_siblings(chat: Any, llm_of: Any, spans: Any) -> None:
    with Emulator(apps={"app": lambda call: OVERLAPPING}) as cloud:
        chat(llm_of(cloud))
    run, left, right = (spans.named(n) for n in ("BailianApp.run", "node left", "node right"))
    assert left.parent_id == right.parent_id == run.id
    assert spans.named(f"BailianAppLLM.{chat.method}").id == run.parent_id
    steps = [each for each in spans.order if "node" in each]
    assert steps == ["enter node left", "enter node right", "exit node left", "exit node right"]
    assert left.result["output"] == "甲乙"
    assert right.result["output"] == "丙丁"
    assert left.inputs == {"id": "left", "type": "LLM"}


def test_a_nested_step_is_a_child_span(by_method: Any, llm_of: Any, spans: Any) -> None:
    frames = [
        frame(node("loop", "executing")),
        frame(node("loop", "executing"), node("inner", "executing", parentNodeId="loop")),
        frame(node("loop", "success"), node("inner", "success"), text="答", finish="stop"),
    ]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        by_method("chat")(llm_of(cloud))
    assert spans.named("node inner").parent_id == spans.named("node loop").id


def test_the_run_span_has_the_inputs(by_method: Any, llm_of: Any, spans: Any) -> None:
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        by_method("chat")(
            llm_of(cloud, biz_params={"city": "杭州"}), image_list=["https://a/b.png"]
        )
    assert spans.named("BailianApp.run").inputs == {
        "app_id": "app",
        "biz_params": {"city": "杭州"},
        "prompt": "你好",
        "image_list": ("https://a/b.png",),
    }
    assert (
        spans.named("BailianApp.run").instance is None
    )  # with one, tracers would count its tokens twice


def test_hyphens_do_not_truncate_span_names(by_method: Any, llm_of: Any, spans: Any) -> None:
    frames = [frame(node("deep-thinking", "success"), text="答", finish="stop")]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        by_method("chat")(llm_of(cloud))
    assert spans.named("node deep_thinking").result["name"] == "deep-thinking"


def test_tags_reach_every_span(by_method: Any, llm_of: Any, spans: Any) -> None:
    with Emulator(apps={"app": lambda call: OVERLAPPING}) as cloud, instrument_tags({"user": "u"}):
        by_method("chat")(llm_of(cloud))
    assert len(spans.completed_spans) == 4
    assert all(span.tags == {"user": "u"} for span in spans.completed_spans)


def test_a_tool_call_is_an_event_of_its_step(
    chat: Any, llm_of: Any, spans: Any, events: Any
) -> None:
    call = {
        "action_type": "api",
        "action_name": "weather",
        "arguments": '{"city": "杭州"}',
        "observation": "晴",
    }
    frames = [frame(call), frame(call), frame(call, text="晴天", finish="stop")]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        assert chat(llm_of(cloud)).text == "晴天"
    [event] = events.of(AgentToolCallEvent)
    assert (event.tool.name, json.loads(event.arguments)) == ("weather", {"city": "杭州"})
    step = spans.named("tool weather")
    assert event.span_id == step.id
    assert step.inputs["input"] == {"city": "杭州"}
    assert step.result["input"] == {"city": "杭州"}
    assert step.result["output"] == "晴"


def test_a_retrieval_is_two_events_of_its_step(
    chat: Any, llm_of: Any, spans: Any, events: Any
) -> None:
    search = {"action_type": "agentRag", "action_input": {"query": "价格"}, "observation": "999元"}
    frames = [frame(search), frame(search), frame(search, text="答", finish="stop")]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        chat(llm_of(cloud))
    [began], [ended] = events.of(RetrievalStartEvent), events.of(RetrievalEndEvent)
    assert began.str_or_query_bundle == "价格"
    assert [each.node.get_content() for each in ended.nodes] == ["999元"]
    assert began.span_id == ended.span_id == spans.named("retrieval agentRag").id


def test_passages_of_a_retrieval_are_one_node_each(
    by_method: Any, llm_of: Any, events: Any
) -> None:
    passages = [{"text": "甲", "score": 0.5, "dataName": "a.pdf"}, {"content": "乙"}]
    frames = [
        frame(node("n", "executing", kind="Retrieval")),
        frame(node("n", "success", passages, "Retrieval"), text="答", finish="stop"),
    ]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        assert by_method("chat")(llm_of(cloud)).error is None
    [end] = events.of(RetrievalEndEvent)
    assert [(each.node.get_content(), each.score) for each in end.nodes] == [
        ("甲", 0.5),
        ("乙", None),
    ]
    assert end.nodes[0].node.metadata["dataName"] == "a.pdf"


# ------------------------------------------------------------------- errors and interruptions


def test_a_failed_step_is_dropped_with_its_error(chat: Any, llm_of: Any, spans: Any) -> None:
    def app(call: Call) -> Iterator[Any]:
        yield frame(node("outer", "executing"))
        yield frame(node("outer", "executing"), node("plugin", "failed", nodeErrorMsg="坏了"))
        yield Failure(status=500, code="InvokePluginFailed", message="坏了")

    with Emulator(apps={"app": app}) as cloud:
        seen = chat(llm_of(cloud))
    assert isinstance(seen.error, AppFailedError)
    assert isinstance(spans.named("node plugin").error, AppFailedError)
    assert str(spans.named("node plugin").error) == "坏了"
    assert spans.named("node outer").error is seen.error
    assert spans.named("BailianApp.run").error is seen.error
    assert [each for each in spans.order if each.startswith("drop")][:3] == [
        "drop node plugin",
        "drop node outer",
        "drop BailianApp.run",
    ]


def test_an_error_before_the_first_frame_drops_the_run(
    chat: Any, llm_of: Any, spans: Any, events: Any
) -> None:
    throttled = Failure(status=429, code="Throttling", message="慢一点")
    with Emulator(apps={"app": lambda call: throttled}) as cloud:
        seen = chat(llm_of(cloud))
    assert isinstance(seen.error, RateLimitError)
    run = spans.named("BailianApp.run")
    assert (run.outcome, run.error) == ("drop", seen.error)
    assert "慢一点" in {e.span_id: e.err_str for e in events.of(SpanDropEvent)}[run.id]


def test_an_invalid_message_opens_no_run_span(chat: Any, llm_of: Any, spans: Any) -> None:
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        seen = chat(llm_of(cloud), [ChatMessage(role="assistant", content="42")])
        assert not cloud.requests
    assert isinstance(seen.error, ValueError)
    assert [(note.name, note.outcome) for note in spans.notes] == [
        (f"BailianAppLLM.{chat.method}", "drop")
    ]


def expect_all_dropped(spans: Any, reason: str) -> None:
    assert not spans.open_spans
    dropped = [each for each in spans.order if each.startswith("drop")]
    assert dropped[:3] == ["drop node End", "drop node outer", "drop BailianApp.run"]
    assert str(spans.named("BailianApp.run").error) == reason
    assert str(spans.named("node outer").error) == reason


@pytest.mark.parametrize("how", ["close", "forget"])
def test_closing_early_drops_open_spans(llm_of: Any, spans: Any, how: str) -> None:
    with Emulator(apps={"app": held}) as cloud:
        chunks = llm_of(cloud).stream_chat(HELLO)
        assert next(chunks).delta == "答"
        if how == "close":
            chunks.close()
        else:
            del chunks
        expect_all_dropped(spans, "the stream was closed before its end")
        assert cloud.requests[0].disconnected.wait(60)


@pytest.mark.parametrize("how", ["close", "forget"])
async def test_closing_early_drops_open_spans_async(llm_of: Any, spans: Any, how: str) -> None:
    with Emulator(apps={"app": held}) as cloud:
        chunks = await llm_of(cloud).astream_chat(HELLO)
        assert (await anext(chunks)).delta == "答"
        if how == "close":
            await chunks.aclose()
        else:
            del chunks
            # The event loop closes it, in one of its next iterations.
            assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)
        expect_all_dropped(spans, "the stream was closed before its end")
        assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)


@pytest.mark.parametrize("method", ["stream_chat", "stream_complete"])
def test_closing_frees_the_connection_while_a_handler_keeps_the_exception(
    llm_of: Any, spans: Any, events: Any, method: str
) -> None:
    """LlamaIndex publishes the exception, and its traceback refers to the generator."""
    with Emulator(apps={"app": held}) as cloud:
        asked: Any = HELLO if "chat" in method else "你好"
        chunks = getattr(llm_of(cloud), method)(asked)
        next(chunks)
        chunks.close()
        assert any(isinstance(event, ExceptionEvent) for event in events.events)
        expect_all_dropped(spans, "the stream was closed before its end")
        assert cloud.requests[0].disconnected.wait(60)


@pytest.mark.parametrize("method", ["astream_chat", "astream_complete"])
async def test_closing_frees_the_connection_while_a_handler_keeps_the_exception_async(
    llm_of: Any, spans: Any, events: Any, method: str
) -> None:
    with Emulator(apps={"app": held}) as cloud:
        asked: Any = HELLO if "chat" in method else "你好"
        chunks = await getattr(llm_of(cloud), method)(asked)
        await anext(chunks)
        await chunks.aclose()
        expect_all_dropped(spans, "the stream was closed before its end")
        assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)


def test_closing_the_chunks_closes_the_app_s_stream(
    llm_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, while it is still referenced, and not by the garbage collector."""
    held_on_to: list[Any] = []
    real = Run.stream
    monkeypatch.setattr(
        Run, "stream", lambda *a, **k: held_on_to.append(real(*a, **k)) or held_on_to[0]
    )
    with Emulator(apps={"app": held}) as cloud:
        chunks = llm_of(cloud)._chat_call(HELLO, {}).stream()
        next(chunks)
        chunks.close()
        assert cloud.requests[0].disconnected.wait(60)
        assert len(held_on_to) == 1


async def test_closing_the_async_chunks_closes_the_app_s_stream(
    llm_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_on_to: list[Any] = []
    real = Run.astream
    monkeypatch.setattr(
        Run, "astream", lambda *a, **k: held_on_to.append(real(*a, **k)) or held_on_to[0]
    )
    with Emulator(apps={"app": held}) as cloud:
        chunks = llm_of(cloud)._chat_call(HELLO, {}).astream()
        await anext(chunks)
        await chunks.aclose()
        assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)
        assert len(held_on_to) == 1


@pytest.mark.parametrize("method", ["achat", "astream_chat"])
async def test_cancelling_the_task_drops_open_spans(llm_of: Any, spans: Any, method: str) -> None:
    received = asyncio.Event()
    spans.when_entered("node End", received.set)

    async def listen() -> None:
        answer = await getattr(llm_of(cloud), method)(HELLO)
        async for _ in answer:
            pass

    with Emulator(apps={"app": held}) as cloud:
        task = asyncio.create_task(listen())
        await asyncio.wait_for(received.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        expect_all_dropped(spans, "the task was cancelled")
        assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)


def test_an_unread_stream_drops_its_run_span(llm_of: Any, spans: Any) -> None:
    with Emulator(apps={"app": held}) as cloud:
        chunks = llm_of(cloud).stream_chat(HELLO)
        assert len(spans.open_spans) == 1
        del chunks
        gc.collect()
        assert not spans.open_spans
        assert str(spans.named("BailianApp.run").error) == "the stream was never read"
        assert not cloud.requests


async def test_an_unread_async_stream_drops_its_run_span(llm_of: Any, spans: Any) -> None:
    with Emulator(apps={"app": held}) as cloud:
        chunks = await llm_of(cloud).astream_chat(HELLO)
        assert len(spans.open_spans) == 1
        del chunks
        gc.collect()
        assert not spans.open_spans
        assert str(spans.named("BailianApp.run").error) == "the stream was never read"
        assert not cloud.requests


def test_the_run_span_ends_with_the_last_chunk(llm_of: Any, spans: Any) -> None:
    """A consumer may stop at the last chunk without closing the stream."""
    with Emulator(apps={"app": lambda call: OVERLAPPING}) as cloud:
        chunks = llm_of(cloud).stream_chat(HELLO)
        for chunk in chunks:
            if chunk.raw is not None:
                break
        assert not spans.open_spans
        chunks.close()
    assert spans.named("BailianApp.run").outcome == "exit"


def test_a_retried_call_is_one_run_span(llm_of: Any, spans: Any) -> None:
    answers: list[Any] = [
        Failure(status=429, code="Throttling", headers={"Retry-After": "0"}),
        "好",
    ]
    with Emulator(apps={"app": lambda call: answers.pop(0)}) as cloud:
        assert llm_of(cloud, max_retries=1).chat(HELLO).raw["attempts"] == 2
    assert spans.named("BailianApp.run").outcome == "exit"


def test_a_server_error_is_typed(chat: Any, llm_of: Any, spans: Any) -> None:
    with Emulator(apps={"app": lambda call: Failure(status=500, code="SystemError")}) as cloud:
        assert isinstance(chat(llm_of(cloud)).error, ServerError)


# ------------------------------------------------------------------------------------- contexts

_tracers_current: ContextVar[str] = ContextVar("tracers_current", default="consumer")


class ContextTracer(BaseSpanHandler[SimpleSpan]):
    """Keeps its current span in the context, as OpenTelemetry does."""

    _tokens: dict[str, Any] = PrivateAttr(default_factory=dict)
    _parents: dict[str, str] = PrivateAttr(default_factory=dict)
    _trouble: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "ContextTracer"

    def new_span(self, id_: str, *args: Any, **kwargs: Any) -> SimpleSpan:
        name = id_.partition("-")[0]
        self._parents[name] = _tracers_current.get()
        self._tokens[id_] = _tracers_current.set(name)
        return SimpleSpan(id_=id_)

    def _leave(self, id_: str, **kwargs: Any) -> SimpleSpan:
        try:
            _tracers_current.reset(self._tokens.pop(id_))
        except (KeyError, ValueError) as error:
            self._trouble.append(f"{id_}: {error}")
        return self.open_spans[id_]

    def prepare_to_exit_span(self, id_: str, *args: Any, **kwargs: Any) -> SimpleSpan:
        return self._leave(id_)

    def prepare_to_drop_span(self, id_: str, *args: Any, **kwargs: Any) -> SimpleSpan:
        return self._leave(id_)

    @property
    def parents(self) -> dict[str, str]:
        return self._parents

    @property
    def trouble(self) -> list[str]:
        return self._trouble


@pytest.fixture
def tracer() -> Iterator[ContextTracer]:
    handler, root = ContextTracer(), get_dispatcher()
    root.add_span_handler(handler)
    yield handler
    root.span_handlers.remove(handler)
    assert not handler.open_spans
    assert not handler.trouble


def expect_parents(tracer: ContextTracer, method: str) -> None:
    assert tracer.parents == {
        f"BailianAppLLM.{method}": "consumer",
        "BailianApp.run": f"BailianAppLLM.{method}",
        "node left": "BailianApp.run",
        "node right": "BailianApp.run",
    }


def test_a_context_tracer_finds_the_parents(chat: Any, llm_of: Any, tracer: Any) -> None:
    with Emulator(apps={"app": lambda call: OVERLAPPING}) as cloud:
        assert chat(llm_of(cloud)).error is None
    expect_parents(tracer, chat.method)


def test_the_consumer_s_context_does_not_change(llm_of: Any, tracer: Any) -> None:
    with Emulator(apps={"app": lambda call: OVERLAPPING}) as cloud:
        for _ in llm_of(cloud).stream_chat(HELLO):
            assert (_tracers_current.get(), active_span_id.get()) == ("consumer", None)


def test_a_stream_may_be_read_in_another_thread(llm_of: Any, tracer: Any) -> None:
    """`SimpleChatEngine.stream_chat` does that."""
    with Emulator(apps={"app": lambda call: OVERLAPPING}) as cloud:
        chunks = llm_of(cloud).stream_chat(HELLO)
        reader = threading.Thread(target=lambda: list(chunks))
        reader.start()
        reader.join()
    expect_parents(tracer, "stream_chat")


def test_an_open_step_is_dropped_with_the_run(spans: Any) -> None:
    run = RunSpans({}, CallbackManager([]))
    run.record(StepStarted(Step(id="a", kind="node", name="a")))
    run.finish("答")
    assert [spans.named(name).outcome for name in ("node a", "BailianApp.run")] == ["drop", "exit"]


def test_a_legacy_handler_that_raises_leaves_no_span_open() -> None:
    class Raising(BaseCallbackHandler):
        def start_trace(self, trace_id: str | None = None) -> None: ...

        def end_trace(self, *_: Any, **__: Any) -> None: ...

        def on_event_start(self, *_: Any, event_id: str = "", **__: Any) -> str:
            return event_id

        def on_event_end(self, *_: Any, **__: Any) -> None:
            raise ValueError("a handler")

    handler = SimpleSpanHandler()
    root = get_dispatcher()
    root.add_span_handler(handler)
    try:
        spans = RunSpans({}, CallbackManager([Raising([], [])]))
        for name in ("1", "2"):
            spans.record(StepStarted(Step(id=name, kind="node", name=name)))
        with pytest.raises(ValueError, match="a handler"):
            spans.close(GeneratorExit())
    finally:
        root.span_handlers.remove(handler)
    assert not handler.open_spans
    assert len(handler.dropped_spans) == 3
