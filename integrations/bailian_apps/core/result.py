"""Results of a run of an app: plain frozen values, the same for every app kind and stream mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from bailian_apps.core.documents import RetrievedDocument, best_of_each, read_documents
from bailian_apps.core.history_template import HistoryFormat
from bailian_apps.core.values import as_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_ValueT = TypeVar("_ValueT")

StepKind: TypeAlias = Literal["node", "tool", "retrieval", "reasoning", "response"]
"""What a step was: a workflow node; a tool, plugin, API or MCP call; a search in a knowledge base;
a stretch of reasoning; or the entry in which an agent lists its own answer."""

SpanKind: TypeAlias = Literal["chain", "tool", "retrieval"]
"""What a step is to a tracer."""

EXECUTING = "executing"
SUCCESS = "success"
SKIP = "skip"
PAUSE = "pause"
STOP = "stop"

_NO_FAILURE = frozenset({EXECUTING, SUCCESS, SKIP, PAUSE, STOP})

# Types of workflow nodes that search (workflow-full-thoughts-retrieval-node-one-frame.json).
_RETRIEVAL_NODES = frozenset({"Retrieval"})


def _reads_older_pickles(kind: type[_ValueT]) -> type[_ValueT]:
    """Give the fields that a pickle of an older version lacks their defaults; they are the last.

    It decorates the finished class: a dataclass of Python 3.10 replaces a `__setstate__` in its
    body.
    """

    def set_state(self: DataclassInstance, state: Sequence[Any]) -> None:
        known = fields(self)
        for each, value in zip(known, state, strict=False):
            object.__setattr__(self, each.name, value)
        for each in known[len(state) :]:
            default = each.default if each.default_factory is MISSING else each.default_factory()
            object.__setattr__(self, each.name, default)

    cast("Any", kind).__setstate__ = set_state
    return kind


@_reads_older_pickles
@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing the remote app did.

    Attributes:
        id: A workflow node's `nodeId` (`nodeId#2` when it runs again in a loop), or `thought-N`
            for the N-th entry of an agent's thoughts, counted from 0.
        kind: What sort of thing it was.
        name: The name shown in the console; the id, or the type, if the app has none.
        type: As on the wire: `nodeType` (`"LLM"`, `"Retrieval"`) or `action_type` (`"mcp"`).
        status: As on the wire: `"executing"`, `"success"`, `"skip"` (on a branch that was not
            taken), `"pause"` (waits for a person) or `"stop"` (was stopped). Anything else is a
            failure.
        input: Parsed JSON, or text; None if the app does not report it.
        output: All output deltas joined. JSON text where the output was not text.
        reasoning: All reasoning deltas joined.
        error: What failed, when `failed`, with the app's error code if there is one.
        duration_ms: Milliseconds the cloud reports; None where it reports none.
        started_ms: When the step was first listed, as all of these three: in milliseconds since
            the request of the answered attempt was sent, by the arrival of the frame. So it has the
            network's and the reader's delays, which `duration_ms` has not. None where arrival says
            nothing: the whole answer came in one frame, or was read from a file without times. Two
            steps that differ in nothing else are equal.
        first_token_ms: When its first output or reasoning arrived; None if there was none.
        ended_ms: When it was listed as ended; None for a step that has not.
        parent_id: The id of the step that this one ran in, if the app reports it.
        usage: The models that the step called, and their tokens; None where the frames do not show
            whose they are. They are part of `AppResult.usage`.
    """

    id: str
    kind: StepKind
    name: str
    type: str | None = None
    status: str = EXECUTING
    input: Any = None
    output: str = ""
    reasoning: str = ""
    error: str | None = None
    duration_ms: float | None = None
    parent_id: str | None = None
    usage: Usage | None = None
    started_ms: float | None = field(default=None, compare=False)
    first_token_ms: float | None = field(default=None, compare=False)
    ended_ms: float | None = field(default=None, compare=False)

    @property
    def failed(self) -> bool:
        """Whether the step failed. A step that was skipped, paused or stopped did not."""
        return is_failure(self.status)

    @property
    def is_named(self) -> bool:
        """Whether `name` is more than the id that a workflow node has until its name is known."""
        return self.kind != "node" or self.name != self.id.partition("#")[0]

    @property
    def is_known(self) -> bool:
        """Whether a trace can begin to show the step: its name, and the input of a call, are known.

        If not, a `StepUpdated` follows, or the step ends.
        """
        return self.is_named and (self.input is not None or self.kind not in ("tool", "retrieval"))

    @property
    def span_kind(self) -> SpanKind:
        """What the step is to a tracer."""
        if self.kind == "tool":
            return "tool"
        searches = self.kind == "retrieval" or self.type in _RETRIEVAL_NODES
        return "retrieval" if searches and self.status != SKIP else "chain"

    @property
    def is_answer(self) -> bool:
        """Whether the step is the app's own answer, listed as a step."""
        return self.kind == "response"

    @property
    def query(self) -> str:
        """What a retrieval searched for: the `query` of its input, or the whole input as text."""
        given: object = self.input or None  # agents send the arguments "{}", too
        query = cast("Any", given).get("query") if isinstance(given, Mapping) else None
        return query if isinstance(query, str) else as_text(cast("object", given))

    @property
    def documents(self) -> tuple[RetrievedDocument, ...]:
        """The passages that a retrieval found; none for a step that failed or did not search."""
        if self.span_kind != "retrieval" or self.failed:
            return ()
        return read_documents(self.output)

    def to_dict(self, *, compact: bool = False) -> dict[str, Any]:
        """Return the fields as JSON values; with `compact`, without empty ones."""
        return _to_dict(self, compact=compact)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Step:
        """Return the step that `to_dict` has described; unknown fields are ignored."""
        known = {name: value for name, value in values.items() if name in cls.__slots__}
        if usage := known.get("usage"):
            known["usage"] = Usage(models=tuple(ModelUsage(**model) for model in usage["models"]))
        return cls(**known)


