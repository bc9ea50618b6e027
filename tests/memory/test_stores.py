"""A fact of the first turn is known in the last, whatever keeps the messages.

Also when the cloud forgets the session in between.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from support.stores import STORES, command, conversation

pytestmark = [
    # What these libraries say of themselves; each is what its framework's documents name.
    pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated"),
    pytest.mark.filterwarnings("ignore:The class `RedisChatMessageHistory` was deprecated"),
    # langgraph-checkpoint-redis 0.5.2 calls redisvl 0.28 so.
    pytest.mark.filterwarnings("ignore:get_async_redis_connection will become:DeprecationWarning"),
]

MARKED = [name for name, store in STORES.items() if store.marked]


def nothing(cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules do it."""


def restart(cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.restart()


def early(cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour passes for the cloud alone."""
    cloud.emulator.advance(3601)


def an_hour(cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.emulator.advance(3601)
    later = SimpleNamespace(time=lambda: time.time() + 3601)
    monkeypatch.setattr("bailian_apps.core.history.time", later)


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """One way for the cloud to forget a session.

    Attributes:
        happen: Makes it forget.
        unaware: Whether the app then answers once without knowing the earlier turns.
        rules: The cloud's.
        settings: The client's.
    """

    happen: Callable[[Any, pytest.MonkeyPatch], None] = nothing
    unaware: bool
    rules: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


TWO_ROUNDS = {"session_max_rounds": 2}

FORGETTINGS = {
    "restart": Forgetting(happen=restart, unaware=True),
    "restart, idempotent": Forgetting(happen=restart, unaware=False, settings={"idempotent": True}),
    "an hour": Forgetting(happen=an_hour, unaware=False),
    "an hour, early": Forgetting(happen=early, unaware=True),
    "rounds": Forgetting(rules=TWO_ROUNDS, settings=TWO_ROUNDS, unaware=False),
    "rounds, early": Forgetting(rules=TWO_ROUNDS, unaware=True),
}


# Each of these rests on one field of the mark, which a store might lose.
EVERY_STORE = {"restart", "an hour", "rounds"}
BOTH_FRAMEWORKS = {"langgraph, SQLite", "simple, SQLite"}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (name, how)
        for name in STORES
        for how in FORGETTINGS
        if how in EVERY_STORE or name in BOTH_FRAMEWORKS
    ],
)
def test_a_fact_of_the_first_turn_is_known_in_the_last(
    name: str, how: str, start_cloud: Any, place_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, forgetting = STORES[name], FORGETTINGS[how]
    cloud = start_cloud(**forgetting.rules)
    with conversation(store, place_of(store, cloud, **forgetting.settings)) as say:
        assert say("My name is Ada") == say("Good morning") == "Hello"
        forgetting.happen(cloud, monkeypatch)
        if store.marked and forgetting.unaware:
            assert say("What is my name?") == "I do not know your name"
        assert [say("What is my name?") for _ in range(2)] == ["Your name is Ada"] * 2


@pytest.mark.parametrize("name", MARKED)
def test_only_what_is_new_goes_to_the_session(name: str, start_cloud: Any, place_of: Any) -> None:
    cloud, store = start_cloud(), STORES[name]
    words = ["My name is Ada", "Good morning", "What is my name?"]
    with conversation(store, place_of(store, cloud)) as say:
        assert [say(text) for text in words] == ["Hello", "Hello", "Your name is Ada"]
    requests = cloud.emulator.requests
    assert [request.input["prompt"] for request in requests] == words
    assert not any(request.messages for request in requests)
    [session_id] = cloud.emulator.sessions
    assert [request.session_id for request in requests] == [None, session_id, session_id]


@pytest.mark.parametrize("name", sorted(STORES.keys() - set(MARKED)))
def test_what_drops_the_mark_sends_the_whole_history(
    name: str, start_cloud: Any, place_of: Any
) -> None:
    cloud, store = start_cloud(), STORES[name]
    with conversation(store, place_of(store, cloud)) as say:
        assert [say("My name is Ada"), say("What is my name?")] == ["Hello", "Your name is Ada"]
    assert not any(request.session_id for request in cloud.emulator.requests)
    sent = str([request.input for request in cloud.emulator.requests[1:]])
    assert "My name is Ada" in sent


@pytest.mark.parametrize("name", ["langgraph, SQLite", "simple, SQLite"])
def test_after_fifty_rounds_the_whole_history_is_sent(
    name: str, start_cloud: Any, place_of: Any
) -> None:
    cloud, store = start_cloud(), STORES[name]
    with conversation(store, place_of(store, cloud)) as say:
        say("My name is Ada")
        for _ in range(50):
            say("Good morning")
        assert say("What is my name?") == "Your name is Ada"
    requests = cloud.emulator.requests
    assert [bool(request.session_id) for request in requests] == [False] + [True] * 49 + [False] * 2
    assert [len(request.messages) for request in requests[-2:]] == [101, 103]


@pytest.mark.parametrize(
    "name",
    ["langgraph, SQLite", "langgraph, PostgreSQL", "langgraph, Redis", "simple, PostgreSQL, async"],
)
def test_two_processes_take_turns(name: str, start_cloud: Any, place_of: Any) -> None:
    """LangGraph's with `LANGGRAPH_STRICT_MSGPACK`, and no process warns of anything."""
    cloud, store = start_cloud(), STORES[name]
    code, environment = command(name, place_of(store, cloud))
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(subprocess.Popen(code, env=environment, text=True, **pipes))
            for _ in range(2)
        ]

        def say(worker: Any, text: str) -> str:
            print(text, file=worker.stdin, flush=True)
            return worker.stdout.readline().strip()

        one, two = workers
        answers = [
            say(one, "My name is Ada"),
            say(two, "What is my name?"),
            say(one, "Good morning"),
        ]
        last = say(two, "What is my name?")
        for worker in workers:
            assert worker.communicate() == ("", "")
    assert [*answers, last] == ["Hello", "Your name is Ada", "Hello", "Your name is Ada"]
    requests = cloud.emulator.requests
    assert len({request.session_id for request in requests[1:]}) == 1
    assert not any(request.messages for request in requests)
