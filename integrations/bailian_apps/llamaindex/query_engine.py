"""`BailianAppQueryEngine`: a Bailian app as a LlamaIndex query engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle

from bailian_apps.app import BailianApp
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.redaction import hides_arguments
from bailian_apps.llamaindex.llm import BailianAppLLM
from bailian_apps.llamaindex.responses import run_metadata, source_nodes


class BailianAppQueryEngine(BaseQueryEngine):
    """Answers queries with a Bailian app, each without a conversation.

    A response has the cited documents in `source_nodes`, and `steps`, `usage`, `reasoning`,
    `session_id`, `request_id` and others in `metadata`. A streaming response fills both before
    its last delta.

    Example:
        ```python
        engine = BailianAppQueryEngine.from_defaults(app_id="…")
        response = engine.query("What does the warranty cover?")
        for source in response.source_nodes:
            print(source.node.metadata["title"], source.node.get_content())
        ```
    """

    def __init__(
        self,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        *,
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Create an engine from an app or an LLM.

        Args:
            app: The app to call.
            llm: The LLM to call, instead of `app`.
            streaming: Whether `query` and `aquery` return a streaming response.
            callback_manager: Receives the legacy events. Defaults to the LLM's.

        Raises:
            InvalidInputError: Both `app` and `llm` are given.
        """
        self._llm = BailianAppLLM.from_app_or_llm(app, llm, callback_manager)
        self._streaming = streaming
        super().__init__(callback_manager or self._llm.callback_manager)

    @classmethod
    @hides_arguments
    def from_defaults(
        cls,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        *,
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
        **settings: Any,
    ) -> BailianAppQueryEngine:
        """Create an engine from an app's settings.

        Args:
            app: The app to call, instead of settings.
            llm: The LLM to call, instead of settings.
            streaming: As for the constructor.
            callback_manager: As for the constructor.
            **settings: The fields of `BailianAppLLM`.

        Raises:
            InvalidInputError: A field is unknown or invalid.
        """
        llm = BailianAppLLM.from_app_or_llm(app, llm, callback_manager, **settings)
        return cls(llm=llm, streaming=streaming, callback_manager=callback_manager)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}  # the prompts are part of the app, in the console

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        query = query_text(query_bundle)
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            response = (
                self._stream(query) if self._streaming else self._final(self._llm.complete(query))
            )
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        query = query_text(query_bundle)
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            response = (
                await self._astream(query)
                if self._streaming
                else self._final(await self._llm.acomplete(query))
            )
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _final(self, completion: CompletionResponse) -> Response:
        fields = _DeferredFields(self._llm)
        fields.read(completion)
        return Response(completion.text, fields.nodes, fields.metadata)

    def _stream(self, query: str) -> StreamingResponse:
        fields = _DeferredFields(self._llm)
        chunks = self._llm.stream_complete(query)

        def deltas() -> Generator[str]:
            with closing(chunks):
                for chunk in chunks:
                    if delta := fields.read(chunk):
                        yield delta

        return StreamingResponse(deltas(), fields.nodes, fields.metadata)

    async def _astream(self, query: str) -> AsyncStreamingResponse:
        fields = _DeferredFields(self._llm)
        chunks: Any = await self._llm.astream_complete(query)

        async def deltas() -> AsyncGenerator[str]:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if delta := fields.read(chunk):
                        yield delta

        return AsyncStreamingResponse(deltas(), fields.nodes, fields.metadata)


class _DeferredFields:
    """The nodes and metadata that a response holds from the start, filled when the run ends."""

    def __init__(self, llm: BailianAppLLM) -> None:
        self.nodes: list[NodeWithScore] = []
        # Never empty: RouterQueryEngine replaces an empty dict with another one.
        self.metadata: dict[str, Any] = {"app_id": llm.app_id}

    def read(self, completion: CompletionResponse) -> str:
        """Take the fields from a final response; return the delta of a chunk."""
        if completion.raw is not None:
            self.nodes += source_nodes(completion.raw)
            self.metadata |= run_metadata(completion.raw)
        return completion.delta or ""


def query_text(query_bundle: QueryBundle) -> str:
    """The text of a query.

    Raises:
        InvalidInputError: The query has an image path.
    """
    if query_bundle.image_path:
        raise InvalidInputError(
            "query_bundle.image_path",
            "is a path, which apps do not accept",
            "Use BailianAppLLM.chat with an ImageBlock(url=…)",
        )
    return query_bundle.query_str
