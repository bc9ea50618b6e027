"""The service: `uvicorn --app-dir examples service.app:create_app --factory`.

    DASHSCOPE_API_KEY=sk-… BAILIAN_APP_ID=… DATABASE_URL=postgresql://… \
        uvicorn --app-dir examples service.app:create_app --factory --workers 4 \
        --timeout-graceful-shutdown 60

It has no accounts: whoever knows a thread's id, which cannot be guessed, reads and continues it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from bailian_apps import Client
from bailian_apps.langchain import ChatBailianApp

from .conversations import Conversations, unanswered_in
from .event_stream import EventStream
from .storage import MemoryStorage, ThreadBusyError, open_storage

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "Referrer-Policy": "no-referrer",  # the address has the id of the thread
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Limit:
    """How many answers one process streams at once."""

    def __init__(self, most: int) -> None:
        """Start with none."""
        self._most = most
        self._now = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one answer; a 503 at the limit.

        A queue would keep users waiting without a word. With 503, the load balancer can ask another
        worker, and the page can say so.
        """
        if self._now >= self._most:
            raise HTTPException(503, "too many answers at once", headers={"Retry-After": "2"})
        self._now += 1
        try:
            yield
        finally:
            self._now -= 1


class Service:
    """What one process has: one client, one pool, one graph."""

    def __init__(self, conversations: Conversations, storage: MemoryStorage) -> None:
        """Read the limits from the environment."""
        self.conversations = conversations
        self.storage = storage
        self.limit = Limit(max_streams())
        self.heartbeat_s = float(os.environ.get("SERVICE_HEARTBEAT_S", "15"))

    async def answer(self, thread_id: str, text: str) -> EventStream:
        """Return the answer of one turn, which holds its thread until the last event."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self.limit.one())
            await stack.enter_async_context(self.storage.answering(thread_id))
            events = self.conversations.turn(thread_id, text)
            return EventStream(events, stack.pop_all(), heartbeat_s=self.heartbeat_s)


def max_streams() -> int:
    """Return how many answers a process streams at once."""
    return int(os.environ.get("SERVICE_MAX_STREAMS", "100"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what the process shares; close it after the last answer."""
    connections = int(os.environ.get("SERVICE_DATABASE_CONNECTIONS", "10"))
    async with (
        Client() as client,
        open_storage(os.environ.get("DATABASE_URL"), connections) as kept,
    ):
        model = ChatBailianApp(
            client=client,
            max_concurrency=max_streams(),
            history_format="prompt",  # which every kind of app takes
        )
        app.state.service = Service(Conversations(model, kept.checkpointer), kept)
        yield


def service_of(request: Request) -> Service:
    """Return the process's service."""
    return request.app.state.service


TheService = Annotated[Service, Depends(service_of)]


class Message(BaseModel):
    """What a user says."""

    text: str = Field(min_length=1, max_length=8000, pattern=r"\S")


class Page(StaticFiles):
    """The files of the page, with strict headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file."""
        response = await super().get_response(path, scope)
        response.headers.update(PAGE_HEADERS)
        return response


def create_app() -> FastAPI:
    """Make the application of one process."""
    app = FastAPI(title="Chat with a Bailian app", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process lives. Not the database: to restart workers does not repair it."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(service: TheService) -> dict[str, str]:
        """Whether it can serve: the database answers."""
        try:
            await service.storage.check()
        except Exception as error:
            raise HTTPException(503, "the database does not answer") from error
        return {"status": "ok"}

    @app.post("/api/threads", status_code=201)
    async def new_thread() -> dict[str, str]:
        return {"thread_id": str(uuid4())}

    @app.get("/api/threads/{thread_id}")
    async def thread(thread_id: UUID, service: TheService) -> dict[str, Any]:
        """What was said; `unanswered` if the last message was, and nobody is answering it."""
        messages = await service.conversations.messages(str(thread_id))
        answering = await service.storage.is_answering(str(thread_id))
        return {
            "messages": [{"role": message.type, "text": message.text} for message in messages],
            "answering": answering,
            "unanswered": unanswered_in(messages) is not None and not answering,
        }

    @app.post("/api/threads/{thread_id}/messages")
    async def say(thread_id: UUID, message: Message, service: TheService) -> Response:
        """Ask the app; the answer is a stream of events, see `Conversations.turn`."""
        try:
            return await service.answer(str(thread_id), message.text)
        except ThreadBusyError:
            raise HTTPException(409, "this conversation is being answered") from None

    app.mount("/", Page(directory=Path(__file__).parent / "page", html=True))
    return app
