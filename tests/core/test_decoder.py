"""What frames mean: every recording, and every trap of the kinds that the recordings show."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import recordings

from bailian_apps import (
    AppEvent,
    AppResult,
    ReasoningDelta,
    References,
    RunStarted,
    StepDelta,
    StepFinished,
    StepStarted,
    StreamInterruptedError,
    TextDelta,
    UnknownFrame,
    UsageReported,
)
from bailian_apps.core.decoder import Decoder

FINISHED = [
    p.name for p in recordings.ALL if p.name not in recordings.UNFINISHED | recordings.ERRORS
]


def decode(
    frames: list[dict[str, Any]], mode: str | None = None
) -> tuple[list[AppEvent], AppResult]:
    decoder = Decoder(flow_stream_mode=mode)
    events = [event for frame in frames for event in decoder.feed(frame)]
    return events, decoder.partial()


def texts(events: list[AppEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta)]


def node(
    node_id: str | None = "LLM_1", result: Any = "", status: str = "executing", **more: Any
) -> dict[str, Any]:
    """One entry of a workflow's `thoughts`."""
    fields = {"nodeId": node_id, "nodeType": "LLM", "nodeStatus": status} | more
    if result is not None:
        fields["nodeResult"] = json.dumps(
            {"result": result}
            | ({"reasoningContent": more["reasoning"]} if "reasoning" in more else {}),
            ensure_ascii=False,
        )
    return {"response": json.dumps(fields, ensure_ascii=False)}


def frame(*thoughts: Any, **output: Any) -> dict[str, Any]:
    fields = {"session_id": "s", "finish_reason": "null", "thoughts": list(thoughts)} | output
    return {"output": fields, "usage": {}, "request_id": "r"}


def stop(*thoughts: Any, text: str = "", **output: Any) -> dict[str, Any]:
    return frame(*thoughts, finish_reason="stop", text=text, **output)


# ------------------------------------------------------------------ recordings


@pytest.mark.parametrize("name", FINISHED)
def test_the_stream_is_exactly_the_answer(name: str) -> None:
    events, result = decode(recordings.frames(name), recordings.MODES.get(name))
    assert "".join(texts(events)) == result.text == recordings.expected_text(name)
    assert result.text
    assert result.final_text is None
    assert result.finish_reason == "stop"
    assert not [event for event in events if isinstance(event, UnknownFrame)]


@pytest.mark.parametrize("name", [path.name for path in recordings.ALL if "workflow" in path.name])
def test_a_nodes_deltas_are_its_output(name: str) -> None:
    events, result = decode(recordings.frames(name), recordings.MODES.get(name))
    for step in result.steps:
        deltas = [e.text for e in events if isinstance(e, StepDelta) and e.step_id == step.id]
        assert "".join(deltas) == step.output
    expected = recordings.node_texts(name)
    assert {s.id: s.output for s in result.steps if s.id in expected} == expected


@pytest.mark.parametrize("path", recordings.ALL, ids=lambda path: path.name)
def test_steps_start_and_finish_once_and_in_order(path: Any) -> None:
    events, result = decode(recordings.frames(path.name), recordings.MODES.get(path.name))
    started = [e.step.id for e in events if isinstance(e, StepStarted)]
    finished = [e.step.id for e in events if isinstance(e, StepFinished)]
    assert started == [step.id for step in result.steps]
    assert len(set(finished)) == len(finished)
    if path.name in FINISHED:
        assert sorted(finished) == sorted(started)
        assert [e for e in events if isinstance(e, RunStarted)] == events[:1]


@pytest.mark.parametrize("name", sorted(recordings.UNFINISHED))
def test_a_stream_without_a_stop_is_an_error_with_all_that_came(name: str) -> None:
    decoder = Decoder()
    for each in recordings.frames(name):
        decoder.feed(each)
    with pytest.raises(StreamInterruptedError) as caught:
        decoder.finish()
    assert caught.value.partial == decoder.partial()
    assert caught.value.partial.steps


