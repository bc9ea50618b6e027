"""Calls under gevent, eventlet and trio. Each runs in a process of its own; the cloud is here."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bailian_apps.emulator import Agent, Call, Emulator

pytestmark = pytest.mark.process
pytest.importorskip("gevent", reason="only .venv has these event loops")

START = """
import collections, sys, warnings
warnings.simplefilter("ignore")
from bailian_apps import BailianApp, Timeout

def app_of(name):
    return BailianApp(app_id=name, api_key="k", base_url=sys.argv[1], timeout=60, max_retries=0)
"""

GEVENT = """
from gevent import monkey, sleep
monkey.patch_all()
from gevent.pool import Group
group = Group()
spawn, join = group.spawn, group.join
"""

EVENTLET = """
import eventlet
eventlet.monkey_patch()
from eventlet import sleep
group = eventlet.GreenPool()
spawn, join = group.spawn, group.waitall
"""

MIXED = """
happened = collections.Counter()

def ask(number):
    sleep(number % 7 / 100)
    try:
        if number % 3 == 0:  # leaves in the midst of the answer
            with app_of("words").stream("hi") as events:
                next(events)
            happened["left"] += 1
        elif number % 3 == 1:
            app_of("silent").invoke("hi", timeout=Timeout(between_frames_s=0.05))
        else:
            happened[app_of("words").invoke("hi").text] += 1
    except Exception as error:
        happened[type(error).__name__] += 1

for number in range(90):
    spawn(ask, number)
join()
print(sorted(happened.items()))
"""

ONE_WAITS_FOR_ANOTHER = """
spawn(app_of("waits").invoke, "hi")
spawn(app_of("releases").invoke, "hi")
join()
print("both answered")
"""

CLOSE_FROM_ANOTHER = """
events = app_of("silent").stream("hi")
next(events)
spawn(events.close)
try:
    for _ in events:
        pass
except Exception as error:
    print(type(error).__name__)
join()
"""

SCRIPTS = {
    "gevent": GEVENT + START,
    "gevent, patched late": START + GEVENT,
    "gevent, patched after a call": START + 'app_of("words").invoke("hi")\n' + GEVENT,
    "eventlet": EVENTLET + START,
}


@pytest.fixture
def base_url() -> Iterator[str]:
    released = threading.Event()

    def waits(_: Call) -> str:
        return "ok" if released.wait(60) else "nobody has released it"

    def releases(_: Call) -> str:
        released.set()
        return "ok"

    def silent(call: Call) -> Iterator[dict[str, Any]]:
        yield {"output": {"text": "word", "finish_reason": "null"}}
        call.disconnected.wait(60)

    apps = {
        "words": Agent(text=["word "] * 3, chunk_ms=20),
        "waits": waits,
        "releases": releases,
        "silent": silent,
    }
    with Emulator(apps=apps, pace=1) as cloud:
        yield cloud.base_url


def run(script: str, base_url: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, base_url],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("start", SCRIPTS.values(), ids=SCRIPTS)
def test_greenlets_do_not_disturb_or_block_each_other(start: str, base_url: str) -> None:
    mixed, waited, closed = run(
        start + MIXED + ONE_WAITS_FOR_ANOTHER + CLOSE_FROM_ANOTHER, base_url
    ).splitlines()
    assert mixed == str([("RequestTimeoutError", 30), ("left", 30), ("word word word ", 30)])
    assert waited == "both answered"
    assert closed == "StreamInterruptedError"


TRIO = """
import trio
from bailian_apps import ConnectError

async def main():
    for limit in (None, 1):
        app = app_of("words")
        for call in (lambda: app.ainvoke("hi", max_concurrency=limit),
                     lambda: anext(app.astream("hi", max_concurrency=limit))):
            try:
                await call()
            except ConnectError as error:
                print(error.request_state, error.attempts, error)
    print(await trio.to_thread.run_sync(lambda: app.invoke("hi").text))

trio.run(main)
"""


def test_an_async_call_under_trio_names_asyncio_and_sends_nothing(base_url: str) -> None:
    *errors, answer = run(START + TRIO, base_url).splitlines()
    assert errors == [
        "not_sent 0 async calls need an event loop of asyncio, and none is running; under trio, "
        "make the sync call in a thread (trio.to_thread.run_sync); nothing was sent"
    ] * len(errors)
    assert len(errors) == 4
    assert answer == "word word word"
