"""A recording is replayed byte by byte, or in the form that the request asks for."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bailian_apps.emulator import Emulator

DELTAS = {"incremental_output": True, "has_thoughts": True}
SSE = [
    "agent-deep-thinking-elided-head.sse",
    "agent-deep-thinking-elided-tail.sse",
    "agent-plain-stream.sse",
    "error-app-id-invalid-elided.sse",
    "workflow-file-input-no-thoughts.sse",
    "workflow-message-format-plus-elided.sse",
    "workflow-message-format-text-in-completion-frame.sse",
    "workflow-message-format.sse",
    "workflow-two-llm-fixed-end.sse",
    "workflow-two-llm.sse",
]
FULL_THOUGHTS = ["workflow-two-llm.sse", "workflow-two-llm-fixed-end.sse", "workflow-timed.jsonl"]


def nodes_of(output: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The nodes of a frame by their ids, with their results read."""
    nodes = [json.loads(thought["response"]) for thought in output.get("thoughts", [])]
    return {node["nodeId"]: json.loads(node.get("nodeResult", "{}")) for node in nodes}


def joined_results(outputs: list[dict[str, Any]], field: str = "result") -> dict[str, str]:
    """The text of each node, joined from its deltas."""
    texts: dict[str, str] = {}
    for output in outputs:
        for node_id, result in nodes_of(output).items():
            texts[node_id] = texts.get(node_id, "") + result.get(field, "")
    return texts


@pytest.mark.parametrize("name", SSE)
def test_a_stream_is_the_recording_to_the_byte(
    recordings: Path, post: Callable[..., Any], name: str
) -> None:
    mode = {"flow_stream_mode": "message_format"} if "message-format" in name else {}
    with Emulator(apps={"app": recordings / name}) as cloud:
        answer = post(cloud, stream=True, parameters={**DELTAS, **mode})
    assert answer.content == (recordings / name).read_bytes()
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream;charset=UTF-8"


def test_a_message_format_recording_needs_no_mode(
    recordings: Path, post: Callable[..., Any]
) -> None:
    path = recordings / "workflow-message-format.sse"
    with Emulator(apps={"app": path}) as cloud:
        assert post(cloud, stream=True, parameters=DELTAS).content == path.read_bytes()


@pytest.mark.parametrize("name", ["workflow-timed.jsonl", "agent-hello.json"])
def test_other_files_are_streamed_as_frames(
    recordings: Path, post: Callable[..., Any], name: str
) -> None:
    text = (recordings / name).read_text()
    recorded = (
        [json.loads(line)["data"] for line in text.splitlines()]
        if name.endswith("l")
        else [json.loads(text)]
    )
    with Emulator(apps={"app": recordings / name}) as cloud:
        answer = post(cloud, stream=True, parameters=DELTAS)
    assert answer.frames == recorded
    ids = [line for line in answer.content.decode().split("\n") if line.startswith("id:")]
    assert ids == [f"id:{number}" for number in range(1, len(recorded) + 1)]


def test_a_recording_without_an_end_is_replayed_without_one(
    recordings: Path, post: Callable[..., Any]
) -> None:
    path = recordings / "workflow-deep-thinking-streamed-end-head.jsonl"
    recorded = [json.loads(line)["thoughts"] for line in path.read_text().splitlines()]
    with Emulator(apps={"app": path}) as cloud:
        answer = post(cloud, stream=True, parameters=DELTAS)
        sessions = cloud.sessions
    assert [output["thoughts"] for output in answer.outputs] == recorded
    (session,) = sessions.values()
    assert {output["session_id"] for output in answer.outputs} == {session.id}
    assert all(output.keys() == {"thoughts", "session_id"} for output in answer.outputs)
    assert session.turns == []


