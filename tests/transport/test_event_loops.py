"""Calls under gevent, eventlet and trio. Each runs in a process of its own; the cloud is here."""

from __future__ import annotations

import ast
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from support.wire import WireServer, event, frame, stream

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

FAILING = """
secure, untrusted, refused = sys.argv[2:]

def fail(name, url, **settings):
    app = BailianApp(app_id=name, api_key="k", base_url=url, max_retries=0)
    try:
        happened[app.invoke("hi", **settings).text] += 1
    except Exception as error:
        happened[str(error)] += 1

happened = collections.Counter()
for _ in range(3):
    spawn(fail, "app", refused)
    spawn(fail, "app", untrusted)
    spawn(fail, "app", secure)
    spawn(fail, "late", sys.argv[1], timeout=Timeout(first_frame_s=0.05))
join()
print({text.partition("; ")[0].partition("verify")[0]: n for text, n in happened.items()})
"""

TLS_FIRST = """
BailianApp(app_id="app", api_key="k", base_url=sys.argv[2]).invoke("hi")
app_of("words").invoke("hi")
"""

# As gunicorn with --preload: the program runs before the workers are forked, and each patches itself.
FORKED = """
import os
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

SCRIPTS = {
    "gevent": GEVENT + START,
    "gevent, patched late": START + GEVENT,
    "gevent, patched after calls": START + TLS_FIRST + GEVENT,
    "gevent, patched in a forked worker": START + TLS_FIRST + FORKED + GEVENT,
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
        "late": lambda call: str(call.disconnected.wait(60)),
    }
    with Emulator(apps=apps, pace=1) as cloud:
        yield cloud.base_url


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """URLs: of a server that is trusted, of one that is not, and of none."""
    contexts: list[ssl.SSLContext] = []
    for authority in (trustme.CA(), trustme.CA()):
        contexts.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        authority.issue_cert("127.0.0.1").configure_cert(contexts[-1])
        if len(contexts) == 1:
            authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    good = stream(event(frame("secure", "stop")))
    with (
        WireServer(*[good] * 9, tls=contexts[0]) as trusted,
        WireServer(tls=contexts[1]) as untrusted,
        socket.socket() as none,
    ):
        none.bind(("127.0.0.1", 0))  # and does not listen
        refused = f"http://127.0.0.1:{none.getsockname()[1]}/api/v1"
        yield [trusted.base_url, untrusted.base_url, refused]


def run(script: str, *urls: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *urls],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("start", SCRIPTS.values(), ids=SCRIPTS)
def test_greenlets_do_not_disturb_or_block_each_other(
    start: str, base_url: str, secure: list[str]
) -> None:
    mixed, waited, closed, failed = run(
        start + MIXED + ONE_WAITS_FOR_ANOTHER + CLOSE_FROM_ANOTHER + FAILING, base_url, *secure
    ).splitlines()
    assert mixed == str([("RequestTimeoutError", 30), ("left", 30), ("word word word ", 30)])
    assert waited == "both answered"
    assert closed == "StreamInterruptedError"
    _, untrusted, refused = (urlsplit(url).netloc for url in secure)
    assert ast.literal_eval(failed) == {
        f"could not connect to {refused}: Connection refused": 3,
        f"could not connect to {untrusted}: certificate ": 3,
        "secure": 3,
        "no frame arrived within first_frame_s=0.05 s": 3,
    }


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
