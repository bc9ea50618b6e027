"""Which error the cloud's answer is: by its code, or else by its HTTP status.

The table of codes is that of the vendor's error page (help.aliyun.com/zh/model-studio/error-code),
as docs/en/errors.md shows it; the codes of the console's gateway are from public clients. In a
stream the code decides, because the HTTP status may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bailian_apps.core.errors import (
    APIError,
    AppFailedError,
    AuthenticationError,
    BadRequestError,
    BillingError,
    ContentBlockedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    ServiceUnavailableError,
)
from bailian_apps.core.language import N_, Message, joined, quoted

_BY_CODE: dict[str, type[APIError]] = {
    "InvalidParameter": BadRequestError,
    "invalid_parameter_error": BadRequestError,
    "invalid_request_error": BadRequestError,
    "BadRequest": BadRequestError,
    "FlowNotPublished": BadRequestError,
    "InvalidURL": BadRequestError,
    "InvalidFile": BadRequestError,
    "InvalidInputLength": BadRequestError,
    "UnsupportedOperation": BadRequestError,
    "DataInspectionFailed": ContentBlockedError,
    "data_inspection_failed": ContentBlockedError,
    "CustomRoleBlocked": ContentBlockedError,
    "FaqRuleBlocked": ContentBlockedError,
    "IPInfringementSuspect": ContentBlockedError,
    "InvalidApiKey": AuthenticationError,
    "invalid_api_key": AuthenticationError,
    "BailianGateway.Login.NotLogined": AuthenticationError,
    "NOT AUTHORIZED": PermissionDeniedError,
    "AccessDenied": PermissionDeniedError,
    "access_denied": PermissionDeniedError,
    "Model.AccessDenied": PermissionDeniedError,
    "App.AccessDenied": PermissionDeniedError,
    "Workspace.AccessDenied": PermissionDeniedError,
    "BailianGateway.Workspace.NotAuthorised": PermissionDeniedError,
    "ModelNotFound": NotFoundError,
    "model_not_found": NotFoundError,
    "model_not_supported": NotFoundError,
    "WorkSpaceNotFound": NotFoundError,
    "NotFound": NotFoundError,
    "Arrearage": BillingError,
    "AllocationQuota.FreeTierOnly": BillingError,
    "Throttling.AllocationQuota.FreeTierOnly": BillingError,
    "AccessDenied.Unpurchased": BillingError,
    "CommodityNotPurchased": BillingError,
    "PrepaidBillOverdue": BillingError,
    "PostpaidBillOverdue": BillingError,
    "Throttling": RateLimitError,
    "LimitRequests": RateLimitError,
    "limit_requests": RateLimitError,
    "limit_burst_rate": RateLimitError,
    "insufficient_quota": RateLimitError,
    "InternalError": ServerError,
    "internal_error": ServerError,
    "SystemError": ServerError,
    "ModelServiceFailed": ServerError,
    "RequestTimeOut": ServerError,
    "ResponseTimeout": ServerError,
    "RewriteFailed": ServerError,
    "AppProcessFailed": AppFailedError,
    "InvokePluginFailed": AppFailedError,
    "RetrivalFailed": AppFailedError,  # the vendor's spelling
    "RetrievalFailed": AppFailedError,
    "ModelUnavailable": ServiceUnavailableError,
    "ModelServingError": ServiceUnavailableError,
}

_BY_LAST_WORD: dict[str, type[APIError]] = {
    "AccessDenied": PermissionDeniedError,
    "NotAuthorised": PermissionDeniedError,
    "NotAuthorized": PermissionDeniedError,
    "NotFound": NotFoundError,
}
"""What the last word of an unknown code with dots means, such as a gateway's."""

_BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BillingError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitError,
    503: ServiceUnavailableError,
}

