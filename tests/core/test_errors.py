"""The error classes: their tree, the table of codes, and which errors are retried."""

from __future__ import annotations

import email.utils
import pickle
import time

import pytest

import bailian_apps
from bailian_apps import AppResult, AppSettings, BailianError
from bailian_apps.core import errors
from bailian_apps.core.api_errors import api_error
from bailian_apps.core.retry import is_retryable, retry_delay_s


def all_errors(root: type[BailianError] = BailianError) -> list[type[BailianError]]:
    """The core's own errors; an adapter that is loaded adds its own below them."""
    own = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [root] + [each for child in own for each in all_errors(child)]


def test_the_drawing_shows_the_tree_and_all_of_it_is_public() -> None:
    drawn = [
        line.strip("│├└─ ").split()[0]
        for line in (errors.__doc__ or "").splitlines()
        if "Error" in line and (line.startswith("    "))
    ]
    names = [each.__name__ for each in all_errors()]
    assert drawn == names
    assert set(names) <= set(bailian_apps.__all__)


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("Throttling", 429, "RateLimitError"),
        ("Throttling.BurstRate", None, "RateLimitError"),
        ("Throttling.Unheard.Of", None, "RateLimitError"),
        ("DataInspectionFailed", 400, "ContentBlockedError"),
        ("Arrearage", 400, "BillingError"),
        ("AccessDenied.Unpurchased", 403, "BillingError"),
        ("Workspace.AccessDenied", 403, "PermissionDeniedError"),
        ("InternalError.Algo", 500, "ServerError"),
        ("RetrivalFailed", 500, "AppFailedError"),
        ("ModelServingError", 503, "ServiceUnavailableError"),
        ("PrepaidBillOverdue", 429, "BillingError"),
        ("New.Thing", 404, "NotFoundError"),
        ("New.Thing", 418, "APIError"),
        ("New.Thing", 504, "ServerError"),
        (None, 429, "RateLimitError"),
        (None, None, "APIError"),
    ],
)
def test_a_code_decides_the_error_and_else_the_status(
    code: str | None, status: int | None, expected: str
) -> None:
    error = api_error(code, "words", status_code=status)
    assert type(error).__name__ == expected
    assert (error.code, error.status_code) == (code, status)


