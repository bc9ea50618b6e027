"""The answer of a workflow whose Output nodes, or whose JSON, say a part of it."""

from __future__ import annotations

import json
import logging
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailian_apps import AppEvent, AppResult, StepDelta, TextDelta
from bailian_apps.core.decoder import Decoder
from bailian_apps.core.values import member_text

MODES = (None, "full_thoughts", "message_format", "message_format_plus", "a_mode_of_tomorrow")
WAYS = [*((mode, "thoughts") for mode in MODES[:2]), *((mode, "message") for mode in MODES[2:])]


def listed(
    node_id: str, text: Any, *, type_: str | None = "Output", done: bool = False, name: str = "n"
) -> dict[str, Any]:
    """A frame that lists one node in `thoughts`; `text` may be a raw `nodeResult` in a list."""
    result = text[0] if isinstance(text, list) else json.dumps({"result": text})
    node = {"nodeId": node_id, "nodeName": name, "nodeType": type_, "nodeResult": result}
    node["nodeStatus"] = "success" if done else "executing"
    output = {"finish_reason": "null", "thoughts": [{"response": json.dumps(node)}]}
    return {"output": output}


def said(
    node_id: str, text: Any, *, type_: str | None = "Output", done: bool = False, name: str = "n"
) -> dict[str, Any]:
    """A frame with a `workflow_message`."""
    message = {
        "node_id": node_id, "node_name": name, "node_type": type_, "node_is_completed": done,
        "node_status": "success" if done else "executing", "message": {"content": text},
    }  # fmt: skip
    return {"output": {"finish_reason": "null", "workflow_message": message}}


def stop(text: Any = "", **output: Any) -> dict[str, Any]:
    return {"output": {"finish_reason": "stop", "text": text} | output}


def decode(
    frames: list[dict[str, Any]],
    mode: str | None = None,
    output_nodes: Literal["answer", "steps"] = "answer",
) -> tuple[str, AppResult]:
    decoder = Decoder(flow_stream_mode=mode, output_nodes=output_nodes)
    events: list[AppEvent] = [event for frame in frames for event in decoder.feed(frame)]
    result = decoder.finish()
    for step in result.steps:
        pieces = (e.text for e in events if isinstance(e, StepDelta) and e.step_id == step.id)
        assert "".join(pieces) == step.output
    streamed = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert streamed == result.text
    return streamed, result


def run(way: str, *parts: tuple[str, str, list[str]], final: str = "") -> list[dict[str, Any]]:
    """Frames in which nodes (id, type, pieces) speak one after the other."""
    say = listed if way == "thoughts" else said
    frames: list[dict[str, Any]] = []
    for node_id, type_, pieces in parts:
        frames += [say(node_id, piece, type_=type_) for piece in pieces]
        frames.append(say(node_id, "", type_=type_, done=True))
    return [*frames, stop(final)]


FIRST = ("Output_1", "Output", ["请稍", "候。"])
SECOND = ("Output_2", "OUTPUT", ["查到了。"])
END = ("End_1", "End", ["杭州", "晴。"])
SILENT_END = ("End_1", "End", [])


@pytest.mark.parametrize(("mode", "way"), WAYS)
@pytest.mark.parametrize(
    ("parts", "final", "text"),
    [
        ([FIRST, END], "请稍候。杭州晴。", "请稍候。杭州晴。"),
        ([FIRST, END], "杭州晴。", "请稍候。杭州晴。"),
        ([FIRST, END], "杭州晴。天暖。", "请稍候。杭州晴。天暖。"),
        ([FIRST, END], "", "请稍候。杭州晴。"),
        ([FIRST, SILENT_END], "", "请稍候。"),
        ([FIRST, SILENT_END], "请稍候。", "请稍候。"),
        ([FIRST, SILENT_END], "请稍候。杭州晴。", "请稍候。杭州晴。"),
        ([FIRST, SILENT_END], "杭州晴。", "请稍候。杭州晴。"),
        ([FIRST, SECOND, SILENT_END], "杭州晴。", "请稍候。查到了。杭州晴。"),
        ([FIRST, SECOND, END], "请稍候。查到了。杭州晴。", "请稍候。查到了。杭州晴。"),
    ],
)
def test_output_nodes_say_the_first_part_of_the_answer(
    mode: str | None, way: str, parts: Any, final: str, text: str
) -> None:
    streamed, result = decode(run(way, *parts, final=final), mode)
    assert (streamed, result.final_text) == (text, None)


