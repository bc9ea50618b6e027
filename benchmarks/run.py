"""`make bench`: what a frame, a stream and an import cost, beside the bare SDK, in one run.

Ratios in one run are what counts; the microseconds are this machine's. The server is a process of
its own. CPU is the client process's (`time.process_time`), the least of several repetitions.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import server

Call: TypeAlias = Callable[[str], None]
REPETITIONS = 5
KINDS = {"small": 2000, "nodes20": 200, "nodes200": 200, "documents": 60, "large": 20}
"""Kinds of frame, and how many of them a stream has."""


@contextmanager
def serving() -> Generator[int]:
    """A server in a process of its own; yields its port."""
    command = [sys.executable, str(Path(__file__).with_name("server.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def clients(port: int) -> dict[str, Call]:
    """What is compared, by name. Each reads one whole stream of an app."""
    from dashscope import Application
    from langchain_core.messages import HumanMessage
    from llama_index.core.llms import ChatMessage

    from bailian_apps import BailianApp
    from bailian_apps.langchain import ChatBailianApp
    from bailian_apps.llamaindex import BailianAppLLM

    base = f"http://127.0.0.1:{port}/api/v1"
    settings = {"api_key": "k", "base_url": base, "max_retries": 0}
    loop = asyncio.new_event_loop()

    def http_client(app_id: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", f"/api/v1/apps/{app_id}/completion", body=b"{}")
        response, tail = connection.getresponse(), b""
        while data := response.read1(65536):
            *lines, tail = (tail + data).split(b"\n") if b"\n" in data else (tail + data,)
            for line in lines:
                if line.startswith(b"data:"):
                    json.loads(line[5:])
        connection.close()

    def bare_sdk(app_id: str) -> None:
        for _ in Application.call(
            app_id=app_id,
            prompt="x",
            api_key="k",
            stream=True,
            incremental_output=True,
            has_thoughts=True,
            base_address=base,
        ):
            pass

    def core(app_id: str) -> None:
        for _ in BailianApp(app_id=app_id, **settings).stream("x"):
            pass

    def core_async(app_id: str) -> None:
        async def read() -> None:
            async for _ in BailianApp(app_id=app_id, **settings).astream("x"):
                pass

        loop.run_until_complete(read())

    def langchain(app_id: str) -> None:
        for _ in ChatBailianApp(app_id=app_id, **settings).stream([HumanMessage("x")]):
            pass

    def langchain_async(app_id: str) -> None:
        async def read() -> None:
            async for _ in ChatBailianApp(app_id=app_id, **settings).astream([HumanMessage("x")]):
                pass

        loop.run_until_complete(read())

    def llamaindex(app_id: str) -> None:
        for _ in BailianAppLLM(app_id=app_id, **settings).stream_chat([ChatMessage("x")]):
            pass

    def llamaindex_async(app_id: str) -> None:
        async def read() -> None:
            llm = BailianAppLLM(app_id=app_id, **settings)
            async for _ in await llm.astream_chat([ChatMessage("x")]):
                pass

        loop.run_until_complete(read())

    return {
        "http.client + json": http_client,
        "bare SDK": bare_sdk,
        "BailianApp.stream": core,
        "BailianApp.astream": core_async,
        "ChatBailianApp.stream": langchain,
        "ChatBailianApp.astream": langchain_async,
        "BailianAppLLM.stream_chat": llamaindex,
        "BailianAppLLM.astream_chat": llamaindex_async,
    }


def least_cpu_us(call: Call, app_id: str, frames: int) -> float:
    """The least CPU per frame, in µs."""
    call(app_id)
    least = float("inf")
    for _ in range(REPETITIONS):
        before = time.process_time()
        call(app_id)
        least = min(least, time.process_time() - before)
    return least / frames * 1e6


def frame_costs(port: int) -> None:
    """CPU per frame, by size of frame."""
    compared = clients(port)
    for kind, frames in KINDS.items():
        app_id = f"{kind}-{frames}"
        size = sum(map(len, server.body(kind, frames)[1])) / frames
        costs = {name: least_cpu_us(call, app_id, frames) for name, call in compared.items()}
        say(f"\n### {kind}: {size:,.0f} B a frame, {frames} frames\n")
        say("| client | µs a frame | of the bare SDK | of http.client |\n|---|---:|---:|---:|")
        for name, cost in costs.items():
            of_sdk, of_http = cost / costs["bare SDK"], cost / costs["http.client + json"]
            say(f"| {name} | {cost:,.1f} | {of_sdk:.3f} | {of_http:.2f} |")


def growth(port: int) -> None:
    """Whether cost grows with bytes only."""
    core = clients(port)["BailianApp.stream"]
    say("\n| workflow | bytes | ns a byte |\n|---|---:|---:|")
    per_byte: list[float] = []
    for nodes, frames in ((20, 200), (100, 1000)):
        app_id = f"nodes{nodes}-{frames}"
        total = sum(map(len, server.body(f"nodes{nodes}", frames)[1]))
        per_byte.append(least_cpu_us(core, app_id, frames) * frames * 1000 / total)
        say(f"| {nodes} nodes × {frames} frames | {total:,} | {per_byte[-1]:.2f} |")
    say(f"\nThe larger costs {per_byte[1] / per_byte[0]:.2f} times as much per byte.")


def concurrency(port: int, streams: int = 500, frames: int = 200) -> None:
    """Many streams at once, each side in a process of its own, on one core."""
    say("\n| 500 streams × 200 frames, one core | CPU s | wall s | first frame p50 ms |")
    say("|---|---:|---:|---:|")
    rows: dict[str, dict[str, float]] = {}
    for side in ("threads + bare SDK", "BailianApp.astream"):
        done = subprocess.run(
            [sys.executable, __file__, "--side", side, str(port), str(streams), str(frames)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        row = rows[side] = json.loads(done.stdout)
        cells = (f"{row[key]:,.2f}" for key in ("cpu_s", "wall_s", "first_ms"))
        say(f"| {side} | {' | '.join(cells)} |")
    ours, theirs = rows["BailianApp.astream"], rows["threads + bare SDK"]
    say(
        f"\nCPU {ours['cpu_s'] / theirs['cpu_s']:.2f}, wall {ours['wall_s'] / theirs['wall_s']:.2f}."
    )


def one_side(side: str, port: int, streams: int, frames: int) -> None:
    """Run one side of `concurrency` and print what it took."""
    os.sched_setaffinity(0, {0})
    base, app_id = f"http://127.0.0.1:{port}/api/v1", f"small-{frames}"
    firsts: list[float] = []
    start = cpu = 0.0
    if side == "BailianApp.astream":
        from bailian_apps import BailianApp

        app = BailianApp(app_id=app_id, api_key="k", base_url=base, max_retries=0)

        async def read() -> None:
            events = app.astream("x")
            await anext(events)
            firsts.append(time.perf_counter() - start)
            async for _ in events:
                pass

        async def all_of_them() -> None:
            nonlocal start, cpu
            await app.ainvoke("x")
            cpu, start = time.process_time(), time.perf_counter()
            await asyncio.gather(*(read() for _ in range(streams)))

        asyncio.run(all_of_them())
    else:
        from dashscope import Application

        def call() -> Any:
            return iter(
                Application.call(
                    app_id=app_id, prompt="x", api_key="k", stream=True,
                    incremental_output=True, has_thoughts=True, base_address=base,
                )
            )  # fmt: skip

        def read_sync(_: int) -> None:
            frames_of_one = call()
            next(frames_of_one)
            firsts.append(time.perf_counter() - start)
            for _ in frames_of_one:
                pass

        list(call())
        threading.stack_size(512 * 1024)
        cpu, start = time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(read_sync, range(streams)))
    took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - start}
    took["first_ms"] = sorted(firsts)[len(firsts) // 2] * 1e3
    sys.stdout.write(json.dumps(took))


def first_frame(port: int, calls: int = 300) -> None:
    """How long the first frame takes on a connection that is already open."""
    compared = clients(port)
    say("\n| first frame of a warm connection | median ms |\n|---|---:|")
    for name in ("http.client + json", "bare SDK", "BailianApp.stream", "BailianApp.astream"):
        times: list[float] = []
        for _ in range(calls):
            before = time.perf_counter()
            compared[name]("small-1")
            times.append(time.perf_counter() - before)
        say(f"| {name} | {sorted(times)[calls // 2] * 1e3:.3f} |")


def imports() -> None:
    """What an import takes, in fresh processes."""
    say("\n| import | s, least of 5 |\n|---|---:|")
    for code in ("pass", "import bailian_apps", "import dashscope"):
        times: list[float] = []
        for _ in range(5):
            before = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - before)
        say(f"| `{code}` | {min(times):.3f} |")


def say(line: str) -> None:
    """Print a line of the report."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run what was asked for, or all of it."""
    parts: dict[str, Callable[..., None]] = {
        "frames": frame_costs,
        "growth": growth,
        "concurrency": concurrency,
        "first": first_frame,
    }
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", help=f"some of: imports {' '.join(parts)}")
    parser.add_argument("--side", nargs=4)
    given = parser.parse_args()
    if given.side:
        side, port, streams, frames = given.side
        one_side(side, int(port), int(streams), int(frames))
        return
    packages = ("dashscope", "langchain-core", "llama-index-core", "aiohttp", "requests")
    say(f"Python {platform.python_version()}, {os.cpu_count()} cores; ")
    say(", ".join(f"{package} {version(package)}" for package in packages))
    wanted = given.parts or ["imports", *parts]
    if "imports" in wanted:
        imports()
    with serving() as port:
        for name, part in parts.items():
            if name in wanted:
                part(port)


if __name__ == "__main__":
    main()
