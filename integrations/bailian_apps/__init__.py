"""Alibaba Cloud Bailian (Model Studio) applications inside LangChain and LlamaIndex.

The public names of the core. It imports neither a framework nor the SDK. The adapters are in
`bailian_apps.langchain` and `bailian_apps.llamaindex`, the emulator in `bailian_apps.emulator`.

A name is loaded when it is first used, because pytest imports this package at every start, for its
plugin.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bailian_apps.app import BailianApp
    from bailian_apps.background import BackgroundRun, submission_mark
    from bailian_apps.client import Client
    from bailian_apps.core.answer_text import replace_citation_marks
    from bailian_apps.core.documents import RetrievedDocument
    from bailian_apps.core.errors import (
        APIError,
        AppFailedError,
        AuthenticationError,
        BadRequestError,
        BailianError,
        BillingError,
        ConnectError,
        ConnectionLostError,
        ContentBlockedError,
        InvalidInputError,
        InvalidOutputError,
        NoResultError,
        NotFoundError,
        PermissionDeniedError,
        ProtocolError,
        RateLimitError,
        RequestTimeoutError,
        ServerError,
        ServiceUnavailableError,
        StreamInterruptedError,
        SubmissionUnknownError,
        TransportError,
    )
    from bailian_apps.core.events import (
        AppEvent,
        ReasoningDelta,
        References,
        RunFinished,
        RunStarted,
        StepDelta,
        StepFinished,
        StepStarted,
        StepUpdated,
        TextDelta,
        UnknownFrame,
        UsageReported,
    )
    from bailian_apps.core.history_template import HistoryTemplate
    from bailian_apps.core.request import AppRequest
    from bailian_apps.core.result import AppResult, DocReference, ModelUsage, Step, Usage
    from bailian_apps.core.settings import AppSettings, Timeout

__all__ = [
    "APIError",
    "AppEvent",
    "AppFailedError",
    "AppRequest",
    "AppResult",
    "AppSettings",
    "AuthenticationError",
    "BackgroundRun",
    "BadRequestError",
    "BailianApp",
    "BailianError",
    "BillingError",
    "Client",
    "ConnectError",
    "ConnectionLostError",
    "ContentBlockedError",
    "DocReference",
    "HistoryTemplate",
    "InvalidInputError",
    "InvalidOutputError",
    "ModelUsage",
    "NoResultError",
    "NotFoundError",
    "PermissionDeniedError",
    "ProtocolError",
    "RateLimitError",
    "ReasoningDelta",
    "References",
    "RequestTimeoutError",
    "RetrievedDocument",
    "RunFinished",
    "RunStarted",
    "ServerError",
    "ServiceUnavailableError",
    "Step",
    "StepDelta",
    "StepFinished",
    "StepStarted",
    "StepUpdated",
    "StreamInterruptedError",
    "SubmissionUnknownError",
    "TextDelta",
    "Timeout",
    "TransportError",
    "UnknownFrame",
    "Usage",
    "UsageReported",
    "replace_citation_marks",
    "submission_mark",
]

_LAZY_MODULES = (
    "core.errors", "core.result", "core.events", "core.settings", "core.request", "app", "client",
    "core.answer_text", "background",
)  # fmt: skip


def __getattr__(name: str) -> object:
    if name in __all__:
        for module in _LAZY_MODULES:
            value = getattr(import_module(f"{__name__}.{module}"), name, None)
            if value is not None:
                globals()[name] = value
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
