"""The HTTP side: checks a request as the cloud does, and sends the answer of its app.

An ASGI app of one route. It knows sockets only as ASGI's `receive` and `send`; who runs it, and on
which port, is not its business.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from bailian_apps.emulator.apps.app import App, UnknownApp
from bailian_apps.emulator.faults.plan import FaultPlan, Staged
from bailian_apps.emulator.faults.table import FAULTS
from bailian_apps.emulator.models import Call, CutOff, Failure, ReceivedRequest, asks_for_stream
from bailian_apps.emulator.server.admin import admin_routes
from bailian_apps.emulator.server.responses import FaultyReply, Reply
from bailian_apps.emulator.server.uvicorn_thread import hang_up, transport_of
from bailian_apps.emulator.server.validation import check, invalid
from bailian_apps.emulator.sessions import (
    Clock,
    NoSuchSessionError,
    Round,
    SessionRules,
    SessionStore,
    UniqueIds,
)
from bailian_apps.emulator.wire.frames import JSON_CONTENT_TYPE, Frame, as_object, encode_json
from bailian_apps.emulator.wire.rendering import fold, join_text, render, without_thoughts

BASE_PATH = "/api/v1"
KEPT_REQUESTS = 10_000


class Cloud:
    """The completion endpoint, and everything it remembers."""

    def __init__(
        self,
        apps: Mapping[str, App],
        *,
        api_key: str | None,
        pace: float,
        sleep: Callable[[float], Awaitable[None]],
        session_rules: SessionRules,
        strict: bool,
    ) -> None:
        """Open the endpoint.

        Args:
            apps: The apps by their ids.
            api_key: The only key that is let in; None lets in every key but an empty one.
            pace: How many times faster than recorded; 0 does not wait at all.
            sleep: How to wait, in seconds.
            session_rules: How long sessions live.
            strict: Whether to refuse what the API does not document.
        """
        self._own_apps = apps
        self._api_key = api_key
        self._pace = pace
        self._sleep = sleep
        self._session_rules = session_rules
        self._strict = strict
        self.faults = FaultPlan(FAULTS)
        self.reset()

    def reset(self) -> None:
        """Forget everything; what a test has taken out of here before stays as it was."""
        self.apps = dict(self._own_apps)
        self.faults.clear()
        self.clock = Clock()
        self.requests: list[ReceivedRequest] = []
        self.sessions = SessionStore(self._session_rules, self.clock)
        self._request_ids = UniqueIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; stop as soon as nobody waits for the answer."""
        http = Request(scope, receive)
        try:
            content = await http.body()
        except ClientDisconnect:
            return
        app_id = http.path_params["app_id"]
        staged = self.faults.take(app_id, stream=asks_for_stream(http.headers))
        request = ReceivedRequest(
            app_id=app_id,
            body=_parse(content),
            headers=_masked(http.headers),
            fault=staged.name if staged else None,
        )
        self.requests.append(request)
        del self.requests[:-KEPT_REQUESTS]
        key = http.headers.get("authorization", "").partition(" ")[2].strip()
        if staged is None:
            answer = self._answer(request, key, Reply(send))
        else:
            answer = self._answer_badly(request, key, send, transport_of(scope), staged)
        answering = asyncio.create_task(answer)
        hanging_up = asyncio.create_task(hang_up(receive))
        try:
            await asyncio.wait({answering, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done() and isinstance(answering.exception(), CutOff):
                transport_of(scope).close()
                await hanging_up
            if staged and answering.done():
                await hanging_up
        finally:
            if not answering.done():
                request.gone.set()
                answering.cancel()
            hanging_up.cancel()
            await asyncio.wait({answering, hanging_up})
        if not answering.cancelled():
            with suppress(CutOff):
                answering.result()

    async def _answer_badly(
        self,
        request: ReceivedRequest,
        key: str,
        send: Send,
        transport: asyncio.Transport,
        staged: Staged,
    ) -> None:
        reply = FaultyReply(send, transport, staged)
        if staged.fault.instead is not None:
            await reply.send_instead()
        else:
            await self._answer(request, key, reply, stream=not staged.fault.as_json)

    async def _answer(
        self, request: ReceivedRequest, key: str, reply: Reply, *, stream: bool = True
    ) -> None:
        request_id = str(uuid.uuid4())
        try:
            if not key or self._api_key not in (None, key):
                raise Failure(status=401, code="InvalidApiKey", message="Invalid API-key provided.")
            check(request, strict=self._strict)
            app = self.apps.get(request.app_id, UnknownApp())
            request_id = self._request_ids.give(app.request_id, otherwise=request_id)
            round_ = self._open_round(request, app)
            call = Call(
                request=request,
                session_id=round_.session.id,
                request_id=request_id,
                turns=tuple(round_.session.turns),
            )
            pace = self._pace if app.pace is None else app.pace
            async with aclosing(app.frames(call)) as frames:
                if request.stream and stream:
                    await self._stream(request, round_, frames, reply, pace)
                else:
                    await self._whole(request, round_, frames, reply, pace)
        except Failure as failure:
            await reply.fail(failure, request_id)
        except CutOff:
            raise
        except Exception as error:
            problem = f"the app {request.app_id!r} of the emulator raised {error!r}"
            failure = Failure(status=500, code="InternalError", message=problem)
            await reply.fail(failure, request_id)

    def _open_round(self, request: ReceivedRequest, app: App) -> Round:
        try:
            return self.sessions.open_round(
                request.app_id,
                request.session_id,
                resume=not request.messages and not isinstance(app, UnknownApp),
                recorded=app.session_id,
                prompt=request.prompt,
            )
        except NoSuchSessionError as error:
            raise invalid(
                f"Required parameter(session_id) missing or invalid: there is no session {error}, "
                "it has expired, or it takes no more rounds."
            ) from None

    async def _stream(
        self,
        request: ReceivedRequest,
        round_: Round,
        frames: AsyncIterator[Frame],
        reply: Reply,
        pace: float,
    ) -> None:
        sent_ms = 0.0
        remembered = _remembered(round_, frames)
        async with aclosing(render(remembered, request.parameters)) as rendered:
            try:
                async for frame in rendered:
                    await self._wait(frame.offset_ms - sent_ms, pace)
                    sent_ms = frame.offset_ms
                    await reply.send_frame(frame)
                    await asyncio.sleep(0)  # a replay at once takes turns with the other streams
            except CutOff as cut:
                await self._wait(cut.offset_ms - sent_ms, pace)
                raise
        await reply.end_stream()

    async def _whole(
        self,
        request: ReceivedRequest,
        round_: Round,
        frames: AsyncIterator[Frame],
        reply: Reply,
        pace: float,
    ) -> None:
        try:
            told = [frame async for frame in frames]
        except CutOff as cut:
            await self._wait(cut.offset_ms, pace)
            raise
        if not told:
            raise ValueError("no frame at all; yield at least one payload")
        whole = fold(told)
        await self._wait(whole.offset_ms, pace)
        if whole.event == "result":
            round_.begin()
            round_.end(join_text("", whole))
        if request.parameters.get("has_thoughts") is not True:
            whole = without_thoughts(whole)
        await reply.send_whole(whole)

    async def _wait(self, recorded_ms: float, pace: float) -> None:
        if pace and recorded_ms > 0:
            await self._sleep(recorded_ms / 1000 / pace)


def asgi_app(cloud: Cloud) -> Starlette:
    """Put the endpoint where the cloud has it."""
    path = f"{BASE_PATH}/apps/{{app_id}}/completion"

    async def not_here(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        message = f"{request.method} {request.url.path} is not served here; POST {path} is."
        body = {"code": "NotFound", "message": message, "request_id": str(uuid.uuid4())}
        return Response(encode_json(body), status, media_type=JSON_CONTENT_TYPE)

    return Starlette(
        routes=[Route(path, cloud, methods=["POST"]), *admin_routes(cloud)],
        exception_handlers={404: not_here, 405: not_here},
    )


async def _remembered(round_: Round, frames: AsyncIterator[Frame]) -> AsyncGenerator[Frame, None]:
    """Note the turn before its last frame is sent: whoever reads that frame finds it."""
    text = ""
    async for frame in frames:
        text = join_text(text, frame)
        if frame.event == "result":
            round_.begin()
        if frame.finished:
            round_.end(text)
        yield frame


def _parse(content: bytes) -> dict[str, object]:
    try:
        return as_object(_DECODER.decode(content.decode())) or {}
    except (ValueError, RecursionError):
        return {}


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)  # NaN, which Python's own would read


def _masked(headers: Mapping[str, str]) -> dict[str, str]:
    masked = dict(headers)
    if "authorization" in masked:
        masked["authorization"] = masked["authorization"].partition(" ")[0] + " ***"
    return masked
