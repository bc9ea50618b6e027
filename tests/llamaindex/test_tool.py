"""`bailian_app_tool` in LlamaIndex's agents and in a workflow of one's own."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.agent.workflow import (
    AgentWorkflow,
    CodeActAgent,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.instrumentation.events.agent import AgentToolCallEvent
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context, StartEvent, StopEvent, Workflow, step
from pydantic import BaseModel, Field
from support import recordings
from support.agents import run, scripted

from bailian_apps import BailianApp, InvalidInputError, InvalidOutputError
from bailian_apps.emulator import Call, Emulator, Failure
from bailian_apps.llamaindex import BailianAppLLM, BailianAppStepStream, bailian_app_tool

# LlamaIndex's agents use deprecated parts of pydantic and of LlamaIndex's own workflows, which warn
# about the memory that they do not serialise.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Skipping serialization of known unserializable key"),
]

TOKENS = {"user_defined_tokens": {"tool": {"user_token": "TOKENSECRET"}}}
WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"


class Trip(BaseModel):
    """What a trip needs."""

    city: str = Field(description="The destination")
    days: int = 1
    hotel: str | None = None


def app(call: Call) -> str:
    return f"第{len(call.turns) + 1}轮"


def tool_of(cloud: Emulator, **more: Any) -> FunctionTool:
    fields = {
        "app_id": "app",
        "api_key": "sk-test",
        "base_url": cloud.base_url,
        "max_retries": 0,
        "name": "plan_trip",
        "description": "Plans a trip",
        **more,
    }
    return bailian_app_tool(**fields)


# --------------------------------------------------------------------------------- the schema


def test_a_tool_without_params_takes_a_prompt() -> None:
    with Emulator(apps={"app": app}) as cloud:
        tool = tool_of(cloud)
        shown = tool.metadata.to_openai_tool()["function"]
        assert (shown["name"], shown["description"]) == ("plan_trip", "Plans a trip")
        assert list(shown["parameters"]["properties"]) == ["prompt"]
        assert shown["parameters"]["required"] == ["prompt"]
        assert tool.call(prompt="去杭州").content == "第1轮"
        assert tool("去杭州").content == "第1轮"
        assert [request.prompt for request in cloud.requests] == ["去杭州", "去杭州"]
        assert [request.biz_params for request in cloud.requests] == [{}, {}]


def test_fields_of_params_become_biz_params() -> None:
    with Emulator(apps={"app": app}) as cloud:
        tool = tool_of(cloud, params=Trip, biz_params={"lang": "zh", "days": 9})
        parameters = tool.metadata.get_parameters_dict()
        assert list(parameters["properties"]) == ["city", "days", "hotel", "prompt"]
        assert parameters["required"] == ["city", "prompt"]
        assert parameters["properties"]["city"]["description"] == "The destination"
        tool.call(city="杭州", prompt="去")
        assert cloud.requests[0].prompt == "去"
        assert cloud.requests[0].biz_params == {"lang": "zh", "days": 1, "city": "杭州"}


def test_the_prompt_field_of_params_is_the_prompt() -> None:
    class Question(BaseModel):
        prompt: str
        city: str = "杭州"

    with Emulator(apps={"app": app}) as cloud:
        tool = tool_of(cloud, params=Question)
        assert tool.metadata.fn_schema is Question
        tool.call("去哪里？")
        assert cloud.requests[0].prompt == "去哪里？"
        assert cloud.requests[0].biz_params == {"city": "杭州"}


def test_invalid_arguments_are_rejected_by_name() -> None:
    with Emulator(apps={"app": app}) as cloud:
        with pytest.raises(InvalidInputError, match="city is missing"):
            tool_of(cloud, params=Trip).call(prompt="去")
        assert not cloud.requests


def test_params_cannot_have_a_ctx_field() -> None:
    class Bad(BaseModel):
        ctx: str

    with pytest.raises(InvalidInputError, match=r"params\.ctx"):
        bailian_app_tool(app_id="app", name="n", description="d", params=Bad)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_output_has_documents_and_steps(asynchronous: bool) -> None:
    with Emulator(apps={"app": recordings.FOLDER / "agent-rag-citations.json"}) as cloud:
        tool = tool_of(cloud)
        result = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url).invoke("?")
        output = asyncio.run(tool.acall(prompt="?")) if asynchronous else tool.call(prompt="?")
    assert output.content == result.text
    assert output.raw_input == {"args": (), "kwargs": {"prompt": "?"}}
    assert len(output.raw_output.source_nodes) == len(result.references) == 1
    assert output.raw_output.metadata["request_id"]
    assert not output.is_error


def test_tools_are_created_from_an_app_or_an_llm(llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        made = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        for tool in (
            bailian_app_tool(made, name="n", description="d"),
            bailian_app_tool(llm=llm_of(cloud), name="n", description="d", return_direct=True),
        ):
            assert tool.call(prompt="?").content == "第1轮"
        assert tool.metadata.return_direct


def test_tokens_are_not_published(spans: Any, events: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        output = tool_of(cloud, params=Trip, biz_params=TOKENS).call(city="杭州", prompt="去")
        assert cloud.requests[0].biz_params == {"city": "杭州", "days": 1, **TOKENS}
    shown = [note.inputs for note in spans.notes], [repr(event) for event in events.events]
    assert "TOKENSECRET" not in str((shown, output, output.raw_output))


# --------------------------------------------------------------------------------- the agents


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_function_agent_streams_the_steps_of_the_app(streaming: bool, spans: Any) -> None:
    with Emulator(apps={"app": WORKFLOW}) as cloud:
        result = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url).invoke("?")
        llm = scripted([{"city": "杭州", "prompt": "去杭州"}])
        agent = FunctionAgent(tools=[tool_of(cloud, params=Trip)], llm=llm, streaming=streaming)
        answer, streamed = await run(agent, "我想旅行")
        assert cloud.requests[1].biz_params == {"city": "杭州", "days": 1}
    assert answer == "完了"
    [called] = [event for event in streamed if isinstance(event, ToolCallResult)]
    assert called.tool_output.content == result.text
    assert called.tool_kwargs == {"city": "杭州", "prompt": "去杭州"}
    assert llm.received[1][-1].content == result.text
    steps = [event for event in streamed if isinstance(event, BailianAppStepStream)]
    assert {event.tool_name for event in steps} == {"plan_trip"}
    started = [event.step["id"] for event in steps if event.phase == "started"]
    finished = {e.step["id"]: e.step["output"] for e in steps if e.phase == "finished"}
    assert started == [step.id for step in result.steps]
    assert finished == {step.id: step.output for step in result.steps}
    assert streamed.index(steps[-1]) < streamed.index(called), "while the tool runs, not afterwards"
    llm_span = spans.named("BailianAppLLM.achat")
    assert spans.named("BailianApp.run").parent_id == llm_span.id
    assert llm_span.parent_id == spans.named("_AppTool.acall").id


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("asked", [False, True])
async def test_the_text_of_steps_is_written_to_the_stream_only_if_asked_for(
    asked: bool, pickled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-test")  # a pickle reads it from there
    with Emulator(apps={"app": WORKFLOW}) as cloud:
        tool = tool_of(cloud, step_deltas=asked)
        tool = pickle.loads(pickle.dumps(tool)) if pickled else tool
        agent = FunctionAgent(tools=[tool], llm=scripted([{"prompt": "去杭州"}]))
        _, streamed = await run(agent, "我想旅行")
    steps = [event for event in streamed if isinstance(event, BailianAppStepStream)]
    said = {event.step["id"]: "" for event in steps if event.phase == "delta"}
    for event in steps:
        if event.phase == "delta":
            said[event.step["id"]] += event.text
    spoken = {e.step["id"]: e.step["output"] for e in steps if e.phase == "finished"}
    assert any(spoken.values())
    assert said == ({id_: text for id_, text in spoken.items() if text} if asked else {})


async def test_all_calls_of_an_agent_share_a_session() -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm = scripted([{"prompt": "一"}], [{"prompt": "二"}], [], [{"prompt": "三"}])
        agent = FunctionAgent(tools=[tool_of(cloud)], llm=llm)
        ctx = Context(agent)
        await run(agent, "甲", ctx)
        await ctx.store.set("memory", None)  # LlamaIndex cannot serialise its own
        ctx = Context.from_dict(agent, json.loads(json.dumps(ctx.to_dict())))
        await run(agent, "乙", ctx)
        assert [request.prompt for request in cloud.requests] == ["一", "二", "三"]
        [session] = cloud.sessions
        assert [request.session_id for request in cloud.requests] == [None, session, session]


@pytest.mark.parametrize("return_direct", [False, True])
async def test_an_answer_that_does_not_fit_is_shown_to_the_model_and_remembered(
    return_direct: bool,
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm = scripted([{"prompt": "一"}], [{"prompt": "二"}])
        tool = tool_of(cloud, output_schema=Trip, return_direct=return_direct)
        answer, streamed = await run(FunctionAgent(tools=[tool], llm=llm), "甲")
        assert [request.prompt for request in cloud.requests] == ["一", "二"]
        assert cloud.requests[1].session_id
    called, _ = [event for event in streamed if isinstance(event, ToolCallResult)]
    output = called.tool_output
    assert output.is_error
    assert "Invalid JSON" in output.content
    assert output.content.endswith("Its answer:\n第1轮")
    assert (str(output.raw_output), answer) == ("第1轮", "完了")
    error = getattr(output, "exception", None)  # newer releases keep it
    assert error is None or isinstance(error, InvalidOutputError)


async def test_a_memory_that_is_passed_receives_the_answers_of_the_agent() -> None:
    memory = ChatMemoryBuffer.from_defaults(token_limit=1_000)
    with Emulator(apps={"app": app}) as cloud:
        llm = scripted(
            [{"tool": "plan.trip%", "prompt": "一"}], [], [{"tool": "plan.trip%", "prompt": "二"}]
        )
        agent = FunctionAgent(tools=[tool_of(cloud, name="plan.trip%")], llm=llm)
        ctx = Context(agent)
        for question in ("甲", "乙"):
            await agent.run(question, ctx=ctx, memory=memory)
        assert len(cloud.sessions) == 1
    # An older llama-index-core goes on with a copy, in the context.
    memory = await ctx.store.get("memory", default=memory)
    said = [each.content for each in memory.get_all() if each.content]
    assert said == ["甲", "第1轮", "完了", "乙", "第2轮", "完了"]


async def test_runs_of_two_agents_do_not_share_a_session() -> None:
    with Emulator(apps={"app": app}) as cloud:
        tool = tool_of(cloud)
        agents = [FunctionAgent(tools=[tool], llm=scripted([{"prompt": "一"}])) for _ in "ab"]
        await asyncio.gather(*(run(agent, "甲") for agent in agents))
        assert [request.session_id for request in cloud.requests] == [None, None]
        assert len(cloud.sessions) == 2


async def test_keep_session_false_starts_a_session_per_call() -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm = scripted([{"prompt": "一"}], [{"prompt": "二"}])
        await run(FunctionAgent(tools=[tool_of(cloud, keep_session=False)], llm=llm), "甲")
        assert [request.session_id for request in cloud.requests] == [None, None]


async def test_concurrent_tool_calls_lose_no_context() -> None:
    """No session holds both answers, so the next call sends the whole history."""
    with Emulator(apps={"app": app}) as cloud:
        llm = scripted([{"prompt": "一"}, {"prompt": "二"}], [{"prompt": "三"}])
        await run(FunctionAgent(tools=[tool_of(cloud)], llm=llm), "甲")
        last = cloud.requests[2]
        assert last.session_id is None
        contents = [message["content"] for message in last.messages]
        assert sorted(contents[:4]) == sorted(["一", "第1轮", "二", "第1轮"])
        assert contents[4] == "三"


async def test_the_agent_receives_the_error_of_the_app() -> None:
    failing = {"app": lambda call: Failure(status=429, code="Throttling", message="慢一点")}
    with Emulator(apps=failing) as cloud:
        agent = FunctionAgent(tools=[tool_of(cloud)], llm=scripted([{"prompt": "一"}]))
        _, streamed = await run(agent, "甲")
    [called] = [event for event in streamed if isinstance(event, ToolCallResult)]
    assert called.tool_output.is_error
    assert "[Throttling] 慢一点" in called.tool_output.content


async def test_return_direct_returns_the_app_s_answer() -> None:
    with Emulator(apps={"app": app}) as cloud:
        tool = tool_of(cloud, return_direct=True)
        agent = FunctionAgent(tools=[tool], llm=scripted([{"prompt": "一"}]))
        assert (await run(agent, "甲"))[0] == "第1轮"


async def test_a_react_agent_calls_the_app(llm_of: Any) -> None:
    """One app is the LLM of the agent, another one its tool."""

    def thinker(call: Call) -> str:
        asked = str(call.messages or call.prompt)
        if "Observation: 第1轮" in asked:
            return "Thought: I know. \nAnswer: 好了"
        assert '"city"' in asked
        return (
            "Thought: I need it. \nAction: plan_trip\n"
            'Action Input: {"city": "杭州", "prompt": "去杭州"}'
        )

    with Emulator(apps={"app": app, "thinker": thinker}) as cloud:
        agent = ReActAgent(tools=[tool_of(cloud, params=Trip)], llm=llm_of(cloud, "thinker"))
        answer, _ = await run(agent, "我想旅行")
        [asked] = [request for request in cloud.requests if request.app_id == "app"]
    assert answer == "好了"
    assert asked.biz_params == {"city": "杭州", "days": 1}


async def test_an_agent_workflow_keeps_the_session() -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm = scripted([{"prompt": "一"}], [{"prompt": "二"}])
        agent = FunctionAgent(name="guide", tools=[tool_of(cloud)], llm=llm)
        workflow = AgentWorkflow(agents=[agent], root_agent="guide")
        answer, _ = await run(workflow, "甲")
        assert [request.session_id for request in cloud.requests] == [None, *cloud.sessions]
    assert answer == "完了"


def held(call: Call) -> Iterator[dict[str, Any]]:
    node = {"nodeId": "n", "nodeName": "n", "nodeType": "LLM", "nodeStatus": "executing"}
    thoughts = [{"response": json.dumps(node)}]
    yield {"output": {"thoughts": thoughts, "text": "", "finish_reason": "null"}}
    call.disconnected.wait(60)


async def test_cancelling_an_agent_closes_the_connection(spans: Any) -> None:
    with Emulator(apps={"app": held}) as cloud:
        agent = FunctionAgent(tools=[tool_of(cloud)], llm=scripted([{"prompt": "一"}]))
        handler = agent.run("甲")
        async for event in handler.stream_events():
            if isinstance(event, BailianAppStepStream):
                break
        await handler.cancel_run()
        assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)


async def test_a_workflow_step_can_call_the_tool(llm_of: Any, spans: Any) -> None:
    class Travel(Workflow):
        @step
        async def plan(self, ctx: Context, ev: StartEvent) -> StopEvent:
            output = await tool.acall(ctx=ctx, city=ev.city, prompt="去")
            answer = await llm_of(cloud, "other").acomplete(f"翻译：{output.content}")
            return StopEvent(result=answer.text)

    with Emulator(apps={"app": WORKFLOW, "other": lambda call: "Trip"}) as cloud:
        tool = tool_of(cloud, params=Trip)
        handler = Travel().run(city="杭州")
        steps = [e async for e in handler.stream_events() if isinstance(e, BailianAppStepStream)]
        assert await handler == "Trip"
        assert [request.app_id for request in cloud.requests] == ["app", "other"]
    assert steps[0].phase == "started"
    runs = [note for note in spans.notes if note.name == "BailianApp.run"]
    parents = {note.id: note.name for note in spans.notes}
    assert [parents[note.parent_id or ""] for note in runs] == [
        "BailianAppLLM.achat",
        "BailianAppLLM.acomplete",
    ]


async def test_a_typed_state_is_rejected() -> None:
    class State(BaseModel):
        count: int = 0

    class Typed(Workflow):
        @step
        async def plan(self, ctx: Context[State], ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await tool.acall(ctx=ctx, prompt="去")).content)

    with Emulator(apps={"app": app}) as cloud:
        tool = tool_of(cloud)
        with pytest.raises(InvalidInputError, match="keep_session=False"):
            await Typed().run()
        assert not cloud.requests
        tool = tool_of(cloud, keep_session=False)
        assert await Typed().run() == "第1轮"


def test_tool_calls_of_the_app_are_core_events(events: Any) -> None:
    """The app's own tool calls, inside a tool of ours, are LlamaIndex's own events."""
    call = {"action_type": "api", "action_name": "weather", "observation": "晴"}
    frames = [{"output": {"thoughts": [call], "text": "晴", "finish_reason": "stop"}}]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        tool_of(cloud).call(prompt="?")
    [event] = events.of(AgentToolCallEvent)
    assert event.tool.name == "weather"


async def test_two_apps_with_one_tool_name_share_nothing() -> None:
    with Emulator(apps={"app": app, "other": app}) as cloud:
        agent = FunctionAgent(tools=[tool_of(cloud)], llm=scripted([{"prompt": "一"}]))
        ctx = Context(agent)
        await run(agent, "甲", ctx)
        state: Any = await ctx.store.get_state()
        assert [key for key in state if "plan_trip" in key] == ["bailian_app_tool/plan_trip/app"]
        other = tool_of(cloud, app_id="other")
        await other.acall(ctx=ctx, prompt="二")
        assert (cloud.requests[1].prompt, cloud.requests[1].messages) == ("二", [])


async def test_an_agent_can_hand_off_to_an_agent_with_an_app() -> None:
    """The last message is then the result of LlamaIndex's hand-off tool."""
    thought = "Thought: I can answer without using any more tools.\nAnswer: done"
    with Emulator(apps={"app": lambda _: thought}) as cloud:
        root = FunctionAgent(
            name="root",
            description="The root agent.",
            llm=scripted([{"tool": "handoff", "to_agent": "expert", "reason": "knows more"}]),
            can_handoff_to=["expert"],
            tools=[],
        )
        expert = ReActAgent(
            name="expert",
            description="Has an app as its LLM.",
            llm=BailianAppLLM(app_id="app", api_key="sk-test", base_url=cloud.base_url),
            tools=[FunctionTool.from_defaults(fn=lambda x: x, name="noop", description="Nothing.")],
        )
        answer, _ = await run(AgentWorkflow(agents=[root, expert], root_agent="root"), "hello")
        assert answer == "done"
        assert "Tool result: " in str(cloud.requests[0].messages[-1]["content"])


