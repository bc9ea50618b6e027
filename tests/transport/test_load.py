"""Limits, closing and session claims under load. Long by nature; `make soak` runs it.

The number of calls of threads is `BAILIAN_CALLS` (default 4,000); 40,000 were run once, in 610 s on two busy cores.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage

from bailian_apps import BailianApp, BailianError, Client, Timeout
from bailian_apps.client import default_client
from bailian_apps.concurrency import WaitQueue
from bailian_apps.emulator import Call, Emulator
from bailian_apps.langchain import ChatBailianApp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
WAIT_S = 120
CALLS = int(os.environ.get("BAILIAN_CALLS", "4000"))
LIMIT = 50


class Counted:
    """An app that knows how many of its calls run at once."""

    def __init__(self) -> None:
        self.answered = self.running = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, _: Call) -> Iterator[dict[str, Any]]:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        yield {"output": {"text": "one ", "finish_reason": "null"}}
        with self._lock:
            self.running -= 1
            self.answered += 1
        yield {"output": {"text": "two", "finish_reason": "stop"}}


@pytest.fixture
def most_holders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The largest number of calls that held a slot, as its only item."""
    most, apply = [0], WaitQueue._apply

    def counting(calls: WaitQueue, *event: Any) -> None:
        apply(calls, *event)
        most[0] = max(most[0], len(calls.holders))

    monkeypatch.setattr(WaitQueue, "_apply", counting)
    return most


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def words(call: Call) -> Iterator[dict[str, Any]]:
    """An answer of two words; some prompts ask for silence after the first."""
    yield {"output": {"text": "word ", "finish_reason": "null"}}
    if call.prompt.endswith("silent"):
        call.disconnected.wait(WAIT_S)
    yield {"output": {"text": "word", "finish_reason": "stop"}}


async def continue_conversation(
    model: ChatBailianApp, history: list[AnyMessage], number: int
) -> str:
    """Continue one answer in one of four ways, and return how that ended."""
    way = ("whole", "left", "cancelled", "timed out")[number % 4]
    silent = " silent" if way in ("cancelled", "timed out") else ""
    messages = [*history, HumanMessage(f"call {number}{silent}")]
    limits = Timeout(between_frames_s=0.2 if way == "timed out" else WAIT_S)
    began = asyncio.Event()

    async def read() -> str:
        stream = model.astream(messages, timeout=limits)
        try:
            async for _ in stream:
                began.set()
                if way == "left":
                    return "left"
        finally:
            await stream.aclose()
        return "whole"

    reading = asyncio.create_task(read())
    if way == "cancelled":
        if number % 8 == 2:  # else while it waits for a slot, or for its answer
            await began.wait()
        reading.cancel()
    try:
        return await reading
    except asyncio.CancelledError:
        return "cancelled"
    except BailianError as error:
        return type(error).__name__


def test_two_thousand_mixed_streams_keep_limits_and_claims(most_holders: list[int]) -> None:
    """Four calls at a time continue one answer; at most one of them may be in its session."""
    with Emulator(apps={"a": words}) as cloud:
        fields: dict[str, Any] = {"app_id": "a", "api_key": "k", "base_url": cloud.base_url}
        model = ChatBailianApp(**fields, max_concurrency=LIMIT, max_retries=0)

        async def conversation(first: int, numbers: range) -> list[str]:
            opening = HumanMessage(f"opens {first}")
            answer = await model.ainvoke([opening])
            assert isinstance(answer, AIMessage)
            history: list[AnyMessage] = [opening, answer]
            ways = (continue_conversation(model, history, number) for number in numbers)
            return await asyncio.gather(*ways)

        async def main(conversations: int) -> Counter[str]:
            ends = await asyncio.gather(
                *(
                    conversation(each, range(4 * each, 4 * each + 4))
                    for each in range(conversations)
                )
            )
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return Counter(end for each in ends for end in each)

        asyncio.run(main(5))
        before = open_files()
        cloud.reset()
        ends = asyncio.run(main(500))
        assert ends == dict.fromkeys(("whole", "left", "cancelled", "RequestTimeoutError"), 500)
        assert most_holders == [LIMIT]
        in_session = Counter(each.session_id for each in cloud.requests if each.session_id)
        assert set(in_session.values()) == {1}
        assert not any(each.holders or each.waiting for each in default_client().queues.values())
        assert (
            open_files() < before + 20
        )  # the emulator is in this process, and may be closing some


