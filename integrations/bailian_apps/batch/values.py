"""The values of a batch: a prompt, its result, the failure in it, the budget and the counts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, cast

from bailian_apps.core.attachments import images_digest
from bailian_apps.core.errors import (
    BailianError,
    ConnectionLostError,
    InvalidInputError,
    RequestState,
    ServerError,
)
from bailian_apps.core.json_values import kind_of, require_utf8
from bailian_apps.core.language import N_
from bailian_apps.core.redaction import redact_kwargs, redact_value, secret_names
from bailian_apps.core.result import AppResult, DocReference, ModelUsage, Step, Usage
from bailian_apps.core.settings import AppSettings

PromptInput: TypeAlias = str | Mapping[str, Any]
"""A prompt; or a mapping with `prompt` or `messages`, any other keyword of `BailianApp.invoke`, and
an `id`."""

BatchStatus: TypeAlias = Literal["answered", "failed", "unknown", "not_started"]
"""What became of a prompt: it was answered; the app refused it or failed; it was sent, and whether
the app ran to its end is unknown; or it was not sent."""

NOT_IN_IDENTITY = {
    "api_key", "extra_headers", "idempotent", "max_concurrency", "max_retries", "secret_biz_params",
    "session_max_rounds", "session_ttl_s", "timeout",
}  # fmt: skip
"""The settings that do not change what the app is asked: they may differ when a batch goes on."""


def identity(settings: AppSettings) -> Mapping[str, Any]:
    """Return what a journal is of: what the app is asked, as JSON values without secrets."""
    values = settings.model_dump(mode="json", exclude_defaults=True, exclude=NOT_IN_IDENTITY)
    return redact_kwargs(values, settings.secret_biz_params)


# These belong to the whole batch: its journal and its limits are those of one app.
_OF_THE_APP = ("app_id", "api_key", "base_url", "workspace", "max_concurrency")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of a batch, with what is sent with it.

    Attributes:
        id: Its name in the journal and the results.
        position: Which prompt of the input it is, counted from 1.
        options: The keyword arguments of its call.
        digest: Of the options; secrets in them are masked, so they may change from run to run.
    """

    id: str
    position: int
    options: Mapping[str, Any] = field(repr=False)
    digest: str

    @classmethod
    def of(cls, given: object, position: int, names: Sequence[str] = ()) -> Prompt:
        """Read one item of the input.

        Args:
            given: The item.
            position: Which one it is, counted from 1; its id if it has none.
            names: The app's setting `secret_biz_params`.

        Raises:
            InvalidInputError: It is not a prompt. Its options are checked when it is called.
        """
        options: dict[str, Any] = {"prompt": given} if isinstance(given, str) else {}
        if isinstance(given, Mapping):
            options = {str(k): v for k, v in cast("Mapping[object, Any]", given).items()}
        elif not isinstance(given, str):
            raise InvalidInputError(
                "prompts", N_("must hold str or mappings, not {kind}").format(kind=kind_of(given))
            )
        named: object = options.pop("id", None)
        if named is None:
            named = position
        if isinstance(named, bool) or not isinstance(named, str | int) or named == "":
            raise InvalidInputError(
                "id", N_("must be a str or an int, not {kind}").format(kind=kind_of(named))
            )
        require_utf8(str(named), "id")
        for name in _OF_THE_APP:
            if name in options:
                raise InvalidInputError(name, "belongs to the batch", "Pass it to the app")
        try:
            asked = {name: value for name, value in options.items() if name not in NOT_IN_IDENTITY}
            names = secret_names(options, names)
            shown = json.dumps(redact_kwargs(asked, names), sort_keys=True, default=str)
            shown += images_digest(options.get("image_list"))  # of which only the size is shown
        except (RecursionError, ValueError):  # refused when it is called
            shown = ""
        digest = hashlib.sha256(shown.encode("utf-8", "replace")).hexdigest()
        return cls(str(named), position, options, digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFailure:
    """Why a prompt has no answer.

    Attributes:
        type: The name of the error's class, such as `"RateLimitError"`.
        message: What went wrong.
        code: The cloud's error code, or None.
        status_code: The HTTP status, or None.
        request_id: The cloud's id of the request, or None.
        request_state: What is certain about the request.
        run_id: The background run, for `BailianApp.background_run`, or None.
    """

    type: str
    message: str
    code: str | None = None
    status_code: int | None = None
    request_id: str | None = None
    request_state: RequestState = "unknown"
    run_id: str | None = None

    @classmethod
    def of(cls, error: BailianError, run_id: str | None = None) -> BatchFailure:
        """Return an error as data, and as that of a background run if its id is given."""
        return cls(
            type=type(error).__name__,
            message=error.message,
            code=error.code,
            status_code=error.status_code,
            request_id=error.request_id,
            request_state=error.request_state,
            run_id=run_id or error.run_id,
        )

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> BatchFailure:
        """Return what `to_dict` wrote; fields of a newer version are left out."""
        names = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in names})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


