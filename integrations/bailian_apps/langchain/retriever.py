"""`BailianAppRetriever`: the documents that an app cites."""

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

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.result import AppResult, DocReference
from bailian_apps.langchain.blocks import reference_entry
from bailian_apps.langchain.callbacks import StepRuns
from bailian_apps.langchain.fields import MODEL_CONFIG, AppFields, call_arguments
from bailian_apps.langchain.runs import (
    aresult_of,
    is_being_cancelled,
    result_of,
    typed_errors,
    with_settings,
)


class BailianAppRetriever(AppFields, BaseRetriever):
    """The knowledge base of a Bailian (Model Studio) agent app as a retriever.

    It asks the app, and gives the passages that the answer cites as Documents. Their metadata are
    `title`, `doc_id`, `doc_name`, `doc_url`, `index_id`, `page_number` and `images`, as far as the
    cloud tells them; `index_id` is the number in the answer's `<ref>[1]</ref>`. The app must be
    set to show its sources, in its console.

    The fields are the settings of the app (see `AppSettings`), and every one may be overridden per
    call. What the app does are child runs of the retriever's run.

    Example:
        ```python
        retriever = BailianAppRetriever(app_id="…", rag_options={"pipeline_ids": ["…"]})
        documents = retriever.invoke("What does the warranty cover?")
        ```

    Attributes:
        k: The most documents to give, or None for all. May be given per call.
    """

    model_config = MODEL_CONFIG

    k: int | None = Field(default=None, ge=0)

    @override
    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        arguments, k = self._split(kwargs)
        with typed_errors(self, arguments):
            settings, said = with_settings(self, arguments)
            steps = StepRuns.of(run_manager, settings.app_id)
            result = result_of(settings, {"prompt": query, **said}, steps)
        return _documents(result)[:k]

    @override
    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        arguments, k = self._split(kwargs)
        try:
            with typed_errors(self, arguments):
                settings, said = with_settings(self, arguments)
                steps = StepRuns.of(run_manager, settings.app_id)
                result = await aresult_of(settings, {"prompt": query, **said}, steps)
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                await run_manager.on_retriever_error(error)
            raise
        return _documents(result)[:k]

    def _split(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
        arguments = call_arguments(kwargs)
        k = arguments.pop("k", self.k)
        if k is not None and (not isinstance(k, int) or k < 0):
            raise InvalidInputError("k", "is no number of documents", "Pass 0 or more, or None")
        return arguments, k


def _documents(result: AppResult) -> list[Document]:
    return [_document(reference) for reference in result.references]


def _document(reference: DocReference) -> Document:
    metadata = reference_entry(reference)
    return Document(page_content=metadata.pop("text", ""), metadata=metadata)
