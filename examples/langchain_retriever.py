"""An app with a knowledge base as a LangChain retriever: the passages that it cites or finds.

    pip install "bailian-apps[langchain,emulator]"
    python examples/langchain_retriever.py

It prints the passages with their scores and titles: those cited, then all that were found.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: it should have a
knowledge base, and show the sources of its answers (展示回答来源).
Otherwise it starts the emulator with an app that finds three passages and cites two.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from typing import Any

from bailian_apps.langchain import BailianAppRetriever

FOUND = [
    {"dataId": "f1", "dataName": "tea.pdf", "content": "龙井茶产于杭州西湖。", "score": 0.93},
    {"dataId": "f1", "dataName": "tea.pdf", "content": "清明前采的最嫩。", "score": 0.71},
    {"dataId": "f2", "dataName": "silk.pdf", "content": "杭州出产丝绸。", "score": 0.32},
]
SEARCH = {"action_type": "agentRag", "action_name": "知识检索", "observation": json.dumps(FOUND)}
CITED = [
    {"index_id": "1", "title": "龙井", "doc_id": "f1", "text": "龙井茶产于杭州西湖。"},
    {"index_id": "2", "title": "采摘", "doc_id": "f1", "text": "清明前采的最嫩。"},
]


def citing(_: object) -> list[dict[str, Any]]:
    """Return an answer that cites two of the passages that the app found."""
    text = "龙井茶产于西湖<ref>[1]</ref>，清明前采<ref>[2]</ref>。"
    output = {"text": text, "finish_reason": "stop", "thoughts": [SEARCH], "doc_references": CITED}
    return [{"output": output}]


def connect(stack: ExitStack) -> BailianAppRetriever:
    """Return the app in the cloud, or the one above in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        return BailianAppRetriever()
    from bailian_apps.emulator import Emulator

    cloud = stack.enter_context(Emulator(apps={"tea": citing}))
    return BailianAppRetriever(app_id="tea", api_key="any", base_url=cloud.base_url)


def main() -> None:
    """Print the cited passages, then all that were found."""
    with ExitStack() as stack:
        retriever = connect(stack)
        for source in ("cited", "retrieved"):
            documents = retriever.invoke("龙井茶产于哪里？", documents=source)
            print(f"{len(documents)} passages {source}")
            for document in documents:
                metadata = document.metadata
                print(metadata.get("score"), metadata.get("title"), document.page_content)


if __name__ == "__main__":
    main()
