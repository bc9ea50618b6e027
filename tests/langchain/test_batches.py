"""Batches of an app with a limit on its concurrent calls."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from bailian_apps import RequestTimeoutError, Timeout
from bailian_apps.emulator import Call


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_larger_than_the_limit_is_answered_in_order(
    is_async: bool, make_model: Any
) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def app(call: Call) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        yield {"text": call.prompt, "finish_reason": "null"}
        with lock:
            running -= 1
        yield {"text": "", "finish_reason": "stop"}

    model = make_model(app, max_concurrency=2, max_retries=0)
    prompts = [str(n) for n in range(12)]
    answers = asyncio.run(model.abatch(prompts)) if is_async else model.batch(prompts)
    assert [answer.content for answer in answers] == prompts
    assert most <= 2


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_reports_each_call_that_got_no_slot(is_async: bool, make_model: Any) -> None:
    def held(call: Call) -> Any:
        yield {"text": "It ", "finish_reason": "null"}
        call.disconnected.wait(60)

    model = make_model(held, max_concurrency=1, timeout=Timeout(pool_s=0.1))
    stream = model.stream("first")
    assert next(stream).content == "It "
    if is_async:
        errors = asyncio.run(model.abatch(["b", "c"], return_exceptions=True))
    else:
        errors = model.batch(["b", "c"], return_exceptions=True)
    stream.close()
    assert len(errors) == 2
    for error in errors:
        assert isinstance(error, RequestTimeoutError)
        assert "no slot became free within pool_s=0.1 s" in str(error)
        assert (error.request_state, error.attempts) == ("not_sent", 0)
