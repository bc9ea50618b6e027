"""Errors that are both ours and LangChain's.

Each error of an app call is raised as a class that inherits ours (`bailian_apps.RateLimitError`)
and the one that LangChain has for the same condition (`ModelRateLimitError`), so that code that
knows either catches it. Where the installed langchain-core has none yet, it is ours alone.

Every error has `is_retryable`, which LangChain's retry middleware reads. It is true only where
sending the request again cannot run the app twice, or where the app was declared idempotent.
"""

from __future__ import annotations

from typing import Any, cast

import langchain_core.exceptions as langchain_exceptions

from bailian_apps.core import errors as ours
from bailian_apps.core.errors import BailianError
from bailian_apps.core.retry import is_retryable

_COUNTERPARTS: dict[type[BailianError], str] = {
    ours.InvalidInputError: "ModelInvalidRequestError",
    ours.APIError: "ModelAPIError",
    ours.BadRequestError: "ModelInvalidRequestError",
    ours.ContentBlockedError: "ModelInvalidRequestError",
    ours.AuthenticationError: "ModelAuthenticationError",
    ours.PermissionDeniedError: "ModelPermissionDeniedError",
    ours.NotFoundError: "ModelNotFoundError",
    ours.BillingError: "ModelPermissionDeniedError",
    ours.RateLimitError: "ModelRateLimitError",
    ours.ServiceUnavailableError: "ModelAPIError",
    ours.AppFailedError: "ModelAPIError",
    ours.ServerError: "ModelAPIError",
    ours.TransportError: "ModelConnectionError",
    ours.ConnectError: "ModelConnectionError",
    ours.ConnectionLostError: "ModelConnectionError",
    ours.RequestTimeoutError: "ModelTimeoutError",
    ours.ProtocolError: "ModelAPIError",
    ours.StreamInterruptedError: "ModelConnectionError",
}


def _combine(own: type[BailianError], counterpart: str) -> type[BailianError]:
    theirs = getattr(langchain_exceptions, counterpart, None)
    if theirs is None:
        return own
    combined = type(own.__name__, (own, theirs), {"__module__": __name__, "__doc__": own.__doc__})
    globals()[own.__name__] = combined  # where pickle looks for it
    return combined


_COMBINED = {own: _combine(own, counterpart) for own, counterpart in _COUNTERPARTS.items()}


def as_langchain_error(error: BailianError, *, idempotent: bool = False) -> BailianError:
    """The same error, as LangChain's class too.

    Args:
        error: The error of a call.
        idempotent: Whether running the app twice does no harm.

    Returns:
        An error with the same attributes and traceback, and with `is_retryable`.
    """
    kind = _COMBINED.get(type(error), type(error))
    combined = kind.__new__(kind)
    combined.args = error.args
    combined.__dict__.update(error.__dict__)
    cast("Any", combined).is_retryable = is_retryable(error, idempotent=idempotent)
    return combined.with_traceback(error.__traceback__)
