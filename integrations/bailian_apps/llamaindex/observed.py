"""Decorates methods with LlamaIndex's callback and span, and mends two things about both.

Secrets in the arguments would be published: they are hidden from both (see `secrecy`). And closing
LlamaIndex's generator does not close the one inside it: that waits for the garbage collector, which
a handler that keeps the exception keeps waiting. So both are closed, at once.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR

from bailian_apps.llamaindex.secrecy import conceal

MethodT = TypeVar("MethodT", bound=Callable[..., Any])

_opened: ContextVar[list[Any]] = ContextVar("bailian_apps_opened")
"""Where the call under way notes the generator that the method itself returned.

It must be taken out again: spans copy the context, and keep alive what is in it.
"""


def observed(callback: Callable[..., Any]) -> Callable[[MethodT], MethodT]:
    """Decorate a method of an LLM or an engine with LlamaIndex's callback and span.

    LlamaIndex itself would put the span around everything else, and the secrets into it.

    Args:
        callback: `llm_chat_callback()`, `llm_completion_callback()` or `trace_method(…)`.

    Returns:
        A decorator that leaves the method's signature as it is.
    """

    def decorate(method: MethodT) -> MethodT:
        make = _decorated_async if inspect.iscoroutinefunction(method) else _decorated
        outer = _posing_as(method, make(method, callback))
        setattr(outer, DISPATCHER_SPAN_DECORATED_ATTR, True)  # no second span around this one
        return cast("MethodT", outer)

    return decorate


def _decorated(method: Callable[..., Any], callback: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        return _note(method(*args, **kwargs))

    traced = _traced(method, noted, callback)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _noting() as opened:
            answer = traced.__get__(self, type(self))(*args, **conceal(kwargs))
            return _close_all(answer, opened.pop()) if opened else answer

    return call


def _decorated_async(
    method: Callable[..., Any], callback: Callable[..., Any]
) -> Callable[..., Any]:
    async def noted(*args: Any, **kwargs: Any) -> Any:
        return _note(await method(*args, **kwargs))

    traced = _traced(method, noted, callback)

    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _noting() as opened:
            answer = await traced.__get__(self, type(self))(*args, **conceal(kwargs))
            return _aclose_all(answer, opened.pop()) if opened else answer

    return call


def _traced(
    method: Callable[..., Any], noted: Callable[..., Any], callback: Callable[..., Any]
) -> Any:
    return get_dispatcher(method.__module__).span(callback(_posing_as(method, noted)))


def _posing_as(method: Callable[..., Any], function: Any) -> Any:
    """Not `functools.wraps`: what has a `__wrapped__`, LlamaIndex takes for decorated already."""
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(function, name, getattr(method, name))
    function.__signature__ = inspect.signature(method)
    return function


@contextmanager
def _noting() -> Generator[list[Any]]:
    opened: list[Any] = []
    token = _opened.set(opened)
    try:
        yield opened
    finally:
        _opened.reset(token)


def _note(answer: Any) -> Any:
    if inspect.isgenerator(answer) or inspect.isasyncgen(answer):
        _opened.get().append(answer)
    return answer


def _close_all(chunks: Generator[Any], ours: Generator[Any]) -> Generator[Any]:
    with closing(ours), closing(chunks):
        yield from chunks


async def _aclose_all(
    chunks: AsyncGenerator[Any], ours: AsyncGenerator[Any]
) -> AsyncGenerator[Any]:
    async with aclosing(ours), aclosing(chunks):
        async for chunk in chunks:
            yield chunk
