"""An app as a tool of a LangChain agent: its steps and its answer as they stream, in one session.

    pip install "bailian-apps[langchain,emulator]" langchain
    python examples/langchain_agent.py

It prints two questions with the steps and answers of the app, and the round of its session. The
agent's own model is scripted, so no other key is needed; any model that calls tools can take its
place.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with a recorded travel workflow.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from bailian_apps.langchain import BailianAppTool

QUESTIONS = ["杭州有什么好吃的？", "那有什么好玩的？"]


class ScriptedModel(FakeMessagesListChatModel):
    """Calls the tool, then ends its turn."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> ScriptedModel:
        """Ignore the tools: the script has the calls."""
        return self


def scripted() -> ScriptedModel:
    """Return a model that calls the tool once per question."""
    messages: list[BaseMessage] = []
    for number, question in enumerate(QUESTIONS):
        call = ToolCall(
            type="tool_call", id=f"call-{number}", name="travel", args={"prompt": question}
        )
        messages += [AIMessage("", tool_calls=[call]), AIMessage("(the agent summarizes)")]
    return ScriptedModel(responses=messages)


def make_tool(stack: ExitStack) -> BailianAppTool:
    """Return the app in the cloud, or the recorded one in the emulator."""
    fields: dict[str, Any] = {
        "name": "travel",
        "description": "Knows dishes and sights of Chinese cities.",
        "remember": True,
    }
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        return BailianAppTool(**fields)
    from bailian_apps.emulator import RECORDINGS, Emulator

    cloud = stack.enter_context(Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}))
    return BailianAppTool(app_id="travel", api_key="any", base_url=cloud.base_url, **fields)


def main() -> None:
    """Ask the agent twice in one thread."""
    with ExitStack() as stack:
        agent = create_agent(scripted(), [make_tool(stack)], checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "1"}}
        for question in QUESTIONS:
            print(f"> {question}")
            inputs: Any = {"messages": [("human", question)]}
            for mode, part in agent.stream(inputs, config, stream_mode=["messages", "custom"]):
                show(mode, part)


def show(mode: str, part: Any) -> None:
    """Print one part of the agent's stream."""
    if mode == "custom":
        if part["event"] == "end" and part["step"]["type"] != "End":  # which has the answer
            print(f"  [{part['step']['name']}]")
        return
    message, metadata = part
    if isinstance(message, AIMessageChunk) and metadata["langgraph_node"] == "tools":
        print(message.text, end="", flush=True)
    elif isinstance(message, ToolMessage):
        session = message.artifact["bailian"]
        print(f"\n  (round {session['round']} of session {session['session_id']})")


if __name__ == "__main__":
    main()
