"""The answer of a tool or a Runnable as it streams, for handlers that show tokens.

LangGraph's `messages` stream mode and `astream_events` show what models say. To their handlers the
app is therefore a chat model below the run of the tool or Runnable: its run has the answer's
chunks, the same as `ChatBailianApp` streams, and the tokens that the whole app used. All other
handlers have the runs of the models that the app called instead (see
`bailian_apps.langchain.step_runs`), so that each counts every token once.
"""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import LC_ID_PREFIX, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from bailian_apps.core.events import AppEvent
from bailian_apps.core.history import Plan
from bailian_apps.langchain.blocks import PROVIDER
from bailian_apps.langchain.message_chunks import MessageChunkBuilder, as_generation
from bailian_apps.langchain.protocol_events import ProtocolEventBuilder
from bailian_apps.langchain.step_runs import (
    AnyRunManager,
    ManagerCalls,
    child_manager,
    listens,
)


class AnswerRun:
    """The model's run of one answer. It ends exactly once, before the run of the call."""

    def __init__(
        self,
        manager: AnyRunManager,
        handlers: list[BaseCallbackHandler],
        plan: Plan,
        prompt: str,
    ) -> None:
        """Stream the answer to `plan` to those `handlers` of the call's run that show tokens."""
        self._handlers = handlers
        self._manager = manager
        self._plan = plan
        self._prompt = prompt
        self._run: Any = None
        self._builder: MessageChunkBuilder
        self._chunks: list[AIMessageChunk] = []
        self._protocol: ProtocolEventBuilder | None = None

    def report(self, event: AppEvent) -> ManagerCalls:
        """Report an event of the run."""
        if self._run is None:
            yield from self._start()
        run: Any = self._run
        chunk = self._builder.feed(event)
        if chunk is not None:
            self._chunks.append(chunk)
            yield run.on_llm_new_token(chunk.content, chunk=as_generation(chunk))
        if self._protocol is not None:
            for each in self._protocol.feed(event) or ():
                yield run.on_stream_event(each)
        if self._builder.done:
            message = self._builder.final_message(self._chunks)
            yield run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))

    def close(self, error: BaseException) -> ManagerCalls:
        """End the run with an error, unless it has ended."""
        if self._run is not None and not self._builder.done:
            yield self._run.on_llm_error(error, response=LLMResult(generations=[]))

    def _start(self) -> ManagerCalls:
        name = self._plan.app_id
        model = {"ls_provider": PROVIDER, "ls_model_name": name, "ls_model_type": "chat"}
        manager = child_manager(
            self._manager,
            self._manager.run_id,
            handlers=self._handlers,
            # Also the tags of the tool itself, such as LangGraph's "nostream".
            tags=self._manager.tags,
            metadata=self._manager.metadata | model,
        )
        [run] = yield manager.on_chat_model_start(
            {"name": name}, [[HumanMessage(self._prompt)]], name=name
        )
        message_id = f"{LC_ID_PREFIX}-{run.run_id}"
        self._builder = MessageChunkBuilder(self._plan, message_id=message_id)
        if any(listens(handler, "on_stream_event") for handler in self._handlers):
            self._protocol = ProtocolEventBuilder(self._plan, message_id=message_id)
        self._run = run
