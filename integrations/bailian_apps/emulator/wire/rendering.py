"""Tells an app's frames the way a request asked for.

An app gives deltas. From them a request gets: deltas or everything so far (`incremental_output`),
with or without `thoughts` (`has_thoughts`), in one of the workflow modes (`flow_stream_mode`), or
folded into one JSON answer.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from bailian_apps.emulator.wire.flow_modes import teller_for
from bailian_apps.emulator.wire.frames import (
    Frame,
    JsonObject,
    as_list,
    as_object,
    parse_object,
    to_json,
)
from bailian_apps.emulator.wire.nodes import RUNNING, read_node


async def render(
    frames: AsyncIterator[Frame], parameters: JsonObject
) -> AsyncGenerator[Frame, None]:
    """Yield the frames of a stream the way `parameters` asks for."""
    teller = teller_for(parameters.get("flow_stream_mode") or "full_thoughts")
    accumulator = None if parameters.get("incremental_output") is True else Accumulator()
    async for frame in frames:
        for told in teller.feed(frame):
            whole = accumulator.feed(told) if accumulator else told
            yield without_thoughts(whole) if parameters.get("has_thoughts") is not True else whole


def fold(frames: Sequence[Frame]) -> Frame:
    """Join all frames of an answer into the one frame that says everything.

    A field of a later frame wins, unless it is empty. An error wins over everything.
    """
    error = next((frame for frame in frames if frame.event == "error"), None)
    if error is not None or len(frames) == 1:
        return error or frames[0]
    accumulator = Accumulator()
    payload: JsonObject = {}
    output: JsonObject = {}
    for frame in map(accumulator.feed, frames):
        payload |= _news(frame.payload, payload)
        output |= _news(frame.output, output)
    output.pop("workflow_message", None)
    return Frame(payload={**payload, "output": output}, offset_ms=frames[-1].offset_ms)


def without_thoughts(frame: Frame) -> Frame:
    """Leave the `thoughts` out of a frame that has some."""
    if not frame.output.get("thoughts"):
        return frame
    return frame.with_output({key: item for key, item in frame.output.items() if key != "thoughts"})


def join_text(so_far: str, frame: Frame) -> str:
    """Return the answer's text after one more frame."""
    text = frame.output.get("text")
    if not isinstance(text, str):
        return so_far
    # A workflow repeats the whole answer in its last frame; an agent ends with an empty delta.
    if frame.finished and so_far and text.startswith(so_far):
        return text
    return so_far + text


class Accumulator:
    """Turns deltas into everything so far: text, thoughts, node results and messages."""

    def __init__(self) -> None:
        """Begin an answer."""
        self._text = ""
        self._thoughts: dict[int, dict[str, str]] = {}
        self._nodes: dict[str, dict[str, str]] = {}
        self._messages: dict[str, dict[str, str]] = {}
        self._done: set[str] = set()

    def feed(self, frame: Frame) -> Frame:
        """Return `frame` with everything so far in place of its deltas."""
        output = dict(frame.output)
        if not output:
            return frame
        if frame.whole is not None:
            return frame.with_output(frame.whole)
        self._text = join_text(self._text, frame)
        if isinstance(output.get("text"), str):
            output["text"] = self._text
        if output.get("thoughts"):
            thoughts = enumerate(as_list(output["thoughts"]))
            output["thoughts"] = [self._thought(place, thought) for place, thought in thoughts]
        message = as_object(output.get("workflow_message"))
        if message is not None:
            output["workflow_message"] = self._message(message)
        return frame.with_output(output)

    def _thought(self, place: int, thought: object) -> object:
        fields = as_object(thought)
        if fields is None:
            return thought
        node = read_node(fields)
        if node is not None:
            return {**fields, "response": to_json(self._node(node))}
        said = self._thoughts.setdefault(place, {})
        return _joined(said, fields, "thought", "response", "reasoning_content")

    def _node(self, node: JsonObject) -> JsonObject:
        running = node.get("nodeStatus") == RUNNING
        said = self._said_by(self._nodes, str(node["nodeId"]), running=running)
        result = parse_object(node.get("nodeResult"))
        if result is None:
            return node
        return {**node, "nodeResult": to_json(_joined(said, result, "result", "reasoningContent"))}

    def _message(self, message: JsonObject) -> JsonObject:
        running = not message.get("node_is_completed")
        said = self._said_by(self._messages, str(message.get("node_id")), running=running)
        body = as_object(message.get("message")) or {}
        parts = parse_object(body.get("content")) if message.get("node_type") == "LLM" else None
        if parts is None and "result" in said and not body.get("content"):
            parts = {"result": "", "reasoningContent": ""}  # the last frame of an LLM node is empty
        if parts is None:
            return {**message, "message": _joined(said, body, "content")}
        content = to_json(_joined(said, parts, "result", "reasoningContent"))
        return {**message, "message": {**body, "content": content}}

    def _said_by(
        self, speakers: dict[str, dict[str, str]], node_id: str, *, running: bool
    ) -> dict[str, str]:
        """Return what a node has said; a node that runs again, in a loop, begins anew."""
        if not running:
            self._done.add(node_id)
        elif node_id in self._done:
            self._done.discard(node_id)
            speakers[node_id] = {}
        return speakers.setdefault(node_id, {})


def _joined(said: dict[str, str], values: JsonObject, *fields: str) -> JsonObject:
    """Append the fields' deltas to what was said, and return the values with all of it."""
    whole = dict(values)
    for field in fields:
        if isinstance(values.get(field), str):
            whole[field] = said[field] = said.get(field, "") + values[field]
    return whole


def _news(later: JsonObject, earlier: JsonObject) -> JsonObject:
    return {
        key: item for key, item in later.items() if key not in earlier or item not in (None, {}, [])
    }