@pytest.mark.parametrize("forks", [0, 40])
def test_calls_of_three_hundred_threads_keep_the_limit(
    forks: int, caplog: pytest.LogCaptureFixture
) -> None:
    """`BAILIAN_CALLS=40000` makes more calls; with forks, the children call the app too."""
    counted, count = Counted(), 4_000 if forks else CALLS
    with Emulator(apps={"a": counted}) as cloud, Client() as client:
        fields: dict[str, Any] = {"app_id": "a", "api_key": "k", "base_url": cloud.base_url}
        patient = Timeout(connect_s=600)  # a call that waits for longer than this logs a warning
        app = BailianApp(**fields, client=client, max_concurrency=LIMIT, timeout=patient)

        def ask(number: int) -> str:
            if number % 5:
                return app.invoke("hi").text
            with app.stream("hi") as events:
                return "".join(each.text for each in events if each.kind == "text_delta")

        with ThreadPoolExecutor(300) as threads:
            answers = threads.map(ask, range(count))
            for _ in range(forks):
                assert in_child(lambda: app.invoke("hi").text == "one two")
            assert Counter(answers) == {"one two": count}
        assert counted.answered == count + forks
        # A child has slots of its own, and the server ends its count after the last frame is read.
        assert counted.most <= LIMIT + (1 if forks else 0)
        assert not any(each.holders or each.waiting for each in client.queues.values())
    assert caplog.records == []


def in_child(check: Any) -> bool:
    """Fork, and return whether the check holds in the child."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        except BaseException:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


SUSPENDED = """
import asyncio, sys, threading
from bailian_apps import BailianApp, Timeout

app = BailianApp(app_id="a", api_key="k", base_url=sys.argv[1], max_concurrency=20,
                 timeout=Timeout(first_frame_s=60, between_frames_s=0.5), max_retries=0)
texts = []

async def main():
    answers = await asyncio.gather(*(app.ainvoke("hi") for _ in range(10)))
    texts.extend(each.text for each in answers)

threads = [threading.Thread(target=lambda: texts.append(app.invoke("hi").text)) for _ in range(10)]
for each in threads:
    each.start()
asyncio.run(main())
for each in threads:
    each.join()
print(set(texts), len(texts))
"""


def test_a_process_that_was_stopped_reads_what_arrived_meanwhile() -> None:
    began, stopped, sent = threading.Semaphore(0), threading.Event(), threading.Semaphore(0)

    async def waits(_: Call) -> AsyncIterator[dict[str, Any]]:
        began.release()
        await asyncio.to_thread(stopped.wait, WAIT_S)
        yield {"output": {"text": "one ", "finish_reason": "null"}}
        yield {"output": {"text": "two", "finish_reason": "stop"}}
        sent.release()

    with Emulator(apps={"a": waits}) as cloud:
        process = subprocess.Popen(
            [sys.executable, "-c", SUSPENDED, cloud.base_url], stdout=subprocess.PIPE, text=True
        )
        assert all(began.acquire(timeout=WAIT_S) for _ in range(20))
        process.send_signal(signal.SIGSTOP)
        stopped.set()
        assert all(sent.acquire(timeout=WAIT_S) for _ in range(20))
        time.sleep(2)  # longer than between_frames_s: what the test is about
        process.send_signal(signal.SIGCONT)
        printed, _ = process.communicate(timeout=WAIT_S)
    assert printed.strip() == "{'one two'} 20"
