"""An app as a tool of a LangChain agent: its steps live, and a second turn in the same session.

The agent's own model is scripted here, so that no other key is needed; any model that calls tools
can take its place. With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set it asks that app on the cloud;
else it starts the emulator with a recorded travel workflow. It needs `pip install langchain`.
Run it with: python examples/langchain_agent.py
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from bailian_apps.langchain import BailianAppTool, StepPrinter

QUESTIONS = ["杭州有什么好吃的？", "那有什么好玩的？"]


class ScriptedModel(GenericFakeChatModel):
    """Calls the tool with what it is asked, then says that it has."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> ScriptedModel:
        """Take the tools; the script knows them."""
        return self


def scripted() -> ScriptedModel:
    """A model that calls the tool once for each question."""
    said: list[AIMessage] = []
    for number, question in enumerate(QUESTIONS):
        call = ToolCall(
            type="tool_call", id=f"call-{number}", name="travel", args={"prompt": question}
        )
        said += [AIMessage("", tool_calls=[call]), AIMessage("(the agent sums it up)")]
    return ScriptedModel(messages=iter(said))


def make_tool(stack: ExitStack) -> BailianAppTool:
    """The app on the cloud, or the recorded one in the emulator."""
    about: dict[str, Any] = {
        "name": "travel",
        "description": "Knows dishes and sights of Chinese cities.",
        "remember": True,
    }
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        return BailianAppTool(**about)
    from bailian_apps.emulator import RECORDINGS, Emulator

    cloud = stack.enter_context(Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}))
    return BailianAppTool(app_id="travel", api_key="any", base_url=cloud.base_url, **about)


def main() -> None:
    """Ask the agent twice in one thread."""
    with ExitStack() as stack:
        agent = create_agent(scripted(), [make_tool(stack)], checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "1"}, "callbacks": [StepPrinter()]}
        for question in QUESTIONS:
            print(f"> {question}")
            messages = agent.invoke({"messages": [("human", question)]}, config)["messages"]
            told = [message for message in messages if isinstance(message, ToolMessage)][-1]
            session = told.artifact["bailian"]
            print(f"  the app: {told.text}")
            print(f"  (round {session['round']} of session {session['session_id']})")


if __name__ == "__main__":
    main()
