"""Scenarios: the models of workflow and agent apps, written in Python or in YAML.

The modules `workflow` and `agent` turn them into frames, so that a scenario answers in every
stream mode.
"""

from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from bailian_apps.emulator.apps.templates import check_placeholders
from bailian_apps.emulator.errors import suggestion
from bailian_apps.emulator.models import Failure
from bailian_apps.emulator.wire.frames import JsonObject, as_list, as_object, to_json

_CHUNK_CHARS = 4


def _check_text(value: object) -> object:
    if value != [] and not all(isinstance(piece, str) for piece in as_list(value) or [value]):
        raise ValueError(
            "must be a string (quoted if it looks like a number) or a list of its pieces"
        )
    return value


def _check_output(value: object) -> object:
    return value if value is None or as_object(value) is not None else _check_text(value)


def _check_no_nodes(value: object) -> object:
    check_placeholders(value)
    return value


Text: TypeAlias = Annotated[str | list[str], BeforeValidator(_check_text)]
"""A text with placeholders, as one string or as the pieces in which it streams."""

AgentText: TypeAlias = Annotated[Text, BeforeValidator(_check_no_nodes)]
Json: TypeAlias = Annotated[dict[str, Any] | str, BeforeValidator(_check_no_nodes)]
Milliseconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=0)]


class Description(BaseModel):
    """Base of all scenario models: frozen, without type coercion and unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, value: object) -> object:
        for name in as_object(value) or {}:
            if name not in cls.model_fields:
                hint = suggestion(str(name), cls.model_fields) or "."
                known = ", ".join(cls.model_fields)
                raise ValueError(f"unknown field {name!r}{hint} The fields are: {known}")
        return value


class TokenUsage(Description):
    """The tokens of a model call.

    Attributes:
        model_id: The model.
        input_tokens: Input tokens.
        output_tokens: Output tokens of the complete answer; they grow with the text.
    """

    model_id: str
    input_tokens: Count = 0
    output_tokens: Count = 0

    def at(self, sent: int, total: int) -> JsonObject:
        """Return the usage after `sent` of `total` pieces, as an entry of `usage.models`."""
        output_tokens = self.output_tokens * sent // total if total else self.output_tokens
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": output_tokens,
            "model_id": self.model_id,
        }


class ErrorAnswer(Description):
    """An error answer, or the failure of a workflow's node.

    Attributes:
        code: The cloud's error code.
        message: The error message.
        status: The HTTP status.
    """

    code: str = "AppProcessFailed"
    message: str = ""
    status: Annotated[int, Field(ge=400, le=599)] = 500

    def as_failure(self) -> Failure:
        """Return it as the exception that an app raises."""
        return Failure(status=self.status, code=self.code, message=self.message)


class Node(Description):
    """A node of a workflow.

    Attributes:
        name: Its name; `after`, `mirrors` and `{nodes.name}` refer to it.
        type: `LLM`, `Retrieval`, `API`, `Plugin`, `Script`, `Condition`, … or `Start` and `End`,
            which are added if missing.
        id: Its `nodeId`; by default its type and position.
        after: The earlier nodes that it waits for: by default the previous one, and for the End
            node all that no other node waits for. `[]` starts right after Start.
        latency_ms: From its start to its first piece.
        chunk_ms: From one piece to the next.
        output: A text, its pieces, or a JSON object. An LLM node streams a text in pieces of four
            characters; any other node outputs it at once. An End node without an `output` repeats
            the previous node; its output is the answer.
        mirrors: For an End node: the node whose text it streams at the same time.
        reasoning: For an LLM node: the reasoning before its output.
        usage: The tokens of its model.
        fails: The failure after its output; it ends the run.
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
                "`mirrors` needs an End node without an `output`; it outputs the mirrored text"
            )
        if self.reasoning and self.type != "LLM":
            raise ValueError(f"`reasoning` needs an LLM node; the type is {self.type}")
        return self


