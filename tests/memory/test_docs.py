"""The code of the page about LangGraph that needs PostgreSQL runs, in both languages."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest
from langgraph.graph import START, MessagesState, StateGraph
from support.pages import LANGUAGES, blocks

from bailian_apps.emulator import RECORDINGS, Emulator
from bailian_apps.langchain import ChatBailianApp


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_about_langgraph_keeps_a_conversation_in_postgresql(
    language: str, postgres: str
) -> None:
    [code] = blocks("langgraph", "py", language)
    code, count = re.subn(r'from_conn_string\("[^"]*"\)', f"from_conn_string({postgres!r})", code)
    assert count == 1
    with Emulator(apps={"app": RECORDINGS / "travel-workflow.jsonl"}) as cloud:
        model = ChatBailianApp(app_id="app", api_key="sk", base_url=cloud.base_url)

        def chat(state: MessagesState) -> Any:
            return {"messages": [model.invoke(state["messages"])]}

        names: dict[str, Any] = {
            "builder": StateGraph(MessagesState).add_node(chat).add_edge(START, "chat"),
            "thread": {"configurable": {"thread_id": uuid4().hex}},
        }
        for _ in range(2):
            exec(code, names)  # the page is ours
        first, second = cloud.requests
    assert first.session_id is None
    assert second.session_id
    assert not second.messages
