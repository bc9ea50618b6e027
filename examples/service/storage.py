"""Where conversations are kept, and which of them are being answered: PostgreSQL, or nowhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

logger = logging.getLogger("service")


class ThreadBusyError(Exception):
    """A turn of this thread is being answered, here or by another worker."""


class MemoryStorage:
    """For trying the service: one process, which forgets everything when it ends.

    Attributes:
        checkpointer: Keeps the checkpoints of the graph.
    """

    checkpointer: BaseCheckpointSaver[Any]

    def __init__(self) -> None:
        """Start without conversations."""
        self.checkpointer = InMemorySaver()
        self._answering: set[str] = set()

    @asynccontextmanager
    async def answering(self, thread_id: str) -> AsyncIterator[None]:
        """Hold a thread for one turn.

        Raises:
            ThreadBusyError: Another turn holds it.
        """
        if thread_id in self._answering:
            raise ThreadBusyError
        self._answering.add(thread_id)
        try:
            yield
        finally:
            self._answering.discard(thread_id)

    async def is_answering(self, thread_id: str) -> bool:
        """Return whether a turn holds the thread."""
        return thread_id in self._answering

    async def check(self) -> None:
        """Raise an error if conversations cannot be kept."""


class PostgresStorage(MemoryStorage):
    """For any number of workers.

    A thread is held by an advisory lock on one connection of this process. PostgreSQL releases it
    when the process ends, however it ends: what is unanswered and not locked was interrupted. Such
    locks need a direct connection, or a pooler in session mode.
    """

    def __init__(self, url: str, pool: Any, checkpointer: BaseCheckpointSaver[Any]) -> None:
        """Use a pool that is open."""
        super().__init__()
        self.checkpointer = checkpointer
        self._url = url
        self._pool = pool
        self._locks: Any = None
        self._connecting = asyncio.Lock()

    @asynccontextmanager
    async def answering(self, thread_id: str) -> AsyncIterator[None]:
        """Hold a thread for one turn, against all workers."""
        async with super().answering(thread_id):
            if not await self._locked("pg_try_advisory_lock", thread_id):
                raise ThreadBusyError
            try:
                yield
            finally:
                await self._locked("pg_advisory_unlock", thread_id)

    async def is_answering(self, thread_id: str) -> bool:
        """Return whether a turn holds the thread, here or elsewhere."""
        held = (
            "SELECT count(*) AS held FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND (classid::bigint << 32 | objid::bigint) = hashtextextended(%s, 0)"
        )
        async with self._pool.connection() as connection:
            row = await (await connection.execute(held, [thread_id])).fetchone()
            return bool(row["held"])

    async def check(self) -> None:
        """Raise an error if the database does not answer."""
        async with self._pool.connection(timeout=2) as connection:
            await connection.execute("SELECT 1")

    async def set_up(self) -> None:
        """Create the tables of the checkpoints, one worker at a time."""
        # Not `pg_advisory_lock`: it would wait in a transaction, and CREATE INDEX CONCURRENTLY
        # waits for the end of all transactions.
        while not await self._locked("pg_try_advisory_lock", "set up"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        try:
            await self.checkpointer.setup()  # type: ignore[attr-defined]
        finally:
            await self._locked("pg_advisory_unlock", "set up")

    async def close(self) -> None:
        """Close the connection of the locks."""
        if self._locks is not None:
            await self._locks.close()

    async def _locked(self, function: str, key: str) -> bool:
        from psycopg import AsyncConnection

        async with self._connecting:
            if self._locks is None or self._locks.closed:
                self._locks = await AsyncConnection.connect(self._url, autocommit=True)
        query = f"SELECT {function}(hashtextextended(%s, 0))"
        row = await (await self._locks.execute(query, [key])).fetchone()
        return bool(row[0])


@asynccontextmanager
async def open_storage(url: str | None, connections: int) -> AsyncIterator[MemoryStorage]:
    """Open the storage of this process.

    Args:
        url: The address of a PostgreSQL; None to keep conversations in memory.
        connections: How many connections the pool may have, beside one for the locks.
    """
    if not url:
        logger.warning(
            "DATABASE_URL is not set: conversations are kept in the memory of this process, are "
            "lost when it ends, and are unknown to other workers; set DATABASE_URL to a PostgreSQL"
        )
        yield MemoryStorage()
        return
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(
        url,
        min_size=1,
        max_size=connections,
        kwargs=options,
        check=AsyncConnectionPool.check_connection,  # a database that was started anew
        open=False,
    ) as pool:
        storage = PostgresStorage(url, pool, AsyncPostgresSaver(pool))
        try:
            await storage.set_up()
            yield storage
        finally:
            await storage.close()