def test_the_travel_workflow_is_read_whole() -> None:
    events, result = decode(recordings.frames("workflow-timed.jsonl"))
    assert [(s.id, s.name, s.type, s.status, s.output, s.duration_ms) for s in result.steps] == [
        ("Start_bYxoRU", "开始", "Start", "success", "", 0.0),
        (
            "LLM_j45e",
            "大模型_1",
            "LLM",
            "success",
            "西湖醋鱼,龙井虾仁,东坡肉,知味小笼,叫化鸡",
            1315.0,
        ),
        ("LLM_2Km9", "大模型_2", "LLM", "success", "西湖,灵隐寺,宋城,西溪湿地,千岛湖", 1008.0),
        ("End_DrQn7F", "结束", "End", "success", "亲,对我的介绍还满意吗", 0.0),
    ]
    assert [(m.model_id, m.input_tokens, m.output_tokens) for m in result.usage.models] == [
        ("qwen-max", 25, 21),
        ("qwen-max", 23, 16),
    ]
    assert (result.usage.input_tokens, result.usage.output_tokens) == (48, 37)
    assert result.usage.total_tokens == 85
    assert result.session_id == "1a3f45d95e654534bb01bdbf59e9b732"
    assert result.request_id == "520d48fd-d7e8-9632-87e2-1ff866da1151"
    assert result.raw == recordings.frames("workflow-timed.jsonl")[-1]
    reports = [e.usage for e in events if isinstance(e, UsageReported)]
    assert reports[-1] == result.usage
    assert len(reports) == len(set(reports))


def test_a_workflow_node_and_an_agent_have_reasoning() -> None:
    events, result = decode(recordings.frames("workflow-deep-thinking-streamed-end-head.jsonl"))
    llm = next(step for step in result.steps if step.type == "LLM")
    assert llm.reasoning.startswith(
        "嗯，用户问了一个很基础的哲学问题“你是谁”，但结合上下文看，这应该是"
    )
    deltas = [e.text for e in events if isinstance(e, ReasoningDelta) and e.step_id == llm.id]
    assert "".join(deltas) == llm.reasoning == result.reasoning
    events, result = decode(recordings.frames("agent-deep-thinking-elided-head.sse"))
    assert [e.text for e in events if isinstance(e, ReasoningDelta)] == ["嗯", "，", "用户"]
    assert (result.steps[0].kind, result.steps[0].name) == ("reasoning", "思考过程")


def test_the_cited_documents_are_read() -> None:
    events, result = decode(recordings.frames("agent-rag-citations.json"))
    (reference,) = result.references
    assert [e.items for e in events if isinstance(e, References)] == [(reference,)]
    assert (reference.index_id, reference.doc_id) == (
        "1",
        "file_7c0e9abee4f142f386e488c9baa9cf38_10317360",
    )
    assert reference.text.startswith("[Document Name]:Bailian Phone")
    assert (reference.doc_url, reference.page_number) == (None, (0,))
    assert reference.raw["biz_id"] is None


def test_an_agents_tool_call_is_read() -> None:
    _, result = decode(recordings.frames("agent-mcp-thoughts-third-party-abridged.json"))
    reasoning, tool = result.steps
    assert (reasoning.kind, reasoning.reasoning) == ("reasoning", "需要先检索")
    assert (tool.kind, tool.type, tool.name) == ("tool", "mcp", "searchFile")
    assert tool.input == {"keyWord": "操作系统主要功能", "maxCount": 5}
    assert json.loads(tool.output)["content"][0]["type"] == "text"


# ----------------------------------------------------------------- workflow traps


def test_equal_deltas_in_a_row_are_two_pieces() -> None:
    frames = [
        frame(node(result="哈")),
        frame(node(result="哈")),
        frame(node(result="")),
        frame(node(result="")),
    ]
    events, result = decode([*frames, stop(node(result="!", status="success"), text="x")])
    assert result.steps[0].output == "哈哈!"
    assert [e.text for e in events if isinstance(e, StepDelta)] == ["哈", "哈", "!"]


def test_a_relisted_finished_node_adds_nothing() -> None:
    done = node(result="甲", status="success", nodeExecTime="5ms")
    blank = node(result="", status="success", nodeExecTime="5ms")
    _, result = decode([frame(done), frame(done), frame(blank), frame(done), stop(blank, text="x")])
    assert [(s.id, s.output) for s in result.steps] == [("LLM_1", "甲")]


def test_a_node_that_runs_again_is_a_new_step() -> None:
    frames = [
        frame(node(result="一", status="success")),
        frame(node(result="二")),
        frame(node(result="", status="success")),
        frame(node(result="三", status="success")),
        stop(node(result="", status="success"), text="x"),
    ]
    events, result = decode(frames)
    assert [(s.id, s.output) for s in result.steps] == [
        ("LLM_1", "一"),
        ("LLM_1#2", "二"),
        ("LLM_1#3", "三"),
    ]
    assert sum(isinstance(e, StepFinished) for e in events) == 3


