"""The events of a run as LangChain's protocol events (`stream_events(version="v3")`). Pure.

LangChain's own bridge from message chunks leaves every block open until the message ends. Here a
step's block starts when the step starts and finishes when the step finishes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessageChunk

from bailian_apps.core.events import AppEvent, StepStarted
from bailian_apps.core.history import Plan
from bailian_apps.langchain.blocks import PROVIDER, step_entry, to_content_blocks
from bailian_apps.langchain.message_chunks import MessageChunkBuilder

ProtocolEvent = dict[str, Any]
"""One of `langchain_protocol`'s `MessagesData`; older releases of langchain-core lack the types."""

_DELTAS = {"text": "text-delta", "reasoning": "reasoning-delta"}
_EMPTY: dict[str, dict[str, Any]] = {
    "text": {"text": ""},
    "reasoning": {"reasoning": ""},
    "server_tool_call": {"args": {}},
    "server_tool_result": {"output": ""},
}
_NODE_START_KEYS = ("type", "id", "kind", "name", "node_type")


class ProtocolEventBuilder:
    """Builds the protocol events of one answer."""

    def __init__(self, plan: Plan, *, stop: Sequence[str] = (), message_id: str) -> None:
        """Start an answer to `plan`, which ends at the sequences in `stop`."""
        self._chunks = MessageChunkBuilder(plan, stop=stop, v1=True)
        self._open: dict[str, dict[str, Any]] = {}
        self._positions: dict[str, int] = {}
        metadata = {"provider": PROVIDER, "model": plan.app_id}
        self._pending: list[ProtocolEvent] = [
            {"event": "message-start", "role": "ai", "id": message_id, "metadata": metadata}
        ]

    @property
    def done(self) -> bool:
        """Whether the message is finished."""
        return self._chunks.done

    def feed(self, event: AppEvent) -> list[ProtocolEvent] | None:
        """Return the protocol events that an event adds, if any."""
        if isinstance(event, StepStarted):
            if event.step.kind != "reasoning" and not event.step.is_answer:
                self._start(to_content_blocks(step_entry(event.step))[0])
        elif (chunk := self._chunks.feed(event)) is not None:
            for block in cast("list[dict[str, Any]]", chunk.content):
                if block["type"] in _DELTAS:
                    self._add_delta(block)
                else:
                    self._start(block)
                    self._finish(block)
            if self.done:
                self._finish_message(chunk)
        events, self._pending = self._pending, []
        return events or None

    def _start(self, block: Mapping[str, Any]) -> None:
        key = block["index"]
        if key in self._positions:
            return
        self._positions[key] = len(self._positions)
        start = {**block, **_EMPTY.get(block["type"], {})}
        start.pop("annotations", None)
        if block["type"] == "non_standard":
            start["value"] = {k: v for k, v in block["value"].items() if k in _NODE_START_KEYS}
        self._emit("content-block-start", key, content=start)

    def _add_delta(self, block: dict[str, Any]) -> None:
        key, kind = block["index"], block["type"]
        self._start(block)
        block_so_far = self._open.setdefault(key, {**block, kind: ""})
        block_so_far.update({name: value for name, value in block.items() if name != kind})
        if text := block[kind]:
            block_so_far[kind] += text
            self._emit("content-block-delta", key, delta={"type": _DELTAS[kind], kind: text})

    def _finish(self, block: Mapping[str, Any]) -> None:
        self._emit("content-block-finish", block["index"], content=dict(block))

    def _finish_message(self, last: AIMessageChunk) -> None:
        metadata = dict(last.response_metadata)
        for block in self._open.values():
            self._finish(block)
        end: ProtocolEvent = {"event": "message-finish", "metadata": metadata}
        if last.usage_metadata:
            end["usage"] = dict(last.usage_metadata)
        self._pending.append(end)

    def _emit(self, event: str, key: str, **fields: Any) -> None:
        self._pending.append({"event": event, "index": self._positions[key], **fields})
