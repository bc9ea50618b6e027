"""The settings of an app: the same words for `BailianApp` and for every adapter."""

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
from bailian_apps.core.request import (
    AppId,
    WireOptions,
    raise_invalid_input,
    without_tokens,
)

_WORKSPACE = re.compile(r"[A-Za-z0-9_-]+")

HistoryMode: TypeAlias = Literal["session", "messages"]


def _is_http_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return (
            parts.scheme in ("http", "https")
            and bool((parts.hostname or "").encode("idna"))
            and parts.port != 0
            and not parts.query
        )
    except ValueError:  # such as a port above 65535, or a name longer than names can be
        return False


def _check_base_url(value: str | None, info: ValidationInfo) -> str | None:
    if value is not None:
        if not _is_http_address(value):
            raise InvalidInputError(
                info.field_name or "base_url",
                "is a str that is no API address",
                "Pass one like https://dashscope.aliyuncs.com/api/v1",
            )
        parts = urlsplit(value)
        if parts.username or parts.password:
            raise InvalidInputError(
                info.field_name or "base_url",
                "has a user name or password in it",
                "Leave them out: the key is what identifies you",
            )
        value = value.rstrip("/")  # one address is one cloud
    return value


def check_api_key(key: str) -> str:
    """Return the key if it can stand in a header.

    Raises:
        InvalidInputError: It cannot. With a line break in it, it would end up, whole, in the text
            of the HTTP library's error.
    """
    if not key.strip() or not key.isascii() or not key.isprintable() or key != key.strip():
        raise InvalidInputError(
            "api_key",
            "is empty, or has blanks around it or characters that no key has",
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
            "has a character that no workspace id has",
            "Pass the id as the console shows it",
        )
    return value


def _secret_from_env() -> SecretStr | None:
    value = os.environ.get("DASHSCOPE_API_KEY", "").strip()
    return SecretStr(value) if value else None


class Timeout(BaseModel):
    """How long a call may wait, by what it waits for. All in seconds.

    Attributes:
        connect_s: For a connection.
        first_frame_s: From sending the request to the first frame.
        between_frames_s: From one frame to the next.
        total_s: For the whole call, its retries and the waiting between them included; None for
            no limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    connect_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    first_frame_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    between_frames_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    total_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)


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
            "is no number of seconds above 0",
            "Pass seconds such as 60, or a Timeout",
        )
    return value


class AppSettings(WireOptions):
    """How to reach an app, and what every call of it says. Adapters inherit these fields.

    Each may be overridden per call. An unknown name is refused.

    Attributes:
        app_id: The app's id; else `BAILIAN_APP_ID` in the environment.
        api_key: The API key; else `DASHSCOPE_API_KEY` in the environment; else, at the first
            call, the SDK's own rule (its key file). Never shown and never serialised.
        workspace: The sub-workspace the app is in (`X-DashScope-WorkSpace`).
        base_url: The API's address up to `/api/v1`; else `DASHSCOPE_HTTP_BASE_URL` in the
            environment; else the SDK's own rule.
        timeout: The longest silence in seconds, until the first frame and between frames, of
            which connecting may take 10; or a `Timeout` that sets each.
        max_retries: How often a call may be sent again when it certainly did not start.
        idempotent: Whether running the app twice does no harm. Then a call whose fate is
            unknown (a lost connection, a 500, a timeout) is sent again too.
        max_concurrency: How many calls of this app may be under way at once in this process, sync
            and async together; None for no limit. Who finds no free place waits, for as long as
            connecting may take; then `RequestTimeoutError` says so, and nothing was sent.
        history_mode: `"session"` continues the cloud's session and sends only what is new;
            `"messages"` sends the whole conversation every time.
        session_ttl_s: Seconds without a call after which the cloud forgets a session.
        session_max_rounds: Rounds that the cloud remembers in one session.
    """

    app_id: AppId = Field(
        default_factory=lambda: os.environ.get("BAILIAN_APP_ID", ""), validate_default=True
    )
    api_key: Annotated[SecretStr | None, AfterValidator(_check_secret)] = Field(
        default_factory=_secret_from_env, validate_default=True, exclude=True, repr=False
    )
    workspace: Annotated[str | None, AfterValidator(_check_workspace)] = None
    base_url: Annotated[str | None, AfterValidator(_check_base_url)] = Field(
        default_factory=lambda: os.environ.get("DASHSCOPE_HTTP_BASE_URL") or None,
        validate_default=True,
    )
    timeout: Annotated[float | Timeout, BeforeValidator(_check_timeout)] = 300.0
    max_retries: int = Field(default=2, ge=0)
    idempotent: bool = False
    max_concurrency: int | None = Field(default=None, ge=1)
    history_mode: HistoryMode = "session"
    session_ttl_s: float = Field(default=3600.0, ge=0)
    session_max_rounds: int = Field(default=50, ge=1)

    @property
    def limits(self) -> Timeout:
        """The timeout, one by one."""
        if isinstance(self.timeout, Timeout):
            return self.timeout
        return Timeout(
            connect_s=min(10.0, self.timeout),
            first_frame_s=self.timeout,
            between_frames_s=self.timeout,
        )

    def __getstate__(self) -> dict[Any, Any]:
        """Pickle without secrets; the key is read from the environment again."""
        state = super().__getstate__()
        fields: dict[str, Any] = state["__dict__"] | {"api_key": None}
        if fields.get("biz_params"):
            fields["biz_params"] = without_tokens(fields["biz_params"])
        return state | {"__dict__": fields}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Unpickle, with the key of the environment."""
        super().__setstate__(
            state | {"__dict__": state["__dict__"] | {"api_key": _secret_from_env()}}
        )

    def with_overrides(self, overrides: dict[str, Any]) -> AppSettings:
        """These settings with some replaced, validated anew.

        Args:
            overrides: Settings by name.

        Raises:
            pydantic.ValidationError: An unknown name, or a value that is not valid.
        """
        if not overrides:
            return self
        current = {name: getattr(self, name) for name in AppSettings.model_fields}
        return AppSettings.model_validate(current | overrides)
