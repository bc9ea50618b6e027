"""Turns an `Agent` into the frames of its answer: thoughts and tool calls first, then the text."""

from collections.abc import Iterator

from bailian_apps.emulator.apps.scenarios import Agent, Thought, split_pieces
from bailian_apps.emulator.apps.templates import fill, values_of
from bailian_apps.emulator.models import Call
from bailian_apps.emulator.wire.frames import Frame, JsonObject, to_json


def agent_frames(agent: Agent, call: Call) -> Iterator[Frame]:
    """Yield the frames of one answer, as deltas.

    Each frame lists all entries of `thoughts` so far. A reasoning is a delta, then empty; a tool
    call is repeated unchanged (tests/recordings/agent-deep-thinking-elided-head.sse).

    Raises:
        Failure: The call has no value for a placeholder.
    """
    values = values_of(call)
    references = [
        {"index_id": str(number), **fill(reference.model_dump(exclude_none=True), values)}
        for number, reference in enumerate(agent.references, 1)
    ]
    thoughts = [(thought, _entries(thought, references, values)) for thought in agent.thoughts]
    text = split_pieces(fill(agent.text, values))
    total = sum(len(entries) - 1 for _, entries in thoughts) + len(text)
    sent = 0
    now_ms = 0.0
    past: list[JsonObject] = []

    def frame(piece: str, listed: list[JsonObject], **output: object) -> Frame:
        fields: JsonObject = {"thoughts": listed} if listed else {}
        fields |= {"session_id": call.session_id, "finish_reason": "null", "text": piece, **output}
        models = [agent.usage.at(sent, total)] if agent.usage is not None else []
        usage = {"models": models} if models else {}
        payload = {"output": fields, "usage": usage, "request_id": call.request_id}
        return Frame(payload=payload, offset_ms=now_ms)

    for thought, entries in thoughts:
        now_ms += thought.latency_ms
        for index, entry in enumerate(entries[:-1]):
            now_ms += thought.chunk_ms if index else 0.0
            sent += 1
            yield frame("", [*past, entry])
        past.append(entries[-1])
    now_ms += agent.latency_ms
    for index, piece in enumerate(text):
        now_ms += agent.chunk_ms if index else 0.0
        sent += 1
        yield frame(piece, past)
    yield frame(
        "", past, finish_reason="stop", **({"doc_references": references} if references else {})
    )


def _entries(
    thought: Thought, references: list[JsonObject], values: JsonObject
) -> list[JsonObject]:
    """Return a thought's entry in each of its frames, and last as later frames list it."""
    if thought.reasoning is not None:
        pieces = split_pieces(fill(thought.reasoning, values))
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
    call: JsonObject = {
        "action": action,
        "action_name": thought.tool or thought.retrieval,
        "action_type": type_,
    }
    # The arguments of an MCP call are a string: see
    # tests/recordings/agent-mcp-thoughts-third-party-abridged.json.
    if type_ == "mcp":
        call["arguments"] = _as_string(arguments)
    else:
        call["action_input"] = arguments
    answered = {**call, "observation": _as_string(observation)}
    return [{**call, "observation": ""}, answered, answered]


def _as_string(value: object) -> str:
    return value if isinstance(value, str) else to_json(value)
