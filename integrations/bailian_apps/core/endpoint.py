"""Where the API is, and what a request carries besides its body: key, workspace, headers. Pure."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Annotated, TypeAlias, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo
from pydantic.json_schema import SkipJsonSchema

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.json_values import kind_of
from bailian_apps.core.language import N_
from bailian_apps.core.redaction import unwrap_params

REGIONS = {
    # The vendor's page "Base URL overview", domains that all workspaces of a region share.
    "beijing": "https://dashscope.aliyuncs.com/api/v1",
    "singapore": "https://dashscope-intl.aliyuncs.com/api/v1",
    "virginia": "https://dashscope-us.aliyuncs.com/api/v1",
    "hongkong": "https://cn-hongkong.dashscope.aliyuncs.com/api/v1",
    # A workspace's own hosts, by the names that the SDK's `DASHSCOPE_API_REGION` takes.
    **{
        region: f"https://{{workspace_id}}.{region}.maas.aliyuncs.com/api/v1"
        for region in (
            "cn-beijing", "ap-southeast-1", "us-east-1", "cn-hongkong", "eu-central-1",
            "ap-northeast-1",
        )
    },
}  # fmt: skip
"""The addresses that `base_url` takes by name. `{workspace_id}` is filled in from `workspace`."""

_CLOUD_HOST = re.compile(r"(?:.*\.)?(?:dashscope(?:-\w+)?|maas)\.aliyuncs\.com")
_WORKSPACE = re.compile(r"[A-Za-z0-9_-]+")
_BEARER = re.compile(r"bearer(\s+|$)", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_OWN_HEADERS = {
    "authorization": N_("Pass api_key="),
    "host": N_("Pass base_url="),
    "content-length": N_("Leave it out: it follows from the body"),
    "transfer-encoding": N_("Leave it out: it follows from the body"),
}


def _is_http_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return (
            parts.scheme in ("http", "https")
            and bool((parts.hostname or "").encode("idna"))
            and parts.port != 0
            and not (parts.query or parts.fragment)
            and value.isprintable()
            and " " not in value
        )
    except ValueError:  # such as a port above 65535, or a name longer than names can be
        return False


def _check_base_url(value: str | None, info: ValidationInfo) -> str | None:
    if value is not None:
        value = REGIONS.get(value.lower(), value)
        if not _is_http_address(value):
            raise InvalidInputError(
                info.field_name or "base_url",
                "is not an http(s) URL or the name of a region",
                N_("Pass one like {example}, or one of {names}").format(
                    example=REGIONS["beijing"], names=", ".join(REGIONS)
                ),
            )
        parts = urlsplit(value)
        if parts.username or parts.password:
            raise InvalidInputError(
                info.field_name or "base_url",
                "must not hold a user name or password",
                "Leave them out: the API key identifies you",
            )
        of_apps = parts.path.rstrip("/").endswith("/api/v1")
        if _CLOUD_HOST.fullmatch(parts.hostname or "") and not of_apps:
            raise InvalidInputError(
                info.field_name or "base_url",
                "is not the address of the API for apps, which ends with /api/v1",
                N_("Pass {example}").format(example=f"https://{parts.hostname}/api/v1"),
            )
        # So that one address has one form, and its scheme can be compared.
        value = parts.scheme + value[len(parts.scheme) :].rstrip("/")
    return value


KeyProvider: TypeAlias = Callable[[], str | SecretStr | Awaitable[str | SecretStr]]
"""A callable that returns the API key of one attempt, sync or async."""


def check_api_key(key: str) -> str:
    """Return the key as it is sent: without the word "Bearer", if it begins with that.

    Raises:
        InvalidInputError: It is not valid in an HTTP header. With a line break in it, the HTTP
            library's error would quote the whole key.
    """
    bare = _BEARER.sub("", key, count=1) if _BEARER.match(key) else key
    if not bare.strip() or not key.isascii() or not key.isprintable() or key != key.strip():
        raise InvalidInputError(
            "api_key",
            "is empty, or has spaces around it or characters that an API key cannot have",
            "Pass the key as the console shows it, or set DASHSCOPE_API_KEY",
        )
    return bare


def _check_key(value: object) -> object:
    value = unwrap_params(value)
    if value is None or callable(value):
        return value
    key = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(key, str):
        raise InvalidInputError(
            "api_key",
            N_("must be a str, a SecretStr or a callable that returns one, not {kind}").format(
                kind=kind_of(key)
            ),
        )
    return SecretStr(check_api_key(key))


def read_api_key(provider: KeyProvider) -> SecretStr:
    """Call the callable that the setting `api_key` holds, for a sync call.

    Raises:
        InvalidInputError: It raised (its error is the cause), is async, or returned no key.
    """
    with _key_errors():
        given = provider()
    if inspect.isawaitable(given):
        if inspect.iscoroutine(given):
            given.close()  # it was never started
        raise InvalidInputError(
            "api_key",
            "is an async callable, which a sync call cannot await",
            "Use ainvoke or astream, or pass a sync callable",
        )
    return _given_key(given)


async def aread_api_key(provider: KeyProvider) -> SecretStr:
    """As `read_api_key`, for an async call: the callable may be sync or async."""
    with _key_errors():
        given = provider()
        if inspect.isawaitable(given):
            given = await given
    return _given_key(given)


@contextmanager
def _key_errors() -> Generator[None]:
    try:
        yield
    except Exception as error:
        raise InvalidInputError(
            "api_key",
            N_("could not be read: the callable raised {type}").format(type=type(error).__name__),
            "The cause is that error",
        ) from error


def _given_key(given: object) -> SecretStr:
    if not isinstance(given, (str, SecretStr)):
        raise InvalidInputError(
            "api_key",
            N_("is a callable that returned {kind}").format(kind=kind_of(given)),
            "Return a str or SecretStr",
        )
    return cast("SecretStr", _check_key(given))


def _check_headers(value: object) -> object:
    value = unwrap_params(value)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidInputError(
            "extra_headers", N_("must be a dict of str, not {kind}").format(kind=kind_of(value))
        )
    headers: dict[str, SecretStr] = {}
    names: set[str] = set()
    for name, given in cast("Mapping[object, object]", value).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidInputError("extra_headers", "has a name that no HTTP header can have")
        field = f"extra_headers.{name}"
        if name.lower() in _OWN_HEADERS:
            raise InvalidInputError(field, "cannot be replaced", _OWN_HEADERS[name.lower()])
        if name.lower() in names:
            problem = N_("is given twice, because the names of headers are equal in any case")
            raise InvalidInputError(field, problem, "Leave one out")
        names.add(name.lower())
        text = given.get_secret_value() if isinstance(given, SecretStr) else given
        if not isinstance(text, str):
            raise InvalidInputError(
                field, N_("must be a str, not {kind}").format(kind=kind_of(text)), "Pass str(value)"
            )
        if not text.isascii() or (text and not text.isprintable()) or text != text.strip():
            raise InvalidInputError(
                field,
                "has a line break, spaces around it, or a character that is not ASCII",
                "Pass the value in one line; encode other characters",
            )
        headers[name] = SecretStr(text)
    return headers


def _check_workspace(value: str | None, info: ValidationInfo) -> str | None:
    if value is not None and not _WORKSPACE.fullmatch(value):
        raise InvalidInputError(
            info.field_name or "workspace",
            "has a character that a workspace id cannot have",
            "Pass the id as the console shows it",
        )
    return value


def api_key_from_env() -> SecretStr | None:
    """Return the key in `DASHSCOPE_API_KEY`; None if there is none."""
    value = os.environ.get("DASHSCOPE_API_KEY", "").strip()
    return SecretStr(_BEARER.sub("", value, count=1) or value) if value else None


APIKey: TypeAlias = Annotated[
    str | SecretStr | SkipJsonSchema[KeyProvider] | None, BeforeValidator(_check_key)
]
BaseURL: TypeAlias = Annotated[str | None, AfterValidator(_check_base_url)]
Headers: TypeAlias = Annotated[
    Mapping[str, str | SecretStr] | None, BeforeValidator(_check_headers)
]
Workspace: TypeAlias = Annotated[str | None, AfterValidator(_check_workspace)]
