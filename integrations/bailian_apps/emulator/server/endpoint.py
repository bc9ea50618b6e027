"""The completion endpoint: checks a request as the cloud does and sends the answer of its app.

An ASGI app. It knows nothing of the port and the thread it runs in.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from bailian_apps.emulator.apps.app import App, AppSource, unknown_app
from bailian_apps.emulator.apps.app_files import AppFiles
from bailian_apps.emulator.apps.recorded_app import NotRecorded
from bailian_apps.emulator.credentials import PLAYGROUND_KEY, masked_headers
from bailian_apps.emulator.faults.plan import FaultPlan
from bailian_apps.emulator.models import Call, CutOff, Failure, ReceivedRequest
from bailian_apps.emulator.page.exchanges import Exchanges
from bailian_apps.emulator.responses_api.endpoint import responses_routes
from bailian_apps.emulator.responses_api.runs import RunStore
from bailian_apps.emulator.server.admin import admin_routes
from bailian_apps.emulator.server.local_server import (
    Outcome,
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

if TYPE_CHECKING:
    from bailian_apps.emulator.recorder.recorder import Recorder

BASE_PATH = "/api/v1"
Answering = Callable[..., Coroutine[Any, Any, bool]]
"""Answers one request, as `Cloud` answers a call; returns whether it is to be passed on instead."""

KEPT_REQUESTS = 10_000
KEPT_BYTES = MAX_BODY_BYTES
"""The bodies and headers of the kept requests together; the newest request is always kept."""


@dataclass(eq=False, kw_only=True)
class Cloud:
    """The completion endpoint and its state; the arguments are those of `Emulator`."""

    own_apps: Mapping[str, AppSource]
    as_app: Callable[[AppSource], App]
    api_key: str | None
    pace: float
    sleep: Callable[[float], Awaitable[None]]
    new_sessions: Callable[[], SessionStore]
    strict: bool
    new_runs: Callable[[], RunStore]
    recorder: "Recorder | None" = None

    def __post_init__(self) -> None:
        """Start without requests, sessions, runs and faults."""
        self.faults = FaultPlan()
        self.runs = self.new_runs()
        self._own = self._load_own()
        self.reset()

    def _load_own(self) -> dict[str, App]:
        return {app_id: self.as_app(source) for app_id, source in self.own_apps.items()}

    def reset(self) -> None:
        """Forget everything. Lists that were read before stay as they are."""
        self._changed: dict[str, App | None] = {}  # added, replaced or (None) removed
        self.faults.clear()
        self.requests: list[ReceivedRequest] = []
        self.exchanges = Exchanges(self.recorder.mask if self.recorder else ())
        self._kept_bytes = 0
        self.sessions = self.new_sessions()
        self.runs.clear()
        self.runs = self.new_runs()
        self._request_ids: set[str] = set()

    @property
    def apps(self) -> dict[str, App]:
        """The apps by their ids, as their files are now."""
        if isinstance(self.own_apps, AppFiles) and self.own_apps.update():
            self._own = self._load_own()
        apps = {**self._own, **self._changed}
        return {app_id: app for app_id, app in apps.items() if app is not None}

    def add_app(self, app_id: str, source: AppSource) -> None:
        """Add or replace an app; see `Emulator.add_app`."""
        self._changed[app_id] = self.as_app(source)

    def remove_app(self, app_id: str) -> None:
        """Remove an app; see `Emulator.remove_app`."""
        if app_id not in (apps := self.apps):
            raise KeyError(f"no app {app_id!r} to remove; there are: {', '.join(apps) or 'none'}")
        self._changed[app_id] = None

    def advance(self, seconds: float) -> None:
        """Move the clock forward; see `Emulator.advance`."""
        self.sessions.advance(seconds)
        self.runs.advance(seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call of an app; stop when the client disconnects."""
        await self.serve(scope, receive, send, self._answer)

    async def serve(self, scope: Scope, receive: Receive, send: Send, answer_to: Answering) -> None:
        """Answer one request of any kind with `answer_to`; stop when the client disconnects."""
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
            method=http.method,
            path=http.url.path,
        )
        outcome.stream, outcome.request = request.stream, request
        fault = self.faults.take(request.app_id, stream=request.stream)
        if fault is not None:
            request = replace(request, body=content, fault=fault.name)
        self._keep(request)
        key = http.headers.get("authorization", "").partition(" ")[2].strip()
        exchange = self.exchanges.begin(request, outcome, key)
        if fault is None:
            writer = ResponseWriter(
                send, transport_of(scope), exchange, compress=request.accepts_gzip
            )
            answer = answer_to(request, key, writer, outcome)
        else:
            writer = FaultyResponseWriter(send, transport_of(scope), exchange, fault)
            if fault.fault.raw_response is not None:
                answer = writer.send_raw_response()
            else:
                answer = answer_to(request, key, writer, outcome, as_json=fault.fault.as_json)
        with ExitStack() as stack:
            stack.callback(exchange.end)
            stack.enter_context(request.parsed_once())
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
            if not answering.cancelled() and answering.result() and self.recorder is not None:
                path = await self.recorder.relay(http, content, receive, send, exchange, BASE_PATH)
                outcome.recorded = path is not None

    def check_key(self, key: str) -> None:
        """Refuse a key that is not valid.

        Raises:
            Failure: It is none, or not the emulator's.
        """
        if not key or self.api_key not in (None, key):
            raise Failure(status=401, code="InvalidApiKey", message="Invalid API-key provided.")

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
        self,
        request: ReceivedRequest,
        key: str,
        writer: ResponseWriter,
        outcome: Outcome,
        *,
        as_json: bool = False,
    ) -> bool:
        """Answer a request; return whether it is to be passed on instead."""
        passes_on = key != PLAYGROUND_KEY and self._passes_on(request, writer)
        try:
            self.check_key(key)
            check(request, strict=self.strict)
            apps = self.apps
            app = apps.get(request.app_id) or unknown_app(request.app_id, apps)
            if passes_on and request.app_id not in apps:
                return True
            request_id = allocate(self._request_ids, app.request_id, fallback=writer.request_id)
            writer.request_id = request_id
            sessions = self.sessions
            session = sessions.open(
                request.app_id,
                request.session_id,
                resume=not request.messages and request.app_id in apps,
                recorded=app.session_id,
            )
            if session is None:
                raise invalid(
                    "Required parameter(session_id) missing or invalid: the session "
                    f"{request.session_id} does not exist, has expired, or has reached its "
                    "maximum number of rounds."
                )
            outcome.session_id = session.id
            turns = tuple(session.turns)
            call = Call(request=request, session_id=session.id, request_id=request_id, turns=turns)
            pace = self.pace if app.pace is None else app.pace
            delivery = _Delivery(request, sessions, session, writer, pace, self.sleep)
            async with aclosing(app.frames(call)) as frames:
                await delivery.send(frames, stream=request.stream and not as_json)
        except Failure as failure:
            if passes_on and isinstance(failure, NotRecorded):
                return True
            await writer.fail(failure, writer.request_id)
        except Exception as error:
            problem = f"the app {request.app_id!r} of the emulator raised {error!r}"
            failure = Failure(status=500, code="InternalError", message=problem)
            await writer.fail(failure, writer.request_id)
        return False

    def _passes_on(self, request: ReceivedRequest, writer: ResponseWriter) -> bool:
        """Return whether a call may be passed on if no recording answers it."""
        if self.recorder is None or isinstance(writer, FaultyResponseWriter):
            return False
        # The cloud does not know a session of the emulator.
        return bool(request.messages) or request.session_id not in self.sessions.snapshot()


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
        routes=[
            Route(path, cloud, methods=["POST"]),
            *responses_routes(cloud),
            *admin_routes(cloud),
        ],
        exception_handlers={404: not_found, 405: not_found},
    )
