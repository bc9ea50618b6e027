"""RAG with your own index: LlamaIndex finds the passages, and an app writes the answer.

    pip install "bailian-apps[llamaindex,emulator]"
    python examples/llamaindex_query.py

It prints the answer as it streams, and the passages that the app was given.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with an app that answers from the passages in its prompt.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding

from bailian_apps.llamaindex import BailianAppLLM

NOTES = ("杭州：西湖、灵隐寺、宋城、西溪湿地。", "苏州：拙政园、虎丘、平江路。")
QUESTION = "杭州有什么好玩的？"


class Characters(BaseEmbedding):
    """Stands for an embedding model: texts are near if they share characters."""

    def _get_text_embedding(self, text: str) -> list[float]:
        vector = [0.0] * 512
        for character in text:
            vector[ord(character) % 512] = 1.0
        return vector

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@contextmanager
def open_llm() -> Iterator[BailianAppLLM]:
    """An LLM for the app in the environment, or for one on an emulator."""
    # LlamaIndex adds a system message to a query; not every kind of app takes one by itself.
    settings: dict[str, Any] = {"history_format": "prompt"}
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield BailianAppLLM(**settings)
        return
    from bailian_apps.emulator import Call, Emulator

    def read(call: Call) -> str:
        return "您的笔记里写道：" + next(note for note in NOTES if note in (call.prompt or ""))

    with Emulator(apps={"guide": read}) as cloud:
        yield BailianAppLLM(app_id="guide", api_key="any", base_url=cloud.base_url, **settings)


def main() -> None:
    """Index the notes, ask about them, and show what the app was given."""
    with open_llm() as llm:
        documents = [Document(text=note) for note in NOTES]
        index = VectorStoreIndex.from_documents(documents, embed_model=Characters())
        response: Any = index.as_query_engine(llm=llm, streaming=True, similarity_top_k=1).query(
            QUESTION
        )
        print(f"> {QUESTION}")
        for delta in response.response_gen:
            print(delta, end="", flush=True)
        print()
        for source in response.source_nodes:
            print(f"  ({source.score:.2f}) {source.node.get_content()}")


if __name__ == "__main__":
    main()
