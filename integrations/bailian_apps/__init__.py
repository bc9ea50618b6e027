"""Alibaba Cloud Bailian (Model Studio) applications inside LangChain and LlamaIndex.

This is the core's public face. It imports neither a framework nor the SDK; the adapters are in
`bailian_apps.langchain` and `bailian_apps.llamaindex`, the local cloud in `bailian_apps.emulator`.
"""

from bailian_apps.app import BailianApp
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
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ServiceUnavailableError,
    StreamInterruptedError,
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
    TextDelta,
    UnknownFrame,
    UsageReported,
)
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
    "BadRequestError",
    "BailianApp",
    "BailianError",
    "BillingError",
    "ConnectError",
    "ConnectionLostError",
    "ContentBlockedError",
    "DocReference",
    "InvalidInputError",
    "ModelUsage",
    "NotFoundError",
    "PermissionDeniedError",
    "ProtocolError",
    "RateLimitError",
    "ReasoningDelta",
    "References",
    "RequestTimeoutError",
    "RunFinished",
    "RunStarted",
    "ServerError",
    "ServiceUnavailableError",
    "Step",
    "StepDelta",
    "StepFinished",
    "StepStarted",
    "StreamInterruptedError",
    "TextDelta",
    "Timeout",
    "TransportError",
    "UnknownFrame",
    "Usage",
    "UsageReported",
]
