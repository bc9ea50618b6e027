"""What a step says of itself: its name, status, input, reasoning and tokens."""

from __future__ import annotations

import json
from functools import reduce
from typing import Any

import pytest
from support import recordings

from bailian_apps import AppEvent, AppResult, ReasoningDelta, StepFinished, StepStarted, StepUpdated
from bailian_apps.core.decoder import Decoder
from bailian_apps.core.events import fold


def node(id_: str, status: str = "executing", result: str = "", **more: Any) -> dict[str, str]:
    """An entry of `thoughts`; by default an LLM node that has a name."""
    fields = {"nodeId": id_, "nodeName": f"节点 {id_}", "nodeType": "LLM", "nodeStatus": status}
    inner = {"result": result}
    if "reasoning" in more:
        inner["reasoningContent"] = more.pop("reasoning")
    return {"response": json.dumps({**fields, **more, "nodeResult": json.dumps(inner)})}


def frame(*thoughts: Any, models: Any = None, **output: Any) -> dict[str, Any]:
    """One frame; `models` are pairs of a model and its output tokens."""
    usage = {
        "models": [
            {"model_id": name, "input_tokens": 5, "output_tokens": count}
            for name, count in models or ()
        ]
    }
    return {"output": {"thoughts": list(thoughts), "finish_reason": "null", **output}} | (
        {"usage": usage} if models else {}
    )


def stop(*thoughts: Any, **output: Any) -> dict[str, Any]:
    return frame(*thoughts, finish_reason="stop", **output)


def decode(*frames: dict[str, Any]) -> tuple[list[AppEvent], AppResult]:
    decoder = Decoder()
    events = [event for each in frames for event in decoder.feed(each)]
    return events, decoder.finish()


# ------------------------------------------------------------------------ names


def test_a_node_has_its_real_name_from_its_first_words_on() -> None:
    events, result = decode(*recordings.frames("workflow-timed.jsonl"))
    steps = [e for e in events if isinstance(e, (StepStarted, StepUpdated, StepFinished))]
    seen = [(e.kind, e.step.name, e.step.is_named) for e in steps if e.step.id == "LLM_j45e"]
    assert seen == [
        ("step_started", "LLM_j45e", False),
        ("step_updated", "大模型_1", True),
        ("step_finished", "大模型_1", True),
    ]
    assert [step.name for step in result.steps] == ["开始", "大模型_1", "大模型_2", "结束"]


def test_a_name_comes_before_the_words_that_came_with_it() -> None:
    events, _ = decode(*recordings.frames("workflow-timed.jsonl"))
    at = next(i for i, e in enumerate(events) if isinstance(e, StepUpdated))
    assert events[at + 1].kind == "step_delta"


def test_a_node_without_a_name_is_reported_once_when_it_speaks() -> None:
    entries = [node("a", nodeName="a"), *(node("a", result=text, nodeName="a") for text in "xy")]
    events, _ = decode(*map(frame, entries), stop(text="xy"))
    assert [e.step.name for e in events if isinstance(e, StepUpdated)] == ["a"]


def test_a_loop_has_the_name_of_its_first_run_at_once() -> None:
    events, _ = decode(
        frame(node("a", nodeName="a")),
        frame(node("a", "success", "x")),
        frame(node("a", nodeName="a")),
        stop(node("a", "success", "y")),
    )
    started = [(e.step.id, e.step.name) for e in events if isinstance(e, StepStarted)]
    assert started == [("a", "a"), ("a#2", "节点 a")]


def test_the_fold_of_a_run_has_the_name_as_soon_as_it_is_known() -> None:
    events, _ = decode(*recordings.frames("workflow-timed.jsonl"))
    result, names = AppResult(), []
    for event in events:
        result = fold(result, event)
        names.append(result.steps[1].name if len(result.steps) > 1 else None)
    assert sorted(set(filter(None, names))) == ["LLM_j45e", "大模型_1"]


def test_a_name_that_comes_with_the_last_words_is_before_them() -> None:
    events, _ = decode(
        frame(node("a", nodeName="a")), stop(node("a", "success", "all of it"), text="ok")
    )
    seen = [(e.kind, getattr(e, "step", None) and e.step.name) for e in events[1:5]]
    assert seen == [
        ("step_started", "a"),
        ("step_updated", "节点 a"),
        ("step_delta", None),
        ("step_finished", "节点 a"),
    ]