class Workflow(Description):
    """A workflow app.

    Attributes:
        nodes: The nodes, each after those that it waits for. Nodes that wait for the same nodes
            run in parallel.
    """

    nodes: Annotated[list[Node], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_plan(self) -> "Workflow":
        before: dict[str, set[str]] = {}
        ids: set[str] = set()
        planned = self.plan()
        for index, (node, waits_for) in enumerate(planned):
            field = f"node {node.name!r}: "
            if node.name in before:
                raise ValueError(f"{field}another node has the same name; rename one")
            if node.id in ids:
                raise ValueError(f"{field}another node has the id {node.id!r} too; change one")
            if (node.type == "Start") != (index == 0):
                raise ValueError(f"{field}there must be one Start node, the first one")
            if (node.type == "End") != (index == len(planned) - 1):
                raise ValueError(f"{field}there must be one End node, the last one")
            mirrored = [] if node.mirrors is None else [node.mirrors]
            for name in [*waits_for, *mirrored]:
                if name not in before:
                    known = ", ".join(before) or "none"
                    raise ValueError(f"{field}no node {name!r} comes before it; these do: {known}")
            ids |= {node.id or ""} - {""}
            before[node.name] = set(waits_for).union(*(before[name] for name in waits_for))
            if mirrored and mirrored[0] not in before[node.name]:
                raise ValueError(f"{field}it mirrors {node.mirrors!r}, so it must wait for it too")
            try:
                check_placeholders([node.output, node.reasoning], before[node.name])
            except ValueError as error:
                raise ValueError(f"{field}{error}") from error
        return self

    def plan(self) -> list[tuple[Node, list[str]]]:
        """Return all nodes, including Start and End, each with the nodes that it waits for."""
        nodes = list(self.nodes)
        if nodes[0].type != "Start":
            nodes.insert(0, Node(name="开始", type="Start"))
        if nodes[-1].type != "End":
            nodes.append(Node(name="结束", type="End"))
        planned: list[tuple[Node, list[str]]] = [(nodes[0], nodes[0].after or [])]
        awaited: set[str] = set()
        for index, node in enumerate(nodes[1:], 1):
            if node.after is not None:
                waits_for = node.after or [nodes[0].name]
            elif node.type == "End":
                waits_for = [each.name for each in nodes[:-1] if each.name not in awaited]
            else:
                waits_for = [nodes[index - 1].name]
            awaited.update(waits_for)
            planned.append((node, waits_for))
        return planned


class Thought(Description):
    """One step of an agent before its answer: exactly one of `reasoning`, `tool`, `retrieval`.

    Attributes:
        reasoning: A reasoning text.
        tool: The name of a tool that is called.
        retrieval: The name of a knowledge base that is searched.
        type: The `action_type` of a tool call: `api`, `mcp`, `plugin`, …
        arguments: The arguments of the tool or the search.
        observation: The result.
        latency_ms: From the step before to its first piece.
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
            names = ", ".join(sorted(unusual))
            raise ValueError(f"`reasoning` cannot be combined with {names}; leave it out")
        return self


class Reference(Description):
    """A document that an agent cites as `<ref>[1]</ref>`.

    Attributes:
        index_id: The id in the citation; by default its position, starting at 1.
        title: The title.
        doc_id: The document's id.
        doc_name: The document's name.
        doc_url: The document's address.
        text: The passage.
    """

    index_id: str | None = None
    title: str | None = None
    doc_id: str | None = None
    doc_name: str | None = None
    doc_url: str | None = None
    text: str = ""

    @model_validator(mode="after")
    def _check_texts(self) -> "Reference":
        check_placeholders(self.model_dump())
        return self


class Agent(Description):
    """An agent app.

    Attributes:
        text: The answer, as one string or in pieces.
        thoughts: The steps before it.
        references: The cited documents.
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


def split_pieces(text: Any, *, whole: bool = False) -> list[str]:
    """Return the pieces in which an output streams, none of them empty.

    A JSON object is one piece, and so is a text if `whole`.
    """
    fields = as_object(text)
    if fields is not None:
        return [to_json(fields)]
    if not isinstance(text, str):
        return [piece for piece in as_list(text) if piece]
    size = len(text) or 1 if whole else _CHUNK_CHARS
    return [text[start : start + size] for start in range(0, len(text), size)]


def check_one_of(description: BaseModel, names: Iterable[str]) -> None:
    """Raise ValueError unless exactly one of the fields is given."""
    given = [name for name in names if getattr(description, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"give exactly one of {', '.join(names)}; given: {', '.join(given) or 'none'}"
        )
