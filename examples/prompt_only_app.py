"""A conversation with an app that takes only a prompt, with a system message.

    pip install "bailian-apps[langchain,emulator]"
    python examples/prompt_only_app.py

It prints three questions, and what was sent for each; on the emulator also the last prompt.

An agent 2.0 app takes no `messages`, and a workflow passes them to its model only if its LLM node
has the variable `historyList`. With `history_format="prompt"`, the system message opens a session
together with the first question, and only new questions follow; where the session does not contain
the conversation, the whole history is sent as one prompt.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with an app that refuses `messages`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage

from bailian_apps import HistoryTemplate
from bailian_apps.langchain import ChatBailianApp

ENGLISH = HistoryTemplate(
    system="Instructions: {text}",
    user="User: {text}",
    assistant="Assistant: {text}",
    conversation="Answer the last message of this conversation.\n\n{text}",
)


@contextmanager
def connect() -> Iterator[ChatBailianApp]:
    """Yield the app in the cloud, or one in the emulator."""
    settings: dict[str, Any] = {"history_format": "prompt", "history_template": ENGLISH}
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield ChatBailianApp(**settings)
        return
    from bailian_apps.emulator import Agent, Emulator, PromptOnly

    app = PromptOnly(Agent(text="Walk around West Lake."), messages="refused")
    with Emulator(apps={"planner": app}) as cloud:
        yield ChatBailianApp(app_id="planner", api_key="any", base_url=cloud.base_url, **settings)
        print(f"The last prompt was:\n\n{cloud.requests[-1].prompt}")


def ask(model: ChatBailianApp, messages: list[Any], question: str) -> None:
    """Ask, print the answer, and add both to the messages."""
    messages.append(HumanMessage(question))
    messages.append(model.invoke(messages))
    whole = messages[-1].response_metadata.get("whole_history")
    print(f"> {question}\n{messages[-1].text}")
    print(f"  (sent: {'one prompt with the whole history' if whole else 'only this message'})\n")


def main() -> None:
    """Have a conversation, and change the system message in it."""
    with connect() as model:
        messages: list[Any] = [SystemMessage("You plan trips. Be brief.")]
        ask(model, messages, "Plan a day in Hangzhou.")
        ask(model, messages, "And a second day?")

        messages[0] = SystemMessage("You plan trips. Answer in verse.")
        ask(model, messages, "And a third day?")


if __name__ == "__main__":
    main()
