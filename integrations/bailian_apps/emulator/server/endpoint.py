"""The completion endpoint: checks a request as the cloud does and sends the answer of its app.

An ASGI app. It knows nothing of the port and the thread it runs in.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import accumulate

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from bailian_apps.emulator.apps.app import UNKNOWN_APP, App
from bailian_apps.emulator.credentials import masked_headers
from bailian_apps.emulator.faults.plan import FaultPlan
from bailian_apps.emulator.models import Call, CutOff, Failure, ReceivedRequest
from bailian_apps.emulator.page.exchanges import Exchanges
from bailian_apps.emulator.server.admin import admin_routes
from bailian_apps.emulator.server.local_server import (
    outcome_of,
    transport_of,
    wait_for_disconnect,
)
from bailian_apps.emulator.server.refusals import (
    MAX_BODY_BYTES,
    TOO_LONG,
    error_response,
    read_body,
)
from bailian_apps.emulator.server.responses import FaultyResponseWriter, ResponseWriter
from bailian_apps.emulator.server.validation import check, invalid
from bailian_apps.emulator.sessions import Session, SessionStore, Turn, allocate
from bailian_apps.emulator.wire.cumulative import join_text
from bailian_apps.emulator.wire.frames import Frame
from bailian_apps.emulator.wire.rendering import as_json_answer, fold, render

BASE_PATH = "/api/v1"
KEPT_REQUESTS = 10_000
KEPT_BYTES = MAX_BODY_BYTES
"""The bodies and headers of the kept requests together; the newest request is always kept."""


@dataclass(eq=False, kw_only=True)
class Cloud:
    """The completion endpoint and its state; the arguments are those of `Emulator`."""

    own_apps: Mapping[str, App]
    api_key: str | None
    pace: float
    sleep: Callable[[float], Awaitable[None]]
    new_sessions: Callable[[], SessionStore]
    strict: bool

    def __post_init__(self) -> None:
        """Start without requests, sessions and faults."""
        self.faults = FaultPlan()
        self.reset()

    def reset(self) -> None:
        """Forget everything. Lists that were read before stay as they are."""
        self.apps = dict(self.own_apps)
        self.faults.clear()
        self.requests: list[ReceivedRequest] = []
        self.exchanges = Exchanges()
        self._kept_bytes = 0
        self.sessions = self.new_sessions()
        self._request_ids: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; stop when the client disconnects."""
        http = Request(scope, receive)
        outcome = outcome_of(scope)
        try:
            content = await read_body(http)
        except ClientDisconnect:
            return
        if content is None:
            await error_response(413, "InvalidParameter", TOO_LONG)(scope, receive, send)
            return
        request = ReceivedRequest(
            app_id=http.path_params["app_id"],
            body=content,
            headers=masked_headers(http.headers),
            body_bytes=len(content),
        )
        outcome.stream = request.stream
        fault = self.faults.take(request.app_id, stream=request.stream)
        if fault is not None:
            request = replace(request, body=content, fault=fault.name)
        self._keep(request)
        exchange = self.exchanges.begin(request, outcome)
        key = http.headers.get("authorization", "").partition(" ")[2].strip()
        if fault is None:
            writer = ResponseWriter(
                send, transport_of(scope), exchange, compress=request.accepts_gzip
            )
            answer = self._answer(request, key, writer)
        else:
            writer = FaultyResponseWriter(send, transport_of(scope), exchange, fault)
            if fault.fault.raw_response is not None:
                answer = writer.send_raw_response()
            else:
                answer = self._answer(request, key, writer, as_json=fault.fault.as_json)
        with request.parsed_once():
            answering = asyncio.create_task(answer)
            disconnecting = asyncio.create_task(wait_for_disconnect(receive))
            try:
                await asyncio.wait({answering, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
                if fault and answering.done():
                    await disconnecting
            finally:
                if not answering.done():
                    request.disconnected.set()
                    answering.cancel()
                disconnecting.cancel()
                await asyncio.wait({answering, disconnecting})
                exchange.end()
        if not answering.cancelled():
            answering.result()

    def _keep(self, request: ReceivedRequest) -> None:
        """Keep a request, and forget the oldest ones if there are too many or they are too long."""
        self.requests.append(request)
        del self.requests[:-KEPT_REQUESTS]
        # The list is the user's to clear; so the sum is only an upper bound until it is made again.
        self._kept_bytes += request.size
        if self._kept_bytes > KEPT_BYTES:
            sums = accumulate(each.size for each in reversed(self.requests))
            kept = sum(total <= KEPT_BYTES for total in sums) or 1
            del self.requests[:-kept]
            self._kept_bytes = sum(each.size for each in self.requests)

    async def _answer(
        self, request: ReceivedRequest, key: str, writer: ResponseWriter, *, as_json: bool = False
    ) -> None:
        try:
            if not key or self.api_key not in (None, key):
                raise Failure(status=401, code="InvalidApiKey", message="Invalid API-key provided.")
            check(request, strict=self.strict)
            app = self.apps.get(request.app_id, UNKNOWN_APP)
            request_id = allocate(self._request_ids, app.request_id, fallback=writer.request_id)
            writer.request_id = request_id
            sessions = self.sessions
            session = sessions.open(
                request.app_id,
                request.session_id,
                resume=not request.messages and app is not UNKNOWN_APP,
                recorded=app.session_id,
            )
            if session is None:
                raise invalid(
                    "Required parameter(session_id) missing or invalid: the session "
                    f"{request.session_id} does not exist, has expired, or has reached its "
                    "maximum number of rounds."
                )
            turns = tuple(session.turns)
            call = Call(request=request, session_id=session.id, request_id=request_id, turns=turns)
            pace = self.pace if app.pace is None else app.pace
            delivery = _Delivery(request, sessions, session, writer, pace, self.sleep)
            async with aclosing(app.frames(call)) as frames:
                await delivery.send(frames, stream=request.stream and not as_json)
        except Failure as failure:
            await writer.fail(failure, writer.request_id)
        except Exception as error:
            problem = f"the app {request.app_id!r} of the emulator raised {error!r}"
            failure = Failure(status=500, code="InternalError", message=problem)
            await writer.fail(failure, writer.request_id)


@dataclass(slots=True)
class _Delivery:
    """Sends the frames of one answer as its request asks, and adds the turn to its session."""

    request: ReceivedRequest
    sessions: SessionStore  # the one that the session was opened in, also after a reset
    session: Session
    writer: ResponseWriter
    pace: float
    sleep: Callable[[float], Awaitable[None]]
    now_ms: float = 0.0

    async def send(self, frames: AsyncIterator[Frame], *, stream: bool) -> None:
        """Send an event stream or one JSON response."""
        try:
            await (self._stream(frames) if stream else self._send_folded(frames))
        except CutOff as cut:
            await self._wait_until(cut.offset_ms)
            await self.writer.cut_off()

    async def _stream(self, frames: AsyncIterator[Frame]) -> None:
        async with aclosing(render(self._recorded(frames), self.request.parameters)) as rendered:
            async for frame in rendered:
                await self._wait_until(frame.offset_ms)
                await self.writer.send_frame(frame)
                await asyncio.sleep(0)  # without a pace, streams would starve each other
        await self.writer.end_stream()

    async def _send_folded(self, frames: AsyncIterator[Frame]) -> None:
        collected = [frame async for frame in frames]
        if not collected:
            raise ValueError("the app yielded no frame; yield at least one payload")
        whole = fold(collected)
        await self._wait_until(whole.offset_ms)
        if whole.event == "result":
            self.sessions.keep(self.session)
            self._add_turn(join_text("", whole))
        await self.writer.send_whole(as_json_answer(whole, self.request.parameters))

    async def _recorded(self, frames: AsyncIterator[Frame]) -> AsyncGenerator[Frame, None]:
        """Add the turn before its last frame is sent, so that a client that reads it finds it."""
        text = ""
        async for frame in frames:
            text = join_text(text, frame)
            if frame.event == "result":
                self.sessions.keep(self.session)
            if frame.finished:
                self._add_turn(text)
            yield frame

    def _add_turn(self, answer: str) -> None:
        self.sessions.add_turn(self.session, Turn(self.request.prompt, answer))

    async def _wait_until(self, offset_ms: float) -> None:
        recorded_ms, self.now_ms = offset_ms - self.now_ms, offset_ms
        if self.pace and recorded_ms > 0:
            await self.sleep(recorded_ms / 1000 / self.pace)


def asgi_app(cloud: Cloud) -> Starlette:
    """Return the ASGI app with the completion endpoint and the admin endpoints."""
    path = f"{BASE_PATH}/apps/{{app_id}}/completion"

    async def not_found(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        message = f"{request.method} {request.url.path} is not served; POST {path} is."
        return error_response(status, "NotFound", message)

    return Starlette(
        routes=[Route(path, cloud, methods=["POST"]), *admin_routes(cloud)],
        exception_handlers={404: not_found, 405: not_found},
    )
