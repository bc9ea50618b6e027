"""Nodes of an app in what ranks, filters, joins and copies nodes by their scores."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor import LLMRerank, SimilarityPostprocessor
from llama_index.core.retrievers import QueryFusionRetriever

from bailian_apps.emulator import Agent, Call, Emulator, Reference, Thought
from bailian_apps.llamaindex import BailianAppQueryEngine, BailianAppRetriever

TEXTS = ("Two years.", "No batteries.", "Keep the bill.")
MODES = ("reciprocal_rerank", "relative_score", "dist_based_score", "simple")


def app_with(*scores: float | None) -> Agent:
    references = [
        Reference(doc_id=f"d{n}", title=text, text=text, score=score)
        for n, (text, score) in enumerate(zip(TEXTS, scores, strict=False))
    ]
    return Agent(thoughts=[Thought(retrieval="search")], text="Yes.", references=references)


SCORED = app_with(0.6, 0.9, 0.3)
UNSCORED = app_with(None, None)


def texts_of(nodes: Any) -> list[str]:
    return [node.get_content() for node in nodes]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("app", [SCORED, UNSCORED], ids=["scores", "no scores"])
def test_retrievers_of_apps_are_fused_by_score(
    app: Agent, mode: Any, is_async: bool, llm_of: Any
) -> None:
    with Emulator(apps={"one": app, "two": SCORED}) as cloud:
        fusion = QueryFusionRetriever(
            [BailianAppRetriever(llm=llm_of(cloud, name)) for name in ("one", "two")],
            llm=llm_of(cloud, "one"),
            num_queries=1,
            similarity_top_k=3,
            mode=mode,
            use_async=False,
        )
        nodes = asyncio.run(fusion.aretrieve("?")) if is_async else fusion.retrieve("?")
    assert sorted(texts_of(nodes)) == sorted(TEXTS)
    assert all(node.score is not None for node in nodes)
    if app is SCORED:
        assert texts_of(nodes) == [TEXTS[1], TEXTS[0], TEXTS[2]]


def test_a_similarity_cutoff_keeps_what_the_search_scored(llm_of: Any) -> None:
    with Emulator(apps={"app": SCORED}) as cloud:
        engine = BailianAppQueryEngine(llm=llm_of(cloud))
        nodes = engine.query("?").source_nodes
    kept = SimilarityPostprocessor(similarity_cutoff=0.5).postprocess_nodes(nodes)
    assert [(node.get_content(), node.score) for node in kept] == [(TEXTS[0], 0.6), (TEXTS[1], 0.9)]


def test_an_app_reranks_the_nodes_of_another(llm_of: Any) -> None:
    def judge(call: Call) -> str:
        assert all(text in call.prompt for text in TEXTS)
        return "Doc: 3, Relevance: 9\nDoc: 1, Relevance: 4"

    with Emulator(apps={"app": SCORED, "judge": judge}) as cloud:
        nodes = BailianAppRetriever(llm=llm_of(cloud)).retrieve("?")
        rerank = LLMRerank(llm=llm_of(cloud, "judge"), top_n=2)
        ranked = rerank.postprocess_nodes(nodes, query_str="?")
    assert [(node.get_content(), node.score) for node in ranked] == [(TEXTS[2], 9), (TEXTS[0], 4)]


def condense_engine(cloud: Emulator, llm: Any, *, streaming: bool) -> CondenseQuestionChatEngine:
    return CondenseQuestionChatEngine.from_defaults(
        query_engine=BailianAppQueryEngine(llm=llm, streaming=streaming),
        llm=llm,
        memory=ChatMemoryBuffer.from_defaults(token_limit=3000),
    )


def test_a_streamed_turn_of_a_condensing_engine_has_its_sources_at_the_end(llm_of: Any) -> None:
    """LlamaIndex copies the nodes before it reads the stream; they come with the stream's end."""
    with Emulator(apps={"app": SCORED}) as cloud:
        llm = llm_of(cloud)
        whole = condense_engine(cloud, llm, streaming=False).chat("?")
        assert texts_of(whole.source_nodes) == [*TEXTS]
        streamed = condense_engine(cloud, llm, streaming=True).stream_chat("?")
        assert "".join(streamed.response_gen) == "Yes."
        assert texts_of(streamed.sources[0].raw_output.source_nodes) == [*TEXTS]
        streamed.set_source_nodes()
        assert texts_of(streamed.source_nodes) == [*TEXTS]


async def test_an_async_turn_of_a_condensing_engine_has_its_sources_at_the_end(llm_of: Any) -> None:
    with Emulator(apps={"app": SCORED}) as cloud:
        engine = condense_engine(cloud, llm_of(cloud), streaming=True)
        streamed = await engine.astream_chat("?")
        assert "".join([delta async for delta in streamed.async_response_gen()]) == "Yes."
    assert texts_of(streamed.sources[0].raw_output.source_nodes) == [*TEXTS]
