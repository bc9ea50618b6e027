"""`max_concurrency`: how many calls of an app run at once, sync and async together."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from support.paths import PATHS
from support.wire import END, SSE_HEAD, WAIT_S, Do, WireServer, chunk, event, frame

from bailian_apps import BailianApp, BailianError, ConnectError, RequestTimeoutError, Timeout
from bailian_apps.client import default_client
from bailian_apps.concurrency import ConcurrencySlot, WaitQueue
from bailian_apps.emulator import Call, Emulator

HELD_OPEN = [SSE_HEAD, chunk(event(frame("你好"))), Do.STALL]
GOOD = [SSE_HEAD, chunk(event(frame("你好", "stop"))), END]
SHORT = Timeout(pool_s=0.05)


def app_of(server: WireServer, **settings: Any) -> BailianApp:
    settings = {"app_id": "app", "max_concurrency": 1, **settings}
    return BailianApp(api_key="sk-test", base_url=server.base_url, **settings)


@pytest.fixture
def until_waiting(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that waits until so many calls wait for a slot."""
    changed, enqueue = threading.Condition(), WaitQueue.enqueue

    def enqueue_and_notify(calls: WaitQueue, slot: ConcurrencySlot, *, arrives: bool) -> None:
        enqueue(calls, slot, arrives=arrives)
        with changed:
            changed.notify_all()

    def waiting() -> int:
        return sum(len(calls.waiting) for calls in default_client().queues.values())

    def wait(count: int) -> None:
        with changed:
            assert changed.wait_for(lambda: waiting() >= count, WAIT_S)

    monkeypatch.setattr(WaitQueue, "enqueue", enqueue_and_notify)
    return wait


@pytest.fixture(autouse=True)
def _all_slots_are_released() -> Any:
    yield
    assert not any(calls.holders or calls.waiting for calls in default_client().queues.values())
    default_client().queues.clear()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_loop_that_was_closed_with_a_call_in_it_keeps_no_slot() -> None:
    """Nothing of the call will ever run again, so it cannot release its slot itself."""
    with WireServer(HELD_OPEN, GOOD, GOOD) as server:
        app = app_of(server)
        loop, events = asyncio.new_event_loop(), app.astream("hi")
        loop.run_until_complete(anext(events))
        loop.close()
        assert app.invoke("again").text == "你好"
        assert asyncio.run(app.ainvoke("again")).text == "你好"
        del events
        gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_loop_that_was_dropped_with_calls_in_it_is_freed_with_its_slot(
    until_waiting: Callable[[int], None],
) -> None:
    with WireServer(HELD_OPEN, GOOD) as server:
        app = app_of(server)

        async def begin() -> set[asyncio.Task[Any]]:
            tasks = {asyncio.ensure_future(app.ainvoke(each)) for each in ("runs", "waits")}
            await asyncio.to_thread(server.asked.wait, WAIT_S)
            await asyncio.to_thread(until_waiting, 1)
            await asyncio.get_running_loop().shutdown_default_executor()
            return tasks

        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        dropped = weakref.ref(loop)
        del loop
        gc.collect()
        assert dropped() is None
        assert app.invoke("again").text == "你好"


