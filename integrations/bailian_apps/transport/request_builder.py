"""Builds HTTP requests with the machinery of `dashscope.Application`. Only this module knows it.

The SDK decides the address, the key, the workspace, the headers and the form of the body. Its
public `call` also sends the request and reads the answer, and there it loses error codes and sends
again on its own. So this module takes only the two steps that build the request (their names are
private, see `private_names`). A contract test compares the result with `Application.call`'s.

The SDK is imported at the first call, because that takes about a second.
"""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

from bailian_apps.core.endpoint import check_api_key, read_api_key
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_, import_error
from bailian_apps.core.redaction import reveal
from bailian_apps.core.request import AppRequest
from bailian_apps.core.settings import AppSettings

SUPPORTED = "dashscope>=1.22.2,<3"


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """One POST, ready to be sent. The key and the prompt are in it, and not in its repr."""

    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    workspace: str | None = None  # of the settings: a header of `extra_headers` is shown nowhere


class _SDK(NamedTuple):
    """The parts of the SDK that building a request needs."""

    application: Any
    build_request: Callable[..., Any]
    options: frozenset[str]
    error: type[Exception]


@cache
def load_sdk() -> _SDK:
    """Import the SDK.

    Raises:
        ImportError: It is too old or too new, and lacks a name that is needed.
    """
    with warnings.catch_warnings():
        # Some versions deprecate, at import, parts of themselves that are not used here.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from dashscope import Application
            from dashscope.api_entities import api_request_factory
            from dashscope.common.error import DashScopeException

            build = cast("Any", api_request_factory)._build_api_request
            cast("Any", Application)._build_input_parameters  # noqa: B018 - it may be missing
        except (ImportError, AttributeError) as error:
            if isinstance(error, ImportError) and not str(error.name).startswith("dashscope"):
                raise  # a package that the SDK needs
            raise import_error(
                N_(
                    "the installed dashscope does not work with this package ({error}); "
                    'install one that does: pip install "{packages}"'
                ).format(error=error, packages=SUPPORTED)
            ) from error
    return _SDK(
        application=Application,
        build_request=build,
        # An older SDK would send these as parameters of the request.
        options=_options(api_request_factory),
        error=DashScopeException,
    )


def build_request(request: AppRequest, settings: AppSettings) -> HTTPRequest:
    """Build the HTTP request of one call.

    Args:
        request: What to send.
        settings: Whose key, address and workspace to use.

    Raises:
        InvalidInputError: There is no key, the address needs a workspace, or an image of this
            machine cannot be sent.
    """
    sdk = load_sdk()
    fields = request.input()
    files = fields.pop("file_list", None)
    wire_input, parameters = sdk.application._build_input_parameters(
        fields.pop("prompt", None),
        None,
        fields.pop("messages", None),
        **fields,
        **request.parameters(),
    )
    if files:
        wire_input["file_list"] = files  # before 1.24.7 the SDK would send it as a parameter
    options = {"sdk_module": "app", "workspace": settings.workspace}
    parameters |= {name: options[name] for name in sdk.options}
    try:
        built = sdk.build_request(
            model="",
            input=wire_input,
            task_group=sdk.application.task_group,
            task=request.app_id,
            function=sdk.application.function,
            api_key=resolve_api_key(settings),
            is_service=False,
            stream=True,
            base_address=settings.base_url,
            **parameters,
        )
    except sdk.error:  # the address of some regions holds the workspace
        raise _missing_workspace() from None
    url = str(built.url)
    if "{workspace_id}" in url:  # an older SDK does not fill it in
        if not settings.workspace:
            raise _missing_workspace()
        url = url.replace("{workspace_id}", settings.workspace)
    body = _body(built.data, request)
    headers = _headers(built.headers, request, settings)
    workspace = settings.workspace
    if headers.get("X-DashScope-WorkSpace") != workspace:
        workspace = None
    return HTTPRequest(url, headers, body, workspace)


