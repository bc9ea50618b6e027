"""Frames in, events out: the one meaning of a response. Pure.

Every mode of the API ends in the same events, so nothing outside `core` knows which mode was on.
The rules for the answer text, by what a frame carries (requests always set `incremental_output`):

* An agent's `output.text` is a delta; its last frame's text is the last delta, mostly empty
  (agent-plain-stream.sse).
* A workflow's last frame carries the whole answer (workflow-two-llm.sse). What streamed before it
  came from its Output nodes and its End node, in `thoughts`
  (workflow-deep-thinking-streamed-end-head.jsonl) or in `workflow_message`
  (workflow-message-format.sse), or, in `agent_format`, from `output.text`. So at the end only what
  is missing is emitted (core/answer.py). Other nodes are never part of it: an End node may have a
  text of its own (workflow-two-llm-fixed-end.sse).
* What streamed is the answer, always. If the final text contradicts it, that is in
  `AppResult.final_text`, and a warning is logged.

The files named here are in tests/recordings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from bailian_apps.core.answer import Answer, Clock, OutputNodes
from bailian_apps.core.documents import PassageScores, score_or_none
from bailian_apps.core.errors import StreamInterruptedError
from bailian_apps.core.events import (
    AppEvent,
    References,
    RunStarted,
    UnknownFrame,
    UsageReported,
)
from bailian_apps.core.history_template import HistoryFormat
from bailian_apps.core.language import N_
from bailian_apps.core.modes import stream_mode
from bailian_apps.core.result import (
    AppResult,
    DocReference,
    ModelUsage,
    Step,
    Usage,
    reasoning_fields,
)
from bailian_apps.core.steps import StepReader
from bailian_apps.core.values import as_text, text_or_none

logger = logging.getLogger(__name__)


class _FrameClock:
    """When the frame being read arrived: the clock is read at most once for it, if at all."""

    __slots__ = ("_clock", "time_ms")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.time_ms: float | None = None  # None until something asks, for each frame

    def __call__(self) -> float | None:
        if self.time_ms is None:
            self.time_ms = self._clock()
        return self.time_ms


class Decoder:
    """Decodes one run. Feed it every frame in order, then `finish` it.

    A frame is the API's answer object as parsed from the wire: `output`, `usage`, `request_id`.
    Any of its fields may be null or missing; what cannot be read becomes an `UnknownFrame`.

    Attributes:
        started: Whether a frame was read.
        session_id: The session that the frames name.
    """

    def __init__(
        self,
        *,
        flow_stream_mode: str | None = None,
        output_nodes: OutputNodes = "answer",
        asked_session: str | None = None,
        history_format: HistoryFormat | None = None,
        clock: Clock = lambda: None,
    ) -> None:
        """Start a run.

        Args:
            flow_stream_mode: The requested mode, if any. It settles what the frames leave open.
            output_nodes: Whether Output nodes say a part of the answer.
            asked_session: The session that the run was to continue.
            history_format: How the whole conversation was sent; None if it was not.
            clock: Returns the milliseconds since the request was sent. It is read when a step
                begins, first speaks or ends, at the first text of the answer and at the end.
        """
        mode = stream_mode(flow_stream_mode)
        self._asked_session = asked_session
        self._history_format: HistoryFormat | None = history_format
        self._events: list[AppEvent] = []  # what is new in the frame being read
        self._frame_clock = _FrameClock(clock)
        self._answer = Answer(self._events, mode, output_nodes, self._frame_clock)
        self._steps = StepReader(self._events, self._answer, mode, self._frame_clock)
        self._is_workflow = mode.is_workflow
        self._references: list[DocReference] = []
        self._known_references: dict[tuple[str | None, str], list[DocReference]] = {}
        self._references_raw: object = None
        self._retrievals: tuple[Step, ...] = ()  # those that `_scores` is made of
        self._scores = PassageScores(())
        self._usage_raw: object = None
        self._reported_usage = Usage()
        self.session_id: str | None = None
        self._request_id: str | None = None
        self._finish_reason: str | None = None
        self._clock = clock
        self._elapsed_ms: float | None = None
        self.started = False
        self._raw: Mapping[str, Any] = {}

    @property
    def finished(self) -> bool:
        """Whether the frame that ends the run was read."""
        return self._finish_reason is not None

    @property
    def context_lost(self) -> bool:
        """Whether the frames name another session than the one to continue."""
        return None not in (self._asked_session, self.session_id) and (
            self._asked_session != self.session_id
        )

    def feed(self, frame: Mapping[str, Any]) -> list[AppEvent]:
        """Read one frame.

        Args:
            frame: The answer object, as parsed from the wire.

        Returns:
            What is new in it, in the order in which it happened. `RunFinished` is not among them:
            the run is over when the stream is, see `finish`.
        """
        output: object = frame.get("output")
        if not isinstance(output, dict) or self._finish_reason is not None:
            return [UnknownFrame(dict(frame))]
        fields = cast("dict[str, Any]", output)
        finished_steps = self._steps.finished_count
        self._raw = frame
        self._frame_clock.time_ms = None
        if session_id := fields.get("session_id"):
            self.session_id = str(session_id)
        if request_id := frame.get("request_id"):
            self._request_id = str(request_id)
        if not self.started:
            self.started = True
            if finish_reason(fields) is not None:
                self._steps.clock = lambda: None  # steps that arrive in one frame have no times
            ids = (self.session_id, self._request_id)
            whole_history = self._history_format is not None
            self._events.append(RunStarted(*ids, self.context_lost, whole_history))
        if thoughts := fields.get("thoughts"):
            if isinstance(thoughts, list):
                self._steps.read_thoughts(cast("list[object]", thoughts))
            else:
                self._events.append(UnknownFrame(thoughts))
        if message := fields.get("workflow_message"):
            if isinstance(message, dict):
                self._steps.read_message(cast("dict[str, Any]", message))
            else:
                self._events.append(UnknownFrame(message))
        self._read_text(fields)
        if (references := fields.get("doc_references")) and references != self._references_raw:
            self._references_raw = references
            self._read_references(references)
        if usage := frame.get("usage"):
            self._usage_raw = usage
            # Counts change with every frame; they are reported when a step ends, and at the end.
            if self._finish_reason is not None or self._steps.finished_count > finished_steps:
                self._emit_usage()
        events = self._events.copy()
        self._events.clear()
        return events

    def finish(self) -> AppResult:
        """End the run; there are no more frames.

        Returns:
            The whole run.

        Raises:
            StreamInterruptedError: No frame had a `finish_reason`. `partial` holds what arrived.
        """
        result = self.partial()
        if self.finished:
            return result
        message = N_("the stream ended before the run finished; no readable frame came")
        if self.started:
            message = N_(
                "the stream ended before the run finished; its partial result is in .partial"
            )
        error = StreamInterruptedError(message, request_id=self._request_id)
        error.session_id, error.partial = self.session_id, result if self.started else None
        raise error

    def partial(self) -> AppResult:
        """Return what has been read so far. Steps that have not ended are `"executing"`."""
        steps = self._steps.steps()
        return AppResult(
            text=self._answer.text,
            **reasoning_fields(self._steps.thinkers, steps),
            steps=steps,
            references=tuple(self._references),
            usage=_usage(self._usage_raw) or Usage(),
            session_id=self.session_id,
            request_id=self._request_id,
            finish_reason=self._finish_reason,
            final_text=self._answer.final_text,
            context_lost=self.context_lost,
            whole_history=self._history_format is not None,
            history_format=self._history_format,
            first_token_ms=self._answer.first_token_ms,
            elapsed_ms=self._elapsed_ms if self.finished else self._clock(),
            raw=dict(self._raw),
        )

    # ------------------------------------------------------------------- text

    def _read_text(self, fields: dict[str, Any]) -> None:
        text = "" if fields.get("text") is None else fields["text"]
        if not isinstance(text, str):
            self._events.append(UnknownFrame({"text": text}))
            text = ""
        self._finish_reason = finish_reason(fields)
        if self._finish_reason is not None:
            self._elapsed_ms = self._frame_clock()
            self._steps.finish_all()
            self._finish_answer(text)
        elif text:
            self._steps.answer_began()
            self._answer.add(text)

    def _finish_answer(self, text: str) -> None:
        """Emit what the frame that ends the run adds to what was streamed."""
        answer, steps = self._answer, self._steps
        is_workflow = self._is_workflow or steps.saw_node
        answer.finish(text or steps.end_value, is_workflow=is_workflow)
        if answer.final_text is not None and answer.contradicted:
            logger.warning(
                "the last frame's text (%d characters) is not what was streamed (%d), which is the "
                "answer; see AppResult.final_text for the other; request_id %s",
                len(answer.final_text),
                len(answer.text),
                self._request_id,
            )

    # ---------------------------------------------------- references and usage

    def _read_references(self, value: object) -> None:
        items = cast("list[object]", value) if isinstance(value, list) else [value]
        new: list[DocReference] = []
        for item in items:
            if not isinstance(item, dict):
                self._events.append(UnknownFrame(item))
                continue
            reference = _reference(cast("dict[str, Any]", item))
            # A frame may list hundreds: each is compared only with similar ones.
            alike = self._known_references.setdefault((reference.index_id, reference.text), [])
            if reference not in alike:
                alike.append(reference)
                new.append(reference)
        if new:
            new = self._with_scores(new)
            self._references += new
            self._events.append(References(tuple(new)))

    def _with_scores(self, references: list[DocReference]) -> list[DocReference]:
        """Add the scores that retrievals gave the passages; a reference may have its own."""
        retrievals = tuple(s for s in self._steps.steps() if s.span_kind == "retrieval")
        if retrievals != self._retrievals:  # parsed once, as references may come in many frames
            self._retrievals = retrievals
            self._scores = PassageScores(AppResult(steps=retrievals).documents)
        return [
            each
            if each.score is not None
            else replace(
                each,
                score=self._scores.find(
                    each.text, index_id=each.index_id, doc_id=each.doc_id, doc_name=each.doc_name
                ),
            )
            for each in references
        ]

    def _emit_usage(self) -> None:
        usage = _usage(self._usage_raw)
        if usage is None:
            self._events.append(UnknownFrame({"usage": self._usage_raw}))
            return
        self._steps.assign_usage(usage)
        if usage != self._reported_usage:
            self._reported_usage = usage
            self._events.append(UsageReported(usage))


def finish_reason(output: Mapping[str, Any]) -> str | None:
    """Return why the run ended, from an `output`; None if it has not. The API writes `"null"`."""
    reason = output.get("finish_reason")
    return None if reason in (None, "", "null") else str(reason)


def _usage(value: object) -> Usage | None:
    """Read a `usage` object; null and `{}` (workflow-two-llm.sse) have no tokens.

    What cannot be read is None.
    """
    if not value:
        return Usage()
    models = cast("dict[str, Any]", value).get("models") if isinstance(value, dict) else None
    if not isinstance(models, list):
        return None
    read: list[ModelUsage] = []
    for item in cast("list[object]", models):
        if isinstance(item, dict):
            model = cast("dict[str, Any]", item)
            read.append(
                ModelUsage(
                    model_id=str(model.get("model_id") or ""),
                    input_tokens=_count(model.get("input_tokens")),
                    output_tokens=_count(model.get("output_tokens")),
                )
            )
    return Usage(models=tuple(read))


def _reference(fields: dict[str, Any]) -> DocReference:
    names = ("index_id", "title", "doc_id", "doc_name", "doc_url", "biz_id")
    return DocReference(
        **{name: text_or_none(fields.get(name)) for name in names},
        text=as_text(fields.get("text")),
        images=tuple(str(image) for image in _items(fields.get("images"))),
        page_number=tuple(page for page in _items(fields.get("page_number")) if type(page) is int),
        score=score_or_none(fields.get("score")),
        raw=fields,
    )


def _items(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
