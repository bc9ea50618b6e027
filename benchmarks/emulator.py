"""Emulator performance: JSON requests per second, and concurrent paced streams.

The emulator runs in its own process on one core, the client on another. Every answer is read and
counted; an incomplete one ends the benchmark.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

REQUESTS = 10_000
CONNECTIONS = 50
STREAMS = 500
FRAMES = 100
GAP_MS = 50.0

SERVER = f"""
import json, tempfile, threading
from pathlib import Path
from bailian_apps.emulator import Emulator
lines = [
    json.dumps({{"offset_ms": i * {GAP_MS}, "data": {{"output": {{"text": "好" if i < {FRAMES} - 1 else "",
    "finish_reason": "null" if i < {FRAMES} - 1 else "stop"}}, "usage": {{}}, "request_id": "r"}}}})
    for i in range({FRAMES})
]
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "paced.jsonl")
    path.write_text("\\n".join(lines))
    hello = Path(folder, "hello.json")
    hello.write_text(json.dumps({{"output": {{"text": "你好", "finish_reason": "stop"}}}}))
    paced, at_once = Emulator(apps={{"app": path}}, pace=1), Emulator(apps={{"app": hello}})
    with paced, at_once:
        print(at_once.base_url, paced.base_url, flush=True)
        input()
"""


def request(url: str, *, stream: bool) -> tuple[str, int, bytes]:
    """Return the host, the port and the bytes of a call."""
    host, _, port = url.split("/")[2].partition(":")
    body = b'{"input":{"prompt":"hi"},"parameters":{"incremental_output":true}}'
    lines = [
        "POST /api/v1/apps/app/completion HTTP/1.1",
        f"Host: {host}",
        "Authorization: Bearer k",
        f"Content-Length: {len(body)}",
        *(["X-DashScope-SSE: enable"] if stream else []),
    ]
    return host, int(port), "\r\n".join([*lines, "", ""]).encode() + body


class Asker(asyncio.Protocol):
    """Sends sequential requests on one connection, at a fraction of the server's cost."""

    def __init__(self, content: bytes, count: int) -> None:  # noqa: D107
        self._content, self._left, self._got = content, count, b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._content)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, _, body = self._got.partition(b"\r\n\r\n")
        if len(body) < int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 1):
            return
        assert head.startswith(b"HTTP/1.1 200"), head
        assert b'"stop"' in body, body
        self._got, self._left = b"", self._left - 1
        if self._left:
            self._transport.write(self._content)
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set_result(self._left)


async def ask(url: str, count: int) -> None:
    """Send `count` requests on one connection."""
    host, port, content = request(url, stream=False)
    loop = asyncio.get_running_loop()
    _, asker = await loop.create_connection(lambda: Asker(content, count), host, port)
    assert await asker.done == 0


async def listen(url: str) -> None:
    """Read one stream to its end."""
    host, port, content = request(url, stream=True)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(content)
    whole = await reader.readuntil(b"\r\n0\r\n\r\n")
    assert whole.count(b"event:result") == FRAMES
    writer.close()


async def measure(json_url: str, paced_url: str, pid: int) -> None:
    """Print the table."""
    print("| | wall s | server CPU s | |\n|---|---:|---:|---:|")
    calls = [ask(json_url, REQUESTS // CONNECTIONS) for _ in range(CONNECTIONS)]
    wall, cpu = await timed(calls, pid)
    print(
        f"| {REQUESTS:,} JSON answers, {CONNECTIONS} connections | {wall:.2f} | {cpu:.2f} | {REQUESTS / wall:,.0f}/s |"
    )
    wall, cpu = await timed([listen(paced_url) for _ in range(STREAMS)], pid)
    ideal = (FRAMES - 1) * GAP_MS / 1000
    print(
        f"| {STREAMS} concurrent streams × {FRAMES} frames, one every {GAP_MS:g} ms | {wall:.2f} | {cpu:.2f} | ideal {ideal:.2f} s |"
    )


async def timed(work: list, pid: int) -> tuple[float, float]:
    """Return the wall seconds for all work, and the server's CPU seconds."""
    started, used = time.perf_counter(), cpu_s(pid)
    await asyncio.gather(*work)
    return time.perf_counter() - started, cpu_s(pid) - used


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has used; Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Start the server on the first core, and measure from the last."""
    cores = sorted(os.sched_getaffinity(0))
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        urls = server.stdout.readline().split()
        for thread in Path(f"/proc/{server.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores[:1])
        os.sched_setaffinity(0, cores[-1:])
        try:
            asyncio.run(measure(*urls, server.pid))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
