"""Drives one run of an app on behalf of one LLM method, sync and async.

The two drivers differ in `for` against `async for`; what decides anything is in `Call`.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from llama_index.core.callbacks import CallbackManager

from bailian_apps.app import BailianApp
from bailian_apps.core.events import AppEvent, RunFinished
from bailian_apps.core.history import Plan
from bailian_apps.core.redaction import redact_biz_params
from bailian_apps.llamaindex.replies import Reply
from bailian_apps.llamaindex.spans import RunSpans
from bailian_apps.run import Run

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call, checked and planned; nothing was sent.

    Attributes:
        app: The app, with the settings of this call.
        plan: What of the conversation is sent.
        said: What else the caller says for this call, in the words of `BailianApp.stream`.
        reply: What makes responses of the run's events.
        manager: Who tells the legacy callbacks.
        step_events: Whether spans send an event of ours for each step.
        listener: Who hears every event of the run as it comes.
    """

    app: BailianApp
    plan: Plan
    said: dict[str, Any]
    reply: Reply[T]
    manager: CallbackManager
    step_events: bool = False
    listener: Callable[[AppEvent], None] | None = None

    def run(self) -> Run:
        """The run of the app."""
        return Run(self.app.settings, self.plan, self.said, client=self.app.client)

    def open_spans(self) -> RunSpans:
        """Enter the run's span."""
        settings = self.app.settings
        known = {
            "app_id": settings.app_id,
            "biz_params": redact_biz_params(settings.biz_params or {}),
        }
        inputs = known | self.plan.request_fields(self.said)
        return RunSpans(
            {name: value for name, value in inputs.items() if value},
            self.manager,
            step_events=self.step_events,
        )

    def read(self, event: AppEvent, spans: RunSpans, *, streaming: bool) -> T | None:
        """Note an event in the spans and make its chunk, if it has one.

        Args:
            event: What happened.
            spans: The run's.
            streaming: Whether chunks are wanted; else only the whole response is made.
        """
        spans.read(event)
        if self.listener is not None:
            self.listener(event)
        if isinstance(event, RunFinished):
            spans.finish(event.result.text)
            return self.reply.whole(event.result, delta="" if streaming else None)
        return self.reply.chunk(event) if streaming else None


def stream(call: Call[T]) -> Generator[T]:
    """Run the app and yield the chunks of its reply; the last is the whole response.

    The run's span is entered at once, the request is sent at the first `next`.

    Args:
        call: What to ask, and how to reply.

    Returns:
        The chunks. Closing the generator closes the connection and ends all spans.

    Raises:
        InvalidInputError: An argument cannot be sent; nothing was.
        BailianError: The call failed; `partial` holds what had come.
    """
    return _stream(call, streaming=True)


def astream(call: Call[T]) -> AsyncGenerator[T]:
    """As `stream`, natively async."""
    return _astream(call, streaming=True)


def invoke(call: Call[T]) -> T:
    """Run the app and return the whole response: the fold of `stream`."""
    [response] = _stream(call, streaming=False)
    return response


async def ainvoke(call: Call[T]) -> T:
    """As `invoke`, natively async."""
    [response] = [response async for response in _astream(call, streaming=False)]
    return response


def _stream(call: Call[T], *, streaming: bool) -> Generator[T]:
    events = call.run().stream()
    spans = call.open_spans()

    def chunks() -> Generator[T]:
        with spans, closing(events):
            for event in events:
                chunk = call.read(event, spans, streaming=streaming)
                if chunk is not None:
                    yield chunk

    return _watched(chunks(), spans)


def _astream(call: Call[T], *, streaming: bool) -> AsyncGenerator[T]:
    events = call.run().astream()
    spans = call.open_spans()

    async def chunks() -> AsyncGenerator[T]:
        with spans:
            async with aclosing(events):
                async for event in events:
                    chunk = call.read(event, spans, streaming=streaming)
                    if chunk is not None:
                        yield chunk

    return _watched(chunks(), spans)


GeneratorT = TypeVar("GeneratorT", Generator[Any], AsyncGenerator[Any])


def _watched(chunks: GeneratorT, spans: RunSpans) -> GeneratorT:
    """End the spans also when nobody ever reads the generator: its `finally` then never runs."""
    weakref.finalize(chunks, spans.abandon).atexit = False
    return chunks