@_reads_older_pickles
@dataclass(frozen=True, slots=True, kw_only=True)
class DocReference:
    """One document that the answer cites.

    Attributes:
        index_id: The number that `<ref>[1]</ref>` in the answer text points at.
        title: The title of the cited part.
        doc_id: The cloud's id of the document.
        doc_name: The file's name.
        doc_url: Where the document can be fetched, if anywhere.
        text: The cited passage.
        images: Addresses of images in the passage.
        page_number: Pages of the passage, counted as the cloud counts them.
        biz_id: An id of the reference, as on the wire. The vendor does not describe it.
        score: The relevance of the passage, as the retrieval that found it reported; None where no
            step reports one.
        raw: The reference as it came, unknown fields included.
    """

    index_id: str | None = None
    title: str | None = None
    doc_id: str | None = None
    doc_name: str | None = None
    doc_url: str | None = None
    text: str = ""
    images: tuple[str, ...] = ()
    page_number: tuple[int, ...] = ()
    biz_id: str | None = None
    score: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    def to_dict(self, *, compact: bool = False) -> dict[str, Any]:
        """Return the fields but `raw` as JSON values; with `compact`, without empty ones."""
        return _to_dict(self, compact=compact)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """Tokens that one model call inside the app used."""

    model_id: str
    input_tokens: int = 0
    output_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return _to_dict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens used by a run.

    Attributes:
        models: One entry per model call; the same model may stand twice (two nodes).
    """

    models: tuple[ModelUsage, ...] = ()

    @property
    def input_tokens(self) -> int:
        """Tokens read, over all models."""
        return sum(model.input_tokens for model in self.models)

    @property
    def output_tokens(self) -> int:
        """Tokens written, over all models."""
        return sum(model.output_tokens for model in self.models)

    @property
    def total_tokens(self) -> int:
        """Tokens read and written, over all models."""
        return self.input_tokens + self.output_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return the totals and the entry of each model call as JSON values."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.total_tokens,
            "models": [model.to_dict() for model in self.models],
        }


@_reads_older_pickles
@dataclass(frozen=True, slots=True, kw_only=True)
class AppResult:
    """A whole run of an app.

    Attributes:
        text: The answer. The text deltas of the stream, joined, are exactly this.
        reasoning: The reasoning of all steps, each whole, in the order of `reasoning_steps`.
        reasoning_steps: The ids of the steps that thought, in the order of their first thoughts.
        steps: What the app did, in the order in which it began.
        references: The documents that the answer cites.
        usage: Tokens used; no models where the cloud reported none.
        session_id: The cloud's session, to be named in the next call.
        request_id: The cloud's id of the request.
        finish_reason: `"stop"`, or None for a run that did not finish.
        final_text: None, or the last frame's text where it is not what had streamed. If they differ
            by more than white space, a warning was logged.
        attempts: How many times the request was sent, the successful one included.
        context_lost: Whether the cloud answered in another session than the one that was to
            continue: the app did not know the earlier conversation. A warning was logged.
        whole_history: Whether the whole conversation was sent.
        history_format: How it was sent: as `"messages"` or as a `"prompt"`; None if it was not.
        first_token_ms: When the first text of the answer arrived, in milliseconds since the request
            of the answered attempt was sent; None if none did. Two results that differ only in
            times are equal.
        elapsed_ms: When the frame that ended the run arrived, counted in the same way; of a run
            that did not finish, how long it had taken.
        raw: The last frame as it came.
    """

    text: str = ""
    reasoning: str = ""
    reasoning_steps: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    references: tuple[DocReference, ...] = ()
    usage: Usage = field(default_factory=Usage)
    session_id: str | None = None
    request_id: str | None = None
    finish_reason: str | None = None
    final_text: str | None = None
    attempts: int = 1
    context_lost: bool = False
    whole_history: bool = False
    history_format: HistoryFormat | None = None
    raw: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    first_token_ms: float | None = field(default=None, compare=False)
    elapsed_ms: float | None = field(default=None, compare=False)

    def to_html(self, path: str | Path | None = None, *, title: str | None = None) -> str:
        """Return the picture of the run as one HTML page, which loads nothing.

        Args:
            path: A file to write it to, too.
            title: The page's title; by default it names the run.
        """
        from bailian_apps.inspector import render

        html = render(self, title=title)
        if path is not None:
            Path(path).write_text(html, encoding="utf-8")
        return html

    def to_svg(self, path: str | Path | None = None) -> str:
        """Return the waterfall of the run's steps as an SVG image; write it to `path`, if given."""
        from bailian_apps.inspector import to_svg

        svg = to_svg(self)
        if path is not None:
            Path(path).write_text(svg, encoding="utf-8")
        return svg

    def _repr_html_(self) -> str:
        """Return the picture of the run for a notebook."""
        from bailian_apps.inspector import notebook_html

        return notebook_html(self)

    @property
    def documents(self) -> tuple[RetrievedDocument, ...]:
        """The passages that all retrievals found, each once, with its best score."""
        return best_of_each(document for step in self.steps for document in step.documents)


