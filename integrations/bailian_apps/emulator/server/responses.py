"""Writes one response, as JSON or as frames: over ASGI, or past it to inject a fault."""

import asyncio
import gzip
import re
import socket
import struct
import uuid
import zlib
from collections.abc import Mapping
from urllib.parse import unquote

from starlette.types import Send

from bailian_apps.emulator.apps.app import NEAREST_HEADER
from bailian_apps.emulator.faults.fault import COUNTED_POINTS, Cut, FaultPoint
from bailian_apps.emulator.faults.plan import FaultSpec
from bailian_apps.emulator.models import Failure
from bailian_apps.emulator.page.exchanges import Exchange
from bailian_apps.emulator.server.local_server import MAX_ERROR_CHARS, unacked_bytes
from bailian_apps.emulator.wire.frames import (
    JSON_CONTENT_TYPE,
    STREAM_CONTENT_TYPE,
    Frame,
    http_head,
)


class ResponseWriter:
    """Writes the response to one request over ASGI.

    The status and the headers are sent with the first frame: so a failure before it can still be
    an HTTP error. A later one is an error event.

    Attributes:
        request_id: The id of the request, for the headers.
        compress: Whether to compress a JSON response, as the cloud may.
    """

    def __init__(
        self,
        send: Send,
        transport: asyncio.Transport,
        exchange: Exchange,
        *,
        compress: bool = False,
    ) -> None:
        """Create a writer for ASGI's `send` and the connection below it.

        The exchange keeps what is written, for the page.
        """
        self.request_id = str(uuid.uuid4())
        self.compress = compress
        self._send = send
        self._transport = transport
        self._exchange = exchange
        self._outcome = exchange.outcome
        self._streaming = False
        self._number: int = 0

    async def send_whole(self, frame: Frame, headers: Mapping[str, str] | None = None) -> None:
        """Send a frame as a JSON response."""
        self._note(frame)
        content = body = frame.body
        own = {"content-type": JSON_CONTENT_TYPE}
        if self.compress:
            content = gzip.compress(content, compresslevel=1)
            own["content-encoding"] = "gzip"
        own["content-length"] = str(len(content))
        given = {name.lower(): value for name, value in (headers or {}).items()}
        given |= frame.headers or {}
        await self._start(frame.status, {**own, **self._cloud_headers(), **given})
        await self._send_body(content, body)

    async def send_frame(self, frame: Frame) -> None:
        """Send one frame of a stream."""
        self._note(frame)
        if frame.event == "error":
            self._outcome.event_status = frame.status
        await self._start_stream(frame.headers)
        self._number = self._number + 1 if frame.id is None else frame.id
        await self._send_event(frame.encode(self._number), stop=frame.finished)

    async def end_stream(self) -> None:
        """End the stream."""
        await self._start_stream()
        await self._end()

    async def fail(self, failure: Failure, request_id: str) -> None:
        """Send a failure and end the response."""
        frame = failure.as_frame(request_id)
        if self._streaming:
            await self.send_frame(frame)
            await self.end_stream()
        else:
            await self.send_whole(frame, failure.headers)

    async def cut_off(self) -> None:
        """Close the connection and wait to be cancelled at ASGI's `http.disconnect`."""
        self._transport.close()
        await asyncio.Event().wait()

    def _note(self, frame: Frame) -> None:
        """Keep what the log shows of a frame."""
        if frame.event == "error":
            code, message = frame.payload.get("code"), frame.payload.get("message")
            self._outcome.error = f"{code}: {message}"[:MAX_ERROR_CHARS]
        if nearest := (frame.headers or {}).get(NEAREST_HEADER):
            self._outcome.nearest = unquote(nearest)

    async def _start_stream(self, headers: Mapping[str, str] | None = None) -> None:
        if not self._streaming:
            self._streaming = True
            own = {"content-type": STREAM_CONTENT_TYPE, **self._cloud_headers()}
            await self._start(200, {**own, **(headers or {})})

    def _cloud_headers(self) -> dict[str, str]:
        return {"x-request-id": self.request_id, "x-dashscope-timeout": "180"}

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})

    async def _send_body(self, content: bytes, body: bytes) -> None:
        """Send the content, which is the body or the compressed body."""
        self._exchange.add(body)
        await self._send({"type": "http.response.body", "body": content})

    async def _send_event(self, content: bytes, *, stop: bool) -> None:
        self._exchange.add(content)
        await self._send({"type": "http.response.body", "body": content, "more_body": True})

    async def _end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


