"""`make bench`: what a frame, a stream and an import cost, beside the bare SDK, in one run.

Compare the ratios within one run; the microseconds are those of this machine. The server is a
separate process. CPU is that of the client process (`time.process_time`), the minimum of several
repetitions, in which the clients take turns.

`--write PAGE` also writes the output of each part between that part's two markers in a page; it may
be given for several pages. In one under docs/zh the words are Chinese.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import http.client
import json
import os
import platform
import pstats
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import pages
import server

Call: TypeAlias = Callable[[str], None]
REPETITIONS = 20
ENOUGH_S = 10.0
"""CPU seconds after which a client is not repeated again; but it runs three times at least."""

FRAMES = {"small": 2000, "nodes20": 200, "nodes200": 200, "documents": 200, "large": 20}
"""Kinds of frame, and how many of them a stream has that is sent at once."""

PACED = {"small": 400, "nodes20": 200, "nodes200": 200}
"""The same, for a stream whose frames come one by one. Larger ones take several reads anyway."""

LIVE = {"small": 2000, "nodes200": 200, "documents": 50, "large": 10}
"""The same, for a stream whose frames the server makes as it sends them."""


@contextmanager
def serving() -> Generator[int]:
    """Start a server in a separate process; yields its port."""
    with server_process() as (_, port):
        yield port


@contextmanager
def server_process() -> Generator[tuple[Any, int]]:
    """As `serving`; yields also the server's output."""
    command = [sys.executable, str(Path(__file__).with_name("server.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout, int(process.stdout.readline())
        finally:
            process.kill()


def clients(port: int) -> dict[str, Call]:
    """The clients that are compared, by name. Each reads one whole stream of an app."""
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


def least_cpu_us(calls: dict[str, Call], app_id: str, frames: int) -> dict[str, float]:
    """The minimum CPU per frame in µs. Clients take turns, so a busy machine slows them all."""
    for call in calls.values():
        call(app_id)  # the first one imports and connects
    took: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(REPETITIONS):
        for name, call in calls.items():
            if repetition < 3 or sum(took[name]) < ENOUGH_S:
                before = time.process_time()
                call(app_id)
                took[name].append(time.process_time() - before)
    return {name: min(cpu_s) / frames * 1e6 for name, cpu_s in took.items()}


def at_once(port: int) -> None:
    """CPU per frame, by size of frame, of frames sent at once."""
    frame_costs(port, FRAMES)


def one_by_one(port: int) -> None:
    """The same, of frames 2 ms apart."""
    frame_costs(port, PACED, "paced-")


def made_live(port: int) -> None:
    """The same, of frames that the server makes as it sends them, on the same cores."""
    frame_costs(port, LIVE, "live-")


def frame_costs(port: int, kinds: dict[str, int], prefix: str = "") -> None:
    """CPU per frame of each client."""
    compared = clients(port)
    for kind, frames in kinds.items():
        size = sum(map(len, server.body(kind, frames)[1])) / frames
        app_id = f"{prefix}{kind}-{frames}"
        costs = least_cpu_us(compared, app_id, frames)
        emit(f"\n### {kind}: {size:,.0f} B a frame, {frames} frames\n")
        emit("| client | µs a frame | of the bare SDK | of http.client |\n|---|---:|---:|---:|")
        for name, cost in costs.items():
            of_sdk, of_http = cost / costs["bare SDK"], cost / costs["http.client + json"]
            emit(f"| {name} | {cost:,.1f} | {of_sdk:.3f} | {of_http:.2f} |")


PACKAGES = {
    "dashscope": "dashscope",
    "bailian_apps/core/": "bailian_apps.core",
    "bailian_apps/transport/": "bailian_apps.transport",
    "bailian_apps/langchain/": "bailian_apps.langchain",
    "bailian_apps/llamaindex/": "bailian_apps.llamaindex",
    "bailian_apps/": "bailian_apps: run, client and concurrency",
    "json/": "json",
    "pydantic": "pydantic",
    "urllib3": "urllib3 and http.client",
    "http/client": "urllib3 and http.client",
    "langchain": "langchain-core",
    "llama_index": "llama-index-core",
}
"""The rows of the profile: parts of a file's path, and the package that they belong to. The first
that matches counts."""


def profile(port: int) -> None:
    """Where the time goes, by cProfile: the share of each package in what is not waiting."""
    compared = clients(port)
    emit("\n| call | package | % |\n|---|---|---:|")
    for name, app_id in (
        ("BailianApp.stream", "small-2000"),
        ("BailianApp.stream", "paced-small-400"),
        ("ChatBailianApp.stream", "paced-small-400"),
        ("BailianAppLLM.stream_chat", "nodes200-200"),
    ):
        compared[name](app_id)
        profiler = cProfile.Profile()
        profiler.runcall(compared[name], app_id)
        spent: Counter[str] = Counter()
        stats: dict[Any, Any] = vars(pstats.Stats(profiler))["stats"]
        for (file, _, function), (_, _, own_s, _, callers) in stats.items():
            if "recv_into" in function:
                continue
            # A built-in function counts for its caller.
            shares = [(k[0], v[2]) for k, v in callers.items()] if file == "~" else [(file, own_s)]
            for path, seconds in shares:
                within = path.rpartition("site-packages/")[2]
                package = next((row for part, row in PACKAGES.items() if part in within), "other")
                spent[package] += seconds
        for package, seconds in spent.most_common():
            share = seconds / sum(spent.values())
            if share >= 0.01:
                emit(f"| {name} of {app_id} | {package} | {share:.0%} |")


def growth(port: int) -> None:
    """Whether cost grows with bytes only."""
    name = "BailianApp.stream"
    core = {name: clients(port)[name]}
    emit("\n| workflow | bytes | ns a byte |\n|---|---:|---:|")
    per_byte: list[float] = []
    for nodes, frames in ((20, 200), (100, 1000)):
        app_id = f"nodes{nodes}-{frames}"
        total = sum(map(len, server.body(f"nodes{nodes}", frames)[1]))
        per_byte.append(least_cpu_us(core, app_id, frames)[name] * frames * 1000 / total)
        emit(f"| {nodes} nodes × {frames} frames | {total:,} | {per_byte[-1]:.2f} |")
    emit(f"\nThe larger costs {per_byte[1] / per_byte[0]:.2f} times as much per byte.")


def concurrency(port: int, streams: int = 500, frames: int = 200) -> None:
    """Many streams at once, each side in a process of its own, on one core; the best of three."""
    emit("\n| 500 streams × 200 frames, one core | CPU s | wall s | first frame p50 ms |")
    emit("|---|---:|---:|---:|")
    rows: dict[str, dict[str, float]] = {}
    for side in ("threads + bare SDK", "BailianApp.astream") * 3:
        done = subprocess.run(
            [sys.executable, __file__, "--side", side, str(port), str(streams), str(frames)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        row = json.loads(done.stdout)
        rows[side] = min(rows.get(side, row), row, key=lambda each: each["wall_s"])
    for side, row in rows.items():
        cells = (f"{row[key]:,.2f}" for key in ("cpu_s", "wall_s", "first_ms"))
        emit(f"| {side} | {' | '.join(cells)} |")
    ours, theirs = rows["BailianApp.astream"], rows["threads + bare SDK"]
    emit(
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


def memory(port: int, streams: int = 500) -> None:
    """How much memory an open stream takes: the client process's RSS, before and after."""
    emit(f"\n| {streams} open streams | RSS a stream, KB |\n|---|---:|")
    for side in ("threads + bare SDK", "BailianApp.stream, in threads", "BailianApp.astream"):
        done = subprocess.run(
            [sys.executable, __file__, "--hold", side, str(port), str(streams)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        emit(f"| {side} | {float(done.stdout):.0f} |")


def hold(side: str, port: int, streams: int) -> None:
    """Open streams and print how much memory each took, in KB."""
    from dashscope import Application

    from bailian_apps import BailianApp

    base, app_id = f"http://127.0.0.1:{port}/api/v1", "held-small-2"
    app = BailianApp(app_id=app_id, api_key="k", base_url=base, max_retries=0)
    held: list[Any] = []
    if side == "BailianApp.astream":

        async def open_all() -> float:
            async def open_one() -> None:
                held.append(app.astream("x"))
                await anext(held[-1])

            await open_one()
            before = resident_kb()
            await asyncio.gather(*(open_one() for _ in range(streams)))
            return resident_kb() - before

        took = asyncio.run(open_all())
    else:

        def open_sync() -> Any:
            if side == "BailianApp.stream, in threads":
                return app.stream("x")
            return iter(
                Application.call(
                    app_id=app_id, prompt="x", api_key="k", stream=True,
                    incremental_output=True, has_thoughts=True, base_address=base,
                )
            )  # fmt: skip

        opened, enough = threading.Semaphore(0), threading.Event()

        def open_one_sync() -> None:
            events = open_sync()
            next(events)
            opened.release()
            enough.wait()

        def open_threads(count: int) -> None:
            for _ in range(count):
                threading.Thread(target=open_one_sync, daemon=True).start()
            for _ in range(count):
                opened.acquire()

        open_threads(1)
        before = resident_kb()
        open_threads(streams)
        took = resident_kb() - before
    sys.stdout.write(str(took / streams))
    sys.stdout.flush()
    os._exit(0)


def resident_kb() -> float:
    """How much memory this process has in RAM."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1024


def first_frame(port: int, calls: int = 300) -> None:
    """How long the first frame takes on a connection that is already open."""
    compared = clients(port)
    emit("\n| first frame of a warm connection | median ms |\n|---|---:|")
    names = ("http.client + json", "bare SDK", "BailianApp.stream", "BailianApp.astream")
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(calls):
        for name, taken in times.items():
            before = time.perf_counter()
            compared[name]("small-1")
            taken.append(time.perf_counter() - before)
    for name, taken in times.items():
        emit(f"| {name} | {sorted(taken)[calls // 2] * 1e3:.3f} |")


def imports(_port: int, runs: int = 20) -> None:
    """What an import takes, in fresh processes."""
    emit(f"\n| import | ms, median of {runs} | least |\n|---|---:|---:|")
    times: dict[str, list[float]] = {
        "from pydantic import BaseModel; type('M', (BaseModel,), {})": [],
        "import bailian_apps": [],
        "from bailian_apps import BailianApp": [],
        "import dashscope": [],
    }
    for _ in range(runs):
        for statement, taken in times.items():
            code = (
                f"import time; a = time.perf_counter(); {statement}; print(time.perf_counter() - a)"
            )
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            taken.append(float(done.stdout))
    for statement, taken in times.items():
        emit(f"| `{statement}` | {sorted(taken)[runs // 2] * 1e3:.0f} | {min(taken) * 1e3:.0f} |")


def closing(_port: int, runs: int = 100) -> None:
    """How long after a stream was given up the server sees its connection closed."""
    from bailian_apps import BailianApp, BailianError, Timeout

    with server_process() as (printed, port):
        base = f"http://127.0.0.1:{port}/api/v1"
        app = BailianApp(app_id="watched-small-2", api_key="k", base_url=base, max_retries=0)
        limit_s = 0.01

        def close() -> float:
            events = app.stream("x")
            next(events)
            begin = time.monotonic()
            events.close()
            return begin

        def leave_to_gc() -> float:
            for _ in app.stream("x"):
                return time.monotonic()
            return 0.0

        def other_thread() -> float:
            received, events = threading.Event(), app.stream("x")

            def listen() -> None:
                try:
                    for _ in events:
                        received.set()
                except BailianError:
                    pass

            thread = threading.Thread(target=listen)
            thread.start()
            received.wait()
            begin = time.monotonic()
            events.close()
            thread.join()
            return begin

        def time_out() -> float:
            events = app.stream("x", timeout=Timeout(between_frames_s=limit_s))
            begin = 0.0
            try:
                for _ in events:
                    begin = time.monotonic() + limit_s
            except BailianError:
                pass
            return begin

        async def aclose() -> float:
            events = app.astream("x")
            await anext(events)
            begin = time.monotonic()
            await events.aclose()
            return begin

        async def cancel() -> float:
            received = asyncio.Event()

            async def listen() -> None:
                async for _ in app.astream("x"):
                    received.set()

            task = asyncio.create_task(listen())
            await received.wait()
            begin = time.monotonic()
            task.cancel()
            await asyncio.wait([task])
            return begin

        async def atime_out() -> float:
            begin = 0.0
            try:
                async for _ in app.astream("x", timeout=Timeout(between_frames_s=limit_s)):
                    begin = time.monotonic() + limit_s
            except BailianError:
                pass
            return begin

        loop = asyncio.new_event_loop()
        ways: dict[str, Callable[[], float]] = {
            "`close()`": close,
            "`break`, and the garbage collector": leave_to_gc,
            "`close()` from another thread": other_thread,
            "a timeout, from when it was due": time_out,
            "`aclose()`": lambda: loop.run_until_complete(aclose()),
            "a cancelled task": lambda: loop.run_until_complete(cancel()),
            "a timeout, async": lambda: loop.run_until_complete(atime_out()),
        }
        emit(f"\n| given up by | p50 ms of {runs} | max ms |\n|---|---:|---:|")
        for name, way in ways.items():
            took = sorted((-way() + float(printed.readline())) * 1e3 for _ in range(runs))
            emit(f"| {name} | {took[runs // 2]:.2f} | {took[-1]:.2f} |")


def chunks(_port: int) -> None:
    """The CPU that a chunk costs in addition to the framework's own."""
    for name in ("langchain_chunks.py", "llamaindex_chunks.py"):
        script = str(Path(__file__).with_name(name))
        done = subprocess.run(
            [sys.executable, script], stdout=subprocess.PIPE, text=True, check=True
        )
        emit("\n" + done.stdout.strip())


def about(_port: int) -> None:
    """The date and the versions of this run."""
    packages = ("dashscope", "langchain-core", "llama-index-core", "aiohttp", "requests")
    emit(
        f"Taken on {time.strftime('%Y-%m-%d')} with Python {platform.python_version()}, "
        f"{os.cpu_count()} cores;\n"
        + ", ".join(f"{package} {version(package)}" for package in packages)
        + "."
    )


_lines: list[str] = []


def emit(line: str) -> None:
    """Print a line of the report."""
    _lines.append(line)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the named parts, or all of them."""
    parts: dict[str, Callable[..., None]] = {
        "about": about,
        "imports": imports,
        "at-once": at_once,
        "live": made_live,
        "one-by-one": one_by_one,
        "profile": profile,
        "growth": growth,
        "concurrency": concurrency,
        "memory": memory,
        "closing": closing,
        "first": first_frame,
        "chunks": chunks,
    }
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", help=f"some of: {' '.join(parts)}")
    parser.add_argument(
        "--write",
        type=Path,
        action="append",
        default=[],
        metavar="PAGE",
        help="where to put the tables; may be repeated",
    )
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--hold", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side, port, streams, frames = given.side
        one_side(side, int(port), int(streams), int(frames))
        return
    if given.hold:
        side, port, streams = given.hold
        hold(side, int(port), int(streams))
    if unknown := set(given.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    with serving() as port:
        for name in given.parts or parts:
            parts[name](port)
            for page in given.write:
                pages.write(page, name, "\n".join(_lines).strip())
            _lines.clear()


if __name__ == "__main__":
    main()
