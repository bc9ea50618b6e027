"""When steps began, first spoke and ended, by a clock that is handed in."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from support.recordings import FOLDER, frames

from bailian_apps import AppResult, BailianApp, BailianError, RunFinished, Step, StepFinished
from bailian_apps.core.answer_text import AnswerFilter
from bailian_apps.core.decoder import Decoder
from bailian_apps.emulator import Emulator

TIMED = FOLDER / "workflow-timed.jsonl"


def decoded(lines: list[tuple[float, dict[str, Any]]], **settings: Any) -> tuple[AppResult, int]:
    """Decode frames with their times; return the result, and how often the clock was read."""
    now, reads = 0.0, 0

    def clock() -> float:
        nonlocal reads
        reads += 1
        return now

    decoder, answer = Decoder(clock=clock), AnswerFilter(**settings, clock=clock)
    for ms, frame in lines:
        now = ms
        answer.feed(decoder.feed(frame), last=decoder.finished)
    now = -1.0  # nothing is read after the end
    return answer.result(decoder.finish()), reads


def timed_lines() -> list[tuple[float, dict[str, Any]]]:
    lines = map(json.loads, TIMED.read_text(encoding="utf-8").splitlines())
    return [(float(line["offset_ms"]), line["data"]) for line in lines]


def times(step: Step) -> tuple[float | None, float | None, float | None]:
    return step.started_ms, step.first_token_ms, step.ended_ms


def test_each_step_has_the_times_of_the_frames_that_changed_it() -> None:
    result, _ = decoded(timed_lines())
    assert [times(step) for step in result.steps] == [
        (310, None, 310),
        (508, 1110, 1709),
        (1709, 2316, 2712),
        (3081, 3081, 3081),
    ]
    assert (result.first_token_ms, result.elapsed_ms) == (3081, 3081)


def test_the_clock_is_not_read_for_frames_that_only_go_on() -> None:
    lines = timed_lines()
    _, reads = decoded(lines)
    middle = next(at for at, (ms, _) in enumerate(lines) if ms == 1309)
    more = [*lines[:middle], *[lines[middle]] * 200, *lines[middle:]]
    assert decoded(more)[1] == reads


def test_the_clock_is_read_once_for_all_that_happens_in_a_frame() -> None:
    node = {"nodeName": "Start", "nodeType": "Start", "nodeStatus": "success", "nodeId": "s_1"}
    thought = {"response": json.dumps(node | {"nodeResult": '{"a": 1}'})}
    last = {"text": "Hi", "finish_reason": "stop"}
    lines = [(1.0, {"output": {"thoughts": [thought]}}), (2.0, {"output": last})]
    result, reads = decoded(lines)
    assert [times(step) for step in result.steps] == [(1, 1, 1)]
    assert (result.first_token_ms, result.elapsed_ms) == (2, 2)
    assert reads == 2


def test_steps_that_arrive_in_one_frame_have_no_times() -> None:
    (frame,) = frames("agent-mcp-thoughts-third-party-abridged.json")
    frame["output"]["finish_reason"] = "stop"
    result, _ = decoded([(700.0, frame)])
    assert {times(step) for step in result.steps} == {(None, None, None)}
    assert result.elapsed_ms == 700


def test_without_a_clock_nothing_has_times() -> None:
    decoder = Decoder()
    for frame in frames(TIMED.name):
        decoder.feed(frame)
    result = decoder.finish()
    assert {times(step) for step in result.steps} == {(None, None, None)}
    assert (result.first_token_ms, result.elapsed_ms) == (None, None)


def test_a_thought_between_tags_has_times_and_is_not_the_first_text() -> None:
    texts = ["<think>", "Dawn", " is best.", "</think>\n", "Begin", " early."]
    lines = [(at * 100.0, {"output": {"text": text}}) for at, text in enumerate(texts)]
    lines.append((900.0, {"output": {"text": "", "finish_reason": "stop"}}))
    result, _ = decoded(lines, think_tags="reasoning")
    assert [times(step) for step in result.steps] == [(100, 100, 300)]
    assert (result.text, result.first_token_ms) == ("Begin early.", 400)
    assert decoded(lines)[0].first_token_ms == 0


def test_times_are_kept_as_values_and_do_not_decide_equality() -> None:
    result, _ = decoded(timed_lines())
    step = result.steps[1]
    assert Step.from_dict(json.loads(json.dumps(step.to_dict()))).started_ms == 508
    assert step.to_dict(compact=True)["ended_ms"] == 1709
    assert replace(step, started_ms=None, ended_ms=5.0) == step
    assert replace(result, elapsed_ms=None, first_token_ms=1.0) == result


async def test_every_way_to_call_an_app_notes_the_times() -> None:
    with Emulator(apps={"trip": TIMED}, pace=20) as cloud:
        app = BailianApp(app_id="trip", api_key="k", base_url=cloud.base_url)
        invoked = [app.invoke("Hi"), await app.ainvoke("Hi")]
        events = [*app.stream("Hi"), *[event async for event in app.astream("Hi")]]
    streamed = [event.result for event in events if isinstance(event, RunFinished)]
    for result in [*invoked, *streamed]:
        ids = {name: getattr(result, name) for name in ("session_id", "request_id", "raw")}
        assert result == replace(invoked[0], **ids)
        one, two = result.steps[1:3]
        assert one.started_ms is not None
        assert one.ended_ms is not None
        assert two.ended_ms is not None
        assert result.elapsed_ms is not None
        assert 0 < one.started_ms < one.ended_ms <= two.ended_ms <= result.elapsed_ms
    ended = [event.step for event in events if isinstance(event, StepFinished)]
    assert all(step.ended_ms is not None for step in ended)


def test_what_came_before_the_answered_attempt_does_not_count() -> None:
    def slow_key() -> str:
        time.sleep(0.1)  # a service that hands out keys; it is asked before each attempt
        return "k"

    with Emulator(apps={"trip": TIMED}) as cloud:
        cloud.fail("throttled_retry_now")
        app = BailianApp(app_id="trip", api_key=slow_key, base_url=cloud.base_url, max_retries=1)
        before = time.monotonic()
        result = app.invoke("Hi")
        took_ms = (time.monotonic() - before) * 1000
    assert result.attempts == 2
    assert result.elapsed_ms is not None
    assert result.elapsed_ms < took_ms - 190


def test_a_run_that_breaks_off_knows_how_long_it_took() -> None:
    with Emulator(apps={"trip": TIMED}) as cloud:
        cloud.fail("close_between_frames", after_frames=3)
        with pytest.raises(BailianError) as caught:
            BailianApp(app_id="trip", api_key="k", base_url=cloud.base_url).invoke("Hi")
    partial = caught.value.partial
    assert partial is not None
    assert partial.elapsed_ms is not None
    assert partial.steps[0].started_ms is not None
    assert partial.steps[0].started_ms <= partial.elapsed_ms
