"""`flow_stream_mode`: how the run of a workflow is encoded in each mode.

`FLOW_MODES` has one row per mode; a new mode is a row here, with an encoder if it needs one.
Only a `full_thoughts` run carries enough to be encoded in another mode. Everything else, such as
an agent's answer or a run recorded in another mode, passes unchanged.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from bailian_apps.emulator.wire.frames import Frame, JsonObject, as_object, to_json
from bailian_apps.emulator.wire.nodes import RUNNING, nodes_of, read_result, text_of


class ModeEncoder(Protocol):
    """Encodes the frames of one `full_thoughts` answer in another mode."""

    def feed(self, frame: Frame) -> list[Frame]:
        """Return the frames that stand for `frame`."""
        ...


class Passthrough:
    """Leaves the frames unchanged."""

    def feed(self, frame: Frame) -> list[Frame]:
        """Return the frame."""
        return [frame]


class MessageFormat:
    """Encodes node deltas as `workflow_message` frames.

    See tests/recordings/workflow-message-format.sse and workflow-message-format-plus-elided.sse.
    """

    def __init__(self, *, every_node: bool = False) -> None:
        """Create the encoder.

        Args:
            every_node: Encode all nodes, with the content of LLM nodes as JSON
                (`message_format_plus`), instead of the End node alone (`message_format`).
        """
        self._every_node = every_node
        self._sequence: dict[str, int] = {}
        self._done: set[str] = set()

    def feed(self, frame: Frame) -> list[Frame]:
        """Return the frames that stand for `frame`."""
        nodes = list(nodes_of(frame.output))
        if not nodes:
            return [frame]
        outputs: list[JsonObject] = []
        for node in nodes:
            if self._every_node or node.get("nodeType") == "End":
                message = self._message(node)
                if message is not None:
                    outputs.append({"workflow_message": message, "finish_reason": "null"})
        if frame.finished:
            outputs.append(_without_thoughts(frame))
        session = {key: item for key, item in frame.output.items() if key == "session_id"}
        return [replace(frame, id=None).with_output({**session, **output}) for output in outputs]

    def _message(self, node: JsonObject) -> JsonObject | None:
        """Return the message for a node, or None if the frame only lists it again."""
        node_id = str(node["nodeId"])
        completed = node.get("nodeStatus") != RUNNING
        if completed and node_id in self._done:
            return None
        content = self._content(node)
        if completed:
            self._done.add(node_id)
        else:
            self._done.discard(node_id)  # in a loop, a completed node runs again
            if not content:
                return None
        self._sequence[node_id] = self._sequence.get(node_id, 0) + 1
        error = node.get("nodeErrorMsg")
        return {
            "node_status": node.get("nodeStatus"),
            "node_type": node.get("nodeType"),
            "node_msg_seq_id": self._sequence[node_id],
            "node_name": node.get("nodeName"),
            "message": {"content": content, "role": "assistant"},
            "node_is_completed": completed,
            "node_id": node_id,
            **({"node_error_msg": error} if error else {}),
        }

    def _content(self, node: JsonObject) -> str:
        result = read_result(node)
        if not self._every_node or node.get("nodeType") != "LLM":
            return text_of(result)
        parts = {"result": text_of(result), "reasoningContent": result.get("reasoningContent", "")}
        return to_json(parts) if any(parts.values()) else ""


class AgentFormat:
    """Encodes the End node's deltas as `output.text`; the last frame has the whole answer."""

    def feed(self, frame: Frame) -> list[Frame]:
        """Return the frames that stand for `frame`."""
        nodes = list(nodes_of(frame.output))
        if not nodes:
            return [frame]
        output = _without_thoughts(frame)
        if not frame.finished:
            ends = [node for node in nodes if node.get("nodeType") == "End"]
            delta = "".join(text_of(read_result(node)) for node in ends)
            if not delta:
                return []
            output["text"] = delta
        return [replace(frame, id=None).with_output(output)]


@dataclass(frozen=True, slots=True)
class FlowMode:
    """One `flow_stream_mode`.

    Attributes:
        encoder: Makes the encoder of one answer.
        has_messages: Whether a stream with these types of nodes in its `workflow_message`s was
            made in this mode.
    """

    encoder: Callable[[], ModeEncoder]
    has_messages: Callable[[set[str]], bool] = lambda node_types: False


FLOW_MODES: dict[str, FlowMode] = {
    "full_thoughts": FlowMode(Passthrough),
    "message_format": FlowMode(MessageFormat, lambda node_types: node_types == {"End"}),
    "message_format_plus": FlowMode(
        lambda: MessageFormat(every_node=True), lambda node_types: bool(node_types - {"End"})
    ),
    "agent_format": FlowMode(AgentFormat),
}
"""All modes by their names."""

DEFAULT_MODE = "full_thoughts"
"""The mode of a request that names none; the only one that can be encoded in every other."""


def encoder_for(mode: str) -> ModeEncoder:
    """Return a new encoder for one answer in `mode`."""
    return FLOW_MODES[mode].encoder()


def detect_mode(frames: Iterable[Frame]) -> str | None:
    """Return the mode that recorded frames show by their messages, or None if they have none."""
    messages = [as_object(frame.output.get("workflow_message")) for frame in frames]
    node_types = {str(message.get("node_type")) for message in messages if message}
    return next((name for name, mode in FLOW_MODES.items() if mode.has_messages(node_types)), None)


def _without_thoughts(frame: Frame) -> JsonObject:
    return {key: item for key, item in frame.output.items() if key != "thoughts"}