# ------------------------------------------------------------------------- without a context


class Ticket(BaseModel):
    """What a ticket needs."""

    city: str
    seat: str = Field(default="window", alias="seatKind")
    tags: list[str] = Field(default_factory=list)


@pytest.mark.parametrize(
    ("params", "signature"),
    [
        (None, "(prompt: str) -> str"),
        (
            Ticket,
            "(prompt: str, *, city: str, seatKind: str = 'window', tags: list[str] = <factory>)",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["fn", "async_fn", "real_fn"])
def test_the_function_of_a_tool_shows_its_name_arguments_and_description(
    kind: str, params: Any, signature: str
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        function = getattr(tool_of(cloud, params=params), kind)
        assert str(inspect.signature(function)).startswith(signature)
        assert inspect.signature(function).return_annotation is str
        assert (function.__name__, inspect.getdoc(function)) == ("plan_trip", "Plans a trip")
        arguments = {} if params is None else {"city": "杭州", "seatKind": "aisle"}
        said = function("去杭州", **arguments)
        said = asyncio.run(said) if inspect.isawaitable(said) else said
    assert said == "第1轮"
    assert cloud.requests[0].prompt == "去杭州"
    assert cloud.requests[0].biz_params.get("city") == arguments.get("city")


def test_a_tool_made_of_the_function_has_the_same_schema() -> None:
    with Emulator(apps={"app": app}) as cloud:
        tool = tool_of(cloud, params=Trip)
        copy = FunctionTool.from_defaults(fn=tool.fn)
        assert copy.call(prompt="去", city="杭州").content == "第1轮"
    parameters, own = copy.metadata.get_parameters_dict(), tool.metadata.get_parameters_dict()
    assert parameters["properties"].keys() == own["properties"].keys()
    assert sorted(parameters["required"]) == sorted(own["required"])
    assert cloud.requests[0].biz_params == {"city": "杭州", "days": 1}


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_code_act_agent_calls_the_app(llm_of: Any, streaming: bool) -> None:
    async def execute(code: str) -> str:
        return str(eval(code, {"plan_trip": tool.fn}))

    def coder(call: Call) -> str:
        asked = " ".join(str(message["content"]) for message in call.messages)
        assert 'def plan_trip(prompt: str) -> str:\n  """\nPlans a trip' in asked
        done = "Result of executing" in asked
        return "好了" if done else "<execute>plan_trip(prompt='去杭州')</execute>"

    with Emulator(apps={"app": app, "coder": coder}) as cloud:
        tool = tool_of(cloud, keep_session=False)
        agent = CodeActAgent(execute, llm=llm_of(cloud, "coder"), tools=[tool], streaming=streaming)
        answer, streamed = await run(agent, "我想旅行")
        assert [each.prompt for each in cloud.requests if each.app_id == "app"] == ["去杭州"]
    [called] = [event for event in streamed if isinstance(event, ToolCallResult)]
    assert (called.tool_output.content, answer) == ("第1轮", "好了")


async def test_an_agent_streams_the_steps_of_an_app_without_a_session() -> None:
    with Emulator(apps={"app": WORKFLOW}) as cloud:
        llm = scripted([{"prompt": "一"}])
        tool = tool_of(cloud, keep_session=False, output_schema=Trip)
        assert not tool.requires_context
        _, streamed = await run(FunctionAgent(tools=[tool], llm=llm), "甲")
    steps = [event for event in streamed if isinstance(event, BailianAppStepStream)]
    assert {event.tool_name for event in steps} == {"plan_trip"}
    [called] = [event for event in streamed if isinstance(event, ToolCallResult)]
    assert called.tool_output.is_error
    assert "does not fit" in called.tool_output.content, (
        "the answer that does not fit, for the model"
    )


async def test_an_app_is_not_a_model_that_calls_functions(llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        agent = FunctionAgent(tools=[tool_of(cloud)], llm=llm_of(cloud))
        with pytest.raises(ValueError, match="must be a FunctionCallingLLM"):
            await run(agent, "甲")
        assert not cloud.requests
