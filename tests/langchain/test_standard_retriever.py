"""LangChain's own standard tests for retrievers, against the emulator; none is disabled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from bailian_apps.emulator import Call, Emulator
from bailian_apps.langchain import BailianAppRetriever


def cite(call: Call) -> list[dict[str, Any]]:
    passages = [{"index_id": str(n), "title": "tea", "text": f"part {n}"} for n in range(1, 5)]
    output = {"text": "tea", "finish_reason": "stop", "doc_references": passages}
    return [{"output": output}]


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    with Emulator(apps={"app": cite}) as cloud:
        yield cloud


class TestIntegration(RetrieversIntegrationTests):
    base_url: str

    @pytest.fixture(autouse=True)
    def _at(self, cloud: Emulator) -> None:
        self.base_url = cloud.base_url

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return BailianAppRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"app_id": "app", "api_key": "k", "base_url": self.base_url}

    @property
    def retriever_query_example(self) -> str:
        return "Which tea?"
