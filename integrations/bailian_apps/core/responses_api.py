"""Background runs: what is sent to the Responses API for apps, and what its answers mean. Pure.

The API has no session and no parameters: a request is the whole conversation as `input`, and
`biz_params` beside it. An answer is the run as an object, whose `output` lists items: reasoning,
and the message of the answer. The names are those of the vendor's page "Responses API".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Final, cast

from bailian_apps.core.answer_text import AnswerFilter
from bailian_apps.core.api_errors import api_error
from bailian_apps.core.errors import (
    APIError,
    AppFailedError,
    BailianError,
    InvalidInputError,
    NoResultError,
    ProtocolError,
)
from bailian_apps.core.events import (
    AppEvent,
    ReasoningDelta,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    TextDelta,
    UsageReported,
    fold,
)
from bailian_apps.core.language import N_
from bailian_apps.core.request import AppRequest, Input, Parameter
from bailian_apps.core.result import SUCCESS, AppResult, ModelUsage, Step, Usage
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.values import as_text

RUN_STATUSES: Final = ("queued", "running", "completed", "failed", "cancelled", "incomplete")
"""The statuses of a run. `incomplete` is OpenAI's, for an answer that was cut off."""

_ENDED = frozenset({"completed", "failed", "cancelled", "incomplete"})
_SAME_STATUS = {"in_progress": "running", "canceled": "cancelled"}  # OpenAI's words

