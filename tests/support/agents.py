"""A model that calls functions from a script, and a run of an agent of LlamaIndex's."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.mock import MockLLM
from llama_index.core.workflow import Context
from pydantic import PrivateAttr


class Scripted(MockLLM, FunctionCallingLLM):
    """A function-calling LLM with a script: rounds of tool calls, then an answer."""

    _rounds: list[list[dict[str, Any]]] = PrivateAttr(default_factory=list)
    _received: list[Any] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_function_calling_model=True, is_chat_model=True)

    @property
    def received(self) -> list[Any]:
        return self._received

    def _prepare_chat_with_tools(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}

    def _next(self, messages: Any) -> ChatResponse:
        self._received.append(messages)
        calls = self._rounds.pop(0) if self._rounds else []
        return ChatResponse(
            message=ChatMessage(role="assistant", content="" if calls else "完了"),
            raw={"calls": calls},
        )

    async def achat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponse:
        return self._next(kwargs["chat_history"])

    async def astream_chat_with_tools(self, *args: Any, **kwargs: Any) -> Any:
        async def chunks() -> Any:
            yield self._next(kwargs["chat_history"])

        return chunks()

    def get_tool_calls_from_response(self, response: Any, **kwargs: Any) -> list[ToolSelection]:
        return [
            ToolSelection(
                tool_id=f"call-{i}", tool_name=call.get("tool", "plan_trip"), tool_kwargs=args
            )
            for i, call in enumerate(response.raw["calls"])
            for args in [{key: value for key, value in call.items() if key != "tool"}]
        ]


def scripted(*rounds: list[dict[str, Any]]) -> Scripted:
    llm = Scripted()
    llm._rounds.extend(rounds)
    return llm


async def run(agent: Any, question: str, ctx: Context | None = None) -> tuple[str, list[Any]]:
    """Run an agent; return its answer and the events of its stream."""
    handler = agent.run(question, ctx=ctx)
    streamed = [event async for event in handler.stream_events()]
    return str(await handler), streamed
