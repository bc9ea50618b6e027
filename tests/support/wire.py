"""A byte-exact HTTP server on loopback, for responses that the emulator cannot give.

Each request takes the next scripted answer: bytes to send, and what to do in between. The server
records every POST, so a test can assert that nothing was sent twice.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, TypeAlias

from typing_extensions import Self


class Do(Enum):
    """What a server may do besides sending."""

    CLOSE = "close the connection properly"
    RESET = "reset the connection"
    PAUSE = "wait 20 ms: the pace of a slow server, not a way to wait for the client"
    STALL = "send nothing more until the client disconnects or the server is closed"


WAIT_S = 60.0
"""How long a test waits for what must happen. It takes that long only where the test fails."""

Part: TypeAlias = "bytes | Do | threading.Event | Callable[[], object]"
"""What to send, what else to do, an event to wait for, or a function to call."""

Answer: TypeAlias = Iterable[Part]

SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream;charset=UTF-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def frame(
    text: str | None = "",
    finish: str = "null",
    *,
    session_id: str = "session-1",
    request_id: str = "request-1",
    **output: Any,
) -> dict[str, Any]:
    """An answer object of an agent app."""
    fields = {"session_id": session_id, "finish_reason": finish, "text": text, **output}
    return {"output": fields, "usage": {}, "request_id": request_id}


def event(
    payload: object, *, name: str = "result", status: int = 200, newline: str = "\n"
) -> bytes:
    """One event as the cloud writes it."""
    data = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    lines = ["id:1", f"event:{name}", f":HTTP_STATUS/{status}", f"data:{data}", "", ""]
    return newline.join(lines).encode()


def stream(*events: bytes) -> list[Part]:
    """A whole, well-ended event stream, one chunk per event."""
    return [SSE_HEAD, *(chunk(each) for each in events), END]


def answer(
    status: str, body: bytes, content_type: str = "application/json", *headers: str
) -> list[Part]:
    """A whole answer with a length."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return ["\r\n".join([*lines, "", ""]).encode() + body]


class WireServer:
    """Serves scripted answers; a context manager.

    Attributes:
        posts: The bodies of all requests, parsed, in the order of arrival.
        heads: Their heads, undecoded.
        bodies: Their bodies, undecoded.
        asked: Set when the first request was read.
        all_gone: Set while no connection is open.
        gone: Set when a client closed a connection before its answer was over.
    """

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._answers = list(answers)
        self._tls = tls
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._events: list[threading.Event] = []  # those that a connection waits for
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self.posts: list[dict[str, Any]] = []
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self._open = 0
        self.all_gone = threading.Event()
        self.asked = threading.Event()
        self.gone = threading.Event()

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for event_ in self._events:
            event_.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    @property
    def base_url(self) -> str:
        """Where clients find it."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self._socket.getsockname()[1]}/api/v1"

    def join_finished(self) -> None:
        """Wait for the threads of closed connections; call it once `all_gone` is set."""
        acceptor, *serving = self._threads
        for thread in serving:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        self._threads = [acceptor]

    def _spawn(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.append(connection)
                self.connections += 1
                self._open += 1
                self.all_gone.clear()
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        if self._tls is not None:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:  # the client does not trust the certificate
                connection.close()
                return
            with self._lock:
                self._connections.append(connection)
        with connection, connection.makefile("rb") as reader, contextlib.suppress(OSError):
            while self._read_request(reader) and self._send(connection, self._next()):
                pass
        with self._lock:
            self._open -= 1
            if not self._open:
                self.all_gone.set()

    def _read_request(self, reader: Any) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = reader.readline()
            if not line:
                return False
            head += line
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        body = reader.read(length)
        with self._lock:
            self.heads.append(head)
            self.bodies.append(body)
            self.posts.append(json.loads(body))
        self.asked.set()
        return True

    def _next(self) -> Answer:
        with self._lock:
            return self._answers.pop(0) if self._answers else [Do.CLOSE]

    def _send(self, connection: socket.socket, parts: Answer) -> bool:
        """Send an answer; return whether the connection can take another request."""
        try:
            return all(self._do(connection, part) for part in parts)
        except OSError:
            if not self._closing.is_set():
                self.gone.set()
            return False

    def _do(self, connection: socket.socket, part: Part) -> bool:
        """Carry out one part; return whether the answer goes on after it."""
        if isinstance(part, bytes):
            connection.sendall(part)
        elif isinstance(part, threading.Event):
            self._events.append(part)
            if not self._closing.is_set():
                assert part.wait(WAIT_S)
        elif part is Do.PAUSE:
            self._closing.wait(0.02)
        elif part is Do.STALL:
            if not connection.recv(1) and not self._closing.is_set():
                self.gone.set()
            return False
        elif part is Do.RESET:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        elif part is Do.CLOSE:
            connection.shutdown(socket.SHUT_WR)
            return False
        else:
            part()
        return True