def test_overlapping_nodes_and_a_nameless_one_are_kept_apart() -> None:
    frames = [
        frame(node("A", "a1"), node("B", "b1")),
        frame(node("A", "a2", nodeName="first"), node("B", "b2")),
        frame(node("A", "", "success", nodeName="first"), node("B", "b3", "success")),
        stop(text="x"),
    ]
    _, result = decode(frames)
    assert [(s.id, s.name, s.output) for s in result.steps] == [
        ("A", "first", "a1a2"),
        ("B", "B", "b1b2b3"),
    ]


def test_a_failed_node_keeps_its_status_and_its_error() -> None:
    events, result = decode([frame(node(result="cut", status="fail", nodeErrorMsg="boom"))])
    (step,) = result.steps
    assert (step.status, step.failed, step.error, step.output) == ("fail", True, "boom", "cut")
    assert isinstance(events[-1], StepFinished)


def test_results_that_are_not_text_or_not_json_are_read() -> None:
    _, result = decode(
        [
            frame(
                node("A", {"k": [1]}, "success"),
                {"response": '{"nodeId":"B","nodeStatus":"success","nodeResult":"{broken"}'},
                {
                    "response": '{"nodeId":"C","nodeStatus":"success","nodeResult":"{\\"subject\\":\\"x\\"}"}'
                },
                node("D", None, "success", nodeExecTime="1.5s"),
            )
        ]
    )
    assert [s.output for s in result.steps] == ['{"k": [1]}', "{broken", '{"subject":"x"}', ""]
    assert result.steps[3].duration_ms == 1500.0


def test_an_unreadable_entry_is_reported_once() -> None:
    events, _ = decode([frame({"response": "{broken"}), frame({"response": "{broken"}), frame(17)])
    assert [e.raw for e in events if isinstance(e, UnknownFrame)] == [{"response": "{broken"}, 17]


def test_a_streamed_end_node_is_the_answer_and_is_not_doubled() -> None:
    frames = [
        frame(node("LLM", "你"), node("End", "你", nodeType="End")),
        frame(node("LLM", "好", "success"), node("End", "好", nodeType="End")),
        stop(node("LLM", "", "success"), node("End", "", "success", nodeType="End"), text="你好呀"),
    ]
    events, result = decode(frames)
    assert texts(events) == ["你", "好", "呀"]
    assert result.text == "你好呀"


def test_a_last_frame_that_contradicts_the_stream_is_kept_beside_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "bailian_apps"):
        events, result = decode([frame(node("End", "甲", nodeType="End")), stop(text="乙")])
    assert texts(events) == ["甲"]
    assert (result.text, result.final_text) == ("甲", "乙")
    assert "final_text" in caplog.text
    assert "甲" not in caplog.text


# --------------------------------------------------------------- other modes


def message(
    content: str, node_type: str = "End", done: bool = False, **more: Any
) -> dict[str, Any]:
    fields = {
        "node_id": f"{node_type}_1",
        "node_type": node_type,
        "node_name": "n",
        "node_is_completed": done,
    }
    fields["node_status"] = "success" if done else "executing"
    return frame(thoughts=None, workflow_message=fields | {"message": {"content": content}} | more)


def test_message_format_plus_parses_each_delta() -> None:
    frames = [
        message('{"result":"你","reasoningContent":"嗯"}', "LLM"),
        message('{"result":"好","reasoningContent":""}', "LLM", done=True),
        message("你好"),
        message("", done=True),
        stop(text="你好"),
    ]
    events, result = decode(frames, "message_format_plus")
    assert [(s.output, s.reasoning) for s in result.steps] == [("你好", "嗯"), ("你好", "")]
    assert texts(events) == ["你好"]


def test_message_format_plus_leaves_the_json_of_the_end_node_alone() -> None:
    words = '{"result":5}'
    frames = [message(words, "Script", done=True), message(words, done=True), stop(text=words)]
    events, result = decode(frames, "message_format_plus")
    assert [step.output for step in result.steps] == ["5", words]
    assert texts(events) == [words]


