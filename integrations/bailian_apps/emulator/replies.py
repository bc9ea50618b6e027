"""Sends one answer: JSON, or a stream of frames."""

from collections.abc import Mapping

from starlette.types import Send

from bailian_apps.emulator.calls import Failure
from bailian_apps.emulator.wire import (
    JSON_CONTENT_TYPE,
    STREAM_CONTENT_TYPE,
    Frame,
    JsonObject,
    encode_json,
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
        self._number = 0

    async def send_json(
        self, status: int, body: JsonObject, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        content = encode_json(body)
        own = {"content-type": JSON_CONTENT_TYPE, "content-length": str(len(content))}
        await self._start(status, {**own, **(headers or {})})
        await self._send({"type": "http.response.body", "body": content})

    async def send_frame(self, frame: Frame) -> None:
        """Send one frame of a stream."""
        if not self._streaming:
            await self._start_stream()
        self._number = self._number + 1 if frame.id is None else frame.id
        content = frame.encode(self._number)
        await self._send({"type": "http.response.body", "body": content, "more_body": True})

    async def end_stream(self) -> None:
        """End a stream."""
        if not self._streaming:
            await self._start_stream()
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, failure: Failure, request_id: str) -> None:
        """Send a failure, and with it end the answer."""
        frame = failure.as_frame(request_id)
        if self._streaming:
            await self.send_frame(frame)
            await self.end_stream()
        else:
            await self.send_json(frame.status, frame.payload, failure.headers)

    async def _start_stream(self) -> None:
        self._streaming = True
        await self._start(200, {"content-type": STREAM_CONTENT_TYPE})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})
