"""LangChain's caches: what they return belongs to no session."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import HumanMessage

from bailian_apps import Client
from bailian_apps.emulator import Call


class PickleCache(BaseCache):
    """As the caches on Redis: whatever it returns was made anew."""

    def __init__(self) -> None:
        self._values: dict[Any, bytes] = {}

    def lookup(self, prompt: str, llm_string: str) -> Any:
        stored = self._values.get((prompt, llm_string))
        return None if stored is None else pickle.loads(stored)

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        self._values[prompt, llm_string] = pickle.dumps(return_val)

    def clear(self, **_: Any) -> None:
        self._values.clear()


def sqlite_cache(folder: Path) -> Any:
    return pytest.importorskip("langchain_community.cache").SQLiteCache(str(folder / "cache.db"))


def remembers(call: Call) -> str:
    """All that this user has told the app."""
    said = [message["content"] for message in call.messages if message["role"] == "user"]
    return " | ".join(said or [*(turn.user for turn in call.turns), call.prompt])


CACHES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda _: InMemoryCache(),
    "pickle": lambda _: PickleCache(),
    "sqlite": sqlite_cache,
}


@pytest.fixture(params=["invoke", "ainvoke", "stream"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Calls a model where it looks into its cache; `stream` does where it is disabled."""

    def ask(model: Any, messages: Any) -> Any:
        if request.param == "ainvoke":
            return asyncio.run(model.ainvoke(messages))
        if request.param == "invoke":
            return model.invoke(messages)
        (answer,) = model.model_copy(update={"disable_streaming": True}).stream(messages)
        return answer

    return ask


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta:Warning")
@pytest.mark.filterwarnings("ignore:The default value of `allowed_objects`:Warning")
@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_cached_answer_continues_nobodys_session(
    kind: str, version: str, ask: Any, start_cloud: Any, make_model: Any, tmp_path: Path
) -> None:
    cloud, cache = start_cloud(app=remembers), CACHES[kind](tmp_path)
    request_ids: set[str] = set()
    for user in ("Ann", "Ben", "Cem"):
        # A client of its own is what another process has.
        more = {"client": Client(), "output_version": version}
        model = make_model(cloud, cache=cache, **more)
        answer = ask(model, [HumanMessage("Hello")])
        assert answer.text == "Hello"
        assert ("session_id" in answer.response_metadata) is (user == "Ann")
        request_ids.add(answer.response_metadata["request_id"])
        messages = [HumanMessage("Hello"), answer, HumanMessage(f"I am {user}")]
        assert ask(model, messages).text == f"Hello | I am {user}"
    assert len(request_ids) == 1  # "Hello" was asked once
    histories = [request.body["input"].get("messages", []) for request in cloud.requests]
    assert [len(history) for history in histories] == [0, 0, 3, 3]


def test_the_global_cache_is_used_where_the_model_allows_it(
    ask: Callable[..., Any], start_cloud: Any, make_model: Any
) -> None:
    cloud = start_cloud(app=remembers)
    model = make_model(cloud, cache=True)
    set_llm_cache(InMemoryCache())
    try:
        first, second = ask(model, "hi"), ask(model, "hi")
    finally:
        set_llm_cache(None)
    assert len(cloud.requests) == 1
    assert first.text == second.text
    assert "bailian" not in second.response_metadata
