"""The events of a run as LangChain's protocol events (`stream_events(version="v3")`). Pure.

LangChain's own bridge from chunks leaves every block open until the message ends. Here a step's
block is started when the step starts and finished when it finishes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessageChunk

from bailian_apps.core.events import AppEvent, StepStarted
from bailian_apps.core.history import Plan
from bailian_apps.langchain.answer import Answer
from bailian_apps.langchain.blocks import PROVIDER, step_blocks, step_entry

ProtocolEvent = dict[str, Any]
"""One of `langchain_protocol`'s `MessagesData`; older releases of langchain-core lack the types."""

_DELTAS = {"text": "text-delta", "reasoning": "reasoning-delta"}


class ProtocolEvents:
    """Turns the events of one run into protocol events."""

    def __init__(self, plan: Plan, *, stops: Sequence[str] = (), message_id: str) -> None:
        """Begin an answer.

        Args:
            plan: What was sent; it makes the marker.
            stops: Sequences at which the answer ends.
            message_id: The id of the message.
        """
        self._answer = Answer(plan, stops=stops, v1=True)
        self._open: dict[str, dict[str, Any]] = {}
        self._numbers: dict[str, int] = {}
        metadata = {"provider": PROVIDER, "model": plan.app_id}
        self._said: list[ProtocolEvent] = [
            {"event": "message-start", "role": "ai", "id": message_id, "metadata": metadata}
        ]

    @property
    def done(self) -> bool:
        """Whether the message is finished."""
        return self._answer.done

    def feed(self, event: AppEvent) -> list[ProtocolEvent] | None:
        """Take an event; give the protocol events that it makes, if any."""
        if isinstance(event, StepStarted):
            if not (event.step.kind == "reasoning" or event.step.is_answer):
                self._start(step_blocks(step_entry(event.step))[0])
        elif (chunk := self._answer.feed(event)) is not None:
            for block in cast("list[dict[str, Any]]", chunk.content):
                if block["type"] in _DELTAS:
                    self._add(block)
                else:
                    self._start(block)
                    self._finish(block)
            if self.done:
                self._end(chunk)
        said, self._said = self._said, []
        return said or None

    def _start(self, block: Mapping[str, Any]) -> None:
        key = block["index"]
        if key in self._numbers:
            return
        self._numbers[key] = len(self._numbers)
        start = {**block, **_EMPTY.get(block["type"], {})}
        start.pop("annotations", None)
        if block["type"] == "non_standard":
            told = ("type", "id", "kind", "name", "node_type")
            start["value"] = {k: v for k, v in block["value"].items() if k in told}
        self._say("content-block-start", key, content=start)

    def _add(self, block: dict[str, Any]) -> None:
        key, kind = block["index"], block["type"]
        self._start(block)
        whole = self._open.setdefault(key, {**block, kind: ""})
        whole.update({name: value for name, value in block.items() if name != kind})
        if text := block[kind]:
            whole[kind] += text
            self._say("content-block-delta", key, delta={"type": _DELTAS[kind], kind: text})

    def _finish(self, block: Mapping[str, Any]) -> None:
        self._say("content-block-finish", block["index"], content=dict(block))

    def _end(self, last: AIMessageChunk) -> None:
        metadata = dict(last.response_metadata)
        for block in self._open.values():
            if block["type"] == "text":
                block["text"] = metadata.get("final_text", block["text"])
            self._finish(block)
        end: ProtocolEvent = {"event": "message-finish", "metadata": metadata}
        if last.usage_metadata:
            end["usage"] = dict(last.usage_metadata)
        self._said.append(end)

    def _say(self, event: str, key: str, **what: Any) -> None:
        self._said.append({"event": event, "index": self._numbers[key], **what})


_EMPTY: dict[str, dict[str, Any]] = {
    "text": {"text": ""},
    "reasoning": {"reasoning": ""},
    "server_tool_call": {"args": {}},
    "server_tool_result": {"output": ""},
}
