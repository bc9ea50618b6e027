"""What the Responses API answers: a response as an object, its output items, and stream events.

The order of the events, `usage: null` and the lines of an event are those of the vendor's page.
Which other fields the cloud sends is not documented; those that OpenAI's clients need are here.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bailian_apps.emulator.wire.cumulative import join_text
from bailian_apps.emulator.wire.frames import Frame, JsonObject, as_list, as_object, encode_json
from bailian_apps.emulator.wire.nodes import nodes_of, read_result
from bailian_apps.emulator.wire.rendering import FLOW_MODES


def error_body(code: str, message: str, request_id: str) -> JsonObject:
    """Return the body of an error, where OpenAI's clients look for it."""
    error = {"code": code, "message": message, "type": code, "param": None}
    return {"error": error, "request_id": request_id}


@dataclass(slots=True)
class Output:
    """The output of one response, as it grows with the frames of an app."""

    reasoning: str = ""
    text: str = ""
    _encode: Any = field(default_factory=lambda: FLOW_MODES["agent_format"]())
    _ids: dict[str, str] = field(default_factory=dict[str, str])

    def feed(self, frame: Frame) -> tuple[str, str]:
        """Add a frame; return what is new of the reasoning and of the answer."""
        thought, before = _reasoning(frame), self.text
        self.reasoning += thought
        for encoded in self._encode(frame):
            self.text = join_text(self.text, encoded)
        return thought, self.text[len(before) :]

    def items(self, status: str = "completed") -> list[JsonObject]:
        """Return the items: the reasoning, if there is any, and the message."""
        items = [self.item("message", status)]
        return [self.item("reasoning", status), *items] if self.reasoning else items

    def item(self, kind: str, status: str, *, empty: bool = False) -> JsonObject:
        """Return one item, also without its content."""
        own_id = self._ids.setdefault(kind, f"{'msg' if kind == 'message' else 'rs'}_{_hex()}")
        content = [] if empty else [self.part(kind)]
        item: JsonObject = {"id": own_id, "type": kind, "status": status, "content": content}
        return item | ({"role": "assistant"} if kind == "message" else {"summary": []})

    def part(self, kind: str, *, empty: bool = False) -> JsonObject:
        """Return the content part of an item, also without its text."""
        text = "" if empty else self.text if kind == "message" else self.reasoning
        if kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response_object(
    response_id: str,
    *,
    model: str,
    created_at: int,
    status: str,
    background: bool,
    output: list[JsonObject] | None = None,
    error: JsonObject | None = None,
) -> JsonObject:
    """Return a response as an object."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": status,
        "background": background,
        "model": model,
        "output": output or [],
        "error": error,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": False,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


class EventStream:
    """The events of one streamed response, as frames that are ready to be sent."""

    def __init__(self, response: JsonObject) -> None:
        """Start with the response as it is before its output."""
        self.output = Output()
        self._response = response
        self._number = 0
        self._open: str | None = None
        self._index = -1

    def begin(self) -> Iterator[Frame]:
        """Yield the events before the output."""
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._response)

    def feed(self, frame: Frame) -> Iterator[Frame]:
        """Yield the events for a frame of the app."""
        thought, text = self.output.feed(frame)
        for kind, delta in (("reasoning", thought), ("message", text)):
            if delta:
                yield from self._show(kind)
                name = "reasoning_text" if kind == "reasoning" else "output_text"
                yield self._event(f"response.{name}.delta", **self._place(), delta=delta)

    def end(self) -> Iterator[Frame]:
        """Yield the events after the last frame of the app."""
        yield from self._show("message")
        yield from self._close()
        done = {**self._response, "status": "completed", "output": self.output.items()}
        yield self._event("response.completed", last=True, response=done)

    def fail(self, code: str, message: str) -> Iterator[Frame]:
        """Yield the event of a failure."""
        error = {"code": code, "message": message}
        failed = {**self._response, "status": "failed", "error": error}
        yield self._event("response.failed", last=True, response=failed)

    def _show(self, kind: str) -> Iterator[Frame]:
        """Open an item, and close the one before it."""
        if self._open == kind:
            return
        yield from self._close()
        self._open = kind
        self._index += 1
        item = self.output.item(kind, "in_progress", empty=True)
        yield self._event("response.output_item.added", output_index=self._index, item=item)
        part = self.output.part(kind, empty=True)
        yield self._event("response.content_part.added", **self._place(), part=part)

    def _close(self) -> Iterator[Frame]:
        if (kind := self._open) is None:
            return
        part = self.output.part(kind)
        name = "reasoning_text" if kind == "reasoning" else "output_text"
        yield self._event(f"response.{name}.done", **self._place(), text=part["text"])
        yield self._event("response.content_part.done", **self._place(), part=part)
        item = self.output.item(kind, "completed")
        yield self._event("response.output_item.done", output_index=self._index, item=item)

    def _place(self) -> JsonObject:
        item = self.output.item(str(self._open), "", empty=True)
        return {"item_id": item["id"], "output_index": self._index, "content_index": 0}

    def _event(self, kind: str, *, last: bool = False, **fields: object) -> Frame:
        payload = {"type": kind, "sequence_number": self._number, **fields}
        if ".output_text." in kind:
            payload["logprobs"] = []
        self._number += 1
        head = f"id:{self._number}\nevent:{kind}\n:HTTP_STATUS/200\ndata:"
        raw = head.encode() + encode_json(payload, end="\n\n")
        return Frame(payload=payload, raw=raw, last=last)


def _reasoning(frame: Frame) -> str:
    """Return what a frame adds to the reasoning: of an agent's thoughts, and of nodes."""
    thoughts = [as_object(each) or {} for each in as_list(frame.output.get("thoughts"))]
    agents = [each.get("thought") for each in thoughts if each.get("action_type") == "reasoning"]
    nodes = [read_result(node)[1] for node in nodes_of(frame.output)]
    return "".join(text for text in [*agents, *nodes] if isinstance(text, str))


def _hex() -> str:
    return uuid.uuid4().hex
