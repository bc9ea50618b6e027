"""A Bailian app as a LlamaIndex chat engine and query engine, streamed, with steps and sources.

    pip install "bailian-apps[llamaindex,emulator]"
    python examples/llamaindex_chat.py

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud. Otherwise it
starts a local emulator that replays a recorded workflow app.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from llama_index.core.memory import ChatMemoryBuffer

from bailian_apps.llamaindex import BailianAppChatEngine, BailianAppLLM, BailianAppQueryEngine


@contextmanager
def open_llm() -> Iterator[BailianAppLLM]:
    """An LLM for the app in the environment, or for a recorded one on an emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield BailianAppLLM()
        return
    from bailian_apps.emulator import RECORDINGS, Emulator

    with Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}) as emulator:
        yield BailianAppLLM(app_id="travel", api_key="none", base_url=emulator.base_url)


def chat(llm: BailianAppLLM) -> None:
    """Two turns in one session, whose marker is stored in the memory."""
    memory = ChatMemoryBuffer.from_defaults(token_limit=100_000)
    engine = BailianAppChatEngine(llm=llm, memory=memory)
    for question in ("杭州", "第二天呢？"):
        print(f"> {question}")
        for delta in engine.stream_chat(question).response_gen:
            print(delta, end="", flush=True)
        marker = engine.chat_history[-1].additional_kwargs["bailian"]
        print(f"\n  (round {marker['round']} of session {marker['session_id'][:8]}…)")


def query(llm: BailianAppLLM) -> None:
    """One question without a conversation."""
    response = BailianAppQueryEngine(llm=llm).query("杭州有什么好玩的？")
    print("Query engine:", response)
    print(f"  {len(response.source_nodes)} sources, tokens: {response.metadata['usage']}")
    for step in response.metadata["steps"]:
        print(f"  step {step['name']} ({step['type']}): {step['status']}")


def main() -> None:
    """Run both."""
    with open_llm() as llm:
        chat(llm)
        query(llm)


if __name__ == "__main__":
    main()