KILLED = BatchFailure(
    type="ConnectionLostError",
    message="the batch ended while the request was in flight; whether the app ran is unknown",
)
"""The failure of a prompt that was in flight when its process was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of one prompt.

    Attributes:
        id: The prompt's `id`, or else its position.
        position: Which prompt of the input it is, counted from 1.
        status: See `BatchStatus`.
        result: The whole answer but its `raw`; None without one.
        error: Why there is no answer; for a prompt that was not started, why it was refused, if it
            was sent at all.
        attempts: How many times the request was sent, in all runs of the batch.
        from_journal: Whether an earlier run of the batch got it.
    """

    id: str
    position: int
    status: BatchStatus
    result: AppResult | None = None
    error: BatchFailure | None = None
    attempts: int = 0
    from_journal: bool = False

    @property
    def text(self) -> str | None:
        """The answer's text, or None without an answer."""
        return None if self.result is None else self.result.text

    def to_dict(self) -> dict[str, Any]:
        """Return the line of an output file: JSON values, the answer without its steps."""
        values: dict[str, Any] = {"id": self.id, "status": self.status, "attempts": self.attempts}
        if self.result is not None:
            values |= {
                "text": self.result.text,
                "session_id": self.result.session_id,
                "request_id": self.result.request_id,
                "usage": self.result.usage.to_dict(),
            }
            if self.result.references:
                values["references"] = [each.to_dict() for each in self.result.references]
        if self.error is not None:
            values["error"] = self.error.to_dict()
        return values

    def to_row(self) -> dict[str, Any]:
        """Return the row of a table: the columns of `COLUMNS`, None where there is nothing."""
        answer, error = self.result, self.error
        usage = None if answer is None else answer.usage
        source = error if answer is None else answer
        return {
            "id": self.id,
            "status": self.status,
            "text": self.text,
            "error": error and error.type,
            "code": error and error.code,
            "message": error and error.message,
            "session_id": answer and answer.session_id,
            "request_id": source and source.request_id,
            "input_tokens": usage and usage.input_tokens,
            "output_tokens": usage and usage.output_tokens,
            "attempts": self.attempts,
            "run_id": error and error.run_id,
        }


COLUMNS = {
    "id": "string",
    "status": "string",
    "text": "string",
    "error": "string",
    "code": "string",
    "message": "string",
    "session_id": "string",
    "request_id": "string",
    "input_tokens": "int64",
    "output_tokens": "int64",
    "attempts": "int64",
    "run_id": "string",
}
"""The columns of a result in a table, and their types in Arrow."""


def repeated_id(prompt_id: str) -> InvalidInputError:
    """Return the error of an id that the input has twice."""
    return InvalidInputError(
        N_("id {id!r}").format(id=prompt_id), "is used twice", "Give each prompt its own"
    )


def status_of(error: BailianError) -> BatchStatus:
    """Return `"unknown"` where the app may have run and not reported its end, else `"failed"`.

    HTTP 500 is an answer after which the app may have run (`core.retry` does not repeat it either).
    """
    unknown = error.request_state == "unknown" or isinstance(error, ServerError)
    return "unknown" if unknown else "failed"


