"""What a graph's stream shows while an app works as an agent's tool or in a node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from support import recordings
from support.events import without_times

from bailian_apps import StreamInterruptedError
from bailian_apps.emulator import Agent
from bailian_apps.langchain import BailianAppRunnable, BailianAppTool, ChatBailianApp

agents = pytest.importorskip("langchain.agents")
graphs = pytest.importorskip("langgraph.graph")

WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"
APP = Agent(
    thoughts=[{"tool": "weather", "observation": "rain"}],
    text=["Take an ", "umbrella."],
    usage={"model_id": "qwen-max", "input_tokens": 11, "output_tokens": 3},
)
INPUT = {"messages": [("user", "hi")]}
MODES = ["messages", "custom"]


class Model(FakeMessagesListChatModel):
    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def agent_with(tool: Any, **options: Any) -> Any:
    call = {"type": "tool_call", "id": "1", "name": tool.name, "args": {"prompt": "hi"}}
    model = Model(responses=[AIMessage("", tool_calls=[call]), AIMessage("done")])
    return agents.create_agent(model, [tool], **options)


def graph_of(node: Any) -> Any:
    builder = graphs.StateGraph(graphs.MessagesState)
    builder.add_node("ask", node)
    builder.add_edge(graphs.START, "ask")
    return builder.compile()


def agent(fields: dict[str, Any]) -> Any:
    return agent_with(BailianAppTool(name="advice", description="Knows.", **fields))


def node_that_invokes(fields: dict[str, Any]) -> Any:
    app = BailianAppRunnable(**fields)

    def ask(_: Any) -> Any:
        return {"messages": [ToolMessage(app.invoke("hi").text, tool_call_id="1")]}

    async def aask(_: Any, config: Any) -> Any:
        text = (await app.ainvoke("hi", config)).text
        return {"messages": [ToolMessage(text, tool_call_id="1")]}

    return graph_of(RunnableLambda(ask, aask))


def node_that_streams(fields: dict[str, Any]) -> Any:
    app = BailianAppRunnable(**fields)

    def ask(_: Any) -> Any:
        *_, last = app.stream("hi")
        return {"messages": [ToolMessage(last.text, tool_call_id="1")]}

    async def aask(_: Any, config: Any) -> Any:
        last: Any = None
        async for each in app.astream("hi", config):
            last = each
        return {"messages": [ToolMessage(last.text, tool_call_id="1")]}

    return graph_of(RunnableLambda(ask, aask))


CALLERS = [agent, node_that_invokes, node_that_streams]


@pytest.fixture(params=["stream", "astream"])
def parts(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """Runs a graph; returns what it streams until the app's answer is in the state."""

    async def astream(graph: Any, *given: Any, **kwargs: Any) -> list[Any]:
        return [part async for part in graph.astream(*given, **kwargs)]

    def parts(graph: Any, config: Any = None, modes: Any = MODES) -> list[Any]:
        if request.param == "stream":
            found = list(graph.stream(INPUT, config, stream_mode=modes))
        else:
            found = asyncio.run(astream(graph, INPUT, config, stream_mode=modes))
        ends = [i for i, (mode, part) in enumerate(found) if _is_answer(mode, part)]
        return found[: ends[0]] if ends else found

    return parts


def _is_answer(mode: str, part: Any) -> bool:
    return mode == "messages" and isinstance(part[0], ToolMessage)


def of_the_app(parts: list[Any]) -> list[Any]:
    return [
        part for mode, part in parts if mode == "messages" and part[1].get("ls_model_name") == "app"
    ]


@pytest.mark.parametrize("make", CALLERS)
def test_tokens_and_steps_of_an_app_stream_while_it_works(
    make: Any, parts: Any, fields_of: Any
) -> None:
    fields = fields_of(APP)
    counted = UsageMetadataCallbackHandler()
    found = parts(make(fields), {"callbacks": [counted]})
    streamed = of_the_app(found)
    chunks = [chunk for chunk, _ in streamed]
    assert [chunk.text for chunk in chunks if chunk.text] == ["Take an ", "umbrella."]
    # It is the message that the chat model would have streamed.
    message, expected = chunks[0] + chunks[1:], ChatBailianApp(**fields).invoke("hi")
    assert without_times(message.additional_kwargs) == without_times(expected.additional_kwargs)
    assert message.usage_metadata == expected.usage_metadata
    assert len({chunk.id for chunk in chunks}) == 1
    node = "tools" if make is agent else "ask"
    assert {metadata["langgraph_node"] for _, metadata in streamed} == {node}
    steps = [part for mode, part in found if mode == "custom"]
    assert [(part["type"], part["event"]) for part in steps] == [
        ("bailian_step", event) for event in ("start", "delta", "end")
    ]
    assert {part["step"]["name"] for part in steps} == {"weather"}
    assert steps[-1]["step"]["output"] == "rain"
    assert counted.usage_metadata == {"qwen-max": expected.usage_metadata}