@pytest.mark.parametrize(("mode", "way"), WAYS)
def test_an_end_node_that_repeats_what_output_nodes_said_says_it_once(
    mode: str | None, way: str
) -> None:
    words = ["西湖", "很", "美"]
    mirrored = ("Output_1", "Output", words), ("End_1", "End", ["西", "湖很美"])
    for final, text in (("西湖很美", "西湖很美"), ("西湖很美西湖很美", "西湖很美西湖很美")):
        assert decode(run(way, *mirrored, final=final), mode)[0] == text
    longer = ("Output_1", "Output", words), ("End_1", "End", ["西湖很美，", "去吧"])
    assert decode(run(way, *longer, final="西湖很美，去吧"), mode)[0] == "西湖很美，去吧"
    other = ("Output_1", "Output", words), ("End_1", "End", ["西湖", "远"])
    for final in ("西湖远", "西湖很美西湖远"):
        _, result = decode(run(way, *other, final=final), mode)
        assert (result.text, result.final_text) == ("西湖很美西湖远", None)


@pytest.mark.parametrize(
    ("said_by", "final", "text", "agrees"),
    [
        ([("LLM", ["晴。"]), ("Output", ["晴。"])], "晴。", "晴。", True),
        ([("LLM", ["晴。"]), ("Output", ["晴。"])], "", "晴。", True),
        ([("LLM", ["晴。"]), ("Output", ["晴。"])], "晴。晴。", "晴。晴。", True),
        (
            [("LLM", ["今天", "晴。"]), ("Output", ["今", "天晴。", "再见"])],
            "",
            "今天晴。再见",
            True,
        ),
        ([("LLM", ["晴。"]), ("End", ["晴。", "再见"])], "晴。再见", "晴。再见", True),
        ([("Output", ["等。"]), ("LLM", ["晴。"]), ("Output", ["晴。"])], "", "等。晴。", True),
        ([("Output", ["等。"]), ("LLM", ["晴。"]), ("End", ["晴。"])], "晴。", "等。晴。", True),
        ([("Output", ["等。"]), ("LLM", ["晴。"]), ("End", ["等。晴。"])], "", "等。晴。", True),
        ([("LLM", ["晴。"]), ("Output", ["等。"]), ("Output", ["晴。"])], "", "晴。等。", True),
        ([("Output", ["等。"]), ("Output", ["等。"])], "", "等。等。", True),
        ([("LLM", ["等。"]), ("LLM", ["等。"])], "", "等。等。", True),
        ([("LLM", ["晴天。"]), ("Output", ["晴"]), ("Output", ["雨"])], "", "晴天。晴雨", True),
        ([("LLM", ["晴天。"]), ("Output", ["晴", "雨"])], "", "晴天。晴雨", True),
        ([("LLM", ["晴"]), ("Output", ["。"]), ("Output", ["晴天"])], "", "晴。晴天", True),
        ([("LLM", ["晴天。"]), ("Output", ["晴"])], "雨", "晴天。晴雨", True),
        ([("LLM", ["晴天。"]), ("End", ["晴"])], "", "晴天。晴", True),
        ([("LLM", ["晴。"]), ("Output", ["晴。"])], "雨。", "晴。雨。", True),
        ([("LLM", ["晴。"]), ("Output", ["晴。"]), ("End", ["雨"])], "晴。晴。雨", "晴。雨", False),
    ],
)
def test_a_node_that_shows_what_another_has_streamed_adds_only_what_is_new(
    said_by: list[tuple[str, list[str]]], final: str, text: str, agrees: bool
) -> None:
    parts = [(f"{type_}_{n}", type_, pieces) for n, (type_, pieces) in enumerate(said_by)]
    streamed, result = decode(run("message", *parts, final=final), "message_format")
    assert (streamed, result.final_text) == (text, None if agrees else final)
    assert [step.output for step in result.steps] == ["".join(pieces) for _, pieces in said_by]