def unread(error: BailianError) -> BailianError:
    """Return an error without the frames that came before it.

    A call is not repeated after a frame, because its caller has read it. Nobody has in a batch.
    """
    if error.partial is not None and status_of(error) == "unknown":
        return ConnectionLostError(error.message)
    return error


def dump_result(result: AppResult) -> str:
    """Return an answer as JSON text, without its `raw`; credentials in its steps are masked."""
    values: dict[str, Any] = {each.name: getattr(result, each.name) for each in fields(result)}
    values |= {
        "steps": [_without_credentials(step).to_dict(compact=True) for step in result.steps],
        "references": [reference.to_dict(compact=True) for reference in result.references],
        "usage": [model.to_dict() for model in result.usage.models],
    }
    del values["raw"]
    return json.dumps(values, default=str)  # escaped: SQLite takes no lone surrogate


def _without_credentials(step: Step) -> Step:
    """Return a step that does not repeat credentials, as that of a tool may."""
    return replace(step, input=redact_value(step.input), output=redact_value(step.output))


def load_result(text: str) -> AppResult:
    """Return the answer that `dump_result` wrote; fields of a newer version are left out."""
    stored: dict[str, Any] = json.loads(text)
    values: dict[str, Any] = _known(AppResult, stored)
    references = [_known(DocReference, each) for each in stored["references"]]
    values["references"] = tuple(DocReference(**each) for each in references)
    values["steps"] = tuple(map(Step.from_dict, stored["steps"]))
    values["usage"] = Usage(models=tuple(ModelUsage(**each) for each in stored["usage"]))
    return AppResult(**values)


def _known(kind: type[AppResult | DocReference], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored fields of a class, lists as the tuples that they were."""
    names = {each.name for each in fields(kind)}
    return {
        name: tuple(cast("list[Any]", value)) if isinstance(value, list) else value
        for name, value in stored.items()
        if name in names
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one run of a batch may use. Then no further prompt is sent; those in flight finish.

    Attributes:
        calls: How many requests may be sent, repeated ones included; None for no limit.
        tokens: How many tokens the answers may use, those that the cloud reports; None for no
            limit. They are known when an answer is there, so calls in flight may exceed it.
        time_s: Seconds from the first prompt; None for no limit.
    """

    calls: int | None = None
    tokens: int | None = None
    time_s: float | None = None

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            InvalidInputError: One is not a positive number.
        """
        for name in ("calls", "tokens"):
            limit: object = getattr(self, name)
            if limit is not None and (type(limit) is not int or limit < 1):
                raise InvalidInputError(f"budget.{name}", "must be a positive integer")
        time_s = cast("object", self.time_s)
        if time_s is not None and (
            isinstance(time_s, bool)
            or not isinstance(time_s, int | float)
            or not 0 < time_s < math.inf
        ):
            raise InvalidInputError("budget.time_s", "must be a positive number of seconds")


@dataclass(slots=True, kw_only=True)
class BatchCounts:
    """How far a batch is. It changes while the batch runs.

    Attributes:
        total: How many prompts there are; None if the input does not say so.
        answered: Prompts with an answer, those of earlier runs included.
        failed: Prompts that were refused, or whose app failed.
        unknown: Prompts that were sent, and whether the app ran is unknown.
        not_started: Prompts that were not sent.
        from_journal: How many of them an earlier run got.
        calls: Requests that this run has sent.
        tokens: Tokens that the answers of this run used, as the cloud reports them.
        in_flight: Requests that wait for their answer.
        pause_s: Seconds that the batch still waits because the cloud refused requests.
    """

    total: int | None = None
    answered: int = 0
    failed: int = 0
    unknown: int = 0
    not_started: int = 0
    from_journal: int = 0
    calls: int = 0
    tokens: int = 0
    in_flight: int = 0
    pause_s: float = 0.0

    @property
    def done(self) -> int:
        """How many prompts have a result."""
        return self.answered + self.failed + self.unknown + self.not_started

    def add(self, result: BatchResult) -> None:
        """Count a result."""
        setattr(self, result.status, getattr(self, result.status) + 1)
        self.from_journal += result.from_journal
