"""Every recorded answer, by all eight methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import recordings

from bailian_apps import BadRequestError, BailianApp, StreamInterruptedError
from bailian_apps.emulator import Emulator

FINISHED = [
    path for path in recordings.ALL if path.name not in recordings.UNFINISHED | recordings.ERRORS
]
TRUNCATED = [path for path in recordings.ALL if path.name in recordings.UNFINISHED]
STOP = {"output": {"text": "", "finish_reason": "stop"}, "usage": {}}


def mode_of(path: Path) -> dict[str, Any]:
    return {"flow_stream_mode": recordings.MODES.get(path.name)}


def source_of(path: Path) -> Any:
    """A recording; a truncated one gets an end, because only those have reasoning."""
    return path if path in FINISHED else lambda call: [*recordings.frames(path.name), STOP]


@pytest.mark.parametrize("path", FINISHED + TRUNCATED, ids=lambda path: path.name)
def test_every_method_returns_the_recorded_answer(ask: Any, llm_of: Any, path: Path) -> None:
    with Emulator(apps={"app": source_of(path)}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url, **mode_of(path))
        result = app.invoke("你好")
        cloud.forget()
        seen = ask(llm_of(cloud, **mode_of(path), message_blocks="all"))
    assert seen.error is None
    assert seen.text == result.text
    if path in FINISHED:
        assert seen.text == recordings.expected_text(path.name)
    assert seen.raw["reasoning"] == result.reasoning
    assert [step["id"] for step in seen.raw["steps"]] == [step.id for step in result.steps]
    assert [each["text"] for each in seen.raw["references"]] == [
        reference.text for reference in result.references
    ]
    models = seen.raw["usage"].get("models", [])
    reported = result.usage.models
    assert [each["model_id"] for each in models] == [model.model_id for model in reported]
    assert seen.raw["usage"].get("prompt_tokens", 0) == result.usage.input_tokens
    assert seen.raw["usage"].get("completion_tokens", 0) == result.usage.output_tokens
    assert seen.raw["usage"].get("total_tokens", 0) == result.usage.total_tokens
    if ask.streams:
        assert seen.streamed_text == seen.text
        assert seen.streamed_thinking == result.reasoning
        assert seen.last.delta == ""
    else:
        assert seen.last.delta is None
    if ask.chats:
        assert seen.thinking == result.reasoning
        assert seen.citations == [reference.text for reference in result.references]
        assert seen.last.message.role == "assistant"


@pytest.mark.parametrize("path", TRUNCATED, ids=lambda path: path.name)
def test_a_truncated_answer_is_an_error(ask: Any, llm_of: Any, path: Path) -> None:
    with Emulator(apps={"app": path}) as cloud:
        seen = ask(llm_of(cloud, **mode_of(path)))
    assert isinstance(seen.error, StreamInterruptedError)
    assert seen.error.partial is not None
    streamed = "".join(response.delta for response in seen.responses)
    assert streamed == (seen.error.partial.text if ask.streams else "")


@pytest.mark.parametrize("name", sorted(recordings.ERRORS))
def test_recorded_errors_are_typed_errors(ask: Any, llm_of: Any, name: str) -> None:
    with Emulator(apps={"app": recordings.FOLDER / name}) as cloud:
        seen = ask(llm_of(cloud))
    assert isinstance(seen.error, BadRequestError)
    assert not seen.responses


def test_recordings_have_all_that_is_compared() -> None:
    """The comparison above proves nothing about fields that no recording has."""
    seen = {"reasoning": 0, "references": 0, "usage": 0, "steps": 0}
    for path in FINISHED + TRUNCATED:
        with Emulator(apps={"app": source_of(path)}) as cloud:
            app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url, **mode_of(path))
            result = app.invoke("你好")
        seen["reasoning"] += bool(result.reasoning)
        seen["references"] += bool(result.references)
        seen["usage"] += bool(result.usage.models)
        seen["steps"] += bool(result.steps)
    assert all(seen.values()), seen