@pytest.mark.parametrize("shows", ["Output", "End"])
def test_a_node_that_shows_another_while_it_streams_adds_nothing(shows: str) -> None:
    words = ["今天", "晴", "。"]
    frames = [
        said(f"{type_}_1", word, type_=type_) for word in words for type_ in ("LLM", shows, "LLM_2")
    ]
    frames += [said(f"{type_}_1", "", type_=type_, done=True) for type_ in ("LLM", shows)]
    alone = [frame for frame in frames if "LLM_2" not in str(frame)]
    for final in ("今天晴。", ""):
        assert decode([*alone, stop(final)], "message_format")[0] == "今天晴。"
    assert decode([*frames, stop()], "message_format")[0] == "今天今天晴晴。。"


@pytest.mark.parametrize(("mode", "way"), WAYS)
@pytest.mark.parametrize("type_", ["Output", "End"])
@pytest.mark.parametrize(
    ("pieces", "final", "text"),
    [
        (["A", "A"], "A", "A"),
        (["A", "A"], "AA", "AA"),
        (["A", "A"], "", "AA"),
        (["A", "A", "A"], "AA", "AA"),
        (["A", "A", "A"], "AAA", "AAA"),
        (["A", "A", "A"], "", "AAA"),
        (["A", "B", "AB"], "AB", "AB"),
        (["A", "B", "AB"], "ABAB!", "ABAB!"),
        (["A", "A"], "B", "AAB"),
    ],
)
def test_a_last_piece_that_may_be_listed_again_is_left_to_the_last_frame(
    mode: str | None, way: str, type_: str, pieces: list[str], final: str, text: str
) -> None:
    say = listed if way == "thoughts" else said
    frames = [say("a", piece, type_=type_) for piece in pieces[:-1]]
    frames.append(say("a", pieces[-1], type_=type_, done=True))
    streamed, result = decode([*frames, stop(final)], mode)
    if type_ == "End" and final == "B":
        assert (streamed, result.final_text) == ("AA", "B")
    else:
        assert (streamed, result.final_text) == (text, None)
    if type_ == "End" and final == text:  # the End node's part alone
        streamed, result = decode([say("o", "C", done=True), *frames, stop(final)], mode)
        assert (streamed, result.final_text) == ("C" + text, None)
    if type_ == "Output":
        frames.append(say("b", "C", type_="Output", done=True))
        assert decode([*frames, stop()], mode)[0] == "".join(pieces) + "C"


@pytest.mark.parametrize(("mode", "way"), WAYS)
@pytest.mark.parametrize("final", ["好！！再见", ""])
def test_a_node_that_shows_a_last_piece_held_back_and_goes_on_says_it_once(
    mode: str | None, way: str, final: str
) -> None:
    say = listed if way == "thoughts" else said
    frames = [say("o", piece, done=last) for piece, last in (("好", 0), ("！", 0), ("！", 1))]
    frames += [say("e", piece, type_="End") for piece in ("好", "！", "！", "再见")]
    frames.append(say("e", "", type_="End", done=True))
    streamed, result = decode([*frames, stop(final)], mode)
    assert (streamed, result.final_text) == ("好！！再见", None)


@pytest.mark.parametrize("final", ["西湖很美\n西湖", "西湖", ""])
def test_a_repetition_that_never_ended_is_left_to_the_last_frame(final: str) -> None:
    parts = ("Output_1", "Output", ["西湖很美"]), ("End_1", "End", ["西湖"])
    streamed, _ = decode(run("message", *parts, final=final), "message_format")
    assert streamed.startswith("西湖很美")
    assert streamed.endswith("西湖")


