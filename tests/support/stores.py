"""Every store that keeps a conversation, behind one function: say something, get the answer.

Each is opened anew for every turn, as a process does that was started anew. Run as a script, this
is such a process: it says what it reads, and prints the answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

Say: TypeAlias = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the cloud and the stores are.

    Attributes:
        base_url: The cloud's address.
        folder: Where files go.
        postgres: The address of PostgreSQL; `""` where it is not needed.
        redis: The address of Redis; `""` where it is not needed.
        key: The name of the conversation.
        settings: Settings of the app in every turn.
    """

    base_url: str
    folder: str
    key: str
    postgres: str = ""
    redis: str = ""
    settings: dict[str, Any]

    @property
    def app(self) -> dict[str, Any]:
        """The app's settings."""
        return {"app_id": "friend", "api_key": "sk", "base_url": self.base_url, **self.settings}


@dataclass(frozen=True, kw_only=True)
class Store:
    """One way to keep a conversation.

    Attributes:
        open: Opens it at a place.
        needs: The servers: `postgres`, `redis`, `redis_modules`.
        lasting: Whether it can be opened anew.
        marked: Whether it keeps the mark of the cloud's session.
    """

    open: Callable[[Place], AbstractContextManager[Say]]
    needs: tuple[str, ...] = ()
    lasting: bool = True
    marked: bool = True


@contextmanager
def conversation(store: Store, place: Place) -> Iterator[Say]:
    """Talks through a store that is opened anew for every turn, if it can be."""
    if not store.lasting:
        with store.open(place) as say:
            yield say
        return

    def turn(text: str) -> str:
        with store.open(place) as say:
            return say(text)

    yield turn


# --- LangChain


