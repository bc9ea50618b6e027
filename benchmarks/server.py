"""A server that answers every POST with a prepared body, as fast as the socket takes it.

Run it as a separate process, so that its work is not counted as the client's. It prints its port.
The path chooses the body: `/api/v1/apps/{kind}-{frames}/completion`. A kind may begin with
`live-` (each frame is made when it is sent, as an app's server makes it), `paced-` (2 ms pass
between two frames, so that a client reads each alone), `slow-` (250 ms pass), `held-` (nothing
follows the first frame) or `watched-` (as `held-`, and when the client disconnects, the server
prints the time of `time.monotonic`).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import cache
from typing import Any

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream;charset=UTF-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
DELTA = "西湖醋鱼,龙井虾仁"


def _node(index: int, executing: bool) -> dict[str, str]:
    fields: dict[str, Any] = {
        "nodeName": f"大模型_{index}",
        "nodeType": "LLM",
        "nodeStatus": "executing" if executing else "success",
        "nodeId": f"LLM_{index:04d}",
    }
    fields["nodeResult"] = json.dumps({"result": DELTA if executing else ""}, ensure_ascii=False)
    if not executing:
        fields["nodeExecTime"] = "1315ms"
    return {"response": json.dumps(fields, ensure_ascii=False)}


def frame(kind: str, index: int, count: int) -> dict[str, Any]:
    """One frame of a run of `count` frames.

    Kinds: `small` (an agent's delta, about 460 B as an event), `nodesN` (a workflow of N nodes, each
    executing in turn), `documents` and `large` (an agent that relists what it retrieved).
    """
    last = index == count - 1
    output: dict[str, Any] = {
        "session_id": "1a3f45d95e654534bb01bdbf59e9b732",
        "finish_reason": "stop" if last else "null",
        "text": "" if last else DELTA,
    }
    if kind.startswith("nodes"):
        nodes = int(kind[5:])
        running = min(nodes - 1, index * nodes // count)
        output["text"] = "好" if last else None
        output["thoughts"] = [_node(n, n == running and not last) for n in range(running + 1)]
    elif kind in ("documents", "large"):
        passages = 90 if kind == "documents" else 440
        output["doc_references"] = [
            {"index_id": str(n), "doc_id": f"file_{n}", "title": "t", "text": DELTA * 56}
            for n in range(passages)
        ]
    usage = {"models": [{"input_tokens": 25, "output_tokens": index, "model_id": "qwen-max"}]}
    filler = "x" * 170 if kind == "small" else ""
    return {"output": output, "usage": usage, "request_id": "520d48fd-d7e8-9632", "filler": filler}


def event(kind: str, index: int, count: int) -> bytes:
    """One frame as an event."""
    data = json.dumps(frame(kind, index, count), ensure_ascii=False, separators=(",", ":"))
    return f"id:{index + 1}\nevent:result\n:HTTP_STATUS/200\ndata:{data}\n\n".encode()


@cache
def body(kind: str, count: int) -> tuple[bytes, list[bytes]]:
    """The whole body, and its events."""
    events = [event(kind, index, count) for index in range(count)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in events)
    return HEAD + chunks + b"0\r\n\r\n", events


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            await reader.readexactly(length)
            kind, _, count = head.split(b"/")[4].decode().rpartition("-")
            how, _, rest = kind.partition("-")
            if how == "live":
                writer.write(HEAD)
                for index in range(int(count)):
                    made = event(rest, index, int(count))
                    writer.write(b"%x\r\n%s\r\n" % (len(made), made))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
                continue
            whole, events = body(rest or kind, int(count))
            if how not in ("paced", "slow", "held", "watched"):
                writer.write(whole)
                await writer.drain()
                continue
            writer.write(HEAD)
            for each in events:
                writer.write(b"%x\r\n%s\r\n" % (len(each), each))
                if how in ("held", "watched"):
                    await reader.read(1)
                    if how == "watched":
                        report(time.monotonic())
                    return
                await asyncio.sleep(0.25 if how == "slow" else 0.002)
            writer.write(b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def report(value: float) -> None:
    """Print a number for the process that started this one."""
    sys.stdout.write(f"{value}\n")
    sys.stdout.flush()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20, backlog=4096)
    report(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
