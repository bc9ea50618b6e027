"""Renders an app's frames the way a request asks for.

Apps yield deltas. A request gets deltas or cumulative texts (`incremental_output`), with or without
`thoughts` (`has_thoughts`), in one of the workflow modes (`flow_stream_mode`), or one JSON answer.

`FLOW_MODES` has one row per mode; a new mode is a row here, with an encoder if it needs one.
Only a `full_thoughts` run carries enough to be encoded in another mode. Everything else, such as
an agent's answer or a run recorded in another mode, passes unchanged.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

from bailian_apps.emulator.wire.cumulative import Accumulator
from bailian_apps.emulator.wire.frames import (
    NO_TRAITS,
    Frame,
    JsonObject,
    Traits,
    as_object,
    is_true,
    to_json,
)
from bailian_apps.emulator.wire.nodes import PAUSED, RUNNING, is_answer, nodes_of, read_result

ModeEncoder: TypeAlias = Callable[[Frame], list[Frame]]
"""Returns what stands for a frame of one `full_thoughts` answer in another mode."""


_ERROR_FIELDS = {
    "nodeErrorMsg": "node_error_msg",
    "errorInfo": "error_info",
    "errorCode": "error_code",
}


class MessageFormat:
    """Encodes node deltas as `workflow_message` frames, for one answer.

    See tests/recordings/workflow-message-format.sse and workflow-message-format-plus-elided.sse.
    """

    def __init__(self, *, every_node: bool = False) -> None:
        """Encode the nodes that answer (`message_format`), or all (`message_format_plus`)."""
        self._every_node = every_node
        self._snapshots = Accumulator()
        self._sequence: dict[str, int] = {}
        self._done: set[str] = set()

    def __call__(self, frame: Frame) -> list[Frame]:
        """Return the frames that stand for `frame`."""
        nodes = list(nodes_of(frame.output))
        if not nodes:
            return [frame]
        frames: list[Frame] = []
        session = {key: item for key, item in frame.output.items() if key == "session_id"}
        for node in nodes:
            if not self._every_node and not is_answer(node.get("nodeType")):
                continue
            message = self.message(node, frame.traits)
            if message is None:
                continue
            output = {**session, "workflow_message": message, "finish_reason": "null"}
            said = replace(frame, id=None, last=False).with_output(output)
            if self._every_node and frame.traits.contents.get(message["node_id"]) == "snapshots":
                said = self._snapshots.feed(said)
                said = replace(said, cumulative_output=said.output)
            frames.append(said)
        if frame.finished:
            frames.append(replace(frame, id=None).with_output(_without_thoughts(frame)))
        return frames

    def message(self, node: JsonObject, traits: Traits = NO_TRAITS) -> JsonObject | None:
        """Return the message for a node, or None if a frame only lists it again."""
        node_id = str(node["nodeId"])
        status = node.get("nodeStatus")
        ended = status != RUNNING
        if ended and node_id in self._done:
            return None
        content = self._content(node, traits)
        if ended:
            self._done.add(node_id)
        else:
            self._done.discard(node_id)  # in a loop, a completed node runs again
            if not content:
                return None
        self._sequence[node_id] = self._sequence.get(node_id, 0) + 1
        return {
            "node_status": status,
            "node_type": node.get("nodeType"),
            "node_msg_seq_id": self._sequence[node_id],
            "node_name": node.get("nodeName"),
            "message": {"content": content, "role": "assistant"},
            "node_is_completed": ended and status != PAUSED,
            "node_id": node_id,
            **{name: node[key] for key, name in _ERROR_FIELDS.items() if node.get(key)},
        }

    def _content(self, node: JsonObject, traits: Traits) -> str:
        text, reasoning = read_result(node)
        is_llm = node.get("nodeType") == "LLM"
        form = traits.contents.get(str(node["nodeId"]), "deltas" if is_llm else "text")
        if not self._every_node or form == "text":
            return text
        parts = {"result": text}
        if is_llm or reasoning is not None:
            parts["reasoningContent"] = reasoning or ""
        return to_json(parts) if any(parts.values()) else ""


def _agent_format(frame: Frame) -> list[Frame]:
    """Encode the answer's deltas as `output.text`; the last frame has the whole answer."""
    nodes = list(nodes_of(frame.output))
    if not nodes:
        return [frame]
    output = _without_thoughts(frame)
    if not frame.finished:
        answering = [node for node in nodes if is_answer(node.get("nodeType"))]
        delta = "".join(read_result(node)[0] for node in answering)
        if not delta:
            return []
        output["text"] = delta
    return [replace(frame, id=None).with_output(output)]


