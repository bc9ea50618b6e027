"""Recorder overhead: time to the first frame and frames per second, with and without it.

Emulator, recorder and client run in separate processes.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import time

CALLS = 200
FRAMES = 20_000

CLOUD = f"""
from bailian_apps.emulator import Emulator
def app(call):
    count = {FRAMES} if call.prompt == "long" else 1
    delta = {{"output": {{"text": "好", "finish_reason": "null"}}, "usage": {{}}}}
    return [delta] * (count - 1) + [{{"output": {{"text": "", "finish_reason": "stop"}}}}]
with Emulator(apps={{"app": app}}) as cloud:
    print(cloud.base_url, flush=True)
    input()
"""

PROXY = """
import sys
from bailian_apps.emulator import Recorder
with Recorder(sys.argv[1], upstream=sys.argv[2]) as proxy:
    print(proxy.base_url, flush=True)
    input()
"""


def ask(url: str, prompt: str) -> tuple[float, float]:
    """Return the seconds to the first frame and to the end of a stream."""
    host, _, port = url.split("/")[2].partition(":")
    body = f'{{"input":{{"prompt":"{prompt}"}},"parameters":{{"incremental_output":true}}}}'
    head = [
        "POST /api/v1/apps/app/completion HTTP/1.1",
        f"Host: {host}",
        "Authorization: Bearer any-key",
        "X-DashScope-SSE: enable",
        f"Content-Length: {len(body)}",
    ]
    started = time.perf_counter()
    with socket.create_connection((host, int(port))) as client:
        client.sendall("\r\n".join([*head, "", body]).encode())
        tail = seen = b""
        first = 0.0
        count = 0
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            seen = client.recv(1 << 20)
            assert seen, "the stream was cut"
            joined = tail + seen
            count += joined.count(b"event:result") - tail.count(b"event:result")
            first = first or (time.perf_counter() - started if count else 0.0)
            tail = joined[-64:]
    assert count == (FRAMES if prompt == "long" else 1), count
    return first, time.perf_counter() - started


def started(script: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server; return its process and its address."""
    server = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    return server, server.stdout.readline().strip()


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        cloud, direct = started(CLOUD)
        proxy, through = started(PROXY, folder, direct)
        try:
            print("| | first frame, median ms | frames/s |\n|---|---:|---:|")
            for name, url in (("without the recorder", direct), ("with the recorder", through)):
                firsts = [ask(url, "short")[0] for _ in range(CALLS)]
                took = min(ask(url, "long")[1] for _ in range(3))
                print(f"| {name} | {statistics.median(firsts) * 1000:.2f} | {FRAMES / took:,.0f} |")
        finally:
            for server in (proxy, cloud):
                server.communicate("\n")


if __name__ == "__main__":
    main()
