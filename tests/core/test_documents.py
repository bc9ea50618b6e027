"""What a retrieval found, in every shape that an observation has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bailian_apps import Step
from bailian_apps.core.documents import RetrievedDocument, retrieved_documents


def found(output: Any) -> tuple[RetrievedDocument, ...]:
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    return retrieved_documents(Step(id="r", kind="retrieval", name="kb", output=text))


def test_every_entry_of_a_list_is_a_document() -> None:
    entries = [
        {
            "content": "苏堤",
            "dataName": "景点",
            "docUrl": "https://a/b",
            "score": 0.5,
            "dataId": "1",
        },
        {"text": "白堤", "title": "湖", "score": 1},
    ]
    first, second = found(entries)
    assert (first.text, first.title, first.url, first.score) == ("苏堤", "景点", "https://a/b", 0.5)
    assert first.metadata == {k: v for k, v in entries[0].items() if k != "content"}
    assert (second.text, second.title, second.url, second.score) == ("白堤", "湖", None, 1.0)


def test_a_single_object_is_one_document() -> None:
    assert found({"text": "苏堤", "n": 1}) == (RetrievedDocument(text="苏堤", metadata={"n": 1}),)


@pytest.mark.parametrize(
    "output",
    [
        "plain text",
        "[broken",
        {"chunks": ["苏堤"]},
        ["苏堤"],
        [{"text": "苏堤"}, {"passage": "白堤"}],
        [{"text": None}],
        5,
    ],
)
def test_another_shape_is_one_document_with_the_whole_output(output: Any) -> None:
    [document] = found(output)
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    assert document == RetrievedDocument(text=text)


@pytest.mark.parametrize("output", ["", []])
def test_a_retrieval_that_found_nothing_has_no_documents(output: Any) -> None:
    assert found(output) == ()


@pytest.mark.parametrize("score", ["0.5", None, True, {}])
def test_a_score_that_is_not_a_number_stays_in_the_metadata(score: Any) -> None:
    [document] = found([{"text": "t", "score": score}])
    assert document.score is None
    assert document.metadata == {"score": score}


@pytest.mark.parametrize("name", ["title", "dataName", "doc_name"])
def test_a_document_has_its_title_under_any_of_three_names(name: str) -> None:
    [document] = found([{"text": "t", name: "景点"}])
    assert (document.title, document.url) == ("景点", None)


@pytest.mark.parametrize("name", ["docUrl", "doc_url", "url"])
def test_a_document_has_its_address_under_any_of_three_names(name: str) -> None:
    [document] = found([{"text": "t", name: "https://a/b"}])
    assert (document.title, document.url) == (None, "https://a/b")
