"""Scenarios answer in every stream mode, and invalid ones are refused with a remedy."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.pages import blocks

from bailian_apps import AppFailedError, AppResult, BailianApp
from bailian_apps.core.decoder import Decoder
from bailian_apps.emulator import (
    Agent,
    Emulator,
    ErrorAnswer,
    Node,
    Paced,
    Reference,
    Rule,
    Rules,
    ScenarioError,
    Thought,
    TokenUsage,
    When,
    Workflow,
    load_apps,
)

DELTAS = {"incremental_output": True, "has_thoughts": True}
MODES = ["full_thoughts", "message_format_plus", "message_format", "agent_format", None]

WORKFLOWS = """
apps:
  plain:
    workflow:
      nodes:
        - {name: writer, output: "西湖,灵隐寺,西溪湿地"}
  branches:
    workflow:
      nodes:
        - {name: dishes, after: [], latency_ms: 300, chunk_ms: 20, reasoning: "先想菜，再想价钱",
           output: "西湖醋鱼,龙井虾仁", usage: {model_id: qwen-max, input_tokens: 25, output_tokens: 12}}
        - {name: sights, after: [], latency_ms: 290, chunk_ms: 35, output: [西湖, "哈", "哈"],
           usage: {model_id: qwen-max, input_tokens: 9, output_tokens: 3}}
        - {name: library, type: Retrieval, after: [], latency_ms: 310, output: {chunks: [{text: 苏堤}]}}
        - {name: join, type: Script, after: [dishes, sights, library],
           output: "{nodes.dishes}/{nodes.sights}"}
        - {name: 结束, type: End, output: "菜与景：{nodes.join}"}
  mirrored:
    workflow:
      nodes:
        - {name: search, type: API, output: '[1,2]'}
        - {name: thinker, reasoning: [嗯, "，", 好], output: [告诉我, 你是谁, "？"]}
        - {name: 结束, type: End, mirrors: thinker}
  streamed-end:
    workflow:
      nodes:
        - {name: start, type: Start}
        - {name: route, type: Condition, output: a}
        - {name: writer, output: not this}
        - {name: 结束, type: End, output: [one, " two", " two"]}