@pytest.mark.parametrize("make", CALLERS)
def test_the_text_of_a_workflows_node_streams_as_a_step(
    make: Any, parts: Any, fields_of: Any
) -> None:
    found = parts(make(fields_of(WORKFLOW)))
    text = "".join(chunk.text for chunk, _ in of_the_app(found))
    assert text == recordings.expected_text(WORKFLOW.name)
    deltas = [part for mode, part in found if mode == "custom" and part["event"] == "delta"]
    texts = [part["text"] for part in deltas if part["step"]["name"] == "大模型_1"]
    assert "".join(texts).startswith("西湖醋鱼,龙")


def test_the_mode_custom_alone_shows_the_steps(parts: Any, fields_of: Any) -> None:
    found = parts(agent(fields_of(APP)), modes=["custom"])
    assert [part["event"] for _, part in found] == ["start", "delta", "end"]


def test_a_tool_with_the_tag_nostream_streams_no_tokens(parts: Any, fields_of: Any) -> None:
    quiet = BailianAppTool(name="a", description="d", tags=["nostream"], **fields_of(APP))
    assert of_the_app(parts(agent_with(quiet))) == []


def test_an_answer_that_breaks_off_ends_its_run_once(parts: Any, fields_of: Any, log: Any) -> None:
    frames = [{"output": {"text": "one", "finish_reason": "null"}}]
    with pytest.raises(StreamInterruptedError):
        parts(agent(fields_of(lambda _: frames)), {"callbacks": [log]})
    assert log.events.count(("error", "advice")) == 1
    assert "model" in log.names.values()  # the agent's, and none of the app
    assert "app" not in log.names.values()


@pytest.mark.parametrize("make", CALLERS)
async def test_astream_events_has_the_tokens_of_the_whole_app_once(
    make: Any, fields_of: Any
) -> None:
    events = [event async for event in make(fields_of(APP)).astream_events(INPUT, version="v2")]
    of_app = [event for event in events if event["name"] == "app"]
    kinds = [event["event"] for event in of_app]
    assert (kinds[0], kinds[-1]) == ("on_chat_model_start", "on_chat_model_end")
    text = "".join(e["data"]["chunk"].text for e in of_app if e["event"].endswith("_stream"))
    assert text == of_app[-1]["data"]["output"].text == "Take an umbrella."
    ends = [e["data"]["output"] for e in events if e["event"] in ("on_llm_end", kinds[-1])]
    assert sum(m.usage_metadata["total_tokens"] for m in ends if m.usage_metadata) == 14


@pytest.mark.filterwarnings("ignore:.*experimental:Warning", "ignore:.*in beta:Warning")
def test_the_third_version_of_the_event_stream_has_a_message_of_the_app(fields_of: Any) -> None:
    run = agent(fields_of(APP)).stream_events(INPUT, version="v3")
    messages = [(message.node, list(message.text), message.output) for message in run.messages]
    [(texts, output)] = [(texts, output) for node, texts, output in messages if node == "tools"]
    assert texts == ["Take an ", "umbrella."]
    assert output.usage_metadata["total_tokens"] == 14


def spans_of(exporter: Any) -> list[int]:
    names = "llm.token_count.total"
    counted = [span.attributes.get(names) for span in exporter.get_finished_spans()]
    return [count for count in counted if count]


@pytest.mark.parametrize("make", CALLERS)
def test_tracers_count_the_tokens_once_while_they_stream(
    make: Any, parts: Any, fields_of: Any, traces: Any
) -> None:
    instrumentation = pytest.importorskip("openinference.instrumentation.langchain")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = instrumentation.LangChainInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        parts(make(fields_of(APP)), {"callbacks": [traces]})
    finally:
        instrumentor.uninstrument()
    assert spans_of(exporter) == [14]

    def counts(run: Any) -> list[int]:  # LangSmith receives the same tree
        own = [
            generation["message"]["kwargs"].get("usage_metadata")
            for batch in (run.outputs or {}).get("generations", ())
            for generation in batch
            if run.run_type == "llm"
        ]
        below = [count for child in run.child_runs for count in counts(child)]
        return [usage["total_tokens"] for usage in own if usage] + below

    assert [count for root in traces.roots for count in counts(root)] == [14]
