"""The settings of an app: the same names for `BailianApp` and for every adapter."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
)

from bailian_apps.core.answer import OutputNodes
from bailian_apps.core.answer_text import CitationMarks, ThinkTags
from bailian_apps.core.endpoint import APIKey, BaseURL, Headers, Workspace, api_key_from_env
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.history_template import HistoryFormat, HistoryTemplate
from bailian_apps.core.invalid_input import (
    CheckedModel,
    check_nested,
    invalid_options,
    raise_invalid_input,
)
from bailian_apps.core.redaction import (
    MASK,
    SECRET_FIELDS,
    masked_path,
    redact_headers,
    redacted,
    reveal,
)
from bailian_apps.core.request import MAX_INT, AppId, AppRequest, WireOptions
from bailian_apps.core.tracebacks import hides_arguments

HistoryMode: TypeAlias = Literal["session", "full", "messages"]
"""`"messages"` is the older name of `"full"`."""


MAX_SECONDS = 1e9
"""The longest time to wait, 31 years. Sockets refuse ten times as much."""

Seconds: TypeAlias = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]

LOST_KEY = SecretStr(MASK)
"""The key of unpickled settings that had another key than the environment's."""


class Timeout(CheckedModel):
    """How long a call may wait, by what it waits for. All in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connect_s: Seconds = 10.0
    """Seconds to wait for a connection; looking up the host's name is a part of it."""

    first_frame_s: Seconds = 300.0
    """Seconds from sending the request to the first frame."""

    between_frames_s: Seconds = 300.0
    """Seconds from one frame to the next."""

    pool_s: Seconds | None = None
    """Seconds to wait for a free slot, where `max_concurrency` limits the calls; None for no
    limit: then a wait longer than `connect_s` is logged once."""

    total_s: Seconds | None = None
    """Seconds for the whole call, with its retries and their delays; None for no limit."""


# While a setting is validated, a subclass's validators may set others, which they answer for.
_validating: ContextVar[bool] = ContextVar("validating", default=False)


def _check_timeout(value: object, info: ValidationInfo) -> object:
    if isinstance(value, Timeout):
        return value
    if isinstance(value, Mapping):
        return check_nested(value, info, Timeout)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InvalidInputError(
            info.field_name or "timeout",
            "must be a positive number of seconds or a Timeout",
        )
    if value > MAX_SECONDS:
        raise InvalidInputError(info.field_name or "timeout", "must be at most 1e9 seconds")
    return value


def _check_template(value: object, info: ValidationInfo) -> object:
    return check_nested(value, info, HistoryTemplate)


