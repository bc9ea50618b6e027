"""The cost of a chunk, compared with LlamaIndex's minimum: CPU µs per chunk, without a network.

The minimum is an `LLM` that builds a `ChatResponse` per chunk under LlamaIndex's own decorators.
`BailianAppLLM` reads as many text events from a replacement of `Run.stream`, so only the adapter is
measured: conversion, spans, decorators. `SimpleChatEngine` is the minimum of the chat engine.

    python llamaindex_chunks.py
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import LLM
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index.core.memory import ChatMemoryBuffer

from bailian_apps import AppResult, RunFinished, TextDelta
from bailian_apps.llamaindex import BailianAppChatEngine, BailianAppLLM
from bailian_apps.run import Run

CHUNKS, REPETITIONS = 2000, 15
HELLO = [ChatMessage(content="你好")]


class Floor(LLM):
    """The least that an LLM does: build a response per chunk, under LlamaIndex's decorators."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    @llm_chat_callback()
    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        def chunks() -> Any:
            text = ""
            for _ in range(CHUNKS):
                text += "西湖"
                message = ChatMessage(role="assistant", content=text)
                yield ChatResponse(message=message, delta="西湖")

        return chunks()

    @llm_chat_callback()
    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        async def chunks() -> Any:
            text = ""
            for _ in range(CHUNKS):
                text += "西湖"
                message = ChatMessage(role="assistant", content=text)
                yield ChatResponse(message=message, delta="西湖")

        return chunks()


Floor.__abstractmethods__ = frozenset()  # the methods that are not measured


def stream(*args: Any, **kwargs: Any) -> Any:
    for _ in range(CHUNKS):
        yield TextDelta("西湖")
    yield RunFinished(AppResult(text="西湖" * CHUNKS, session_id="s", finish_reason="stop"))


async def astream(*args: Any, **kwargs: Any) -> Any:
    for event in stream():
        yield event


def read(llm: LLM) -> None:
    for _ in llm.stream_chat(HELLO):
        pass


def aread(llm: LLM) -> None:
    async def go() -> None:
        async for _ in await llm.astream_chat(HELLO):
            pass

    asyncio.run(go())


def chat(engine: Any) -> None:
    for _ in engine.stream_chat("你好").response_gen:
        pass


def achat(engine: Any) -> None:
    async def go() -> None:
        response = await engine.astream_chat("你好")
        async for _ in response.async_response_gen():
            pass

    asyncio.run(go())


def memory() -> Any:
    return ChatMemoryBuffer.from_defaults(token_limit=10**9, tokenizer_fn=str.split)


def least_us(call: Callable[[], None]) -> float:
    call()
    least = float("inf")
    for _ in range(REPETITIONS):
        gc.collect()
        before = time.process_time()
        call()
        least = min(least, time.process_time() - before)
    return least / CHUNKS * 1e6


def main() -> None:
    floor, ours = Floor(), BailianAppLLM(app_id="app", api_key="k")
    with patch.object(Run, "stream", stream), patch.object(Run, "astream", astream):
        rows = {
            "LLM.stream_chat": (lambda: read(floor), lambda: read(ours)),
            "LLM.astream_chat": (lambda: aread(floor), lambda: aread(ours)),
            "chat engine, stream_chat": (
                lambda: chat(SimpleChatEngine.from_defaults(llm=floor, memory=memory())),
                lambda: chat(BailianAppChatEngine(llm=ours, memory=memory())),
            ),
            "chat engine, astream_chat": (
                lambda: achat(SimpleChatEngine.from_defaults(llm=floor, memory=memory())),
                lambda: achat(BailianAppChatEngine(llm=ours, memory=memory())),
            ),
        }
        print("| path | LlamaIndex, µs | Bailian, µs | difference |\n|---|---:|---:|---:|")
        for name, (theirs, mine) in rows.items():
            a, b = least_us(theirs), least_us(mine)
            print(f"| {name} | {a:.1f} | {b:.1f} | {b - a:+.1f} |")


main()
