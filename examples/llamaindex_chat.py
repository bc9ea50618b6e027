"""An app as a LlamaIndex chat engine: two streamed turns, with the session kept in the memory.

    pip install "bailian-apps[llamaindex,emulator]"
    python examples/llamaindex_chat.py

It prints the answers, and the round of the session after each.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with a recorded travel workflow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from llama_index.core.memory import ChatMemoryBuffer

from bailian_apps.llamaindex import BailianAppChatEngine, BailianAppLLM

QUESTIONS = ("杭州有什么好玩的？", "第二天呢？")


@contextmanager
def open_llm() -> Iterator[BailianAppLLM]:
    """An LLM for the app in the environment, or for a recorded one on an emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield BailianAppLLM()
        return
    from bailian_apps.emulator import RECORDINGS, Emulator

    with Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}) as emulator:
        yield BailianAppLLM(app_id="travel", api_key="none", base_url=emulator.base_url)


def main() -> None:
    """Ask twice; the memory keeps the conversation, and the app's session in it."""
    with open_llm() as llm:
        memory = ChatMemoryBuffer.from_defaults(token_limit=100_000)
        engine = BailianAppChatEngine(llm=llm, memory=memory)
        for question in QUESTIONS:
            print(f"> {question}")
            for delta in engine.stream_chat(question).response_gen:
                print(delta, end="", flush=True)
            marker = engine.chat_history[-1].additional_kwargs["bailian"]
            print(f"\n  (round {marker['round']} of session {marker['session_id'][:8]}…)")


if __name__ == "__main__":
    main()
