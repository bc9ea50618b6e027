"""The app's steps are child runs of the model's run, on every path and however it ends."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import langsmith
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import collect_runs, tracing_v2_enabled
from support import recordings

from bailian_apps import AppFailedError, ServerError
from bailian_apps.emulator import Call, Failure
from bailian_apps.langchain import ChatBailianApp

PATHS = ("invoke", "ainvoke", "stream", "astream")
WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"


def node(name: str, status: str = "executing", result: str = "", **more: Any) -> dict[str, Any]:
    fields = {"nodeId": name, "nodeName": name, "nodeType": "LLM", "nodeStatus": status, **more}
    fields["nodeResult"] = json.dumps({"result": result})
    return {"response": json.dumps(fields)}


def frame(text: str = "", finish: str = "null", thoughts: Any = None) -> dict[str, Any]:
    return {"output": {"text": text, "finish_reason": finish, "thoughts": thoughts}}


def thinking(_: Call) -> list[dict[str, Any]]:
    """The recorded start of a reasoning workflow, brought to an end."""
    frames = recordings.frames("workflow-deep-thinking-streamed-end-head.jsonl")
    return [*frames, frame(finish="stop")]


@pytest.mark.parametrize("source", ["workflow", "agent", "thinking"])
def test_the_tree_is_the_same_on_all_paths(
    source: str, agent: Any, make_model: Any, ask_on: Any, traces: Any, tree_of: Any
) -> None:
    sources = {"workflow": WORKFLOW, "agent": lambda _: agent, "thinking": thinking}
    model = make_model(sources[source])
    for path in PATHS:
        ask_on(path, model, "hi", {"callbacks": [traces]})
    trees = [tree_of(root) for root in traces.roots]
    assert len(trees) == 4
    assert trees[0]
    assert trees[1:] == [trees[0]] * 3


def node_times() -> dict[str, float]:
    """Milliseconds per node, read from the raw recording."""
    nodes = [
        json.loads(thought["response"])
        for each in recordings.frames(WORKFLOW.name)
        for thought in each.get("output", {}).get("thoughts") or []
    ]
    return {n["nodeId"]: float(n["nodeExecTime"][:-2]) for n in nodes if "nodeExecTime" in n}


def test_nodes_are_chain_runs(make_model: Any, ask: Any, traces: Any) -> None:
    ask(make_model(WORKFLOW), "hi", {"callbacks": [traces]})
    (root,) = traces.roots
    assert root.run_type == "llm"
    assert [(run.run_type, run.name) for run in root.child_runs] == [
        ("chain", "开始"),
        ("chain", "大模型_1"),
        ("chain", "大模型_2"),
        ("chain", "结束"),
    ]
    expected = recordings.node_texts(WORKFLOW.name)
    for run in root.child_runs:
        step_id = run.extra["metadata"]["bailian_step_id"]
        took = node_times()[step_id]
        used = run.outputs.pop("usage", {"models": []})["models"]
        assert [model["model_id"] for model in used] == ["qwen-max"] * step_id.startswith("LLM")
        assert run.outputs == {"output": expected[step_id], "duration_ms": took}
        assert root.start_time <= run.start_time <= run.end_time <= root.end_time


def test_tool_calls_and_retrievals_have_runs_of_their_kind_with_their_inputs(
    agent: Any, make_model: Any, ask: Any, traces: Any
) -> None:
    answer = ask(make_model(lambda _: agent), "hi", {"callbacks": [traces]})
    tool, retrieval = traces.roots[0].child_runs
    assert (tool.run_type, tool.name) == ("tool", "weather")
    assert tool.inputs in ({"city": "杭州"}, {"input": '{"city": "杭州"}'})  # the latter before 1.1
    assert tool.outputs == {"output": '{"sky": "clear"}'}
    assert (retrieval.run_type, retrieval.name) == ("retriever", "知识检索")
    assert retrieval.inputs == {"query": "茶"}
    (document,) = retrieval.outputs["documents"]
    assert (document.page_content, document.metadata) == ("龙井", {"title": "茶"})
    assert answer.additional_kwargs["reasoning_content"] == "先查"
    assert traces.roots[0].outputs["generations"][0][0]["text"] == "晴，喝茶<ref>[1]</ref>"


@pytest.mark.parametrize("first", ["Retrieval", None])
def test_a_retrieval_node_of_a_workflow_is_a_retriever_run(
    first: str | None, make_model: Any, ask: Any, traces: Any
) -> None:
    """A silent node whose type is reported only at its end has one, like any other."""
    hits = json.dumps([{"text": "West Lake", "title": "Sights"}, {"text": "Dongpo pork"}])
    frames = [
        frame(thoughts=[node("kb", nodeType=first)]),
        frame(thoughts=[node("kb", "success", hits, nodeType="Retrieval")]),
        frame("ok", "stop"),
    ]
    ask(make_model(lambda _: frames), "hi", {"callbacks": [traces]})
    [run] = traces.roots[0].child_runs
    assert run.run_type == "retriever"
    assert [(doc.page_content, doc.metadata) for doc in run.outputs["documents"]] == [
        ("West Lake", {"title": "Sights"}),
        ("Dongpo pork", {}),
    ]


def test_each_run_ends_once_and_before_the_model_does(make_model: Any, ask: Any, log: Any) -> None:
    ask(make_model(WORKFLOW), "hi", {"callbacks": [log]})
    assert log.events[0] == ("start", "model")
    assert log.events[-1] == ("end", "model")
    names = ["model", "开始", "大模型_1", "大模型_2", "结束"]
    assert sorted(log.events) == sorted(
        [(kind, name) for kind in ("start", "end") for name in names]
    )


def test_a_custom_event_reports_the_start_and_end_of_every_step(
    agent: Any, make_model: Any, ask: Any, log: Any
) -> None:
    ask(make_model(lambda _: agent), "hi", {"callbacks": [log]})
    assert {name for name, _, _ in log.custom} == {"bailian_step"}
    assert {log.names[run_id] for _, _, run_id in log.custom} == {"model"}
    reported = [
        (data["event"], data["step"]["kind"])
        for _, data, _ in log.custom
        if data["event"] in ("start", "end")
    ]
    kinds = ["reasoning", "tool", "retrieval"]
    assert sorted(reported) == sorted(
        [(event, kind) for event in ("start", "end") for kind in kinds]
    )
    assert reported.index(("start", "tool")) < reported.index(("end", "tool"))


def test_a_failed_step_is_a_failed_run(make_model: Any, ask: Any, log: Any) -> None:
    def app(_: Call) -> list[Any]:
        started = frame(thoughts=[node("search")])
        failed = frame(thoughts=[node("search", "fail", nodeErrorMsg="no index")])
        return [started, failed, frame("sorry", "stop")]

    ask(make_model(app), "hi", {"callbacks": [log]})
    assert isinstance(log.errors["search"], AppFailedError)
    assert log.errors["search"].message == "no index"
    assert log.events[-2:] == [("error", "search"), ("end", "model")]


def test_an_error_ends_open_steps_last_in_first_out(make_model: Any, ask: Any, log: Any) -> None:
    def app(_: Call) -> list[Any]:
        both = [node("a", result="x"), node("b")]
        return [
            frame(thoughts=both[:1]),
            frame(thoughts=both),
            Failure(status=500, code="SystemError"),
        ]

    with pytest.raises(ServerError) as caught:
        ask(make_model(lambda call: iter(app(call))), "hi", {"callbacks": [log]})
    assert log.events[-3:] == [("error", "b"), ("error", "a"), ("error", "model")]
    assert caught.value.partial is not None
    assert caught.value.is_retryable is False
    assert [data["event"] for _, data, _ in log.custom] == [
        *("start", "update", "delta", "delta", "start"),
        *("error", "error"),
    ]


CLOSED = [("start", "model"), ("start", "mail"), ("error", "mail"), ("error", "model")]


def test_closing_a_stream_ends_the_steps_and_the_connection(
    held: Any, make_model: Any, log: Any
) -> None:
    stream = make_model(held).stream("hi", {"callbacks": [log]})
    assert next(chunk.text for chunk in stream if chunk.text) == "one"
    stream.close()
    assert log.events == CLOSED
    assert isinstance(log.errors["model"], GeneratorExit)
    assert held.disconnected.wait(60)


async def test_closing_an_async_stream_ends_the_steps_and_the_connection(
    held: Any, make_model: Any, log: Any
) -> None:
    stream = make_model(held).astream("hi", {"callbacks": [log]})
    async for chunk in stream:
        if chunk.text:
            break
    await stream.aclose()
    assert log.events == CLOSED
    assert await asyncio.to_thread(held.disconnected.wait, 60)


@pytest.mark.parametrize("path", ["ainvoke", "astream"])
async def test_cancelling_ends_the_steps_and_the_connection(
    path: str, held: Any, make_model: Any, log: Any
) -> None:
    model = make_model(held)

    async def run() -> None:
        if path == "ainvoke":
            await model.ainvoke("hi", {"callbacks": [log]})
        async for _ in model.astream("hi", {"callbacks": [log]}):
            pass

    begun = asyncio.Event()
    log.on_step = begun.set
    task = asyncio.create_task(run())
    await asyncio.wait_for(begun.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.events == CLOSED
    assert isinstance(log.errors["model"], asyncio.CancelledError)
    assert await asyncio.to_thread(held.disconnected.wait, 60)


def test_inside_a_chain_the_model_and_its_steps_are_below_the_chain(
    make_model: Any, ask_on: Any, traces: Any
) -> None:
    model = make_model(WORKFLOW)
    chain = ChatPromptTemplate([("human", "{question}")]) | model | RunnableLambda(lambda m: m)
    for path in PATHS:
        ask_on(path, chain, {"question": "hi"}, {"callbacks": [traces]})
    assert len(traces.roots) == 4
    for root in traces.roots:
        (below,) = [run for run in root.child_runs if run.run_type == "llm"]
        assert [run.name for run in below.child_runs] == ["开始", "大模型_1", "大模型_2", "结束"]


def test_a_chain_with_a_parser_streams_text(make_model: Any) -> None:
    chain = ChatPromptTemplate([("human", "{question}")]) | make_model(WORKFLOW) | StrOutputParser()
    pieces = list(chain.stream({"question": "hi"}))
    assert "".join(pieces) == recordings.expected_text(WORKFLOW.name)

    async def astream() -> list[str]:
        return [piece async for piece in chain.astream({"question": "hi"})]

    assert asyncio.run(astream()) == pieces


def test_callbacks_of_the_model_itself_see_the_steps_too(
    make_model: Any, ask: Any, log: Any
) -> None:
    ask(make_model(WORKFLOW, callbacks=[log]))
    assert len(log.events) == 10


def test_collected_runs_hold_the_steps(make_model: Any, ask: Any) -> None:
    model = make_model(WORKFLOW)
    with collect_runs() as collected:
        ask(model)
    (root,) = collected.traced_runs
    assert len(root.child_runs) == 4


def test_the_config_reaches_the_steps(make_model: Any, ask: Any, traces: Any) -> None:
    config = {"callbacks": [traces], "tags": ["t"], "metadata": {"user": "u"}, "run_name": "mine"}
    ask(make_model(WORKFLOW, tags=["own"]), "hi", config)
    (root,) = traces.roots
    assert root.name == "mine"
    assert set(root.tags) == {"t", "own"}
    for run in root.child_runs:
        assert run.tags == ["t"]
        assert run.extra["metadata"]["user"] == "u"
        assert not any(key.startswith("ls_") for key in run.extra["metadata"])


def test_the_run_id_of_the_config_is_the_models(make_model: Any, ask: Any, traces: Any) -> None:
    run_id = uuid.uuid4()
    answer = ask(make_model(WORKFLOW), "hi", {"callbacks": [traces], "run_id": run_id})
    assert traces.roots[0].id == run_id
    assert answer.id.startswith(f"lc_run--{run_id}")
    assert {run.parent_run_id for run in traces.roots[0].child_runs} == {run_id}


async def events_of(runnable: Any, question: Any) -> list[Any]:
    return [event async for event in runnable.astream_events(question, version="v2")]


@pytest.mark.parametrize(
    "implicit",
    [
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                sys.version_info < (3, 11),
                reason="LangChain has to be passed the config: tasks take no context on Python 3.10",
            ),
        ),
        False,
    ],
    ids=["ainvoke", "astream"],
)
async def test_astream_events_shows_tokens_and_steps(implicit: bool, make_model: Any) -> None:
    model = make_model(WORKFLOW)

    async def ask(question: str) -> AIMessage:
        return await model.ainvoke(question)

    events = await events_of(RunnableLambda(ask) if implicit else model, "hi")
    pieces = [e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream"]
    assert "".join(pieces) == recordings.expected_text(WORKFLOW.name)
    assert len(pieces) > 1
    nodes = [e for e in events if "bailian_step_id" in e["metadata"]]
    assert [e["event"] for e in nodes] == ["on_chain_start", "on_chain_end"] * 4
    custom = [e for e in events if e["event"] == "on_custom_event"]
    assert {e["name"] for e in custom} == {"bailian_step"}
    kinds = [e["data"]["event"] for e in custom if e["data"]["event"] in ("start", "end")]
    assert kinds == ["start", "end"] * 4
    (end,) = [e for e in events if e["event"] == "on_chat_model_end"]
    assert end["data"]["output"].text == recordings.expected_text(WORKFLOW.name)


@pytest.mark.parametrize("streaming", [True, None])
def test_invoke_reports_tokens_only_if_streaming_is_set(
    streaming: bool | None, make_model: Any, ask_on: Any, log: Any
) -> None:
    model = make_model(recordings.FOLDER / "agent-plain-stream.sse", streaming=streaming)
    for path in ("invoke", "ainvoke"):
        ask_on(path, model, "hi", {"callbacks": [log]})
    tokens = [seen[0] for seen in log.seen if isinstance(seen[0], str)]
    text = recordings.expected_text("agent-plain-stream.sse")
    assert "".join(tokens) == (text * 2 if streaming else "")


@pytest.mark.skipif(
    not hasattr(BaseChatModel, "_streaming_disabled"), reason="an older langchain-core streams"
)
def test_streaming_false_makes_one_chunk(make_model: Any, log: Any) -> None:
    model = make_model(WORKFLOW, streaming=False)
    (chunk,) = list(model.stream("hi", {"callbacks": [log]}))
    assert chunk.text == recordings.expected_text(WORKFLOW.name)
    assert len(log.events) == 10


def test_in_langgraph_the_tokens_and_the_steps_come_through(make_model: Any, traces: Any) -> None:
    graph = pytest.importorskip("langgraph.graph")
    model: ChatBailianApp = make_model(WORKFLOW)
    builder = graph.StateGraph(graph.MessagesState)
    # Named as a node of the workflow: LangGraph must not take the one for the other.
    builder.add_node("结束", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(graph.START, "结束")
    compiled = builder.compile()
    inputs = {"messages": [("human", "hi")]}
    parts = list(compiled.stream(inputs, {"callbacks": [traces]}, stream_mode="messages"))
    assert "".join(part.text for part, _ in parts) == recordings.expected_text(WORKFLOW.name)

    def models(run: Any) -> Iterator[Any]:
        for child in run.child_runs:
            yield from [child] if child.run_type == "llm" else models(child)

    (run,) = models(traces.roots[0])
    assert [child.name for child in run.child_runs][-1] == "结束 (app)"


def test_a_handler_that_raises_ends_the_run_and_not_the_process(
    make_model: Any, ask: Any, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no steps please")

    log.raise_error = True
    monkeypatch.setattr(log, "on_chain_start", refuse)
    call: Callable[..., Any] = ask
    with pytest.raises(RuntimeError, match="no steps please"):
        call(make_model(WORKFLOW), "hi", {"callbacks": [log]})


@pytest.mark.parametrize("path", PATHS)
def test_langsmith_gets_one_trace_without_secrets(path: str, make_model: Any, ask_on: Any) -> None:
    class Client(langsmith.Client):
        """Records what would be sent."""

        def __init__(self) -> None:
            self.created: list[dict[str, Any]] = []
            self.updated: list[dict[str, Any]] = []

        def create_run(self, *args: Any, **kwargs: Any) -> None:
            self.created.append(kwargs)

        def update_run(self, *args: Any, **kwargs: Any) -> None:
            self.updated.append(kwargs)

    client = Client()
    model = make_model(
        WORKFLOW, biz_params={"user_defined_tokens": {"t": {"user_token": "tok-very-secret"}}}
    )
    with tracing_v2_enabled(client=client):
        ask_on(path, model, "hi", api_key="sk-other-key")
    assert len(client.created) == len(client.updated) == 5
    assert len({run["trace_id"] for run in client.created}) == 1
    root = client.created[0]
    assert {run["parent_run_id"] for run in client.created[1:]} == {root["id"]}
    assert not any(key in str([client.created, client.updated]) for key in ("tok-very", "sk-"))


def test_a_step_begins_once_even_if_a_handler_raises(make_model: Any) -> None:
    starts: list[str] = []

    class Good(BaseCallbackHandler):
        run_inline = True

        def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
            starts.append(kwargs["name"])

    class Broken(BaseCallbackHandler):
        run_inline = True
        raise_error = True

        def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
            if kwargs["name"] == "大模型_1":
                raise RuntimeError("broken handler")

    model = make_model(recordings.FOLDER / "workflow-timed.jsonl")
    with pytest.raises(RuntimeError, match="broken handler"):
        model.invoke("hi", config={"callbacks": [Good(), Broken()]})
    assert starts.count("大模型_1") == 1


def test_every_token_has_the_id_of_the_runs_message(make_model: Any, ask: Any) -> None:
    """LangGraph and `astream_events` join the chunks of one message by its id."""
    heard: list[Any] = []

    class Tokens(BaseCallbackHandler):
        run_inline = True
        raise_error = True

        def on_llm_new_token(self, token: Any, *, chunk: Any, run_id: Any, **_: Any) -> None:
            heard.append((chunk.message.id, token))
            assert chunk.message.id == f"lc_run--{run_id}"

    message = ask(make_model(WORKFLOW, streaming=True), "hi", {"callbacks": [Tokens()]})
    assert "".join(token for _, token in heard) == message.text
    assert len(heard) > 5
    assert message.id.startswith(heard[0][0])
