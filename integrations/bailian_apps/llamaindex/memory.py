"""Memories of LlamaIndex: operations that run to their end, and a copy with the messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import unquote

from llama_index.core.memory import BaseMemory
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore

P = ParamSpec("P")
T = TypeVar("T")

_UNINTERRUPTED_S = 10.0  # a memory that hangs must not keep its caller for ever
_IN_MEMORY = ("sqlite+aiosqlite:///:memory:", "sqlite+aiosqlite://")


def uninterrupted(
    operation: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make an operation on a memory one that goes on when its caller is cancelled, for up to 10 s.

    SQLAlchemy closes the connection of a cancelled statement, and LlamaIndex's default memory is a
    database in that connection. A cancel scope of anyio, such as that of a Starlette response whose
    client leaves, cancels each further await of its tasks, so this one waits again.
    """

    @wraps(operation)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.create_task(operation(*args, **kwargs))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            end = asyncio.get_running_loop().time() + _UNINTERRUPTED_S
            while not task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([task], timeout=1)
                if asyncio.get_running_loop().time() > end:
                    task.cancel()
            raise

    return run


def detached_memory(memory: BaseMemory) -> BaseMemory:
    """Return a memory with the same messages and without an open database.

    LlamaIndex's `Memory` drops its store when it is pickled, and with it the messages.

    Raises:
        TypeError: Its store is a database, of which there is only one.
    """
    store: Any = getattr(memory, "sql_store", None)
    if store is None:
        return memory
    engine: Any = getattr(store, "_async_engine", None)
    address = str(engine.url if engine is not None else getattr(store, "async_database_uri", ""))
    if not isinstance(store, SQLAlchemyChatStore) or unquote(address) not in _IN_MEMORY:
        raise TypeError(
            "a chat engine whose memory is on a database cannot be pickled or copied deeply; "
            "make one where it is used, with a memory of the same session_id"
        )
    fields: dict[str, Any] = cast("Any", store).dump_store()
    return memory.model_copy(update={"sql_store": SQLAlchemyChatStore(**fields)})
