"""Async HTTP: the counterpart of `sync_http`, over the connections of `async_pool`."""

from __future__ import annotations

import asyncio
import collections
import io
import os
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from typing import cast

import aiohttp

from bailian_apps.core.errors import BailianError
from bailian_apps.transport.async_pool import AsyncConnections, LoopSession, on_connected
from bailian_apps.transport.doubles import refusal, refuse_unseen_call
from bailian_apps.transport.environment import tls_context, uses_tls
from bailian_apps.transport.http_answer import (
    MAX_ERROR_BYTES,
    FrameReader,
    asked_of,
    connect_error,
    connection_lost_error,
    environment_error,
    is_stream,
    read_answer,
)
from bailian_apps.transport.request_builder import HTTPRequest
from bailian_apps.transport.sse import Frame
from bailian_apps.transport.sync_pool import shut_down
from bailian_apps.transport.timeouts import TimeoutBudget

# Every wait is bounded by the call's own timer, see `AsyncCall._set_timer`.
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)

_WHOLE_BODY = 1 << 20  # bytes
_LOOP_LAG_S = 0.05  # a timer that fires this late means that the event loop was blocked


class AsyncCall:
    """One POST and its response."""

    def __init__(self, connections: AsyncConnections, budget: TimeoutBudget) -> None:
        """Prepare a call; `frames` sends it."""
        self._connections = connections
        self._budget = budget
        self._timer: asyncio.TimerHandle | None = None
        self._timer_until = 0.0  # on the budget's clock: a loop may have another
        self._timed_out = False
        self._loop_lagged = False
        self._sending: asyncio.Task[aiohttp.ClientResponse] | None = None
        self._transport: asyncio.Transport | None = None  # once there is a connection
        self._loop_session: LoopSession | None = None
        self._process = os.getpid()
        self._response: aiohttp.ClientResponse | None = None

    async def frames(self, request: HTTPRequest) -> AsyncGenerator[list[Frame]]:
        """As `SyncCall.frames`, natively async."""
        try:
            status, headers = await self._send(request)
            asked = asked_of(request.url, request.workspace)
            if not is_stream(status, headers):
                yield [read_answer(status, headers, await self._read_all(status), asked=asked)]
                return
            reader, draining = FrameReader(headers, asked=asked), False
            while True:
                try:
                    chunk = await self._read()
                except BailianError:
                    if reader.run_ended:  # only the end of the stream was lost
                        return
                    raise
                for frames in reader.feed(chunk) if chunk else reader.close():
                    self._loop_lagged = False
                    self._budget.stop_clock()
                    yield frames
                    self._budget.start_clock()
                    if self._timer is None or self._timer_until > self._budget.until:
                        self._set_timer()
                if reader.error is not None:
                    raise reader.error
                if not chunk:
                    return
                if reader.run_ended and not draining:
                    draining = True
                    self._budget.enter_drain_phase()
                    self._set_timer()
        finally:
            self.close()
            if self._loop_session is not None:
                await self._loop_session.release()

    def close(self) -> None:
        """Free the connection: to the pool after the last byte, else it is closed at once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._response is None or os.getpid() != self._process:
            return  # a forked child shares the connection, and the selector of the loop
        # Closing alone would not end a connection that a forked child holds, too.
        connection = self._response.connection  # None once it is lost or has been returned
        if connection is not None and connection.transport is not None:
            shut_down(connection.transport.get_extra_info("socket"))
            connection.transport.abort()  # TLS would still write its end, and log that it cannot
        self._response.close()

    async def _send(self, request: HTTPRequest) -> tuple[int, Mapping[str, str]]:
        """Send the request and read the head of the response."""
        environment = self._connections.environment
        proxy = environment.proxy_for(request.url)
        if proxy is not None:
            _check_proxy(proxy, request.url)
        refuse_unseen_call(request.url, sender="aiohttp")
        self._budget.remaining_s()  # raises if the time is up already: then nothing is sent
        self._set_timer()
        try:
            self._loop_session = await self._connections.acquire()
            session = self._loop_session.session
            secure = uses_tls(request.url, proxy)
            whole = len(request.body) <= _WHOLE_BODY
            before = on_connected.set([self._on_connected])
            self._sending = asyncio.ensure_future(
                session.post(
                    request.url,
                    # aiohttp warns about a larger one; as a file it is read piece by piece.
                    data=request.body if whole else io.BytesIO(request.body),
                    headers=request.headers,
                    allow_redirects=False,
                    proxy=proxy,
                    ssl=tls_context(environment.certificates()) if secure else True,
                    timeout=_NO_TIMEOUT,
                )
            )
            on_connected.reset(before)  # the task has a copy
            self._sending.add_done_callback(self._remember_response)
            response = await self._await_head(self._sending)
        except BailianError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if self._transport is None:
                raise connect_error(request.url, error, proxy=proxy) from None
            raise connection_lost_error(sent=True) from None
        except Exception as error:
            if refused := refusal(error):
                raise refused from None
            raise
        return response.status, response.headers

    def _set_timer(self) -> None:
        """Start the timer that ends the call when its time is up.

        A frame only moves the moment; the timer itself looks again, which costs nothing per frame.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._budget.until == float("inf"):
            return  # the caller has a frame, and no limit is running
        try:
            left_s = self._budget.remaining_s()
        except BailianError:
            # What arrived while something else blocked the loop has still to be read; once.
            if not self._loop_lagged and time.monotonic() - self._budget.until > _LOOP_LAG_S:
                self._loop_lagged = True
                left_s = _LOOP_LAG_S
            else:
                self._timed_out = True
                self._cancel_sending()
                self.close()
                return
        self._timer_until = self._budget.until
        self._timer = asyncio.get_running_loop().call_later(left_s, self._set_timer)

    def _remember_response(self, sending: asyncio.Task[aiohttp.ClientResponse]) -> None:
        """Keep the response to close it, even where the call is cancelled as it arrives."""
        if not sending.cancelled() and sending.exception() is None:
            self._response = sending.result()
            if self._loop_session is not None:
                self._loop_session.responses.add(self._response)

    async def _await_head(
        self, sending: asyncio.Task[aiohttp.ClientResponse]
    ) -> aiohttp.ClientResponse:
        """Wait for the head of the response.

        Awaiting the task itself would not show who cancels: the timer cancels the task, and the
        caller cancels this coroutine, perhaps in the same moment.
        """
        try:
            await asyncio.wait([sending])
        except asyncio.CancelledError:
            self._cancel_sending()
            await asyncio.wait([sending])
            raise
        if self._timed_out:  # also where the head arrived in the same moment
            raise self._budget.error()
        return sending.result()

    def _cancel_sending(self) -> None:
        """Give the request up, if the head of its response has not arrived."""
        if self._sending is None or self._sending.done():
            return
        if self._transport is not None and os.getpid() == self._process:
            # As in `close`: a forked child may hold the connection, too.
            shut_down(self._transport.get_extra_info("socket"))
        self._sending.cancel()

    def _on_connected(self, transport: asyncio.Transport) -> None:
        """There is a connection, and the request is sent on it."""
        self._transport = transport
        self._budget.request_started()
        self._set_timer()

    async def _read(self) -> bytes:
        content = cast("aiohttp.ClientResponse", self._response).content
        try:
            return await content.readany()
        except (aiohttp.ClientError, OSError):
            if self._timed_out:
                raise self._budget.error() from None
            if arrived := _unread_data(content):
                return arrived
            raise connection_lost_error(sent=True, streaming=True) from None

    async def _read_all(self, status: int) -> bytes:
        parts: list[bytes] = []
        if status != 200:
            self._budget.enter_error_phase()
            self._set_timer()
        try:
            while chunk := await self._read():
                parts.append(chunk)
                if status != 200 and sum(map(len, parts)) > MAX_ERROR_BYTES:
                    break
        except BailianError:
            if status == 200:
                raise
        return b"".join(parts)


def _check_proxy(proxy: str, url: str) -> None:
    """Check that the running event loop can use a proxy.

    Raises:
        ConnectError: It cannot.
    """
    if proxy.startswith("socks"):
        raise environment_error(
            "async calls cannot use a SOCKS proxy; use an HTTP proxy, or call synchronously"
        )
    # asyncio's own loops have TLS in TLS since 3.11; uvloop always had.
    tls_in_tls = sys.version_info >= (3, 11) or not isinstance(
        asyncio.get_running_loop(), asyncio.BaseEventLoop
    )
    if proxy.startswith("https:") and url.startswith("https:") and not tls_in_tls:
        raise environment_error(
            "on Python 3.10 async calls cannot use an https:// proxy; use an http:// proxy, or "
            "call synchronously"
        )


def _unread_data(content: aiohttp.StreamReader) -> bytes:
    """Return what arrived before the connection was lost; aiohttp raises before it returns that."""
    buffer = cast("collections.deque[bytes] | None", getattr(content, "_buffer", None))
    if not buffer:
        return b""
    arrived = b"".join(buffer)
    buffer.clear()
    return arrived
