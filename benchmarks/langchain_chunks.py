"""The CPU that ChatBailianApp adds per chunk to LangChain's own, without handlers or a network.

The minimum is a BaseChatModel whose `_stream` yields ready chunks. `ChatBailianApp` reads as many
events from a replacement of `Run.stream`, so only the adapter is measured.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from bailian_apps.core.events import RunFinished, RunStarted, TextDelta
from bailian_apps.core.result import AppResult
from bailian_apps.langchain import BailianAppRunnable, ChatBailianApp
from bailian_apps.run import Run

CHUNKS, ROUNDS = 2000, 15
EVENTS = [
    RunStarted("s", "r"),
    *[TextDelta("word") for _ in range(CHUNKS)],
    RunFinished(AppResult(text="word" * CHUNKS, session_id="s", finish_reason="stop")),
]


class Floor(BaseChatModel):
    """The least that a chat model does: yield ready chunks."""

    @property
    def _llm_type(self) -> str:
        return "floor"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    def _stream(self, *_: Any, **__: Any) -> Any:
        for _ in range(CHUNKS):
            yield ChatGenerationChunk(message=AIMessageChunk(content="word"))

    async def _astream(self, *_: Any, **__: Any) -> Any:
        for _ in range(CHUNKS):
            yield ChatGenerationChunk(message=AIMessageChunk(content="word"))


def ready_stream(*_: Any, **__: Any) -> Generator[Any]:
    """Stands in for `Run.stream`."""
    yield from EVENTS


async def ready_astream(*_: Any, **__: Any) -> AsyncGenerator[Any]:
    """Stands in for `Run.astream`."""
    for event in EVENTS:
        yield event


def best(*runs: Any) -> list[float]:
    """CPU per chunk of each run in µs: the minimum of several rounds, in which they take turns."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, taken in zip(runs, times, strict=True):
            gc.collect()
            begin = time.process_time()
            run()
            taken.append(time.process_time() - begin)
    return [min(taken) / CHUNKS * 1e6 for taken in times]


def sync(model: Any) -> Any:
    def run() -> None:
        for _ in model.stream("hi"):
            pass

    return run


def async_(model: Any) -> Any:
    async def run() -> None:
        async for _ in model.astream("hi"):
            pass

    return lambda: asyncio.run(run())


def main() -> None:
    """Print the table."""
    Run.stream = ready_stream  # type: ignore[assignment]
    Run.astream = ready_astream  # type: ignore[assignment]
    model = ChatBailianApp(app_id="a", api_key="k")
    runnable = BailianAppRunnable(app_id="a", api_key="k")
    gc.disable()
    sys.stdout.write("| path | LangChain's own, µs | ours, µs | over |\n|---|---:|---:|---:|\n")
    for name, kind in (("stream", sync), ("astream", async_)):
        floor, ours, results = best(kind(Floor()), kind(model), kind(runnable))
        for path, cost in (("ChatBailianApp", ours), ("BailianAppRunnable", results)):
            over = cost - floor
            sys.stdout.write(f"| {path}.{name} | {floor:.1f} | {cost:.1f} | {over:+.1f} |\n")


main()
