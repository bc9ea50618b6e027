"""A failed call raises an error of both this package's and LangChain's class."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from langchain_core import exceptions as theirs

import bailian_apps as ours
from bailian_apps.core import errors as core_errors
from bailian_apps.emulator import Call, Failure
from bailian_apps.langchain import errors
from bailian_apps.langchain.errors import as_langchain_error

CASES = [
    (401, "InvalidApiKey", "AuthenticationError", "ModelAuthenticationError", False),
    (403, "AccessDenied", "PermissionDeniedError", "ModelPermissionDeniedError", False),
    (400, "InvalidParameter", "BadRequestError", "ModelInvalidRequestError", False),
    (400, "DataInspectionFailed", "ContentBlockedError", "ModelInvalidRequestError", False),
    (404, "NotFound", "NotFoundError", "ModelNotFoundError", False),
    (400, "Arrearage", "BillingError", "ModelPermissionDeniedError", False),
    (429, "Throttling.RateQuota", "RateLimitError", "ModelRateLimitError", True),
    (500, "SystemError", "ServerError", "ModelAPIError", False),
    (500, "AppProcessFailed", "AppFailedError", "ModelAPIError", False),
    (503, "ModelUnavailable", "ServiceUnavailableError", "ModelAPIError", True),
    (418, "NeverHeardOf", "APIError", "ModelAPIError", False),
]


@pytest.mark.parametrize(("status", "code", "own", "counterpart", "again"), CASES)
def test_an_error_has_both_classes_and_says_whether_it_is_retryable(
    status: int, code: str, own: str, counterpart: str, again: bool, make_model: Any, ask: Any
) -> None:
    failure = Failure(status=status, code=code, message="no")
    model = make_model(lambda _: failure, max_retries=0)
    with pytest.raises(getattr(ours, own)) as caught:
        ask(model)
    error = caught.value
    assert type(error).__name__ == own
    if hasattr(theirs, counterpart):
        assert isinstance(error, getattr(theirs, counterpart))
    assert error.is_retryable is again
    assert (error.code, error.status_code) == (code, status)
    assert error.request_id
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_a_closed_port_raises_a_retryable_connection_error(ask: Any) -> None:
    from bailian_apps.langchain import ChatBailianApp

    model = ChatBailianApp(
        app_id="a", api_key="k", base_url="http://127.0.0.1:1/api/v1", max_retries=0
    )
    with pytest.raises(ours.ConnectError) as caught:
        ask(model)
    assert isinstance(caught.value, getattr(theirs, "ModelConnectionError", Exception))
    assert caught.value.is_retryable is True


def test_an_error_after_the_first_frame_is_not_retryable(make_model: Any, ask: Any) -> None:
    def app(_: Call) -> Any:
        yield {"output": {"text": "one", "finish_reason": "null"}}
        yield Failure(status=429, code="Throttling")

    with pytest.raises(ours.RateLimitError) as caught:
        ask(make_model(app))
    assert caught.value.is_retryable is False
    assert caught.value.partial.text == "one"


def test_an_error_of_an_idempotent_app_is_retryable(make_model: Any, ask: Any) -> None:
    model = make_model(lambda _: Failure(status=500, code="SystemError"), max_retries=0)
    with pytest.raises(ours.ServerError) as caught:
        ask(model, idempotent=True)
    assert caught.value.is_retryable is True


def test_every_error_class_has_a_langchain_counterpart() -> None:
    kinds = {
        kind
        for kind in vars(core_errors).values()
        if isinstance(kind, type) and issubclass(kind, ours.BailianError)
    }
    assert set(errors._COUNTERPARTS) == kinds - {ours.BailianError}


def test_every_error_can_be_pickled_and_restored() -> None:
    for kind in errors._COUNTERPARTS:
        made = kind("f", "p", "m") if kind is ours.InvalidInputError else kind("x", code="c")
        error = as_langchain_error(made)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.code == error.code


def test_without_langchains_class_an_error_keeps_its_own_class() -> None:
    assert errors._combine(ours.RateLimitError, "NotInThisVersion") is ours.RateLimitError
