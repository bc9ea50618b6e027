"""Sync HTTP: one POST a call, and nothing else behind it.

Nothing is sent twice, no redirect is followed, no cookie or `.netrc` crosses keys, and another
thread, a signal handler or the garbage collector may end a call wherever it stands.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
from collections.abc import Generator, Mapping
from typing import Any

import urllib3
from typing_extensions import override
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as PoolTimeoutError

from bailian_apps.core.errors import BailianError
from bailian_apps.transport.body import ResponseBody
from bailian_apps.transport.doubles import refusal, refuse_unseen_call
from bailian_apps.transport.http_answer import (
    MAX_ERROR_BYTES,
    FrameReader,
    asked_of,
    connect_error,
    connection_lost_error,
    is_stream,
    read_answer,
    root_cause,
)
from bailian_apps.transport.request_builder import HTTPRequest
from bailian_apps.transport.sse import Frame
from bailian_apps.transport.sync_pool import SyncConnections, current, shut_down
from bailian_apps.transport.timeouts import TimeoutBudget


class _TrackedBody(io.BytesIO):
    """A request body that knows whether sending it was started.

    It is sent after the head, so until then the server cannot have run anything. The library's
    exceptions do not show this: behind a proxy, a reset after sending looks like one before.
    """

    def __init__(self, data: bytes, budget: TimeoutBudget) -> None:
        super().__init__(data)
        self.started = False
        self._budget = budget

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        if not self.started:
            self.started = True
            self._budget.request_started()
        return super().read(size)


class SyncCall:
    """One POST and its response.

    Attributes:
        budget: How long it waits.
    """

    def __init__(self, connections: SyncConnections, budget: TimeoutBudget) -> None:
        """Prepare a call; `frames` sends it."""
        self.budget = budget
        self._connections = connections
        self._response: Any = None
        self._body: ResponseBody | None = None
        # The socket that the call uses, until someone takes it out: to shut it down, or because the
        # connection returns to the pool, and may be another call's a moment later.
        self._socket_ref: list[Any] = []
        self._closed = False
        self._process = os.getpid()

    def frames(self, request: HTTPRequest) -> Generator[list[Frame]]:
        """Send the request and yield its frames: in one list those that arrived together.

        Raises:
            BailianError: No answer, an answer that is an error, or a stream that broke off. Closing
                the generator closes the socket.
        """
        try:
            status, headers = self._send(request)
            asked = asked_of(request.url, request.workspace)
            if not is_stream(status, headers):
                yield [read_answer(status, headers, self._read_all(status), asked=asked)]
                return
            reader, draining = FrameReader(headers, asked=asked), False
            while True:
                try:
                    chunk = self._read()
                except BailianError:
                    if reader.run_ended:  # only the end of the stream was lost
                        return
                    raise
                for frames in reader.feed(chunk) if chunk else reader.close():
                    self.budget.stop_clock()
                    yield frames
                    self.budget.start_clock()
                if reader.error is not None:
                    raise reader.error
                if not chunk:
                    return
                if reader.run_ended and not draining:
                    draining = True
                    self.budget.enter_drain_phase()
        finally:
            self.close()

    def track_socket(self, connected: Any) -> None:
        """Remember the socket that the call uses from now on.

        Raises:
            ConnectError: The call was closed; nothing is sent.
        """
        self._socket_ref[:] = [connected]
        if self._closed:
            raise connection_lost_error(sent=False)

    def abort(self) -> None:
        """End the call from outside: from any thread, or in a signal handler.

        It takes no lock and frees nothing that may be in use. The thread that is sending or reading
        finds the connection lost, and closes the call.
        """
        self._closed = True
        # A forked child holds the parent's connection, too; it may only release it.
        if os.getpid() == self._process:
            with contextlib.suppress(IndexError):  # none
                shut_down(self._socket_ref.pop())

    def close(self) -> None:
        """Close the connection, unless it returned to the pool after the last byte.

        Never by way of the pool, which has a lock: the garbage collector, which closes an abandoned
        stream, may have interrupted the very thread that holds it.
        """
        self.abort()
        if self._response is not None:
            self._response.close()

    def _send(self, request: HTTPRequest) -> tuple[int, Mapping[str, str]]:
        """Send the request and read the head of the response."""
        refuse_unseen_call(request.url, sender="urllib3")
        body = _TrackedBody(request.body, self.budget)
        before = current.set(self)  # a signal handler's call may interrupt another
        try:
            limits = urllib3.Timeout(*self.budget.connect_and_read_s())
            response = self._connections.post(request, body, limits)
        except BailianError:
            raise
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if self._closed:
                raise connection_lost_error(sent=body.started) from None
            late = isinstance(error, PoolTimeoutError) or isinstance(
                root_cause(error), TimeoutError
            )
            if late and not isinstance(error, NewConnectionError):
                raise self.budget.error() from None
            if not body.started:
                proxy = self._connections.environment.proxy_for(request.url)
                raise connect_error(request.url, error, proxy=proxy) from None
            raise connection_lost_error(sent=True) from None
        except Exception as error:
            if refused := refusal(error):
                raise refused from None
            raise
        finally:
            current.reset(before)
        self._response, self._body = response, ResponseBody(response)
        if self._body.socket is not None:
            self._socket_ref[:] = [self._body.socket]
        if self._closed:  # meanwhile
            raise connection_lost_error(sent=True)
        return response.status, response.headers

    def _read(self) -> bytes:
        assert self._body is not None, "the head was read"  # noqa: S101
        try:
            chunk = self._body.read(self.budget)
        except (PoolTimeoutError, TimeoutError):
            raise self.budget.error() from None
        except BailianError:
            raise
        except (HTTPError, OSError, ValueError):
            raise connection_lost_error(sent=True, streaming=True) from None
        if not chunk and self._body.clean:
            self._release()
        return chunk

    def _release(self) -> None:
        """Return the connection to the pool, unless the call is being aborted."""
        with contextlib.suppress(IndexError):
            self._socket_ref.pop()
            self._response.release_conn()

    def _read_all(self, status: int) -> bytes:
        parts: list[bytes] = []
        if status != 200:
            self.budget.enter_error_phase()
        try:
            while chunk := self._read():
                parts.append(chunk)
                if status != 200 and sum(map(len, parts)) > MAX_ERROR_BYTES:
                    break
        except BailianError:
            if status == 200:
                raise
            # The status alone says what failed; the part of the body that arrived may explain it.
        return b"".join(parts)