def _graph(place: Place, saver: Any) -> Any:
    from langchain_core.runnables import RunnableLambda
    from langgraph.graph import START, MessagesState, StateGraph

    from bailian_apps.langchain import ChatBailianApp

    model = ChatBailianApp(**place.app)

    def friend(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    async def afriend(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("friend", RunnableLambda(friend, afriend))
    builder.add_edge(START, "friend")
    return builder.compile(checkpointer=saver)


def _agent(place: Place, saver: Any) -> Any:
    from langchain.agents import create_agent

    from bailian_apps.langchain import ChatBailianApp

    return create_agent(ChatBailianApp(**place.app), tools=[], checkpointer=saver)


def _input(place: Place, text: str) -> tuple[Any, Any]:
    return {"messages": [("user", text)]}, {"configurable": {"thread_id": place.key}}


def langgraph(
    saver: Callable[[Place], AbstractContextManager[Any]],
    graph: Callable[[Place, Any], Any] = _graph,
) -> Callable[[Place], AbstractContextManager[Say]]:
    """A graph or an agent with a checkpointer."""

    @contextmanager
    def opened(place: Place) -> Iterator[Say]:
        with saver(place) as checkpointer:
            made = graph(place, checkpointer)
            yield lambda text: made.invoke(*_input(place, text))["messages"][-1].text

    return opened


def async_langgraph(
    saver: Callable[[Place], AbstractAsyncContextManager[Any]],
) -> Callable[[Place], AbstractContextManager[Say]]:
    """As `langgraph`, natively async."""

    @contextmanager
    def opened(place: Place) -> Iterator[Say]:
        async def turn(text: str) -> str:
            async with saver(place) as checkpointer:
                result = await _graph(place, checkpointer).ainvoke(*_input(place, text))
                return result["messages"][-1].text

        yield lambda text: asyncio.run(turn(text))

    return opened


def _saver_in_process(place: Place) -> AbstractContextManager[Any]:
    from langgraph.checkpoint.memory import InMemorySaver

    return nullcontext(InMemorySaver())


def _saver_on_sqlite(place: Place) -> AbstractContextManager[Any]:
    from langgraph.checkpoint.sqlite import SqliteSaver

    return SqliteSaver.from_conn_string(f"{place.folder}/checkpoints.db")


def _async_saver_on_sqlite(place: Place) -> AbstractAsyncContextManager[Any]:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    return AsyncSqliteSaver.from_conn_string(f"{place.folder}/checkpoints.db")


@contextmanager
def _saver_on_postgres(place: Place) -> Iterator[Any]:
    from langgraph.checkpoint.postgres import PostgresSaver

    with PostgresSaver.from_conn_string(place.postgres) as saver:
        saver.setup()
        yield saver


@asynccontextmanager
async def _async_saver_on_postgres(place: Place) -> AsyncIterator[Any]:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    async with AsyncPostgresSaver.from_conn_string(place.postgres) as saver:
        await saver.setup()
        yield saver


@contextmanager
def _saver_on_redis(place: Place) -> Iterator[Any]:
    from langgraph.checkpoint.redis import RedisSaver

    with RedisSaver.from_conn_string(place.redis) as saver:
        saver.setup()
        yield saver


@asynccontextmanager
async def _async_saver_on_redis(place: Place) -> AsyncIterator[Any]:
    from langgraph.checkpoint.redis.aio import AsyncRedisSaver

    async with AsyncRedisSaver.from_conn_string(place.redis) as saver:
        yield saver


def _with_history(place: Place, history: Callable[[str], Any]) -> Say:
    from langchain_core.messages import HumanMessage
    from langchain_core.runnables.history import RunnableWithMessageHistory

    from bailian_apps.langchain import ChatBailianApp

    model = RunnableWithMessageHistory(ChatBailianApp(**place.app), history)
    config: Any = {"configurable": {"session_id": place.key}}
    return lambda text: model.invoke([HumanMessage(text)], config).text


@contextmanager
def history_on_sqlite(place: Place) -> Iterator[Say]:
    from langchain_community.chat_message_histories import SQLChatMessageHistory
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{place.folder}/histories.db")
    try:
        yield _with_history(place, lambda key: SQLChatMessageHistory(key, connection=engine))
    finally:
        engine.dispose()


@contextmanager
def history_on_redis(place: Place) -> Iterator[Say]:
    from langchain_community.chat_message_histories import RedisChatMessageHistory

    with ExitStack() as stack:

        def history(key: str) -> Any:
            made = RedisChatMessageHistory(key, url=place.redis)
            stack.callback(made.redis_client.close)
            return made

        yield _with_history(place, history)


@contextmanager
def history_on_langchain_redis(place: Place) -> Iterator[Say]:
    """It stores a message without its `response_metadata`, which has the mark."""
    from langchain_redis import RedisChatMessageHistory
    from redis import Redis

    # langchain-redis 0.2.6 cannot read what redis-py 8 makes of protocol 3.
    with Redis.from_url(place.redis, protocol=2) as client:
        yield _with_history(place, lambda key: RedisChatMessageHistory(key, redis_client=client))


# --- LlamaIndex


def _llm(place: Place) -> Any:
    from bailian_apps.llamaindex import BailianAppLLM

    return BailianAppLLM(**place.app)


@contextmanager
def _memory_in(database: str, place: Place, **engine_settings: Any) -> Iterator[Any]:
    from llama_index.core.memory import Memory
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(database, **engine_settings)
    try:
        yield Memory.from_defaults(session_id=place.key, token_limit=40_000, async_engine=engine)
    finally:
        asyncio.run(engine.dispose())


def _memory_of_one_call(database: str, place: Place) -> AbstractContextManager[Any]:
    from sqlalchemy.pool import NullPool

    # Each synchronous call has an event loop of its own, and a pool would keep connections of it.
    return _memory_in(database, place, poolclass=NullPool)


def memory_in_process(place: Place) -> AbstractContextManager[Any]:
    return _memory_in("sqlite+aiosqlite:///:memory:", place)


def memory_on_sqlite(place: Place) -> AbstractContextManager[Any]:
    return _memory_of_one_call(f"sqlite+aiosqlite:///{place.folder}/memory.db", place)


def memory_on_postgres(place: Place) -> AbstractContextManager[Any]:
    return _memory_of_one_call(place.postgres.replace("postgresql:", "postgresql+asyncpg:"), place)


@contextmanager
def memory_on_redis(place: Place) -> Iterator[Any]:
    from llama_index.core.memory import ChatMemoryBuffer
    from llama_index.storage.chat_store.redis import RedisChatStore
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    clients = Redis.from_url(place.redis), AsyncRedis.from_url(place.redis)
    with clients[0]:
        store = RedisChatStore(redis_client=clients[0], aredis_client=clients[1])
        yield ChatMemoryBuffer.from_defaults(
            chat_store=store, chat_store_key=place.key, token_limit=40_000
        )


def simple(place: Place, memory: Any) -> Any:
    from llama_index.core.chat_engine import SimpleChatEngine

    return SimpleChatEngine.from_defaults(llm=_llm(place), memory=memory)


def own(place: Place, memory: Any) -> Any:
    from bailian_apps.llamaindex import BailianAppChatEngine

    return BailianAppChatEngine.from_defaults(llm=_llm(place), memory=memory)


def context(place: Place, memory: Any) -> Any:
    from llama_index.core.chat_engine import ContextChatEngine

    return ContextChatEngine.from_defaults(_index().as_retriever(), llm=_llm(place), memory=memory)


def condense_plus_context(place: Place, memory: Any) -> Any:
    from llama_index.core.chat_engine import CondensePlusContextChatEngine

    return CondensePlusContextChatEngine.from_defaults(
        _index().as_retriever(), llm=_llm(place), memory=memory
    )


def condense_question(place: Place, memory: Any) -> Any:
    from llama_index.core.chat_engine import CondenseQuestionChatEngine

    llm = _llm(place)
    return CondenseQuestionChatEngine.from_defaults(
        _index().as_query_engine(llm=llm), llm=llm, memory=memory
    )


def _index() -> Any:
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.core.embeddings import MockEmbedding

    documents = [Document(text="West Lake is in Hangzhou.")]
    return VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=8))


