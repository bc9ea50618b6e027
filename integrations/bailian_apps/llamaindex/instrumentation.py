"""Decorates methods with LlamaIndex's callback and span.

An instrumented method is called through three layers:

    outer      wraps secrets in the arguments; reads and closes the generators
      span         LlamaIndex's: publishes the arguments
        callback   LlamaIndex's: publishes the arguments, each chunk, and the last response
          inner    captures the generator that the method returns
            method

The outer layer adds what LlamaIndex's two layers lack:

- They publish the arguments, so secrets in them are wrapped first.
- Closing the callback's generator does not close the method's generator inside it: that waits for
  the garbage collector, and forever where a handler keeps the exception. Both are closed.
- The callback's event for a chunk costs more than the chunk, with or without a handler for it.
  Without one, chunks bypass the callback's generator, apart from the first, which starts that
  generator, and the last, which it publishes as the response.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from llama_index.core.llms import callbacks
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR
from llama_index_instrumentation.event_handlers import NullEventHandler

from bailian_apps.core.redaction import wrap_secrets
from bailian_apps.core.tracebacks import take

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def instrumented(callback: Callable[..., Any]) -> Callable[[MethodT], MethodT]:
    """Decorate a method of an LLM or an engine with LlamaIndex's callback and span.

    Args:
        callback: `llm_chat_callback()`, `llm_completion_callback()` or `trace_method(…)`.

    Returns:
        A decorator that keeps the method's signature.
    """

    def decorate(method: MethodT) -> MethodT:
        wrap = _instrument_async if inspect.iscoroutinefunction(method) else _instrument
        outer = _copy_signature(method, wrap(method, callback))
        setattr(outer, DISPATCHER_SPAN_DECORATED_ATTR, True)  # LlamaIndex would add a second span
        return cast("MethodT", outer)

    return decorate


def _instrument(method: Callable[..., Any], callback: Callable[..., Any]) -> Callable[..., Any]:
    def inner(*args: Any, **kwargs: Any) -> Any:
        return _record_generator(method(*args, **kwargs))

    traced = _traced(method, inner, callback)

    def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _capture_generator() as captured:
            response = traced.__get__(self, type(self))(*args, **_public(self, take(kwargs)))
            return captured.pop().stream(response) if captured else response

    return outer


def _instrument_async(
    method: Callable[..., Any], callback: Callable[..., Any]
) -> Callable[..., Any]:
    async def inner(*args: Any, **kwargs: Any) -> Any:
        return _record_generator(await method(*args, **kwargs))

    traced = _traced(method, inner, callback)

    async def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _capture_generator() as captured:
            response = await traced.__get__(self, type(self))(*args, **_public(self, take(kwargs)))
            return captured.pop().astream(response) if captured else response

    return outer


def instrumented_tool(method: Callable[..., Any]) -> Any:
    """Decorate a tool's `call` or `acall` with LlamaIndex's span, which publishes the arguments.

    Args:
        method: Takes the positional and the keyword arguments as a tuple and a dict, which shows no
            secret; `unwrap_params` returns the original.
    """
    traced: Any = get_dispatcher(method.__module__).span(method)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return traced.__get__(self, type(self))(args, self.without_secrets(take(kwargs)))

    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await traced.__get__(self, type(self))(args, self.without_secrets(take(kwargs)))

    outer = acall if inspect.iscoroutinefunction(method) else call
    outer.__doc__ = method.__doc__
    setattr(outer, DISPATCHER_SPAN_DECORATED_ATTR, True)
    return outer


def _public(owner: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a method of an LLM, or of an engine with one, to be published."""
    return wrap_secrets(kwargs, getattr(owner, "_llm", owner).secret_biz_params)


def _traced(
    method: Callable[..., Any], inner: Callable[..., Any], callback: Callable[..., Any]
) -> Any:
    return get_dispatcher(method.__module__).span(callback(_copy_signature(method, inner)))


def _copy_signature(method: Callable[..., Any], wrapper: Any) -> Any:
    """As `functools.wraps`, without `__wrapped__`: LlamaIndex takes that for its own decorator."""
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(wrapper, name, getattr(method, name))
    wrapper.__signature__ = inspect.signature(method)
    return wrapper


class _Chunks:
    """The chunks of a method's generator: through the callback's generator, or past it."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._bypassed: list[Any] = []  # the last chunk, while the callback has not received it

    def for_callback(self) -> Generator[Any]:
        """The generator that the callback reads."""
        for chunk in self._source:
            self._bypassed.clear()
            yield chunk
        yield from self._bypassed

    def stream(self, traced: Generator[Any]) -> Generator[Any]:
        """The generator that the caller reads; `traced` is the callback's."""
        with closing(self._source), closing(traced):
            try:
                for chunk in traced:
                    if self._bypassed:
                        continue  # the caller already has the last chunk
                    yield chunk
                    while not has_event_handlers():
                        chunk = next(self._source, None)
                        if chunk is None:
                            break
                        self._bypassed[:] = [chunk]
                        yield chunk
            except BaseException as error:
                traced.throw(error)  # publishes the error, and raises it again
                raise

    async def afor_callback(self) -> AsyncGenerator[Any]:
        """As `for_callback`, async."""
        async for chunk in self._source:
            self._bypassed.clear()
            yield chunk
        for chunk in self._bypassed:
            yield chunk

    async def astream(self, traced: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
        """As `stream`, async."""
        async with aclosing(self._source), aclosing(traced):
            try:
                async for chunk in traced:
                    if self._bypassed:
                        continue
                    yield chunk
                    while not has_event_handlers():
                        chunk = await anext(self._source, None)
                        if chunk is None:
                            break
                        self._bypassed[:] = [chunk]
                        yield chunk
            except BaseException as error:
                await traced.athrow(error)
                raise


def has_event_handlers() -> bool:
    """Whether anyone handles LlamaIndex's events, each of which costs more than a chunk."""
    dispatcher: Any = callbacks.dispatcher
    while True:
        for handler in dispatcher.event_handlers:
            if type(handler) is not NullEventHandler:
                return True
        if not dispatcher.propagate:
            return False
        dispatcher = dispatcher.parent


_captured: ContextVar[list[_Chunks]] = ContextVar("bailian_apps_captured")
"""Where the current call keeps the generator that its method returned.

The outer layer removes it again: spans copy the context and would keep the generator alive.
"""


@contextmanager
def _capture_generator() -> Generator[list[_Chunks]]:
    captured: list[_Chunks] = []
    token = _captured.set(captured)
    try:
        yield captured
    finally:
        _captured.reset(token)


def _record_generator(response: Any) -> Any:
    if not (inspect.isgenerator(response) or inspect.isasyncgen(response)):
        return response
    chunks = _Chunks(response)
    _captured.get().append(chunks)
    return chunks.for_callback() if inspect.isgenerator(response) else chunks.afor_callback()