def test_parts_that_stand_apart_in_the_last_frame_are_not_doubled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    final = "请稍候。\n\n查到了。\n杭州晴。完"
    with caplog.at_level(logging.WARNING, "bailian_apps"):
        streamed, result = decode(run("message", FIRST, SECOND, END, final=final), "message_format")
    assert (streamed, result.final_text) == ("请稍候。查到了。杭州晴。完", final)
    assert not caplog.text, "only white space differs"


@pytest.mark.parametrize(("mode", "way"), WAYS)
@pytest.mark.parametrize(
    ("parts", "output_nodes", "final", "agrees"),
    [
        ([END], "answer", "晴。", False),
        ([END], "steps", "不，杭州晴。", False),
        ([FIRST, END], "answer", "晴。", False),
        ([FIRST, END], "answer", "候。杭州晴。", False),
        ([FIRST, END], "steps", "候。杭州晴。", False),
        ([FIRST, ("End_1", "End", ["\n杭州", "晴。"])], "answer", "杭州晴。", True),
        ([FIRST, END], "steps", "请稍 候。\n杭州晴。", True),
    ],
)
def test_a_final_text_that_is_a_tail_of_another_part_is_a_contradiction(
    mode: str | None,
    way: str,
    parts: Any,
    output_nodes: Any,
    final: str,
    agrees: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "bailian_apps"):
        streamed, result = decode(run(way, *parts, final=final), mode, output_nodes)
    assert streamed == result.text
    assert result.final_text == (None if agrees else final)
    assert ("final_text" in caplog.text) == (not agrees)
    assert "晴" not in caplog.text


def test_parallel_output_nodes_are_joined_as_they_came() -> None:
    frames = [
        said("Output_1", "甲"),
        said("Output_2", "乙"),
        said("Output_1", "丙", done=True),
        said("Output_2", "丁", done=True),
    ]
    streamed, result = decode([*frames, stop("甲丙乙丁。")], "message_format")
    assert (streamed, result.final_text) == ("甲乙丙丁。", "甲丙乙丁。")


@pytest.mark.parametrize(("mode", "way"), WAYS)
def test_output_nodes_are_only_steps_if_asked(mode: str | None, way: str) -> None:
    for final in ("杭州晴。", "请稍候。杭州晴。"):
        streamed, result = decode(run(way, FIRST, END, final=final), mode, "steps")
        assert (streamed, result.final_text) == ("杭州晴。", None)
        assert [step.output for step in result.steps] == ["请稍候。", "杭州晴。"]
    streamed, result = decode(run(way, FIRST, END, final="杭州雨。"), mode, "steps")
    assert (streamed, result.final_text) == ("杭州晴。", "杭州雨。")
    assert decode(run(way, FIRST, SILENT_END), mode, "steps")[0] == ""


@pytest.mark.parametrize(
    ("type_", "node_id", "name", "speaks"),
    [
        ("Output", "a", "n", True),
        ("OUTPUT", "a", "n", True),
        ("FlowOutput", "a", "n", True),
        (None, "Output_x1", "n", True),
        (None, "a", "流程输出_1", True),
        ("Message", "a", "My OUTPUT", True),
        ("LLM", "a", "output_writer", False),
        ("Start", "a", "output", False),
        ("Retrieval", "a", "output", False),
        ("Script", "a", "n", False),
        (None, "a", "输出", False),
    ],
)
def test_an_output_node_is_known_by_its_type_or_its_name(
    type_: str | None, node_id: str, name: str, speaks: bool
) -> None:
    for say, mode in ((listed, None), (said, "message_format_plus")):
        frames = [say(node_id, "请稍候。", type_=type_, name=name, done=True), stop("晴。")]
        assert decode(frames, mode)[0] == ("请稍候。晴。" if speaks else "晴。")


