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
    PydanticResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle
from pydantic import BaseModel
from typing_extensions import Unpack

from bailian_apps.app import BailianApp
from bailian_apps.core.attachments import read_image
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.result import AppResult
from bailian_apps.core.tracebacks import hides_arguments
from bailian_apps.core.typed_output import check_output_schema, typed_output
from bailian_apps.llamaindex.keywords import LLMKeywords
from bailian_apps.llamaindex.llm import BailianAppLLM, ResultKeeper
from bailian_apps.llamaindex.messages import image_address
from bailian_apps.llamaindex.responses import run_metadata, source_nodes
from bailian_apps.llamaindex.workflow_context import english_for_agents


class BailianAppQueryEngine(BaseQueryEngine):
    """Answers queries with a Bailian app, each without a conversation.

    A `QueryBundle` may have an image in its `image_path`: a path, an address or a Data URL.

    A response has the cited documents in `source_nodes` (if the answer cites none, those that the
    app's retrievals found), and `steps`, `usage`, `reasoning`, `session_id`, `request_id` and
    others in `metadata`. A streaming response fills both before its last delta.

    With an `output_schema`, the response is a `PydanticResponse`, whose `response` is the object.

    Example:
        ```python
        engine = BailianAppQueryEngine.from_defaults(app_id="…")
        response = engine.query("What does the warranty cover?")
        for source in response.source_nodes:
            print(source.node.metadata.get("title"), source.node.get_content())
        ```
    """

    def __init__(
        self,
        app: BailianApp | None = None,
        llm: BailianAppLLM | None = None,
        *,
        streaming: bool = False,
        output_schema: type[BaseModel] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Create an engine from an app or an LLM.

        Args:
            app: The app to call.
            llm: The LLM to call, instead of `app`.
            streaming: Whether `query` and `aquery` return a streaming response.
            output_schema: A pydantic model that the app's answer, which must be JSON, is validated
                with. A query then raises an `InvalidOutputError` for an answer that does not fit.
            callback_manager: Receives the legacy events. Defaults to the LLM's.

        Raises:
            InvalidInputError: Both `app` and `llm` are given, or `streaming` and `output_schema`.
        """
        if check_output_schema(output_schema) is not None and streaming:
            raise InvalidInputError(
                "streaming",
                "cannot be combined with output_schema, because a streaming response is text",
                "Leave out one of the two",
            )
        self._output_schema = output_schema
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
        output_schema: type[BaseModel] | None = None,
        callback_manager: CallbackManager | None = None,
        **settings: Unpack[LLMKeywords],
    ) -> BailianAppQueryEngine:
        """Create an engine from an app's settings.

        Args:
            app: The app to call, instead of settings.
            llm: The LLM to call, instead of settings.
            streaming: As for the constructor.
            output_schema: As for the constructor.
            callback_manager: As for the constructor.
            **settings: The fields of `BailianAppLLM`.

        Raises:
            InvalidInputError: A field is unknown or invalid.
        """
        llm = BailianAppLLM.from_app_or_llm(app, llm, callback_manager, **settings)
        return cls(
            llm=llm,
            streaming=streaming,
            output_schema=output_schema,
            callback_manager=callback_manager,
        )

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}  # the prompts are part of the app, in the console

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        query, images = query_bundle.query_str, image_option(query_bundle)
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query}
        manager = self.callback_manager
        with english_for_agents(), manager.event(CBEventType.QUERY, payload=payload) as event:
            if self._streaming:
                response = self._stream(query, images)
            else:
                kept = ResultKeeper()
                completion = kept.listen_to(self._llm).complete(query, **images)
                response = self._final(completion, kept.result)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        query, images = query_bundle.query_str, image_option(query_bundle)
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query}
        manager = self.callback_manager
        with english_for_agents(), manager.event(CBEventType.QUERY, payload=payload) as event:
            if self._streaming:
                response = await self._astream(query, images)
            else:
                kept = ResultKeeper()
                completion = await kept.listen_to(self._llm).acomplete(query, **images)
                response = self._final(completion, kept.result)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _final(
        self, completion: CompletionResponse, result: AppResult
    ) -> Response | PydanticResponse:
        fields = _DeferredFields(self._llm)
        fields.read(completion)
        if self._output_schema is None:
            return Response(completion.text, fields.nodes, fields.metadata)
        output = typed_output(result, self._output_schema)
        return PydanticResponse(output, fields.nodes, fields.metadata)

    def _stream(self, query: str, images: dict[str, Any]) -> StreamingResponse:
        fields = _DeferredFields(self._llm)
        chunks = self._llm.stream_complete(query, **images)

        def deltas() -> Generator[str]:
            with english_for_agents(), closing(chunks):
                for chunk in chunks:
                    if delta := fields.read(chunk):
                        yield delta

        return StreamingResponse(deltas(), fields.nodes, fields.metadata)

    async def _astream(self, query: str, images: dict[str, Any]) -> AsyncStreamingResponse:
        fields = _DeferredFields(self._llm)
        chunks: Any = await self._llm.astream_complete(query, **images)

        async def deltas() -> AsyncGenerator[str]:
            with english_for_agents():
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


def image_option(query_bundle: QueryBundle) -> dict[str, Any]:
    """The image of a query, if it has one, as an argument of `BailianAppLLM.complete`."""
    if not query_bundle.image_path:
        return {}
    image = image_address(query_bundle.image_path)
    return {"image_list": [read_image(image, "query_bundle.image_path")]}
