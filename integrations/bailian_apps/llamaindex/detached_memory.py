"""A memory that can be pickled and copied with its messages."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import unquote

from llama_index.core.memory import BaseMemory
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore

_IN_MEMORY = ("sqlite+aiosqlite:///:memory:", "sqlite+aiosqlite://")


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
