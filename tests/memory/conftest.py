"""PostgreSQL and Redis for the tests, and a cloud that forgets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import pytest
from support import servers
from support.stores import Place, Store

from bailian_apps.emulator import Call, Emulator


def _lack(error: servers.NoServerError) -> NoReturn:
    """Skip, and say why; where `CI` is set nothing of this kind may be left out."""
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, and there is {error}", pytrace=False)
    pytest.skip(str(error))


def _started(server: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    with ExitStack() as stack:
        try:
            address = stack.enter_context(server())
        except servers.NoServerError as error:
            _lack(error)
        yield address


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL that runs as long as the tests."""
    yield from _started(servers.postgres)


@pytest.fixture(scope="session")
def redis() -> Iterator[str]:
    """The address of a Redis that runs as long as the tests."""
    yield from _started(servers.redis)


@pytest.fixture(scope="session")
def redis_modules(redis: str) -> None:
    """That this Redis has RedisJSON and RediSearch."""
    try:
        servers.require_redis_modules()
    except servers.NoServerError as error:
        _lack(error)


def friend(call: Call) -> str:
    """An app that knows your name if it was sent, now or in the session."""
    known = [*(turn.user for turn in call.turns), call.prompt]
    known += [str(message["content"]) for message in call.messages]
    names = re.findall(r"My name is (\w+)", "\n".join(known))
    # Only when asked, so that no answer repeats what the user sent.
    if "What is my name" not in call.prompt:
        return "Hello"
    if "standalone question" in call.prompt:  # LlamaIndex has the question rewritten
        return f"My name is {names[-1]}. What is my name?"
    return f"Your name is {names[-1]}" if names else "I do not know your name"


class Cloud:
    """An emulator that can be started anew on its port."""

    def __init__(self, **rules: int) -> None:
        self._rules = rules
        self._running = self._start(0)

    @property
    def emulator(self) -> Emulator:
        return self._running

    def restart(self) -> None:
        """It has lost all sessions, and what it was asked."""
        port = int(self._running.base_url.split(":")[2].split("/")[0])
        self._running.stop()
        self._running = self._start(port)

    def _start(self, port: int) -> Emulator:
        emulator = Emulator(apps={"friend": friend}, port=port, **self._rules)
        emulator.start()
        return emulator


@pytest.fixture
def start_cloud() -> Iterator[Callable[..., Cloud]]:
    """Starts a cloud with an app `friend`; it ends with the test."""
    with ExitStack() as stack:

        def start(**rules: int) -> Cloud:
            cloud = Cloud(**rules)
            stack.callback(lambda: cloud.emulator.stop())
            return cloud

        yield start


@pytest.fixture
def place_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Place]:
    """The place of a new conversation in a store, with the servers it needs."""

    def place_of(store: Store, cloud: Cloud, **settings: object) -> Place:
        needed = {need: request.getfixturevalue(need) for need in store.needs}
        needed.pop("redis_modules", None)
        return Place(
            base_url=cloud.emulator.base_url,
            folder=str(tmp_path),
            key=uuid4().hex,
            settings=settings,
            **needed,
        )

    return place_of
