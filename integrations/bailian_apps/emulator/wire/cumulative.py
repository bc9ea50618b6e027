"""Deltas and cumulative texts: the two forms of a stream, and how to turn one into the other.

With `incremental_output` each frame has what is new in its texts; without it, each frame repeats
them from the start. The emulator works with deltas: `as_deltas` reads a cumulative recording, and
`Accumulator` answers a request that did not ask for deltas. `TextWalker` finds the texts for both.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

from bailian_apps.emulator.wire.frames import (
    Frame,
    JsonObject,
    as_list,
    as_object,
    parse_object,
    to_json,
)
from bailian_apps.emulator.wire.nodes import RUNNING, is_answer, read_node

_Key: TypeAlias = tuple[object, ...]

_GROWING = ("arguments", "action_input_stream")
"""Fields of a tool call that are repeated whole in each frame, or stream in pieces."""


@dataclass(frozen=True, slots=True)
class StreamedTexts:
    """The texts that one source (a node, a thought) adds in one frame.

    Attributes:
        source: Where the texts come from; the same for all frames of one source.
        values: The object that holds the texts, to be changed in place.
        names: The fields of `values` that stream.
        store: Writes `values` back to where they were parsed from; call it after a change.
        elided: Whether the frame left the texts out.
        whole: Whether each text is all there is, and not a piece.
    """

    source: _Key
    values: JsonObject
    names: tuple[str, ...]
    store: Callable[[], None] = lambda: None
    elided: bool = False
    whole: bool = False

    def present(self) -> Iterator[tuple[_Key, str]]:
        """Yield each field that has a text: its key in the whole stream, and its name here."""
        for name in self.names:
            if isinstance(self.values.get(name), str):
                yield (*self.source, name), name


class TextWalker:
    """Finds the texts of one answer that stream, in `thoughts` and `workflow_message`.

    Attributes:
        is_workflow: Whether a node has been seen so far.
    """

    def __init__(self) -> None:
        """Start an answer."""
        self.is_workflow = False
        self._runs: dict[_Key, int] = {}
        self._done: set[_Key] = set()
        self._json_content: dict[_Key, tuple[str, ...]] = {}
        self._json_results: set[_Key] = set()
        self._actions: dict[int, tuple[_Key, bool]] = {}

    def walk(self, output: JsonObject) -> Iterator[StreamedTexts]:
        """Yield the texts of an output, which gets copies of all that may be changed."""
        if thoughts := as_list(output.get("thoughts")):
            copies = [{**fields} if (fields := as_object(each)) else each for each in thoughts]
            output["thoughts"] = copies
            for position, thought in enumerate(copies):
                if (fields := as_object(thought)) is not None:
                    yield from self._in_thought(position, fields)
        if (message := as_object(output.get("workflow_message"))) is not None:
            message = output["workflow_message"] = {**message}
            body = message["message"] = {**(as_object(message.get("message")) or {})}
            yield self._in_message(message, body)

    def _in_thought(self, position: int, thought: JsonObject) -> Iterator[StreamedTexts]:
        node = read_node(thought)
        if node is None:
            names = ("thought", "response", "reasoning_content", *_GROWING)
            yield StreamedTexts(self._run_of_action(position, thought), thought, names)
            return
        run = self._run_of("node", node["nodeId"], running=node.get("nodeStatus") == RUNNING)
        raw = node.get("nodeResult")
        result = parse_object(raw)
        is_json = _is_json_result(raw, result)
        if is_json or run in self._json_results:
            # It comes once; from the next frame on the node is listed with an empty result.
            entry = {**node, "nodeResult": raw if is_json else ""}
            self._json_results.add(run)

            def store_json() -> None:
                thought["response"] = to_json(entry)

            yield StreamedTexts(run, entry, ("nodeResult",), store_json, whole=True)
        elif result is not None:

            def store() -> None:
                thought["response"] = to_json({**node, "nodeResult": to_json(result)})

            yield StreamedTexts(run, result, ("result", "reasoningContent"), store)

    def _run_of_action(self, position: int, thought: JsonObject) -> _Key:
        """Return which action at its position this is: a frame may list only the newest one."""
        head = (thought.get("action_type"), thought.get("action_name"), thought.get("action"))
        answered = bool(thought.get("observation"))
        known, was_answered = self._actions.get(position, (head, False))
        source = ("thought", position)
        if known != head or (was_answered and not answered):
            self._runs[source] = self._runs.get(source, 0) + 1
        self._actions[position] = (head, answered)
        return (*source, self._runs.get(source, 0))

    def _in_message(self, message: JsonObject, body: JsonObject) -> StreamedTexts:
        running = not message.get("node_is_completed")
        run = self._run_of("message", message.get("node_id"), running=running)
        content = body.get("content")
        parts = None if is_answer(message.get("node_type")) else parse_object(content)
        if parts is not None and not parts.keys() <= {"result", "reasoningContent"}:
            parts = None  # the node's own JSON
        # The last message of an LLM node has an empty content instead of JSON: see
        # tests/recordings/workflow-message-format-plus-elided.sse.
        elided = parts is None and run in self._json_content and not content
        if elided:
            parts = dict.fromkeys(self._json_content[run], "")
        if parts is None:
            return StreamedTexts(run, body, ("content",))
        self._json_content[run] = self._json_content.get(run) or tuple(parts)

        def store() -> None:
            body["content"] = to_json(parts)

        return StreamedTexts(run, parts, ("result", "reasoningContent"), store, elided)

    def _run_of(self, *source: object, running: bool) -> _Key:
        """Return which run of a node this is: in a loop a node runs again, with new texts.

        A frame relists nodes that have ended; a message is never repeated.
        """
        self.is_workflow = True
        if source in self._done and (running or source[0] == "message"):
            self._runs[source] = self._runs.get(source, 0) + 1
        (self._done.discard if running else self._done.add)(source)
        return (*source, self._runs.get(source, 0))


class Accumulator:
    """Turns deltas into cumulative texts, for one answer."""

    def __init__(self) -> None:
        """Start an answer."""
        self._walker = TextWalker()
        self._texts: dict[_Key, str] = {}
        self._answer = ""

    def feed(self, frame: Frame) -> Frame:
        """Return `frame` with each text from its start."""
        output = dict(frame.output)
        if not output:
            return frame
        if frame.cumulative_output is not None:
            return frame.with_output(frame.cumulative_output)
        self._answer = join_text(self._answer, frame)
        if isinstance(output.get("text"), str):
            output["text"] = self._answer
        for texts in self._walker.walk(output):
            for key, name in texts.present():
                so_far, new = self._texts.get(key, ""), texts.values[name]
                repeats = name in _GROWING and new.startswith(so_far)
                self._texts[key] = new if repeats or (texts.whole and new) else so_far + new
                texts.values[name] = self._texts[key]
            texts.store()
        return frame.with_output(output)


def as_deltas(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Return a cumulative recording's frames as deltas, with the recorded `cumulative_output`.

    It is not documented which texts the cloud repeats without `incremental_output`. So each text
    is judged by the recording: if every frame's text starts with the one before, it is cumulative
    and is cut to what is new. Otherwise it already is deltas.
    """
    walker = TextWalker()
    occurrences: dict[_Key, list[tuple[JsonObject, str]]] = {}
    stores: list[Callable[[], None]] = []
    outputs: list[JsonObject] = []
    for frame in frames:
        output = dict(frame.output)
        for texts in walker.walk(output):
            if not (texts.elided or texts.whole):
                stores.append(texts.store)
                for key, name in texts.present():
                    occurrences.setdefault(key, []).append((texts.values, name))
        # The last frame of a workflow has the whole answer in every form of the stream.
        if isinstance(output.get("text"), str) and not (frame.finished and walker.is_workflow):
            occurrences.setdefault(("answer",), []).append((output, "text"))
        outputs.append(output)
    for fields in occurrences.values():
        recorded = [values[name] for values, name in fields]
        if all(later.startswith(earlier) for earlier, later in pairwise(recorded)):
            for (values, name), earlier in zip(fields[1:], recorded, strict=False):
                values[name] = values[name][len(earlier) :]
    for store in stores:
        store()
    return tuple(
        replace(frame.with_output(output), cumulative_output=frame.output) if output else frame
        for frame, output in zip(frames, outputs, strict=True)
    )


def _is_json_result(raw: object, result: JsonObject | None) -> bool:
    """Return whether a `nodeResult` is, or has as its `result`, JSON that the node puts out."""
    if not result:
        return isinstance(raw, str) and raw.startswith("[")
    names = result.keys() & {"result", "reasoningContent"}
    return not names or not isinstance(result.get("result", ""), str)


def join_text(so_far: str, frame: Frame) -> str:
    """Return the answer's text after one more frame of deltas."""
    text = frame.output.get("text")
    if not isinstance(text, str):
        return so_far
    # A workflow repeats the whole answer in its last frame; an agent ends with an empty delta.
    if frame.finished and so_far and text.startswith(so_far):
        return text
    return so_far + text
