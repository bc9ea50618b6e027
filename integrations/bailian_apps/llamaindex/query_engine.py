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
from bailian_apps.llamaindex.llm import BailianAppLLM
from bailian_apps.llamaindex.nodes import run_metadata, source_nodes


class BailianAppQueryEngine(BaseQueryEngine):
    """A Bailian app that answers queries, each outside of any conversation.

    The documents that the answer cites are the response's `source_nodes`; what the app did is in
    its `metadata`: `steps`, `usage`, `reasoning`, `session_id`, `request_id` and others. While a
    response streams, both are filled before its last piece.

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
        """Make an engine of an app, or of an LLM.

        Args:
            app: The app to ask.
            llm: The LLM to ask; in place of `app`.
            streaming: Whether `query` and `aquery` give a streaming response.
            callback_manager: Who tells the legacy callbacks; the LLM's, if not given.

        Raises:
            InvalidInputError: Both `app` and `llm` are given.
        """
        self._llm = BailianAppLLM.of(app, llm, callback_manager)
        self._streaming = streaming
        super().__init__(callback_manager or self._llm.callback_manager)

    @classmethod
    def from_defaults(
        cls,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        *,
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
        **settings: Any,
    ) -> BailianAppQueryEngine:
        """Make an engine of an app's settings.

        Args:
            app: The app to ask, in place of settings.
            llm: The LLM to ask, in place of settings.
            streaming: As for the constructor.
            callback_manager: As for the constructor.
            **settings: The fields of `BailianAppLLM`.

        Raises:
            InvalidInputError: A field is unknown or not valid.
        """
        llm = BailianAppLLM.of(app, llm, callback_manager, **settings)
        return cls(llm=llm, streaming=streaming, callback_manager=callback_manager)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}  # the prompts are the app's own, in the console

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        query = words_of(query_bundle)
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            response = self._stream(query) if self._streaming else self._ask(query)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        query = words_of(query_bundle)
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            response = await (self._astream(query) if self._streaming else self._aask(query))
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _ask(self, query: str) -> Response:
        return self._whole(self._llm.complete(query))

    async def _aask(self, query: str) -> Response:
        return self._whole(await self._llm.acomplete(query))

    def _whole(self, answer: CompletionResponse) -> Response:
        late = _Late(self._llm)
        late.read(answer)
        return Response(answer.text, late.nodes, late.metadata)

    def _stream(self, query: str) -> StreamingResponse:
        late = _Late(self._llm)
        chunks = self._llm.stream_complete(query)

        def pieces() -> Generator[str]:
            with closing(chunks):
                for chunk in chunks:
                    if piece := late.read(chunk):
                        yield piece

        return StreamingResponse(pieces(), late.nodes, late.metadata)

    async def _astream(self, query: str) -> AsyncStreamingResponse:
        late = _Late(self._llm)
        chunks: Any = await self._llm.astream_complete(query)

        async def pieces() -> AsyncGenerator[str]:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if piece := late.read(chunk):
                        yield piece

        return AsyncStreamingResponse(pieces(), late.nodes, late.metadata)


class _Late:
    """What a response holds from its beginning, and what is known only at its end."""

    def __init__(self, llm: BailianAppLLM) -> None:
        self.nodes: list[NodeWithScore] = []
        # Never empty: a RouterQueryEngine puts another dict into the place of an empty one.
        self.metadata: dict[str, Any] = {"app_id": llm.app_id}

    def read(self, answer: CompletionResponse) -> str:
        """Keep what an answer or its last chunk tells; returns the chunk's piece of text."""
        if answer.raw is not None:
            self.nodes += source_nodes(answer.raw)
            self.metadata |= run_metadata(answer.raw)
        return answer.delta or ""


def words_of(query_bundle: QueryBundle) -> str:
    """The words of a query; an image's path is refused."""
    if query_bundle.image_path:
        raise InvalidInputError(
            "query_bundle.image_path",
            "is a path, which an app cannot be sent",
            "Ask with BailianAppLLM.chat and an ImageBlock(url=…)",
        )
    return query_bundle.query_str
