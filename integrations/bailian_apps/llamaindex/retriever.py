"""`BailianAppRetriever`: what a Bailian app cites, or finds, as a LlamaIndex retriever."""

from __future__ import annotations

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from typing_extensions import Unpack

from bailian_apps.app import BailianApp
from bailian_apps.core.documents import DocumentSource, document_source
from bailian_apps.core.tracebacks import hides_arguments
from bailian_apps.llamaindex.keywords import LLMKeywords
from bailian_apps.llamaindex.llm import BailianAppLLM
from bailian_apps.llamaindex.query_engine import image_option
from bailian_apps.llamaindex.responses import source_nodes
from bailian_apps.llamaindex.workflow_context import english_for_agents


class BailianAppRetriever(BaseRetriever):
    """Calls a Bailian app with a knowledge base and returns the passages that its answer cites.

    If the answer cites none, they are those that the app's retrievals found. The app runs as usual,
    and its answer is dropped. An app cites only if its console setting that shows sources is on.
    Scores and found passages need the app's steps (`thoughts`); a score that no step reports is
    None.

    Example:
        ```python
        retriever = BailianAppRetriever.from_defaults(app_id="…")
        for found in retriever.retrieve("What does the warranty cover?"):
            print(found.score, found.node.metadata.get("doc_name"), found.node.get_content())
        ```
    """

    def __init__(
        self,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        *,
        documents: DocumentSource | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Create a retriever from an app or an LLM.

        Args:
            app: The app to call.
            llm: The LLM to call, instead of `app`.
            documents: `"cited"` for the passages that the answer cites alone, `"retrieved"` for all
                that were found; None for those cited, else those found.
            callback_manager: Receives the legacy events. Defaults to the LLM's.

        Raises:
            InvalidInputError: Both `app` and `llm` are given, or `documents` is another value.
        """
        self._documents: DocumentSource | None = document_source(documents)
        self._llm = BailianAppLLM.from_app_or_llm(app, llm, callback_manager)
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            callback_manager=callback_manager or self._llm.callback_manager
        )

    @classmethod
    @hides_arguments
    def from_defaults(
        cls,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        *,
        documents: DocumentSource | None = None,
        callback_manager: CallbackManager | None = None,
        **settings: Unpack[LLMKeywords],
    ) -> BailianAppRetriever:
        """Create a retriever from an app's settings.

        Args:
            app: The app to call, instead of settings.
            llm: The LLM to call, instead of settings.
            documents: As for the constructor.
            callback_manager: As for the constructor.
            **settings: The fields of `BailianAppLLM`.

        Raises:
            InvalidInputError: A field is unknown or invalid.
        """
        llm = BailianAppLLM.from_app_or_llm(app, llm, callback_manager, **settings)
        return cls(llm=llm, documents=documents, callback_manager=callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        with english_for_agents():
            query, images = query_bundle.query_str, image_option(query_bundle)
            return source_nodes(self._llm.complete(query, **images).raw, self._documents)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        with english_for_agents():
            query, images = query_bundle.query_str, image_option(query_bundle)
            response = await self._llm.acomplete(query, **images)
            return source_nodes(response.raw, self._documents)