class AppSettings(CheckedModel, WireOptions):
    """How to reach an app, and the options of every call. Adapters inherit these fields.

    Each may be overridden per call, or set later. An unknown name is refused.
    """

    app_id: AppId = Field(
        default_factory=lambda: os.environ.get("BAILIAN_APP_ID", ""), validate_default=True
    )
    """The app's id, from the list in *App Management* in the console. Default: `BAILIAN_APP_ID` in
    the environment. Part of the URL."""

    api_key: APIKey = Field(
        default_factory=api_key_from_env, validate_default=True, exclude=True, repr=False
    )
    """The API key: a `str` or `SecretStr`; or a sync or async callable that returns one, which is
    called for each attempt. Held as a `SecretStr`, or as the callable. Never shown or serialised.
    Default: `DASHSCOPE_API_KEY` in the environment, or else, at the first call, the SDK's own rule
    (its key file). Header `Authorization`."""

    workspace: Workspace = None
    """The workspace of the app, if it is not the default one. Default: the key's own. Header
    `X-DashScope-WorkSpace`."""

    base_url: BaseURL = Field(
        default_factory=lambda: os.environ.get("DASHSCOPE_HTTP_BASE_URL") or None,
        validate_default=True,
    )
    """The API's address up to `/api/v1`, or the name of a region (`REGIONS`), such as
    `"singapore"`, or `"cn-beijing"` for the host of `workspace`. Default: `DASHSCOPE_HTTP_BASE_URL`
    in the environment, or else the SDK's own rule. Part of the URL."""

    extra_headers: Headers = None
    """Additional HTTP headers, which replace the SDK's. Values may be `SecretStr`, and are never
    shown. Refused: `Authorization`, `Host`, and headers that follow from the body. Default: none.
    Part of the headers."""

    timeout: Annotated[float | Timeout, BeforeValidator(_check_timeout)] = 300.0
    """Seconds to wait for the first frame, and then for each next one; connecting may take at most
    10 of them. Or a `Timeout` that sets each limit. Not sent."""

    max_retries: int = Field(default=2, ge=0, le=MAX_INT)
    """How many times a call that certainly did not start is retried. Not sent."""

    idempotent: bool = False
    """Whether running the app twice is harmless. If so, a call whose outcome is unknown (a lost
    connection, HTTP 500, a timeout) is retried too. Not sent."""

    max_concurrency: int | None = Field(default=None, ge=1, le=MAX_INT)
    """How many calls of this app may run at once in this process, sync and async together. Default:
    no limit. Further calls wait in a queue, for at most `Timeout.pool_s`; then they fail with
    `RequestTimeoutError`, and nothing was sent. Not sent."""

    output_nodes: OutputNodes = "answer"
    """Where the text of a workflow's Output nodes goes: into the `"answer"`, before the End node's
    text, as in the console's chat; or only into the output of their `"steps"`. Text that only the
    last frame has is part of the answer in either case. Default: `"answer"`. Workflow apps. Not
    sent."""

    history_mode: HistoryMode = "session"
    """How much of a conversation is sent: `"session"` continues the cloud's session and sends only
    what is new; `"full"` sends the whole conversation every time (`"messages"` is its older name).
    Not sent."""

    history_format: HistoryFormat = "messages"
    """How a whole conversation is sent: as `"messages"`, which agent 2.0 apps do not accept and
    workflow apps read only if they are built for it; or folded into one `"prompt"`, which every app
    accepts. A request that is refused for its `messages` is sent again as a prompt. Not sent."""

    history_template: Annotated[HistoryTemplate, BeforeValidator(_check_template)] = Field(
        default_factory=HistoryTemplate
    )
    """The words around the texts of a conversation that is sent as a prompt. Default: Chinese
    words. Not sent."""

    citation_marks: CitationMarks = "keep"
    """What to do with the marks `<ref>[1]</ref>` with which an answer cites documents: `"keep"`
    leaves them in the text, each in one piece of a stream; `"strip"` removes them. The references
    are kept. Not sent."""

    think_tags: ThinkTags = "keep"
    """What to do with text between `<think>` and `</think>` in an answer: `"keep"` leaves it there;
    `"reasoning"` makes it reasoning, in a step of its own. Without a closing tag, that is the rest
    of the answer. Not sent."""

    session_ttl_s: float = Field(default=3600.0, ge=0)
    """Seconds without a call after which the cloud drops a session. Not sent."""

    session_max_rounds: int = Field(default=50, ge=1, le=MAX_INT)
    """How many rounds the cloud keeps in one session. Not sent."""

    @property
    def timeouts(self) -> Timeout:
        """The timeout as its limits."""
        if isinstance(self.timeout, Timeout):
            return self.timeout
        return Timeout(
            connect_s=min(10.0, self.timeout),
            first_frame_s=self.timeout,
            between_frames_s=self.timeout,
        )

    if not TYPE_CHECKING:  # type checkers would accept an attribute of any name

        @hides_arguments
        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute; a setting is validated, as in the constructor.

            Raises:
                InvalidInputError: The value is not valid.
            """
            if name not in SETTING_NAMES or _validating.get():
                super().__setattr__(name, value)
                return
            before = dict(self.__dict__)
            token = _validating.set(True)
            try:
                self.__pydantic_validator__.validate_assignment(self, name, value)
            except BaseException as error:
                object.__setattr__(self, "__dict__", before)
                if not isinstance(error, ValidationError):
                    raise
                raise_invalid_input(error, names=SETTING_NAMES)
            finally:
                _validating.reset(token)

    def __getstate__(self) -> dict[Any, Any]:
        """Pickle without secrets; unpickling reads the environment's key from there again.

        Another key, and secrets in `SECRET_FIELDS`, have to be passed again before a call.
        """
        state = super().__getstate__()
        lost = self.api_key is not None and self.api_key != api_key_from_env()
        fields: dict[str, Any] = state["__dict__"] | {"api_key": LOST_KEY if lost else None}
        for name in SECRET_FIELDS & fields.keys():
            fields[name] = redacted(name, fields[name], self.secret_biz_params)
        return state | {"__dict__": fields}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Unpickle, with the key of the environment if it had that."""
        fields: dict[str, Any] = state["__dict__"]
        super().__setstate__(
            state | {"__dict__": fields | {"api_key": fields["api_key"] or api_key_from_env()}}
        )

    def require_secrets(self) -> None:
        """Refuse settings without the secrets that a dump or a pickle has left out.

        Raises:
            InvalidInputError: The key or a header has to be passed again.
        """
        if self.api_key == LOST_KEY:
            raise InvalidInputError(
                "api_key", "is masked: a pickle holds no secrets", "Pass the key again"
            )
        if (path := masked_path(reveal(self.extra_headers), "extra_headers")) is not None:
            raise InvalidInputError(
                path, "is masked: a dump or a pickle holds no secrets", "Pass the value again"
            )

    @field_serializer("extra_headers", when_used="unless-none")
    def _without_values(self, value: Mapping[str, Any]) -> dict[str, str]:
        return redact_headers(value)

    @staticmethod
    @hides_arguments
    def of(fields: Mapping[str, Any]) -> AppSettings:
        """Return settings of fields."""
        return AppSettings(**fields)

    @hides_arguments
    def with_overrides(self, overrides: Mapping[str, Any]) -> AppSettings:
        """Return these settings with some replaced, validated again.

        Args:
            overrides: Settings by name.

        Raises:
            InvalidInputError: A name is unknown, or a value is not valid.
        """
        if not overrides:
            return self
        current = {name: getattr(self, name) for name in AppSettings.model_fields}
        return AppSettings.of(current | dict(overrides))

    @hides_arguments
    def split(self, kwargs: Mapping[str, Any]) -> tuple[AppSettings, dict[str, Any]]:
        """Split the keyword arguments of one call into settings and call options.

        Args:
            kwargs: Settings to override, and options that only a call has (`session_id`, …).

        Returns:
            These settings with the overrides, and the options. The options are checked here only
            where a setting is not valid, to name all that is wrong: `AppRequest` does that.

        Raises:
            InvalidInputError: A setting is not valid.
        """
        overrides = {name: value for name, value in kwargs.items() if name in SETTING_NAMES}
        options = {name: value for name, value in kwargs.items() if name not in SETTING_NAMES}
        try:
            return self.with_overrides(overrides), options
        except InvalidInputError as error:
            raise InvalidInputError.of(
                [error, *invalid_options(options, names=CALL_NAMES)]
            ) from None


SETTING_NAMES = frozenset(AppSettings.model_fields)
"""The names of the settings, which adapters and calls share."""

CALL_NAMES = SETTING_NAMES | frozenset(AppRequest.model_fields)
"""The names of everything that a call accepts."""
