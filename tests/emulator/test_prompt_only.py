"""Apps of the emulator that take only a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from bailian_apps import BailianApp, Client
from bailian_apps.emulator import Agent, Call, Emulator, Paced, PromptOnly, load_apps

MESSAGES = [
    {"role": "user", "content": "I am Mei."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Who am I?"},
]


def echo(call: Call) -> str:
    return f"{len(call.messages)} messages, prompt: {call.prompt}"


def ask(source: Any, prompt: str | None = None, **options: Any) -> str:
    # A client of its own: the default one remembers which app took only a prompt, by address, and
    # the emulator of an earlier test may have had this port.
    with Emulator(apps={"app": source}) as cloud, Client() as client:
        app = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url, client=client)
        return app.invoke(prompt, **options).text


def post(cloud: Emulator, **fields: Any) -> Any:
    return httpx.post(
        f"{cloud.base_url}/apps/app/completion",
        json={"input": fields, "parameters": {}},
        headers={"Authorization": "Bearer k", "X-DashScope-SSE": "enable"},
        timeout=60,
    )


def test_an_app_that_refuses_messages_asks_for_a_prompt() -> None:
    with Emulator(apps={"app": PromptOnly(echo)}) as cloud:
        refused = post(cloud, messages=MESSAGES)
        assert refused.status_code == 400
        assert refused.json()["code"] == "InvalidParameter"
        assert refused.json()["message"].startswith("Required parameter(Prompt) missing")
        assert not cloud.sessions
        answered = post(cloud, messages=MESSAGES, prompt="And you?")
        assert answered.status_code == 200
        [session] = cloud.sessions.values()
        assert session.turns[0].answer == "0 messages, prompt: And you?"


def test_an_app_that_ignores_messages_reads_the_last_one() -> None:
    source = PromptOnly(echo, messages="ignored")
    assert ask(source, messages=MESSAGES) == "0 messages, prompt: Who am I?"
    assert ask(source, "Hello") == "0 messages, prompt: Hello"


def test_every_kind_of_app_may_take_only_a_prompt(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("text: 'You asked: {prompt}'\n", encoding="utf-8")
    agent = Agent(text="You asked: {prompt}")
    for source in (agent, Paced(agent, 1), file):
        assert ask(PromptOnly(source, "ignored"), messages=MESSAGES) == "You asked: Who am I?"


def test_a_yaml_file_names_what_an_app_does_with_messages(tmp_path: Path) -> None:
    file = tmp_path / "apps.yaml"
    file.write_text(
        "apps:\n"
        "  planner: {text: 'Plan: {prompt}', messages: refused, pace: 2}\n"
        "  flow: {workflow: {nodes: [{name: a, output: x}]}, messages: ignored}\n",
        encoding="utf-8",
    )
    apps = load_apps(file)
    assert apps["planner"] == PromptOnly(Paced(Agent(text="Plan: {prompt}"), 2), "refused")
    assert isinstance(apps["flow"], PromptOnly)
    assert apps["flow"].messages == "ignored"
    file.write_text("text: x\nmessages: read\n", encoding="utf-8")
    with pytest.raises(ValueError, match="messages: Input should be 'refused' or 'ignored'"):
        load_apps(file)
    with pytest.raises(ValueError, match="must be 'refused' or 'ignored'"):
        PromptOnly(Agent(text="x"), "read")  # type: ignore[arg-type]
