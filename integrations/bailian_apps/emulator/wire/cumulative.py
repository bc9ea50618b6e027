"""Makes deltas of a stream that was recorded without `incremental_output`.

Such a stream repeats what it has said. Not for every text do the documents tell whether it does, so
the recording settles it: a text that begins, in each frame, with what it was in the frame before
has grown, and is told as what is new in it. Any other one was told in deltas already.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from bailian_apps.emulator.wire.frames import (
    Frame,
    JsonObject,
    as_list,
    as_object,
    parse_object,
    to_json,
)
from bailian_apps.emulator.wire.nodes import RUNNING, read_node


def as_deltas(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Return the frames with deltas, and what was recorded as their `whole`."""
    texts = _Texts()
    outputs = [texts.note(frame) for frame in frames]
    texts.cut()
    return tuple(
        replace(frame.with_output(output), whole=frame.output) if output else frame
        for frame, output in zip(frames, outputs, strict=True)
    )


class _Texts:
    """The texts of a recording, each with the places where the frames tell it."""

    def __init__(self) -> None:
        self._places: dict[tuple[object, ...], list[tuple[JsonObject, str]]] = {}
        self._put_back: list[Callable[[], None]] = []
        self._runs: dict[tuple[object, ...], int] = {}
        self._done: set[tuple[object, ...]] = set()
        self._is_workflow = False

    def note(self, frame: Frame) -> JsonObject:
        """Return a copy of the frame's output, which `cut` is going to change."""
        output = copy.deepcopy(frame.output)
        for position, thought in enumerate(as_list(output.get("thoughts"))):
            if (fields := as_object(thought)) is not None:
                self._note_thought(position, fields)
        if (message := as_object(output.get("workflow_message"))) is not None:
            self._note_message(message)
        # The last frame of a workflow has the whole answer, whatever was asked for.
        if not (frame.finished and self._is_workflow):
            self._note(("answer",), output, "text")
        return output

    def cut(self) -> None:
        """Leave of each text that grew, in each place, what is new there."""
        for places in self._places.values():
            told = [fields[name] for fields, name in places]
            if all(later.startswith(earlier) for earlier, later in pairwise(told)):
                for (fields, name), earlier in zip(places[1:], told, strict=False):
                    fields[name] = fields[name][len(earlier) :]
        for put_back in self._put_back:
            put_back()

    def _note(self, speaker: tuple[object, ...], fields: JsonObject, *names: str) -> None:
        for name in names:
            if isinstance(fields.get(name), str):
                self._places.setdefault((*speaker, name), []).append((fields, name))

    def _note_thought(self, position: int, thought: JsonObject) -> None:
        node = read_node(thought)
        if node is None:
            self._note(("thought", position), thought, "thought", "response", "reasoning_content")
            return
        running = node.get("nodeStatus") == RUNNING
        run = self._run_of("node", node["nodeId"], running=running)
        result = parse_object(node.get("nodeResult"))
        if result is not None:
            self._note(run, result, "result", "reasoningContent")
            self._put_back.append(
                lambda: thought.update(response=to_json({**node, "nodeResult": to_json(result)}))
            )

    def _note_message(self, message: JsonObject) -> None:
        running = not message.get("node_is_completed")
        run = self._run_of("message", message.get("node_id"), running=running)
        body = as_object(message.get("message")) or {}
        parts = parse_object(body.get("content")) if message.get("node_type") == "LLM" else None
        if parts is None:
            self._note(run, body, "content")
        else:
            self._note(run, parts, "result", "reasoningContent")
            self._put_back.append(lambda: body.update(content=to_json(parts)))

    def _run_of(self, *speaker: object, running: bool) -> tuple[object, ...]:
        """Return which run of a node this is: in a loop it runs again, and begins anew."""
        self._is_workflow = True
        if not running:
            self._done.add(speaker)
        elif speaker in self._done:
            self._done.discard(speaker)
            self._runs[speaker] = self._runs.get(speaker, 0) + 1
        return (*speaker, self._runs.get(speaker, 0))