@pytest.mark.parametrize("type_", ["LLM", "Script", "AppComponent", None])
def test_every_node_that_speaks_in_message_format_is_heard(type_: str | None) -> None:
    frames = [said("a", "请稍候。", type_=type_), said("a", "", type_=type_, done=True)]
    assert decode([*frames, stop("晴。")], "message_format")[0] == "请稍候。晴。"


def test_the_one_packet_of_start_and_variable_nodes_is_not_an_answer() -> None:
    variables = '{"user":{},"city":"杭州"}'
    for type_, name in (("Start", "开始"), ("Variable", "output"), (None, "output_vars")):
        frame = said("a", variables, type_=type_, name=name, done=True)
        streamed, result = decode([frame, stop("晴。")], "message_format_plus")
        assert (streamed, result.steps[0].output) == ("晴。", variables)
    frame = said("a", variables, type_="Start", done=True)
    assert decode([frame, stop("晴。")], "message_format")[0] == "晴。"


def test_agent_format_streams_in_the_text_and_has_output_nodes_where_it_is_silent() -> None:
    spoken = listed("Output_1", "请稍候。", done=True)
    spoken["output"]["text"] = "请稍候。"
    frames = [spoken, {"output": {"text": "晴。"}}]
    assert decode([*frames, stop("请稍候。晴。")], "agent_format")[0] == "请稍候。晴。"
    silent = listed("Output_1", "请稍候。", done=True)
    for final, text in (
        ("晴。", "请稍候。晴。"),
        ("请稍候。晴。", "请稍候。晴。"),
        ("", "请稍候。"),
    ):
        assert decode([silent, stop(final)], "agent_format")[0] == text
        expected = "晴。" if final else ""
        assert decode([silent, stop(final)], "agent_format", "steps")[0] == expected
    streamed, result = decode([{"output": {"text": "雨"}}, stop("晴")], "agent_format")
    assert (streamed, result.final_text) == ("雨", "晴")


def test_one_json_answer_has_the_text_of_all_its_nodes() -> None:
    thoughts = [
        listed(node_id, text, type_=type_, done=True)["output"]["thoughts"][0]
        for node_id, type_, text in (("O", "Output", "请稍候。"), ("E", "End", "晴。"))
    ]
    last = said("E", "晴。", type_="End", done=True)["output"]["workflow_message"]
    for final in ("晴。", "请稍候。晴。"):
        frame = stop(final, thoughts=thoughts, workflow_message=last)
        assert decode([frame])[0] == "请稍候。晴。"


# ---------------------------------------------------------------- JSON of End nodes

ANSWER = '{"city":"杭州", "days":1e0,"id":123456789012345678901234567890,"sights":["西湖"]}'
PRETTY = json.dumps(json.loads(ANSWER), ensure_ascii=False, indent=2)


@pytest.mark.parametrize("final", [ANSWER, PRETTY, ""], ids=["same", "pretty", "empty"])
@pytest.mark.parametrize(
    "results",
    [
        ['{"result":' + ANSWER + "}"],
        [ANSWER],
        [json.dumps({"result": ANSWER})],
        ['{"result":{"city":"杭"}}', '{"result":' + ANSWER + "}"],
        ['{"result":' + ANSWER + "}"] * 3,
    ],
    ids=["object", "alone", "text", "growing", "relisted"],
)
@pytest.mark.parametrize("closed", [True, False])
def test_an_end_node_in_json_mode_has_the_text_of_the_wire(
    results: list[str], final: str, closed: bool
) -> None:
    frames = [listed("End_1", [result], type_="End") for result in results]
    frames += [listed("End_1", "", type_="End", done=True)] * closed
    streamed, result = decode([*frames, stop(final)])
    text_mode = results[0].startswith('{"result": "')
    assert streamed == (ANSWER if text_mode else final or ANSWER)
    assert result.final_text == (final if text_mode and final == PRETTY else None)
    assert result.steps[0].output == ANSWER


