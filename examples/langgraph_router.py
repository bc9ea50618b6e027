"""A LangGraph graph that answers each message with one of two apps, in one conversation.

    pip install "bailian-apps[langchain,emulator]" langgraph
    python examples/langgraph_router.py

It prints four questions, which app answered, and whether it was sent the whole history.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: `TRAVEL_APP_ID`
and `TEA_APP_ID` may name two different ones. Otherwise it starts the emulator with two apps that
say what they know of the conversation.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from bailian_apps.langchain import ChatBailianApp

WORDS = {"travel": ("trip", "day", "see"), "tea": ("tea", "brew")}
QUESTIONS = [
    "Plan a day in Hangzhou",
    "Which tea is grown there?",
    "Which water should I use?",
    "Add a tea house to my trip",
]


class State(MessagesState, total=False):
    """The conversation, and the app that answered last."""

    app: str


@contextmanager
def connect() -> Generator[dict[str, ChatBailianApp]]:
    """Yield the two apps: those in the cloud, or two in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        ids = {name: os.environ.get(f"{name.upper()}_APP_ID") for name in WORDS}
        yield make_models(
            {name: given or os.environ["BAILIAN_APP_ID"] for name, given in ids.items()}
        )
        return
    from bailian_apps.emulator import Call, Emulator

    def recall(call: Call) -> str:
        known = "\n".join([*(turn.user for turn in call.turns), call.prompt])
        asked = [question for question in QUESTIONS if question in known]
        return f"I know {len(asked)} of your questions: " + " / ".join(asked)

    with Emulator(apps=dict.fromkeys(WORDS, recall)) as cloud:
        yield make_models({name: name for name in WORDS}, api_key="any", base_url=cloud.base_url)


def make_models(ids: Mapping[str, str], **settings: Any) -> dict[str, ChatBailianApp]:
    """Return a model for each app id. Every kind of app takes a history as a prompt."""
    return {
        name: ChatBailianApp(app_id=app_id, history_format="prompt", **settings)
        for name, app_id in ids.items()
    }


def choose_app(state: State) -> str:
    """Return the node for the newest message. A model that classifies it can take its place."""
    text = state["messages"][-1].text.lower()
    named = [name for name, words in WORDS.items() if any(word in text for word in words)]
    return named[0] if named else state.get("app", "travel")  # stay with the app that answered


def build_graph(models: Mapping[str, ChatBailianApp]) -> Any:
    """Return a graph with one node for each app."""
    builder = StateGraph(State)
    for name, model in models.items():

        def ask(state: State, name: str = name, model: ChatBailianApp = model) -> Any:
            return {"messages": [model.invoke(state["messages"])], "app": name}

        builder.add_node(name, ask)
    builder.add_conditional_edges(START, choose_app, list(models))
    return builder.compile(checkpointer=InMemorySaver())


def main() -> None:
    """Have a conversation that changes the app twice, streamed."""
    thread: Any = {"configurable": {"thread_id": "1"}}
    with connect() as models:
        graph = build_graph(models)
        for question in QUESTIONS:
            print(f"> {question}")
            inputs = {"messages": [HumanMessage(question)]}
            node = None
            for chunk, metadata in graph.stream(inputs, thread, stream_mode="messages"):
                if chunk.text and node is None:
                    node = metadata["langgraph_node"]
                    print(f"{node}: ", end="")
                print(chunk.text, end="", flush=True)
            answer: AIMessage = graph.get_state(thread).values["messages"][-1]
            whole = answer.response_metadata.get("whole_history")
            print(f"\n  (sent: {'the whole history' if whole else 'only this message'})\n")


if __name__ == "__main__":
    main()