"""
TEXTS = {
    "plain": "西湖,灵隐寺,西溪湿地",
    "branches": "菜与景：西湖醋鱼,龙井虾仁/西湖哈哈",
    "mirrored": "告诉我你是谁？",
    "streamed-end": "one two two",
}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    with Emulator(apps={}) as cloud:
        yield cloud


@pytest.fixture
def yaml_apps(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    def read(text: str) -> dict[str, Any]:
        path = tmp_path / "apps.yaml"
        path.write_text(text, encoding="utf-8")
        return load_apps(path)

    return read


def ask(cloud: Emulator, mode: str | None, app_id: str = "app", prompt: str = "你好") -> AppResult:
    app = BailianApp(app_id=app_id, api_key="k", base_url=cloud.base_url, max_retries=0)
    return app.invoke(prompt, thoughts=mode is not None, flow_stream_mode=mode)


def steps_of(result: AppResult) -> list[tuple[Any, ...]]:
    return [(s.id, s.name, s.type, s.status, s.output, s.reasoning) for s in result.steps]


def check_modes(cloud: Emulator, post: Callable[..., Any], app_id: str) -> AppResult:
    """Every mode has the same answer and, as far as it has steps, the same steps."""
    full, plus, message, agent, plain = (ask(cloud, mode, app_id) for mode in MODES)
    assert {r.text for r in (plus, message, agent, plain)} == {full.text}
    assert {r.final_text for r in (full, plus, message, agent, plain)} == {None}
    assert [r.usage for r in (plus, message, agent, plain)] == [full.usage] * 4
    # Here a node begins with its first word, there with its start: so branches may change places.
    assert sorted(steps_of(plus)) == sorted(steps_of(full))
    assert steps_of(message) == [step for step in steps_of(full) if step[2] == "End"]
    assert agent.steps == plain.steps == ()
    decoder = Decoder()
    decoder.feed(post(cloud, app_id, parameters=DELTAS).body)
    folded = decoder.finish()
    assert (folded.text, steps_of(folded), folded.usage) == (full.text, steps_of(full), full.usage)
    for mode in ["full_thoughts", "message_format_plus", "message_format", "agent_format"]:
        check_cumulative(cloud, post, app_id, mode)
    return full


def check_cumulative(cloud: Emulator, post: Callable[..., Any], app_id: str, mode: str) -> None:
    """Without `incremental_output` every piece is all so far."""
    asked = {"has_thoughts": True, "flow_stream_mode": mode}
    grown = post(cloud, app_id, stream=True, parameters=asked).outputs
    deltas = post(cloud, app_id, stream=True, parameters={**asked, **DELTAS}).outputs
    texts_so_far: dict[str, str] = {}
    for whole, delta in zip(grown, deltas, strict=True):
        texts = zip(node_texts(whole), node_texts(delta), strict=True)
        for (node_id, so_far), (same_id, piece) in texts:
            assert node_id == same_id
            texts_so_far[node_id] = texts_so_far.get(node_id, "") + piece
            assert so_far == texts_so_far[node_id]


def node_texts(output: dict[str, Any]) -> list[tuple[str, str]]:
    found = [json.loads(thought["response"]) for thought in output.get("thoughts", [])]
    texts = [
        (node["nodeId"], json.loads(node.get("nodeResult", "{}")).get("result", ""))
        for node in found
    ]
    message = output.get("workflow_message")
    if message:
        content = message["message"]["content"]
        plus = message["node_type"] == "LLM" and content
        texts.append((message["node_id"], json.loads(content)["result"] if plus else content))
    return texts


@pytest.mark.parametrize("name", TEXTS)
def test_a_yaml_workflow_is_the_same_in_every_mode(
    cloud: Emulator, post: Callable[..., Any], yaml_apps: Callable[..., Any], name: str
) -> None:
    for app_id, app in yaml_apps(WORKFLOWS).items():
        cloud.add_app(app_id, app)
    assert check_modes(cloud, post, name).text == TEXTS[name]


def test_the_steps_are_those_of_the_scenario(
    cloud: Emulator, yaml_apps: Callable[..., Any]
) -> None:
    cloud.add_app("app", yaml_apps(WORKFLOWS)["branches"])
    result = ask(cloud, "full_thoughts")
    assert [(s.name, s.type, s.output, s.reasoning, s.duration_ms) for s in result.steps] == [
        ("开始", "Start", "", "", 0),
        ("dishes", "LLM", "西湖醋鱼,龙井虾仁", "先想菜，再想价钱", 300 + 4 * 20),
        ("sights", "LLM", "西湖哈哈", "", 290 + 2 * 35),
        ("library", "Retrieval", '{"chunks":[{"text":"苏堤"}]}', "", 310),
        ("join", "Script", "西湖醋鱼,龙井虾仁/西湖哈哈", "", 0),
        ("结束", "End", TEXTS["branches"], "", 0),
    ]
    models = [(m.model_id, m.input_tokens, m.output_tokens) for m in result.usage.models]
    assert sorted(models) == [("qwen-max", 9, 3), ("qwen-max", 25, 12)]


# No character twice: JSON nodes whose pieces repeat what came before are ambiguous (docs/en/result.md).
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="{}")
NODE_TEXTS = st.lists(CHARACTERS, unique=True, max_size=12).map("".join)
OUTPUTS = NODE_TEXTS | st.builds(
    lambda text, cut: [text[:cut], text[cut:]], NODE_TEXTS, st.integers(0, 12)
)


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    names = draw(
        st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4, unique=True)
    )
    nodes: list[Node] = []
    for place, name in enumerate(names):
        type_ = draw(st.sampled_from(["LLM", "LLM", "Retrieval", "Script"]))
        after = draw(
            st.none() | st.lists(st.sampled_from(names[:place]), unique=True)
            if place
            else st.none()
        )
        nodes.append(
            Node(
                name=name,
                type=type_,
                after=after,
                latency_ms=draw(st.integers(0, 3)),
                chunk_ms=draw(st.integers(0, 3)),
                output=draw(OUTPUTS),
                reasoning=draw(OUTPUTS) if type_ == "LLM" else "",
                usage=draw(
                    st.none()
                    | st.builds(TokenUsage, model_id=st.just("m"), output_tokens=st.integers(0, 9))
                ),
            )
        )
    end = draw(st.sampled_from(["added", "mirrors", "own"]))
    if end == "mirrors":
        nodes.append(Node(name="end", type="End", mirrors=draw(st.sampled_from(names))))
    elif end == "own":
        nodes.append(Node(name="end", type="End", output=draw(OUTPUTS)))
    return Workflow(nodes=nodes)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(workflow=workflows())
def test_any_workflow_is_the_same_in_every_mode(
    cloud: Emulator, post: Callable[..., Any], workflow: Workflow
) -> None:
    cloud.add_app("any", workflow)
    result = check_modes(cloud, post, "any")
    texts = {step.name: (step.output, step.reasoning) for step in result.steps}
    for node in workflow.nodes:
        if node.output is not None:
            assert isinstance(node.output, str | list)
            assert texts[node.name] == ("".join(node.output), "".join(node.reasoning))


@pytest.mark.parametrize("mode", MODES)
def test_a_failing_node_ends_the_run(cloud: Emulator, mode: str | None) -> None:
    nodes = [
        Node(name="writer", output="written"),
        Node(name="api", type="API", fails=ErrorAnswer(code="InvokePluginFailed", message="坏了")),
        Node(name="never", output="never"),
    ]
    cloud.add_app("app", Workflow(nodes=nodes))
    with pytest.raises(AppFailedError, match="坏了") as caught:
        ask(cloud, mode)
    assert caught.value.code == "InvokePluginFailed"
    partial = caught.value.partial
    assert partial is not None
    if mode in ("full_thoughts", "message_format_plus"):
        found = [(s.name, s.status, s.output, s.error) for s in partial.steps[1:]]
        assert found == [("writer", "success", "written", None), ("api", "failed", "", "坏了")]
    else:
        assert partial.steps == ()


def test_a_failing_branch_ends_the_others(cloud: Emulator, post: Callable[..., Any]) -> None:
    slow = Node(name="slow", after=[], latency_ms=100, output="late")
    failing = Node(name="failing", after=[], latency_ms=50, output="half", fails=ErrorAnswer())
    cloud.add_app("app", Workflow(nodes=[slow, failing]))
    answer = post(cloud, "app", stream=True, parameters=DELTAS)
    assert answer.events[-1] == "error"
    assert answer.frames[-1]["code"] == "AppProcessFailed"
    assert ":HTTP_STATUS/500" in answer.content.decode()
    assert "late" not in answer.content.decode()
    whole = post(cloud, "app", parameters=DELTAS)
    assert (whole.status, whole.body["code"]) == (500, "AppProcessFailed")


AGENT = Agent(
    thoughts=[
        Thought(reasoning="先查天气，再查手册。"),
        Thought(tool="weather", arguments={"city": "{biz_params.city}"}, observation={"temp": 20}),
        Thought(tool="files", type="mcp", arguments={"key": "a"}, observation="found"),
        Thought(reasoning=["好", "好"]),
        Thought(retrieval="手册", arguments={"query": "{prompt}"}),
    ],
    references=[
        Reference(title="手册", text="杭州多雨", score=0.9),
        Reference(index_id="x", doc_id="d"),
    ],
    text="杭州晴<ref>[1]</ref>。",
    usage=TokenUsage(model_id="qwen-max", input_tokens=31, output_tokens=20),
)


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_thinks_calls_cites_and_answers(
    cloud: Emulator, post: Callable[..., Any], mode: str | None
) -> None:
    cloud.add_app("app", AGENT)
    app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
    asked = {"biz_params": {"city": "杭州"}, "thoughts": mode is not None}
    streamed = app.invoke("天气", flow_stream_mode=mode, **asked)
    decoder = Decoder()
    parameters = {"has_thoughts": mode is not None}
    body = post(
        cloud, "app", prompt="天气", biz_params={"city": "杭州"}, parameters=parameters
    ).body
    decoder.feed(body)
    for result in (streamed, decoder.finish()):
        assert result.text == "杭州晴<ref>[1]</ref>。"
        assert [reference.index_id for reference in result.references] == ["1", "x"]
        (usage,) = result.usage.models
        assert (usage.model_id, usage.input_tokens, usage.output_tokens) == ("qwen-max", 31, 20)
        found = [(s.kind, s.name, s.input, s.output, s.reasoning) for s in result.steps]
        documents = (
            '[{"title":"手册","content":"杭州多雨","score":0.9,"referenceIndex":1},'
            '{"dataId":"d","content":"","referenceIndex":"x"}]'
        )
        expected = [
            ("reasoning", "思考过程", None, "", "先查天气，再查手册。"),
            ("tool", "weather", {"city": "杭州"}, '{"temp":20}', ""),
            ("tool", "files", {"key": "a"}, "found", ""),
            ("reasoning", "思考过程", None, "", "好好"),
            ("retrieval", "手册", {"query": "天气"}, documents, ""),
        ]
        assert found == (expected if mode is not None else [])


def test_usage_grows_with_the_text(cloud: Emulator, post: Callable[..., Any]) -> None:
    usage = TokenUsage(model_id="m", input_tokens=5, output_tokens=6)
    cloud.add_app("app", Agent(text=["a", "b", "c"], usage=usage))
    frames = post(cloud, "app", stream=True, parameters=DELTAS).frames
    assert [frame["usage"]["models"][0]["output_tokens"] for frame in frames] == [2, 4, 6, 6]


def test_placeholders_are_filled_from_the_call(cloud: Emulator, post: Callable[..., Any]) -> None:
    text = 'you: {prompt}, {biz_params.user.name}, {biz_params.n}, {{prompt}}, {"a": {"b": 1}}'
    cloud.add_app("app", Agent(text=text))
    cloud.add_app("next", Rules(rules=[
        Rule(when=When(round=1), text="first: {prompt}"),
        Rule(text="{turns[-1].prompt} -> {turns[-1].answer} ({turns[0].prompt})"),
    ]))  # fmt: skip
    answer = post(cloud, "app", prompt="{prompt}", biz_params={"user": {"name": "林"}, "n": 3})
    assert answer.output["text"] == 'you: {prompt}, 林, 3, {prompt}, {"a": {"b": 1}}'
    session_id = post(cloud, "next", prompt="一").output["session_id"]
    answer = post(cloud, "next", prompt="二", session_id=session_id)
    assert answer.output["text"] == "一 -> first: 一 (一)"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{biz_params.city}", "needs biz_params.city, but biz_params has town."),
        ("{biz_params.town.name}", "needs biz_params.town.name, but biz_params.town has no items"),
        ("{turns[-1].answer}", "needs turns[-1].answer, but turns has no items"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", ["agent", "workflow"])
def test_a_missing_placeholder_value_is_an_error_of_the_cloud(
    cloud: Emulator, post: Callable[..., Any], text: str, problem: str, stream: bool, kind: str
) -> None:
    app = Agent(text=text) if kind == "agent" else Workflow(nodes=[Node(name="a", output=text)])
    cloud.add_app("app", app)
    answer = post(cloud, "app", stream=stream, biz_params={"town": "x"})
    assert (answer.status, answer.body["code"]) == (400, "InvalidParameter")
    assert problem in answer.body["message"]


RULES = """
rules:
  - {when: {prompt: 天气, biz_params: {city: 杭州}}, text: 杭州晴}
  - {when: {matches: "^\\\\d+$"}, workflow: {nodes: [{name: count, output: "{prompt}!"}]}}
  - {when: {prompt: busy}, error: {code: Throttling, status: 429, message: 慢一点}}
  - {when: {round: 2}, text: again}
