"""Workflow stream modes: what each `flow_stream_mode` changes in the frames. Pure.

One row per mode. The decoder and the step reader ask the row and never compare mode names. A mode
without a row, or no mode, gets the default row: the frames themselves then show what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FlowStreamMode: TypeAlias = Literal[
    "full_thoughts", "message_format", "message_format_plus", "agent_format"
]
"""The modes that are known; each has a row in `STREAM_MODES`. A setting may name others too."""

AnswerChannel: TypeAlias = Literal["text", "node"]
"""Where an answer streams: in `output.text`, or in the text of the End node."""


@dataclass(frozen=True, slots=True)
class StreamMode:
    """How a workflow app streams in one mode.

    Attributes:
        name: The value of `flow_stream_mode`; `""` for the default row.
        answer_channel: Where the answer streams; None if the first channel with text decides.
        is_workflow: Whether the frames are a workflow's even if they list no node. Agent apps
            ignore the mode, so this is set only where a workflow's frames look like an agent's.
        json_content: Whether the content of a `workflow_message` may be a JSON object: one that
            wraps the node's text and reasoning, or all of its values so far.
        every_speaker: Whether every node with a `workflow_message` speaks to the user.
    """

    name: str
    answer_channel: AnswerChannel | None = None
    is_workflow: bool = False
    json_content: bool = True
    every_speaker: bool = False


_DEFAULT = StreamMode("")

STREAM_MODES = {
    mode.name: mode
    for mode in (
        # `thoughts` relist every node: workflow-two-llm.sse, workflow-timed.jsonl.
        StreamMode("full_thoughts"),
        # One node's plain text per frame, no `thoughts`: workflow-message-format.sse. Only nodes
        # whose streaming is switched on are in it: the vendor's page names End and Output nodes.
        StreamMode("message_format", json_content=False, every_speaker=True),
        # Every node, most with JSON as content: workflow-message-format-plus-elided.sse. One page
        # of the vendor's has a delta in each, another all that the node has so far.
        StreamMode("message_format_plus"),
        # The answer streams in `output.text`, and the last frame repeats it whole. Not recorded:
        # the vendor's pages no longer list this mode, the SDKs still do.
        StreamMode("agent_format", answer_channel="text", is_workflow=True),
    )
}


def stream_mode(name: str | None) -> StreamMode:
    """Return the row of a mode; the default row for None and for an unknown mode."""
    return STREAM_MODES.get(name or "", _DEFAULT)