_HINTS: dict[str, Message] = {
    "FlowNotPublished": N_("app_id: publish the app in the console"),
    "InvalidURL": N_("image_list, file_list: the cloud has to be able to fetch each address"),
    "InvalidFile": N_(
        "image_list, file_list: the cloud has to be able to fetch and read each file"
    ),
    "ModelNotFound": N_("model_id: check the name; not every region has every model{asked}"),
    "model_not_found": N_("model_id: check the name; not every region has every model{asked}"),
    "WorkSpaceNotFound": N_(
        "workspace: pass the id as the console shows it; base_url: a workspace "
        "belongs to one region, which base_url= selects{asked}"
    ),
}
"""What to do, by the code or its first words, where the class says too little."""

_HINTS_BY_CLASS: dict[type[APIError], Message] = {
    AuthenticationError: N_(
        "api_key: set DASHSCOPE_API_KEY, or pass api_key=; a key belongs to one "
        "region, which base_url= selects{asked}"
    ),
    PermissionDeniedError: N_(
        "app_id: check that the app is published and in the key's workspace; "
        "for another workspace pass workspace=; for another region pass base_url={asked}"
    ),
    NotFoundError: N_(
        "app_id: check that the app is in the key's workspace; for another workspace "
        "pass workspace=; for another region pass base_url={asked}"
    ),
    BillingError: N_("check the account's balance and purchases in the console"),
}
_APP_ID_HINT = N_(
    "app_id: copy it from the list in App Management in the console; base_url: check that it "
    "is the app's region{asked}"
)
_STATUS_IN_CODE = re.compile(r"([1-5]\d\d)-(.+)")  # 200-BailianGateway.Workspace.NotAuthorised
_FREE_QUOTA = "free allocated quota exceeded"
"""The message of a rate limit that no waiting lifts, on the vendor's page."""


def api_error(
    code: str | None,
    message: str | None,
    *,
    status_code: int | None = None,
    request_id: str | None = None,
    retry_after_s: float | None = None,
    asked: str = "",
) -> APIError:
    """Make the error for an error that the cloud answered.

    Args:
        code: The wire's `code`. A status in front of it is taken off, and used where there is no
            other. The longest known prefix (up to a dot) decides; then its last word; an unknown
            or missing code is classified by `status_code`.
        message: The wire's `message`.
        status_code: The HTTP status, where one is known.
        request_id: The cloud's id of the request.
        retry_after_s: The `Retry-After` header, in seconds.
        asked: Which host and workspace were asked, for the hint.
    """
    answered = status_code is not None and status_code != 200
    if code and (parts := _STATUS_IN_CODE.fullmatch(code)):
        code = parts[2]
        if not answered and parts[1] != "200":
            status_code = int(parts[1])
    text = message if isinstance(message, Message) else quoted((message or "").strip())
    text = text or N_("the cloud gave no message")
    kind = _class_of(code, status_code)
    if kind is RateLimitError and _FREE_QUOTA in text.lower():
        kind = BillingError
    text_and_hint = text
    if hint := _hint_of(kind, code, text):
        where = N_(" ({asked} was asked)").format(asked=asked) if asked else ""
        text_and_hint = joined((text, hint.format(asked=where)), " | ")
    error = kind(
        text_and_hint,
        code=code or None,
        status_code=status_code,
        request_id=request_id or None,
        retry_after_s=retry_after_s,
    )
    if not answered:
        error.request_state = "unknown"  # a code alone does not say when the failure happened
    return error


def _class_of(code: str | None, status_code: int | None) -> type[APIError]:
    for prefix in _prefixes(code):
        if found := _BY_CODE.get(prefix):
            return found
    head, _, last_word = (code or "").rpartition(".")
    if head and (found := _BY_LAST_WORD.get(last_word)):
        return found
    if status_code is None:
        return APIError
    return _BY_STATUS.get(status_code) or (ServerError if status_code >= 500 else APIError)


def _hint_of(kind: type[APIError], code: str | None, text: str) -> Message | None:
    for prefix in _prefixes(code):
        if found := _HINTS.get(prefix):
            return found
    if kind is BadRequestError and "AppId" in text:
        return _APP_ID_HINT
    return _HINTS_BY_CLASS.get(kind)


def _prefixes(code: str | None) -> Iterator[str]:
    """Yield a code, and what is left of it without its last words."""
    prefix = code or ""
    while prefix:
        yield prefix
        prefix = prefix.rpartition(".")[0]