"""


def test_the_first_matching_rule_answers(
    cloud: Emulator, post: Callable[..., Any], yaml_apps: Callable[..., Any]
) -> None:
    cloud.add_app("app", yaml_apps(RULES)["apps"])
    assert (
        post(cloud, "app", prompt="天气?", biz_params={"city": "杭州"}).output["text"] == "杭州晴"
    )
    assert post(cloud, "app", prompt="12").output["text"] == "12!"
    busy = post(cloud, "app", prompt="busy")
    assert (busy.status, busy.body["code"], busy.body["message"]) == (429, "Throttling", "慢一点")
    session_id = post(cloud, "app", prompt="3").output["session_id"]
    assert post(cloud, "app", prompt="x", session_id=session_id).output["text"] == "again"
    none = post(cloud, "app", prompt="天气", biz_params={"city": "上海"})
    assert (none.status, none.body["code"]) == (400, "InvalidParameter")
    assert "None of the 4 rules" in none.body["message"]


def test_latency_follows_the_pace(
    yaml_apps: Callable[..., Any], post: Callable[..., Any], sleep: Any
) -> None:
    described = yaml_apps(
        """
apps:
  slow: {workflow: {nodes: [{name: a, latency_ms: 200, chunk_ms: 40, output: [x, y]}]}}
  own: {pace: 2, agent: {text: [x, y], latency_ms: 200, chunk_ms: 40}}
  never: {pace: 0, agent: {text: [x, y], latency_ms: 200}}
