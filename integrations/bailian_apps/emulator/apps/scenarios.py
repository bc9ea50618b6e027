"""Scenarios: the models of workflow and agent apps, written in Python or in YAML.

The modules `workflow` and `agent` turn them into frames, so that a scenario answers in every
stream mode.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bailian_apps.emulator.apps.fields import (
    AgentText,
    Arguments,
    Count,
    Description,
    Milliseconds,
    Observation,
    Output,
    Text,
    When,
    check_one_of,
)
from bailian_apps.emulator.apps.templates import check_placeholders
from bailian_apps.emulator.models import Failure
from bailian_apps.emulator.wire.frames import JsonObject, NodeContent
from bailian_apps.emulator.wire.nodes import RUNNING, SKIPPED, is_answer


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
            which are added if missing. A node whose type has "output" in it is an Output node: it
            says a part of the answer before the End node does.
        id: Its `nodeId`; by default its type and position. A node with the id of an earlier one
            that it waits for is that node, run again in a loop.
        after: The earlier nodes that it waits for: by default the previous one, and for the End
            node all that no other node waits for. `[]` starts right after Start.
        latency_ms: From its start to its first piece.
        chunk_ms: From one piece to the next.
        output: A text, its pieces, a JSON object or a list of them. An LLM node streams a text in
            pieces of four characters; any other node outputs it at once. An End node without an
            `output` repeats the previous node, unless that is an Output node; its output is the
            answer, or the end of it.
        mirrors: For an End or Output node: the node whose text it streams at the same time.
        reasoning: For an LLM node: the reasoning before its output.
        usage: The tokens of its model.
        fails: The failure after its output; it ends the run.
        when: The condition on which it runs; otherwise it is skipped. So are nodes that wait only
            for skipped ones.
        status: The `nodeStatus` that it ends with; by default `success`, or `failed` if it fails.
            `skip`: it does not run. `pause` and `stop`: nodes that wait for it do not run either.
            `fail`: it has `errorInfo` and `errorCode` instead of `nodeErrorMsg`.
        result: How `nodeResult` has an output that is JSON: its text as the `result`, the JSON
            itself as the `result` (`json`), or nothing else (`bare`).
        content: How it speaks in `message_format_plus`: in pieces of text, or in JSON objects that
            have what is new (`deltas`, an LLM node's default) or all so far (`snapshots`).
    """

    name: Annotated[str, Field(min_length=1)]
    type: str = "LLM"
    id: str | None = None
    after: list[str] | None = None
    latency_ms: Milliseconds = 0
    chunk_ms: Milliseconds = 0
    output: Output = None
    mirrors: str | None = None
    reasoning: Text = ""
    usage: TokenUsage | None = None
    fails: ErrorAnswer | None = None
    when: When | None = None
    status: str | None = None
    result: Literal["text", "json", "bare"] = "text"
    content: NodeContent | None = None

    @field_validator("after", mode="before")
    @classmethod
    def _list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_type(self) -> "Node":
        if self.mirrors is not None and (not is_answer(self.type) or self.output is not None):
            raise ValueError(
                "`mirrors` needs an End node or an Output node without an `output`; it outputs the "
                "mirrored text"
            )
        if self.reasoning and self.type != "LLM" and self.content in (None, "text"):
            raise ValueError(
                f"`reasoning` needs an LLM node; the type is {self.type}. `content: deltas` or "
                "`snapshots` let any node reason"
            )
        if self.reasoning and self.result != "text":
            raise ValueError(f"`reasoning` needs `result: text`, not {self.result}")
        if self.content not in (None, "text") and is_answer(self.type):
            raise ValueError(f"`content` must be text; the type is {self.type}")
        if self.type in ("Start", "End") and (self.when or self.status == SKIPPED):
            raise ValueError(f"a node of type {self.type} always runs; leave out `when` and skip")
        if self.status == RUNNING:
            raise ValueError(f"`status` is what the node ends with; {RUNNING!r} is not an end")
        return self


