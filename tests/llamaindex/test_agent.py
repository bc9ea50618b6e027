"""`BailianAppAgent`: alone, and in an `AgentWorkflow`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.agent.workflow import (
    AgentOutput,
    AgentStream,
    AgentWorkflow,
    FunctionAgent,
    ReActAgent,
)
from llama_index.core.agent.workflow.workflow_events import AgentStreamStructuredOutput
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context
from pydantic import BaseModel
from support import recordings
from support.agents import run, scripted

from bailian_apps import (
    BailianApp,
    InvalidInputError,
    InvalidOutputError,
    RateLimitError,
    RequestTimeoutError,
)
from bailian_apps.emulator import Agent, Call, Emulator, Failure
from bailian_apps.llamaindex import BailianAppAgent, BailianAppStepStream

# LlamaIndex's agents use deprecated parts of pydantic and of LlamaIndex's own workflows, which warn
# about the memory that they do not serialise.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Skipping serialization of known unserializable key"),
]

WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"
CITED = {"title": "历书", "text": "多雨"}
HANDOFF = {"tool": "handoff", "to_agent": "guide", "reason": "it knows trips"}


class Trip(BaseModel):
    city: str
    days: int = 1


def app(call: Call) -> str:
    return f"第{len(call.turns) + 1}轮"


def agent_of(cloud: Emulator, **more: Any) -> BailianAppAgent:
    fields = {"api_key": "sk-test", "base_url": cloud.base_url, "max_retries": 0, "app_id": "app"}
    return BailianAppAgent(**fields | {"name": "guide", "description": "Plans trips"} | more)


def restored(agent: Any, ctx: Context) -> Context:
    return Context.from_dict(agent, json.loads(json.dumps(ctx.to_dict())))


def of(kind: type[Any], streamed: list[Any]) -> list[Any]:
    return [event for event in streamed if isinstance(event, kind)]


# ------------------------------------------------------------------------------------ a run


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_streams_the_text_and_the_steps_of_the_app(
    streaming: bool, spans: Any
) -> None:
    with Emulator(apps={"app": WORKFLOW}) as cloud:
        result = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url).invoke("?")
        answer, streamed = await run(
            agent_of(cloud, streaming=streaming, step_deltas=streaming), "去杭州"
        )
    assert answer == result.text
    chunks = of(AgentStream, streamed)
    assert "".join(chunk.delta for chunk in chunks) == (result.text if streaming else "")
    assert {chunk.current_agent_name for chunk in chunks} == ({"guide"} if streaming else set())
    steps = of(BailianAppStepStream, streamed)
    assert {(event.current_agent_name, event.tool_name) for event in steps} == {("guide", "")}
    finished = {each.step["id"]: each.step["output"] for each in steps if each.phase == "finished"}
    assert finished == {step.id: step.output for step in result.steps}
    said = "".join(each.text for each in steps if each.phase == "delta")
    assert said == ("".join(step.output for step in result.steps) if streaming else "")
    [output] = of(AgentOutput, streamed)
    assert [step["id"] for step in output.raw["steps"]] == [step.id for step in result.steps]


async def test_reasoning_streams_and_citations_are_in_raw() -> None:
    with Emulator(
        apps={"app": Agent(text="带伞", thoughts=[{"reasoning": "想一想"}], references=[CITED])}
    ) as cloud:
        _, streamed = await run(agent_of(cloud, thoughts=True), "带什么？")
    assert "".join(each.thinking_delta or "" for each in of(AgentStream, streamed)) == "想一想"
    [output] = of(AgentOutput, streamed)
    assert [each["title"] for each in output.raw["references"]] == ["历书"]


async def test_an_answer_counts_as_no_iteration_too_many() -> None:
    with Emulator(apps={"app": app}) as cloud:
        assert str(await agent_of(cloud).run("去", max_iterations=1)) == "第1轮"
        assert len(cloud.requests) == 1


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_run_raises_the_error_of_the_call(streaming: bool, spans: Any) -> None:
    failing = {"app": lambda call: Failure(status=429, code="Throttling", message="慢一点")}
    with Emulator(apps=failing) as cloud, pytest.raises(RateLimitError, match="慢一点") as caught:
        await run(agent_of(cloud, streaming=streaming), "去")
    assert caught.value.code == "Throttling"


async def test_the_timeout_of_the_app_ends_a_run() -> None:
    with Emulator(apps={"app": held}) as cloud:
        with pytest.raises(RequestTimeoutError):
            await run(agent_of(cloud, timeout=0.2), "去")
        assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)


def held(call: Call) -> Iterator[dict[str, Any]]:
    yield {"output": {"text": "一", "finish_reason": "null"}}
    call.disconnected.wait(60)


async def test_cancelling_a_run_closes_the_connection(spans: Any) -> None:
    with Emulator(apps={"app": held}) as cloud:
        handler = agent_of(cloud).run("去")
        async for event in handler.stream_events():
            if isinstance(event, AgentStream):
                break
        await handler.cancel_run()
        assert await asyncio.to_thread(cloud.requests[0].disconnected.wait, 60)


# ----------------------------------------------------------------------------- the conversation


@pytest.mark.parametrize("name", ["guide", "guide v1.2"])
async def test_a_run_with_the_same_or_a_restored_context_continues_the_session(name: str) -> None:
    with Emulator(apps={"app": app}) as cloud:
        agent = agent_of(cloud, name=name)
        ctx = Context(agent)
        answers = [str(await agent.run("一", ctx=ctx)), str(await agent.run("二", ctx=ctx))]
        ctx = restored(agent, ctx)
        answers += [str(await agent.run("三", ctx=ctx)), str(await agent.run("四", ctx=ctx))]
        [session] = cloud.sessions
        assert [request.session_id for request in cloud.requests] == [None, *[session] * 3]
        assert [request.prompt for request in cloud.requests] == ["一", "二", "三", "四"]
    assert answers == ["第1轮", "第2轮", "第3轮", "第4轮"]


async def test_a_restored_context_has_the_history_where_the_session_is_gone() -> None:
    with Emulator(apps={"app": app}) as cloud:
        agent = agent_of(cloud)
        ctx = Context(agent)
        await agent.run("一", ctx=ctx)
        agent = agent_of(cloud, history_mode="full", system_prompt="你是导游")
        await agent.run("二", ctx=restored(agent, ctx))
        sent = [(each["role"], each["content"]) for each in cloud.requests[1].messages]
    assert sent == [
        ("system", "你是导游"),
        ("user", "一"),
        ("assistant", "第1轮"),
        ("user", "二"),
    ]


async def test_runs_with_different_contexts_share_nothing() -> None:
    with Emulator(apps={"app": app}) as cloud:
        agent = agent_of(cloud)
        contexts = [Context(agent), Context(agent)]
        for _ in "ab":
            await asyncio.gather(*(agent.run("去", ctx=ctx) for ctx in contexts))
        assert len(cloud.sessions) == 2
        used = [request.session_id for request in cloud.requests]
        assert used[:2] == [None, None]
        assert sorted(used[2:]) == sorted(cloud.sessions)


async def test_a_given_chat_history_is_another_conversation() -> None:
    with Emulator(apps={"app": app}) as cloud:
        agent = agent_of(cloud)
        ctx = Context(agent)
        await agent.run("一", ctx=ctx)
        earlier = [ChatMessage("甲"), ChatMessage("乙", role="assistant")]
        await agent.run("二", ctx=ctx, chat_history=earlier)
        assert [each["content"] for each in cloud.requests[1].messages] == ["甲", "乙", "二"]


async def test_a_memory_keeps_the_conversation_between_contexts() -> None:
    memory: Any = ChatMemoryBuffer.from_defaults(token_limit=1_000)
    with Emulator(apps={"app": app}) as cloud:
        for question in ("一", "二"):
            await agent_of(cloud).run(question, memory=memory)
        [session] = cloud.sessions
        assert [request.session_id for request in cloud.requests] == [None, session]
    assert [each.content for each in memory.get_all()] == ["一", "第1轮", "二", "第2轮"]


async def test_the_state_of_the_workflow_is_shown_to_the_app() -> None:
    with Emulator(apps={"app": app}) as cloud:
        agent = agent_of(cloud, initial_state={"city": "杭州"}, state_prompt="{state}：{msg}")
        ctx = Context(agent)
        await agent.run("一", ctx=ctx)
        await agent.run("二", ctx=ctx)
        prompts = [request.prompt for request in cloud.requests]
        assert prompts == ["{'city': '杭州'}：一", "{'city': '杭州'}：二"]
        assert len(cloud.sessions) == 1


# --------------------------------------------------------------------------------- typed output


@pytest.mark.parametrize("alone", [True, False])
async def test_the_answer_is_the_structured_response(alone: bool) -> None:
    with Emulator(apps={"app": lambda call: '{"city": "杭州", "days": 2}'}) as cloud:
        agent = agent_of(cloud, output_cls=Trip)
        handler = (agent if alone else AgentWorkflow(agents=[agent])).run(user_msg="去")
        [event] = [
            e async for e in handler.stream_events() if isinstance(e, AgentStreamStructuredOutput)
        ]
        output = await handler
        assert len(cloud.requests) == 1
    assert output.get_pydantic_model(Trip) == Trip(city="杭州", days=2)
    assert event.output == output.structured_response


async def test_a_function_makes_the_structured_response_of_the_conversation() -> None:
    with Emulator(apps={"app": app}) as cloud:
        agent = agent_of(cloud, structured_output_fn=lambda messages: {"n": len(messages)})
        assert (await agent.run("去")).structured_response == {"n": 2}


async def test_an_answer_that_does_not_fit_raises_and_stays_in_the_conversation() -> None:
    with Emulator(apps={"app": app}) as cloud:
        agent = agent_of(cloud, output_cls=Trip)
        ctx = Context(agent)
        for question in ("一", "二"):
            with pytest.raises(InvalidOutputError, match="does not fit output_cls Trip") as caught:
                await agent.run(question, ctx=ctx)
        assert caught.value.partial is not None
        assert caught.value.partial.text == "第2轮"
        assert [request.prompt for request in cloud.requests] == ["一", "二"]
        assert len(cloud.sessions) == 1


# -------------------------------------------------------------------------------- in a workflow


def workflow_of(root: Any, guide: BailianAppAgent) -> AgentWorkflow:
    return AgentWorkflow(agents=[root, guide], root_agent=root.name)


@pytest.mark.parametrize("kind", ["function", "react"])
async def test_an_agent_hands_off_to_the_app_which_gets_the_question_alone(
    kind: str, llm_of: Any
) -> None:
    step = 'Thought: I need a guide.\nAction: handoff\nAction Input: {"to_agent": "guide", "reason": "trips"}'
    with Emulator(apps={"app": app, "thinker": lambda call: step}) as cloud:
        root: Any = (
            FunctionAgent(name="root", description="Chats", llm=scripted([HANDOFF]))
            if kind == "function"
            else ReActAgent(name="root", description="Chats", llm=llm_of(cloud, "thinker"))
        )
        workflow = workflow_of(root, agent_of(cloud))
        ctx = Context(workflow)
        answers = [
            (await run(workflow, "去杭州", ctx))[0],
            (await run(workflow, "第二天？", ctx))[0],
        ]
        ctx = restored(workflow, ctx)
        answers.append((await run(workflow, "第三天？", ctx))[0])
        asked = [request for request in cloud.requests if request.app_id == "app"]
    assert answers == ["第1轮", "第2轮", "第3轮"]
    assert [request.prompt for request in asked] == ["去杭州", "第二天？", "第三天？"]
    assert asked[0].session_id is None
    assert asked[1].session_id == asked[2].session_id is not None


async def test_an_app_continues_its_session_when_it_is_handed_off_to_again() -> None:
    """What the other agent has answered in between is sent too, so the whole history is."""
    with Emulator(apps={"app": app}) as cloud:
        llm = scripted([HANDOFF], [], [HANDOFF])
        root = FunctionAgent(name="root", description="Chats", llm=llm)
        workflow = workflow_of(root, agent_of(cloud))
        ctx = Context(workflow)
        memory = ChatMemoryBuffer.from_defaults(token_limit=1_000)
        for question in ("去杭州", "谢谢", "第二天？"):
            answer = str(await workflow.run(question, ctx=ctx, memory=memory))
            await ctx.store.set("current_agent_name", "root")
        contents = [each["content"] for each in cloud.requests[1].messages]
    assert contents == ["去杭州", "第1轮", "谢谢", "完了", "第二天？"]
    assert answer == "第1轮", "a new session"


async def test_an_app_as_root_answers_and_hands_off_to_nobody() -> None:
    with Emulator(apps={"app": app}) as cloud:
        other = FunctionAgent(name="other", description="Chats", llm=scripted())
        guide = agent_of(cloud)
        workflow = AgentWorkflow(agents=[guide, other], root_agent="guide")
        assert (await run(workflow, "去"))[0] == "第1轮"
        assert not await workflow.get_tools("guide")
        assert not other.llm.received


async def test_two_apps_are_agents_of_one_workflow() -> None:
    with Emulator(apps={"app": app, "other": lambda call: "到了"}) as cloud:
        driver = agent_of(cloud, app_id="other", name="driver")
        workflow = AgentWorkflow(agents=[agent_of(cloud), driver], root_agent="guide")
        ctx = Context(workflow)
        memory = ChatMemoryBuffer.from_defaults(token_limit=1_000)
        await workflow.run("去", ctx=ctx, memory=memory)
        await ctx.store.set("current_agent_name", "driver")
        assert str(await workflow.run("开车", ctx=ctx, memory=memory)) == "到了"
        assert [each["content"] for each in cloud.requests[1].messages] == ["去", "第1轮", "开车"]


# ---------------------------------------------------------------------------------- the fields


def tool() -> FunctionTool:
    return FunctionTool.from_defaults(fn=app, name="noop", description="Nothing")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("tools", [tool()], "tools cannot be used by an app. Add tools to the app"),
        ("tool_retriever", object(), "tool_retriever cannot be used by an app"),
        ("can_handoff_to", ["other"], "can_handoff_to cannot be used by an app. Leave it out"),
        ("output_cls", dict, "output_cls must be a pydantic model class"),
        ("llm", object(), "llm must be a BailianAppLLM, not an object"),
        ("app", "app-1", "app must be a BailianApp, not a str. Pass an app's id as app_id="),
        ("tempature", 1, "tempature is not a setting. Did you mean 'temperature'?"),
        ("name", 7, "name must be a valid string, not an int"),
    ],
)
def test_a_field_that_an_app_cannot_use_is_refused_by_name(
    field: str, value: Any, problem: str
) -> None:
    settings = {} if field in ("app", "llm") else {"app_id": "app"}
    with pytest.raises(InvalidInputError) as caught:
        BailianAppAgent(**settings, **{field: value})
    assert str(caught.value).startswith(problem)


async def test_an_agent_is_created_from_an_app_or_an_llm(llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        made = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url)
        for agent in (
            BailianAppAgent(made, tools=[], can_handoff_to=None),
            BailianAppAgent(llm=llm_of(cloud)),
        ):
            assert str(await agent.run("去")) == "第1轮"
        assert "sk-test" not in repr(agent)