@pytest.mark.parametrize("final", [ANSWER, ""])
@pytest.mark.parametrize(
    "contents",
    [
        [ANSWER],
        [ANSWER[:5], ANSWER[5:]],
        ['{"city":"杭", "days":null,"id":null,"sights":[]}', ANSWER],
    ],
    ids=["whole", "deltas", "snapshots"],
)
def test_the_json_of_an_end_node_may_come_in_pieces(contents: list[str], final: str) -> None:
    for mode in ("message_format_plus", None):
        frames = [said("End_1", content, type_="End") for content in contents]
        frames.append(said("End_1", "", type_="End", done=True))
        streamed, result = decode([*frames, stop(final)], mode)
        assert (streamed, result.final_text) == (ANSWER, None)


def test_an_object_that_is_not_text_is_left_to_the_last_frame() -> None:
    for mode in ("message_format", "message_format_plus"):
        frame = said("End_1", json.loads(ANSWER), type_="End", done=True)
        streamed, result = decode([frame, stop(ANSWER)], mode)
        assert (streamed, result.final_text) == (ANSWER, None)


def test_lines_of_json_in_an_answer_are_all_kept() -> None:
    lines = ['{"a":1}', '{"a":2}', '{"b":"x"}', " end"]
    frames = [said("Output_1", line) for line in lines] + [said("Output_1", "", done=True)]
    assert decode([*frames, stop()], "message_format_plus")[0] == "".join(lines)


# ------------------------------------------------------- message_format_plus, JSON nodes


def wrapped(output: Any, reasoning: str | None = "") -> str:
    fields = {"result": output} | ({} if reasoning is None else {"reasoningContent": reasoning})
    return json.dumps(fields, ensure_ascii=False)


@pytest.mark.parametrize(
    ("pieces", "output"),
    [
        (["西湖", "西湖很", "西湖很美"], "西湖很美"),
        (["西湖", "很", "美"], "西湖很美"),
        (["西", "西", "湖"], "西西湖"),
        (["哈", "哈"], "哈哈"),
        (["哈", "哈", "哈哈哈"], "哈哈哈哈哈"),
        (["你", "好", "你好吗"], "你好你好吗"),
        (["西湖", "西湖很美", "完"], "西湖西湖很美完"),
        (["1", "10"], "110"),
        (["1", "10", " apples"], "110 apples"),
        (["1", "10", "100 apples"], "100 apples"),
        (["Hello, world", "Hello, world", "Hello, world!"], "Hello, world!"),
        (["Hello", "Hello", "Hello world"], "Hello world"),
        (["Hello", "Hello", "Hello"], "HelloHelloHello"),  # in doubt nothing is lost
        (["--------", "--------"], "-" * 16),
    ],
)
@pytest.mark.parametrize("type_", ["LLM", "AppComponent", "AgentGroup", None])
@pytest.mark.parametrize("reasoning", ["", None])
def test_a_json_node_sends_deltas_or_all_so_far(
    pieces: list[str], output: str, type_: str | None, reasoning: str | None
) -> None:
    frames = [said("a", wrapped(piece, reasoning), type_=type_) for piece in pieces]
    for last in ("", wrapped("", reasoning)):
        end = said("a", last, type_=type_, done=True)
        _, result = decode([*frames, end, stop("晴。")], "message_format_plus")
        assert result.steps[0].output == output
        assert result.text == "晴。"


def test_a_snapshot_that_comes_again_as_a_node_ends_adds_nothing() -> None:
    for pieces in (["西湖"], ["西", "西湖"]):
        frames = [said("a", wrapped(piece, "想"), type_="LLM") for piece in pieces]
        end = said("a", wrapped("西湖", "想"), type_="LLM", done=True)
        _, result = decode([*frames, end, stop("晴。")], "message_format_plus")
        assert (result.steps[0].output, result.steps[0].reasoning) == ("西湖", "想")


