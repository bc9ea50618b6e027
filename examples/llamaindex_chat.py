"""A Bailian app as a LlamaIndex chat engine and query engine: streamed, with steps and sources.

    pip install "bailian-apps[llamaindex,emulator]"
    python examples/llamaindex_chat.py

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set it asks that app on the cloud. Without them it
starts a local stand-in that replays a recorded workflow app.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from llama_index.core.memory import ChatMemoryBuffer

from bailian_apps.llamaindex import BailianAppChatEngine, BailianAppLLM, BailianAppQueryEngine


@contextmanager
def an_app() -> Iterator[BailianAppLLM]:
    """The app on the cloud, if the environment names one; else a recorded one."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield BailianAppLLM()
        return
    from bailian_apps.emulator import RECORDINGS, Emulator

    with Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}) as cloud:
        yield BailianAppLLM(app_id="travel", api_key="none", base_url=cloud.base_url)


def chat(llm: BailianAppLLM) -> None:
    """Two turns in one session of the cloud, which the memory remembers."""
    memory = ChatMemoryBuffer.from_defaults(token_limit=100_000)
    engine = BailianAppChatEngine(llm=llm, memory=memory)
    for words in ("杭州", "第二天呢？"):
        print(f"> {words}")
        for piece in engine.stream_chat(words).response_gen:
            print(piece, end="", flush=True)
        marker = engine.chat_history[-1].additional_kwargs["bailian"]
        print(f"\n  (round {marker['round']} of session {marker['session_id'][:8]}…)")


def query(llm: BailianAppLLM) -> None:
    """One question, outside of any conversation."""
    response = BailianAppQueryEngine(llm=llm).query("杭州有什么好玩的？")
    print("Query engine:", response)
    print(f"  {len(response.source_nodes)} sources, tokens: {response.metadata['usage']}")
    for step in response.metadata["steps"]:
        print(f"  step {step['name']} ({step['type']}): {step['status']}")


def main() -> None:
    """Do both."""
    with an_app() as llm:
        chat(llm)
        query(llm)


if __name__ == "__main__":
    main()