def _body(built: Any, request: AppRequest) -> bytes:
    """Return the SDK's body with what `extra_body` adds to it."""
    try:
        whole: dict[str, Any] = built.to_request_object()
        # Added last: the SDK would take some of the names in it for options of its own.
        for part, more in (request.extra_body or {}).items():
            whole[part] = {**whole.get(part, {}), **reveal(more)}
        return json.dumps(whole, ensure_ascii=False).encode()
    except (load_sdk().error, TypeError, ValueError) as error:  # it may quote the whole body
        problem = N_("cannot be written as JSON ({type})").format(type=type(error).__name__)
        raise InvalidInputError(
            "request", problem, "Check biz_params, rag_options and extra_body"
        ) from None


def _headers(
    built: Mapping[str, str], request: AppRequest, settings: AppSettings
) -> dict[str, str]:
    """Return the SDK's headers with those that it does not add to the call of an app."""
    headers = dict(built)
    if settings.workspace:
        headers["X-DashScope-WorkSpace"] = settings.workspace
    if request.has_oss_address:
        headers["X-DashScope-OssResourceResolve"] = "enable"  # as the SDK does for its models
    headers["user-agent"] = f"{headers.get('user-agent', 'dashscope')}; {user_agent()}"
    return with_extra_headers(headers, settings)


def _missing_workspace() -> InvalidInputError:
    hint = N_("Pass workspace=: the address holds {workspace_id}")
    return InvalidInputError("workspace", "is missing", hint)


def address_of(settings: AppSettings) -> str:
    """Return the API's address up to `/api/v1`: of the settings, or else by the SDK's own rule.

    Raises:
        InvalidInputError: It needs a workspace.
    """
    address = settings.base_url or sdk_defaults().base_url
    if "{workspace_id}" in address:
        if not settings.workspace:
            raise _missing_workspace()
        address = address.replace("{workspace_id}", settings.workspace)
    return address


def with_extra_headers(headers: dict[str, str], settings: AppSettings) -> dict[str, str]:
    """Return the headers with those of `extra_headers`, whose names are equal in any case."""
    extra: dict[str, str] = reveal(dict(settings.extra_headers or {}))
    replaced = {name.lower() for name in extra}
    return {name: headers[name] for name in headers if name.lower() not in replaced} | extra


def resolve_api_key(settings: AppSettings) -> str:
    """Return the key of the settings, or else the one that the SDK's own rule finds.

    Raises:
        InvalidInputError: There is none, or it is not valid in an HTTP header.
    """
    key = settings.api_key
    if callable(key):
        key = read_api_key(key)
    if key is not None:
        return check_api_key(reveal(key))  # not checked where pydantic was bypassed
    import dashscope

    # The SDK's own rule, but for a blank variable, which it takes for a key: that is as none.
    given = str(dashscope.api_key or "").strip()
    try:
        return check_api_key(given or sdk_defaults().key_file.read_text("utf-8").strip())
    except (OSError, UnicodeDecodeError):
        raise InvalidInputError(
            "api_key", "is missing", "Set DASHSCOPE_API_KEY in the environment, or pass api_key="
        ) from None


def _options(factory: object) -> frozenset[str]:
    """Return what this SDK's `_build_api_request` takes besides parameters of the request."""
    build = cast("Any", factory)._build_api_request
    module = {"sdk_module"} & inspect.signature(build).parameters.keys()
    workspace = {"workspace"} if hasattr(factory, "resolve_base_url") else set[str]()
    return frozenset(module | workspace)


@cache
def user_agent() -> str:
    """Return the name and the version of this package."""
    return f"bailian-apps/{version('bailian-apps')}"


class SDKDefaults(NamedTuple):
    """What a call uses where neither the settings nor the environment decide."""

    base_url: str
    key_file: Path


def sdk_defaults() -> SDKDefaults:
    """Return the SDK's own defaults. Its address may hold `{workspace_id}`."""
    load_sdk()
    import dashscope
    from dashscope.common.constants import DEFAULT_DASHSCOPE_API_KEY_FILE_PATH

    return SDKDefaults(
        base_url=str(dashscope.base_http_api_url),
        key_file=Path(dashscope.api_key_file_path or DEFAULT_DASHSCOPE_API_KEY_FILE_PATH),
    )