@pytest.mark.parametrize("name", SSE)
def test_one_json_answer_joins_all_frames(
    recordings: Path, post: Callable[..., Any], name: str
) -> None:
    with Emulator(apps={"app": recordings / name, "same": recordings / name}) as cloud:
        frames = post(cloud, "app", stream=True, parameters=DELTAS).frames
        answer = post(cloud, "same", parameters=DELTAS)
    if "output" not in frames[0]:
        assert answer.status == 400
        assert answer.body["code"] == frames[0]["code"]
        return
    assert answer.headers["content-type"].startswith("application/json")
    outputs = [frame["output"] for frame in frames]
    last = outputs[-1]
    text = last.get("text") or "".join(output.get("text", "") for output in outputs)
    assert answer.output.get("text", "") == text
    assert answer.output["finish_reason"] == last["finish_reason"]
    assert answer.body["usage"] == frames[-1]["usage"]
    assert "workflow_message" not in answer.output
    if name.startswith("workflow"):
        for field in ("result", "reasoningContent"):
            assert joined_results([answer.output], field) == joined_results(outputs, field)


def test_an_empty_later_field_does_not_replace_an_earlier_one(post: Callable[..., Any]) -> None:
    usage = {"models": [{"model_id": "m", "input_tokens": 1, "output_tokens": 2}]}
    references = [{"index_id": "1"}]
    frames = [
        {"output": {"text": "甲", "doc_references": references}, "usage": usage},
        {"output": {"text": "", "doc_references": None, "finish_reason": "stop"}, "usage": {}},
    ]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        answer = post(cloud)
    assert answer.body["usage"] == usage
    assert answer.output["doc_references"] == references


def test_json_in_an_agents_thought_is_not_a_node(post: Callable[..., Any]) -> None:
    thought = {"action_type": "mcp", "response": '{"content":[]}'}
    parameters = {**DELTAS, "flow_stream_mode": "message_format_plus"}
    with Emulator(apps={"app": lambda call: {"thoughts": [thought], "text": "好"}}) as cloud:
        (output,) = post(cloud, stream=True, parameters=parameters).outputs
        (grown,) = post(cloud, stream=True, parameters={"has_thoughts": True}).outputs
    assert output["thoughts"] == grown["thoughts"] == [thought]


def test_a_recorded_json_answer_is_replayed_unchanged(
    recordings: Path, post: Callable[..., Any]
) -> None:
    path = recordings / "agent-rag-citations.json"
    recorded = json.loads(path.read_text())
    with Emulator(apps={"app": path}) as cloud:
        answer = post(cloud, parameters=DELTAS)
    assert answer.output == recorded


