"""The documents that an app cites, as a retriever.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud, which should be
an agent with a knowledge base that shows its sources; otherwise it starts the emulator with an app
that cites two passages. Run it with: python examples/langchain_retriever.py
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from bailian_apps.langchain import BailianAppRetriever

PASSAGES = [
    {"index_id": "1", "title": "龙井", "doc_name": "tea.pdf", "text": "龙井茶产于杭州西湖。"},
    {"index_id": "2", "title": "采摘", "doc_name": "tea.pdf", "text": "清明前采的最嫩。"},
]


def citing(_: object) -> list[dict[str, Any]]:
    """Return an answer that cites both passages."""
    text = "龙井茶产于西湖<ref>[1]</ref>，清明前采<ref>[2]</ref>。"
    return [{"output": {"text": text, "finish_reason": "stop", "doc_references": PASSAGES}}]


def connect(stack: ExitStack) -> BailianAppRetriever:
    """Return the app in the cloud, or the one above in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        return BailianAppRetriever()
    from bailian_apps.emulator import Emulator

    cloud = stack.enter_context(Emulator(apps={"tea": citing}))
    return BailianAppRetriever(app_id="tea", api_key="any", base_url=cloud.base_url)


def main() -> None:
    """Ask, and print the cited passages."""
    with ExitStack() as stack:
        documents = connect(stack).invoke("龙井茶产于哪里？")
        print(f"{len(documents)} passages")
        for document in documents:
            metadata = document.metadata
            print(f"[{metadata.get('index_id')}] {metadata.get('title')}: {document.page_content}")


if __name__ == "__main__":
    main()