def test_threads_and_tasks_are_counted_together() -> None:
    """Each call waits until three run, so a lower limit would show as much as a higher one."""
    lock, three, running, most = threading.Lock(), threading.Barrier(3), 0, 0

    def app(call: Call) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        yield {"text": call.prompt, "finish_reason": "null"}
        three.wait(WAIT_S)
        with lock:
            running -= 1
        yield {"text": "", "finish_reason": "stop"}

    with Emulator(apps={"app": app}) as cloud:

        def ask(prompt: int) -> str:
            # Each call has an app object of its own.
            own = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url, max_concurrency=3)
            return own.invoke(str(prompt)).text

        async def ask_all() -> list[str]:
            own = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url, max_concurrency=3)
            results = await asyncio.gather(*(own.ainvoke(str(n)) for n in range(20)))
            return [result.text for result in results]

        with ThreadPoolExecutor(12) as pool:
            loops = [pool.submit(asyncio.run, ask_all()) for _ in range(2)]
            assert list(pool.map(ask, range(20))) == [str(n) for n in range(20)]
            assert [each.result() for each in loops] == [[str(n) for n in range(20)]] * 2
    assert most == 3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("limits", "name"),
    [(SHORT, "pool_s=0.05"), (Timeout(total_s=0.05), "total_s=0.05")],
)
def test_the_wait_for_a_slot_has_a_limit(path: str, limits: Timeout, name: str) -> None:
    with WireServer(HELD_OPEN) as server, app_of(server).stream("one") as first:
        next(first)
        error = PATHS[path](app_of(server), "two", timeout=limits).error
        assert len(server.posts) == 1
    assert isinstance(error, RequestTimeoutError)
    assert f"no slot became free within {name} s: max_concurrency=1" in str(error)
    assert "nothing was sent" in str(error)
    assert (error.request_state, error.attempts, error.partial) == ("not_sent", 0, None)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_long_wait_for_a_slot_is_logged_once(
    is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call inside the loop over the stream that has the only slot would wait for ever."""
    calls, logged = WaitQueue(), list[str]()

    def slot() -> ConcurrencySlot:
        return ConcurrencySlot(calls, 1, Timeout(connect_s=0.01), deadline=None)

    def warning(message: str, *args: object) -> None:
        logged.append(message % args)
        first.__exit__()

    async def wait_for(it: ConcurrencySlot) -> None:
        async with it:
            assert calls.holders == {it}

    monkeypatch.setattr(logging.getLogger("bailian_apps.concurrency"), "warning", warning)
    with slot() as first:
        if is_async:
            asyncio.run(wait_for(slot()))
        else:
            with slot() as second:
                assert calls.holders == {second}
    short = ConcurrencySlot(calls, 1, Timeout(connect_s=0.01, pool_s=0.05), deadline=None)
    with slot(), pytest.raises(RequestTimeoutError), short:
        pass
    [message] = logged
    for words in ("max_concurrency=1", "pool_s", "close streams that are no longer read"):
        assert words in message


@pytest.mark.parametrize("path", ["invoke", "ainvoke"])
def test_a_batch_waits_for_its_slots_longer_than_for_a_connection(path: str) -> None:
    """The limits for connecting and for frames start when a call has its slot."""
    impatient = Timeout(connect_s=1, first_frame_s=WAIT_S)
    began, released = threading.Event(), threading.Event()

    def slow_first(call: Call) -> Any:
        if call.prompt == "0":
            began.set()
            assert released.wait(WAIT_S)
        return call.prompt

    def ask(prompt: str) -> str:
        return PATHS[path](app, prompt, timeout=impatient).text

    with Emulator(apps={"app": slow_first}) as cloud, ThreadPoolExecutor(6) as pool:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url, max_concurrency=1)
        first = pool.submit(ask, "0")
        assert began.wait(WAIT_S)
        batch = [pool.submit(ask, str(n)) for n in range(1, 6)]
        _, waiting = wait(batch, timeout=1.5)  # longer than connecting may take
        assert len(waiting) == 5
        released.set()
        assert [each.result() for each in (first, *batch)] == [*"012345"]


async def test_without_a_limit_no_call_waits() -> None:
    """By default the libraries allow a hundred connections; the next call would wait for one."""
    with WireServer(*[HELD_OPEN] * 202) as server:
        app = app_of(server, max_concurrency=None)
        streams = [app.stream("hi") for _ in range(101)]
        asyncs = [app.astream("hi") for _ in range(101)]
        begun = [next(each) for each in streams]
        begun += await asyncio.gather(*map(anext, asyncs))
        assert len(begun) == 202
        for each in streams:
            each.close()
        for each in asyncs:
            await each.aclose()
        assert await asyncio.to_thread(server.all_gone.wait, WAIT_S)


def test_other_apps_and_calls_without_a_limit_do_not_wait() -> None:
    with WireServer(HELD_OPEN, GOOD, GOOD) as server, app_of(server).stream("one") as first:
        next(first)
        assert app_of(server, app_id="other").invoke("two").text == "你好"
        assert app_of(server).invoke("three", max_concurrency=None).text == "你好"


def test_an_abandoned_or_failed_call_releases_its_slot() -> None:
    with WireServer(HELD_OPEN, [Do.CLOSE], GOOD) as server:
        app = app_of(server)
        for _ in app.stream("one"):
            break
        with pytest.raises(BailianError):
            app.invoke("two")
        assert app.invoke("three").text == "你好"


def test_another_thread_closes_a_call_that_waits(until_waiting: Callable[[int], None]) -> None:
    with WireServer(HELD_OPEN) as server, app_of(server).stream("one") as first:
        next(first)
        second = app_of(server).stream("two")
        seen: list[BaseException] = []
        thread = threading.Thread(target=lambda: seen.append(failure_of(second)))
        thread.start()
        until_waiting(1)
        second.close()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        assert len(server.posts) == 1
    (error,) = seen
    assert isinstance(error, ConnectError)
    assert "closed while it waited for a free slot" in str(error)


def failure_of(events: Any) -> BaseException:
    with pytest.raises(BailianError) as caught:
        next(events)
    return caught.value


async def test_a_cancelled_call_leaves_the_queue(until_waiting: Callable[[int], None]) -> None:
    with WireServer(HELD_OPEN, GOOD) as server:
        app = app_of(server)
        first = app.astream("one")
        await anext(first)
        second, third = (asyncio.create_task(app.ainvoke(each)) for each in ("two", "three"))
        await asyncio.to_thread(until_waiting, 2)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await first.aclose()
        assert (await third).text == "你好"
        assert [post["input"]["prompt"] for post in server.posts] == ["one", "three"]


async def test_a_call_that_is_cancelled_as_it_gets_its_slot_releases_it(
    until_waiting: Callable[[int], None],
) -> None:
    with WireServer(HELD_OPEN, GOOD) as server:
        app = app_of(server)
        first = app.astream("one")
        await anext(first)
        second = asyncio.create_task(app.ainvoke("two"))
        await asyncio.to_thread(until_waiting, 1)
        await first.aclose()  # `second` has the slot now, and has not been resumed yet
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert (await app.ainvoke("three")).text == "你好"


def test_calls_get_slots_in_order_of_arrival(until_waiting: Callable[[int], None]) -> None:
    with WireServer(HELD_OPEN, *[GOOD] * 5) as server:
        with app_of(server).stream("one") as first:
            next(first)
            pool = ThreadPoolExecutor(5)
            for n in range(5):
                pool.submit(app_of(server).invoke, str(n))
                until_waiting(n + 1)
        pool.shutdown()
        assert [post["input"]["prompt"] for post in server.posts] == ["one", *"01234"]


def test_a_call_that_ends_while_its_thread_drains_the_queue_is_processed() -> None:
    """The garbage collector may end one at any moment."""
    calls, notified = WaitQueue(), list[str]()
    first, second, third = (ConcurrencySlot(calls, 1, Timeout(), deadline=None) for _ in range(3))

    def end_second() -> None:
        notified.append("second")
        second.__exit__()

    first.notify, second.notify = lambda: notified.append("first"), end_second
    third.notify = lambda: notified.append("third")
    for slot in (first, second, third):
        calls.enqueue(slot, arrives=True)
    assert notified == ["first"]
    first.__exit__()
    assert notified == ["first", "second", "third"]
    assert calls.holders == {third}
    third.__exit__()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_slots_of_its_own() -> None:
    with WireServer(HELD_OPEN, GOOD) as server, app_of(server).stream("one") as first:
        next(first)
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if app_of(server).invoke("two").text == "你好" else 1)
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert status == 0


@pytest.mark.parametrize("limit", [0, -1, "many", 1.5])
def test_a_limit_below_one_call_is_refused(limit: object) -> None:
    with pytest.raises(ValueError, match="max_concurrency"):
        BailianApp(app_id="app", api_key="sk-test", max_concurrency=limit)
