"""Apps that take only a prompt, through the chat model, the Runnable and the tool."""

from __future__ import annotations

import asyncio
import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from bailian_apps import Client, HistoryTemplate
from bailian_apps.emulator import Call, PromptOnly
from bailian_apps.langchain import BailianAppRunnable, BailianAppTool, ChatBailianApp

HISTORY = [
    SystemMessage("Be kind."),
    HumanMessage("I am Mei."),
    AIMessage("Hello."),
    HumanMessage("Who am I?"),
]
ROLES = ("system", "user", "assistant", "user")
PROMPT = HistoryTemplate().fold([(r, str(m.content)) for r, m in zip(ROLES, HISTORY, strict=True)])


def echo(call: Call) -> str:
    return call.prompt


def test_a_model_asks_a_prompt_only_app_again_with_a_prompt(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    cloud = start_cloud(app=PromptOnly(echo))
    model = make_model(cloud, client=Client(), max_retries=0)
    messages: list[Any] = list(HISTORY)
    messages.append(ask(model, messages))
    assert messages[-1].content == PROMPT
    assert messages[-1].response_metadata["whole_history"] is True
    assert messages[-1].response_metadata["history_format"] == "prompt"
    assert [sorted(request.input) for request in cloud.requests] == [["messages"], ["prompt"]]

    messages.append(HumanMessage("And you?"))
    answer = ask(model, messages)
    assert answer.content == "And you?"
    assert answer.response_metadata["bailian"]["round"] == 2
    assert len(cloud.requests) == 3


@pytest.mark.parametrize("path", ["invoke", "ainvoke", "stream", "astream"])
def test_a_runnable_asks_a_prompt_only_app_again_with_a_prompt(
    path: str, start_cloud: Any, fields_of: Any
) -> None:
    cloud = start_cloud(app=PromptOnly(echo))
    app = BailianAppRunnable(**fields_of(cloud, client=Client()))
    if path == "invoke":
        result = app.invoke(HISTORY)
    elif path == "ainvoke":
        result = asyncio.run(app.ainvoke(HISTORY))
    elif path == "stream":
        *_, result = app.stream(HISTORY)
    else:
        result = asyncio.run(last_of(app.astream(HISTORY)))
    assert (result.text, result.attempts, result.history_format) == (PROMPT, 2, "prompt")


async def last_of(results: Any) -> Any:
    return [result async for result in results][-1]


@pytest.mark.parametrize("method", ["invoke", "ainvoke"])
def test_the_tool_of_a_prompt_only_app_remembers_its_conversation(
    method: str, start_cloud: Any, fields_of: Any
) -> None:
    """Its session is over, so the second call sends the history."""
    cloud = start_cloud(app=PromptOnly(echo))
    tool = BailianAppTool(
        **fields_of(cloud, client=Client(), session_ttl_s=0),
        name="app",
        description="Echoes.",
        remember=True,
    )
    messages: list[Any] = []
    for prompt in ("one", "two"):
        args = {"prompt": prompt, "runtime": SimpleNamespace(state={"messages": messages})}
        call: Any = {"name": "app", "args": args, "id": prompt, "type": "tool_call"}
        answer = getattr(tool, method)(call)
        messages.append(asyncio.run(answer) if method == "ainvoke" else answer)
    turns = [("user", "one"), ("assistant", "one"), ("user", "two")]
    assert messages[-1].content == HistoryTemplate().fold(turns)
    sent = [sorted(request.input) for request in cloud.requests]
    assert sent == [["prompt"], ["messages"], ["prompt"]]


def test_a_system_text_in_the_prompt_format_opens_a_session(
    start_cloud: Any, make_model: Any
) -> None:
    cloud = start_cloud(app=PromptOnly(echo))
    model = make_model(cloud, history_format="prompt", history_template={"system": "[{text}]"})
    messages: list[Any] = [SystemMessage("Be kind."), HumanMessage("Hello")]
    messages += [model.invoke(messages), HumanMessage("More")]
    messages += [model.invoke(messages), HumanMessage("Even more")]
    asyncio.run(model.ainvoke(messages))
    prompts = [request.prompt for request in cloud.requests]
    assert prompts == ["[Be kind.]\n\n用户：Hello", "More", "Even more"]
    sessions = [request.session_id for request in cloud.requests]
    assert sessions[0] is None
    assert len(set(sessions[1:])) == 1


def test_a_later_system_message_is_sent_as_the_users(start_cloud: Any, make_model: Any) -> None:
    cloud = start_cloud(app=lambda call: "ok")
    model = make_model(cloud)
    model.invoke([SystemMessage("a"), HumanMessage("b"), AIMessage("c"), SystemMessage("d")])
    assert [message["role"] for message in cloud.requests[0].messages] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


def test_a_template_survives_a_dump_of_the_model() -> None:
    model = ChatBailianApp(app_id="app", api_key="k", history_template={"user": "U {text}"})
    kwargs = json.loads(dumps(model))["kwargs"] | {"api_key": "k"}
    assert ChatBailianApp(**kwargs).history_template == HistoryTemplate(user="U {text}")
    assert pickle.loads(pickle.dumps(model)).history_template == model.history_template
