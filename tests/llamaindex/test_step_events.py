"""Steps as legacy callback events and, on request, as `BailianAppStepEvent`s."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent

from bailian_apps import RateLimitError
from bailian_apps.emulator import Call, Emulator, Failure
from bailian_apps.llamaindex import BailianAppQueryEngine, BailianAppStepEvent


def node(id_: str, status: str, result: str = "", kind: str = "LLM", **more: Any) -> dict[str, str]:
    fields = {"nodeId": id_, "nodeName": id_, "nodeType": kind, "nodeStatus": status, **more}
    return {"response": json.dumps({**fields, "nodeResult": json.dumps({"result": result})})}


def frame(*thoughts: dict[str, Any], text: str = "", finish: str = "null") -> dict[str, Any]:
    return {"output": {"thoughts": list(thoughts), "text": text, "finish_reason": finish}}


OVERLAPPING = [
    frame(node("left", "executing", "甲")),
    frame(node("left", "executing"), node("right", "executing", "丙")),
    frame(node("left", "success"), node("right", "executing")),
    frame(node("left", "success"), node("right", "success"), text="答", finish="stop"),
]
WEATHER = {
    "action_type": "api",
    "action_name": "weather",
    "arguments": '{"city": "杭州"}',
    "observation": "晴",
}
SEARCH = {"action_type": "agentRag", "action_input": {"query": "价格"}, "observation": "999元"}


@dataclass
class LegacyEvent:
    """One legacy event."""

    kind: CBEventType
    id: str
    parent_id: str
    start: dict[str, Any]
    end: dict[str, Any] | None = None


class Recorder(BaseCallbackHandler):
    """Records every legacy event, in the order of their start."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.events: dict[str, LegacyEvent] = {}
        self.order: list[str] = []

    def start_trace(self, trace_id: str | None = None) -> None: ...

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None: ...

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",
        **kwargs: Any,
    ) -> str:
        self.events[event_id] = LegacyEvent(event_type, event_id, parent_id, payload or {})
        self.order.append(f"start {event_type.value}")
        return event_id

    def on_event_end(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        **kwargs: Any,
    ) -> None:
        assert self.events[event_id].end is None, "ended twice"
        self.events[event_id].end = payload or {}
        self.order.append(f"end {event_type.value}")

    def of(self, kind: CBEventType) -> list[LegacyEvent]:
        return [event for event in self.events.values() if event.kind == kind]

    @property
    def open(self) -> list[LegacyEvent]:
        return [event for event in self.events.values() if event.end is None]


@dataclass
class Legacy:
    """A recorder, and a callback manager with it."""

    recorder: Recorder = field(default_factory=Recorder)

    @property
    def manager(self) -> CallbackManager:
        return CallbackManager([self.recorder])


@pytest.fixture
def legacy() -> Legacy:
    return Legacy()


def test_steps_are_legacy_events_under_the_run(ask: Any, llm_of: Any, legacy: Legacy) -> None:
    with Emulator(apps={"app": lambda call: OVERLAPPING}) as cloud:
        assert ask(llm_of(cloud, callback_manager=legacy.manager)).error is None
    gc.collect()
    assert not legacy.recorder.open
    run, left, right = legacy.recorder.of(CBEventType.AGENT_STEP)
    assert left.parent_id == right.parent_id == run.id
    assert run.start[EventPayload.ADDITIONAL_KWARGS]["prompt"] == "你好"
    assert run.end == {EventPayload.RESPONSE: "答"}
    assert left.start == {EventPayload.ADDITIONAL_KWARGS: {"name": "left"}}
    assert (left.end, right.end) == (
        {EventPayload.RESPONSE: "甲"},
        {EventPayload.RESPONSE: "丙"},
    )
    [llm] = legacy.recorder.of(CBEventType.LLM)
    assert llm.parent_id == run.parent_id == "root"


def test_tool_calls_and_retrievals_have_their_own_legacy_events(
    ask: Any, llm_of: Any, legacy: Legacy
) -> None:
    frames = [frame(WEATHER), frame(WEATHER, SEARCH), frame(text="答", finish="stop")]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        ask(llm_of(cloud, callback_manager=legacy.manager))
    [run] = legacy.recorder.of(CBEventType.AGENT_STEP)
    [called] = legacy.recorder.of(CBEventType.FUNCTION_CALL)
    [searched] = legacy.recorder.of(CBEventType.RETRIEVE)
    assert called.parent_id == searched.parent_id == run.id
    assert called.start[EventPayload.TOOL].name == "weather"
    assert json.loads(called.start[EventPayload.FUNCTION_CALL]) == {"city": "杭州"}
    assert called.end == {EventPayload.FUNCTION_OUTPUT: "晴"}
    assert searched.start[EventPayload.QUERY_STR] == "价格"
    assert searched.end is not None
    assert [n.node.get_content() for n in searched.end[EventPayload.NODES]] == ["999元"]


