"""Decorates methods with LlamaIndex's callback and span.

An instrumented method is called through three layers:

    outer      wraps secrets in the arguments, and closes both generators
      span     LlamaIndex's: publishes the arguments
        callback   LlamaIndex's: publishes the arguments, and an event per chunk
          inner    captures the generator that the method returns
            method

The outer layer adds what LlamaIndex's own lack. They would publish secrets in the arguments. And
closing the callback's generator does not close the method's generator inside it: that waits for the
garbage collector, and forever where a handler keeps the exception.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR

from bailian_apps.llamaindex.secrecy import wrap_secrets

MethodT = TypeVar("MethodT", bound=Callable[..., Any])

_captured: ContextVar[list[Any]] = ContextVar("bailian_apps_captured")
"""Where the current call keeps the generator that its method returned.

The outer layer removes it again: spans copy the context and would keep the generator alive.
"""


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
            response = traced.__get__(self, type(self))(*args, **wrap_secrets(kwargs))
            return _closing_both(response, captured.pop()) if captured else response

    return outer


def _instrument_async(
    method: Callable[..., Any], callback: Callable[..., Any]
) -> Callable[..., Any]:
    async def inner(*args: Any, **kwargs: Any) -> Any:
        return _record_generator(await method(*args, **kwargs))

    traced = _traced(method, inner, callback)

    async def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _capture_generator() as captured:
            response = await traced.__get__(self, type(self))(*args, **wrap_secrets(kwargs))
            return _aclosing_both(response, captured.pop()) if captured else response

    return outer


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


@contextmanager
def _capture_generator() -> Generator[list[Any]]:
    captured: list[Any] = []
    token = _captured.set(captured)
    try:
        yield captured
    finally:
        _captured.reset(token)


def _record_generator(response: Any) -> Any:
    if inspect.isgenerator(response) or inspect.isasyncgen(response):
        _captured.get().append(response)
    return response


def _closing_both(traced: Generator[Any], chunks: Generator[Any]) -> Generator[Any]:
    with closing(chunks), closing(traced):
        yield from traced


async def _aclosing_both(
    traced: AsyncGenerator[Any], chunks: AsyncGenerator[Any]
) -> AsyncGenerator[Any]:
    async with aclosing(chunks), aclosing(traced):
        async for chunk in traced:
            yield chunk
