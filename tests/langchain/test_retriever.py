"""An app as a retriever of the documents that it cites."""

from __future__ import annotations

import asyncio
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
