"""What becomes of an app's run when a client leaves a server, in each form of streaming.

docs/en/serving.md has this table.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableConfig, RunnableLambda
from starlette.responses import StreamingResponse

from bailian_apps import BailianApp
from bailian_apps.emulator import Call, Emulator
from bailian_apps.langchain import BailianAppRunnable, ChatBailianApp

graphs = pytest.importorskip("langgraph.graph")
fastapi: Any = pytest.importorskip("fastapi")
server_sent: Any = pytest.importorskip("fastapi.sse")
sys.path.append(str(Path(__file__).parents[2] / "examples"))
EventStream: Any = import_module("service.event_stream").EventStream

CLOSES = "closes at once"
RUNS_ON = "runs on"


class Talker:
    """Says a word, falls silent, and says the rest if its caller is still there."""

    def __init__(self) -> None:
        self.spoke = threading.Event()
        self.outcome = queue.SimpleQueue[str]()
        self.silent_s = 0.0

    def __call__(self, call: Call) -> Iterator[dict[str, Any]]:
        word = {"output": {"text": "word ", "finish_reason": "null"}}
        yield word
        self.spoke.set()
        if call.disconnected.wait(self.silent_s):
            return self.outcome.put(CLOSES)
        for _ in range(20):
            yield word
            if call.disconnected.wait(0.02):
                return self.outcome.put("closes at the next words")
        yield {"output": {"text": "", "finish_reason": "stop"}}
        return self.outcome.put(RUNS_ON)


class Forms:
    """Ways in which a server streams an app; each is a path."""

    def __init__(self, base_url: str) -> None:
        fields: dict[str, Any] = {"app_id": "app", "api_key": "k", "base_url": base_url}
        self.released = threading.Event()
        self.app = BailianApp(**fields)
        self.model = ChatBailianApp(**fields)
        self.chain = self.model | StrOutputParser()
        self.runnable = BailianAppRunnable(**fields)

    def app_astream(self) -> Any:
        return self.app.astream("hi")

    def app_stream(self) -> Any:
        return self.app.stream("hi")

    def model_astream(self) -> Any:
        return self.model.astream("hi")

    def model_stream(self) -> Any:
        return self.model.stream("hi")

    def model_astream_events(self) -> Any:
        return self.model.astream_events("hi", version="v2")

    def model_ainvoke_in_a_generator(self) -> Any:
        async def generate() -> AsyncIterator[Any]:
            yield await self.model.ainvoke("hi")

        return generate()

    def model_invoke_in_a_thread(self) -> Any:
        async def generate() -> AsyncIterator[Any]:
            yield await asyncio.to_thread(self.model.invoke, "hi")

        return generate()

    def runnable_astream(self) -> Any:
        return self.runnable.astream("hi")

    def chain_astream(self) -> Any:
        return self.chain.astream("hi")

    def chain_stream(self) -> Any:
        return self.chain.stream("hi")

    def chain_astream_events(self) -> Any:
        return self.chain.astream_events("hi", version="v2")

    def chain_with_a_sync_function_astream(self) -> Any:
        return RunnableLambda(lambda text: self.model.invoke(text)).astream("hi")

    def graph_astream_messages(self) -> Any:
        return self._graph().astream(INPUT, stream_mode="messages")

    def graph_astream_in_two_modes(self) -> Any:
        return self._graph().astream(INPUT, stream_mode=["custom", "updates"])

    def graph_astream_updates(self) -> Any:
        return self._graph().astream(INPUT, stream_mode="updates")

    def graph_astream_custom(self) -> Any:
        return self._graph().astream(INPUT, stream_mode="custom")

    def graph_astream_values(self) -> Any:
        return self._graph().astream(INPUT, stream_mode="values")

    def graph_astream_events(self) -> Any:
        return self._graph().astream_events(INPUT, version="v2")

    def graph_with_a_sync_node_astream(self) -> Any:
        return self._graph(sync=True).astream(INPUT, stream_mode="messages")

    def graph_stream_messages(self) -> Any:
        return self._graph(sync=True).stream(INPUT, stream_mode="messages")

    def graph_stream_updates(self) -> Any:
        return self._graph(sync=True).stream(INPUT, stream_mode="updates")

    def _graph(self, sync: bool = False) -> Any:
        def node(state: Any) -> Any:
            return {"messages": [self.model.invoke(state["messages"])]}

        async def anode(state: Any, config: RunnableConfig) -> Any:
            return {"messages": [await self.model.ainvoke(state["messages"], config)]}

        builder = graphs.StateGraph(graphs.MessagesState)
        builder.add_node("node", node if sync else anode)
        builder.add_edge(graphs.START, "node")
        return builder.compile()


INPUT: Any = {"messages": [("user", "hi")]}
FORMS = {
    "app_astream": CLOSES,
    "app_stream": RUNS_ON,
    "model_astream": CLOSES,
    "model_stream": RUNS_ON,
    "model_astream_events": CLOSES,
    "model_ainvoke_in_a_generator": CLOSES,
    "model_invoke_in_a_thread": RUNS_ON,
    "runnable_astream": CLOSES,
    "chain_astream": CLOSES,
    "chain_stream": RUNS_ON,
    "chain_astream_events": CLOSES,
    "chain_with_a_sync_function_astream": RUNS_ON,
    # The node runs in a task of its own, which LangGraph cancels in another task. Starlette (anyio)
    # cancels the response again, and thereby that one before it has begun.
    "graph_astream_messages": RUNS_ON,
    "graph_astream_custom": RUNS_ON,
    "graph_astream_in_two_modes": RUNS_ON,
    "graph_astream_updates": CLOSES,
    "graph_astream_values": CLOSES,
    "graph_astream_events": CLOSES,
    "graph_with_a_sync_node_astream": RUNS_ON,
    "graph_stream_messages": RUNS_ON,
    "graph_stream_updates": RUNS_ON,
}
OWNED = ["model_astream", "chain_astream", *(each for each in FORMS if "graph_astream" in each)]
"""Those that a task of their own may read, as in the example service."""
SSE = ["model_astream", "graph_astream_messages", "graph_astream_updates"]
"""Some of them as FastAPI's own server-sent events."""


