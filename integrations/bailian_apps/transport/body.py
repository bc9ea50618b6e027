"""The body of a sync response as it arrives: everything that one read of the socket returned.

http.client returns a chunked body one chunk at a time, and the cloud writes each frame as a chunk:
a reader could not see whether more frames have arrived, and would pay for three reads of a buffer
for each frame. So the chunks are decoded here (RFC 9112, 7.1).
"""

from __future__ import annotations

import contextlib
import http.client
from typing import Any, Final

from bailian_apps.core.errors import BailianError
from bailian_apps.transport.timeouts import TimeoutBudget

_READ: Final = 1 << 16  # bytes asked of the socket at once
_LONGEST_LINE: Final = 1 << 16
_HEX_DIGITS: Final = b"0123456789abcdefABCDEF"


class ResponseBody:
    """Reads the body of a urllib3 response whose head was read.

    A compressed body, or one without a socket that we know, is read through urllib3.

    Attributes:
        socket: The socket behind it, where it is known.
        clean: Whether certainly nothing was read beyond its end, so that the connection can be
            reused.
    """

    def __init__(self, response: Any) -> None:
        """Begin to read.

        Args:
            response: The `urllib3.HTTPResponse`.
        """
        plain = getattr(response, "_fp", None)
        found = getattr(getattr(getattr(plain, "fp", None), "raw", None), "_sock", None)
        found = getattr(found, "socket", found)  # TLS in TLS is not a socket, but has one
        self.socket: Any = found if hasattr(found, "settimeout") else None
        # Nothing is read of an empty body, so what stands after it in the buffer is not seen.
        self.clean = getattr(plain, "length", None) != 0
        self._timeout_s = 0.0
        self._late = False  # whether the last read was after the time limit
        self._plain: http.client.HTTPResponse | None = None
        self._chunks: ChunkedDecoder | None = None
        self._left: int | None = None  # bytes still to come, where the head has a length
        if (
            isinstance(plain, http.client.HTTPResponse)
            and self.socket is not None
            and not response.headers.get("Content-Encoding")
        ):
            self._plain = plain
            if plain.chunked:
                self._chunks = ChunkedDecoder()
            else:
                self._left = plain.length
        else:
            self._pieces = response.stream(_READ, decode_content=True)
            response._pool = None  # or it would release the connection with the last piece

    def read(self, budget: TimeoutBudget) -> bytes:
        """Wait for the next data.

        Args:
            budget: How long to wait.

        Returns:
            Everything that arrived; `b""` at the end of the body.

        Raises:
            BailianError: The time is up.
            TimeoutError: Nothing arrived in time.
            OSError: The connection was lost.
            ValueError: The body was cut off, or is malformed.
        """
        if self._plain is None:
            self._bound_wait(budget)
            return next(self._pieces, b"")
        while not self._over():
            self._bound_wait(budget)
            data: bytes = self._plain.fp.read1(_READ)
            if not data:
                if self._chunks is None and self._left is None:
                    break  # such a body ends with the connection
                raise ValueError("the body was cut off")
            if self._chunks is not None:
                data = self._chunks.feed(data)
                self.clean = not self._chunks.trailing_data
            elif self._left is not None:
                self.clean = len(data) <= self._left
                data = data[: self._left]
                self._left -= len(data)
            if data:
                return data
        self._plain.close()  # or the connection's next response would find this one open
        return b""

    def _bound_wait(self, budget: TimeoutBudget) -> None:
        """Set the socket's timeout for the next wait; at most 1 % longer than the budget.

        Setting it is a system call, which not every frame has to pay for. When the time is up, data
        that arrived while the process itself was suspended is still read, once.
        """
        try:
            left_s = budget.remaining_s()
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
        with contextlib.suppress(OSError):  # only part of a TLS record arrived
            self.socket.settimeout(0.0)
            return bool(self._plain.fp.peek(1))
        return False

    def _over(self) -> bool:
        return self._chunks.done if self._chunks is not None else self._left == 0


class ChunkedDecoder:
    """Bytes of a chunked body in, its content out; no I/O.

    Attributes:
        done: Whether the body is complete.
        trailing_data: Whether anything arrived after it.
    """

    def __init__(self) -> None:
        """Start at the beginning of a body."""
        self.done = False
        self.trailing_data = False
        self._left = 0  # bytes of the chunk still to come
        self._expect_crlf = False  # whether the line end after a chunk is next
        self._trailers = False
        self._pending = b""  # the start of a line whose end has not arrived
        self._broken = False

    def feed(self, data: bytes) -> bytes:
        """Read bytes, cut anywhere.

        Returns:
            The content in them, also what comes before a malformed chunk.

        Raises:
            ValueError: A chunk was malformed; if there was content before it, at the next call.
        """
        if self._broken:
            raise ValueError("the chunked body is malformed")
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
                self._expect_crlf = True
            end = data.find(b"\n", at)
            if end < 0:
                self._pending = data[at:]
                if len(self._pending) > _LONGEST_LINE:
                    raise ValueError("a line between chunks is too long")
                return
            line = data[at:end].rstrip(b"\r")
            at = end + 1
            if self._trailers:
                self.done = not line
            elif self._expect_crlf:
                if line:
                    raise ValueError("a chunk is longer than its size")
                self._expect_crlf = False
            else:
                size = line.partition(b";")[0].rstrip(b" \t")
                if size.strip(_HEX_DIGITS):  # `int` takes a sign, 0x and underscores, too
                    raise ValueError("the size of a chunk is not a hexadecimal number")
                self._left = int(size, 16)
                self._trailers = not self._left
        self.trailing_data = at < len(data)