def chat(engine: Any, text: str) -> str:
    return engine.chat(text).response


def stream_chat(engine: Any, text: str) -> str:
    return "".join(engine.stream_chat(text).response_gen)


def achat(engine: Any, text: str) -> str:
    async def turn() -> str:
        return (await engine.achat(text)).response

    return asyncio.run(turn())


def astream_chat(engine: Any, text: str) -> str:
    async def turn() -> str:
        response = await engine.astream_chat(text)
        return "".join([piece async for piece in response.async_response_gen()])

    return asyncio.run(turn())


def llamaindex(
    engine: Callable[[Place, Any], Any],
    memory: Callable[[Place], AbstractContextManager[Any]],
    way: Callable[[Any, str], str] = chat,
) -> Callable[[Place], AbstractContextManager[Say]]:
    """A chat engine with a memory."""

    @contextmanager
    def opened(place: Place) -> Iterator[Say]:
        with memory(place) as kept:
            made = engine(place, kept)
            yield lambda text: way(made, text)

    return opened


# --- The table

POSTGRES, REDIS = ("postgres",), ("redis",)
MODULES = ("redis", "redis_modules")

LANGCHAIN = {
    "langgraph, in the process": Store(open=langgraph(_saver_in_process), lasting=False),
    "langgraph, SQLite": Store(open=langgraph(_saver_on_sqlite)),
    "langgraph, SQLite, async": Store(open=async_langgraph(_async_saver_on_sqlite)),
    "langgraph, PostgreSQL": Store(open=langgraph(_saver_on_postgres), needs=POSTGRES),
    "langgraph, PostgreSQL, async": Store(
        open=async_langgraph(_async_saver_on_postgres), needs=POSTGRES
    ),
    "langgraph, Redis": Store(open=langgraph(_saver_on_redis), needs=MODULES),
    "langgraph, Redis, async": Store(open=async_langgraph(_async_saver_on_redis), needs=MODULES),
    "create_agent, PostgreSQL": Store(open=langgraph(_saver_on_postgres, _agent), needs=POSTGRES),
    "message history, SQLite": Store(open=history_on_sqlite),
    "message history, Redis": Store(open=history_on_redis, needs=REDIS),
    "message history, langchain-redis": Store(
        open=history_on_langchain_redis, needs=MODULES, marked=False
    ),
}

LLAMAINDEX = {
    "simple, in the process": Store(open=llamaindex(simple, memory_in_process), lasting=False),
    "simple, SQLite": Store(open=llamaindex(simple, memory_on_sqlite)),
    "simple, PostgreSQL": Store(open=llamaindex(simple, memory_on_postgres), needs=POSTGRES),
    "simple, PostgreSQL, async": Store(
        open=llamaindex(simple, memory_on_postgres, achat), needs=POSTGRES
    ),
    "simple, Redis": Store(open=llamaindex(simple, memory_on_redis), needs=REDIS),
    "simple, Redis, streamed": Store(
        open=llamaindex(simple, memory_on_redis, stream_chat), needs=REDIS
    ),
    "simple, SQLite, streamed, async": Store(
        open=llamaindex(simple, memory_on_sqlite, astream_chat)
    ),
    "own, in the process": Store(open=llamaindex(own, memory_in_process), lasting=False),
    "own, SQLite": Store(open=llamaindex(own, memory_on_sqlite)),
    "own, PostgreSQL": Store(open=llamaindex(own, memory_on_postgres), needs=POSTGRES),
    "own, PostgreSQL, streamed, async": Store(
        open=llamaindex(own, memory_on_postgres, astream_chat), needs=POSTGRES
    ),
    "own, Redis": Store(open=llamaindex(own, memory_on_redis), needs=REDIS),
    "context, PostgreSQL": Store(
        open=llamaindex(context, memory_on_postgres), needs=POSTGRES, marked=False
    ),
    "condense plus context, Redis": Store(
        open=llamaindex(condense_plus_context, memory_on_redis), needs=REDIS, marked=False
    ),
    "condense question, SQLite": Store(
        open=llamaindex(condense_question, memory_on_sqlite), marked=False
    ),
}

STORES = LANGCHAIN | LLAMAINDEX


def command(name: str, place: Place) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a process that talks through a store."""
    code = [sys.executable, "-W", "error", __file__, name, json.dumps(asdict(place))]
    return code, {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true", "PYTHONUTF8": "1"}


if __name__ == "__main__":
    store, place = STORES[sys.argv[1]], Place(**json.loads(sys.argv[2]))
    for line in sys.stdin:
        with store.open(place) as say:
            print(say(line.strip()), flush=True)  # noqa: T201 - to whoever asked
