"""Conversations: a LangGraph graph whose checkpoints any worker can continue."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import StreamWriter

from bailian_apps import AppFailedError, BailianError
from bailian_apps.langchain import ChatBailianApp

logger = logging.getLogger("service")

UNANSWERED = "(This answer was interrupted.)"
"""Stands in the history for an answer that never came to its end. It has no marker of a session, so
the next call sends the whole history, and does not rely on what the interrupted call left in the
cloud's session."""

Event = tuple[str, Any]
"""The name and the data of a server-sent event."""


class StepEvents(AsyncCallbackHandler):
    """Hands the app's steps to the graph's stream."""

    def __init__(self, writer: StreamWriter) -> None:
        """Write with `writer`."""
        self._writer = writer

    async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        """Write what users may see of a step: neither its input nor its output."""
        if name == "bailian_step":
            step = {key: data["step"].get(key) for key in ("id", "name", "status")}
            self._writer({"event": data["event"], **step, "text": data.get("text", "")})


class Conversations:
    """The turns of all threads; it holds none of them itself."""

    def __init__(self, model: ChatBailianApp, checkpointer: BaseCheckpointSaver[Any]) -> None:
        """Build the graph."""

        async def app(
            state: MessagesState, config: RunnableConfig, writer: StreamWriter
        ) -> dict[str, Any]:
            steps = merge_configs(config, {"callbacks": [StepEvents(writer)]})
            return {"messages": [await model.ainvoke(state["messages"], steps)]}

        builder = StateGraph(MessagesState)
        builder.add_node("app", app)
        builder.add_edge(START, "app")
        self._graph = builder.compile(checkpointer=checkpointer)

    async def messages(self, thread_id: str) -> list[BaseMessage]:
        """Return what the thread's last checkpoint has."""
        state = await self._graph.aget_state(_config(thread_id))
        return state.values.get("messages", [])

    async def turn(self, thread_id: str, text: str) -> AsyncGenerator[Event, None]:
        """Ask the app, and store both the message and the answer.

        Args:
            thread_id: The conversation; one turn of it at a time.
            text: What the user says.

        Yields:
            `unanswered` if the turn before was interrupted, `step` and `text` as they come, and at
            the end either `done`, when the answer is stored, or `error`.
        """
        try:
            if unanswered := unanswered_in(await self.messages(thread_id)):
                yield "unanswered", {"text": unanswered.text, "request_state": "unknown"}
                await self._add(thread_id, AIMessage(UNANSWERED))
            async with self._streamed(thread_id, text) as events:
                async for event in events:
                    yield event
        except BailianError as error:
            if did_not_run(error):
                await self._take_back(thread_id)
            yield "error", error_data(error)
        except Exception:
            logger.exception("a turn failed")
            data = {"type": "InternalError", "message": "The service failed.", "taken_back": False}
            yield "error", {**data, "request_state": "unknown"}
        else:
            yield "done", {}

    @asynccontextmanager
    async def _streamed(self, thread_id: str, text: str) -> AsyncIterator[AsyncIterator[Event]]:
        parts = self._graph.astream(
            {"messages": [HumanMessage(text)]},
            _config(thread_id),
            stream_mode=["messages", "custom"],
            # The message is stored before the app is asked: a worker that dies in between leaves a
            # turn that is known to be unanswered. The default, "async", stores it meanwhile.
            durability="sync",
        )

        async def events() -> AsyncIterator[Event]:
            async for mode, part in parts:
                if mode == "custom":
                    yield "step", part
                elif part[0].text:
                    yield "text", {"text": part[0].text}

        async with aclosing(parts), aclosing(events()) as read:
            yield read

    async def _add(self, thread_id: str, message: BaseMessage | RemoveMessage) -> None:
        await self._graph.aupdate_state(_config(thread_id), {"messages": [message]}, as_node="app")

    async def _take_back(self, thread_id: str) -> None:
        if message := unanswered_in(await self.messages(thread_id)):
            await self._add(thread_id, RemoveMessage(id=str(message.id)))


def unanswered_in(messages: list[BaseMessage]) -> BaseMessage | None:
    """Return the message that the app was asked, and whose answer was not stored."""
    return messages[-1] if messages and isinstance(messages[-1], HumanMessage) else None


def did_not_run(error: BailianError) -> bool:
    """Return whether the app certainly did not run, so that the turn can be as if never begun."""
    refused = error.request_state == "answered" and (error.status_code or 500) < 500
    refused = refused and not isinstance(error, AppFailedError)  # some of its codes come with 400
    return error.request_state == "not_sent" or refused or error.is_retryable


def error_data(error: BailianError) -> dict[str, Any]:
    """Return an error as the data of an event; it has no secret."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "code": error.code,
        "request_id": error.request_id,
        "request_state": error.request_state,
        "retry_after_s": error.retry_after_s,
        "taken_back": did_not_run(error),
    }


def _config(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}
