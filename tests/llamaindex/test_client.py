"""An LLM, an engine or a tool with a `Client` of its own uses its connections."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.async_utils import asyncio_run
from llama_index.core.memory import ChatMemoryBuffer

from bailian_apps import BailianApp, Client, InvalidInputError
from bailian_apps.emulator import Emulator
from bailian_apps.llamaindex import (
    BailianAppChatEngine,
    BailianAppLLM,
    BailianAppQueryEngine,
    BailianAppRetriever,
    bailian_app_tool,
)


def closed_client() -> Client:
    """A client that refuses every call: a call that uses it fails."""
    client = Client()
    client.close()
    return client


def test_an_llm_uses_the_connections_of_its_client(ask: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": lambda call: "好"}) as cloud, Client() as client:
        assert ask(llm_of(cloud, client=client)).text == "好"
        error = ask(llm_of(cloud, client=closed_client())).error
        assert ask(llm_of(cloud)).text == "好"
        assert len(cloud.requests) == 2
    assert isinstance(error, InvalidInputError)
    assert error.field == "client"


FACTORIES: dict[str, Callable[..., Callable[[], Any]]] = {
    "query engine": lambda **k: lambda: BailianAppQueryEngine.from_defaults(**k).query("?"),
    "chat engine": lambda **k: (
        lambda: BailianAppChatEngine.from_defaults(
            memory=ChatMemoryBuffer.from_defaults(token_limit=3000), **k
        ).chat("?")
    ),
    "retriever": lambda **k: lambda: BailianAppRetriever.from_defaults(**k).retrieve("?"),
    "tool": lambda **k: lambda: bailian_app_tool(**k, name="n", description="d").call(prompt="?"),
}


@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.parametrize("given", ["app", "llm", "settings"])
def test_engines_keep_the_client_of_what_they_are_given(kind: str, given: str) -> None:
    client, settings = closed_client(), {"app_id": "app", "api_key": "k"}
    arguments: dict[str, Any] = {
        "app": {"app": BailianApp(client=client, **settings)},
        "llm": {"llm": BailianAppLLM(client=client, **settings)},
        "settings": {"client": client, **settings},
    }[given]
    with pytest.raises(InvalidInputError, match="client is closed"):
        FACTORIES[kind](**arguments)()


def test_copies_share_the_client_and_serialised_forms_lack_it() -> None:
    with Client() as client:
        llm = BailianAppLLM(app_id="app", client=client)
        for other in (copy.copy(llm), copy.deepcopy(llm), llm.with_event_listener(print)):
            assert other.client is client
        assert BailianAppLLM.from_dict(llm.to_dict()).client is None
        with pytest.raises(TypeError, match="with a client cannot be pickled"):
            pickle.dumps(llm)
        assert llm.client is client
        assert "client" not in repr(llm)
        assert "client" not in BailianAppLLM.model_json_schema()["properties"]


async def test_the_bridge_from_sync_to_async_leaves_nothing(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """As in a notebook: each call has a thread and a loop of its own, which is only closed."""
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        llm = BailianAppLLM(app_id="app", api_key="k", base_url=cloud.base_url)
        for _ in range(3):
            assert asyncio_run(llm.acomplete("hi")).text == "好"
            gc.collect()
    assert caplog.messages == []
    assert [str(each.message) for each in recwarn] == []