@pytest.mark.parametrize("status", ["executing", "success"])
def test_a_name_that_comes_after_the_first_words_is_reported_too(status: str) -> None:
    unnamed = node("a", result="one ", nodeName="a")
    events, _ = decode(frame(unnamed), stop(node("a", status, "two"), text="ok"))
    names = [e.step.name if isinstance(e, StepUpdated) else e.kind for e in events[2:6]]
    assert names == ["a", "step_delta", "节点 a", "step_delta"]


# --------------------------------------------------------------------- statuses


@pytest.mark.parametrize("status", ["skip", "pause", "stop"])
def test_a_node_that_did_not_fail_has_no_error(status: str) -> None:
    _, result = decode(stop(node("a", status, nodeErrorMsg="no"), text="ok"))
    [step] = result.steps
    assert (step.status, step.failed, step.error) == (status, False, None)


def test_a_skipped_node_does_not_run_and_searches_nothing() -> None:
    events, _ = decode(stop(node("a", "skip", nodeType="Retrieval"), text="ok"))
    steps = [e.step for e in events if isinstance(e, (StepStarted, StepFinished))]
    assert [(step.status, step.span_kind) for step in steps] == [("skip", "chain")] * 2


def test_a_paused_node_that_goes_on_is_a_second_run() -> None:
    _, result = decode(frame(node("a", "pause")), stop(node("a", "success"), text="ok"))
    assert [(step.id, step.status) for step in result.steps] == [("a", "pause"), ("a#2", "success")]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"errorInfo": "boom"}, "boom"),
        ({"errorInfo": "boom", "errorCode": "E1"}, "E1: boom"),
        ({"errorCode": "E1"}, "E1"),
        ({"errorInfo": {"why": "boom"}}, '{"why": "boom"}'),
        ({}, "fail"),
    ],
)
def test_the_error_of_a_failed_node_has_its_code(fields: dict[str, Any], error: str) -> None:
    _, result = decode(stop(node("a", "fail", **fields), text="ok"))
    assert (result.steps[0].failed, result.steps[0].error) == (True, error)


def test_a_message_has_the_error_of_its_node() -> None:
    message = {"node_id": "a", "node_status": "fail", "error_info": "boom", "error_code": "E1"}
    _, result = decode(stop(workflow_message=message, text="ok"))
    assert result.steps[0].error == "E1: boom"


# -------------------------------------------------------------------- reasoning


def test_nodes_that_think_at_the_same_time_are_read_one_after_the_other() -> None:
    events, result = decode(
        frame(node("a", reasoning="我先"), node("b", reasoning="I ")),
        frame(node("a", reasoning="看看"), node("b", reasoning="look")),
        stop(node("a", "success"), node("b", "success"), text="ok"),
    )
    assert [s.reasoning for s in result.steps] == ["我先看看", "I look"]
    assert result.reasoning == "我先看看I look"
    partial = AppResult()
    for event in events[:-2]:
        partial = fold(partial, event)
    assert partial.reasoning == "我先看看I look"
    assert [e.text for e in events if isinstance(e, ReasoningDelta)] == [
        "我先",
        "I ",
        "看看",
        "look",
    ]


def test_reasoning_is_in_the_order_of_first_thoughts_not_of_starts() -> None:
    events, result = decode(
        frame(node("a"), node("b", reasoning="b1 ")),
        frame(node("a", reasoning="a1 "), node("b")),
        frame(node("a"), node("b", "success", reasoning="b2 ")),
        stop(node("a", "success"), text="ok"),
    )
    assert [step.id for step in result.steps] == ["a", "b"]
    grown = reduce(fold, events, AppResult())
    for each in (result, grown):
        assert (each.reasoning, each.reasoning_steps) == ("b1 b2 a1 ", ("b", "a"))


# ----------------------------------------------------------------------- inputs

WHOLE = '{"city": "杭州", "days": [1, {"hot": true}]}'


def call(**fields: Any) -> dict[str, Any]:
    return {"action_type": "mcp", "action_name": "weather", "thought": "", **fields}


def tool_input(*thoughts: dict[str, Any]) -> Any:
    _, result = decode(*map(frame, thoughts), stop(text="ok"))
    [step] = result.steps
    return step.input


