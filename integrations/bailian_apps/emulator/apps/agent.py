"""Tells a described agent: what it thinks and calls, then its answer, in deltas."""

from collections.abc import Iterator

from bailian_apps.emulator.apps.scenarios import Agent, Thought, pieces_of
from bailian_apps.emulator.apps.templates import fill, values_of
from bailian_apps.emulator.models import Call
from bailian_apps.emulator.wire.frames import Frame, JsonObject, to_json


def agent_frames(agent: Agent, call: Call) -> Iterator[Frame]:
    """Yield the frames of one answer.

    An entry of `thoughts` stays in its place. A reasoning is a delta and then empty; a call is told
    again as it is.

    Raises:
        Failure: A text names something that the call does not have.
    """
    values = values_of(call)
    references = [
        {"index_id": str(place), **fill(reference.model_dump(exclude_none=True), values)}
        for place, reference in enumerate(agent.references, 1)
    ]
    told = [(thought, _entries(thought, references, values)) for thought in agent.thoughts]
    text = pieces_of(fill(agent.text, values))
    total = sum(len(entries) - 1 for _, entries in told) + len(text)
    said = 0
    now_ms = 0.0
    past: list[JsonObject] = []

    def frame(piece: str, thoughts: list[JsonObject], **output: object) -> Frame:
        fields: JsonObject = {"thoughts": thoughts} if thoughts else {}
        fields |= {"session_id": call.session_id, "finish_reason": "null", "text": piece, **output}
        models = [agent.usage.at(said, total)] if agent.usage is not None else []
        usage = {"models": models} if models else {}
        payload = {"output": fields, "usage": usage, "request_id": call.request_id}
        return Frame(payload=payload, offset_ms=now_ms)

    for thought, entries in told:
        now_ms += thought.latency_ms
        for place, entry in enumerate(entries[:-1]):
            now_ms += thought.chunk_ms if place else 0.0
            said += 1
            yield frame("", [*past, entry])
        past.append(entries[-1])
    now_ms += agent.latency_ms
    for place, piece in enumerate(text):
        now_ms += agent.chunk_ms if place else 0.0
        said += 1
        yield frame(piece, past)
    yield frame(
        "", past, finish_reason="stop", **({"doc_references": references} if references else {})
    )


def _entries(
    thought: Thought, references: list[JsonObject], values: JsonObject
) -> list[JsonObject]:
    """Return a thought's entry piece by piece, and at last as the frames after it list it."""
    if thought.reasoning is not None:
        pieces = pieces_of(fill(thought.reasoning, values))
        return [
            {
                "action": "reasoning",
                "thought": piece,
                "action_type": "reasoning",
                "response": piece,
                "action_name": "思考过程",
            }
            for piece in [*pieces, ""]
        ]
    arguments = fill(thought.arguments, values)
    observation = fill(thought.observation, values)
    if thought.retrieval is not None:
        action, type_, observation = "agentRag", "agentRag", observation or references
    else:
        action, type_ = thought.tool, thought.type
    called: JsonObject = {
        "action": action,
        "action_name": thought.tool or thought.retrieval,
        "action_type": type_,
    }
    # An MCP call has its arguments as text, as the one known answer with such a call shows.
    if type_ == "mcp":
        called["arguments"] = _as_text(arguments)
    else:
        called["action_input"] = arguments
    answered = {**called, "observation": _as_text(observation)}
    return [{**called, "observation": ""}, answered, answered]


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else to_json(value)
