"""An app as a tool: what it receives, what it returns, and how its failures are handled."""

from __future__ import annotations

import asyncio
import datetime
import re
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.tools import ToolException
from pydantic import BaseModel, Field, SecretStr, ValidationError
from support import recordings

from bailian_apps import AppSettings, BailianError, InvalidInputError, ServerError
from bailian_apps.core.language import forget_language
from bailian_apps.emulator import Call, Failure
from bailian_apps.langchain import BailianAppTool

WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"


class Trip(BaseModel):
    city: str = Field(description="Where to.")
    day: datetime.date | None = Field(default=None, alias="日期")


def make_tool(fields: dict[str, Any], **more: Any) -> BailianAppTool:
    return BailianAppTool(name="travel", description="Plans trips.", **{**fields, **more})


def tool_call(**arguments: Any) -> ToolCall:
    return ToolCall(type="tool_call", id="1", name="travel", args={"prompt": "hi", **arguments})


@pytest.fixture(params=["invoke", "ainvoke"])
def use(request: pytest.FixtureRequest) -> Any:
    def use(tool: BailianAppTool, *given: Any) -> Any:
        if request.param == "invoke":
            return tool.invoke(*given)
        return asyncio.run(tool.ainvoke(*given))

    return use


def test_the_answer_is_the_content_and_everything_else_the_artifact(
    use: Any, fields_of: Any
) -> None:
    message = use(make_tool(fields_of(WORKFLOW)), tool_call())
    assert message.content == recordings.expected_text(WORKFLOW.name)
    assert (message.name, message.status) == ("travel", "success")
    artifact = message.artifact
    assert artifact["prompt"] == "hi"
    assert [step["name"] for step in artifact["steps"]] == ["开始", "大模型_1", "大模型_2", "结束"]
    used = recordings.frames(WORKFLOW.name)[-1]["usage"]["models"]
    total = sum(model["input_tokens"] + model["output_tokens"] for model in used)
    assert artifact["usage"]["total_tokens"] == total
    assert len(artifact["usage"]["models"]) == len(used)
    assert artifact["session_id"]
    assert artifact["session_id"] == artifact["bailian"]["session_id"]
    assert artifact["request_id"]


def test_references_are_in_the_artifact(use: Any, agent: Any, fields_of: Any) -> None:
    (reference,) = use(make_tool(fields_of(lambda _: agent)), tool_call()).artifact["references"]
    assert reference["index_id"] == "1"
    assert reference["text"] == "龙井"


def test_a_plain_string_input_is_enough(use: Any, fields_of: Any) -> None:
    tool = make_tool(fields_of(WORKFLOW), biz_params_schema=None)
    assert use(tool, "hi") == recordings.expected_text(WORKFLOW.name)


def test_start_variables_are_arguments_and_override_the_field(
    use: Any, start_cloud: Any, fields_of: Any
) -> None:
    cloud = start_cloud(app=WORKFLOW)
    tokens = {"plugin": {"user_token": "secret"}}
    fixed = {"city": "-", "lang": "zh", "user_defined_tokens": tokens}
    tool = make_tool(fields_of(cloud), biz_params=fixed, biz_params_schema=Trip)
    use(tool, tool_call(city="杭州", day="2024-05-01"))
    use(tool, tool_call(city="杭州"))
    first, second = (request.body["input"] for request in cloud.requests)
    sent = {"city": "杭州", "lang": "zh", "user_defined_tokens": tokens}
    assert first["biz_params"] == {**sent, "日期": "2024-05-01"}
    assert second["biz_params"] == sent
    assert first["prompt"] == "hi"


def test_the_models_schema_has_the_prompt_and_the_start_variables_only(fields_of: Any) -> None:
    tool = make_tool(fields_of(WORKFLOW), biz_params_schema=Trip, remember=True)
    schema = tool.tool_call_schema.model_json_schema()
    assert list(schema["properties"]) == ["prompt", "city", "day"]
    assert schema["required"] == ["prompt", "city"]
    assert schema["properties"]["city"]["description"] == "Where to."