_SENT = frozenset({"prompt", "messages", "image_list", "file_list", "biz_params"})
_NOT_SENT = {
    name
    for name, info in AppRequest.model_fields.items()
    if name not in _SENT and any(isinstance(mark, (Input, Parameter)) for mark in info.metadata)
} | {"extra_body"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run as the cloud has described it.

    Attributes:
        id: The run's id.
        status: One of `RUN_STATUSES`, or a word that this version does not know.
        raw: The whole object.
        request_id: The cloud's id of the request that asked.
    """

    id: str
    status: str
    raw: Mapping[str, Any]
    request_id: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the run does not change any more."""
        return self.status in _ENDED


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """A run has another status than before when it was last asked for."""

    run_id: str
    status: str


def refuse_unsent(given: Mapping[str, Any]) -> None:
    """Refuse arguments of a call that a background run's request has no place for.

    Raises:
        InvalidInputError: One is given, and not empty.
    """
    problems = [
        InvalidInputError(
            name,
            "cannot be sent with a background run",
            N_("Pass messages=: the API has no sessions")
            if name == "session_id"
            else N_("Leave it out"),
        )
        for name, value in given.items()
        if name in _NOT_SENT and value not in (None, "", (), [], {})
    ]
    if problems:
        raise InvalidInputError.of(problems)


def unsent_settings(settings: AppSettings) -> list[str]:
    """Return the names of settings that differ from their defaults and are not sent."""
    fields = AppSettings.model_fields
    return sorted(
        name
        for name in _NOT_SENT & fields.keys()
        if getattr(settings, name) != fields[name].get_default(call_default_factory=True)
    )


def request_body(request: AppRequest) -> dict[str, Any]:
    """Return the body of the request that submits a run; it reads the images of this machine.

    Images and files are parts of the last message.

    Raises:
        InvalidInputError: An image cannot be read, is not an image, or is too large.
    """
    fields = request.input()
    parts: list[dict[str, Any]] = [
        {"type": "input_image", "image_url": url} for url in fields.get("image_list", ())
    ]
    parts += [{"type": "input_file", "file_url": url} for url in fields.get("file_list", ())]
    messages: list[dict[str, Any]] = fields.get("messages") or [
        {"role": "user", "content": fields["prompt"]}
    ]
    sent: str | list[dict[str, Any]] = messages
    if parts:
        text = {"type": "input_text", "text": messages[-1]["content"]}
        sent = [*messages[:-1], {**messages[-1], "content": [text, *parts]}]
    elif len(messages) == 1:
        sent = messages[0]["content"]
    body = {"input": sent, "background": True}
    return body | ({"biz_params": fields["biz_params"]} if "biz_params" in fields else {})


def read_state(answer: Mapping[str, Any], request_id: str | None = None) -> RunState:
    """Read an answer that describes a run.

    Raises:
        ProtocolError: It has no id or no status.
    """
    run_id, status = answer.get("id"), answer.get("status")
    if not (isinstance(run_id, str) and run_id and isinstance(status, str)):
        error = ProtocolError(
            "the answer is not a run with an id and a status",
            request_id=request_id or _text(answer.get("request_id")),
        )
        error.run_id = _text(run_id)  # a run may have been submitted: its id must not be lost
        raise error
    status = status.lower()
    return RunState(
        id=run_id,
        status=_SAME_STATUS.get(status, status),
        raw=answer,
        request_id=request_id or _text(answer.get("request_id")),
    )


def failure_of(state: RunState) -> BailianError | None:
    """Return the error of a run that has no result; None if it has one."""
    error: BailianError
    if state.status in ("completed", "incomplete"):
        return None
    if state.status != "failed":
        what = (
            N_("was cancelled")
            if state.ended
            else N_("is {status!r}: it has no result yet").format(status=state.status)
        )
        error = NoResultError(N_("the run {what}").format(what=what))
        error.status, error.request_id = state.status, state.request_id
    else:
        given: Any = state.raw.get("error")
        given = cast("dict[str, Any]", given) if isinstance(given, dict) else {"message": given}
        code, message = _text(given.get("code")), _text(given.get("message"))
        error = api_error(code, message, request_id=state.request_id)
        if type(error) is APIError:
            error = AppFailedError(
                message or "the run failed, and the cloud gave no message",
                code=code,
                request_id=state.request_id,
            )
            error.request_state = "unknown"
    error.run_id = state.id
    return error


def result_events(state: RunState, settings: AppSettings) -> list[AppEvent]:
    """Return the events of a run that has a result; the last is `RunFinished`.

    Args:
        state: The run.
        settings: Its `citation_marks` and `think_tags` are used.
    """
    events: list[AppEvent] = [RunStarted(None, state.request_id)]
    for number, item in enumerate(_objects(state.raw.get("output"))):
        events += _item_events(number, item)
    filtered = AnswerFilter(settings.citation_marks, settings.think_tags).feed(events, last=True)
    usage = _usage(state.raw)
    if usage.models:
        filtered.append(UsageReported(usage))
    details = _object(state.raw.get("incomplete_details"))
    result = replace(
        reduce(fold, filtered, AppResult()),
        finish_reason="stop" if state.status == "completed" else _text(details.get("reason")),
        raw=state.raw,
    )
    return [*filtered, RunFinished(result)]


def _item_events(number: int, item: Mapping[str, Any]) -> list[AppEvent]:
    kind = _text(item.get("type")) or "message"
    if kind == "message":
        return [TextDelta(text)] if (text := _joined(item.get("content"))) else []
    given_id = _text(item.get("id")) or f"item-{number}"
    if kind == "reasoning":
        text = _joined(item.get("content")) or _joined(item.get("summary"))
        step = Step(id=given_id, kind="reasoning", name=kind, type=kind)
        thought: list[AppEvent] = [ReasoningDelta(text, step.id)] if text else []
        ended = replace(step, status=SUCCESS, reasoning=text)
        return [StepStarted(step), *thought, StepFinished(ended)]
    # The page shows no other items; OpenAI's for a tool's call have these fields.
    step = Step(
        id=given_id,
        kind="tool",
        name=_text(item.get("name")) or kind,
        type=kind,
        input=item.get("arguments"),
    )
    ended = replace(step, status=SUCCESS, output=as_text(cast("object", item.get("output"))))
    return [StepStarted(step), StepFinished(ended)]


def _joined(content: object) -> str:
    if isinstance(content, str):
        return content
    return "".join(text for part in _objects(content) if (text := _text(part.get("text"))))


def _usage(raw: Mapping[str, Any]) -> Usage:
    usage = _object(raw.get("usage"))
    model = _text(raw.get("model")) or ""
    counts = [usage.get(name) for name in ("input_tokens", "output_tokens")]
    tokens = [count if isinstance(count, int) else 0 for count in counts]
    if not any(tokens):
        return Usage()
    return Usage(
        models=(ModelUsage(model_id=model, input_tokens=tokens[0], output_tokens=tokens[1]),)
    )


def _object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _objects(value: object) -> Iterable[Mapping[str, Any]]:
    items = cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else ()
    return [_object(item) for item in items]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
