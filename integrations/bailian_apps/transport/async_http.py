"""The async half of `http`: one POST each, over a session that ends with its event loop."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import io
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import SimpleNamespace
from typing import cast

import aiohttp
from typing_extensions import Self

from bailian_apps.core.errors import BailianError
from bailian_apps.transport.answer import (
    MAX_ERROR_BYTES,
    Answer,
    EventLines,
    Patience,
    is_stream,
    lost,
    media_type,
    not_connected,
    read_answer,
    unusable,
)
from bailian_apps.transport.environment import proxy_for, tls_context
from bailian_apps.transport.http import CHUNK, KEEP_ALIVE
from bailian_apps.transport.sse import FrameLine

# Every wait is bounded by the call's own alarm, see `AsyncCall._set_alarm`.
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)

_WHOLE_BODY = 1 << 20  # bytes
_HELD_UP_S = 0.05  # an alarm that rings so late was held up

_loop_sessions: dict[
    asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[aiohttp.ClientSession]]
] = {}


async def _session_until_loop_ends() -> AsyncGenerator[aiohttp.ClientSession]:
    """Open a session, and close it when the loop shuts down.

    A loop closes the async generators that were begun in it (`asyncio.run` does), so the session
    needs no closing by the user and leaves no socket behind.
    """
    session = aiohttp.ClientSession(
        # No limit: one that queues silently would not be bounded by any timeout.
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        read_bufsize=CHUNK,
        max_line_size=CHUNK,  # as http.client reads them
        max_field_size=CHUNK,
        trace_configs=[_tracing()],
    )
    try:
        yield session
    finally:
        _loop_sessions.pop(asyncio.get_running_loop(), None)
        await session.close()


async def _on_connection(_session: object, context: SimpleNamespace, _about: object) -> None:
    context.trace_request_ctx()


def _tracing() -> aiohttp.TraceConfig:
    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_end.append(_on_connection)
    tracing.on_connection_reuseconn.append(_on_connection)
    return tracing


async def _shared_async_session() -> aiohttp.ClientSession:
    loop = asyncio.get_running_loop()
    known = _loop_sessions.get(loop)
    if known is None:
        for other in [each for each in list(_loop_sessions) if each.is_closed()]:
            _loop_sessions.pop(other, None)  # a loop that was closed without being shut down
        keeper = _session_until_loop_ends()
        known = _loop_sessions[loop] = (await anext(keeper), keeper)
    return known[0]


class AsyncCall:
    """One POST, as the SDK sees an `aiohttp.ClientSession` and its response."""

    # The SDK tells the two kinds of session apart by isinstance, and takes an unknown one for
    # requests'. Inheriting from aiohttp's is discouraged by aiohttp.
    __class__ = property(lambda _self: aiohttp.ClientSession)  # type: ignore[assignment]

    def __init__(self, patience: Patience) -> None:
        """Prepare a call; `request` makes it."""
        self.lines = EventLines({})
        self.headers: Mapping[str, str] = {}
        self.status = 0
        self._patience = patience
        self._alarm: asyncio.TimerHandle | None = None
        self._rang = False
        self._held_up = False
        self._sending: asyncio.Task[aiohttp.ClientResponse] | None = None
        self._connected = False
        self._response: aiohttp.ClientResponse | None = None
        self._answer: Answer | None = None

    async def request(
        self, method: str, *, url: str, data: bytes, headers: dict[str, str], **_: object
    ) -> AsyncCall:
        """Send the request and read the head of the answer.

        Raises:
            BailianError: No answer, or an answer that is an error.
        """
        proxy = proxy_for(url)
        if proxy is not None and proxy.lower().startswith("socks"):
            raise unusable(
                "async calls cannot use the SOCKS proxy that the environment names; name an HTTP "
                "proxy, or call synchronously"
            )
        self._set_alarm()
        try:
            session = await _shared_async_session()
            self._sending = asyncio.ensure_future(
                session.request(
                    method,
                    url,
                    # aiohttp warns of more; it is read piece by piece then.
                    data=data if len(data) <= _WHOLE_BODY else io.BytesIO(data),
                    headers=headers,
                    allow_redirects=False,
                    proxy=proxy,
                    ssl=tls_context() if "https:" in (url[:6], (proxy or "")[:6]) else True,
                    timeout=_NO_TIMEOUT,
                    trace_request_ctx=self._begin_to_wait,
                )
            )
            self._sending.add_done_callback(self._keep)
            response = await self._sent(self._sending)
        except BailianError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if not self._connected:
                raise not_connected(url, error, proxy=proxy) from None
            raise lost(sent=True) from None
        self.status, self.headers = response.status, response.headers
        self._keep_alive(response)
        if not is_stream(self.status, self.headers):
            self._answer = read_answer(self.status, self.headers, await self._read_body())
        return self

    @property
    def content_type(self) -> str:
        """The answer's media type, without parameters."""
        return media_type(self.headers)

    @property
    def content(self) -> AsyncIterator[FrameLine]:
        """The events of the stream, as lines."""
        return self._lines()

    async def json(self) -> Answer:
        """The answer, when it was not a stream."""
        return self._answer or {}

    async def __aenter__(self) -> Self:
        """Enter; the SDK uses a response as a context."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave."""
        self.close()

    def settle(self) -> None:
        """The run has finished: wait only a moment for the end of the stream."""
        self._patience.run_ended()
        self._set_alarm()

    def close(self) -> None:
        """Free the connection: back to the pool after the last byte, else closed at once."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._response is not None:
            self._response.close()

    def _set_alarm(self) -> None:
        """Ring when patience has run out.

        A frame only moves the moment; the alarm itself looks again, which costs nothing per frame.
        """
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._patience.until == float("inf"):
            return  # the caller has a frame, and all the time it wants
        try:
            left_s = self._patience.remaining_s()
        except BailianError:
            # What arrived while something else held up the loop has still to be read; once.
            if not self._held_up and time.monotonic() - self._patience.until > _HELD_UP_S:
                self._held_up = True
                self._alarm = asyncio.get_running_loop().call_later(_HELD_UP_S, self._set_alarm)
                return
            self._rang = True
            if self._response is None and self._sending is not None:
                self._sending.cancel()
            self.close()
        else:
            self._alarm = asyncio.get_running_loop().call_later(left_s, self._set_alarm)

    def _keep(self, sending: asyncio.Task[aiohttp.ClientResponse]) -> None:
        """Have the response to close, even where the call is cancelled as it comes."""
        if not sending.cancelled() and sending.exception() is None:
            self._response = sending.result()

    async def _sent(self, sending: asyncio.Task[aiohttp.ClientResponse]) -> aiohttp.ClientResponse:
        """Wait for the head of the answer.

        To wait for the task itself would not tell who cancels: the alarm cancels it, and the caller
        cancels this one, perhaps in the same moment.
        """
        try:
            await asyncio.wait([sending])
        except asyncio.CancelledError:
            sending.cancel()
            await asyncio.wait([sending])
            raise
        if self._rang:  # also where the head came in the same moment; nobody would watch the rest
            raise self._patience.error()
        return sending.result()

    def _begin_to_wait(self) -> None:
        """There is a connection, and the request goes out on it."""
        self._connected = True
        self._patience.connected()
        self._set_alarm()

    async def _lines(self) -> AsyncGenerator[FrameLine]:
        self.lines = EventLines(self.headers)
        while chunk := await self._read():
            if lines := self.lines.feed(chunk):
                self._held_up = False
                self._patience.pause()
                for line in lines:
                    yield line
                self._patience.resume()
                if self._alarm is None or self._alarm.when() > self._patience.until:
                    self._set_alarm()
        for line in self.lines.close():
            yield line

    async def _read(self) -> bytes:
        content = cast("aiohttp.ClientResponse", self._response).content
        try:
            chunk = await content.readany()
        except (aiohttp.ClientError, OSError):
            if self._rang:
                raise self._patience.error() from None
            chunk = _arrived_before(content)
            if not chunk:
                raise lost(sent=True, streaming=True) from None
        return chunk

    async def _read_body(self) -> bytes:
        parts: list[bytes] = []
        if self.status != 200:
            self._patience.failed()
            self._set_alarm()
        try:
            while chunk := await self._read():
                parts.append(chunk)
                if self.status != 200 and sum(map(len, parts)) > MAX_ERROR_BYTES:
                    break
        except BailianError:
            if self.status == 200:
                raise
        return b"".join(parts)

    def _keep_alive(self, response: aiohttp.ClientResponse) -> None:
        transport = response.connection.transport if response.connection is not None else None
        opened = transport.get_extra_info("socket") if transport is not None else None
        if opened is not None:
            with contextlib.suppress(OSError):  # lost already; reading will say so
                for option in KEEP_ALIVE:
                    opened.setsockopt(*option)


def _arrived_before(content: aiohttp.StreamReader) -> bytes:
    """What had arrived when the connection was lost; aiohttp raises before it hands that out."""
    buffer = cast("collections.deque[bytes] | None", getattr(content, "_buffer", None))
    if not buffer:
        return b""
    arrived = b"".join(buffer)
    buffer.clear()
    return arrived
