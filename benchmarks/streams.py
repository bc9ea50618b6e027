"""`python benchmarks/streams.py [N]`: N streams open at once in one process.

`BailianApp.astream` beside the bare SDK in threads: errors, CPU, memory, and when the first frame
came, from the start of all. The server is a process of its own, and sends the 40 frames of a stream
250 ms apart, as a model writes them, so that all streams are open together. Compare the rows; the
numbers are those of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import run

FRAMES = 40
SIDES = ("threads + bare SDK", "BailianApp.stream, in threads", "BailianApp.astream")


class Took:
    """What the streams of one side took."""

    def __init__(self) -> None:
        """Start the clocks."""
        self.cpu, self.start = time.process_time(), time.perf_counter()
        self.firsts: list[float] = []
        self.frames = self.errors = self.open = self.most = 0
        self.lock = threading.Lock()

    def first(self) -> None:
        """Record a first frame."""
        with self.lock:
            self.firsts.append(time.perf_counter() - self.start)
            self.open += 1
            self.most = max(self.most, self.open)

    def end(self, frames: int, error: BaseException | None = None) -> None:
        """Record the end of a stream."""
        with self.lock:
            self.frames += frames
            self.errors += error is not None
            self.open -= 1

    def figures(self, rss_mb: float) -> dict[str, float]:
        """The figures of the side."""
        firsts = sorted(self.firsts)
        return {
            "errors": self.errors,
            "open at once": self.most,
            "CPU s": time.process_time() - self.cpu,
            "wall s": time.perf_counter() - self.start,
            "RSS MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - rss_mb,
            "first p50 ms": firsts[len(firsts) // 2] * 1e3,
            "first p99 ms": firsts[len(firsts) * 99 // 100] * 1e3,
        }


def sdk_stream(app_id: str, base_url: str) -> Any:
    """A stream of the bare SDK."""
    from dashscope import Application

    return iter(
        Application.call(
            app_id=app_id, prompt="x", api_key="k", stream=True, incremental_output=True,
            has_thoughts=True, base_address=base_url,
        )
    )  # fmt: skip


def one_side(side: str, port: int, streams: int) -> dict[str, float]:
    """Open the streams of one side, read them to their ends, and return the figures."""
    from bailian_apps import BailianApp, Timeout

    base_url, app_id = f"http://127.0.0.1:{port}/api/v1", f"slow-small-{FRAMES}"
    timeout = Timeout(connect_s=300)  # on a busy machine, threads wait for their turn to connect
    app = BailianApp(app_id=app_id, api_key="k", base_url=base_url, max_retries=0, timeout=timeout)
    if side == SIDES[2]:
        return asyncio.run(_in_tasks(app, streams))

    def read(took: Took) -> None:
        count, failed = 0, None
        try:
            events = sdk_stream(app_id, base_url) if side == SIDES[0] else app.stream("x")
            for _ in events:
                if not count:
                    took.first()
                count += 1
        except Exception as error:
            failed = error
        took.end(count, failed)

    read(Took())
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    threading.stack_size(512 * 1024)
    took = Took()
    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(read, [took] * streams))
    return took.figures(rss_mb)


async def _in_tasks(app: Any, streams: int) -> dict[str, float]:
    async def read(took: Took) -> None:
        count, failed = 0, None
        try:
            async for _ in app.astream("x"):
                if not count:
                    took.first()
                count += 1
        except Exception as error:
            failed = error
        took.end(count, failed)

    await read(Took())
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    took = Took()
    await asyncio.gather(*(read(took) for _ in range(streams)))
    return took.figures(rss_mb)


def main() -> None:
    """Measure each side in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("streams", nargs="?", type=int, default=2000)
    parser.add_argument("--side", nargs=2)
    arguments = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    if arguments.side:
        side, port = arguments.side
        sys.stdout.write(json.dumps(one_side(side, int(port), arguments.streams)))
        return
    with run.serving() as port:
        for number, side in enumerate(SIDES):
            command = [sys.executable, __file__, str(arguments.streams), "--side", side, str(port)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures = json.loads(done.stdout)
            if not number:
                print(f"| {arguments.streams} streams | {' | '.join(figures)} |")
                print("|---|" + "---:|" * len(figures))
            cells = (f"{value:,.{1 if value < 100 else 0}f}" for value in figures.values())
            print(f"| {side} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
