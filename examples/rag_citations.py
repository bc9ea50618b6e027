"""Answers with numbered citations: from an app's knowledge base, and from passages of your own.

    pip install "bailian-apps[langchain,llamaindex,emulator]"
    python examples/rag_citations.py

It prints three answers with `[1]` and `[2]`, and the cited sources below each.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: it should have a
knowledge base, and show the sources of its answers (展示回答来源).
Otherwise it starts the emulator with two apps: one that cites its knowledge base, and one that
answers from the passages in its prompt.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from langchain_core.messages import AIMessageChunk
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from bailian_apps import replace_citation_marks
from bailian_apps.langchain import ChatBailianApp
from bailian_apps.llamaindex import BailianAppLLM, BailianAppQueryEngine

QUESTION = "龙井茶产于哪里，什么时候采？"
PASSAGES = ["龙井茶产于杭州西湖。", "西湖龙井在清明前采的最嫩。", "杭州出产丝绸。"]


class OwnRetriever(BaseRetriever):
    """Stands for a search of your own: ranks passages by the characters that a query shares."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        asked = set(query_bundle.query_str)
        scores = {passage: len(asked & set(passage)) / len(set(passage)) for passage in PASSAGES}
        ranked = sorted(PASSAGES, key=lambda passage: -scores[passage])
        return [NodeWithScore(node=TextNode(text=text), score=scores[text]) for text in ranked]


@contextmanager
def connect() -> Generator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the settings of an app with a knowledge base, and of one that reads passages."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield {}, {}
        return
    from bailian_apps.emulator import Agent, Call, Emulator, Reference, Thought

    citing = Agent(
        thoughts=[Thought(retrieval="茶叶知识库")],
        text=["龙井茶产于杭州西湖<re", "f>[1]</ref>，清明前采", "<ref>[2]</ref>。"],
        references=[
            Reference(doc_name="tea.pdf", title="产地", text=PASSAGES[0], score=0.93),
            Reference(doc_name="tea.pdf", title="采摘", text=PASSAGES[1], score=0.71),
        ],
    )

    def read(call: Call) -> str:
        passages = re.findall(r"^Source (\d+):\n(.+)$", call.prompt.split("Below are")[-1], re.M)
        useful = [(number, text) for number, text in passages if "龙井" in text]
        return "".join(f"{text[:-1]} [{number}]。" for number, text in useful)

    with Emulator(apps={"citing": citing, "reading": read}) as cloud:
        access = {"api_key": "any", "base_url": cloud.base_url}
        yield {"app_id": "citing", **access}, {"app_id": "reading", **access}


def print_sources(sources: Iterable[Mapping[str, Any]]) -> None:
    """Print the cited documents below an answer, by their numbers."""
    for source in sources:
        name = source.get("title") or source.get("doc_name") or ""
        print(f"  [{source.get('index_id')}] {name}: {source['text']} ({source.get('score')})")


def ask_in_langchain(settings: dict[str, Any]) -> None:
    """Stream an answer; the last chunks have the documents that it cites."""
    answer = AIMessageChunk(content="")
    for chunk in ChatBailianApp(**settings).stream(QUESTION):
        print(replace_citation_marks(chunk.text, lambda number: f"[{number}]"), end="", flush=True)
        answer += chunk
    print()
    print_sources(answer.additional_kwargs.get("references", []))


def ask_in_llamaindex(settings: dict[str, Any]) -> None:
    """The same with a query engine; the source nodes are there when the stream has ended."""
    engine = BailianAppQueryEngine.from_defaults(**settings, streaming=True)
    response: Any = engine.query(QUESTION)
    for delta in response.response_gen:
        print(replace_citation_marks(delta, lambda number: f"[{number}]"), end="", flush=True)
    print()
    print_sources(
        {"text": each.node.get_content(), "score": each.score, **each.node.metadata}
        for each in response.source_nodes
    )


def ask_about_own_passages(settings: dict[str, Any]) -> None:
    """Number the passages of your own search, and let the app cite the numbers."""
    llm = BailianAppLLM(**settings, citation_marks="strip")  # its own would look like yours
    response = CitationQueryEngine(OwnRetriever(), llm).query(QUESTION)
    print(response)
    cited = set(re.findall(r"\[(\d+)\]", str(response)))
    for number, source in enumerate(response.source_nodes, 1):
        mark = "cited" if str(number) in cited else "not cited"
        text = source.node.get_content().split("\n")[1]
        print(f"  [{number}] {text} ({mark})")


def main() -> None:
    """Ask all three."""
    with connect() as (citing, reading):
        print("LangChain, the app's knowledge base:")
        ask_in_langchain(citing)
        print("\nLlamaIndex, the app's knowledge base:")
        ask_in_llamaindex(citing)
        print("\nLlamaIndex, passages of your own:")
        ask_about_own_passages(reading)


if __name__ == "__main__":
    main()
