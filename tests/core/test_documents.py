"""What a retrieval found, in every shape that an observation has."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from support.answers import ANSWERS

from bailian_apps import AppResult, RetrievedDocument, Step
from bailian_apps.core.decoder import Decoder


def found(output: Any) -> tuple[RetrievedDocument, ...]:
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    return searched(text).documents


def searched(output: str = "", **fields: Any) -> Step:
    step = Step(id="r", kind="retrieval", name="kb", output=output)
    return replace(step, **fields)


# As recorded in JSON answers of agents.
HIT = {
    "content": "苏堤",
    "dataId": "file_1",
    "dataName": "景点.pdf",
    "docUrl": "https://a/b",
    "score": 0.5,
    "referenceIndex": 1,
}


def test_every_entry_of_a_list_is_a_document() -> None:
    first, second = found([HIT, {"text": "白堤", "title": "湖", "score": 1, "doc_id": "d"}])
    assert (first.text, first.score, first.index_id) == ("苏堤", 0.5, "1")
    assert (first.doc_id, first.doc_name, first.title) == ("file_1", "景点.pdf", "景点.pdf")
    assert (first.doc_url, first.raw) == ("https://a/b", HIT)
    assert (second.text, second.score, second.title, second.doc_id) == ("白堤", 1.0, "湖", "d")
    assert (second.doc_url, second.doc_name, second.index_id) == (None, None, None)


def test_metadata_has_the_fields_of_the_wire_and_those_of_a_reference() -> None:
    [document] = found([HIT])
    assert document.metadata == {
        "dataId": "file_1",
        "dataName": "景点.pdf",
        "docUrl": "https://a/b",
        "referenceIndex": 1,
        "score": 0.5,
        "index_id": "1",
        "title": "景点.pdf",
        "doc_id": "file_1",
        "doc_name": "景点.pdf",
        "doc_url": "https://a/b",
    }


@pytest.mark.parametrize(
    "wrapped",
    [
        {"data": [HIT]},
        {"data": [HIT], "total": 1},
        {"chunk_list": [HIT]},
        {"data": json.dumps([HIT])},
        {"data": {"chunk_list": [HIT]}},
        {"nodes": [HIT]},
        {"status": "ok", "data": {"nodes": [HIT]}},
        {"data": None, "nodes": [HIT], "chunk_list": []},
        {"text": "", "chunk_list": [HIT]},
        [{"nodes": [HIT]}],
    ],
)
def test_a_list_inside_an_object_is_read_as_the_list(wrapped: Any) -> None:
    assert found(wrapped) == found([HIT])


def test_a_single_object_is_one_document() -> None:
    [document] = found({"text": "苏堤", "n": 1})
    assert (document.text, document.metadata) == ("苏堤", {"n": 1})


def test_an_empty_text_gives_way_to_the_content() -> None:
    [document] = found([{"text": "", "content": "苏堤"}])
    assert (document.text, document.metadata) == ("苏堤", {"text": ""})


@pytest.mark.parametrize(
    "output",
    [
        "plain text",
        "[broken",
        {"chunks": ["苏堤"]},
        {"data": "苏堤"},
        {"data": [HIT], "nodes": "苏堤"},
        {"text": None},
        5,
    ],
)
def test_another_shape_is_one_document_with_the_whole_output(output: Any) -> None:
    [document] = found(output)
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    assert document == RetrievedDocument(text=text)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("苏堤", "苏堤"),
        ({"passage": "白堤", "score": 1}, '{"passage": "白堤", "score": 1}'),
        ({"text": None}, '{"text": null}'),
        ({"data": "苏堤"}, '{"data": "苏堤"}'),
        (0, "0"),
    ],
)
def test_an_entry_of_another_shape_is_kept_as_text_beside_the_others(entry: Any, text: str) -> None:
    kept = RetrievedDocument(text=text)
    [hit] = found([HIT])
    assert found([entry]) == (kept,)
    assert found({"data": {"nodes": [HIT, entry, HIT]}}) == (hit, kept, hit)


@pytest.mark.parametrize(
    "output",
    ["", "null", [], {}, {"data": []}, {"data": "[]"}, {"data": None}, {"data": {"nodes": []}}],
)
def test_a_retrieval_that_found_nothing_has_no_documents(output: Any) -> None:
    assert found(output) == ()


@pytest.mark.parametrize("empty", [None, "", [], {}])
def test_an_empty_entry_is_not_a_document(empty: Any) -> None:
    assert found([empty, HIT, empty]) == found([HIT])


def test_lists_that_are_nested_too_deeply_are_one_document() -> None:
    output = "[" * 400 + '"苏堤"' + "]" * 400
    assert found(output) == (RetrievedDocument(text=output),)


@pytest.mark.parametrize("score", ["0.87", " 0.87 ", 0.87])
def test_a_score_that_came_as_text_is_a_number(score: Any) -> None:
    [document] = found([{"text": "t", "score": score}])
    assert (document.score, document.metadata) == (0.87, {"score": 0.87})
    assert scores([{"text": "t"}], [{"text": "t", "score": score}]) == [0.87]
    assert scores([{"text": "t", "score": score}], []) == [0.87]


@pytest.mark.parametrize(
    "score", ["high", "", "nan", None, True, {}, 10**400, float("nan"), float("inf")]
)
def test_a_score_that_is_not_a_number_stays_in_the_metadata(score: Any) -> None:
    [document] = found([{"text": "t", "score": score}])
    assert document.score is None
    assert str(document.metadata) == str({"score": score})  # NaN equals nothing


@pytest.mark.parametrize("name", ["title", "dataName", "doc_name"])
def test_a_document_has_its_title_under_any_of_three_names(name: str) -> None:
    [document] = found([{"text": "t", name: "景点"}])
    assert (document.title, document.doc_url) == ("景点", None)


@pytest.mark.parametrize("name", ["docUrl", "doc_url", "url"])
def test_a_document_has_its_address_under_any_of_three_names(name: str) -> None:
    [document] = found([{"text": "t", name: "https://a/b"}])
    assert (document.title, document.doc_url) == (None, "https://a/b")


@pytest.mark.parametrize("fields", [{"kind": "tool"}, {"kind": "node", "type": "LLM"}])
def test_a_step_that_does_not_search_has_no_documents(fields: Any) -> None:
    assert searched(json.dumps([HIT]), **fields).documents == ()


def test_a_failed_retrieval_has_no_documents() -> None:
    assert searched("no such knowledge base", status="fail").documents == ()


def test_a_retrieval_node_of_a_workflow_has_documents() -> None:
    step = searched(json.dumps({"chunk_list": [HIT]}), kind="node", type="Retrieval")
    assert step.documents == found([HIT])


@pytest.mark.parametrize(
    ("input_", "query"),
    [
        ({"query": "茶", "top_k": 3}, "茶"),
        ({"keyword": "茶"}, '{"keyword": "茶"}'),
        ({"query": ["茶"]}, '{"query": ["茶"]}'),
        ("茶", "茶"),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_query_is_that_of_the_input_or_the_whole_input(input_: Any, query: str) -> None:
    assert searched(input=input_).query == query


def test_a_passage_that_two_retrievals_found_stands_once_with_its_best_score() -> None:
    lake = {"content": "西湖", "dataId": "file_2"}
    steps = (
        searched(json.dumps([{**HIT, "score": 0.5}, lake])),
        searched("[]", kind="tool"),
        searched(json.dumps([{**lake, "score": 0.1}, {**HIT, "score": 0.9}])),
    )
    documents = AppResult(steps=steps).documents
    assert [(each.text, each.score) for each in documents] == [("苏堤", 0.9), ("西湖", 0.1)]


def test_a_search_as_the_official_sdk_has_it_has_documents_and_gives_scores() -> None:
    decoder = Decoder()
    for frame in ANSWERS["the SDK's retrieval"].frames:
        decoder.feed(frame)
    result = decoder.finish()
    [step], [document], [cited] = result.steps, result.documents, result.references
    assert (step.kind, step.type, step.query) == ("retrieval", "api", "范围")
    assert (document.text, document.score, document.doc_id) == ("取值范围", 0.12, "d")
    assert (document.doc_name, document.index_id, document.title) == ("n", "1", "t")
    assert (cited.score, cited.biz_id, cited.images) == (0.12, "b", ("http://127.0.0.1/a.png",))


# ------------------------------------------------------------------ scores of cited documents

WRAPPED = "[Document Name]:景点\n[Title]:湖\n[Content]:苏堤 春晓"


def scores(references: list[Any], hits: list[Any]) -> list[float | None]:
    search = {"action_type": "agentRag", "observation": json.dumps(hits)}
    output = {"text": "a", "finish_reason": "stop", "thoughts": [search]}
    decoder = Decoder()
    decoder.feed({"output": {**output, "doc_references": references}})
    return [reference.score for reference in decoder.finish().references]


@pytest.mark.parametrize(
    ("reference", "score"),
    [
        ({"text": "苏堤\n春晓", "index_id": "2", "doc_id": "d1"}, 0.9),
        ({"text": WRAPPED}, 0.9),
        ({"text": "白堤"}, 0.4),
        ({"text": "断桥", "doc_id": "d2"}, 0.4),
        ({"text": "断桥", "doc_id": "d1"}, 0.9),
        ({"text": "断桥", "index_id": "3"}, 0.4),
        ({"text": "断桥", "index_id": "3", "doc_id": "d2"}, 0.4),
        ({"text": "断桥", "index_id": "3", "doc_id": "d7"}, None),
        ({"text": "断桥", "index_id": "3", "doc_name": "other"}, None),
        ({"text": "断桥", "index_id": "9"}, None),
        ({"text": "", "index_id": "9"}, None),
        ({"text": "苏堤 春晓", "score": 0.1}, 0.1),
    ],
)
def test_a_cited_document_has_the_score_of_its_passage(reference: Any, score: Any) -> None:
    hits = [
        {"content": "苏堤 春晓", "dataId": "d1", "score": 0.9, "referenceIndex": 1},
        {"content": "三潭印月", "dataId": "d1", "score": 0.6, "referenceIndex": 2},
        {"content": "白堤残雪", "dataId": "d2", "dataName": "n", "score": 0.4, "referenceIndex": 3},
        {"content": "断桥残雪", "dataId": "d3", "referenceIndex": 3},
    ]
    assert scores([reference], hits) == [score]


def test_the_longest_common_passage_gives_the_score() -> None:
    hits = [{"text": "苏堤", "score": 0.9}, {"text": "苏堤 春晓", "score": 0.5}]
    assert scores([{"text": WRAPPED}], hits) == [0.5]


def test_a_relisted_reference_is_one_reference_though_its_score_came_late() -> None:
    search = {"action_type": "agentRag", "observation": json.dumps([{"text": "t", "score": 0.5}])}
    reference = {"text": "t", "index_id": "1"}
    decoder = Decoder()
    decoder.feed({"output": {"text": "a", "doc_references": [reference]}})
    decoder.feed({"output": {"thoughts": [search], "doc_references": [reference, {"text": "t"}]}})
    decoder.feed({"output": {"text": "", "finish_reason": "stop", "thoughts": [search]}})
    assert [each.score for each in decoder.finish().references] == [None, 0.5]


def test_a_reference_has_the_ids_pages_and_images_that_the_cloud_sends() -> None:
    reference = {"text": "t", "biz_id": "b", "images": ["https://a/i.png"], "page_number": [0, 3]}
    decoder = Decoder()
    output = {"text": "a", "finish_reason": "stop", "doc_references": [reference]}
    decoder.feed({"output": output})
    [read] = decoder.finish().references
    assert read.to_dict(compact=True) == reference