def test_an_agents_reasoning_is_joined_in_json(recordings: Path, post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": recordings / "agent-deep-thinking-elided-head.sse"}) as cloud:
        (thought,) = post(cloud, parameters=DELTAS).output["thoughts"]
    assert (thought["thought"], thought["response"]) == ("嗯，用户", "嗯，用户")


def test_by_default_an_agents_text_is_cumulative(
    recordings: Path, post: Callable[..., Any]
) -> None:
    with Emulator(apps={"app": recordings / "agent-plain-stream.sse"}) as cloud:
        answer = post(cloud, stream=True)
    assert [output["text"] for output in answer.outputs] == [
        "你好！",
        "你好！有什么",
        "你好！有什么可以帮助",
        "你好！有什么可以帮助你的吗？",
        "你好！有什么可以帮助你的吗？",
    ]


def test_cumulative_reasoning_grows_and_then_stays(
    recordings: Path, post: Callable[..., Any]
) -> None:
    with Emulator(apps={"app": recordings / "agent-deep-thinking-elided-head.sse"}) as cloud:
        answer = post(cloud, stream=True, parameters={"has_thoughts": True})
    thoughts = [output["thoughts"][0] for output in answer.outputs]
    assert [thought["thought"] for thought in thoughts] == ["嗯", "嗯，", "嗯，用户"]
    assert [thought["response"] for thought in thoughts] == ["嗯", "嗯，", "嗯，用户"]


def test_cumulative_node_results_grow_frame_by_frame(
    recordings: Path, post: Callable[..., Any]
) -> None:
    with Emulator(apps={"app": recordings / "workflow-two-llm-fixed-end.sse"}) as cloud:
        outputs = post(cloud, stream=True, parameters={"has_thoughts": True}).outputs
    first = [nodes_of(output).get("LLM_j45e", {}).get("result") for output in outputs]
    assert first[:6] == [None, None, "", "西湖醋鱼,龙", "西湖醋鱼,龙井虾仁,东坡肉,", first[5]]
    whole = "西湖醋鱼,龙井虾仁,东坡肉,叫花鸡,宋嫂鱼羹"
    assert first[6:] == [whole] * 6
    assert outputs[-1]["text"] == "亲,对我的介绍还满意吗"


def test_cumulative_reasoning_of_a_node_grows(recordings: Path, post: Callable[..., Any]) -> None:
    path = recordings / "workflow-deep-thinking-streamed-end-head.jsonl"
    with Emulator(apps={"app": path}) as cloud:
        deltas = post(cloud, stream=True, parameters=DELTAS).outputs
        whole = post(cloud, stream=True, parameters={"has_thoughts": True}).outputs
    texts = joined_results(deltas, "reasoningContent")["LLM_T61i"]
    assert texts.startswith("嗯，用户问了一")
    assert nodes_of(whole[-1])["LLM_T61i"]["reasoningContent"] == texts


def test_cumulative_messages_grow_frame_by_frame(
    recordings: Path, post: Callable[..., Any]
) -> None:
    with Emulator(apps={"app": recordings / "workflow-message-format.sse"}) as cloud:
        outputs = post(cloud, stream=True).outputs
    contents = [output["workflow_message"]["message"]["content"] for output in outputs[:-1]]
    assert contents[0] == "我是通义千问"
    assert all(later.startswith(earlier) for earlier, later in pairwise(contents))
    assert contents[-1] == outputs[-1]["text"]


def test_cumulative_json_messages_grow_inside_their_json(
    recordings: Path, post: Callable[..., Any]
) -> None:
    with Emulator(apps={"app": recordings / "workflow-message-format-plus-elided.sse"}) as cloud:
        outputs = post(cloud, stream=True).outputs
    contents = [output["workflow_message"]["message"]["content"] for output in outputs[:5]]
    assert contents[1:4] == [
        '{"result":"你好","reasoningContent":""}',
        '{"result":"你好呀！有什么","reasoningContent":""}',
        '{"result":"你好呀！有什么","reasoningContent":""}',
    ]


def node(status: str, result: str) -> dict[str, Any]:
    """A payload whose one node has this status and result."""
    response = {
        "nodeId": "LLM_1",
        "nodeType": "LLM",
        "nodeStatus": status,
        "nodeResult": json.dumps({"result": result}),
    }
    return {"output": {"thoughts": [{"response": json.dumps(response)}], "finish_reason": "null"}}


def test_a_node_that_runs_again_starts_with_new_text(post: Callable[..., Any]) -> None:
    run = [node("executing", "一"), node("success", "二"), node("success", "")]
    again = [node("executing", "三"), node("success", "四")]
    with Emulator(apps={"app": lambda call: [*run, *again]}) as cloud:
        outputs = post(cloud, stream=True, parameters={"has_thoughts": True}).outputs
        mode = {**DELTAS, "flow_stream_mode": "message_format_plus"}
        messages = post(cloud, stream=True, parameters=mode).outputs
    results = [nodes_of(output)["LLM_1"]["result"] for output in outputs]
    assert results == ["一", "一二", "一二", "三", "三四"]
    done = [output["workflow_message"]["node_is_completed"] for output in messages]
    assert done == [False, True, False, True]


def test_a_node_that_repeats_its_text_is_encoded_again(post: Callable[..., Any]) -> None:
    run = [node("executing", ""), node("success", "一"), node("success", "")]
    with Emulator(apps={"app": lambda call: [*run, *run]}) as cloud:
        mode = {**DELTAS, "flow_stream_mode": "message_format_plus"}
        messages = post(cloud, stream=True, parameters=mode).outputs
    contents = [output["workflow_message"]["message"]["content"] for output in messages]
    assert [json.loads(content)["result"] for content in contents] == ["一", "一"]


@pytest.mark.parametrize("parameters", [{}, {"has_thoughts": False}])
@pytest.mark.parametrize("stream", [True, False])
def test_thoughts_come_only_when_asked_for(
    recordings: Path, post: Callable[..., Any], parameters: dict[str, Any], stream: bool
) -> None:
    with Emulator(apps={"app": recordings / "workflow-two-llm.sse"}) as cloud:
        answer = post(cloud, stream=stream, parameters={**parameters, "incremental_output": True})
    outputs = answer.outputs if stream else [answer.output]
    assert not any("thoughts" in output for output in outputs)
    assert outputs[-1]["text"] == "西湖,灵隐寺,宋城,西溪湿地,杭州塔"
    assert not any("text" in output for output in outputs[:-1])


@pytest.mark.parametrize("name", FULL_THOUGHTS)
@pytest.mark.parametrize("has_thoughts", [True, False])
def test_message_format_has_only_the_end_node(
    recordings: Path, post: Callable[..., Any], name: str, has_thoughts: bool
) -> None:
    parameters = {"incremental_output": True, "has_thoughts": has_thoughts}
    parameters["flow_stream_mode"] = "message_format"
    with Emulator(apps={"app": recordings / name}) as cloud:
        outputs = post(cloud, stream=True, parameters=parameters).outputs
    messages = [output for output in outputs if "workflow_message" in output]
    assert [message["workflow_message"]["node_type"] for message in messages] == ["End"]
    assert messages[0]["workflow_message"]["node_is_completed"] is True
    assert messages[0]["workflow_message"]["message"]["content"] == outputs[-1]["text"]
    assert outputs[-1].keys() == {"session_id", "finish_reason", "text"}
    assert outputs[-1]["finish_reason"] == "stop"
    assert not any("thoughts" in output for output in outputs)


def test_message_format_streams_a_streaming_end_node(
    recordings: Path, post: Callable[..., Any]
) -> None:
    path = recordings / "workflow-deep-thinking-streamed-end-tail.jsonl"
    with Emulator(apps={"app": path}) as cloud:
        full = post(cloud, stream=True, parameters=DELTAS).outputs
        mode = {**DELTAS, "flow_stream_mode": "message_format"}
        outputs = post(cloud, stream=True, parameters=mode).outputs
    messages = [output["workflow_message"] for output in outputs]
    assert "".join(m["message"]["content"] for m in messages) == joined_results(full)["End_7w1V"]
    assert [m["node_msg_seq_id"] for m in messages] == list(range(1, len(messages) + 1))
    assert [m["node_is_completed"] for m in messages] == [False] * (len(messages) - 1) + [True]
    assert {output["finish_reason"] for output in outputs} == {"null"}


@pytest.mark.parametrize("name", FULL_THOUGHTS)
def test_message_format_plus_has_all_nodes(
    recordings: Path, post: Callable[..., Any], name: str
) -> None:
    with Emulator(apps={"app": recordings / name}) as cloud:
        full = post(cloud, stream=True, parameters=DELTAS).outputs
        mode = {**DELTAS, "flow_stream_mode": "message_format_plus"}
        answer = post(cloud, stream=True, parameters=mode)
    texts: dict[str, str] = {}
    completed: list[str] = []
    for output in answer.outputs[:-1]:
        if "workflow_message" not in output:
            continue
        message = output["workflow_message"]
        content = message["message"]["content"]
        if message["node_type"] == "LLM" and content:
            content = json.loads(content)["result"]
        texts[message["node_id"]] = texts.get(message["node_id"], "") + content
        completed += [message["node_id"]] * message["node_is_completed"]
    assert texts == joined_results(full)
    assert completed == list(texts)
    assert answer.outputs[-1]["text"] == full[-1]["text"]
    assert answer.frames[-1]["usage"] is not None
    ids = [int(line[3:]) for line in answer.content.decode().split("\n") if line[:3] == "id:"]
    assert ids == list(range(1, len(ids) + 1))


def test_message_format_plus_keeps_the_reasoning(
    recordings: Path, post: Callable[..., Any]
) -> None:
    path = recordings / "workflow-deep-thinking-streamed-end-head.jsonl"
    mode = {**DELTAS, "flow_stream_mode": "message_format_plus"}
    with Emulator(apps={"app": path}) as cloud:
        full = post(cloud, stream=True, parameters=DELTAS).outputs
        outputs = post(cloud, stream=True, parameters=mode).outputs
    messages = [output["workflow_message"] for output in outputs]
    llm = [json.loads(m["message"]["content"]) for m in messages if m["node_type"] == "LLM"]
    reasoning = "".join(part["reasoningContent"] for part in llm)
    assert reasoning == joined_results(full, "reasoningContent")["LLM_T61i"]


def test_agent_format_streams_the_end_node_as_text(
    recordings: Path, post: Callable[..., Any]
) -> None:
    end, whole = ("执", "行"), "执行"

    def app(call: object) -> list[dict[str, Any]]:
        def payload(result: str, **output: str) -> dict[str, Any]:
            response = {
                "nodeId": "End_1",
                "nodeType": "End",
                "nodeStatus": "success" if "text" in output else "executing",
                "nodeResult": json.dumps({"result": result}),
            }
            thoughts = [{"response": json.dumps(response)}]
            return {"output": {"thoughts": thoughts, "finish_reason": "null", **output}}

        last = payload("", finish_reason="stop", text=whole)
        return [*(payload(delta) for delta in end), last]

    mode = {"flow_stream_mode": "agent_format"}
    with Emulator(apps={"app": app}) as cloud:
        deltas = post(cloud, stream=True, parameters={**mode, "incremental_output": True}).outputs
        grown = post(cloud, stream=True, parameters=mode).outputs
    assert [output["text"] for output in deltas] == [*end, whole]
    assert [output["text"] for output in grown] == ["执", "执行", "执行"]
    assert not any("thoughts" in output for output in deltas)


@pytest.mark.parametrize("name", FULL_THOUGHTS)
def test_agent_format_ends_with_the_whole_answer(
    recordings: Path, post: Callable[..., Any], name: str
) -> None:
    mode = {**DELTAS, "flow_stream_mode": "agent_format"}
    with Emulator(apps={"app": recordings / name, "same": recordings / name}) as cloud:
        outputs = post(cloud, stream=True, parameters=mode).outputs
        whole = post(cloud, "same").output["text"]
    assert [output["text"] for output in outputs if "text" in output] == [whole]
    assert outputs[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("mode", ["message_format", "message_format_plus", "agent_format"])
def test_an_agent_ignores_the_mode(recordings: Path, post: Callable[..., Any], mode: str) -> None:
    path = recordings / "agent-deep-thinking-elided-tail.sse"
    with Emulator(apps={"app": path}) as cloud:
        answer = post(cloud, stream=True, parameters={**DELTAS, "flow_stream_mode": mode})
    assert answer.content == path.read_bytes()


def test_a_recorded_json_error_is_an_http_error(tmp_path: Path, post: Callable[..., Any]) -> None:
    path = tmp_path / "throttled.json"
    path.write_text('{"status_code":429,"code":"Throttling","message":"slow","request_id":"r"}')
    with Emulator(apps={"app": path}) as cloud:
        answer = post(cloud)
    assert answer.status == 429
    assert answer.body == {"code": "Throttling", "message": "slow", "request_id": "r"}
