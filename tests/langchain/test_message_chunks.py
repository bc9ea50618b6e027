"""The chunks of an answer: each equals a validated one, and shares nothing with the others."""

from __future__ import annotations

import pickle
from copy import deepcopy
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from support.recordings import FOLDER

from bailian_apps.core.events import ReasoningDelta, RunFinished, TextDelta
from bailian_apps.core.history import Plan
from bailian_apps.core.result import AppResult
from bailian_apps.langchain.message_chunks import MessageChunkBuilder, as_generation

PLAN = Plan(app_id="app", prompt="hi")
EVENTS = [TextDelta("one"), ReasoningDelta("why", "step"), RunFinished(AppResult(text="one"))]


def build(**options: Any) -> list[AIMessageChunk]:
    builder = MessageChunkBuilder(PLAN, **options)
    chunks = [builder.feed(event) for event in EVENTS]
    assert None not in chunks
    return [chunk for chunk in chunks if chunk is not None]


@pytest.mark.parametrize("options", [{}, {"v1": True}, {"message_id": "lc_run--1"}])
def test_a_chunk_equals_a_chunk_that_langchain_validated(options: dict[str, Any]) -> None:
    for chunk in build(**options):
        fields = {name: getattr(chunk, name) for name in chunk.model_fields_set}
        validated = AIMessageChunk(**fields)
        assert chunk == validated
        assert vars(chunk) == vars(validated)
        assert chunk.model_fields_set == validated.model_fields_set
        assert repr(chunk) == repr(validated)
        assert chunk.model_dump() == validated.model_dump()
        assert pickle.loads(pickle.dumps(chunk)) == validated
        generation = as_generation(chunk)
        expected = ChatGenerationChunk(message=validated)
        assert generation == expected
        assert generation.model_fields_set == expected.model_fields_set
        assert repr(generation) == repr(expected)


def test_no_two_chunks_share_a_mutable_value() -> None:
    first, second, _ = build()
    for one, other in ((first, second), (as_generation(first), as_generation(second))):
        for name, value in vars(one).items():
            if isinstance(value, (list, dict)):
                assert value is not getattr(other, name)
        assert one.model_fields_set is not other.model_fields_set
    first.extra_field = 1  # LangChain's messages allow extra fields
    assert not hasattr(second, "extra_field")


@pytest.mark.parametrize("fields", [{}, {"output_version": "v1"}], ids=["v0", "v1"])
def test_the_chunks_of_a_stream_add_up_in_any_grouping_and_twice(
    make_model: Any, fields: dict[str, Any]
) -> None:
    """LangChain adds no floats that differ, so each time may stand in one chunk only."""
    model = make_model(FOLDER / "workflow-two-llm-fixed-end.sse", **fields)
    chunks = list(model.stream("hi"))
    before = deepcopy(chunks)
    message = reduce(add, chunks)
    assert message.response_metadata["elapsed_ms"] > 0
    assert reduce(add, chunks) == message
    assert chunks[0] + chunks[1:] == message
    halves = (
        reduce(add, part) for part in (chunks[: len(chunks) // 2], chunks[len(chunks) // 2 :])
    )
    assert reduce(add, halves) == message
    assert chunks == before