KEPT: list[Any] = []
"""Streams that nobody reads any more, kept from the garbage collector, which may close them."""


def lines(stream: Any) -> Any:
    """The stream as text, natively async or not; Starlette reads the latter in threads."""
    if not hasattr(stream, "__aiter__"):
        KEPT.append(stream)
        return (f"{part}\n" for part in stream)

    async def generate() -> AsyncIterator[str]:
        async for part in stream:
            yield f"{part}\n"

    return generate()


async def events(stream: Any) -> AsyncIterator[tuple[str, str]]:
    async with aclosing(stream):
        async for part in stream:
            yield "part", str(part)


@pytest.fixture(scope="module")
def talker() -> Talker:
    return Talker()


@pytest.fixture(scope="module")
def forms(talker: Talker) -> Iterator[Forms]:
    with Emulator(apps={"app": talker}) as cloud:
        yield Forms(cloud.base_url)


def held_of(forms: Forms) -> AsyncExitStack:
    """What a response holds until it has ended."""
    held = AsyncExitStack()
    held.callback(forms.released.set)
    return held


@pytest.fixture(scope="module")
def port(forms: Forms) -> Iterator[int]:
    """A server with all forms, in a thread."""
    api = fastapi.FastAPI()

    def route(form: str) -> Callable[..., Any]:
        return lambda: StreamingResponse(lines(getattr(forms, form)()))

    def owned_route(form: str) -> Callable[..., Any]:
        return lambda: EventStream(events(getattr(forms, form)()), held_of(forms), heartbeat_s=60)

    for form in FORMS:
        api.get(f"/{form}")(route(form))

    def sse_route(form: str) -> Callable[..., Any]:
        async def endpoint() -> AsyncIterator[str]:
            async for part in getattr(forms, form)():
                yield str(part)

        return endpoint

    for form in SSE:
        api.get(f"/sse/{form}", response_class=server_sent.EventSourceResponse)(sse_route(form))
    for form in OWNED:
        api.get(f"/owned/{form}")(owned_route(form))

    @api.get("/failing")
    async def failing() -> Any:
        async def fail() -> AsyncIterator[tuple[str, str]]:
            yield "part", "one"
            raise ValueError("two")

        return EventStream(fail(), held_of(forms), heartbeat_s=60)

    @api.get("/ainvoke")
    async def ainvoke() -> str:
        return (await forms.model.ainvoke("hi")).text

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(api, log_level="warning"))
        thread = threading.Thread(target=server.run, args=[[listening]])
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()
    for stream in KEPT:
        stream.close()  # while the emulator is there
    KEPT.clear()


WAYS = [
    *FORMS.items(),
    ("ainvoke", RUNS_ON),
    *((f"owned/{form}", CLOSES) for form in OWNED),
    *((f"sse/{form}", FORMS[form]) for form in SSE),
]


@pytest.mark.parametrize(("form", "becomes"), WAYS)
def test_a_client_leaves_a_server_that_streams(
    form: str, becomes: str, talker: Talker, port: int
) -> None:
    talker.spoke.clear()
    # Long where closing is expected: a busy machine takes its time.
    talker.silent_s = 30 if becomes is CLOSES else 0.2
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(f"GET /{form} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert talker.spoke.wait(60)
    assert talker.outcome.get(timeout=60) == becomes


@pytest.mark.parametrize("path", ["failing", "owned/model_astream"])
def test_a_response_ends_with_its_events_and_frees_what_it_held(
    path: str, talker: Talker, forms: Forms, port: int
) -> None:
    talker.silent_s = 0
    forms.released.clear()
    response = httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=60)
    assert response.text.startswith("event: part\ndata: ")
    assert forms.released.wait(60)
    if path != "failing":
        assert talker.outcome.get(timeout=60) == RUNS_ON  # to its own end