FLOW_MODES: dict[str, Callable[[], ModeEncoder]] = {
    "full_thoughts": lambda: lambda frame: [frame],
    "message_format": MessageFormat,
    "message_format_plus": lambda: MessageFormat(every_node=True),
    "agent_format": lambda: _agent_format,
}
"""The function that makes the encoder of one answer, by the names of the modes."""

DEFAULT_MODE = "full_thoughts"
"""The mode of a request that names none; the only one that can be encoded in every other."""


def detect_mode(frames: Iterable[Frame]) -> str | None:
    """Return the mode that recorded frames show by their messages, or None if they have none."""
    messages = [as_object(frame.output.get("workflow_message")) for frame in frames]
    answering = [is_answer(message.get("node_type")) for message in messages if message]
    if not answering:
        return None
    return "message_format" if all(answering) else "message_format_plus"


async def render(
    frames: AsyncIterator[Frame], parameters: JsonObject
) -> AsyncGenerator[Frame, None]:
    """Yield the frames of a stream as the request's `parameters` ask."""
    mode = parameters.get("flow_stream_mode")
    encode = FLOW_MODES[mode if mode in list(FLOW_MODES) else DEFAULT_MODE]()
    accumulator = None if is_true(parameters.get("incremental_output")) else Accumulator()
    async for frame in frames:
        for encoded in encode(frame):
            yield select_thoughts(accumulator.feed(encoded) if accumulator else encoded, parameters)


def fold(frames: Sequence[Frame]) -> Frame:
    """Fold all frames of an answer into one.

    A later frame's field replaces an earlier one unless it is empty. An error frame replaces
    everything.
    """
    error = next((frame for frame in frames if frame.event == "error"), None)
    if error is not None or len(frames) == 1:
        return error or frames[0]
    accumulator = Accumulator()
    payload: JsonObject = {}
    output: JsonObject = {}
    for frame in map(accumulator.feed, frames):
        payload |= _updates(frame.payload, payload)
        output |= _updates(frame.output, output)
    output.pop("workflow_message", None)
    if "finish_reason" in frames[-1].output:
        output["finish_reason"] = frames[-1].output["finish_reason"]
    return replace(frames[-1], payload={**payload, "output": output}, cumulative_output=None)


def as_json_answer(whole: Frame, parameters: JsonObject) -> Frame:
    """Return a folded frame as a JSON answer has it: with what was asked, or always comes."""
    if not whole.traits.unasked:
        return select_thoughts(whole, parameters)
    nodes = list(nodes_of(whole.output))
    if not nodes:
        return whole
    message = MessageFormat(every_node=True).message(nodes[-1], whole.traits)
    return whole.with_output({**whole.output, "workflow_message": message})


def select_thoughts(frame: Frame, parameters: JsonObject) -> Frame:
    """Return the frame, without its `thoughts` unless the request asked for them."""
    if is_true(parameters.get("has_thoughts")) or not frame.output.get("thoughts"):
        return frame
    return frame.with_output(_without_thoughts(frame))


def _updates(later: JsonObject, earlier: JsonObject) -> JsonObject:
    return {
        key: item for key, item in later.items() if key not in earlier or item not in (None, {}, [])
    }


def _without_thoughts(frame: Frame) -> JsonObject:
    return {key: item for key, item in frame.output.items() if key != "thoughts"}