def reasoning_fields(order: Iterable[str], steps: Sequence[Step]) -> dict[str, Any]:
    """Return `reasoning` and `reasoning_steps` of a result.

    Args:
        order: The ids of the steps, in the order of their first thoughts; steps that think and are
            missing come last.
        steps: All steps of the result.
    """
    thoughts = {step.id: step.reasoning for step in steps if step.reasoning}
    ids = [each for each in dict.fromkeys((*order, *thoughts)) if each in thoughts]
    return {"reasoning": "".join([thoughts[each] for each in ids]), "reasoning_steps": tuple(ids)}


def is_failure(status: str) -> bool:
    """Whether a step with this status has failed."""
    return status not in _NO_FAILURE


def _to_dict(value: DataclassInstance, *, compact: bool = False) -> dict[str, Any]:
    # Not `asdict`: it copies every value, and `raw` before that is left out.
    values: dict[str, Any] = {}
    for name in _json_names(type(value)):
        item: Any = getattr(value, name)
        if compact and item in _EMPTY:
            continue
        if isinstance(item, (tuple, Usage)):
            item = item.to_dict() if isinstance(item, Usage) else [*item]
        values[name] = item
    return values


_EMPTY = (None, "", ())


@cache
def _json_names(kind: type[DataclassInstance]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind) if each.name != "raw")
