"""Events to responses: what chunks and the final response contain."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, TextBlock

from bailian_apps import (
    AppResult,
    DocReference,
    ModelUsage,
    ReasoningDelta,
    References,
    Step,
    StepDelta,
    TextDelta,
    UnknownFrame,
    Usage,
    UsageReported,
)
from bailian_apps.core.history import Plan
from bailian_apps.llamaindex.responses import (
    ChatResponseBuilder,
    CompletionResponseBuilder,
    citation_block,
    raw_response,
)

REFERENCE = DocReference(
    index_id="3",
    title="手机",
    doc_id="file_1",
    doc_name="phones.pdf",
    doc_url="https://a/phones.pdf",
    text="价格 999",
    page_number=(4, 5),
    raw={"unknown": "field"},
)


def test_a_chunk_has_everything_so_far() -> None:
    builder = ChatResponseBuilder(Plan(app_id="app"), "all")
    events = [
        ReasoningDelta("想", "t"),
        ReasoningDelta("想", "t"),
        TextDelta("答"),
        References((REFERENCE,)),
        TextDelta("案"),
    ]
    chunks = [chunk for event in events if (chunk := builder.chunk(event))]
    kinds = [[block.block_type for block in chunk.message.blocks] for chunk in chunks]
    assert kinds == [["thinking", "text"]] * 3 + [["thinking", "text", "citation"]]
    assert [chunk.message.content for chunk in chunks] == ["", "", "答", "答案"]
    assert [chunk.delta for chunk in chunks] == ["", "", "答", "案"]
    thinking: list[Any] = [chunk.message.blocks[0] for chunk in chunks]
    assert [block.content for block in thinking] == ["想", "想想", "想想", "想想"]
    assert [chunk.additional_kwargs for chunk in chunks] == [{"thinking_delta": "想"}] * 2 + [
        {}
    ] * 2
    assert len({id(chunk.message) for chunk in chunks}) == len(chunks)
    assert len({id(chunk.message.blocks) for chunk in chunks}) == len(chunks)


def test_a_chunk_equals_a_validated_response() -> None:
    """Chunks are built without validation, so a field that LlamaIndex adds must not be missing."""
    builder = ChatResponseBuilder(Plan(app_id="app"), "all")
    chunk, other = builder.chunk(TextDelta("答")), builder.chunk(TextDelta("案"))
    assert chunk is not None
    assert other is not None
    message = ChatMessage(
        role=MessageRole.ASSISTANT, blocks=[TextBlock(text="答")], additional_kwargs={}
    )
    validated = ChatResponse(message=message, delta="答", additional_kwargs={})
    for mine, theirs in (
        (chunk, validated),
        (chunk.message, message),
        (chunk.message.blocks[0], message.blocks[0]),
    ):
        assert mine == theirs
        assert vars(mine).keys() == vars(theirs).keys() == type(theirs).model_fields.keys()
        assert mine.model_fields_set == theirs.model_fields_set
        assert mine.__pydantic_private__ is theirs.__pydantic_private__ is None
        assert mine.model_dump() == theirs.model_dump()
        assert pickle.loads(pickle.dumps(mine)) == copy.deepcopy(mine) == theirs
    chunk.message.additional_kwargs["changed"] = chunk.additional_kwargs["changed"] = True
    chunk.raw = {}
    assert other.message.additional_kwargs == other.additional_kwargs == {}
    assert "raw" not in other.model_fields_set


@pytest.mark.parametrize("event", [StepDelta("s", "x"), UsageReported(Usage()), UnknownFrame({})])
def test_other_events_have_no_chunk(event: Any) -> None:
    assert ChatResponseBuilder(Plan(app_id="app"), "all").chunk(event) is None
    assert CompletionResponseBuilder().chunk(event) is None


def test_completion_chunks_have_the_text_so_far() -> None:
    builder = CompletionResponseBuilder()
    thought, first, second = (
        builder.chunk(each)
        for each in (ReasoningDelta("想", "t"), TextDelta("答"), TextDelta("案"))
    )
    assert thought is not None
    assert thought.additional_kwargs == {"thinking_delta": "想"}
    assert (first and first.text, second and second.text) == ("答", "答案")
    assert (first and first.delta, second and second.delta) == ("答", "案")


def test_the_final_response_has_the_final_text() -> None:
    result = AppResult(text="定稿", reasoning="想", references=(REFERENCE,), session_id="s")
    builder = ChatResponseBuilder(Plan(app_id="app", round=3), "all")
    builder.chunk(TextDelta("草稿"))
    final = builder.final(result, "")
    assert [block.block_type for block in final.message.blocks] == ["thinking", "text", "citation"]
    assert final.message.content == "定稿"
    assert final.message.additional_kwargs["bailian"]["round"] == 3


def test_an_answer_without_a_session_has_no_marker() -> None:
    final = ChatResponseBuilder(Plan(app_id="app"), "all").final(AppResult(text="答"), None)
    assert final.message.additional_kwargs == {}
    assert final.message.blocks == [TextBlock(text="答")]


def test_a_reference_becomes_a_citation_block() -> None:
    block = citation_block(REFERENCE)
    assert block.cited_content == TextBlock(text="价格 999")
    assert (block.source, block.title) == ("https://a/phones.pdf", "手机")
    assert block.additional_location_info == {"index_id": 3, "page_number": 4}


@pytest.mark.parametrize(
    ("reference", "source", "title", "location"),
    [
        (DocReference(), "", "", {}),
        (DocReference(doc_id="file_1", index_id="a"), "file_1", "", {}),
        (DocReference(doc_id="file_1", doc_name="x.pdf"), "x.pdf", "x.pdf", {}),
    ],
)
def test_a_reference_with_few_fields_becomes_a_citation_block(
    reference: DocReference, source: str, title: str, location: dict[str, int]
) -> None:
    block = citation_block(reference)
    assert (block.source, block.title) == (source, title)
    assert block.additional_location_info == location


def test_raw_has_plain_values_only() -> None:
    usage = Usage(
        models=(
            ModelUsage(model_id="qwen", input_tokens=3, output_tokens=2),
            ModelUsage(model_id="qwen", input_tokens=10, output_tokens=5),
        )
    )
    step = Step(id="LLM_1", kind="node", name="大模型", output="乙", input={"a": [1]})
    result = AppResult(
        text="答", usage=usage, steps=(step,), references=(REFERENCE,), request_id="r"
    )
    raw = raw_response(result)
    assert raw["usage"] == {
        "prompt_tokens": 13,
        "completion_tokens": 7,
        "total_tokens": 20,
        "models": [
            {"model_id": "qwen", "input_tokens": 3, "output_tokens": 2},
            {"model_id": "qwen", "input_tokens": 10, "output_tokens": 5},
        ],
    }
    assert raw["request_id"] == "r"
    assert (raw["steps"][0]["name"], raw["steps"][0]["input"]) == ("大模型", {"a": [1]})
    assert raw["references"][0]["page_number"] == [4, 5]
    assert "raw" not in raw["references"][0]
    assert "final_text" not in raw
    assert json.loads(json.dumps(raw))["usage"] == raw["usage"]


def test_missing_usage_is_not_zero() -> None:
    """Tracers would show zero tokens where the cloud reported none."""
    assert raw_response(AppResult(text="答"))["usage"] == {}
