"""The field `client`: an adapter with its own `Client` uses its connections."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import HumanMessage
from langchain_core.runnables import ConfigurableField

from bailian_apps import Client, ConnectError, InvalidInputError
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
)

CLOSED_PORT = "http://127.0.0.1:1"
ADAPTERS: dict[str, Callable[..., Any]] = {
    "model": ChatBailianApp,
    "runnable": BailianAppRunnable,
    "retriever": BailianAppRetriever,
    "tool": lambda **fields: BailianAppTool(name="t", description="d", **fields),
}


@pytest.fixture
def proxied() -> Iterator[Client]:
    """A client that can connect only through a proxy that is not there."""
    with Client(proxy=CLOSED_PORT) as client:
        yield client


def test_a_model_with_its_own_client_uses_its_connections(
    start_cloud: Any, make_model: Any, ask: Any, proxied: Client
) -> None:
    cloud = start_cloud(app=lambda _: "hi")
    assert ask(make_model(cloud)).text == "hi"
    with pytest.raises(ConnectError):
        ask(make_model(cloud, client=proxied, max_retries=0))
    assert len(cloud.requests) == 1


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("is_async", [False, True])
async def test_every_adapter_passes_its_client_on(
    adapter: str, is_async: bool, fields_of: Any, proxied: Client
) -> None:
    runnable = ADAPTERS[adapter](client=proxied, max_retries=0, **fields_of(lambda _: "hi"))
    with pytest.raises(ConnectError):
        await runnable.ainvoke("hi") if is_async else runnable.invoke("hi")


def test_each_client_counts_the_rounds_of_its_own_calls(start_cloud: Any, make_model: Any) -> None:
    cloud = start_cloud(app=lambda _: "hi")
    messages: list[Any] = [HumanMessage("one")]
    messages += [make_model(cloud).invoke(messages), HumanMessage("two")]
    for _ in range(2):
        with Client() as client:
            make_model(cloud, client=client).invoke(messages)
    assert [bool(request.session_id) for request in cloud.requests] == [False, True, True]


def test_a_closed_client_is_refused_by_name(make_model: Any, ask: Any) -> None:
    with Client() as client:
        model = make_model(lambda _: "hi", client=client)
    with pytest.raises(InvalidInputError, match="client is closed"):
        ask(model)


def test_copies_share_the_client_and_dumps_leave_it_out(fields_of: Any) -> None:
    with Client() as client:
        model = ChatBailianApp(client=client, **fields_of(lambda _: "hi"))
        assert copy.deepcopy(model).client is model.model_copy().client is client
        configurable = model.configurable_fields(temperature=ConfigurableField(id="heat"))
        assert configurable.invoke("hi", {"configurable": {"heat": 0.5}}).text == "hi"
        shown = [repr(model), json.dumps(dumpd(model)), repr(model.model_dump())]
        assert "client" not in " ".join(shown).lower()
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(model)