class FaultyResponseWriter(ResponseWriter):
    """Writes a response with a fault directly to the connection, past ASGI.

    The response ends with its connection, so the caller must wait for ASGI's `http.disconnect`.
    A method that cuts the response never returns; it is cancelled at the disconnect.
    """

    def __init__(
        self, send: Send, transport: asyncio.Transport, exchange: Exchange, spec: FaultSpec
    ) -> None:
        """Create a writer that injects a fault."""
        super().__init__(send, transport, exchange)
        self._outcome.fault = spec.name
        self._fault = spec.fault
        self._after_frames = 1 if spec.after_frames is None else spec.after_frames
        self._events = 0
        self._injected = False
        self._compressor = zlib.compressobj(wbits=31) if self._fault.framing == "gzip" else None

    async def send_raw_response(self) -> None:
        """Send the fault's `raw_response` instead of an answer of the app."""
        raw = self._fault.raw_response or b""
        status = re.match(rb"HTTP/1\.1 (\d+)", raw)
        self._outcome.status = int(status[1]) if status else None
        self._outcome.complete = self._fault.cut is None
        filled = self._fill_in(raw)
        self._exchange.add(filled.partition(b"\r\n\r\n")[2] if status else filled)
        self._transport.write(filled)
        await self._cut(self._fault.cut or Cut.CLOSE)

    async def send_frame(self, frame: Frame) -> None:
        """Send one frame of a stream, unless the fault happens before it."""
        await self._start_stream(frame.headers)
        if self._is_due("between_frames"):
            await self._inject()
        await super().send_frame(frame)

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        if self._fault.point == "before_headers":
            await self._inject()
        own = dict(headers)
        if self._streaming:
            own |= self._fault.headers
            if self._fault.framing == "gzip":
                own["content-encoding"] = "gzip"
            if self._fault.framing != "none":
                own["transfer-encoding"] = "chunked"
        head = http_head(status, {**own, "connection": "close"})
        if self._fault.point == "inside_headers":
            self._transport.write(head[: head.index(b"\r\n") + len("\r\nConte")])
            await self._inject()
        self._transport.write(head)
        self._outcome.status = status
        if self._fault.point == "after_headers":
            await self._inject()

    async def _send_body(self, content: bytes, body: bytes) -> None:
        if self._fault.cut and self._fault.point in COUNTED_POINTS:
            self._exchange.add(content[: len(content) // 2])
            self._transport.write(content[: len(content) // 2])
            await self._inject()
        self._exchange.add(body)
        self._transport.write(content)
        if self._fault.point == "after_stop":
            await self._inject()
        self._outcome.complete = True
        self._transport.close()

    async def _send_event(self, content: bytes, *, stop: bool) -> None:
        fault = self._fault
        if fault.rewrite is not None:
            content = fault.rewrite(content, self._events == 0, stop)
        if self._is_due("inside_frame"):
            self._write_chunk(content[: len(content) // 2])
            await self._inject()
        elif self._is_due("inside_chunk"):
            self._exchange.add(content[: len(content) // 2])
            self._transport.write(_chunk(content)[: len(content) // 2])
            await self._inject()
        self._events += 1
        self._write_chunk(content)
        if stop and fault.point == "after_stop":
            await self._inject()

    async def _end(self) -> None:
        if not self._injected:  # the answer has fewer frames than `after_frames`
            await self._inject()
        if self._compressor is not None:
            self._transport.write(_chunk(self._compressor.flush()))
        if self._fault.framing != "none":
            self._transport.write(b"0\r\n\r\n")
        self._outcome.complete = True
        self._transport.close()

    def _is_due(self, point: FaultPoint) -> bool:
        enough = self._events >= self._after_frames
        return enough and not self._injected and self._fault.point == point

    async def _inject(self) -> None:
        self._injected = True
        fault = self._fault
        if fault.insert is not None:
            self._number += 1
            self._outcome.event_status = fault.event_status
            self._write_chunk(self._fill_in(fault.insert))
        if fault.cut is not None:
            await self._cut(fault.cut)

    async def _cut(self, how: Cut) -> None:
        if how is Cut.RESET:
            await self._wait_until_acked()
            if not self._transport.is_closing():
                connection = self._transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._transport.abort()
        elif how is not Cut.STALL:
            if how is Cut.END:
                self._transport.write(b"0\r\n\r\n")
                self._outcome.complete = True
            self._transport.close()
        await asyncio.Event().wait()

    async def _wait_until_acked(self) -> None:
        """Wait until the peer has everything written so far; a reset would discard the rest."""
        transport = self._transport
        connection = transport.get_extra_info("socket")
        while not transport.is_closing() and (  # noqa: ASYNC110
            transport.get_write_buffer_size() or unacked_bytes(connection)
        ):
            await asyncio.sleep(0.001)  # the kernel has no event for it

    def _write_chunk(self, content: bytes) -> None:
        if content:
            self._exchange.add(content)
        if self._compressor is not None and content:
            compressed = self._compressor.compress(content)
            content = compressed + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        if content:
            self._transport.write(_chunk(content) if self._fault.framing != "none" else content)

    def _fill_in(self, template: bytes) -> bytes:
        numbered = template.replace(b"$number", str(self._number).encode())
        return numbered.replace(b"$request_id", self.request_id.encode())


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)
