"""Turns an `Agent` into the frames of its answer: thoughts and tool calls first, then the text."""

from collections.abc import Iterator

from bailian_apps.emulator.apps.fields import split_pieces
from bailian_apps.emulator.apps.scenarios import Agent, Reference, Thought
from bailian_apps.emulator.apps.templates import fill, values_of
from bailian_apps.emulator.models import Call
from bailian_apps.emulator.wire.frames import Frame, JsonObject, Traits, to_json

_SEARCH = "agentRag"


def agent_frames(agent: Agent, call: Call) -> Iterator[Frame]:
    """Yield the frames of one answer, as deltas.

    Each frame of a stream lists all entries of `thoughts` so far, or only the newest one until the
    answer begins; a JSON answer has all. A reasoning is a delta, then empty; a tool
    call is repeated unchanged (tests/recordings/agent-deep-thinking-elided-head.sse).

    Raises:
        Failure: The call has no value for a placeholder.
    """
    values = values_of(call)
    references = [
        {"index_id": str(number), **fill(_fields(reference), values)}
        for number, reference in enumerate(agent.references, 1)
    ]
    found = [
        _passage(number, fill(reference.model_dump(exclude_none=True), values))
        for number, reference in enumerate(agent.references, 1)
    ]
    thoughts = [(thought, _entries(thought, found, values)) for thought in agent.thoughts]
    newest = agent.listed == "newest" and call.request.stream
    traits = Traits(unasked=agent.unasked)
    text = split_pieces(fill(agent.text, values))
    total = sum(len(entries) - 1 for _, entries in thoughts) + len(text)
    sent = 0
    now_ms = 0.0
    past: list[JsonObject] = []

    def frame(
        piece: str, listed: list[JsonObject], *, last: bool = False, **output: object
    ) -> Frame:
        fields: JsonObject = {"thoughts": listed} if listed else {}
        fields |= {"session_id": call.session_id, "finish_reason": "null", "text": piece, **output}
        models = [agent.usage.at(sent, total)] if agent.usage is not None else []
        usage = {"models": models} if models else {}
        payload = {"output": fields, "usage": usage, "request_id": call.request_id}
        return Frame(payload=payload, offset_ms=now_ms, last=last, traits=traits)

    for thought, entries in thoughts:
        now_ms += thought.latency_ms
        for index, entry in enumerate(entries[:-1]):
            runs = thought.duration_ms is not None and index == len(entries) - 2
            now_ms += (thought.duration_ms or 0.0) if runs else thought.chunk_ms if index else 0.0
            sent += 1
            yield frame("", [*past, entry])
        past += [] if newest else entries[-1:]
    now_ms += agent.latency_ms
    for index, piece in enumerate(text):
        now_ms += agent.chunk_ms if index else 0.0
        sent += 1
        yield frame(piece, past)
    output: JsonObject = {"finish_reason": agent.finish_reason}
    if references:
        output["doc_references"] = references
    yield frame("", past, last=True, **output)


def _fields(reference: Reference) -> JsonObject:
    return reference.model_dump(exclude_none=True, exclude={"score"})


def _passage(number: int, reference: JsonObject) -> JsonObject:
    """Return a reference as a retrieval lists it; its `referenceIndex` is that of the citation."""
    names = {"text": "content", "doc_id": "dataId", "doc_name": "dataName", "doc_url": "docUrl"}
    passage = {names.get(name, name): value for name, value in reference.items()}
    index = passage.pop("index_id", str(number))
    return {**passage, "referenceIndex": int(index) if index.isdecimal() else index}


def _entries(thought: Thought, found: list[JsonObject], values: JsonObject) -> list[JsonObject]:
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
    # Recorded JSON answers of agents with a knowledge base have `rag` and `agentRag`.
    action, type_ = (thought.tool, thought.type) if thought.tool is not None else ("rag", _SEARCH)
    if type_ == _SEARCH and observation == "":
        observation = found
    call: JsonObject = {
        "action": action,
        "action_name": thought.tool or thought.retrieval,
        "action_type": type_,
    }
    # The arguments of an MCP call are a string: see
    # tests/recordings/agent-mcp-thoughts-third-party-abridged.json.
    as_text = type_ in ("mcp", _SEARCH)
    if isinstance(arguments, list):
        field = "arguments" if as_text else "action_input_stream"
        asked = [{**call, field: piece} for piece in split_pieces(arguments)]
        call[field] = ""
    else:
        call |= {"arguments": _as_string(arguments)} if as_text else {"action_input": arguments}
        asked = [call]
    answered = {**call, "observation": _as_string(observation)}
    return [*({**each, "observation": ""} for each in asked), answered, answered]


def _as_string(value: object) -> str:
    return value if isinstance(value, str) else to_json(value)
