"""The settings of an app: the same names for `BailianApp` and for every adapter."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
)

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.history_template import HistoryFormat, HistoryTemplate
from bailian_apps.core.invalid_input import invalid_options, raise_invalid_input
from bailian_apps.core.redaction import MASK, hides_arguments, redact_biz_params
from bailian_apps.core.request import AppId, AppRequest, WireOptions

_WORKSPACE = re.compile(r"[A-Za-z0-9_-]+")

HistoryMode: TypeAlias = Literal["session", "full", "messages"]
"""`"messages"` is the older name of `"full"`."""


def _is_http_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return (
            parts.scheme in ("http", "https")
            and bool((parts.hostname or "").encode("idna"))
            and parts.port != 0
            and not (parts.query or parts.fragment)
            and not re.search(r"\s", value)
        )
    except ValueError:  # such as a port above 65535, or a name longer than names can be
        return False


def _check_base_url(value: str | None, info: ValidationInfo) -> str | None:
    if value is not None:
        if not _is_http_address(value):
            raise InvalidInputError(
                info.field_name or "base_url",
                "is not an http(s) URL",
                "Pass one like https://dashscope.aliyuncs.com/api/v1",
            )
        parts = urlsplit(value)
        if parts.username or parts.password:
            raise InvalidInputError(
                info.field_name or "base_url",
                "must not hold a user name or password",
                "Leave them out: the API key identifies you",
            )
        # So that one address has one form, and its scheme can be compared.
        value = parts.scheme + value[len(parts.scheme) :].rstrip("/")
    return value


def check_api_key(key: str) -> str:
    """Return the key if it is valid in an HTTP header.

    Raises:
        InvalidInputError: It is not. With a line break in it, the HTTP library's error would quote
            the whole key.
    """
    if not key.strip() or not key.isascii() or not key.isprintable() or key != key.strip():
        raise InvalidInputError(
            "api_key",
            "is empty, or has spaces around it or characters that an API key cannot have",
            "Pass the key as the console shows it, or set DASHSCOPE_API_KEY",
        )
    return key


def _check_secret(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        check_api_key(value.get_secret_value())
    return value


def _check_workspace(value: str | None, info: ValidationInfo) -> str | None:
    if value is not None and not _WORKSPACE.fullmatch(value):
        raise InvalidInputError(
            info.field_name or "workspace",
            "has a character that a workspace id cannot have",
            "Pass the id as the console shows it",
        )
    return value


LOST_KEY = SecretStr(MASK)
"""The key of unpickled settings that had another key than the environment's."""


def _secret_from_env() -> SecretStr | None:
    value = os.environ.get("DASHSCOPE_API_KEY", "").strip()
    return SecretStr(value) if value else None


