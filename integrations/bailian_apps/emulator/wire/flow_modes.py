"""`flow_stream_mode`: the same run of a workflow, told in the cloud's other dialects.

Only a run recorded as `full_thoughts` says enough to be told in another way. Whatever else comes
in, an agent's answer or a run recorded in another mode, goes out as it is.
"""

from dataclasses import replace

from bailian_apps.emulator.wire.frames import Frame, JsonObject, to_json
from bailian_apps.emulator.wire.nodes import RUNNING, nodes_of, read_result, text_of

FLOW_STREAM_MODES = ("full_thoughts", "message_format", "message_format_plus", "agent_format")


class MessageFormat:
    """Tells each node's deltas as `workflow_message` frames."""

    def __init__(self, *, every_node: bool) -> None:
        """Choose the nodes to tell.

        Args:
            every_node: All nodes, with the output of an LLM node as JSON (`message_format_plus`),
                instead of the End node alone (`message_format`).
        """
        self._every_node = every_node
        self._sequence: dict[str, int] = {}
        self._done: set[str] = set()

    def feed(self, frame: Frame) -> list[Frame]:
        """Return the frames that tell what `frame` tells."""
        nodes = list(nodes_of(frame.output))
        if not nodes:
            return [frame]
        told: list[JsonObject] = []
        for node in nodes:
            if self._every_node or node.get("nodeType") == "End":
                message = self._message(node)
                if message is not None:
                    told.append({"workflow_message": message, "finish_reason": "null"})
        if frame.finished:
            told.append({key: item for key, item in frame.output.items() if key != "thoughts"})
        session = {key: item for key, item in frame.output.items() if key == "session_id"}
        return [replace(frame, id=None).with_output({**session, **output}) for output in told]

    def _message(self, node: JsonObject) -> JsonObject | None:
        """Make the message of a node; None when the node is only listed once more."""
        node_id = str(node["nodeId"])
        completed = node.get("nodeStatus") != RUNNING
        if completed and node_id in self._done:
            return None
        content = self._content(node)
        if completed:
            self._done.add(node_id)
        else:
            self._done.discard(node_id)  # in a loop, a node that was done runs again
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
    """Tells the End node's deltas as `output.text`; the last frame has the whole answer."""

    def feed(self, frame: Frame) -> list[Frame]:
        """Return the frames that tell what `frame` tells."""
        nodes = list(nodes_of(frame.output))
        if not nodes:
            return [frame]
        output = {key: item for key, item in frame.output.items() if key != "thoughts"}
        if not frame.finished:
            ends = [node for node in nodes if node.get("nodeType") == "End"]
            delta = "".join(text_of(read_result(node)) for node in ends)
            if not delta:
                return []
            output["text"] = delta
        return [replace(frame, id=None).with_output(output)]


class AsRecorded:
    """Tells a run as it comes."""

    def feed(self, frame: Frame) -> list[Frame]:
        """Return the frame."""
        return [frame]


def teller_for(mode: str) -> MessageFormat | AgentFormat | AsRecorded:
    """Return what tells a run in `mode`."""
    if mode in ("message_format", "message_format_plus"):
        return MessageFormat(every_node=mode == "message_format_plus")
    return AgentFormat() if mode == "agent_format" else AsRecorded()
