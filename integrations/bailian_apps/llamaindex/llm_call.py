"""One call of an LLM method: runs the app, records spans, builds the responses.

Sync and async differ in `for` against `async for`; everything else is shared.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bailian_apps.core.events import AppEvent, RunFinished
from bailian_apps.core.history import Plan
from bailian_apps.core.redaction import redact_biz_params
from bailian_apps.core.settings import AppSettings
from bailian_apps.llamaindex.responses import ResponseBuilder
from bailian_apps.llamaindex.spans import RunSpans
from bailian_apps.owned_stream import OwnedStream
from bailian_apps.run import Run

if TYPE_CHECKING:
    from bailian_apps.llamaindex.llm import BailianAppLLM

ResponseT = TypeVar("ResponseT")
GeneratorT = TypeVar("GeneratorT", Generator[Any], AsyncGenerator[Any])


@dataclass(frozen=True, slots=True)
class LLMCall(Generic[ResponseT]):
    """One call, validated and planned. Nothing is sent before its stream is read.

    Attributes:
        llm: The called LLM.
        settings: The settings of this call.
        plan: The part of the conversation that is sent.
        options: The other arguments of the call, see `AppRequest`.
        builder: Builds the responses.
        listener: Called for every event of the run.
    """

    llm: BailianAppLLM
    settings: AppSettings
    plan: Plan
    options: dict[str, Any] = field(repr=False)
    builder: ResponseBuilder[ResponseT]
    listener: Callable[[AppEvent], None] | None

    def invoke(self) -> ResponseT:
        """Run the app and return the final response.

        Raises:
            BailianError: The call failed; `partial` has what was received.
        """
        [response] = self.stream(streaming=False)
        return response

    async def ainvoke(self) -> ResponseT:
        """As `invoke`, natively async."""
        [response] = [response async for response in self.astream(streaming=False)]
        return response

    def stream(self, *, streaming: bool = True) -> Generator[ResponseT]:
        """Run the app and yield its chunks; the last one is the final response.

        The run's span is entered at once; the request is sent by the first `next`.

        Args:
            streaming: False yields the final response only.

        Returns:
            The chunks. Closing the generator closes the connection and ends all spans.

        Raises:
            InvalidInputError: An argument is invalid; nothing was sent.
            BailianError: The call failed; `partial` has what was received.
        """
        events = self._run().stream()
        spans = self._open_spans()

        def chunks() -> Generator[ResponseT]:
            with spans, closing(events):
                for event in events:
                    chunk = self._handle(event, spans, streaming=streaming)
                    if chunk is not None:
                        yield chunk

        return _close_spans_on_gc(chunks(), spans)

    def astream(self, *, streaming: bool = True) -> AsyncGenerator[ResponseT]:
        """As `stream`, natively async."""
        events = OwnedStream(self._run().astream())
        spans = self._open_spans()

        async def chunks() -> AsyncGenerator[ResponseT]:
            with spans:
                async with events:
                    async for event in events:
                        chunk = self._handle(event, spans, streaming=streaming)
                        if chunk is not None:
                            yield chunk

        return _close_spans_on_gc(chunks(), spans)

    def _run(self) -> Run:
        return Run(self.settings, self.plan, self.options, client=self.llm.client)

    def _open_spans(self) -> RunSpans:
        inputs = {
            "app_id": self.settings.app_id,
            "biz_params": redact_biz_params(
                self.settings.biz_params or {}, self.settings.secret_biz_params
            ),
            **self.plan.request_fields(self.options),
        }
        inputs = {name: value for name, value in inputs.items() if value}
        if "image_list" in inputs:
            inputs["image_list"] = tuple(map(str, inputs["image_list"]))
        return RunSpans(inputs, self.llm.callback_manager, step_events=self.llm.step_events)

    def _handle(self, event: AppEvent, spans: RunSpans, *, streaming: bool) -> ResponseT | None:
        """Record an event and build its chunk, if it has one."""
        spans.record(event)
        if self.listener is not None:
            self.listener(event)
        if isinstance(event, RunFinished):
            spans.finish(event.result.text)
            return self.builder.final(event.result, delta="" if streaming else None)
        return self.builder.chunk(event) if streaming else None


def _close_spans_on_gc(chunks: GeneratorT, spans: RunSpans) -> GeneratorT:
    """End the spans of a generator that is never read: its `finally` does not run."""
    weakref.finalize(chunks, spans.abandon).atexit = False
    return chunks
