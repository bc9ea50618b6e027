"""The error tree: its drawing, the table of codes, and what may be sent again."""

from __future__ import annotations

import email.utils
import pickle
import time

import pytest

import bailian_apps
from bailian_apps import AppSettings, BailianError
from bailian_apps.core import errors
from bailian_apps.core.retry import wait_before_retry


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
def test_a_code_decides_and_else_the_status(
    code: str | None, status: int | None, expected: str
) -> None:
    error = errors.api_error(code, "words", status_code=status)
    assert type(error).__name__ == expected
    assert (error.code, error.status_code) == (code, status)


def test_an_error_says_what_support_asks_for_and_survives_pickling() -> None:
    error = errors.api_error("SystemError", "broke", status_code=500, request_id="r-1")
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
def test_retry_after(value: str, seconds: float | None) -> None:
    headers = {"retry-after": value, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert errors.retry_after_s(headers) == seconds


def test_retry_after_a_date_counts_from_now_where_the_answer_has_none() -> None:
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    for date in ({}, {"Date": "today"}):
        left = errors.retry_after_s({"Retry-After": in_a_minute, **date})
        assert left is not None
        assert 30 < left <= 60


@pytest.mark.parametrize(
    "error_type", [each for each in all_errors() if each is not errors.InvalidInputError]
)
@pytest.mark.parametrize("idempotent", [False, True])
def test_what_may_be_sent_again(error_type: type[BailianError], idempotent: bool) -> None:
    settings = AppSettings(app_id="app", idempotent=idempotent)
    wait_s = wait_before_retry(error_type("x"), attempt=1, started=False, settings=settings)
    not_started = {errors.ConnectError, errors.RateLimitError, errors.ServiceUnavailableError}
    may_have_run = {errors.ServerError, errors.ConnectionLostError, errors.RequestTimeoutError}
    assert (wait_s is not None) == (
        error_type in not_started or (idempotent and error_type in may_have_run)
    )
    assert wait_before_retry(error_type("x"), attempt=1, started=True, settings=settings) is None
    assert wait_before_retry(error_type("x"), attempt=3, started=False, settings=settings) is None


def test_the_wait_doubles_is_drawn_and_is_the_servers_when_it_gave_one() -> None:
    settings = AppSettings(app_id="app", max_retries=99)

    def waits(attempt: int) -> list[float]:
        error = errors.RateLimitError("x")
        drawn = [
            wait_before_retry(error, attempt=attempt, started=False, settings=settings)
            for _ in range(200)
        ]
        return [wait_s for wait_s in drawn if wait_s is not None]

    assert 0.5 < max(waits(2)) <= 1.0
    assert 1.0 < max(waits(3)) <= 2.0
    assert 4.0 < max(waits(50)) <= 8.0
    assert len(set(waits(3))) > 100
    told = errors.RateLimitError("x", retry_after_s=7.0)
    assert wait_before_retry(told, attempt=1, started=False, settings=settings) == 7.0
    too_long = errors.RateLimitError("x", retry_after_s=31.0)
    assert wait_before_retry(too_long, attempt=1, started=False, settings=settings) is None
