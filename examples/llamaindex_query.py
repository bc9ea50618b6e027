"""A Bailian app in LlamaIndex: under a query engine, streamed, and in a chat of two turns.

    pip install "bailian-apps[llamaindex,emulator]"
    python examples/llamaindex_query.py

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set it asks that app on the cloud. Without them it
starts a local stand-in that replays a recorded workflow app.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.llms import ChatMessage

from bailian_apps.llamaindex import BailianAppLLM


@contextmanager
def an_app() -> Iterator[BailianAppLLM]:
    """The app on the cloud, if the environment names one; else a recorded one."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield BailianAppLLM()
        return
    from bailian_apps.emulator import RECORDINGS, Emulator

    with Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}) as cloud:
        yield BailianAppLLM(app_id="travel", api_key="none", base_url=cloud.base_url)


def query(llm: BailianAppLLM) -> None:
    """Retrieve from a small index and let the app answer, word by word."""
    documents = [
        Document(text="杭州：西湖、灵隐寺、宋城、西溪湿地。"),
        Document(text="苏州：拙政园、虎丘、平江路。"),
    ]
    index = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=8))
    engine = index.as_query_engine(llm=llm, streaming=True)
    print("Query engine:", end=" ")
    for piece in engine.query("杭州有什么好玩的？").response_gen:
        print(piece, end="", flush=True)
    print()


def chat(llm: BailianAppLLM) -> None:
    """Two turns on one list of messages: the second continues the first one's session."""
    history: list[ChatMessage] = []
    for words in ("杭州", "第二天呢？"):
        history.append(ChatMessage(content=words))
        response = llm.chat(history)
        history.append(response.message)
        marker = response.message.additional_kwargs["bailian"]
        print(f"Chat, round {marker['round']} of session {marker['session_id'][:8]}…:", end=" ")
        print(response.message.content)
    for step in response.raw["steps"]:
        took = "" if step["duration_ms"] is None else f" in {step['duration_ms']:.0f} ms"
        print(f"  step {step['name']} ({step['type']}): {step['status']}{took}")


def main() -> None:
    """Do both."""
    with an_app() as llm:
        query(llm)
        chat(llm)


if __name__ == "__main__":
    main()
