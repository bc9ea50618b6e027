"""Sends one answer, JSON or frames: over ASGI, or, when it is to go wrong, past it."""

import asyncio
import socket
import struct
import uuid
import zlib
from collections.abc import Mapping

from starlette.types import Send

from bailian_apps.emulator.faults.plan import COUNTED_PLACES, Cut, Place, Staged
from bailian_apps.emulator.models import Failure
from bailian_apps.emulator.server.uvicorn_thread import unsent_bytes
from bailian_apps.emulator.wire.frames import (
    JSON_CONTENT_TYPE,
    STREAM_CONTENT_TYPE,
    Frame,
    http_head,
)


class Reply:
    """The answer to one request.

    The status and the headers go out with the first frame: a failure before it can still be an
    HTTP error, a failure after it only an event.
    """

    def __init__(self, send: Send) -> None:
        """Begin an answer over ASGI's `send`."""
        self._send = send
        self._streaming = False
        self._number: int = 0

    async def send_whole(self, frame: Frame, headers: Mapping[str, str] | None = None) -> None:
        """Send a frame as a whole answer."""
        content = frame.body
        own = {"content-type": JSON_CONTENT_TYPE, "content-length": str(len(content))}
        await self._start(frame.status, {**own, **(headers or {})})
        await self._send_body(content)

    async def send_frame(self, frame: Frame) -> None:
        """Send one frame of a stream."""
        if not self._streaming:
            await self._start_stream()
        self._number = self._number + 1 if frame.id is None else frame.id
        await self._send_event(frame.encode(self._number), stop=frame.finished)

    async def end_stream(self) -> None:
        """End a stream."""
        if not self._streaming:
            await self._start_stream()
        await self._end()

    async def fail(self, failure: Failure, request_id: str) -> None:
        """Send a failure, and with it end the answer."""
        frame = failure.as_frame(request_id)
        if self._streaming:
            await self.send_frame(frame)
            await self.end_stream()
        else:
            await self.send_whole(frame, failure.headers)

    async def _start_stream(self) -> None:
        self._streaming = True
        await self._start(200, {"content-type": STREAM_CONTENT_TYPE})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})

    async def _send_body(self, content: bytes) -> None:
        await self._send({"type": "http.response.body", "body": content})

    async def _send_event(self, content: bytes, *, stop: bool) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": True})

    async def _end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


class FaultyReply(Reply):
    """An answer that goes wrong, written past ASGI, which could not say it.

    It ends with its connection: whoever made it waits for ASGI's `http.disconnect`. Where it is to
    be cut, it never comes back, and is cancelled when the connection is gone.
    """

    def __init__(self, send: Send, transport: asyncio.Transport, staged: Staged) -> None:
        """Begin an answer over a connection."""
        super().__init__(send)
        self._transport = transport
        self._staged = staged
        self._fault = staged.fault
        self._request_id = str(uuid.uuid4())
        self._events = 0
        self._spoilt = False
        packs = self._fault.framing == "gzip"
        self._packer = zlib.compressobj(wbits=31) if packs else None

    async def send_instead(self) -> None:
        """Send what the fault says in place of an answer of the app."""
        self._transport.write(self._fill_in(self._fault.instead or b""))
        await self._cut(self._fault.cut or Cut.CLOSE)

    async def send_frame(self, frame: Frame) -> None:
        """Send one frame of a stream, or what comes in its place."""
        if not self._streaming:
            await self._start_stream()
        if self._is_due("between_frames"):
            await self._spoil()
        await super().send_frame(frame)

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        if self._fault.place == "before_headers":
            await self._spoil()
        own = dict(headers)
        if self._streaming:
            own |= self._fault.headers
            if self._fault.framing == "gzip":
                own["content-encoding"] = "gzip"
            if self._fault.framing != "none":
                own["transfer-encoding"] = "chunked"
        head = http_head(status, {**own, "connection": "close"})
        if self._fault.place == "inside_headers":
            self._transport.write(head[: head.index(b"\r\n") + len("\r\nConte")])
            await self._spoil()
        self._transport.write(head)
        if self._fault.place == "after_headers":
            await self._spoil()

    async def _send_body(self, content: bytes) -> None:
        if self._fault.cut and self._fault.place in COUNTED_PLACES:
            self._transport.write(content[: len(content) // 2])
            await self._spoil()
        self._transport.write(content)
        if self._fault.place == "after_stop":
            await self._spoil()
        self._transport.close()

    async def _send_event(self, content: bytes, *, stop: bool) -> None:
        fault = self._fault
        if fault.rewrite is not None:
            content = fault.rewrite(content, self._events == 0, stop)
        if self._is_due("inside_frame"):
            self._write_chunk(content[: len(content) // 2])
            await self._spoil()
        elif self._is_due("inside_chunk"):
            self._transport.write(_chunk(content)[: len(content) // 2])
            await self._spoil()
        self._events += 1
        self._write_chunk(content)
        if stop and fault.place == "after_stop":
            await self._spoil()

    async def _end(self) -> None:
        if not self._spoilt:  # the answer was shorter than the fault's place in it
            await self._spoil()
        if self._packer is not None:
            self._transport.write(_chunk(self._packer.flush()))
        if self._fault.framing != "none":
            self._transport.write(b"0\r\n\r\n")
        self._transport.close()

    def _is_due(self, place: Place) -> bool:
        enough = self._events >= self._staged.after_frames
        return enough and not self._spoilt and self._fault.place == place

    async def _spoil(self) -> None:
        self._spoilt = True
        fault = self._fault
        if fault.insert is not None:
            self._number += 1
            self._write_chunk(self._fill_in(fault.insert))
        if fault.cut is not None:
            await self._cut(fault.cut)

    async def _cut(self, how: Cut) -> None:
        if how is Cut.RESET:
            await self._all_taken()
            if not self._transport.is_closing():
                connection = self._transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._transport.abort()
        elif how is Cut.CLOSE:
            self._transport.close()
        elif how is Cut.END:
            self._transport.write(b"0\r\n\r\n")
            self._transport.close()
        await asyncio.Event().wait()

    async def _all_taken(self) -> None:
        """Wait until the client's machine has what was written; a reset would drop the rest."""
        transport = self._transport
        connection = transport.get_extra_info("socket")
        while not transport.is_closing() and (  # noqa: ASYNC110
            transport.get_write_buffer_size() or unsent_bytes(connection)
        ):
            await asyncio.sleep(0.001)  # the system has no event for it

    def _write_chunk(self, content: bytes) -> None:
        if self._packer is not None and content:
            content = self._packer.compress(content) + self._packer.flush(zlib.Z_SYNC_FLUSH)
        if content:
            self._transport.write(_chunk(content) if self._fault.framing != "none" else content)

    def _fill_in(self, template: bytes) -> bytes:
        numbered = template.replace(b"$number", str(self._number).encode())
        return numbered.replace(b"$request_id", self._request_id.encode())


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)