def test_arguments_of_a_custom_args_schema_are_sent(
    use: Any, start_cloud: Any, fields_of: Any
) -> None:
    class Arguments(BaseModel):
        prompt: str
        who: str

    cloud = start_cloud(app=WORKFLOW)
    schema = {"type": "object", "properties": {"prompt": {}, "who": {}}}
    for given in (Arguments, schema):
        use(make_tool(fields_of(cloud), args_schema=given), tool_call(who="me"))
    assert [r.body["input"]["biz_params"] for r in cloud.requests] == [{"who": "me"}] * 2


class NoPrompt(BaseModel):
    question: str


class Clash(BaseModel):
    runtime: str


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"args_schema": NoPrompt}, "args_schema has no field 'prompt'"),
        ({"args_schema": {"properties": {}}}, "args_schema has no field 'prompt'"),
        (
            {"args_schema": {"properties": {"prompt": {}}}, "remember": True},
            "must be a pydantic model",
        ),
        ({"biz_params_schema": Clash}, "has a field 'runtime'"),
        ({"app_idd": "x"}, "app_idd is not a setting"),
    ],
)
def test_an_invalid_field_raises_an_error_that_names_it(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make_tool({"app_id": "app"}, **fields)


def failing(error: Failure) -> Any:
    def app(_: Call) -> Any:
        yield {"output": {"text": "", "finish_reason": "null"}}
        yield error

    return app


@pytest.mark.parametrize("code", ["AppProcessFailed", "InvokePluginFailed", "DataInspectionFailed"])
def test_an_error_of_the_app_itself_is_returned_to_the_model(
    code: str, use: Any, fields_of: Any
) -> None:
    fields = fields_of(failing(Failure(status=400, code=code, message="no such city")))
    message = use(make_tool(fields), tool_call())
    assert (message.status, message.artifact) == ("error", None)
    assert "no such city" in message.content
    with pytest.raises(ToolException, match="no such city") as caught:
        use(make_tool(fields, handle_tool_error=False), tool_call())
    assert isinstance(caught.value.__cause__, BailianError)


def test_a_model_reads_english_errors_in_every_language(
    use: Any, fields_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = fields_of(failing(Failure(status=400, code="AppProcessFailed", message="no city")))
    english = use(make_tool(fields), tool_call()).content
    monkeypatch.setenv("BAILIAN_LANG", "zh")
    forget_language()
    try:
        chosen = use(make_tool(fields), tool_call()).content
    finally:
        monkeypatch.undo()
        forget_language()
    without_ids = [re.sub("request_id [^,)]+", "", each) for each in (english, chosen)]
    assert without_ids[0] == without_ids[1]


def test_all_other_failures_are_raised(use: Any, fields_of: Any) -> None:
    tool = make_tool(fields_of(failing(Failure(status=500, code="SystemError"))))
    with pytest.raises(ServerError) as caught:
        use(tool, tool_call())
    assert caught.value.is_retryable is False
    with pytest.raises(ValidationError):
        use(tool, {"prompt": ""})


async def test_cancelling_ends_the_tool_and_its_steps(held: Any, fields_of: Any, log: Any) -> None:
    tool = make_tool(fields_of(held))
    begun = asyncio.Event()
    log.on_step = begun.set
    task = asyncio.create_task(tool.ainvoke("hi", {"callbacks": [log]}))
    await asyncio.wait_for(begun.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    names = [("start", "travel"), ("start", "mail"), ("error", "mail"), ("error", "travel")]
    assert log.events == names
    assert await asyncio.to_thread(held.disconnected.wait, 60)


def test_no_secret_is_in_a_trace_or_a_repr(use: Any, fields_of: Any, traces: Any) -> None:
    secret = {"user_defined_tokens": {"t": {"user_token": "tok-very-secret"}}}
    tool = make_tool(fields_of(WORKFLOW), biz_params=secret)
    use(tool, tool_call(), {"callbacks": [traces]})
    seen = repr(tool) + repr([run.model_dump() for run in traces.roots])
    assert "tok-very" not in seen
    assert "sk-secret" not in seen


# ------------------------------------------------------------------ remembering


def exchange(tool: BailianAppTool, messages: list[Any], *words: str) -> ToolMessage:
    """Calls the tool as LangGraph's ToolNode does; returns the last message."""
    graph = pytest.importorskip("langgraph.graph")
    prebuilt = pytest.importorskip("langgraph.prebuilt")
    calls = [tool_call(prompt=each) | {"id": each} for each in words]
    messages += [HumanMessage("?"), AIMessage("", tool_calls=calls)]
    builder = graph.StateGraph(graph.MessagesState)
    builder.add_node("tools", prebuilt.ToolNode([tool]))
    builder.add_edge(graph.START, "tools")
    messages[:] = builder.compile().invoke({"messages": messages})["messages"]
    return messages[-1]


def test_a_tool_that_remembers_continues_its_session(start_cloud: Any, fields_of: Any) -> None:
    cloud = start_cloud(app=WORKFLOW)
    tool = make_tool(fields_of(cloud), remember=True)
    mine: list[Any] = []
    first, second = exchange(tool, mine, "one"), exchange(tool, mine, "two")
    other = exchange(tool, [], "else")
    sent = [request.body["input"].get("session_id") for request in cloud.requests]
    assert sent == [None, first.artifact["session_id"], None]
    assert second.artifact["bailian"]["round"] == 2
    assert other.artifact["session_id"] != first.artifact["session_id"]


def test_two_tool_calls_in_one_message_lose_no_context(start_cloud: Any, fields_of: Any) -> None:
    cloud = start_cloud(app=lambda call: "ok")
    tool = make_tool(fields_of(cloud), remember=True)
    messages: list[Any] = []
    exchange(tool, messages, "one")
    exchange(tool, messages, "two", "three")
    assert sorted(bool(request.session_id) for request in cloud.requests[1:]) == [False, True]
    exchange(tool, messages, "four")
    contents = [message["content"] for message in cloud.requests[3].messages]
    assert contents == ["one", "ok", "two", "ok", "three", "ok", "four"]


def test_a_tool_reports_that_the_app_has_forgotten(start_cloud: Any, fields_of: Any) -> None:
    cloud = start_cloud(app=lambda call: "ok")
    tool = make_tool(fields_of(cloud), remember=True)
    messages: list[Any] = []
    assert exchange(tool, messages, "one").artifact["context_lost"] is False
    cloud.forget()
    assert exchange(tool, messages, "two").artifact["context_lost"] is True
    assert exchange(tool, messages, "three").artifact["context_lost"] is False
    assert len(cloud.requests[2].messages) == 5


def test_another_tools_conversation_is_not_continued(start_cloud: Any, fields_of: Any) -> None:
    cloud = start_cloud(app=WORKFLOW)
    messages: list[Any] = []
    exchange(make_tool(fields_of(cloud), remember=True), messages, "one")
    for message in messages:
        if isinstance(message, ToolMessage):
            message.name = "hotels"
    exchange(make_tool(fields_of(cloud), remember=True), messages, "two")
    assert cloud.requests[1].body["input"] == {"prompt": "two"}


def test_when_a_session_has_ended_everything_is_sent(start_cloud: Any, fields_of: Any) -> None:
    cloud = start_cloud(app=WORKFLOW)
    tool = make_tool(fields_of(cloud), remember=True, session_max_rounds=1)
    messages: list[Any] = []
    text = exchange(tool, messages, "one").text
    exchange(tool, messages, "two")
    assert cloud.requests[-1].body["input"]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": text},
        {"role": "user", "content": "two"},
    ]


def test_a_tool_without_remember_starts_a_new_session(start_cloud: Any, fields_of: Any) -> None:
    cloud = start_cloud(app=WORKFLOW)
    messages: list[Any] = []
    for words in ("one", "two"):
        exchange(make_tool(fields_of(cloud)), messages, words)
    assert all("session_id" not in request.body["input"] for request in cloud.requests)


def test_every_setting_is_a_field_of_the_tool() -> None:
    assert set(AppSettings.model_fields) <= set(BailianAppTool.model_fields)


def test_both_of_two_separate_calls_are_sent_to_the_next(start_cloud: Any, fields_of: Any) -> None:
    """Each call started its own session, so neither session contains both."""
    cloud = start_cloud(app=lambda call: f"heard {call.prompt}")
    tool = make_tool(fields_of(cloud), remember=True)
    messages: list[Any] = []
    for words in ("my name is Bo", "I like tea"):
        exchange(tool, alone := [], words)
        messages += alone
    exchange(tool, messages, "who am I")
    contents = [each["content"] for each in cloud.requests[-1].messages]
    assert contents == [
        "my name is Bo",
        "heard my name is Bo",
        "I like tea",
        "heard I like tea",
        "who am I",
    ]


def test_a_secretstr_argument_is_sent_unmasked(use: Any, fields_of: Any) -> None:
    class Login(BaseModel):
        pin: SecretStr

    seen: list[Call] = []
    fields = fields_of(lambda call: seen.append(call) or "ok")
    use(make_tool(fields, biz_params_schema=Login), {"prompt": "x", "pin": "1234"})
    assert seen[0].biz_params == {"pin": "1234"}


@pytest.mark.parametrize("ended", [False, True], ids=["in the session", "with the history"])
def test_an_edited_tool_message_does_not_change_the_conversation(
    ended: bool, start_cloud: Any, fields_of: Any
) -> None:
    cloud = start_cloud(app=lambda call: f"heard {call.prompt}")
    limits: dict[str, Any] = {"session_max_rounds": 1} if ended else {}
    tool = make_tool(fields_of(cloud), remember=True, **limits)
    messages: list[Any] = []
    exchange(tool, messages, "one").content = "Note: edited.\n\nheard one, and more"
    exchange(tool, messages, "two").content = [{"type": "text", "text": "[redacted]"}]
    exchange(tool, messages, "three")
    last = cloud.requests[-1]
    if ended:
        contents = [message["content"] for message in last.messages]
        assert contents == ["one", "heard one", "two", "heard two", "three"]
    else:
        assert (last.prompt, last.messages) == ("three", [])
        assert last.session_id == messages[2].artifact["session_id"]


@pytest.mark.parametrize("change", [lambda it: it.pop("answer"), lambda it: it.update(answer=None)])
def test_a_message_stored_without_the_answer_is_still_read(
    change: Any, start_cloud: Any, fields_of: Any
) -> None:
    cloud = start_cloud(app=lambda call: "ok")
    tool = make_tool(fields_of(cloud), remember=True)
    messages: list[Any] = []
    change(exchange(tool, messages, "one").artifact)
    exchange(tool, messages, "two")
    assert cloud.requests[-1].session_id
    assert "answer" not in exchange(make_tool(fields_of(cloud)), [], "three").artifact


@pytest.mark.parametrize("is_async", [False, True])
def test_a_call_that_a_person_edited_is_remembered_as_it_ran(
    is_async: bool, start_cloud: Any, fields_of: Any
) -> None:
    agents = pytest.importorskip("langchain.agents")
    middleware = pytest.importorskip("langchain.agents.middleware")
    from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.types import Command

    class Model(FakeMessagesListChatModel):
        def bind_tools(self, tools: Any, **_: Any) -> Any:
            return self

    cloud = start_cloud(app=lambda call: f"heard {call.prompt}")
    calls = [tool_call(prompt=words) | {"id": words} for words in ("one", "two")]
    answers = [
        each for call in calls for each in (AIMessage("", tool_calls=[call]), AIMessage("."))
    ]
    agent = agents.create_agent(
        Model(responses=answers),
        [make_tool(fields_of(cloud), remember=True)],
        middleware=[middleware.HumanInTheLoopMiddleware(interrupt_on={"travel": True})],
        checkpointer=InMemorySaver(),
    )
    edited = {"name": "travel", "args": {"prompt": "one, edited"}}
    thread: Any = {"configurable": {"thread_id": "1"}}

    def run(given: Any) -> Any:
        return (
            asyncio.run(agent.ainvoke(given, thread)) if is_async else agent.invoke(given, thread)
        )

    for decision in ({"type": "edit", "edited_action": edited}, {"type": "approve"}):
        run({"messages": [("user", "go")]})
        state = run(Command(resume={"decisions": [decision]}))
    first, second = cloud.requests
    assert (first.prompt, second.prompt) == ("one, edited", "two")
    [session_id] = {m.artifact["session_id"] for m in state["messages"] if m.type == "tool"}
    assert second.session_id == session_id