@pytest.mark.parametrize("completed", [True, "true"])
def test_a_completed_node_is_over(completed: Any) -> None:
    events, _ = decode([message("x", "LLM", node_is_completed=completed)])
    assert isinstance(events[-1], StepFinished)


def test_message_format_leaves_json_in_the_answer_alone() -> None:
    words = '{"result":"x"}'
    events, result = decode([message(words), stop(text=words)], "message_format")
    assert texts(events) == [words]
    assert result.steps[0].output == words


def test_agent_format_streams_text_and_repeats_it_whole() -> None:
    frames = [
        frame(text="你"),
        frame(node("End", "你好", nodeType="End"), text="好"),
        stop(text="你好！"),
    ]
    events, result = decode(frames, "agent_format")
    assert texts(events) == ["你", "好", "！"]
    assert result.text == "你好！"


def test_an_agents_last_frame_may_hold_its_last_delta() -> None:
    events, result = decode([frame(text="哈"), frame(text="哈"), stop(text="哈哈")])
    assert texts(events) == ["哈", "哈", "哈哈"]
    assert result.text == "哈哈哈哈"


def test_an_emoji_that_was_cut_in_two_is_one_character_again() -> None:
    events, result = decode([frame(text="好\ud83d"), frame(text="\ude00!"), stop(text="\ud83d")])
    assert texts(events) == ["好", "😀!", "\ufffd"]
    assert result.text == "好😀!\ufffd"
    streamed = [node("End", half, nodeType="End") for half in ("好\ud83d", "\ude00!")]
    events, result = decode([*map(frame, streamed), stop(text="好\ud83d\ude00!")])
    assert texts(events) == ["好", "😀!"]
    assert (result.text, result.final_text) == ("好😀!", None)


@pytest.mark.parametrize("last", ["好😀", ""])
def test_half_a_character_at_the_end_is_whole_in_the_last_frame_or_marked(last: str) -> None:
    events, result = decode([frame(node("End", "好\ud83d", nodeType="End")), stop(text=last)])
    assert texts(events) == ["好", "😀" if last else "\ufffd"]
    assert (result.text, result.final_text) == (last or "好\ufffd", None)


def test_an_emoji_that_was_cut_in_two_is_one_in_a_step_and_its_reasoning_too() -> None:
    pieces = ("好\ud83d", "\ude00!", "\ud83d")
    listed = [node(result=each, reasoning=each) for each in pieces]
    events, result = decode([*map(frame, listed), stop(text="")])
    steps = [each.text for each in events if isinstance(each, StepDelta)]
    thoughts = [each.text for each in events if isinstance(each, ReasoningDelta)]
    assert steps == thoughts == ["好", "😀!", "\ufffd"]
    assert result.reasoning == result.steps[0].output == result.steps[0].reasoning == "好😀!\ufffd"


# ------------------------------------------------------------------- agents


def action(type_: str, **fields: Any) -> dict[str, Any]:
    return {"action_type": type_, "action": type_} | fields


def think(text: str) -> dict[str, Any]:
    return action("reasoning", thought=text, response=text)


def test_an_agent_thinks_searches_calls_and_answers() -> None:
    search = action("agentRag", action_name="kb", action_input={"query": "q"})
    found = search | {"observation": '[{"text":"t"}]'}
    call = action("api", action_name="plugin", action_input_stream='{"a"')
    called = call | {"action_input_stream": '{"a": 1}', "observation": "ok"}
    frames = [
        frame(think("嗯")),
        frame(think("嗯")),
        frame(think(""), search),
        frame(think(""), found),
        frame(think(""), found, call),
        frame(think(""), found, called),
        frame(think(""), found, called, think("好")),
        frame(think(""), found, called, think(""), text="答"),
        stop(think(""), found, called, think(""), text=""),
    ]
    events, result = decode(frames)
    assert [
        (s.id, s.kind, s.name, s.input, s.output, s.reasoning, s.status) for s in result.steps
    ] == [
        ("thought-0", "reasoning", "reasoning", None, "", "嗯嗯", "success"),
        ("thought-1", "retrieval", "kb", {"query": "q"}, '[{"text":"t"}]', "", "success"),
        ("thought-2", "tool", "plugin", {"a": 1}, "ok", "", "success"),
        ("thought-3", "reasoning", "reasoning", None, "", "好", "success"),
    ]
    order = [
        (type(e).__name__, e.step.id) for e in events if isinstance(e, (StepStarted, StepFinished))
    ]
    assert order.index(("StepFinished", "thought-0")) < order.index(("StepFinished", "thought-1"))
    assert len(order) == 8
    assert result.text == "答"
    assert result.reasoning == "嗯嗯好"