"""
    )
    assert isinstance(described["own"], Paced)
    with Emulator(apps=described, pace=1, sleep=sleep) as cloud:
        found: dict[str, list[float]] = {}
        for app_id in described:
            post(cloud, app_id, stream=True, parameters=DELTAS)
            found[app_id] = [round(seconds, 6) for seconds in sleep.waits]
            sleep.waits.clear()
        post(cloud, "slow")
    assert found == {"slow": [0.2, 0.04], "own": [0.1, 0.02], "never": []}
    assert sleep.waits == [0.24]


def test_an_app_in_a_file_may_have_its_own_pace(
    tmp_path: Path, post: Callable[..., Any], sleep: Any
) -> None:
    path = tmp_path / "slow.yaml"
    path.write_text("pace: 1\nagent: {text: [x, y], chunk_ms: 40}")
    with Emulator(apps={"slow": path, "twice": Paced(path, 2)}, sleep=sleep) as cloud:
        for app_id in ("slow", "twice"):
            post(cloud, app_id, stream=True)
    assert sleep.waits == [0.04, 0.02]


def test_a_folder_has_one_app_per_file(
    tmp_path: Path, recordings: Path, post: Callable[..., Any], sleep: Any
) -> None:
    name = "workflow-two-llm.sse"
    (tmp_path / "recorded").mkdir()
    for path in (tmp_path / "recorded" / name, tmp_path / "bare.sse"):
        path.write_bytes((recordings / name).read_bytes())
    (tmp_path / "one.yml").write_text("text: hi")
    (tmp_path / "README.md").write_text("no app")
    (tmp_path / "more.yaml").write_text(
        f"apps:\n  steady: {{recording: recorded/{name}, every_ms: 50, pace: 1}}\n"
        f"  same: {{recording: recorded/{name}}}"
    )
    apps = load_apps(tmp_path)
    assert sorted(apps) == ["bare", "one", "same", "steady"]
    with Emulator(apps=apps, sleep=sleep) as cloud:
        assert post(cloud, "one").output["text"] == "hi"
        for app_id in ("steady", "bare", "same"):
            cloud.reset()  # so that each may use the recorded ids
            content = post(cloud, app_id, stream=True, parameters=DELTAS).content
            assert content == (recordings / name).read_bytes()
    assert sleep.waits == [0.05] * 11


@pytest.mark.parametrize(
    ("language", "eat", "title", "plan"),
    [
        ("en", "Eat: Vinegar fish for two", "Almanac", "short"),
        ("zh", "推荐：two：西湖醋鱼", "气候手册", "精简版"),
    ],
)
def test_the_example_of_the_page_can_be_loaded(
    language: str,
    eat: str,
    title: str,
    plan: str,
    tmp_path: Path,
    recordings: Path,
    post: Callable[..., Any],
) -> None:
    block, *_ = blocks("scenarios", "yaml", language)
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "old.sse").write_bytes(
        (recordings / "workflow-two-llm.sse").read_bytes()
    )
    (tmp_path / "apps.yaml").write_text(block, encoding="utf-8")
    with Emulator(apps=load_apps(tmp_path / "apps.yaml")) as cloud:
        trip = post(cloud, "trip", prompt="two")
        guide = post(cloud, "guide", biz_params={"city": "杭州"}, parameters=DELTAS)
        planner = post(cloud, "planner", prompt="no chart")
    assert trip.output["text"] == eat
    assert guide.output["doc_references"][0]["title"] == title
    assert planner.output["text"].endswith(f'{{"plan": "{plan}"}}')


def test_an_app_is_given_as_the_path_of_its_file(tmp_path: Path, post: Callable[..., Any]) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("text: hi")
    with Emulator(apps={"app": path, "other": str(path)}) as cloud:
        assert post(cloud, "app").output["text"] == post(cloud, "other").output["text"] == "hi"
    path.write_text("apps: {a: {text: x}, b: {text: y}}")
    with pytest.raises(ScenarioError, match=r"app\.yaml: has 2 apps, a, b; pass load_apps"):
        Emulator(apps={"app": path})


NODES = "apps: {a: {workflow: {nodes: [%s]}}}"
W = "apps.a.workflow"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", ": defines no app; it needs `apps:`"),
        ("- a", ": [0]: must be a mapping with `id` and the fields of one app"),
        ("apps: [{text: x}]", ": apps[0].id: an app in a list needs its id, a string"),
        ("- {id: a, text: x}\n- {id: a, text: y}", ": [1].id: 'a' is the id of another app too"),
        ("a: [", ":1: not YAML: expected the node content"),
        ("apps: {}\n", ": apps: must be a mapping of app ids"),
        ("apps: {1: {text: x}}", ": apps.1: an app id must be a string; quote it"),
        ("apps: {a: {text: x}}\nnodes: 1", ": nodes: not allowed beside `apps`; move it into an app"),
        ("text: a\ntext: b", ":2: not YAML: duplicate key 'text'"),
        ("apps: {a: {}}", ": apps.a: give exactly one of text, agent, workflow, recording, error, rules; given: none"),
        ("apps: {a: x}", ": apps.a: Input should be"),
        ("text: a\nagent: {text: b}", ": give exactly one of text, agent, workflow, recording, error, rules; given: text, agent"),
        ("text: a\nevery_ms: 5", ": every_ms needs a `recording`"),
        (NODES % "{name: no, output: x}", f": {W}.nodes[0].name: Input should be a valid string (got bool 'False'); quote it"),
        ("text: a\npace: -1", ": pace: Input should be greater than or equal to 0 (got int '-1')"),
        ("text: 5", ": text: must be a string (quoted if it looks like a number) or a list of its pieces (got int '5')"),
        ("text: '{promt}'", ": text: unknown placeholder {promt}; it must start with prompt, biz_params"),
        ("text: '{nodes.a}'", ": text: {nodes.a}: no such node runs before; these do: none"),
        ("recording: no.sse", ": recording: "),
        ("agent: {text: a, references: [{title: '{titel}'}]}", ": agent.references[0]: unknown placeholder {titel}"),
        ("agent: {thoughts: []}", ": agent.text: Field required"),
        ("agent: {text: a, thoughts: [{tol: x}]}", ": agent.thoughts[0]: unknown field 'tol'; did you mean tool?"),
        ("agent: {text: a, thoughts: [{tool: x, retrieval: y}]}", ": agent.thoughts[0]: give exactly one of reasoning, tool, retrieval; given: tool, retrieval"),
        ("agent: {text: a, thoughts: [{reasoning: x, type: mcp}]}", ": agent.thoughts[0]: `reasoning` cannot be combined with type"),
        ("rules: []", ": rules: List should have at least 1 item"),
        ("rules: [{text: a}, {text: b}]", ": rules[0] matches every call; give it a `when`"),
        ("rules: [{text: a, when: {matches: '('}}]", ": rules[0].when.matches: is not a regular expression"),
        (NODES % "{name: x, latncy_ms: 5}", f": {W}.nodes[0]: unknown field 'latncy_ms'; did you mean latency_ms?"),
        (NODES % "{name: x, latency_ms: '5'}", f": {W}.nodes[0].latency_ms: Input should be a valid number (got str '5')"),
        (NODES % "{name: x, latency_ms: -5}", f": {W}.nodes[0].latency_ms: Input should be greater than or equal to 0"),
        (NODES % "{output: x}", f": {W}.nodes[0].name: Field required"),
        (NODES % "{name: x, after: y}", f": {W}: node 'x': no node 'y' comes before it; these do: 开始"),
        (NODES % "{name: x}, {name: x}", f": {W}: node 'x': another node has the same name"),
        (NODES % "{name: x, id: i}, {name: y, id: i, after: []}", f": {W}: node 'y': another node has the id 'i' too; change one, or wait for 'x' to run it again"),
        (NODES % "{name: x, id: i}, {name: y, id: i}, {name: z, id: i, after: []}", f": {W}: node 'z': another node has the id 'i' too"),
        (NODES % "{name: x, status: executing}", f": {W}.nodes[0]: `status` is what the node ends with; 'executing' is not an end"),
        (NODES % "{name: e, type: End, when: {prompt: x}}", f": {W}.nodes[0]: a node of type End always runs; leave out `when`"),
        (NODES % "{name: e, type: End, status: skip}", f": {W}.nodes[0]: a node of type End always runs"),
        (NODES % "{name: e, type: OUTPUT, content: snapshots}", f": {W}.nodes[0]: `content` must be text; the type is OUTPUT"),
        (NODES % "{name: x, reasoning: y, result: json}", f": {W}.nodes[0]: `reasoning` needs `result: text`, not json"),
        (NODES % "{name: x, output: [{a: 1}, b]}", f": {W}.nodes[0].output: must be a string (quoted if it looks like a number) or a list of its pieces"),
        (NODES % "{name: x}, {name: s, type: Start}", f": {W}: node 's': there must be one Start node, the first one"),
        (NODES % "{name: e, type: End}, {name: x}", f": {W}: node 'e': there must be one End node, the last one"),
        (NODES % "{name: x, mirrors: y}", f": {W}.nodes[0]: `mirrors` needs an End node"),
        (NODES % "{name: x, type: API, reasoning: y}", f": {W}.nodes[0]: `reasoning` needs an LLM node; the type is API"),
        (NODES % "{name: x}, {name: y, after: []}, {name: e, type: End, mirrors: x, after: y}", f": {W}: node 'e': it mirrors 'x', so it must wait for it too"),
        (NODES % "{name: x}, {name: y, after: [], output: '{nodes.x}'}", f": {W}: node 'y': {{nodes.x}}: no such node runs before; these do: 开始"),
    ],
)  # fmt: skip
def test_an_invalid_file_is_refused_with_place_and_remedy(
    tmp_path: Path, yaml_apps: Callable[..., Any], text: str, problem: str
) -> None:
    with pytest.raises(ScenarioError) as caught:
        yaml_apps(text)
    in_file = str(caught.value).removeprefix(str(tmp_path / "apps.yaml"))
    assert in_file.startswith(problem) or re.sub(r"\A:\d+", "", in_file).startswith(problem)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("apps:\n  a:\n    text: x\n  b:\n    agent:\n      text: 5\n", 6),
        ("apps:\n  a:\n    text: x\n    pce: 1\n", 4),
        ("workflow:\n  nodes:\n    - name: a\n    - name: b\n      latency_ms: x\n", 5),
        ("workflow:\n  nodes:\n    - name: a\n\n    - output: b\n", 5),
        ("- id: a\n  text: x\n- id: b\n  text:\n    - 1\n", 4),
        ("apps:\n  a: {text: x}\nnodes: 1\n", 3),
    ],
)
def test_a_problem_of_a_file_names_its_line(
    tmp_path: Path, yaml_apps: Callable[..., Any], text: str, line: int
) -> None:
    with pytest.raises(ScenarioError) as caught:
        yaml_apps(text)
    assert str(caught.value).startswith(f"{tmp_path / 'apps.yaml'}:{line}: ")


def test_a_file_may_list_its_apps(yaml_apps: Callable[..., Any]) -> None:
    expected = {"a": Agent(text="x"), "b": Paced(Agent(text="y"), 2)}
    assert yaml_apps("- {id: a, text: x}\n- {id: b, text: y, pace: 2}") == expected
    assert yaml_apps("apps:\n- {id: a, text: x}\n- {id: b, text: y, pace: 2}") == expected


def test_every_problem_of_an_app_is_reported(yaml_apps: Callable[..., Any]) -> None:
    with pytest.raises(ScenarioError) as caught:
        yaml_apps(NODES % "{name: x, chunk_ms: a}, {name: ''}")
    assert [line.partition(": ")[2].split(":")[0] for line in str(caught.value).splitlines()] == [
        f"{W}.nodes[0].chunk_ms",
        f"{W}.nodes[1].name",
    ]


def test_a_folder_with_duplicate_ids_or_without_apps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no apps in this folder; it needs files that end in"):
        load_apps(tmp_path)
    (tmp_path / "a.yaml").write_text("text: x")
    (tmp_path / "b.yaml").write_text("apps: {a: {text: y}}")
    with pytest.raises(ScenarioError, match=r"b\.yaml: .*a\.yaml has an app 'a' too"):
        load_apps(tmp_path)
    with pytest.raises(ScenarioError, match=r"gone\.yaml: cannot be read"):
        load_apps(tmp_path / "gone.yaml")


def test_a_tool_takes_its_own_time(post: Callable[..., Any], sleep: Any) -> None:
    agent = Agent(
        text="done",
        chunk_ms=1,
        thoughts=[
            Thought(tool="weather", latency_ms=100, chunk_ms=10, duration_ms=2000, arguments=["{", "}"]),
            Thought(retrieval="guide", duration_ms=700, observation=[]),
            Thought(tool="map", chunk_ms=30),
            Thought(reasoning="so", latency_ms=5),
        ],
    )  # fmt: skip
    with Emulator(apps={"app": agent}, pace=1, sleep=sleep) as cloud:
        post(cloud, stream=True, parameters=DELTAS)
    waits = [round(seconds * 1000) for seconds in sleep.waits]
    assert waits == [100, 10, 2000, 700, 30, 5]


def test_only_a_tool_has_a_duration(yaml_apps: Callable[..., Any]) -> None:
    with pytest.raises(ScenarioError, match="cannot be combined with duration_ms"):
        yaml_apps("agent: {text: a, thoughts: [{reasoning: x, duration_ms: 5}]}")