class Workflow(Description):
    """A workflow app.

    Attributes:
        nodes: The nodes, each after those that it waits for. Nodes that wait for the same nodes
            run in parallel.
        last_text: Whether the last frame's `text` has all of the answer, or the End node's alone.
        late_names: Whether a node has its id as its name until it speaks or ends, as recorded.
        finish_reason: The last frame's. A forced stop may be `length`, `"null"` or None.
        unasked: Whether a JSON answer has, without being asked, `thoughts` and the
            `workflow_message` of its last node.
    """

    nodes: Annotated[list[Node], Field(min_length=1)]
    last_text: Literal["all", "end"] = "all"
    late_names: bool = False
    finish_reason: str | None = "stop"
    unasked: bool = False

    @model_validator(mode="after")
    def _check_plan(self) -> "Workflow":
        before: dict[str, set[str]] = {}
        owners: dict[str | None, str] = {}
        planned = self.plan()
        for index, (node, waits_for) in enumerate(planned):
            field = f"node {node.name!r}: "
            if node.name in before:
                raise ValueError(f"{field}another node has the same name; rename one")
            if (node.type == "Start") != (index == 0):
                raise ValueError(f"{field}there must be one Start node, the first one")
            if (node.type == "End") != (index == len(planned) - 1):
                raise ValueError(f"{field}there must be one End node, the last one")
            mirrored = [] if node.mirrors is None else [node.mirrors]
            for name in [*waits_for, *mirrored]:
                if name not in before:
                    known = ", ".join(before) or "none"
                    raise ValueError(f"{field}no node {name!r} comes before it; these do: {known}")
            before[node.name] = set(waits_for).union(*(before[name] for name in waits_for))
            owner = owners.setdefault(node.id, node.name) if node.id else node.name
            if owner not in (node.name, *before[node.name]):
                raise ValueError(
                    f"{field}another node has the id {node.id!r} too; change one, or wait for "
                    f"{owner!r} to run it again"
                )
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
        arguments: The arguments of the tool or the search: a JSON object, its text, or a list of
            the pieces of that text. Pieces only stream, in `action_input_stream`, or in
            `arguments` for a search or a tool of type `mcp`.
        observation: The result: a text, a JSON object or a list. By default a retrieval finds the
            references.
        latency_ms: From the step before to its first piece.
        chunk_ms: From one piece to the next.
        duration_ms: How long the tool or the search runs: from its call to its observation; by
            default `chunk_ms`.
    """

    reasoning: AgentText | None = None
    tool: str | None = None
    retrieval: str | None = None
    type: str = "api"
    arguments: Arguments = Field(default_factory=dict[str, Any])
    observation: Observation = ""
    latency_ms: Milliseconds = 0
    chunk_ms: Milliseconds = 0
    duration_ms: Milliseconds | None = None

    @model_validator(mode="after")
    def _check_one(self) -> "Thought":
        check_one_of(self, ["reasoning", "tool", "retrieval"])
        unusual = self.model_fields_set & {"type", "arguments", "observation", "duration_ms"}
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
        score: Its relevance, where a retrieval finds it.
    """

    index_id: str | None = None
    title: str | None = None
    doc_id: str | None = None
    doc_name: str | None = None
    doc_url: str | None = None
    text: str = ""
    score: float | None = None

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
        listed: Whether the frames of a stream list all thoughts so far, or only the newest one.
        finish_reason: The last frame's. A forced stop may be `length`, `"null"` or None.
        unasked: Whether a JSON answer has `thoughts` without being asked.
    """

    text: AgentText
    thoughts: list[Thought] = Field(default_factory=list[Thought])
    references: list[Reference] = Field(default_factory=list[Reference])
    usage: TokenUsage | None = None
    latency_ms: Milliseconds = 0
    chunk_ms: Milliseconds = 0
    listed: Literal["all", "newest"] = "all"
    finish_reason: str | None = "stop"
    unasked: bool = False