def test_a_thought_that_is_relisted_whole_is_not_doubled() -> None:
    thought, call = think("先检索"), action("mcp", action_name="t", arguments="{}")
    called = call | {"observation": "part1"}
    more = call | {"observation": "part1 part2"}
    frames = [frame(thought), frame(thought, call), frame(thought, called), frame(thought, called)]
    events, result = decode([*frames, frame(thought, more), stop(thought, more, text="答")])
    assert [(s.id, s.reasoning, s.output) for s in result.steps] == [
        ("thought-0", "先检索", ""),
        ("thought-1", "", "part1"),
        ("thought-1#2", "", " part2"),
    ]
    for step in result.steps:
        assert (
            "".join(e.text for e in events if isinstance(e, StepDelta) and e.step_id == step.id)
            == step.output
        )


def test_an_agent_that_was_asked_with_a_workflows_mode_is_still_an_agent() -> None:
    _, result = decode([frame(text="甲"), stop(text="乙")], "message_format")
    assert (result.text, result.final_text) == ("甲乙", None)


def test_a_relisted_call_adds_nothing_and_starts_with_its_input() -> None:
    """As older apps list it: with the thought that led to it, whole in every frame."""
    call = action("api", action_name="t", thought="so", action_input={"a": 1})
    called = call | {"observation": "ok"}
    events, result = decode(
        [
            frame(call),
            frame(call),
            frame(called),
            frame(called),
            frame(called),
            stop(called, text="答"),
        ]
    )
    (step,) = result.steps
    assert (step.output, step.reasoning, step.input) == ("ok", "so", {"a": 1})
    assert [e.step.input for e in events if isinstance(e, StepStarted)] == [{"a": 1}]
    assert sum(isinstance(e, StepFinished) for e in events) == 1


def test_what_follows_at_the_same_position_is_another_step() -> None:
    frames = [
        frame(think("嗯")),
        frame(action("mcp", action_name="t", observation="o")),
        stop(text=""),
    ]
    _, result = decode(frames)
    assert [(s.id, s.kind) for s in result.steps] == [
        ("thought-0", "reasoning"),
        ("thought-0#2", "tool"),
    ]


