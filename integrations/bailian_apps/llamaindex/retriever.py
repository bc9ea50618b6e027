"""`BailianAppRetriever`: the documents that a Bailian app cites, as a LlamaIndex retriever."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from bailian_apps.app import BailianApp
from bailian_apps.core.redaction import hides_arguments
from bailian_apps.llamaindex.llm import BailianAppLLM
from bailian_apps.llamaindex.query_engine import image_option
from bailian_apps.llamaindex.responses import source_nodes


class BailianAppRetriever(BaseRetriever):
    """Calls a Bailian app with a knowledge base and returns the passages that its answer cites.

    The app runs as usual, and its answer is dropped. The console setting that shows sources must
    be on, or the result is empty. Nodes have no scores, because the cloud sends none.

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
        """Create a retriever from an app or an LLM.

        Args:
            app: The app to call.
            llm: The LLM to call, instead of `app`.
            callback_manager: Receives the legacy events. Defaults to the LLM's.

        Raises:
            InvalidInputError: Both `app` and `llm` are given.
        """
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
        callback_manager: CallbackManager | None = None,
        **settings: Any,
    ) -> BailianAppRetriever:
        """Create a retriever from an app's settings.

        Args:
            app: The app to call, instead of settings.
            llm: The LLM to call, instead of settings.
            callback_manager: As for the constructor.
            **settings: The fields of `BailianAppLLM`.

        Raises:
            InvalidInputError: A field is unknown or invalid.
        """
        llm = BailianAppLLM.from_app_or_llm(app, llm, callback_manager, **settings)
        return cls(llm=llm, callback_manager=callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query, images = query_bundle.query_str, image_option(query_bundle)
        return source_nodes(self._llm.complete(query, **images).raw)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query, images = query_bundle.query_str, image_option(query_bundle)
        return source_nodes((await self._llm.acomplete(query, **images)).raw)
