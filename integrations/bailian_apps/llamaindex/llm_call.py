"""One call of an LLM method: runs the app, records spans, builds the responses.

Sync and async differ in `for` against `async for`; everything else is shared.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from llama_index.core.callbacks import CallbackManager

from bailian_apps.client import Client
from bailian_apps.core.events import AppEvent, RunFinished
from bailian_apps.core.history import Plan
from bailian_apps.core.redaction import redact_biz_params
from bailian_apps.core.settings import AppSettings
from bailian_apps.llamaindex.responses import ResponseBuilder
from bailian_apps.llamaindex.spans import RunSpans
from bailian_apps.run import Run

ResponseT = TypeVar("ResponseT")
GeneratorT = TypeVar("GeneratorT", Generator[Any], AsyncGenerator[Any])


@dataclass(frozen=True, slots=True)
class LLMCall(Generic[ResponseT]):
    """One call, validated and planned. Nothing is sent before its stream is read.

    Attributes:
        settings: The settings of this call.
        plan: The part of the conversation that is sent.
        options: The other arguments of the call, see `AppRequest`.
        builder: Builds the responses.
        client: The connections to use; None for the default client's.
        manager: Receives the legacy events.
        step_events: Whether spans send a `BailianAppStepEvent` for each step.
        listener: Called for every event of the run.
    """

    settings: AppSettings
    plan: Plan
    options: dict[str, Any]
    builder: ResponseBuilder[ResponseT]
    client: Client | None
    manager: CallbackManager
    step_events: bool = False
    listener: Callable[[AppEvent], None] | None = None

    def invoke(self) -> ResponseT:
        """Run the app and return the final response.

        Raises:
            BailianError: The call failed; `partial` has what was received.
        """
        [response] = self._stream(streaming=False)
        return response

    async def ainvoke(self) -> ResponseT:
        """As `invoke`, natively async."""
        [response] = [response async for response in self._astream(streaming=False)]
        return response

    def stream(self) -> Generator[ResponseT]:
        """Run the app and yield its chunks; the last one is the final response.

        The run's span is entered at once; the request is sent by the first `next`.

        Returns:
            The chunks. Closing the generator closes the connection and ends all spans.

        Raises:
            InvalidInputError: An argument is invalid; nothing was sent.
            BailianError: The call failed; `partial` has what was received.
        """
        return self._stream(streaming=True)

    def astream(self) -> AsyncGenerator[ResponseT]:
        """As `stream`, natively async."""
        return self._astream(streaming=True)

    def _stream(self, *, streaming: bool) -> Generator[ResponseT]:
        events = self._run().stream()
        spans = self._open_spans()

        def chunks() -> Generator[ResponseT]:
            with spans, closing(events):
                for event in events:
                    chunk = self._handle(event, spans, streaming=streaming)
                    if chunk is not None:
                        yield chunk

        return _close_spans_on_gc(chunks(), spans)

    def _astream(self, *, streaming: bool) -> AsyncGenerator[ResponseT]:
        events = self._run().astream()
        spans = self._open_spans()

        async def chunks() -> AsyncGenerator[ResponseT]:
            with spans:
                async with aclosing(events):
                    async for event in events:
                        chunk = self._handle(event, spans, streaming=streaming)
                        if chunk is not None:
                            yield chunk

        return _close_spans_on_gc(chunks(), spans)

    def _run(self) -> Run:
        return Run(self.settings, self.plan, self.options, client=self.client)

    def _open_spans(self) -> RunSpans:
        inputs = {
            "app_id": self.settings.app_id,
            "biz_params": redact_biz_params(self.settings.biz_params or {}),
            **self.plan.request_fields(self.options),
        }
        return RunSpans(
            {name: value for name, value in inputs.items() if value},
            self.manager,
            step_events=self.step_events,
        )

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
