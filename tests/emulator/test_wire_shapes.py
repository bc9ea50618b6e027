"""Scenarios speak the shapes that newer apps have on the wire, to the SDK as to a plain client.

One app per shape, each in the stream modes that show it. The frames are compared as they are sent,
without the decoder of this package.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dashscope import Application

from bailian_apps.emulator import Agent, Emulator, Node, Thought, When, Workflow, load_apps

APPS = """
apps:
  output-nodes:
    workflow:
      nodes:
        - {name: greeting, type: Output, output: [One mo, ment.]}
        - {name: writer, output: 'West Lake'}
        - {name: report, type: OUTPUT, mirrors: writer}
        - {name: end, type: End, output: '!'}
  end-alone:
    workflow:
      last_text: end
      nodes:
        - {name: greeting, type: Output, output: 'One moment.'}
        - {name: end, type: End, output: Sunny.}
  silent-end:
    workflow: {nodes: [{name: report, type: Output, output: [Sun, ny.]}]}
  json-nodes:
    workflow:
      nodes:
        - {name: start, type: Start, output: {user: {}}}
        - {name: city, type: Variable, output: {city: 杭州}}
        - {name: thinker, reasoning: [嗯, 嗯], output: [西湖, 很, 美], content: snapshots}
        - {name: part, type: AppComponent, output: [西, 湖], content: deltas}
        - {name: group, type: AgentGroup, reasoning: 想, output: [灵, 隐], content: snapshots}
        - {name: end, type: End, output: 好}
  json-end:
    workflow: {nodes: [{name: end, type: End, result: json, output: '{"city": "杭州",  "days": 2.50}'}]}
  bare-end:
    workflow: {nodes: [{name: end, type: End, result: bare, output: '{"city": "杭州",  "days": 2.50}'}]}
  text-end:
    workflow: {nodes: [{name: end, type: End, output: '{"city": "杭州",  "days": 2.50}'}]}
  search:
    workflow:
      nodes:
        - {name: books, type: Retrieval, result: json, output: [{content: 苏堤, score: 0.9}, {content: 白堤, score: 0.5}]}
        - {name: end, type: End, output: 好}
  statuses:
    workflow:
      nodes:
        - {name: which, type: Condition, output: left}
        - {name: left, after: which, when: {prompt: left}, output: L}
        - {name: right, after: which, when: {prompt: right}, output: R}
        - {name: more, after: right, output: M}
        - {name: odd, after: which, type: API, status: timeout}
        - {name: end, type: End, after: [left, right, more, odd], output: 'did {nodes.left}{nodes.right}{nodes.more}'}
  paused:
    workflow:
      nodes:
        - {name: report, type: Output, output: 'Which day?'}
        - {name: ask, type: Input, status: pause}
        - {name: never, output: never}
  loop:
    workflow:
      nodes:
        - {name: draft, id: LLM_d, output: [a, b], usage: {model_id: m, output_tokens: 2}}
        - {name: check, id: Script_c, type: Script, output: again}
        - {name: draft-2, id: LLM_d, output: [b, c], usage: {model_id: m, output_tokens: 3}}
        - {name: check-2, id: Script_c, type: Script, output: again}
        - {name: end, type: End, output: '{nodes.draft-2}'}
  renamed:
    workflow:
      late_names: true
      nodes:
        - {name: 大模型_1, id: LLM_j45e, output: [西湖, 醋鱼]}
        - {name: 结束, id: End_1, type: End, mirrors: 大模型_1}
  stopped:
    workflow: {finish_reason: length, nodes: [{name: end, type: End, output: [half, of]}]}
  stopped-null:
    workflow: {finish_reason: null, nodes: [{name: end, type: End, output: [half, of]}]}
  unasked:
    workflow: {unasked: true, nodes: [{name: a, output: 西湖}, {name: end, type: End, output: 好}]}
  agent:
    agent:
      unasked: true
      finish_reason: "null"
      thoughts:
        - {retrieval: 手册, arguments: {query: "{prompt}"}}
        - {retrieval: 年鉴, observation: [{content: 苏堤, score: 0.9}, {text: 白堤}]}
        - {tool: weather, arguments: ['{"city": ', '"杭州"}'], observation: "20"}
        - {tool: find, type: mcp, arguments: ['{"key": "a"}'], observation: found}
      references: [{title: 手册, text: 杭州多雨, doc_id: d, score: 0.8}]
      text: [晴, 。]
  newest:
    agent:
      listed: newest
      thoughts:
        - {reasoning: [先, 查]}
        - {tool: search, type: mcp, arguments: {q: West Lake}, observation: page 7}
        - {tool: search, type: mcp, arguments: {q: page 7}, observation: a lake}
        - {reasoning: 好}
      text: 湖。