def test_an_error_names_the_request_and_survives_pickling() -> None:
    error = api_error("SystemError", "broke", status_code=500, request_id="r-1")
    assert str(error) == "[SystemError] broke (HTTP 500, request_id r-1)"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.request_id) == (type(error), str(error), "r-1")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", None),
        ("inf", None),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
        ("Wed Oct 21 07:28:05 2026", 5.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("Wed, 99 Oct 99999999999999999999 07:28:00 GMT", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds(value: str, seconds: float | None) -> None:
    headers = {"retry-after": value, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert errors.retry_after_s(headers) == seconds


def test_retry_after_a_date_counts_from_now_where_the_answer_has_none() -> None:
    in_an_hour = email.utils.formatdate(time.time() + 3600, usegmt=True)
    for date in ({}, {"Date": "today"}):
        left = errors.retry_after_s({"Retry-After": in_an_hour, **date})
        assert left is not None
        assert 3000 < left <= 3600


@pytest.mark.parametrize(
    "error_type", [each for each in all_errors() if each is not errors.InvalidInputError]
)
@pytest.mark.parametrize("idempotent", [False, True])
def test_only_what_did_not_start_is_retried_unless_idempotent(
    error_type: type[BailianError], idempotent: bool
) -> None:
    settings = AppSettings(app_id="app", idempotent=idempotent)
    did_not_start = {errors.ConnectError, errors.RateLimitError, errors.ServiceUnavailableError}
    may_have_run = {errors.ServerError, errors.ConnectionLostError, errors.RequestTimeoutError}
    expected = error_type in did_not_start or (idempotent and error_type in may_have_run)
    status = {errors.RateLimitError: 429, errors.ServiceUnavailableError: 503}.get(error_type)
    error = error_type("x", status_code=status)
    assert is_retryable(error, idempotent=idempotent) == expected
    error.idempotent = idempotent
    assert error.is_retryable == expected
    assert (retry_delay_s(error, attempt=1, settings=settings) is not None) == expected
    assert retry_delay_s(error, attempt=3, settings=settings) is None


def test_an_error_after_a_frame_is_never_retried() -> None:
    error = errors.RequestTimeoutError("x")
    error.partial = AppResult()
    assert not is_retryable(error, idempotent=True)


def test_a_refusal_in_a_stream_may_have_run_and_one_as_http_status_has_not() -> None:
    for code, status in (("Throttling", 429), ("ModelUnavailable", 503)):
        assert is_retryable(api_error(code, "x", status_code=status))
        in_stream = api_error(code, "x")
        assert in_stream.request_state == "unknown"
        assert not is_retryable(in_stream)
        assert is_retryable(in_stream, idempotent=True)


def test_a_connect_error_that_is_permanent_is_not_retried() -> None:
    error = errors.ConnectError("x")
    error.permanent = True
    assert not is_retryable(error, idempotent=True)


def test_the_delay_doubles_at_random_unless_the_server_names_one() -> None:
    settings = AppSettings(app_id="app", max_retries=99)

    def delays(attempt: int) -> list[float]:
        error = errors.RateLimitError("x", status_code=429)
        drawn = [retry_delay_s(error, attempt=attempt, settings=settings) for _ in range(200)]
        return [delay_s for delay_s in drawn if delay_s is not None]

    assert 0.25 < max(delays(1)) <= 0.5
    assert 0.5 < max(delays(2)) <= 1.0
    assert 1.0 < max(delays(3)) <= 2.0
    assert 4.0 < max(delays(50)) <= 8.0
    assert len(set(delays(3))) > 100
    assert min(delays(3)) < 0.5
    named = errors.RateLimitError("x", status_code=429, retry_after_s=7.0)
    assert retry_delay_s(named, attempt=1, settings=settings) == 7.0
    longest = errors.RateLimitError("x", status_code=429, retry_after_s=30.0)
    assert retry_delay_s(longest, attempt=1, settings=settings) == 30.0
    too_long = errors.RateLimitError("x", status_code=429, retry_after_s=31.0)
    assert retry_delay_s(too_long, attempt=1, settings=settings) is None


def test_an_errors_text_has_only_the_facts_that_are_known() -> None:
    error = BailianError("broke")
    assert str(error) == "broke"
    error.attempts = 2
    assert str(error) == "broke (2 attempts)"
    assert str(BailianError("broke", request_id="r")) == "broke (request_id r)"
    assert str(BailianError("broke", code="C", status_code=500)) == "[C] broke (HTTP 500)"
    assert str(errors.InvalidInputError("top_p", "must be a float")) == "top_p must be a float"
    assert str(errors.InvalidInputError("a", "is 1", "Pass 2")) == "a is 1. Pass 2"


@pytest.mark.parametrize(
    ("error_type", "codes"),
    [
        (errors.BadRequestError, ["InvalidParameter", "FlowNotPublished"]),
        (errors.ContentBlockedError, ["DataInspectionFailed", "data_inspection_failed"]),
        (errors.AuthenticationError, ["InvalidApiKey"]),
        (errors.PermissionDeniedError, ["AccessDenied", "Model.AccessDenied", "App.AccessDenied"]),
        (errors.NotFoundError, ["ModelNotFound", "WorkSpaceNotFound", "NotFound"]),
        (errors.BillingError, ["AllocationQuota.FreeTierOnly", "CommodityNotPurchased"]),
        (errors.BillingError, ["Throttling.AllocationQuota.FreeTierOnly", "PostpaidBillOverdue"]),
        (errors.ServerError, ["InternalError", "ModelServiceFailed", "RequestTimeOut"]),
        (errors.AppFailedError, ["AppProcessFailed", "InvokePluginFailed", "RetrievalFailed"]),
        (errors.ServiceUnavailableError, ["ModelUnavailable", "ModelServingError"]),
    ],
)
def test_a_code_in_a_stream_needs_no_status(
    error_type: type[BailianError], codes: list[str]
) -> None:
    assert [type(api_error(code, "x")) for code in codes] == [error_type] * len(codes)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.BadRequestError),
        (401, errors.AuthenticationError),
        (402, errors.BillingError),
        (403, errors.PermissionDeniedError),
        (404, errors.NotFoundError),
        (499, errors.APIError),
        (500, errors.ServerError),
        (503, errors.ServiceUnavailableError),
    ],
)
def test_an_error_without_a_code_is_known_by_its_status(
    status: int, expected: type[BailianError]
) -> None:
    assert type(api_error(None, "x", status_code=status)) is expected


def test_an_error_without_words_says_so_and_a_wrong_app_id_has_a_hint() -> None:
    assert str(api_error("New", None)) == "[New] the cloud gave no message"
    assert "app_id: copy it" in str(api_error("InvalidParameter", "no such AppId"))
    for code, message in (("InvalidParameter", "no prompt"), ("NotFound", "no such AppId")):
        assert "app_id: copy it" not in str(api_error(code, message))
