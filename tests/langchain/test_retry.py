"""`with_retry` repeats only what cannot run the app twice."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import suppress
from typing import Any

import pytest

from bailian_apps import RateLimitError, ServerError
from bailian_apps.emulator import Call, Failure
from bailian_apps.langchain import BailianAppRunnable, BailianAppTool, ChatBailianApp

KINDS = ["model", "runnable", "tool", "bound"]


def make(kind: str, fields: dict[str, Any]) -> Any:
    # The object's own retries would hide LangChain's.
    fields = {"max_retries": 0, **fields}
    if kind == "runnable":
        return BailianAppRunnable(**fields)
    if kind == "tool":
        return BailianAppTool(name="t", description="d", **fields)
    model = ChatBailianApp(**fields)
    return model.bind(temperature=0.5) if kind == "bound" else model


class Failing:
    """Fails every call but the last."""

    def __init__(self, *failures: Failure) -> None:
        self.failures = list(failures)

    def __call__(self, _: Call) -> Any:
        return self.failures.pop(0) if self.failures else "ok"


REFUSED = Failure(status=429, code="Throttling")
UNKNOWN = Failure(status=500, code="SystemError")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["invoke", "ainvoke", "batch"])
def test_only_a_call_that_did_not_run_is_repeated(
    kind: str, path: str, fields_of: Any, start_cloud: Any
) -> None:
    def call(retrying: Any) -> Any:
        if path == "ainvoke":
            return asyncio.run(retrying.ainvoke("hi"))
        return retrying.invoke("hi") if path == "invoke" else retrying.batch(["hi"])

    def requests_of(error: Failure, **more: Any) -> int:
        cloud = start_cloud(app=Failing(error, error))
        called = make(kind, fields_of(cloud, **more))
        with suppress(ServerError):
            call(called.with_retry(wait_exponential_jitter=False))
        return len(cloud.requests)

    assert requests_of(REFUSED) == 3
    assert requests_of(UNKNOWN) == 1
    assert requests_of(UNKNOWN, idempotent=True) == 3


def test_a_caller_may_choose_the_errors_that_are_repeated(fields_of: Any, start_cloud: Any) -> None:
    for chosen, requests in (((ServerError,), 3), ((RateLimitError,), 1)):
        cloud = start_cloud(app=Failing(UNKNOWN, UNKNOWN))
        retrying = make("runnable", fields_of(cloud)).with_retry(
            retry_if_exception_type=chosen, wait_exponential_jitter=False
        )
        if requests == 1:
            with pytest.raises(ServerError):
                retrying.invoke("hi")
        else:
            assert retrying.invoke("hi").text == "ok"
        assert len(cloud.requests) == requests


def test_the_attempts_can_be_limited(fields_of: Any, start_cloud: Any) -> None:
    cloud = start_cloud(app=Failing(REFUSED, REFUSED))
    retrying = make("tool", fields_of(cloud)).with_retry(
        stop_after_attempt=2, wait_exponential_jitter=False
    )
    with pytest.raises(RateLimitError):
        retrying.invoke("hi")
    assert len(cloud.requests) == 2


def test_a_pickle_still_repeats_nothing_that_may_have_run(
    fields_of: Any, start_cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = start_cloud(app=Failing(UNKNOWN, UNKNOWN))
    fields = fields_of(cloud)
    monkeypatch.setenv("DASHSCOPE_API_KEY", fields["api_key"])
    copied = pickle.loads(pickle.dumps(make("runnable", fields).with_retry()))
    with pytest.raises(ServerError):
        copied.invoke("hi")
    assert len(cloud.requests) == 1
