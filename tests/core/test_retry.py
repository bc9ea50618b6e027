"""What may be sent again, for every code that comes with every status."""

from __future__ import annotations

import pytest

from bailian_apps.core.api_errors import api_error
from bailian_apps.core.retry import did_not_start, is_retryable

REFUSALS = ["Throttling", "Throttling.RateQuota", "ModelUnavailable", "New.Code", None]
RUNS = ["InternalError", "RequestTimeOut", "SystemError", "AppProcessFailed", "InvokePluginFailed",
        "RetrievalFailed", "DataInspectionFailed"]  # fmt: skip
FINAL = ["InvalidParameter", "Arrearage", "CommodityNotPurchased", "AccessDenied", "NotFound"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_with_its_status_is_sent_again(status: int) -> None:
    for code in REFUSALS:
        error = api_error(code, "x", status_code=status)
        assert did_not_start(error)
        assert is_retryable(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 429, 500, 502, 503, 504])
def test_a_code_of_a_run_is_not_sent_again_whatever_its_status(status: int) -> None:
    for code in RUNS:
        error = api_error(code, "x", status_code=status)
        assert not did_not_start(error)
        assert not is_retryable(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503, None])
def test_a_code_that_no_retry_can_repair_is_never_sent_again(status: int | None) -> None:
    for code in FINAL:
        assert not is_retryable(api_error(code, "x", status_code=status), idempotent=True)


def test_a_refused_key_did_not_start_and_is_not_sent_again() -> None:
    for code in ("InvalidApiKey", *REFUSALS):
        error = api_error(code, "x", status_code=401)
        assert did_not_start(error)
        assert not is_retryable(error, idempotent=True)
