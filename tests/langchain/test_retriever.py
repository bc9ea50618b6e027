"""An app as a retriever of the documents that it cites, or finds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support import recordings

from bailian_apps import InvalidInputError, NotFoundError
from bailian_apps.emulator import Call, Failure
from bailian_apps.langchain import BailianAppRetriever

CITING = recordings.FOLDER / "agent-rag-citations.json"


@pytest.fixture
def make(fields_of: Any) -> Any:
    return lambda source=CITING, **fields: BailianAppRetriever(**fields_of(source, **fields))


@pytest.fixture(params=["invoke", "ainvoke"])
def get(request: pytest.FixtureRequest) -> Any:
    def get(retriever: BailianAppRetriever, *given: Any, **kwargs: Any) -> Any:
        if request.param == "invoke":
            return retriever.invoke(*given, **kwargs)
        return asyncio.run(retriever.ainvoke(*given, **kwargs))

    return get


def test_every_cited_passage_is_a_document(get: Any, make: Any) -> None:
    cited = recordings.frames(CITING.name)[-1]["output"]["doc_references"]
    documents = get(make(), "hi")
    assert len(documents) == len(cited) > 0
    for document, reference in zip(documents, cited, strict=True):
        assert document.page_content == reference["text"]
        for key in ("title", "doc_id", "doc_name", "doc_url", "index_id", "page_number"):
            assert document.metadata.get(key) == (reference.get(key) or None)


def test_metadata_has_all_fields_that_the_cloud_reports(get: Any, make: Any) -> None:
    reference = {
        "index_id": "1",
        "title": "茶",
        "doc_id": "file_1",
        "doc_name": "茶.pdf",
        "doc_url": "https://example.com/tea",
        "text": "龙井",
        "page_number": [3],
    }
    output = {"text": "<ref>[1]</ref>", "finish_reason": "stop", "doc_references": [reference]}
    (document,) = get(make(lambda _: [{"output": output}]), "hi")
    text = reference.pop("text")
    assert (document.page_content, document.metadata) == (text, reference)


def test_an_answer_without_references_returns_no_documents(get: Any, make: Any) -> None:
    assert get(make(recordings.FOLDER / "agent-plain-stream.sse"), "hi") == []


def test_settings_can_be_overridden_per_call(get: Any, start_cloud: Any, make: Any) -> None:
    cloud = start_cloud(app=CITING)
    get(make(cloud), "hi", rag_options={"pipeline_ids": ["p"]})
    sent = cloud.requests[0].body
    assert (sent["input"], sent["parameters"]["rag_options"]) == (
        {"prompt": "hi"},
        {"pipeline_ids": ["p"]},
    )
    with pytest.raises(InvalidInputError, match="k must be a non-negative"):
        get(make(cloud), "hi", k=-1)


def test_the_steps_are_child_runs_of_the_retriever(
    agent: Any, get: Any, make: Any, traces: Any, steps_of: Any
) -> None:
    (document,) = get(make(lambda _: agent), "hi", {"callbacks": [traces]})
    (root,) = traces.roots
    assert root.run_type == "retriever"
    assert [step[1] for step in steps_of(root)] == ["weather", "知识检索"]
    assert root.outputs == {"documents": [document]}


def test_a_retriever_error_has_both_classes(get: Any, make: Any) -> None:
    def app(_: Call) -> Any:
        return Failure(status=404, code="NotFound")

    with pytest.raises(NotFoundError) as caught:
        get(make(app), "hi")
    assert caught.value.is_retryable is False


async def test_cancelling_ends_the_steps_and_the_connection(held: Any, make: Any, log: Any) -> None:
    begun = asyncio.Event()
    log.on_step = begun.set
    task = asyncio.create_task(make(held).ainvoke("hi", {"callbacks": [log]}))
    await asyncio.wait_for(begun.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    name = "BailianAppRetriever"
    assert log.events == [("start", name), ("start", "mail"), ("error", "mail"), ("error", name)]
    assert await asyncio.to_thread(held.disconnected.wait, 60)


HITS = [
    {"content": "龙井", "dataId": "d1", "dataName": "tea.pdf", "score": 0.94},
    {"content": "碧螺春", "dataId": "d2", "dataName": "tea.pdf", "score": 0.81},
]


def searching(*references: dict[str, Any], wrap: Any = json.dumps) -> Any:
    """An agent that finds both passages, and cites what is given."""
    search = {"action_type": "agentRag", "action_name": "知识检索", "observation": wrap(HITS)}
    last = {"text": "茶", "finish_reason": "stop", "thoughts": [search]}
    return lambda _: [{"output": {**last, "doc_references": list(references)}}]


@pytest.mark.parametrize("wrap", [json.dumps, list, lambda hits: {"data": hits}])
def test_what_was_found_is_returned_where_nothing_is_cited(get: Any, make: Any, wrap: Any) -> None:
    first, second = get(make(searching(wrap=wrap)), "hi")
    assert first.page_content == "龙井"
    assert first.metadata == {
        "dataId": "d1",
        "dataName": "tea.pdf",
        "score": 0.94,
        "title": "tea.pdf",
        "doc_id": "d1",
        "doc_name": "tea.pdf",
    }
    assert (second.page_content, second.metadata["score"]) == ("碧螺春", 0.81)


def test_a_cited_document_has_its_score_in_the_metadata(get: Any, make: Any) -> None:
    reference = {"index_id": "1", "doc_id": "d2", "biz_id": "b", "text": "碧螺春"}
    (document,) = get(make(searching(reference)), "hi")
    text = reference.pop("text")
    assert (document.page_content, document.metadata) == (text, {**reference, "score": 0.81})


@pytest.mark.parametrize(
    ("source", "cites", "texts"),
    [
        (None, True, ["碧螺春"]),
        (None, False, ["龙井", "碧螺春"]),
        ("cited", True, ["碧螺春"]),
        ("cited", False, []),
        ("retrieved", True, ["龙井", "碧螺春"]),
        ("retrieved", False, ["龙井", "碧螺春"]),
    ],
)
def test_documents_chooses_what_is_returned(
    get: Any, make: Any, source: Any, cites: bool, texts: list[str]
) -> None:
    app = searching(*([{"text": "碧螺春"}] if cites else []))
    assert [each.page_content for each in get(make(app, documents=source), "hi")] == texts
    documents = get(make(app, documents="cited"), "hi", documents=source, k=1)
    assert [each.page_content for each in documents] == texts[:1]


def test_another_value_of_documents_is_refused_before_the_call(
    get: Any, start_cloud: Any, make: Any
) -> None:
    cloud = start_cloud(app=CITING)
    with pytest.raises(InvalidInputError, match="documents must be 'cited' or 'retrieved'"):
        make(cloud, documents="found")
    with pytest.raises(InvalidInputError, match="must be 'cited' or 'retrieved', or None"):
        get(make(cloud), "hi", documents="found")
    assert not cloud.requests


def test_the_run_of_a_retrieval_has_its_documents_with_their_scores(
    get: Any, make: Any, traces: Any
) -> None:
    documents = get(make(searching()), "hi", {"callbacks": [traces]})
    (search,) = traces.roots[0].child_runs
    assert search.run_type == "retriever"
    assert search.outputs == {"documents": documents}
    assert [each.metadata["score"] for each in documents] == [0.94, 0.81]