@pytest.mark.parametrize(
    ("status", "kind", "end"),
    [
        ("skip", CBEventType.AGENT_STEP, {EventPayload.RESPONSE: ""}),  # it searched nothing
        ("pause", CBEventType.RETRIEVE, {EventPayload.NODES: []}),
        ("stop", CBEventType.RETRIEVE, {EventPayload.NODES: []}),
    ],
)
def test_a_search_that_was_skipped_is_none_and_the_payload_has_the_state(
    status: str, kind: Any, end: dict[Any, Any], ask: Any, llm_of: Any, legacy: Legacy, events: Any
) -> None:
    frames = [frame(node("kb", status, kind="Retrieval"), text="答", finish="stop")]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        ask(llm_of(cloud, callback_manager=legacy.manager))
    step = [*legacy.recorder.events.values()][-1]
    assert (step.kind, step.end) == (
        kind,
        end | {EventPayload.ADDITIONAL_KWARGS: {"status": status}},
    )
    assert len(events.of(RetrievalEndEvent)) == (kind == CBEventType.RETRIEVE)


def test_a_nested_step_is_a_child_event(by_method: Any, llm_of: Any, legacy: Legacy) -> None:
    frames = [
        frame(node("loop", "executing")),
        frame(node("loop", "executing"), node("inner", "executing", parentNodeId="loop")),
        frame(node("loop", "success"), node("inner", "success"), text="答", finish="stop"),
    ]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        by_method("chat")(llm_of(cloud, callback_manager=legacy.manager))
    run, loop, inner = legacy.recorder.of(CBEventType.AGENT_STEP)
    assert (loop.parent_id, inner.parent_id) == (run.id, loop.id)


def test_an_error_ends_every_event(ask: Any, llm_of: Any, legacy: Legacy) -> None:
    def failing(call: Call) -> Iterator[Any]:
        yield frame(node("outer", "executing"))
        yield Failure(status=429, code="Throttling", message="慢一点")

    with Emulator(apps={"app": failing}) as cloud:
        seen = ask(llm_of(cloud, callback_manager=legacy.manager))
    assert isinstance(seen.error, RateLimitError)
    run, outer = legacy.recorder.of(CBEventType.AGENT_STEP)
    assert run.end == outer.end == {EventPayload.EXCEPTION: seen.error}


def held(call: Call) -> Iterator[dict[str, Any]]:
    yield frame(node("outer", "executing"), text="答")
    call.disconnected.wait(60)


def test_closing_early_ends_every_event(llm_of: Any, legacy: Legacy) -> None:
    with Emulator(apps={"app": held}) as cloud:
        chunks = llm_of(cloud, callback_manager=legacy.manager).stream_complete("?")
        next(chunks)
        chunks.close()
    run, outer = legacy.recorder.of(CBEventType.AGENT_STEP)
    assert "closed before its end" in str((run.end or {})[EventPayload.EXCEPTION])
    assert outer.end == run.end


def test_the_run_is_under_the_query_engine_s_event(llm_of: Any, legacy: Legacy) -> None:
    with Emulator(apps={"app": lambda call: OVERLAPPING}) as cloud:
        llm = llm_of(cloud, callback_manager=legacy.manager)
        BailianAppQueryEngine(llm=llm).query("?")
    [query] = legacy.recorder.of(CBEventType.QUERY)
    run, *_ = legacy.recorder.of(CBEventType.AGENT_STEP)
    assert run.parent_id == query.id
    assert not legacy.recorder.open


def test_the_consumer_s_event_stack_does_not_change(llm_of: Any, legacy: Legacy) -> None:
    """An event that the consumer starts while reading is not nested in a step."""
    manager = legacy.manager
    with Emulator(apps={"app": lambda call: OVERLAPPING}) as cloud:
        for chunk in llm_of(cloud, callback_manager=manager).stream_chat([ChatMessage("?")]):
            manager.on_event_end(
                CBEventType.CHUNKING, event_id=manager.on_event_start(CBEventType.CHUNKING)
            )
            assert chunk.message
    chunkings = legacy.recorder.of(CBEventType.CHUNKING)
    assert {event.parent_id for event in chunkings} == {"root"}


# ------------------------------------------------------------------------ BailianAppStepEvent


def test_step_events_are_off_by_default(ask: Any, llm_of: Any, events: Any) -> None:
    with Emulator(apps={"app": lambda call: OVERLAPPING}) as cloud:
        ask(llm_of(cloud))
    assert not events.of(BailianAppStepEvent)


def test_step_events_are_sent_on_request(ask: Any, llm_of: Any, events: Any, spans: Any) -> None:
    with Emulator(apps={"app": lambda call: OVERLAPPING}) as cloud:
        ask(llm_of(cloud, step_events=True))
    sent = events.of(BailianAppStepEvent)
    assert [(event.phase, event.step["id"], event.text) for event in sent] == [
        ("started", "left", ""),
        ("updated", "left", ""),
        ("delta", "left", "甲"),
        ("started", "right", ""),
        ("updated", "right", ""),
        ("delta", "right", "丙"),
        ("finished", "left", ""),
        ("finished", "right", ""),
    ]
    assert sent[6].step["output"] == "甲"
    names = {note.id: note.name for note in spans.notes}
    assert [names[event.span_id] for event in sent] == [
        *("BailianApp.run", "node left", "node left"),  # it has a span when its name is known
        *("BailianApp.run", "node right", "node right"),
        *("node left", "node right"),
    ]
