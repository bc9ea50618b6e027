"""Describes apps: what a workflow or an agent does, in Python or in a YAML file.

The same models read the YAML and are what Python code makes. `workflow` and `agent` make frames of
them, so that a described app answers in every stream mode.
"""

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from bailian_apps.emulator.apps.templates import check_places
from bailian_apps.emulator.models import Failure
from bailian_apps.emulator.wire.frames import JsonObject, as_list, as_object, to_json

_CHUNK_CHARS = 4


def _check_text(value: object) -> object:
    if value != [] and not all(isinstance(piece, str) for piece in as_list(value) or [value]):
        raise ValueError(
            "must be a text, in quotes if it looks like a number, or a list of its pieces"
        )
    return value


def _check_output(value: object) -> object:
    return value if value is None or as_object(value) is not None else _check_text(value)


def _check_no_nodes(value: object) -> object:
    check_places(value)
    return value


Text: TypeAlias = Annotated[str | list[str], BeforeValidator(_check_text)]
"""A text, whole or in the pieces in which it streams. A call fills its places in."""

AgentText: TypeAlias = Annotated[Text, BeforeValidator(_check_no_nodes)]
Json: TypeAlias = Annotated[dict[str, Any] | str, BeforeValidator(_check_no_nodes)]
Milliseconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=0)]