"""
ANSWERS = {
    "output-nodes": "One moment.West Lake!",
    "end-alone": "Sunny.",
    "silent-end": "Sunny.",
    "json-nodes": "好",
    "json-end": '{"city": "杭州",  "days": 2.50}',
    "bare-end": '{"city": "杭州",  "days": 2.50}',
    "text-end": '{"city": "杭州",  "days": 2.50}',
    "search": "好",
    "statuses": "did L",
    "paused": "Which day?",
    "loop": "bc",
    "renamed": "西湖醋鱼",
    "stopped": "halfof",
    "stopped-null": "halfof",
    "unasked": "好",
    "agent": "晴。",
    "newest": "湖。",
}
MODES = ["full_thoughts", "message_format_plus", "message_format", "agent_format"]

Outputs = list[dict[str, Any]]
Reader = Callable[..., Outputs]


@pytest.fixture(scope="module")
def cloud(
    tmp_path_factory: pytest.TempPathFactory, requests_of_this_sdk: None
) -> Iterator[Emulator]:
    path = tmp_path_factory.mktemp("shapes") / "apps.yaml"
    path.write_text(APPS, encoding="utf-8")
    with Emulator(apps=load_apps(path)) as cloud:
        yield cloud


@pytest.fixture
def read(cloud: Emulator, post: Callable[..., Any]) -> Reader:
    """Return the outputs of a stream as they were sent."""

    def read(app_id: str, mode: str, *, incremental: bool = True, **fields: Any) -> Outputs:
        asked = {"flow_stream_mode": mode, "has_thoughts": True, "incremental_output": incremental}
        return post(cloud, app_id, stream=True, parameters=asked, **fields).outputs

    return read


def nodes_of(output: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(thought["response"]) for thought in output.get("thoughts") or []]


def contents(outputs: Outputs, node_name: str) -> list[str]:
    messages = [output["workflow_message"] for output in outputs if "workflow_message" in output]
    return [each["message"]["content"] for each in messages if each["node_name"] == node_name]


def node_results(outputs: Outputs, node_name: str) -> list[str]:
    listed = [node for output in outputs for node in nodes_of(output)]
    return [node["nodeResult"] for node in listed if node["nodeName"] == node_name]


def actions_of(outputs: Outputs, name: str) -> Outputs:
    """Return the entries of an agent's action, without those that repeat the one before."""
    listed = [thought for output in outputs for thought in output.get("thoughts", [])]
    found = [thought for thought in listed if thought["action_name"] == name]
    return [each for place, each in enumerate(found) if not place or each != found[place - 1]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("app_id", ANSWERS)
def test_the_sdk_streams_every_shape_in_every_mode(
    cloud: Emulator, read: Reader, app_id: str, mode: str
) -> None:
    fields = {"prompt": "left"}
    sent = read(app_id, mode, **fields)
    answer = Application.call(
        app_id=app_id,
        api_key="key",
        base_address=cloud.base_url,
        stream=True,
        incremental_output=True,
        has_thoughts=True,
        flow_stream_mode=mode,
        **fields,
    )
    seen = [response.output for response in answer]
    assert [each.text for each in seen] == [output.get("text") for output in sent]
    assert [[thought.response for thought in each.thoughts or []] for each in seen] == [
        [thought.get("response") for thought in output.get("thoughts", [])] for output in sent
    ]
    texts = [output.get("text") or "" for output in sent]
    whole = "".join(texts) if app_id in ("agent", "newest") else texts[-1]
    assert whole == ANSWERS[app_id]
    whole_answer = Application.call(
        app_id=app_id, api_key="key", base_address=cloud.base_url, **fields
    )
    assert whole_answer.output.text == ANSWERS[app_id]


def test_output_nodes_speak_before_the_end_node(read: Reader) -> None:
    for mode in ("message_format", "message_format_plus"):
        outputs = read("output-nodes", mode)
        assert contents(outputs, "greeting") == ["One mo", "ment."]
        assert "".join(contents(outputs, "report")) == "West Lake"
        assert contents(outputs, "end") == ["!"]
        assert bool(contents(outputs, "writer")) == (mode == "message_format_plus")
    texts = [output.get("text", "") for output in read("output-nodes", "agent_format")]
    assert "".join(texts[:-1]) == "One moment.West Lake"
    full = read("output-nodes", "full_thoughts")
    assert '{"result":"One mo"}' in node_results(full, "greeting")
    ended = {node["nodeName"]: node["nodeType"] for node in nodes_of(full[-1])}
    assert (ended["greeting"], ended["report"]) == ("Output", "OUTPUT")
    silent = read("silent-end", "message_format")
    assert (contents(silent, "report"), contents(silent, "结束")) == (["Sun", "ny."], [""])


def test_json_nodes_speak_in_deltas_or_in_snapshots(read: Reader) -> None:
    outputs = read("json-nodes", "message_format_plus")
    assert contents(outputs, "start") == ['{"user":{}}']
    assert contents(outputs, "city") == ['{"city":"杭州"}']
    assert contents(outputs, "part") == ['{"result":"西"}', '{"result":"湖"}']
    thinker = [json.loads(content) for content in contents(outputs, "thinker")]
    assert [each["reasoningContent"] for each in thinker] == ["嗯", "嗯嗯", "嗯嗯", "嗯嗯", "嗯嗯"]
    assert [each["result"] for each in thinker] == ["", "", "西湖", "西湖很", "西湖很美"]
    group = [json.loads(content) for content in contents(outputs, "group")]
    assert group[-1] == {"result": "灵隐", "reasoningContent": "想"}
    assert len(group) == 3
    grown = read("json-nodes", "message_format_plus", incremental=False)
    assert contents(grown, "thinker") == contents(outputs, "thinker")
    assert contents(grown, "part") == ['{"result":"西"}', '{"result":"西湖"}']
    assert contents(read("json-nodes", "message_format"), "end") == ["好"]


@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize(
    ("app_id", "result"),
    [
        ("json-end", '{"result":{"city": "杭州",  "days": 2.50}}'),
        ("bare-end", '{"city": "杭州",  "days": 2.50}'),
        ("text-end", '{"result":"{\\"city\\": \\"杭州\\",  \\"days\\": 2.50}"}'),
    ],
)
def test_the_json_of_an_end_node_is_sent_as_it_is_written(
    read: Reader, app_id: str, result: str, incremental: bool
) -> None:
    name = "end"
    full = read(app_id, "full_thoughts", incremental=incremental)
    assert node_results(full, name) == [result]
    for mode in ("message_format", "message_format_plus"):
        assert contents(read(app_id, mode, incremental=incremental), name) == [ANSWERS[app_id]]


def test_a_result_that_is_no_json_is_a_mistake_of_the_scenario(post: Callable[..., Any]) -> None:
    end = Node(name="end", type="End", result="json", output="{prompt}")
    with Emulator(apps={"app": Workflow(nodes=[end])}) as cloud:
        assert post(cloud, prompt='{"a":1}').output["text"] == '{"a":1}'
        answer = post(cloud, prompt="hello")
    assert (answer.status, answer.body["code"]) == (500, "InternalError")
    assert "node 'end': `result: json` needs an `output` that is JSON" in answer.body["message"]


def test_a_retrieval_node_finds_a_list(
    cloud: Emulator, read: Reader, post: Callable[..., Any]
) -> None:
    found = '[{"content":"苏堤","score":0.9},{"content":"白堤","score":0.5}]'
    results = node_results(read("search", "full_thoughts"), "books")
    assert results == ['{"result":""}', f'{{"result":{found}}}', '{"result":""}']
    assert contents(read("search", "message_format_plus"), "books") == [found]
    grown = node_results(read("search", "full_thoughts", incremental=False), "books")
    assert grown == ['{"result":""}', *[f'{{"result":{found}}}'] * 2]
    whole = post(cloud, "search", parameters={"has_thoughts": True}).output
    assert node_results([whole], "books") == [f'{{"result":{found}}}']


def test_a_condition_skips_a_branch(read: Reader) -> None:
    for prompt, answer in [("left", "did L"), ("right", "did RM"), ("none", "did ")]:
        outputs = read("statuses", "full_thoughts", prompt=prompt)
        assert outputs[-1]["text"] == answer
        ended = {node["nodeName"]: node for node in nodes_of(outputs[-1])}
        status = {name: node["nodeStatus"] for name, node in ended.items()}
        assert status["odd"] == "timeout"
        assert status["left"] == ("success" if prompt == "left" else "skip")
        assert status["right"] == status["more"] == ("success" if prompt == "right" else "skip")
        skipped = [node for node in ended.values() if node["nodeStatus"] == "skip"]
        assert {tuple(node) for node in skipped} == {
            ("nodeName", "nodeType", "nodeStatus", "nodeId")
        }
    messages = [
        output["workflow_message"]
        for output in read("statuses", "message_format_plus", prompt="left")
        if "workflow_message" in output
    ]
    (right,) = [each for each in messages if each["node_name"] == "right"]
    assert (right["node_status"], right["node_is_completed"]) == ("skip", True)
    assert right["message"]["content"] == ""


def test_a_paused_node_ends_the_run_before_the_end_node(read: Reader) -> None:
    outputs = read("paused", "full_thoughts")
    assert [(node["nodeName"], node["nodeStatus"]) for node in nodes_of(outputs[-1])] == [
        ("开始", "success"),
        ("report", "success"),
        ("ask", "pause"),
    ]
    assert (outputs[-1]["finish_reason"], outputs[-1]["text"]) == ("stop", "Which day?")
    paused = read("paused", "message_format_plus")[-2]["workflow_message"]
    assert (paused["node_status"], paused["node_is_completed"]) == ("pause", False)


@pytest.mark.parametrize(
    ("status", "fields", "message_fields"),
    [
        (None, {"nodeErrorMsg": "坏了"}, {"node_error_msg": "坏了"}),
        (
            "fail",
            {"errorInfo": "坏了", "errorCode": "InvokePluginFailed"},
            {"error_info": "坏了", "error_code": "InvokePluginFailed"},
        ),
    ],
)
def test_a_failed_node_reports_its_error_in_either_form(
    post: Callable[..., Any], status: str | None, fields: Any, message_fields: Any
) -> None:
    failing = {"name": "api", "type": "API", "status": status}
    failing["fails"] = {"code": "InvokePluginFailed", "message": "坏了"}
    app = Workflow.model_validate({"nodes": [failing]})
    with Emulator(apps={"app": app}) as cloud:
        full, plus = (
            post(cloud, stream=True, parameters={"has_thoughts": True, "flow_stream_mode": mode})
            for mode in ("full_thoughts", "message_format_plus")
        )
    node = nodes_of(full.outputs[-1] if "output" in full.frames[-1] else full.frames[-2]["output"])
    assert node[-1]["nodeStatus"] == (status or "failed")
    assert {name: node[-1][name] for name in fields} == fields
    message = plus.frames[-2]["output"]["workflow_message"]
    assert {name: message[name] for name in message_fields} == message_fields
    assert full.frames[-1]["code"] == plus.frames[-1]["code"] == "InvokePluginFailed"


def test_a_loop_runs_the_same_nodes_again(read: Reader, post: Callable[..., Any]) -> None:
    outputs = read("loop", "full_thoughts")
    listed = [
        [(node["nodeId"], node["nodeName"], node["nodeStatus"]) for node in nodes_of(output)]
        for output in outputs
    ]
    assert [each[1] for each in listed if len(each) > 2 and each[1][2] == "executing"] == [
        ("LLM_d", "draft", "executing")
    ] * 2
    assert [entry[:2] for entry in listed[-1]] == [
        ("Start_1", "开始"),
        ("LLM_d", "draft"),
        ("Script_c", "check"),
        ("End_6", "end"),
    ]
    plus = read("loop", "message_format_plus")
    pieces = [json.loads(content)["result"] for content in contents(plus, "draft")]
    assert pieces == ["a", "b", "b", "c"]
    grown = read("loop", "message_format_plus", incremental=False)
    pieces = [json.loads(content)["result"] for content in contents(grown, "draft")]
    assert pieces == ["a", "ab", "b", "bc"]
    assert contents(grown, "check") == ["again", "again"]


def test_the_tokens_of_every_run_of_a_node_count(cloud: Emulator, post: Callable[..., Any]) -> None:
    models = post(cloud, "loop").body["usage"]["models"]
    assert [model["output_tokens"] for model in models] == [2, 3]


def test_a_node_has_its_real_name_when_it_speaks(read: Reader) -> None:
    names = [[n["nodeName"] for n in nodes_of(each)] for each in read("renamed", "full_thoughts")]
    assert names == [
        [],
        ["开始"],
        ["开始", "LLM_j45e", "End_1"],
        *[["开始", "大模型_1", "结束"]] * 3,
    ]
    plus = read("renamed", "message_format_plus")
    said = [each["workflow_message"]["node_name"] for each in plus if "workflow_message" in each]
    assert set(said) == {"开始", "大模型_1", "结束"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("app_id", "reason"), [("stopped", "length"), ("stopped-null", None), ("agent", "null")]
)
def test_a_forced_stop_shows_in_the_last_frame(
    cloud: Emulator,
    read: Reader,
    post: Callable[..., Any],
    app_id: str,
    reason: str | None,
    mode: str,
) -> None:
    outputs = read(app_id, mode)
    assert [output["finish_reason"] for output in outputs[:-1]] == ["null"] * (len(outputs) - 1)
    assert outputs[-1]["finish_reason"] == reason
    whole = post(cloud, app_id)
    assert whole.output["finish_reason"] == reason
    assert cloud.sessions[whole.output["session_id"]].turns[0].answer == ANSWERS[app_id]


def test_a_json_answer_has_what_nobody_asked_for(cloud: Emulator, post: Callable[..., Any]) -> None:
    output = post(cloud, "unasked").output
    assert [node["nodeName"] for node in nodes_of(output)] == ["开始", "a", "end"]
    message = output["workflow_message"]
    assert (message["node_name"], message["node_status"]) == ("end", "success")
    assert message["message"] == {"content": "好", "role": "assistant"}
    assert [each["action_name"] for each in post(cloud, "agent").output["thoughts"]] == [
        "手册",
        "年鉴",
        "weather",
        "find",
    ]
    for app_id in ("unasked", "agent"):
        streamed = post(cloud, app_id, stream=True).outputs
        assert not any("thoughts" in each or "workflow_message" in each for each in streamed)
    assert "thoughts" not in post(cloud, "search").output


def test_an_agent_lists_what_its_searches_found(read: Reader) -> None:
    outputs = read("agent", "full_thoughts")
    asked, answered = actions_of(outputs, "手册")
    assert asked == {
        "action": "rag",
        "action_name": "手册",
        "action_type": "agentRag",
        "arguments": '{"query":"你好"}',
        "observation": "",
    }
    assert json.loads(answered["observation"]) == [
        {
            "title": "手册",
            "dataId": "d",
            "content": "杭州多雨",
            "score": 0.8,
            "referenceIndex": 1,
        }
    ]
    *_, other = actions_of(outputs, "年鉴")
    assert other["arguments"] == "{}"
    assert other["observation"] == '[{"content":"苏堤","score":0.9},{"text":"白堤"}]'
    (reference,) = outputs[-1]["doc_references"]
    assert reference == {"index_id": "1", "title": "手册", "doc_id": "d", "text": "杭州多雨"}


def test_the_arguments_of_a_tool_may_only_stream(read: Reader) -> None:
    deltas = read("agent", "full_thoughts")
    pieces = [each["action_input_stream"] for each in actions_of(deltas, "weather")]
    assert pieces == ['{"city": ', '"杭州"}', ""]
    assert not any("action_input" in each for each in actions_of(deltas, "weather"))
    assert [each["arguments"] for each in actions_of(deltas, "find")] == ['{"key": "a"}', ""]
    grown = read("agent", "full_thoughts", incremental=False)
    texts = [each["action_input_stream"] for each in actions_of(grown, "weather")]
    assert texts == ['{"city": ', '{"city": "杭州"}', '{"city": "杭州"}']
    assert {each["arguments"] for each in actions_of(grown, "手册")} == {'{"query":"你好"}'}


def test_a_frame_may_list_only_the_newest_thought(
    cloud: Emulator, read: Reader, post: Callable[..., Any]
) -> None:
    outputs = read("newest", "full_thoughts")
    assert {len(output.get("thoughts", [])) for output in outputs} == {0, 1}
    searches = [(each["arguments"], each["observation"]) for each in actions_of(outputs, "search")]
    first, second = '{"q":"West Lake"}', '{"q":"page 7"}'
    assert searches == [(first, ""), (first, "page 7"), (second, ""), (second, "a lake")]
    assert "thoughts" not in outputs[-1]
    grown = read("newest", "full_thoughts", incremental=False)
    assert actions_of(grown, "search") == actions_of(outputs, "search")
    reasoning = [each["thought"] for each in actions_of(grown, "思考过程")]
    assert reasoning == ["先", "先查", "好"]
    whole = post(cloud, "newest", parameters={"has_thoughts": True}).output
    assert len(whole["thoughts"]) == 4


def test_a_scenario_is_the_same_in_python(tmp_path: Path) -> None:
    path = tmp_path / "apps.yaml"
    path.write_text(APPS, encoding="utf-8")
    apps = load_apps(path)
    nodes = [
        Node(name="greeting", type="Output", output="One moment."),
        Node(name="end", type="End", output="Sunny."),
    ]
    assert apps["end-alone"] == Workflow(last_text="end", nodes=nodes)
    left = Node(name="left", after=["which"], when=When(prompt="left"), output="L")
    assert apps["statuses"].nodes[1] == left  # type: ignore[union-attr]
    thoughts = [
        Thought(reasoning=["先", "查"]),
        Thought(tool="search", type="mcp", arguments={"q": "West Lake"}, observation="page 7"),
        Thought(tool="search", type="mcp", arguments={"q": "page 7"}, observation="a lake"),
        Thought(reasoning="好"),
    ]
    assert apps["newest"] == Agent(listed="newest", thoughts=thoughts, text="湖。")