class Timeout(BaseModel):
    """How long a call may wait, by what it waits for. All in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connect_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Seconds to wait for a connection."""

    first_frame_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """Seconds from sending the request to the first frame."""

    between_frames_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """Seconds from one frame to the next."""

    total_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds for the whole call, with its retries and their delays; None for no limit."""


def _check_timeout(value: object, info: ValidationInfo) -> object:
    if isinstance(value, Timeout):
        return value
    if isinstance(value, Mapping):
        try:
            return Timeout.model_validate(value)
        except ValidationError as error:
            raise_invalid_input(error, within="timeout")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InvalidInputError(
            info.field_name or "timeout",
            "must be a positive number of seconds or a Timeout",
        )
    return value


class AppSettings(WireOptions):
    """How to reach an app, and the options of every call. Adapters inherit these fields.

    Each may be overridden per call. An unknown name is refused.
    """

    app_id: AppId = Field(
        default_factory=lambda: os.environ.get("BAILIAN_APP_ID", ""), validate_default=True
    )
    """The app's id, from its card in the console. Default: `BAILIAN_APP_ID` in the environment.
    Part of the URL."""

    api_key: Annotated[SecretStr | None, AfterValidator(_check_secret)] = Field(
        default_factory=_secret_from_env, validate_default=True, exclude=True, repr=False
    )
    """The API key. Default: `DASHSCOPE_API_KEY` in the environment, or else, at the first call, the
    SDK's own rule (its key file). Never shown or serialised. Header `Authorization`."""

    workspace: Annotated[str | None, AfterValidator(_check_workspace)] = None
    """The sub-workspace that the app is in. Default: the key's own. Header
    `X-DashScope-WorkSpace`."""

    base_url: Annotated[str | None, AfterValidator(_check_base_url)] = Field(
        default_factory=lambda: os.environ.get("DASHSCOPE_HTTP_BASE_URL") or None,
        validate_default=True,
    )
    """The API's address up to `/api/v1`. Default: `DASHSCOPE_HTTP_BASE_URL` in the environment, or
    else the SDK's own rule. Part of the URL."""

    timeout: Annotated[float | Timeout, BeforeValidator(_check_timeout)] = 300.0
    """The longest silence in seconds, until the first frame and between frames, of which connecting
    may take 10; or a `Timeout` that sets each limit. Not sent."""

    max_retries: int = Field(default=2, ge=0)
    """How many times a call that certainly did not start is sent again. Not sent."""

    idempotent: bool = False
    """Whether running the app twice does no harm. Then a call whose outcome is unknown (a lost
    connection, HTTP 500, a timeout) is sent again too. Not sent."""

    max_concurrency: int | None = Field(default=None, ge=1)
    """How many calls of this app may run at once in this process, sync and async together. Default:
    no limit. A call without a free slot waits for as long as connecting may take; then it fails
    with `RequestTimeoutError`, and nothing was sent. Not sent."""

    history_mode: HistoryMode = "session"
    """How much of a conversation is sent: `"session"` continues the cloud's session and sends only
    what is new; `"full"` sends the whole conversation every time (`"messages"` is its older name).
    Not sent."""

    history_format: HistoryFormat = "messages"
    """How a whole conversation is sent: as `"messages"`, which agent 2.0 apps do not take and a
    workflow app reads only if it was made to; or folded into one `"prompt"`, which every app takes.
    An app that refuses `messages` is asked again with a prompt. Not sent."""

    history_template: HistoryTemplate = Field(default_factory=HistoryTemplate)
    """The words around the texts of a conversation that is sent as a prompt: a `HistoryTemplate`,
    or a dict of its fields. Default: Chinese words. Not sent."""

    session_ttl_s: float = Field(default=3600.0, ge=0)
    """Seconds without a call after which the cloud drops a session. Not sent."""

    session_max_rounds: int = Field(default=50, ge=1)
    """How many rounds the cloud keeps in one session. Not sent."""

    @property
    def timeouts(self) -> Timeout:
        """The timeout as its four limits."""
        if isinstance(self.timeout, Timeout):
            return self.timeout
        return Timeout(
            connect_s=min(10.0, self.timeout),
            first_frame_s=self.timeout,
            between_frames_s=self.timeout,
        )

    def __getstate__(self) -> dict[Any, Any]:
        """Pickle without secrets; unpickling reads the environment's key from there again.

        Another key, and what is secret in `biz_params`, have to be passed again before a call.
        """
        state = super().__getstate__()
        lost = self.api_key is not None and self.api_key != _secret_from_env()
        fields: dict[str, Any] = state["__dict__"] | {"api_key": LOST_KEY if lost else None}
        if fields.get("biz_params"):
            fields["biz_params"] = redact_biz_params(fields["biz_params"], self.secret_biz_params)
        return state | {"__dict__": fields}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Unpickle, with the key of the environment if it had that."""
        fields: dict[str, Any] = state["__dict__"]
        super().__setstate__(
            state | {"__dict__": fields | {"api_key": fields["api_key"] or _secret_from_env()}}
        )

    @staticmethod
    @hides_arguments
    def of(fields: Mapping[str, Any]) -> AppSettings:
        """Return settings of fields; as the constructor, but raises `InvalidInputError`."""
        try:
            return AppSettings.model_validate(dict(fields))
        except ValidationError as error:
            raise_invalid_input(error, names=SETTING_NAMES)

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
