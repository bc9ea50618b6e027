"""Two branches of one LangGraph conversation, and an app that knows each apart from the other.

    pip install "bailian-apps[langchain,emulator]" langgraph
    python examples/langgraph_time_travel.py

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set it asks that app on the cloud. Without them it
starts a local stand-in whose app says what it knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from bailian_apps.langchain import ChatBailianApp


@contextmanager
def an_app() -> Iterator[ChatBailianApp]:
    """The app on the cloud, if the environment names one; else one in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield ChatBailianApp()
        return
    from bailian_apps.emulator import Call, Emulator

    def what_it_knows(call: Call) -> str:
        told = [message["content"] for message in call.messages if message["role"] == "user"]
        known = told or [*(turn.user for turn in call.turns), call.prompt]
        return "I know: " + " ".join(known)

    with Emulator(apps={"memory": what_it_knows}) as cloud:
        yield ChatBailianApp(app_id="memory", api_key="any", base_url=cloud.base_url)


def conversation_with(model: ChatBailianApp) -> Any:
    """A graph of one node, whose checkpointer keeps every state of the conversation."""
    builder = StateGraph(MessagesState)
    builder.add_node("app", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "app")
    return builder.compile(checkpointer=InMemorySaver())


def say(graph: Any, words: str, config: Any) -> Any:
    """Say something, print the answer, and return where the conversation is now."""
    answer = graph.invoke({"messages": [HumanMessage(words)]}, config)["messages"][-1]
    whole = answer.response_metadata.get("whole_history", False)
    sent = "the whole history" if whole else "only this"
    print(f"> {words}   (sent: {sent})\n{answer.text}\n")
    return graph.get_state(
        {"configurable": {"thread_id": config["configurable"]["thread_id"]}}
    ).config


def main() -> None:
    """Have a conversation, go back to its first answer, and go on both ways from there."""
    with an_app() as model:
        graph = conversation_with(model)
        thread = {"configurable": {"thread_id": "trip"}}
        say(graph, "My name is Mei.", thread)
        tea = say(graph, "I like tea.", thread)

        states = list(graph.get_state_history(thread))
        first_answer = next(state for state in states if len(state.values["messages"]) == 2)
        coffee = say(graph, "I like coffee.", first_answer.config)

        say(graph, "What do I like? (tea branch)", tea)
        say(graph, "What do I like? (coffee branch)", coffee)


if __name__ == "__main__":
    main()
