"""The tree of an app's steps is the same on every path and for every tracer."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import langsmith
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import collect_runs, tracing_v2_enabled
from langgraph.graph import START, MessagesState, StateGraph
from support import recordings

from bailian_apps.emulator import Call
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*is in beta:Warning")

WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"
TIMED = recordings.FOLDER / "workflow-timed.jsonl"
SOURCES = ["workflow", "timed", "thinking", "agent"]


def thinking(_: Call) -> list[dict[str, Any]]:
    """The recorded start of a reasoning workflow, brought to an end."""
    frames = recordings.frames("workflow-deep-thinking-streamed-end-head.jsonl")
    return [*frames, {"output": {"text": "", "finish_reason": "stop"}}]


@pytest.fixture(params=SOURCES)
def fields(request: pytest.FixtureRequest, agent: Any, fields_of: Any) -> dict[str, Any]:
    sources = {
        "workflow": WORKFLOW,
        "timed": TIMED,
        "thinking": thinking,
        "agent": lambda _: agent,
    }
    return fields_of(sources[request.param])


def run_all(stream: Any) -> None:
    for _ in stream:
        pass


async def arun_all(stream: Any) -> None:
    async for _ in stream:
        pass


def graph_of(model: ChatBailianApp) -> Any:
    async def acall(state: Any) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def call(state: Any) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", RunnableLambda(call, acall))
    builder.add_edge(START, "ask")
    return builder.compile()


async def v3(runnable: Any, config: Any) -> None:
    await (await runnable.astream_events("hi", config, version="v3"))


QUESTION = {"question": "hi"}
MESSAGES = {"messages": [("human", "hi")]}
SYNC: dict[str, Callable[..., Any]] = {
    "invoke": lambda a, c: a["model"].invoke("hi", c),
    "stream": lambda a, c: run_all(a["model"].stream("hi", c)),
    "batch": lambda a, c: a["model"].batch(["hi"], c),
    "v1 content": lambda a, c: run_all(a["v1"].stream("hi", c)),
    "v3": lambda a, c: a["model"].stream_events("hi", c, version="v3").output,
    "chain invoke": lambda a, c: a["chain"].invoke(QUESTION, c),
    "chain stream": lambda a, c: run_all(a["chain"].stream(QUESTION, c)),
    "graph invoke": lambda a, c: a["graph"].invoke(MESSAGES, c),
    "graph stream": lambda a, c: run_all(a["graph"].stream(MESSAGES, c, stream_mode="messages")),
    "runnable invoke": lambda a, c: a["runnable"].invoke("hi", c),
    "runnable stream": lambda a, c: run_all(a["runnable"].stream("hi", c)),
    "tool invoke": lambda a, c: a["tool"].invoke("hi", c),
    "retriever invoke": lambda a, c: a["retriever"].invoke("hi", c),
}
ASYNC: dict[str, Callable[..., Any]] = {
    "ainvoke": lambda a, c: a["model"].ainvoke("hi", c),
    "astream": lambda a, c: arun_all(a["model"].astream("hi", c)),
    "abatch": lambda a, c: a["model"].abatch(["hi"], c),
    "astream_events v2": lambda a, c: arun_all(a["model"].astream_events("hi", c, version="v2")),
    "astream_events v3": lambda a, c: v3(a["model"], c),
    "chain ainvoke": lambda a, c: a["chain"].ainvoke(QUESTION, c),
    "chain astream": lambda a, c: arun_all(a["chain"].astream(QUESTION, c)),
    "chain astream_events": lambda a, c: arun_all(
        a["chain"].astream_events(QUESTION, c, version="v2")
    ),
    "graph ainvoke": lambda a, c: a["graph"].ainvoke(MESSAGES, c),
    "graph astream": lambda a, c: arun_all(a["graph"].astream(MESSAGES, c, stream_mode="messages")),
    "runnable ainvoke": lambda a, c: a["runnable"].ainvoke("hi", c),
    "runnable astream": lambda a, c: arun_all(a["runnable"].astream("hi", c)),
    "runnable astream_events": lambda a, c: arun_all(
        a["runnable"].astream_events("hi", c, version="v2")
    ),
    "tool ainvoke": lambda a, c: a["tool"].ainvoke("hi", c),
    "retriever ainvoke": lambda a, c: a["retriever"].ainvoke("hi", c),
}
# An older langchain-core has no v3.
PATHS = [p for p in [*SYNC, *ASYNC] if "v3" not in p or hasattr(BaseChatModel, "stream_events")]


def adapters(fields: dict[str, Any]) -> dict[str, Any]:
    model = ChatBailianApp(**fields)
    return {
        "model": model,
        "v1": ChatBailianApp(**fields, output_version="v1"),
        "chain": ChatPromptTemplate([("human", "{question}")]) | model | StrOutputParser(),
        "graph": graph_of(model),
        "runnable": BailianAppRunnable(**fields),
        "tool": BailianAppTool(name="ask_app", description="Asks.", **fields),
        "retriever": BailianAppRetriever(**fields),
    }


def call(path: str, fields: dict[str, Any], config: Any = None) -> None:
    if path in SYNC:
        SYNC[path](adapters(fields), config)
    else:

        async def run() -> None:
            await ASYNC[path](adapters(fields), config)

        asyncio.run(run())


def test_every_path_gives_the_same_tree(fields: Any, traces: Any, steps_of: Any) -> None:
    for path in PATHS:
        call(path, fields, {"callbacks": [traces]})
    trees = [steps_of(root) for root in traces.roots]
    assert len(trees) == len(PATHS)
    assert trees[0]
    differing = [path for path, tree in zip(PATHS, trees, strict=True) if tree != trees[0]]
    assert differing == []


def test_the_run_tree_shows_what_the_agent_did(
    agent: Any, fields_of: Any, traces: Any, steps_of: Any
) -> None:
    call("invoke", fields_of(lambda _: agent), {"callbacks": [traces]})
    tool, retrieval = steps_of(traces.roots[0])
    assert tool[:2] == ("tool", "weather")
    assert tool[2] in ({"city": "杭州"}, {"input": '{"city": "杭州"}'})  # the latter before 1.1
    assert tool[3:] == ({"output": '{"sky": "clear"}'}, None, [])
    assert retrieval[:3] == ("retriever", "知识检索", {"query": "茶"})
    assert [d.page_content for d in retrieval[3]["documents"]] == ["龙井"]


@pytest.mark.parametrize("path", PATHS)
def test_collected_runs_have_the_tree(path: str, fields_of: Any, steps_of: Any) -> None:
    with collect_runs() as collected:
        call(path, fields_of(WORKFLOW))
    # In a graph the collector takes the model's run for a root of its own; so it is for any model.
    trees = [steps_of(root) for root in collected.traced_runs]
    (tree,) = [tree for tree in trees if tree is not None]
    assert [step[1] for step in tree] == ["开始", "大模型_1", "大模型_2", "结束"]


class Client(langsmith.Client):
    """Records what would be sent to LangSmith."""

    def __init__(self) -> None:
        self.kept: dict[uuid.UUID, dict[str, Any]] = {}

    def create_run(self, name: str, inputs: dict[str, Any], run_type: Any, **kwargs: Any) -> None:
        self.kept[kwargs["id"]] = {"name": name, "inputs": inputs, "run_type": run_type, **kwargs}

    def update_run(self, run_id: Any, **kwargs: Any) -> None:
        self.kept[run_id] |= {key: value for key, value in kwargs.items() if value is not None}

    def tree(self) -> list[Any]:
        runs = sorted(self.kept.values(), key=lambda run: run["dotted_order"])
        assert len({run["trace_id"] for run in runs}) == 1
        metadata = [run["extra"].get("metadata", {}) for run in runs]
        steps = [run for run, m in zip(runs, metadata, strict=True) if "bailian_step_id" in m]
        assert len({run["parent_run_id"] for run in steps}) == 1
        keys = ("run_type", "name", "inputs", "outputs", "error")
        return [tuple(run.get(key) for key in keys) for run in steps]


def test_langsmith_receives_the_same_tree_on_every_path(fields: Any) -> None:
    trees = {}
    for path in PATHS:
        client = Client()
        with tracing_v2_enabled(client=client):
            call(path, fields)
        trees[path] = client.tree()
    assert trees["invoke"]
    assert [path for path, tree in trees.items() if tree != trees["invoke"]] == []


@pytest.fixture
def spans() -> Iterator[Any]:
    """The spans that OpenInference makes."""
    instrumentation = pytest.importorskip("openinference.instrumentation.langchain")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = instrumentation.LangChainInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield exporter
    finally:
        instrumentor.uninstrument()


def span_tree(exporter: Any) -> list[Any]:
    spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    exporter.clear()
    about = [json.loads(span.attributes.get("metadata", "{}")) for span in spans]
    steps = [s for s, m in zip(spans, about, strict=True) if "bailian_step_id" in m]
    assert len({span.parent.span_id for span in steps}) == 1
    keys = ("openinference.span.kind", "input.value", "output.value")
    return [(s.name, s.status.status_code, *(s.attributes.get(k) for k in keys)) for s in steps]


def test_openinference_gets_the_same_tree_on_every_path(fields: Any, spans: Any) -> None:
    trees = {}
    for path in PATHS:
        call(path, fields)
        trees[path] = span_tree(spans)
    assert trees["invoke"]
    assert [path for path, tree in trees.items() if tree != trees["invoke"]] == []
