"""An app as a LangChain chat model: a conversation of two turns, streamed, with the app's steps.

    pip install "bailian-apps[langchain,emulator]"
    python examples/langchain_chat.py

It prints the steps and the answer of each turn, and the round of the session that both share.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with a recorded travel workflow.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage

from bailian_apps.langchain import ChatBailianApp


class PrintSteps(BaseCallbackHandler):
    """Prints the app's steps as they end."""

    run_inline = True

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        """Print a step that ended."""
        if name != "bailian_step" or data["event"] not in ("end", "error"):
            return
        step = data["step"]
        if step["type"] != "End":  # which has the answer
            print(f"  [{step['status']}] {step['name']}: {step.get('output', '')}")


def connect(stack: ExitStack) -> ChatBailianApp:
    """Return the app in the cloud, or the recorded one in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        return ChatBailianApp()
    from bailian_apps.emulator import RECORDINGS, Emulator

    cloud = stack.enter_context(Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}))
    return ChatBailianApp(app_id="travel", api_key="any", base_url=cloud.base_url)


def ask(model: ChatBailianApp, messages: list[BaseMessage], question: str) -> None:
    """Ask, print the answer as it streams, and add both to the messages."""
    print(f"> {question}")
    messages.append(HumanMessage(question))
    chunks: list[AIMessageChunk] = []
    for chunk in model.stream(messages, {"callbacks": [PrintSteps()]}):
        print(chunk.text, end="", flush=True)
        chunks.append(chunk)
    answer = chunks[0] + chunks[1:]
    messages.append(answer)
    session = answer.response_metadata["bailian"]
    print(f"\n  (round {session['round']} of session {session['session_id']})")


def main() -> None:
    """Have a conversation of two turns."""
    with ExitStack() as stack:
        model = connect(stack)
        messages: list[BaseMessage] = []
        ask(model, messages, "杭州有什么好吃的？")
        ask(model, messages, "那有什么好玩的？")


if __name__ == "__main__":
    main()
