"""Every recorded answer says the same by all eight methods."""

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
CUT_OFF = [path for path in recordings.ALL if path.name in recordings.UNFINISHED]
STOP = {"output": {"text": "", "finish_reason": "stop"}, "usage": {}}


def mode_of(path: Path) -> dict[str, Any]:
    return {"flow_stream_mode": recordings.MODES.get(path.name)}


def source_of(path: Path) -> Any:
    """A recording, or one that was cut off, with an end put to it: only those have reasoning."""
    return path if path in FINISHED else lambda call: [*recordings.frames(path.name), STOP]


@pytest.mark.parametrize("path", FINISHED + CUT_OFF, ids=lambda path: path.name)
def test_every_method_says_the_same(ask: Any, llm_of: Any, path: Path) -> None:
    with Emulator(apps={"app": source_of(path)}) as cloud:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url, **mode_of(path))
        result = app.invoke("你好")
        cloud.forget()
        seen = ask(llm_of(cloud, **mode_of(path)))
    assert seen.error is None
    assert seen.text == result.text
    if path in FINISHED:
        assert seen.text == recordings.expected_text(path.name)
    assert seen.raw["reasoning"] == result.reasoning
    assert [step["id"] for step in seen.raw["steps"]] == [step.id for step in result.steps]
    assert [each["text"] for each in seen.raw["references"]] == [
        reference.text for reference in result.references
    ]
    told = seen.raw["usage"].get("models", [])
    reported = result.usage.models
    assert [each["model_id"] for each in told] == [model.model_id for model in reported]
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


@pytest.mark.parametrize("path", CUT_OFF, ids=lambda path: path.name)
def test_an_answer_that_was_cut_off_is_an_error(ask: Any, llm_of: Any, path: Path) -> None:
    with Emulator(apps={"app": path}) as cloud:
        seen = ask(llm_of(cloud, **mode_of(path)))
    assert isinstance(seen.error, StreamInterruptedError)
    assert seen.error.partial is not None
    streamed = "".join(response.delta for response in seen.responses)
    assert streamed == (seen.error.partial.text if ask.streams else "")


@pytest.mark.parametrize("name", sorted(recordings.ERRORS))
def test_an_error_is_typed(ask: Any, llm_of: Any, name: str) -> None:
    with Emulator(apps={"app": recordings.FOLDER / name}) as cloud:
        seen = ask(llm_of(cloud))
    assert isinstance(seen.error, BadRequestError)
    assert not seen.responses


def test_recordings_hold_what_is_compared() -> None:
    """Were nothing recorded of a thing, comparing it above would prove nothing."""
    seen = {"reasoning": 0, "references": 0, "usage": 0, "steps": 0}
    for path in FINISHED + CUT_OFF:
        with Emulator(apps={"app": source_of(path)}) as cloud:
            app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url, **mode_of(path))
            result = app.invoke("你好")
        seen["reasoning"] += bool(result.reasoning)
        seen["references"] += bool(result.references)
        seen["usage"] += bool(result.usage.models)
        seen["steps"] += bool(result.steps)
    assert all(seen.values()), seen