@pytest.mark.parametrize(
    ("pieces", "last", "output"),
    [
        (["哈"], "哈", "哈哈"),  # in doubt nothing is lost
        (["哈"] * 8, "哈", "哈" * 9),
        (["- "] * 4, "- ", "- " * 5),
        (["1"], "10", "110"),
        (["Hello"], "Hello", "HelloHello"),
        (["Hello", "Hello"], "Hello", "HelloHelloHello"),
        (["Hello, world"], "Hello, world", "Hello, world"),
        (["Hello", ", world"], "Hello, world", "Hello, world"),
        (["哈", "好"], "哈好", "哈好哈好"),
    ],
)
@pytest.mark.parametrize("type_", ["LLM", "Output"])
def test_a_last_json_piece_is_dropped_only_where_it_certainly_repeats(
    pieces: list[str], last: str, output: str, type_: str
) -> None:
    frames = [said("a", wrapped(piece), type_=type_) for piece in pieces]
    frames.append(said("a", wrapped(last), type_=type_, done=True))
    streamed, result = decode([*frames, stop()], "message_format_plus")
    assert result.steps[0].output == output
    assert streamed == (output if type_ == "Output" else "")


def test_deltas_stream_at_once_and_snapshots_after_a_few_pieces() -> None:
    def live(*pieces: str) -> list[str]:
        decoder = Decoder(flow_stream_mode="message_format_plus")
        frames = [decoder.feed(said("a", wrapped(piece), type_="LLM")) for piece in pieces]
        return ["".join(e.text for e in f if isinstance(e, StepDelta)) for f in frames]

    assert live("西湖", "很", "美") == ["西湖", "很", "美"]
    assert live("1", "10", " apples", "!") == ["1", "", "10 apples", "!"]
    assert live("西", "西湖", "西湖很", "西湖很美") == ["西", "", "湖很", "美"]
    assert live("Hello, world", "Hello, world!", "Hello, world!") == ["Hello, world", "!", ""]


@pytest.mark.parametrize(
    "pieces",
    [
        [("", "嗯"), ("", "嗯想"), ("西", "嗯想"), ("西湖", "嗯想")],
        [("", "嗯"), ("", "想"), ("西", ""), ("湖", "")],
        [("", "嗯"), ("", "嗯想"), ("西", ""), ("西湖", "")],
    ],
    ids=["snapshots", "deltas", "snapshots of one field"],
)
def test_reasoning_grows_as_the_text_does(pieces: list[tuple[str, str]]) -> None:
    frames = [said("a", wrapped(*piece), type_="LLM") for piece in pieces]
    _, result = decode([*frames, stop("晴。")], "message_format_plus")
    assert (result.steps[0].output, result.steps[0].reasoning) == ("西湖", "嗯想")
    assert result.reasoning == "嗯想"


def test_a_result_that_is_an_object_keeps_its_text_and_its_newest_form() -> None:
    contents = ['{"result":{"n":1.50},"reasoningContent":"想"}', '{"result":{"n":1.50,"m":2}}']
    frames = [said("a", content, type_="LLM") for content in contents]
    _, result = decode([*frames, stop("晴。")], "message_format_plus")
    assert (result.steps[0].output, result.steps[0].reasoning) == ('{"n":1.50,"m":2}', "想")


def test_an_interrupted_node_keeps_the_json_that_it_held_back() -> None:
    decoder = Decoder(flow_stream_mode="message_format_plus")
    decoder.feed(said("a", '{"x":1}', type_="Script"))
    assert decoder.partial().steps[0].output == '{"x":1}'


# ------------------------------------------------------------------- properties

WORDS = st.lists(st.text("ab 。😀", min_size=1, max_size=3), max_size=4)