# -------------------------------------------------------------- nulls and noise


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"output": None},
        {"output": "x"},
        {"output": {"text": None, "thoughts": None, "finish_reason": None}, "usage": None},
        {
            "output": {"text": 5, "thoughts": "x", "workflow_message": [1], "doc_references": "x"},
            "usage": 3,
        },
        {"output": {"thoughts": [None, 1, {}, {"response": None}]}, "usage": {"models": None}},
        {"output": {"workflow_message": {"message": None}, "doc_references": [None, {}]}},
        {"output": {}, "usage": {"models": [None, {"model_id": None, "input_tokens": "x"}]}},
    ],
)
def test_nulls_and_wrong_types_are_not_fatal(broken: dict[str, Any]) -> None:
    _, result = decode([broken, stop(text="答")])
    assert result.text == "答"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["response", "action_type", "thought", "observation", "message", "content", "models",
                         "node_id", "node_type", "action_input", "arguments", "x"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
OUTPUT = st.dictionaries(
    st.sampled_from(["text", "thoughts", "workflow_message", "doc_references", "session_id"]), JSON
)


@given(
    st.lists(
        st.fixed_dictionaries({"output": OUTPUT | JSON, "usage": JSON, "request_id": JSON}),
        max_size=4,
    )
)
def test_no_frame_crashes_the_decoder(frames: list[dict[str, Any]]) -> None:
    events, result = decode([*frames, stop(text="答")])
    assert result.finish_reason == "stop"
    assert "".join(texts(events)) == result.text
    started = [e.step.id for e in events if isinstance(e, StepStarted)]
    assert sorted(started) == sorted(e.step.id for e in events if isinstance(e, StepFinished))
    assert len(set(started)) == len(started)


@given(st.sampled_from(FINISHED), st.data())
def test_a_run_cut_anywhere_is_a_prefix_of_the_whole(name: str, data: st.DataObject) -> None:
    frames = recordings.frames(name)
    cut = data.draw(st.integers(0, len(frames) - 1))
    events, result = decode(frames[:cut], recordings.MODES.get(name))
    whole_events, whole = decode(frames, recordings.MODES.get(name))
    assert events == whole_events[: len(events)]
    assert whole.text.startswith(result.text)


# --------------------------------------------------------------- what is easily missed


@pytest.mark.parametrize("beside", [[], [node("B", "x")]], ids=["alone", "beside a running node"])
def test_a_loop_that_lists_each_run_of_a_node_has_each_once(beside: list[Any]) -> None:
    first, second = node(result="甲", status="success"), node(result="乙", status="success")
    frames = [frame(*beside, first), *[frame(*beside, first, second)] * 3]
    _, result = decode([*frames, stop(text="x")])
    assert [(s.id, s.output) for s in result.steps if s.id != "B"] == [
        ("LLM_1", "甲"),
        ("LLM_1#2", "乙"),
    ]


def test_an_unreadable_entry_does_not_cut_a_step_in_two() -> None:
    frames = [frame(think("嗯")), frame({"response": "{broken"}), frame(think("好"))]
    events, result = decode([*frames, stop(text="答")])
    assert [(s.id, s.reasoning) for s in result.steps] == [("thought-0", "嗯好")]
    assert sum(isinstance(e, UnknownFrame) for e in events) == 1


def test_the_input_of_a_tool_that_is_not_json_is_kept_as_text() -> None:
    _, result = decode([stop(action("mcp", action_name="t", arguments="{broken"), text="答")])
    assert result.steps[0].input == "{broken"


def test_a_nodes_result_that_is_an_object_keeps_its_letters() -> None:
    _, result = decode([frame(node(result={"城市": "杭州"}, status="success"))])
    assert result.steps[0].output == '{"城市": "杭州"}'


@pytest.mark.parametrize(
    ("time", "duration_ms"),
    [
        ("12ms", 12.0),
        ("1.5s", 1500.0),
        ("12", 12.0),
        (12, 12.0),
        (True, None),
        ("soon", None),
        ("inf", None),
        ("nanms", None),
    ],
)
def test_a_duration_is_read_with_every_unit(time: Any, duration_ms: float | None) -> None:
    _, result = decode([frame(node(status="success", nodeExecTime=time))])
    assert result.steps[0].duration_ms == duration_ms


def test_a_node_that_one_list_has_without_text_is_read_from_the_other() -> None:
    silent = node("LLM_1", "")
    frames = [
        frame(silent),
        message("你", "LLM"),
        message("好", "LLM", done=True),
    ]
    frames[1]["output"]["thoughts"] = [silent]
    events, result = decode([*frames, stop(text="x")])
    assert [(s.id, s.output) for s in result.steps] == [("LLM_1", "你好")]
    assert [e.text for e in events if isinstance(e, StepDelta)] == ["你", "好"]


def test_a_node_without_an_id_is_known_by_its_name_or_its_place() -> None:
    named = {"nodeName": "大模型_1", "nodeStatus": "success"}
    listed = [{"response": json.dumps(each)} for each in (named, {"nodeStatus": "success"})]
    _, result = decode([frame(*listed)])
    assert [(s.id, s.name) for s in result.steps] == [
        ("大模型_1", "大模型_1"),
        ("node-1", "node-1"),
    ]
    for name, step_id in (("大模型_1", "大模型_1"), (None, "node-0")):
        _, result = decode([frame(workflow_message={"node_name": name})])
        assert [(s.id, s.name, s.status) for s in result.steps] == [(step_id, step_id, "executing")]


def test_an_object_that_is_no_node_is_reported() -> None:
    entry = {"response": '{"nodeName":"n","nodeResult":"x"}'}
    events, result = decode([frame(entry)])
    assert [e.raw for e in events if isinstance(e, UnknownFrame)] == [entry]
    assert result.steps == ()


@pytest.mark.parametrize("key", ["node_error_msg", "error_message", "error"])
def test_a_message_has_its_nodes_time_error_and_parent(key: str) -> None:
    fields = {"node_id": "B", "node_status": "fail", "node_exec_time": "5ms", key: "boom"}
    _, result = decode([frame(workflow_message=fields | {"parent_node_id": "A"})])
    (step,) = result.steps
    assert (step.duration_ms, step.error, step.parent_id) == (5.0, "boom", "A")


@pytest.mark.parametrize("key", ["nodeErrorMsg", "errorMessage", "errorMsg", "error"])
def test_an_entry_has_its_nodes_error_and_parent(key: str) -> None:
    _, result = decode([frame(node("B", status="fail", parentNodeId="A", **{key: "boom"}))])
    (step,) = result.steps
    assert (step.error, step.parent_id) == ("boom", "A")


@pytest.mark.parametrize("key", ["thought", "response"])
def test_one_field_is_enough_for_a_thought(key: str) -> None:
    _, result = decode([frame(action("reasoning", **{key: "嗯"})), stop(text="答")])
    assert [(s.kind, s.reasoning, s.output) for s in result.steps] == [("reasoning", "嗯", "")]


def test_only_an_agents_answer_has_its_output_in_the_response() -> None:
    tool = action("mcp", action_name="t", response="r", reasoning_content="so", thought="not this")
    answer = action("response", response="答")
    _, result = decode([frame(tool, answer), stop(tool, answer, text="答")])
    assert [(s.kind, s.output, s.reasoning) for s in result.steps] == [
        ("tool", "", "so"),
        ("response", "答", ""),
    ]


@pytest.mark.parametrize(
    ("count", "tokens"), [(1, 1), (0, 0), (-1, 0), (True, 0), ("1", 0), (None, 0)]
)
def test_only_a_positive_whole_number_counts_as_tokens(count: Any, tokens: int) -> None:
    models = [{"model_id": "m", "input_tokens": count, "output_tokens": count}]
    _, result = decode([stop(text="答") | {"usage": {"models": models}}])
    assert (result.usage.input_tokens, result.usage.output_tokens) == (tokens, tokens)


def test_a_usage_that_cannot_be_read_is_reported_and_counts_nothing() -> None:
    events, result = decode([stop(text="答") | {"usage": 3}])
    assert [e.raw for e in events if isinstance(e, UnknownFrame)] == [{"usage": 3}]
    assert (result.usage.total_tokens, result.usage.models) == (0, ())


def test_a_listed_answer_is_one_step_until_the_run_ends() -> None:
    first, whole = (action("response", response=text) for text in ("答", "答案"))
    frames = [frame(first, text="答"), frame(first), frame(whole, text="案"), stop(whole, text="")]
    events, result = decode(frames)
    assert [(s.id, s.output) for s in result.steps] == [("thought-0", "答案")]
    assert [type(e) for e in events].index(StepFinished) == len(events) - 1


def test_thoughts_and_calls_may_go_on_while_the_answer_streams() -> None:
    call = action("mcp", action_name="t", arguments="{}")
    frames = [
        frame(call, think("嗯")),
        frame(call, think("好"), text="答"),
        frame(call | {"observation": "ok"}, think("的"), text="案"),
    ]
    _, result = decode([*frames, stop(text="")])
    assert [(s.id, s.output, s.reasoning) for s in result.steps] == [
        ("thought-0", "ok", ""),
        ("thought-1", "", "嗯好的"),
    ]


@pytest.mark.parametrize(
    ("result", "output", "reasoning"),
    [
        ({"result": "甲", "reasoningContent": "嗯"}, "甲", "嗯"),
        ({"result": [1]}, "[1]", ""),
        ("[1]", "[1]", ""),
        ("甲", "甲", ""),
        ("5", "5", ""),
    ],
)
def test_a_nodes_result_may_be_an_object_or_text_of_another_shape(
    result: Any, output: str, reasoning: str
) -> None:
    listed = {"nodeId": "A", "nodeResult": result}
    _, run = decode([frame({"response": json.dumps(listed)}, {"response": "[1]"})])
    assert [(s.output, s.reasoning) for s in run.steps] == [(output, reasoning)]


def test_an_empty_input_does_not_replace_the_streamed_one() -> None:
    call = action("api", action_name="t", action_input_stream='{"a": 1}')
    _, result = decode([frame(call), frame(call | {"action_input": "", "arguments": {}})])
    assert result.steps[0].input == {"a": 1}


def call_of(name: str, arguments: str, observation: str | None = None) -> dict[str, Any]:
    return action("mcp", action_name=name, arguments=arguments, observation=observation)


@pytest.mark.parametrize("second", [("read", '{"page": 7}'), ("search", '{"query": "b"}')])
def test_a_frame_may_list_only_the_newest_call(second: tuple[str, str]) -> None:
    first = ("search", '{"query": "a"}')
    frames = [
        frame(call_of(*first)),
        frame(call_of(*first, "found")),
        frame(call_of(*second)),
        frame(call_of(*second, "read")),
        frame(text="答"),
    ]
    events, result = decode([*frames, stop(text="")])
    assert [(s.id, s.name, s.input, s.output) for s in result.steps] == [
        ("thought-0", first[0], json.loads(first[1]), "found"),
        ("thought-0#2", second[0], json.loads(second[1]), "read"),
    ]
    order = [(type(e), e.step.id) for e in events if isinstance(e, (StepStarted, StepFinished))]
    assert order == [
        (kind, step.id) for step in result.steps for kind in (StepStarted, StepFinished)
    ]


HOT, COLD = '{"city": "HZ"}', '{"city": "HRB"}'


@pytest.mark.parametrize("key", ["action_input_stream", "arguments"])
@pytest.mark.parametrize("result", ["warm", '{"c": 20}'])
def test_a_call_whose_arguments_only_stream_ends_where_those_of_another_begin(
    key: str, result: str
) -> None:
    frames = [
        frame(action("api", action_name="t", observation=observation, **{key: piece}))
        for whole in (HOT, COLD)
        for piece, observation in ((whole[:5], ""), (whole[5:], ""), ("", result), ("", result))
    ]
    _, run = decode([*frames, stop(text="答")])
    assert [(s.id, s.input, s.output) for s in run.steps] == [
        ("thought-0", json.loads(HOT), result),
        ("thought-0#2", json.loads(COLD), result),
    ]


def test_a_search_whose_passages_are_others_is_another_search() -> None:
    found = [json.dumps([{"content": text, "score": 0.5}]) for text in ("one", "two")]
    frames = [
        frame(action("agentRag", action_name="kb", arguments="{}", observation=observation))
        for observation in ("", found[0], "", found[1])
    ]
    _, run = decode([*frames, stop(text="答")])
    assert [(s.id, s.output) for s in run.steps] == [
        ("thought-0", found[0]),
        ("thought-0#2", found[1]),
    ]
    assert [document.text for document in run.documents] == ["one", "two"]


@pytest.mark.parametrize(
    "after",
    [
        [{"action_input": json.loads(HOT), "observation": "warm"}],  # as a value, once it is whole
        [{"arguments": HOT.replace(" ", ""), "observation": "warm"}],
        [{"action_input": "{}", "observation": "warm"}],  # a placeholder
        [{"observation": "wa"}, {"observation": "rm"}],
        [{"observation": '{"c"'}, {"observation": ": 20}"}],
        [{"observation": '{"c"'}, {"observation": '{"c": 20}'}],
        [{"observation": '{"c": 20}'}, {"observation": '{"c": 20}', "thought": ""}],
    ],
)
def test_a_call_with_a_result_stays_one_step_while_nothing_contradicts_it(
    after: list[dict[str, Any]],
) -> None:
    call: dict[str, Any] = {"action_name": "t"}
    pieces = [call | {"action_input_stream": piece} for piece in (HOT[:5], HOT[5:])]
    listed = [*pieces, *(call | fields for fields in after)]
    _, run = decode([*(frame(action("api", **each)) for each in listed), stop(text="答")])
    [step] = run.steps
    assert (step.input, step.output in ("warm", '{"c": 20}')) == (json.loads(HOT), True)


def test_a_call_whose_arguments_grow_before_its_result_is_one_step() -> None:
    growing = ['{"a"', '{"a": 1', '{"a": 1}']
    frames = [frame(call_of("t", each)) for each in growing]
    frames += [frame(call_of("t", growing[-1], "o")), frame(call_of("t", "", "o"))]
    _, result = decode([*frames, stop(text="答")])
    assert [(s.id, s.input, s.output) for s in result.steps] == [("thought-0", {"a": 1}, "o")]


def test_calls_that_a_frame_lists_side_by_side_keep_their_places() -> None:
    one, two = call_of("search", '{"q": "a"}'), call_of("search", '{"q": "b"}')
    called = one | {"observation": "x"}
    frames = [frame(one), frame(called), frame(called, two), frame(called, two)]
    _, result = decode([*frames, stop(called, two | {"observation": "y"}, text="答")])
    assert [(s.id, s.output) for s in result.steps] == [("thought-0", "x"), ("thought-1", "y")]
