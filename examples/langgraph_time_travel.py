"""Two branches of one LangGraph conversation, each with its own context in the app.

    pip install "bailian-apps[langchain,emulator]" langgraph
    python examples/langgraph_time_travel.py

It prints the messages of both branches, and whether each was sent with the whole history.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with an app that answers what it knows.
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
def connect() -> Iterator[ChatBailianApp]:
    """Yield the app in the cloud, or one in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield ChatBailianApp(history_format="prompt")  # which every kind of app takes
        return
    from bailian_apps.emulator import Call, Emulator

    def recall(call: Call) -> str:
        history = [message["content"] for message in call.messages if message["role"] == "user"]
        known = history or [*(turn.user for turn in call.turns), call.prompt]
        return "I know: " + " ".join(known)

    with Emulator(apps={"memory": recall}) as cloud:
        yield ChatBailianApp(app_id="memory", api_key="any", base_url=cloud.base_url)


def build_graph(model: ChatBailianApp) -> Any:
    """Return a graph of one node, whose checkpointer stores every state of the conversation."""
    builder = StateGraph(MessagesState)
    builder.add_node("app", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "app")
    return builder.compile(checkpointer=InMemorySaver())


def send(graph: Any, text: str, config: Any) -> Any:
    """Send a message, print the answer, and return the config of the new checkpoint."""
    answer = graph.invoke({"messages": [HumanMessage(text)]}, config)["messages"][-1]
    whole = answer.response_metadata.get("whole_history", False)
    sent = "the whole history" if whole else "only this message"
    print(f"> {text}   (sent: {sent})\n{answer.text}\n")
    return graph.get_state(
        {"configurable": {"thread_id": config["configurable"]["thread_id"]}}
    ).config


def main() -> None:
    """Have a conversation, return to its first answer, and continue in both directions."""
    with connect() as model:
        graph = build_graph(model)
        thread = {"configurable": {"thread_id": "trip"}}
        send(graph, "My name is Mei.", thread)
        tea = send(graph, "I like tea.", thread)

        states = list(graph.get_state_history(thread))
        first_answer = next(state for state in states if len(state.values["messages"]) == 2)
        coffee = send(graph, "I like coffee.", first_answer.config)

        send(graph, "What do I like? (tea branch)", tea)
        send(graph, "What do I like? (coffee branch)", coffee)


if __name__ == "__main__":
    main()