@given(
    way=st.sampled_from(WAYS),
    outputs=st.lists(WORDS, max_size=3),
    end=WORDS,
    kind=st.sampled_from(["all", "alone", "none", "longer", "apart"]),
    output_nodes=st.sampled_from(["answer", "steps"]),
)
def test_nothing_of_an_answer_is_lost_and_the_stream_is_the_answer(
    way: Any, outputs: list[list[str]], end: list[str], kind: str, output_nodes: Any
) -> None:
    mode, channel = way
    parts = [(f"Output_{n}", "Output", pieces) for n, pieces in enumerate(outputs)]
    whole = ["".join(pieces) for pieces in (*outputs, end)]
    finals = {
        "all": "".join(whole), "alone": whole[-1], "none": "", "longer": "".join(whole) + "!",
        "apart": "\n".join(whole),
    }  # fmt: skip
    frames = run(channel, *parts, ("End_1", "End", end), final=finals[kind])
    streamed, result = decode(frames, mode, output_nodes)
    if output_nodes == "answer":
        assert streamed.startswith("".join(whole[:-1]))
    first = "".join(whole[:-1])
    repeats = first and whole[-1].startswith(first)  # then what it adds is all that is new
    if kind in ("all", "longer") and output_nodes == "answer" and not repeats:
        assert (streamed, result.final_text) == (finals[kind], None)
    if kind == "alone":
        assert whole[-1] in streamed


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            ["", "{", "{}", '{"a":"x"}', '{"a":"xy"}', '{"result":"哈"}', "哈", "哈哈"]
        ),
        st.builds(wrapped, st.sampled_from(["哈", "哈哈", "", None, 5, {"a": 1}, [1]])),
    ),
    max_size=5,
)


@given(st.sampled_from([*MODES, "agent_format"]), st.data())
def test_what_streams_is_the_answer_whatever_nodes_say(mode: Any, data: st.DataObject) -> None:
    frames: list[dict[str, Any]] = []
    for _ in range(data.draw(st.integers(0, 5))):
        type_ = data.draw(st.sampled_from(["Start", "LLM", "Output", "End", "Script", None]))
        for piece in data.draw(PIECES):
            done = data.draw(st.booleans())
            frames.append(said(f"{type_}_1", piece, type_=type_, done=done))
            frames.append(listed(f"{type_}_2", [piece], type_=type_, done=done))
    final = data.draw(st.sampled_from(["", "哈", "哈哈", '{"a":"xy"}', "{}"]))
    for output_nodes in ("answer", "steps"):
        _, result = decode([*frames, stop(final)], mode, output_nodes)
        assert final in result.text or final == result.final_text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=2), JSON, min_size=1), st.sampled_from([None, 0, 2]))
def test_a_member_is_found_in_any_spelling_of_an_object(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    for name, member in value.items():
        found = member_text(text, name)
        assert json.loads(found) == member
        assert found in text


def test_text_that_cannot_be_searched_is_returned_whole() -> None:
    deep = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
    for text in ("{", "5", '{"a"', '{"b":1}', deep):
        assert member_text(text, "a") == text


@pytest.mark.parametrize(("mode", "way"), WAYS)
@pytest.mark.parametrize(
    ("parts", "final"),
    [
        (("Rain.", "Full."), "Full. Rain."),
        (("Hello  world\r\nBye",), "Hello world\nBye"),
        (("Hello world, and more",), "Hello world"),
    ],
    ids=["another order", "other white space", "shorter"],
)
def test_a_final_text_that_says_output_nodes_again_doubles_nothing(
    parts: tuple[str, ...], final: str, mode: str | None, way: str
) -> None:
    node = listed if way == "thoughts" else said
    frames = [node(f"Output_{at}", text, done=True) for at, text in enumerate(parts)]
    streamed, result = decode([*frames, stop(final)], mode)
    assert (streamed, result.final_text) == ("".join(parts), final)


@pytest.mark.parametrize(("mode", "way"), WAYS)
@pytest.mark.parametrize("final", ["好！再见", "再见"])
def test_an_end_node_that_shows_less_than_is_held_doubles_no_more(
    mode: Any, way: str, final: str
) -> None:
    say = listed if way == "thoughts" else said
    frames = [say("o", piece, done=i == 2) for i, piece in enumerate(["好", "！", "！"])]
    frames += [say("e", piece, type_="End") for piece in ["好", "！", "再见"]]
    streamed, _ = decode([*frames, say("e", "", type_="End", done=True), stop(final)], mode)
    assert streamed == "好！！再见"