@pytest.mark.parametrize("name", ["action_input", "arguments", "action_input_stream"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_arguments_in_pieces_are_parsed_when_they_are_whole(name: str, size: int) -> None:
    pieces = [WHOLE[at : at + size] for at in range(0, len(WHOLE), size)]
    assert tool_input(*(call(**{name: piece}) for piece in pieces)) == json.loads(WHOLE)


def test_arguments_that_grow_are_parsed_when_they_are_whole() -> None:
    assert tool_input(*(call(arguments=WHOLE[:size]) for size in (3, 9, 20, 99))) == json.loads(
        WHOLE
    )


def test_two_equal_pieces_of_arguments_in_a_row_are_two_pieces() -> None:
    assert tool_input(*(call(arguments=each) for each in ('{"a": "', "哈", "哈", '"}'))) == {
        "a": "哈哈"
    }


def test_arguments_that_are_listed_again_with_the_result_stay() -> None:
    assert tool_input(
        call(arguments='{"a"'), call(arguments=": 1}"), call(arguments=": 1}", observation="ok")
    ) == {"a": 1}


def test_arguments_that_never_become_json_are_text() -> None:
    assert tool_input(call(arguments='{"a": '), call(arguments="broken")) == '{"a": broken'


def test_an_empty_object_gives_way_to_streamed_arguments() -> None:
    assert tool_input(call(arguments="{}", action_input_stream='{"a": 1}')) == {"a": 1}
    assert tool_input(call(arguments="{}")) == {}


def test_incomplete_arguments_are_no_input_yet() -> None:
    events, _ = decode(*(frame(call(arguments=each)) for each in ('{"a"', ": 1}")), stop(text="ok"))
    seen = [
        (e.kind, e.step.input)
        for e in events
        if isinstance(e, (StepStarted, StepUpdated, StepFinished))
    ]
    assert seen == [("step_started", None), ("step_updated", {"a": 1}), ("step_finished", {"a": 1})]


def test_a_run_that_was_cut_off_keeps_incomplete_arguments() -> None:
    decoder = Decoder()
    decoder.feed(frame(call(arguments='{"a": ')))
    assert decoder.partial().steps[0].input == '{"a": '


# ----------------------------------------------------------------------- tokens


def tokens(result: AppResult) -> list[Any]:
    return [
        [(model.model_id, model.output_tokens) for model in step.usage.models]
        if step.usage
        else None
        for step in result.steps
    ]


def test_a_node_has_the_tokens_that_appear_when_it_speaks() -> None:
    events, result = decode(*recordings.frames("workflow-timed.jsonl"))
    assert tokens(result) == [None, [("qwen-max", 21)], [("qwen-max", 16)], None]
    ended = [e.step for e in events if isinstance(e, StepFinished)]
    assert [step.usage for step in ended] == [step.usage for step in result.steps]
    owned = [model for step in result.steps if step.usage for model in step.usage.models]
    assert tuple(owned) == result.usage.models


def test_tokens_that_may_be_anothers_are_nobodys() -> None:
    """Two nodes that ran at the same time: the entries of `usage` do not name them."""
    _, result = decode(
        frame(node("a", result="x"), node("b", result="y"), models=[("m", 1), ("n", 1)]),
        frame(node("a", "success"), node("b", result="y"), models=[("m", 2), ("n", 2)]),
        frame(node("a", "success"), node("b", "success"), models=[("m", 2), ("n", 3)]),
        frame(node("c", result="z"), models=[("m", 2), ("n", 3), ("o", 1)]),
        stop(node("c", "success"), text="z", models=[("m", 2), ("n", 3), ("o", 9)]),
    )
    assert tokens(result) == [None, None, [("o", 9)]]


def test_a_loop_has_only_the_tokens_of_each_round() -> None:
    _, result = decode(
        frame(node("a", "success", "x"), models=[("m", 4)]),
        frame(node("a", result="y"), models=[("m", 6)]),
        stop(node("a", "success"), text="y", models=[("m", 9)]),
    )
    assert tokens(result) == [[("m", 4)], [("m", 5)]]


def test_a_script_between_two_models_has_no_tokens() -> None:
    _, result = decode(
        frame(node("a", "success", "x"), models=[("m", 4)]),
        frame(node("s", "success", "1", nodeType="Script"), models=[("m", 4)]),
        stop(node("b", "success", "y"), text="y", models=[("m", 4), ("n", 5)]),
    )
    assert tokens(result) == [[("m", 4)], None, [("n", 5)]]


def test_a_step_as_json_has_its_tokens() -> None:
    _, result = decode(stop(node("a", "success", "x"), text="x", models=[("m", 4)]))
    assert result.steps[0].to_dict(compact=True)["usage"] == {
        "input_tokens": 5,
        "output_tokens": 4,
        "total_tokens": 9,
        "models": [{"model_id": "m", "input_tokens": 5, "output_tokens": 4}],
    }