class Description(BaseModel):
    """What all descriptions share: no unknown field, no value that is made to fit, no change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, value: object) -> object:
        for name in as_object(value) or {}:
            if name not in cls.model_fields:
                nearest = difflib.get_close_matches(str(name), cls.model_fields, 1)
                hint = f" did you mean {nearest[0]!r}?" if nearest else ""
                known = ", ".join(cls.model_fields)
                raise ValueError(f"{name!r} is unknown here;{hint} there may be: {known}")
        return value


class TokenUsage(Description):
    """What a model call costs.

    Attributes:
        model_id: The model.
        input_tokens: Tokens read.
        output_tokens: Tokens written when it is done; on the way they grow with the text.
    """

    model_id: str
    input_tokens: Count = 0
    output_tokens: Count = 0

    def at(self, said: int, total: int) -> JsonObject:
        """Return the count after `said` of `total` pieces, as an entry of `usage.models`."""
        output_tokens = self.output_tokens * said // total if total else self.output_tokens
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": output_tokens,
            "model_id": self.model_id,
        }


class ErrorAnswer(Description):
    """An error answer, or what ends a workflow whose node fails.

    Attributes:
        code: The cloud's code.
        message: What the cloud says about it.
        status: The HTTP status.
    """

    code: str = "AppProcessFailed"
    message: str = ""
    status: Annotated[int, Field(ge=400, le=599)] = 500

    def as_failure(self) -> Failure:
        """Return it as what an app raises."""
        return Failure(status=self.status, code=self.code, message=self.message)


class Node(Description):
    """A node of a workflow.

    Attributes:
        name: Its name; `after`, `mirrors` and `{nodes.name}` refer to it.
        type: `LLM`, `Retrieval`, `API`, `Plugin`, `Script`, `Condition`, … or `Start` and `End`,
            which are added when they are not described.
        id: Its `nodeId`; else its type and place.
        after: The nodes it waits for, which stand before it: by default the one before it, and for
            the End node all that no other waits for. `[]` begins right after Start.
        latency_ms: From its start to its first piece.
        chunk_ms: From one piece to the next.
        output: What it puts out, a text, its pieces, or a JSON object. An LLM node streams a text
            in pieces of four characters, another node puts it out at once. An End node without an
            `output` repeats the node described before it; its output is the answer.
        mirrors: Of an End node: the node whose text it streams on while it comes.
        reasoning: What an LLM node thinks first.
        usage: The tokens of its model.
        fails: How it fails, after its output; the run ends there.
    """

    name: Annotated[str, Field(min_length=1)]
    type: str = "LLM"
    id: str | None = None
    after: list[str] | None = None
    latency_ms: Milliseconds = 0
    chunk_ms: Milliseconds = 0
    output: Annotated[str | list[str] | dict[str, Any] | None, BeforeValidator(_check_output)] = (
        None
    )
    mirrors: str | None = None
    reasoning: Text = ""
    usage: TokenUsage | None = None
    fails: ErrorAnswer | None = None

    @field_validator("after", mode="before")
    @classmethod
    def _list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_type(self) -> "Node":
        if self.mirrors is not None and (self.type != "End" or self.output is not None):
            raise ValueError(
                "`mirrors` is for an End node without an `output`; its output is the mirrored one"
            )
        if self.reasoning and self.type != "LLM":
            raise ValueError(f"`reasoning` is for an LLM node; this is one of type {self.type}")
        return self


class Workflow(Description):
    """A workflow app: its nodes, each after those it waits for.

    Attributes:
        nodes: The nodes. Those that wait for the same run side by side.
    """

    nodes: Annotated[list[Node], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_plan(self) -> "Workflow":
        before: dict[str, set[str]] = {}
        ids: set[str] = set()
        planned = self.plan()
        for place, (node, waits_for) in enumerate(planned):
            field = f"node {node.name!r}: "
            if node.name in before:
                raise ValueError(f"{field}there are two of this name; rename one")
            if node.id in ids:
                raise ValueError(f"{field}there are two with the id {node.id!r}; change one")
            if (node.type == "Start") != (place == 0):
                raise ValueError(f"{field}the Start node is the first one, and the only one")
            if (node.type == "End") != (place == len(planned) - 1):
                raise ValueError(f"{field}the End node is the last one, and the only one")
            mirrored = [] if node.mirrors is None else [node.mirrors]
            for name in [*waits_for, *mirrored]:
                if name not in before:
                    known = ", ".join(before) or "none"
                    raise ValueError(f"{field}no node {name!r} stands before it; these do: {known}")
            ids |= {node.id or ""} - {""}
            before[node.name] = set(waits_for).union(*(before[name] for name in waits_for))
            if mirrored and mirrored[0] not in before[node.name]:
                raise ValueError(f"{field}it must also wait for {node.mirrors!r}, which it mirrors")
            try:
                check_places([node.output, node.reasoning], before[node.name])
            except ValueError as error:
                raise ValueError(f"{field}{error}") from error
        return self

    def plan(self) -> list[tuple[Node, list[str]]]:
        """Return all nodes, Start and End too, each with the names of those it waits for."""
        nodes = list(self.nodes)
        if nodes[0].type != "Start":
            nodes.insert(0, Node(name="开始", type="Start"))
        if nodes[-1].type != "End":
            nodes.append(Node(name="结束", type="End"))
        planned: list[tuple[Node, list[str]]] = [(nodes[0], nodes[0].after or [])]
        awaited: set[str] = set()
        for place, node in enumerate(nodes[1:], 1):
            if node.after is not None:
                waits_for = node.after or [nodes[0].name]
            elif node.type == "End":
                waits_for = [each.name for each in nodes[:-1] if each.name not in awaited]
            else:
                waits_for = [nodes[place - 1].name]
            awaited.update(waits_for)
            planned.append((node, waits_for))
        return planned


class Thought(Description):
    """One thing an agent does before it answers: exactly one of the first three.

    Attributes:
        reasoning: It thinks this.
        tool: It calls the tool of this name.
        retrieval: It asks the knowledge base of this name.
        type: The `action_type` of a tool call: `api`, `mcp`, `plugin`, …
        arguments: What the tool, or the knowledge base, is given.
        observation: What it gets back.
        latency_ms: From the thing before to its first piece.
        chunk_ms: From one piece to the next; the observation is the last one.
    """

    reasoning: AgentText | None = None
    tool: str | None = None
    retrieval: str | None = None
    type: str = "api"
    arguments: Json = {}
    observation: Json = ""
    latency_ms: Milliseconds = 0
    chunk_ms: Milliseconds = 0

    @model_validator(mode="after")
    def _check_one(self) -> "Thought":
        check_one_of(self, ["reasoning", "tool", "retrieval"])
        unusual = self.model_fields_set & {"type", "arguments", "observation"}
        if self.reasoning is not None and unusual:
            raise ValueError(f"{', '.join(sorted(unusual))}: not of a reasoning; leave it out")
        return self


class Reference(Description):
    """A document that an agent cites as `<ref>[1]</ref>`.

    Attributes:
        index_id: What the citation names; else its place, from 1 on.
        title: The title in the document.
        doc_id: The document's id.
        doc_name: Its name.
        doc_url: Where it is.
        text: The passage.
    """

    index_id: str | None = None
    title: str | None = None
    doc_id: str | None = None
    doc_name: str | None = None
    doc_url: str | None = None
    text: str = ""

    @model_validator(mode="after")
    def _check_places(self) -> "Reference":
        check_places(self.model_dump())
        return self


class Agent(Description):
    """An agent app.

    Attributes:
        text: The answer, whole or in pieces.
        thoughts: What it does before.
        references: What it cites.
        usage: The tokens of its model.
        latency_ms: From the last thought to the first piece of the answer.
        chunk_ms: From one piece to the next.
    """

    text: AgentText
    thoughts: list[Thought] = []
    references: list[Reference] = []
    usage: TokenUsage | None = None
    latency_ms: Milliseconds = 0
    chunk_ms: Milliseconds = 0


def pieces_of(text: Any, *, whole: bool = False) -> list[str]:
    """Return the pieces in which an output streams; a piece is never empty.

    Args:
        text: A text, its pieces, or a JSON object, which streams as one piece.
        whole: Whether a text is one piece too.
    """
    fields = as_object(text)
    if fields is not None:
        return [to_json(fields)]
    if not isinstance(text, str):
        return [piece for piece in as_list(text) if piece]
    size = len(text) or 1 if whole else _CHUNK_CHARS
    return [text[start : start + size] for start in range(0, len(text), size)]


def check_one_of(description: BaseModel, names: Iterable[str]) -> None:
    """Refuse a description of nothing, and one of two things at once.

    Raises:
        ValueError: Not exactly one of the fields is given.
    """
    given = [name for name in names if getattr(description, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"give exactly one of {', '.join(names)}; there is "
            + (f"{' and '.join(given)}" if given else "none")
        )
