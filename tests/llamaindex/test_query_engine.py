"""`BailianAppQueryEngine` and `BailianAppRetriever`, alone and inside LlamaIndex's engines."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.callbacks import (
    CallbackManager,
    CBEventType,
    LlamaDebugHandler,
    TokenCountingHandler,
)
from llama_index.core.instrumentation.events.query import QueryEndEvent
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent
from llama_index.core.llms.mock import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import (
    RetrieverQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import MetadataMode, QueryBundle
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import QueryEngineTool
from support import recordings

from bailian_apps import BailianApp, InvalidInputError, RateLimitError
from bailian_apps.emulator import Call, Emulator, Failure
from bailian_apps.llamaindex import (
    BailianAppChatEngine,
    BailianAppLLM,
    BailianAppQueryEngine,
    BailianAppRetriever,
    bailian_app_tool,
)

CITING = recordings.FOLDER / "agent-rag-citations.json"


def citing(*references: dict[str, Any], text: str = "答") -> Any:
    output = {"text": text, "finish_reason": "stop", "doc_references": list(references)}
    return lambda call: {"output": output}


def settings(cloud: Emulator, **more: Any) -> dict[str, Any]:
    return {
        "app_id": "app",
        "api_key": "sk-test",
        "base_url": cloud.base_url,
        "max_retries": 0,
        **more,
    }


MODES = ("query", "query streaming", "aquery", "aquery streaming")


def ask(mode: str, cloud: Emulator, question: Any = "西湖在哪里？", **more: Any) -> Any:
    """Query by one of the four methods; a streaming response is read to its end."""
    fields = settings(cloud, **more)
    engine = BailianAppQueryEngine.from_defaults(streaming="streaming" in mode, **fields)

    async def ask_async() -> Any:
        response: Any = await engine.aquery(question)
        if "streaming" not in mode:
            return response
        assert isinstance(response, AsyncStreamingResponse)
        assert not response.source_nodes
        response.deltas = [delta async for delta in response.async_response_gen()]
        return response

    if mode.startswith("a"):
        return asyncio.run(ask_async())
    response: Any = engine.query(question)
    if "streaming" in mode:
        assert isinstance(response, StreamingResponse)
        assert not response.source_nodes
        response.deltas = list(response.response_gen)
    return response


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_method_returns_the_same_answer(mode: str) -> None:
    with Emulator(apps={"app": CITING}) as cloud:
        fields = settings(cloud)
        result = BailianApp(**fields).invoke("西湖在哪里？")
        response = ask(mode, cloud)
    text = "".join(response.deltas) if "streaming" in mode else response.response
    assert text == result.text
    assert [node.node.get_content(MetadataMode.NONE) for node in response.source_nodes] == [
        reference.text for reference in result.references
    ]
    [node], [reference] = response.source_nodes, result.references
    assert node.score is None
    assert node.node.node_id == node.node.metadata["doc_id"] == reference.doc_id
    assert node.node.metadata["title"] == reference.title
    assert node.node.metadata["doc_name"] == reference.doc_name
    assert response.metadata["app_id"] == "app"
    assert [step["id"] for step in response.metadata["steps"]] == [s.id for s in result.steps]
    assert response.metadata["request_id"]


def test_usage_and_steps_are_in_the_metadata(mode: str) -> None:
    name = "workflow-two-llm-fixed-end.sse"
    with Emulator(apps={"app": recordings.FOLDER / name}) as cloud:
        result = BailianApp(**settings(cloud)).invoke("?")
        metadata = ask(mode, cloud).metadata
    assert metadata["usage"]["prompt_tokens"] == result.usage.input_tokens > 0
    assert [step["id"] for step in metadata["steps"]] == [step.id for step in result.steps] != []


def test_a_streaming_response_yields_deltas(mode: str) -> None:
    with Emulator(apps={"app": lambda call: "西湖在杭州市西边"}) as cloud:
        response = ask(mode, cloud)
    if "streaming" in mode:
        assert response.deltas == ["西湖在杭", "州市西边"]
    else:
        assert response.response == "西湖在杭州市西边"


def test_queries_do_not_share_a_session(mode: str) -> None:
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        ask(mode, cloud)
        ask(mode, cloud)
        assert [request.session_id for request in cloud.requests] == [None, None]


def test_errors_of_the_app_are_raised(mode: str) -> None:
    app = {"app": lambda call: Failure(status=429, code="Throttling")}
    with Emulator(apps=app) as cloud, pytest.raises(RateLimitError):
        ask(mode, cloud)


def test_a_query_with_the_path_of_no_file_is_rejected(mode: str) -> None:
    bundle = QueryBundle("这是什么？", image_path="/no/picture.png")
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        with pytest.raises(InvalidInputError, match="image_path"):
            ask(mode, cloud, bundle)
        assert not cloud.requests


@pytest.mark.parametrize("engine", [BailianAppQueryEngine, BailianAppRetriever])
def test_engines_are_created_from_an_app_or_an_llm(engine: Any, llm_of: Any) -> None:
    with Emulator(apps={"app": CITING}) as cloud:
        app = BailianApp(**settings(cloud, biz_params={"city": "杭州"}))
        llm = llm_of(cloud, biz_params={"city": "杭州"})
        for made in (engine(app), engine(llm=llm), engine.from_defaults(llm=llm)):
            made.query("?") if engine is BailianAppQueryEngine else made.retrieve("?")
        assert [request.biz_params for request in cloud.requests] == [{"city": "杭州"}] * 3
        with pytest.raises(InvalidInputError, match="one of app=, llm= and settings"):
            engine(app, llm)
        with pytest.raises(InvalidInputError, match="one of app=, llm= and settings"):
            engine.from_defaults(llm=llm, app_id="app")
        with pytest.raises(InvalidInputError, match="is not a setting"):
            engine.from_defaults(**settings(cloud, colour="red"))


def test_spans_and_events_of_a_query_are_nested(mode: str, spans: Any, events: Any) -> None:
    name = "workflow-two-llm-fixed-end.sse"
    with Emulator(apps={"app": recordings.FOLDER / name}) as cloud:
        response = ask(mode, cloud)
    names = [note.name.partition(".")[2] or note.name for note in spans.notes]
    llm = {
        "query": "complete",
        "query streaming": "stream_complete",
        "aquery": "acomplete",
        "aquery streaming": "astream_complete",
    }[mode]
    method = mode.partition(" ")[0]
    assert names[:4] == [method, f"_{method}", llm, "run"]
    assert len(names) == 4 + len(response.metadata["steps"])
    assert [note.parent_id for note in spans.notes[1:4]] == [note.id for note in spans.notes[:3]]
    run = spans.named("BailianApp.run")
    assert {note.parent_id for note in spans.notes[4:]} == {run.id}
    assert {note.outcome for note in spans.notes} == {"exit"}
    assert len(events.of(QueryEndEvent)) == 1


def test_legacy_callbacks_receive_the_query(mode: str) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    with Emulator(apps={"app": CITING}) as cloud:
        ask(mode, cloud, callback_manager=CallbackManager([debug]))
    [(query, end)] = debug.get_event_pairs(CBEventType.QUERY)
    [(llm, _)] = debug.get_event_pairs(CBEventType.LLM)
    [(run, _)] = debug.get_event_pairs(CBEventType.AGENT_STEP)
    assert query.payload is not None
    assert end.payload is not None
    assert query.payload["query_str"] == "西湖在哪里？"
    assert end.payload["response"].source_nodes
    assert llm.id_
    assert run.id_


def held(call: Call) -> Iterator[dict[str, Any]]:
    yield {"output": {"text": "西", "finish_reason": "null"}}
    call.disconnected.wait(60)


def test_closing_the_stream_ends_the_run(spans: Any, kept: Any) -> None:
    with Emulator(apps={"app": held}) as cloud:
        engine = BailianAppQueryEngine.from_defaults(streaming=True, **settings(cloud))
        deltas: Any = engine.query("?").response_gen
        assert next(deltas) == "西"
        deltas.close()
        assert not spans.open_spans
        assert cloud.requests[0].disconnected.wait(60)


async def test_closing_the_async_stream_ends_the_run(spans: Any, kept: Any) -> None:
    with Emulator(apps={"app": held}) as cloud:
        engine = BailianAppQueryEngine.from_defaults(streaming=True, **settings(cloud))
        response: Any = await engine.aquery("?")
        assert await anext(response.response_gen) == "西"
        await response.response_gen.aclose()
        assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)
        assert not spans.open_spans


def test_an_unread_stream_sends_no_request(spans: Any) -> None:
    with Emulator(apps={"app": held}) as cloud:
        engine = BailianAppQueryEngine.from_defaults(streaming=True, **settings(cloud))
        response = engine.query("?")
        spans.forget_results()
        del response
        gc.collect()
        assert not spans.open_spans
        assert not cloud.requests


# ----------------------------------------------------------------- inside LlamaIndex's engines


def tool_of(cloud: Emulator, *, streaming: bool = False) -> QueryEngineTool:
    engine = BailianAppQueryEngine.from_defaults(streaming=streaming, **settings(cloud))
    return QueryEngineTool.from_defaults(engine, name="app", description="knows phones")


def test_a_query_engine_tool_calls_the_app() -> None:
    with Emulator(apps={"app": CITING}) as cloud:
        output = tool_of(cloud).call("哪款手机？")
    assert "Bailian Zephyr Z9" in output.content
    assert output.raw_output.source_nodes


async def test_a_query_engine_tool_calls_the_app_async() -> None:
    with Emulator(apps={"app": CITING}) as cloud:
        output = await tool_of(cloud).acall("哪款手机？")
    assert "Bailian Zephyr Z9" in output.content


@pytest.mark.parametrize("streaming", [False, True])
def test_a_router_query_engine_selects_the_app(llm_of: Any, streaming: bool) -> None:
    chosen = '[{"choice": 1, "reason": "phones"}]'
    with Emulator(apps={"app": CITING, "chooser": lambda call: chosen}) as cloud:
        chooser = llm_of(cloud, "chooser")
        router = RouterQueryEngine(
            LLMSingleSelector.from_defaults(llm=chooser),
            [tool_of(cloud, streaming=streaming)],
            llm=chooser,
        )
        response: Any = router.query("哪款手机？")
        assert "Bailian Zephyr Z9" in str(response)
    assert response.source_nodes
    assert response.metadata["selector_result"].ind == 0
    assert response.metadata["request_id"], "set at the end, in the router's dict"


async def test_a_sub_question_engine_calls_the_app(llm_of: Any) -> None:
    asked = '```json\n[{"sub_question": "哪款手机？", "tool_name": "app"}]\n```'
    with Emulator(apps={"app": CITING, "asker": lambda call: asked}) as cloud:
        engine = SubQuestionQueryEngine.from_defaults(
            [tool_of(cloud)],
            llm=MockLLM(),
            question_gen=LLMQuestionGenerator.from_defaults(llm=llm_of(cloud, "asker")),
            response_synthesizer=get_response_synthesizer(llm=MockLLM(), use_async=True),
            verbose=False,
        )
        response = await engine.aquery("买哪款？")
    assert "Bailian Zephyr Z9" in response.source_nodes[0].node.get_content()
    assert len(response.source_nodes) == 2, "the sub-answer, and the document that it cites"


# ------------------------------------------------------------------------------ the retriever


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_retriever_returns_the_cited_passages(
    asynchronous: bool, spans: Any, events: Any
) -> None:
    with Emulator(apps={"app": CITING}) as cloud:
        retriever = BailianAppRetriever.from_defaults(**settings(cloud))
        if asynchronous:
            nodes = asyncio.run(retriever.aretrieve("哪款手机？"))
        else:
            nodes = retriever.retrieve("哪款手机？")
        assert cloud.requests[0].prompt == "哪款手机？"
    assert [node.score for node in nodes] == [None]
    assert nodes[0].node.metadata["doc_name"] == "Bailian Phone Product Introduction"
    method = "acomplete" if asynchronous else "complete"
    assert spans.named("BailianApp.run").parent_id == spans.named(f"BailianAppLLM.{method}").id
    assert events.of(RetrievalEndEvent)[-1].nodes == nodes


def test_several_passages_of_one_document_are_all_kept() -> None:
    """LlamaIndex drops nodes with an id that it has already seen."""
    references = [
        {"doc_id": "d", "index_id": "1", "text": "甲"},
        {"doc_id": "d", "index_id": "2", "text": "乙"},
        {"doc_name": "n", "index_id": "3", "text": "丙"},
        {"doc_name": "n", "index_id": "4", "text": "丁"},
    ]
    with Emulator(apps={"app": citing(*references)}) as cloud:
        nodes = BailianAppRetriever.from_defaults(**settings(cloud)).retrieve("?")
    assert [node.node.get_content() for node in nodes][:2] == ["甲", "乙"]
    assert [node.node.node_id for node in nodes[:2]] == ["d", "d#2"]
    assert len({node.node.node_id for node in nodes}) == 4


def test_an_answer_without_citations_has_no_nodes() -> None:
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        assert BailianAppRetriever.from_defaults(**settings(cloud)).retrieve("?") == []


def test_ids_and_urls_are_hidden_from_models() -> None:
    reference = {"doc_id": "d", "title": "价目", "doc_url": "https://a/b", "text": "999元"}
    with Emulator(apps={"app": citing(reference)}) as cloud:
        [node] = BailianAppRetriever.from_defaults(**settings(cloud)).retrieve("?")
    shown = node.node.get_content(MetadataMode.LLM)
    assert "价目" in shown
    assert "999元" in shown
    assert "https" not in shown
    assert node.node.metadata["doc_url"] == "https://a/b"


def test_a_retriever_query_engine_uses_the_passages() -> None:
    with Emulator(apps={"app": CITING}) as cloud:
        retriever = BailianAppRetriever.from_defaults(**settings(cloud))
        response = RetrieverQueryEngine.from_args(retriever, llm=MockLLM()).query("哪款？")
    assert "Bailian Phone Product Introduction" in str(response)
    assert len(response.source_nodes) == 1


def test_the_retriever_rejects_the_path_of_no_file() -> None:
    bundle = QueryBundle("这是什么？", image_path="/no/picture.png")
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        retriever = BailianAppRetriever.from_defaults(**settings(cloud))
        with pytest.raises(InvalidInputError, match="image_path"):
            retriever.retrieve(bundle)
        with pytest.raises(InvalidInputError, match="image_path"):
            asyncio.run(retriever.aretrieve(bundle))
        assert not cloud.requests


def test_a_callback_manager_does_not_change_the_given_llm() -> None:
    counter = TokenCountingHandler(tokenizer=list)
    manager = CallbackManager([counter])
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        llm = BailianAppLLM(**settings(cloud))
        engine = BailianAppQueryEngine(llm=llm, callback_manager=manager)
        engine.query("?")
        assert len(counter.llm_token_counts) == 1
        assert llm.callback_manager is not manager


# ------------------------------------------------------------------- what retrievals found

HITS = [
    {"content": "龙井", "dataId": "d1", "dataName": "tea.pdf", "score": 0.94},
    {"content": "碧螺春", "dataId": "d2", "dataName": "tea.pdf", "score": 0.81},
    {"content": "明前", "dataId": "d2", "dataName": "tea.pdf", "score": 0.3},
]


def searching(*references: dict[str, Any]) -> Any:
    """An agent that finds all passages, and cites what is given."""
    search = {"action_type": "agentRag", "observation": json.dumps(HITS)}
    last = {"text": "茶", "finish_reason": "stop", "thoughts": [search]}
    return lambda call: {"output": {**last, "doc_references": list(references)}}


def retrieve(cloud: Emulator, asynchronous: bool, **more: Any) -> list[Any]:
    retriever = BailianAppRetriever.from_defaults(**settings(cloud, **more))
    return asyncio.run(retriever.aretrieve("?")) if asynchronous else retriever.retrieve("?")


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("source", "cites", "found"),
    [
        (None, True, [("碧螺春", 0.81)]),
        (None, False, [("龙井", 0.94), ("碧螺春", 0.81), ("明前", 0.3)]),
        ("cited", True, [("碧螺春", 0.81)]),
        ("cited", False, []),
        ("retrieved", True, [("龙井", 0.94), ("碧螺春", 0.81), ("明前", 0.3)]),
    ],
)
def test_documents_chooses_what_the_retriever_returns(
    asynchronous: bool, source: Any, cites: bool, found: list[Any]
) -> None:
    cited = [{"doc_id": "d2", "text": "碧螺春"}] if cites else []
    with Emulator(apps={"app": searching(*cited)}) as cloud:
        nodes = retrieve(cloud, asynchronous, documents=source)
    assert [(node.get_content(), node.score) for node in nodes] == found


def test_another_value_of_documents_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="documents must be 'cited' or 'retrieved'"):
        BailianAppRetriever.from_defaults(app_id="app", documents="found")  # pyright: ignore[reportArgumentType]


def test_a_found_passage_has_its_document_s_id_and_names() -> None:
    with Emulator(apps={"app": searching()}) as cloud:
        nodes = retrieve(cloud, asynchronous=False)
    assert [node.node.node_id for node in nodes] == ["d1", "d2", "d2#2"]
    assert nodes[0].node.metadata["doc_name"] == nodes[0].node.metadata["dataName"] == "tea.pdf"
    shown = nodes[0].node.get_content(MetadataMode.LLM)
    assert "tea.pdf" in shown
    assert "0.94" not in shown


def test_a_similarity_cutoff_keeps_what_is_relevant() -> None:
    cutoff = SimilarityPostprocessor(similarity_cutoff=0.5)
    with Emulator(apps={"app": searching()}) as cloud:
        retriever = BailianAppRetriever.from_defaults(**settings(cloud))
        engine = RetrieverQueryEngine.from_args(
            retriever, llm=MockLLM(), node_postprocessors=[cutoff]
        )
        response = engine.query("?")
    assert [node.get_content() for node in response.source_nodes] == ["龙井", "碧螺春"]


def test_an_answer_without_citations_has_what_was_found_as_source_nodes(mode: str) -> None:
    with Emulator(apps={"app": searching()}) as cloud:
        response = ask(mode, cloud)
    assert [node.score for node in response.source_nodes] == [0.94, 0.81, 0.3]


def test_the_chat_engine_and_the_tool_have_what_was_found_too() -> None:
    with Emulator(apps={"app": searching()}) as cloud:
        memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
        engine = BailianAppChatEngine.from_defaults(memory=memory, **settings(cloud))
        answered = engine.chat("?").source_nodes
        tool = bailian_app_tool(**settings(cloud, name="tea", description="Knows tea"))
        called = tool.call(prompt="?").raw_output.source_nodes
    for nodes in (answered, called):
        assert [node.score for node in nodes] == [0.94, 0.81, 0.3]


def test_the_events_of_a_retrieval_have_nodes_with_scores(events: Any) -> None:
    with Emulator(apps={"app": searching({"text": "龙井"})}) as cloud:
        BailianAppLLM(**settings(cloud)).complete("?")
    [end] = events.of(RetrievalEndEvent)
    assert [(node.get_content(), node.score) for node in end.nodes] == [
        ("龙井", 0.94),
        ("碧螺春", 0.81),
        ("明前", 0.3),
    ]
