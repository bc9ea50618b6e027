"""Errors that are both this package's and LangChain's.

Each error of a call inherits from this package's class (`bailian_apps.RateLimitError`) and from
LangChain's class for the same condition (`ModelRateLimitError`), so code that catches either one
catches it. If the installed langchain-core lacks the class, the error has only the first.

LangChain's retry middleware reads `is_retryable`, which every error of this package has.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import langchain_core.exceptions as langchain_exceptions

from bailian_apps.core import errors
from bailian_apps.core.errors import BailianError

_COUNTERPARTS: dict[type[BailianError], str] = {
    errors.InvalidInputError: "ModelInvalidRequestError",
    errors.InvalidOutputError: "OutputParserException",
    errors.NoResultError: "ModelAPIError",
    errors.SubmissionUnknownError: "ModelInvalidRequestError",
    errors.APIError: "ModelAPIError",
    errors.BadRequestError: "ModelInvalidRequestError",
    errors.ContentBlockedError: "ModelInvalidRequestError",
    errors.AuthenticationError: "ModelAuthenticationError",
    errors.PermissionDeniedError: "ModelPermissionDeniedError",
    errors.NotFoundError: "ModelNotFoundError",
    errors.BillingError: "ModelPermissionDeniedError",
    errors.RateLimitError: "ModelRateLimitError",
    errors.ServiceUnavailableError: "ModelAPIError",
    errors.AppFailedError: "ModelAPIError",
    errors.ServerError: "ModelAPIError",
    errors.TransportError: "ModelConnectionError",
    errors.ConnectError: "ModelConnectionError",
    errors.ConnectionLostError: "ModelConnectionError",
    errors.RequestTimeoutError: "ModelTimeoutError",
    errors.ProtocolError: "ModelAPIError",
    errors.StreamInterruptedError: "ModelConnectionError",
}


def _combine(error_class: type[BailianError], counterpart: str) -> type[BailianError]:
    langchain_class = getattr(langchain_exceptions, counterpart, None)
    if langchain_class is None:
        return error_class
    name = error_class.__name__
    namespace = {"__module__": __name__, "__doc__": error_class.__doc__}
    combined = type(name, (error_class, langchain_class), namespace)
    globals()[name] = combined  # pickle looks the class up in this module
    return combined


_COMBINED = {own: _combine(own, counterpart) for own, counterpart in _COUNTERPARTS.items()}


def as_langchain_error(error: BailianError) -> BailianError:
    """Return the same error as an instance of LangChain's class too."""
    combined_class = _COMBINED.get(type(error), type(error))
    combined = combined_class.__new__(combined_class)
    combined.args = error.args
    if isinstance(error, errors.InvalidOutputError):  # what OutputParserException has
        text = error.partial and error.partial.text
        combined.__dict__ |= {"llm_output": text, "observation": None, "send_to_llm": False}
    combined.__dict__.update(error.__dict__)
    return combined.with_traceback(error.__traceback__)


class _Retryable(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return getattr(instance, "is_retryable", False) is True


class RetryableError(Exception, metaclass=_Retryable):
    """The class of every error whose `is_retryable` is true, for `isinstance` and `with_retry`."""


@contextmanager
def langchain_errors() -> Generator[None]:
    """Raise the errors of a call as LangChain's classes too."""
    try:
        yield
    except BailianError as error:
        raise as_langchain_error(error) from error.__cause__
