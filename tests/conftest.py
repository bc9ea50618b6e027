"""What holds for every test: only loopback is reachable, no key of the machine is used, in English."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings

from bailian_apps.emulator import Emulator

# Whatever the locale of the developer is; programs that a test starts inherit it.
os.environ["BAILIAN_LANG"] = "en"

# Generation is slow on a busy machine; nothing here is a timed test.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> Iterator[None]:
    """A shell starts what runs in its background with SIGINT ignored, and children inherit that."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def _no_event_loop() -> None:
    """Leave the thread without an event loop, as `asyncio.run` does.

    Where there never was one, LlamaIndex has Python make one, which nobody closes.
    """
    asyncio.run(asyncio.sleep(0))


@pytest.fixture(autouse=True, scope="module")
def strict_emulators() -> Iterator[None]:
    """Every emulator of the tests is strict, so that it finds a mistake in what we send.

    A module whose clients are not ours has a fixture of the same name that does nothing.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cast("Any", Emulator.__init__).__kwdefaults__, "strict", True)
        yield


@pytest.fixture(autouse=True)
def _no_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sees no key, app or address of the machine it runs on; `tests/live` does."""
    if "live" in request.path.parts:
        return
    for name in (
        "DASHSCOPE_API_KEY",
        "DASHSCOPE_HTTP_BASE_URL",
        "BAILIAN_APP_ID",
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
