"""`BailianAppRetriever`: the documents that a Bailian app cites, as a LlamaIndex retriever."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from bailian_apps.app import BailianApp
from bailian_apps.llamaindex.llm import BailianAppLLM
from bailian_apps.llamaindex.nodes import source_nodes
from bailian_apps.llamaindex.query_engine import words_of


class BailianAppRetriever(BaseRetriever):
    """Asks a Bailian app with a knowledge base, and gives the passages that its answer cites.

    The app runs and answers as ever; its answer is left out. It must be set to show its sources,
    or there is nothing to give. The cloud tells no scores.

    Example:
        ```python
        retriever = BailianAppRetriever.from_defaults(app_id="…")
        for found in retriever.retrieve("What does the warranty cover?"):
            print(found.node.metadata["doc_name"], found.node.get_content())
        ```
    """

    def __init__(
        self,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        *,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Make a retriever of an app, or of an LLM.

        Args:
            app: The app to ask.
            llm: The LLM to ask; in place of `app`.
            callback_manager: Who tells the legacy callbacks; the LLM's, if not given.

        Raises:
            InvalidInputError: Both `app` and `llm` are given.
        """
        self._llm = BailianAppLLM.of(app, llm, callback_manager)
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            callback_manager=callback_manager or self._llm.callback_manager
        )

    @classmethod
    def from_defaults(
        cls,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        *,
        callback_manager: CallbackManager | None = None,
        **settings: Any,
    ) -> BailianAppRetriever:
        """Make a retriever of an app's settings.

        Args:
            app: The app to ask, in place of settings.
            llm: The LLM to ask, in place of settings.
            callback_manager: As for the constructor.
            **settings: The fields of `BailianAppLLM`.

        Raises:
            InvalidInputError: A field is unknown or not valid.
        """
        llm = BailianAppLLM.of(app, llm, callback_manager, **settings)
        return cls(llm=llm, callback_manager=callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return source_nodes(self._llm.complete(words_of(query_bundle)).raw)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return source_nodes((await self._llm.acomplete(words_of(query_bundle))).raw)
