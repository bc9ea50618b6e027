"""A Bailian app as an LLM in LlamaIndex: in a streaming query engine, and in a chat of two turns.

    pip install "bailian-apps[llamaindex,emulator]"
    python examples/llamaindex_query.py

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud. Otherwise it
starts a local emulator that replays a recorded workflow app.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.llms import ChatMessage

from bailian_apps.llamaindex import BailianAppLLM


@contextmanager
def open_llm() -> Iterator[BailianAppLLM]:
    """An LLM for the app in the environment, or for a recorded one on an emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield BailianAppLLM(history_format="prompt")
        return
    from bailian_apps.emulator import RECORDINGS, Emulator

    with Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}) as emulator:
        yield BailianAppLLM(
            app_id="travel",
            api_key="none",
            base_url=emulator.base_url,
            history_format="prompt",  # LlamaIndex adds a system message to a query
        )


def query(llm: BailianAppLLM) -> None:
    """Retrieve from a small index and stream the app's answer."""
    documents = [
        Document(text="杭州：西湖、灵隐寺、宋城、西溪湿地。"),
        Document(text="苏州：拙政园、虎丘、平江路。"),
    ]
    index = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=8))
    engine = index.as_query_engine(llm=llm, streaming=True)
    print("Query engine:", end=" ")
    for delta in engine.query("杭州有什么好玩的？").response_gen:
        print(delta, end="", flush=True)
    print()


def chat(llm: BailianAppLLM) -> None:
    """Two turns on one list of messages; the second continues the session of the first."""
    history: list[ChatMessage] = []
    for question in ("杭州", "第二天呢？"):
        history.append(ChatMessage(content=question))
        response = llm.chat(history)
        history.append(response.message)
        marker = response.message.additional_kwargs["bailian"]
        print(f"Chat, round {marker['round']} of session {marker['session_id'][:8]}…:", end=" ")
        print(response.message.content)
    for step in response.raw["steps"]:
        duration = "" if step["duration_ms"] is None else f" in {step['duration_ms']:.0f} ms"
        print(f"  step {step['name']} ({step['type']}): {step['status']}{duration}")


def main() -> None:
    """Run both."""
    with open_llm() as llm:
        query(llm)
        chat(llm)


if __name__ == "__main__":
    main()
