"""`BailianAppRetriever`: the documents that an app cites, or finds."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field
from typing_extensions import override

from bailian_apps.core.documents import DocumentSource, document_source
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.invalid_input import require_type
from bailian_apps.core.request import MAX_INT
from bailian_apps.core.result import AppResult
from bailian_apps.langchain.errors import langchain_errors
from bailian_apps.langchain.runs import AppRun, is_being_cancelled
from bailian_apps.langchain.settings import MODEL_CONFIG
from bailian_apps.langchain.signatures import RetrieverSignatures
from bailian_apps.langchain.step_runs import found_documents


class BailianAppRetriever(RetrieverSignatures, BaseRetriever):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The knowledge base of a Bailian (Model Studio) agent app as a retriever.

    It calls the app and returns the passages that the answer cites as Documents, or, if it cites
    none, those that the app's retrievals found. Their metadata are `score`, `title`, `doc_id`,
    `doc_name`, `doc_url`, `index_id`, `page_number` and `images`, as far as the cloud reports them;
    `index_id` is the number in the answer's `<ref>[1]</ref>`. Passages that were found also have
    the cloud's own fields. An app cites only if its console setting that shows sources is on, and
    scores and found passages need its steps (`thoughts`).

    The fields are the settings of the app (see `AppSettings`). Each can be overridden per call. The
    app's steps are child runs of the retriever's run.

    Example:
        ```python
        retriever = BailianAppRetriever(app_id="…", rag_options={"pipeline_ids": ["…"]})
        documents = retriever.invoke("What does the warranty cover?")
        ```

    Attributes:
        k: The maximum number of documents; None for all. Can be overridden per call.
        documents: `"cited"` for the passages that the answer cites alone, `"retrieved"` for all
            that were found; None for those cited, else those found. Can be overridden per call.
    """

    model_config = MODEL_CONFIG

    k: int | None = Field(default=None, ge=0, le=MAX_INT)
    documents: DocumentSource | None = None

    # LangChain's own, which returns the documents.
    as_tool = BaseRetriever.as_tool  # pyright: ignore[reportAssignmentType]

    @override
    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        with langchain_errors():
            k, source = self._pop_k(kwargs), self._pop_source(kwargs)
            require_type(query, str, "query")
            result = AppRun.prepare(self, query, kwargs, run_manager).result()
        return _documents(result, source)[:k]

    @override
    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        try:
            with langchain_errors():
                k, source = self._pop_k(kwargs), self._pop_source(kwargs)
                require_type(query, str, "query")
                result = await AppRun.prepare(self, query, kwargs, run_manager).aresult()
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                await run_manager.on_retriever_error(error)
            raise
        return _documents(result, source)[:k]

    def _pop_k(self, kwargs: dict[str, Any]) -> int | None:
        k = kwargs.pop("k", self.k)
        if k is not None and (type(k) is not int or k < 0):
            raise InvalidInputError("k", "must be a non-negative integer or None", "Pass 0 or more")
        return k

    def _pop_source(self, kwargs: dict[str, Any]) -> DocumentSource | None:
        return document_source(kwargs.pop("documents", self.documents))


def _documents(result: AppResult, source: DocumentSource | None) -> list[Document]:
    if source == "retrieved" or (source is None and not result.references):
        return found_documents(result.documents)
    cited = [reference.to_dict(compact=True) for reference in result.references]
    return [Document(page_content=each.pop("text", ""), metadata=each) for each in cited]
