"""The body of an answer as it arrives: all that one read of the socket brought, at once.

http.client gives a chunked body back one chunk at a time, and the cloud writes each frame as a
chunk: a reader could not tell whether more frames are already here, and would pay for three reads
of a buffer per frame. So the chunks are taken apart here.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
from typing import Any, Final

from bailian_apps.core.errors import BailianError
from bailian_apps.transport.answer import Patience

_READ: Final = 1 << 16  # bytes asked of the socket at once
_LONGEST_LINE: Final = 1 << 16


class Body:
    """Reads the body of a urllib3 response whose head was read.

    Where the private names that lead past urllib3 to the socket have gone, or the body is
    compressed all the same, it is read through urllib3.

    Attributes:
        socket: The socket behind it, where that is known.
        clean: Whether nothing was read beyond its end, so that the connection can be used again.
    """

    def __init__(self, response: Any) -> None:
        """Begin to read.

        Args:
            response: The `urllib3.HTTPResponse`.
        """
        plain = getattr(response, "_fp", None)
        found = getattr(getattr(getattr(plain, "fp", None), "raw", None), "_sock", None)
        found = getattr(found, "socket", found)  # TLS within TLS is no socket, but has one
        self.socket = found if isinstance(found, socket.socket) else None
        self.clean = True
        self._timeout_s = 0.0
        self._late = False  # whether the last read was beyond patience
        self._plain: http.client.HTTPResponse | None = None
        self._chunks: Unchunker | None = None
        self._left: int | None = None  # bytes still to come, where the head said how many
        if (
            isinstance(plain, http.client.HTTPResponse)
            and self.socket is not None
            and not response.headers.get("Content-Encoding")
        ):
            self._plain = plain
            if plain.chunked:
                self._chunks = Unchunker()
            else:
                self._left = plain.length
        else:
            self._pieces = response.stream(_READ, decode_content=True)
            response._pool = None  # with the last piece it would give the connection back by itself

    def read(self, patience: Patience) -> bytes:
        """Wait for what comes next.

        Args:
            patience: Says how long to wait.

        Returns:
            All that came with it; nothing at the end of the body.

        Raises:
            BailianError: Patience has run out.
            TimeoutError: Nothing came in time.
            OSError: The connection was lost.
            ValueError: The body was cut off, or is no proper one.
        """
        if self._plain is None:
            self._bound_wait(patience)
            return next(self._pieces, b"")
        while not self._over():
            self._bound_wait(patience)
            data: bytes = self._plain.fp.read1(_READ)
            if not data:
                if self._chunks is None and self._left is None:
                    break  # such a body ends with the connection
                raise ValueError("the body was cut off")
            if self._chunks is not None:
                data = self._chunks.feed(data)
                self.clean = not self._chunks.excess
            elif self._left is not None:
                self.clean = len(data) <= self._left
                data = data[: self._left]
                self._left -= len(data)
            if data:
                return data
        self._plain.close()  # or the connection's next response would find this one open
        return b""

    def _bound_wait(self, patience: Patience) -> None:
        """Bound the next wait; never shorter, and at most a hundredth longer.

        To set it anew is a system call, which not every frame need pay for. Where patience has run
        out, what arrived while the process itself was held up is read all the same, once.
        """
        try:
            left_s = patience.remaining_s()
        except BailianError:
            if self._late or not self._has_arrived():
                raise
            self._late = True
            return
        self._late = False
        if self.socket is not None and not left_s <= self._timeout_s <= left_s * 1.01:
            self._timeout_s = left_s * 1.005
            self.socket.settimeout(self._timeout_s)

    def _has_arrived(self) -> bool:
        if self._plain is None or self.socket is None:
            return False
        self._timeout_s = 0.0
        with contextlib.suppress(OSError):  # TLS has only part of a record
            self.socket.settimeout(0.0)
            return bool(self._plain.fp.peek(1))
        return False

    def _over(self) -> bool:
        return self._chunks.done if self._chunks is not None else self._left == 0


class Unchunker:
    """Bytes of a chunked body in, its content out; pushed, without I/O.

    Attributes:
        done: Whether the body is over.
        excess: Whether anything came after it.
    """

    __slots__ = ("_between", "_broken", "_left", "_pending", "_trailers", "done", "excess")

    def __init__(self) -> None:
        """Start at the beginning of a body."""
        self.done = False
        self.excess = False
        self._left = 0  # bytes of the chunk still to come
        self._between = False  # whether the line end after a chunk is still to come
        self._trailers = False
        self._pending = b""  # the beginning of a line whose end has not come
        self._broken = False

    def feed(self, data: bytes) -> bytes:
        """Read bytes, cut anywhere.

        Returns:
            The content in them: also what stands before something that is not as it should be.

        Raises:
            ValueError: Something was not as it should be, the last time.
        """
        if self._broken:
            raise ValueError("the body is not chunked as it should be")
        content: list[bytes] = []
        try:
            self._take(self._pending + data if self._pending else data, content)
        except ValueError:
            if not content:
                raise
            self._broken = True
        return b"".join(content)

    def _take(self, data: bytes, content: list[bytes]) -> None:
        at = 0
        self._pending = b""
        while not self.done:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                content.append(piece)
                if self._left:
                    return
                self._between = True
            end = data.find(b"\n", at)
            if end < 0:
                self._pending = data[at:]
                if len(self._pending) > _LONGEST_LINE:
                    raise ValueError("a line between chunks has no end")
                return
            line = data[at:end].rstrip(b"\r")
            at = end + 1
            if self._trailers:
                self.done = not line
            elif self._between:
                if line:
                    raise ValueError("a chunk is longer than it says")
                self._between = False
            else:
                self._left = int(line.partition(b";")[0], 16)
                if self._left < 0:
                    raise ValueError("a chunk has less than no bytes")
                self._trailers = not self._left
        self.excess = at < len(data)
