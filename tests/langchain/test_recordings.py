"""For every recording, on every path, LangChain's answer is the recorded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core import exceptions as theirs
from support import recordings
from support.events import without_times

from bailian_apps import AppResult, BadRequestError, BailianApp, StreamInterruptedError

WHOLE = [
    path for path in recordings.ALL if path.name not in recordings.UNFINISHED | recordings.ERRORS
]
STOP = {"output": {"text": "", "finish_reason": "stop"}, "usage": {}}
RUNS = [path for path in recordings.ALL if path.name not in recordings.ERRORS]


def source_of(path: Path) -> Any:
    """A recording; a truncated one gets an end, because most of those have reasoning."""
    return path if path in WHOLE else lambda call: [*recordings.frames(path.name), STOP]


def by_name(path: Path) -> str:
    return path.name


def settings_for(path: Path) -> dict[str, Any]:
    return {"flow_stream_mode": recordings.MODES.get(path.name)}


def core_result(model: Any) -> AppResult:
    return BailianApp(
        app_id="app", api_key="k", base_url=model.base_url, flow_stream_mode=model.flow_stream_mode
    ).invoke("hi")


@pytest.mark.parametrize("output_version", ["v0", "v1"])
@pytest.mark.parametrize("path", WHOLE, ids=by_name)
def test_the_answers_text_is_the_recorded_text(
    path: Path, output_version: str, make_model: Any, ask: Any
) -> None:
    model = make_model(path, output_version=output_version, **settings_for(path))
    answer = ask(model)
    assert answer.text == recordings.expected_text(path.name)
    assert isinstance(answer.content, str if output_version == "v0" else list)


@pytest.mark.parametrize("path", RUNS, ids=by_name)
def test_steps_references_and_usage_equal_the_core_result(
    path: Path, make_model: Any, ask: Any
) -> None:
    model = make_model(source_of(path), **settings_for(path))
    answer, result = ask(model), core_result(model)
    assert answer.text == result.text
    extra = answer.additional_kwargs
    assert extra.get("reasoning_content", "") == result.reasoning
    assert {
        (s["id"], s["name"], s["status"], s.get("output", "")) for s in extra.get("steps", [])
    } == {
        (s.id, s.name, s.status, s.output)
        for s in result.steps
        if s.kind not in ("reasoning", "response")
    }
    assert [r["index_id"] for r in extra.get("references", [])] == [
        r.index_id for r in result.references
    ]
    used = answer.usage_metadata
    assert (used or {}).get("total_tokens", 0) == result.usage.total_tokens
    assert len(answer.response_metadata.get("model_usage", [])) == len(result.usage.models)
    assert answer.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("output_version", ["v0", "v1"])
@pytest.mark.parametrize("path", RUNS, ids=by_name)
def test_all_chunks_added_up_are_the_invoked_message(
    path: Path, output_version: str, make_model: Any, ask_on: Any
) -> None:
    model = make_model(source_of(path), output_version=output_version, **settings_for(path))

    def facts(message: Any) -> dict[str, Any]:
        dumped = message.model_dump(exclude={"id", "type", "tool_call_chunks", "chunk_position"})
        for key in ("session_id", "request_id", "bailian"):  # each call has its own
            assert dumped["response_metadata"].pop(key)
        return without_times(dumped)

    expected = facts(ask_on("invoke", model))
    for other in ("ainvoke", "stream", "astream"):
        assert facts(ask_on(other, model)) == expected


@pytest.mark.parametrize("name", sorted(recordings.UNFINISHED))
def test_an_interrupted_stream_raises_an_error_of_both_classes(
    name: str, make_model: Any, ask: Any
) -> None:
    model = make_model(recordings.FOLDER / name)
    with pytest.raises(StreamInterruptedError) as caught:
        ask(model)
    assert isinstance(caught.value, getattr(theirs, "ModelConnectionError", Exception))
    assert caught.value.is_retryable is False
    assert caught.value.partial is not None
    assert caught.value.partial.steps


@pytest.mark.parametrize("name", sorted(recordings.ERRORS))
def test_a_recorded_error_is_an_error_of_both_classes(name: str, make_model: Any, ask: Any) -> None:
    model = make_model(recordings.FOLDER / name)
    with pytest.raises(BadRequestError, match="app_id") as caught:
        ask(model)
    assert isinstance(caught.value, getattr(theirs, "ModelInvalidRequestError", Exception))


def test_citations_are_annotations_of_the_text(make_model: Any, ask: Any) -> None:
    answer = ask(make_model(recordings.FOLDER / "agent-rag-citations.json"))
    assert answer.text.count("<ref>[1]</ref>") == 2
    (text,) = [block for block in answer.content_blocks if block["type"] == "text"]
    (cited,) = text["annotations"]
    assert cited["type"] == "citation"
    assert cited["title"] == "Bailian Phone Product Introduction"
    assert cited["extras"]["index_id"] == "1"
    assert cited["cited_text"].startswith("[Document Name]")
