"""The HTTP side: checks a request as the cloud does, and sends the answer of its app.

An ASGI app of one route. It knows sockets only as ASGI's `receive` and `send`; who runs it, and on
which port, is not its business.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from bailian_apps.emulator.apps import App, UnknownApp
from bailian_apps.emulator.calls import Call, Failure, ReceivedRequest
from bailian_apps.emulator.flow_modes import FLOW_STREAM_MODES
from bailian_apps.emulator.rendering import fold, join_text, render, without_thoughts
from bailian_apps.emulator.replies import Reply
from bailian_apps.emulator.sessions import Session, SessionStore, Turn, UniqueIds
from bailian_apps.emulator.wire import JSON_CONTENT_TYPE, Frame, as_object, encode_json

BASE_PATH = "/api/v1"


class Cloud:
    """The completion endpoint, and everything it remembers."""

    def __init__(
        self,
        apps: Mapping[str, App],
        *,
        api_key: str | None,
        pace: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """Open the endpoint.

        Args:
            apps: The apps by their ids.
            api_key: The only key that is let in; None lets in every key but an empty one.
            pace: How many times faster than recorded; 0 does not wait at all.
            sleep: How to wait, in seconds.
        """
        self.requests: list[ReceivedRequest] = []
        self.sessions = SessionStore()
        self._apps = apps
        self._api_key = api_key
        self._pace = pace
        self._sleep = sleep
        self._request_ids = UniqueIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; stop as soon as nobody waits for the answer."""
        http = Request(scope, receive)
        try:
            content = await http.body()
        except ClientDisconnect:
            return
        request = ReceivedRequest(
            app_id=http.path_params["app_id"],
            body=_parse(content),
            headers=_masked(http.headers),
        )
        self.requests.append(request)
        key = http.headers.get("authorization", "").partition(" ")[2].strip()
        answering = asyncio.create_task(self._answer(request, key, Reply(send)))
        hanging_up = asyncio.create_task(_hang_up(receive))
        try:
            await asyncio.wait({answering, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not answering.done():
                request.gone.set()
                answering.cancel()
            hanging_up.cancel()
            await asyncio.wait({answering, hanging_up})
        if not answering.cancelled():
            answering.result()

    async def _answer(self, request: ReceivedRequest, key: str, reply: Reply) -> None:
        app = self._apps.get(request.app_id, UnknownApp())
        request_id = str(uuid.uuid4())
        try:
            self._check(request, key)
            request_id = self._request_ids.give(app.request_id, otherwise=request_id)
            session = self.sessions.find_or_open(
                request.app_id,
                request.session_id,
                resume=not request.messages,
                recorded=app.session_id,
            )
            call = Call(
                request=request,
                session_id=session.id,
                request_id=request_id,
                turns=tuple(session.turns),
            )
            async with aclosing(app.frames(call)) as frames:
                if request.stream:
                    await self._stream(request, session, frames, reply)
                else:
                    await self._whole(request, session, frames, reply)
        except Failure as failure:
            await reply.fail(failure, request_id)
        except Exception as error:
            problem = f"the app {request.app_id!r} of the emulator raised {error!r}"
            failure = Failure(status=500, code="InternalError", message=problem)
            await reply.fail(failure, request_id)

    def _check(self, request: ReceivedRequest, key: str) -> None:
        """Refuse what the cloud refuses before any app runs.

        Raises:
            Failure: The answer to such a request.
        """
        if not key or self._api_key not in (None, key):
            raise Failure(status=401, code="InvalidApiKey", message="Invalid API-key provided.")
        if not request.body:
            raise _invalid("The request body must be a JSON object.")
        if not request.prompt:
            raise _invalid(
                "Required parameter(prompt or messages) missing or invalid, "
                "please check the request parameters."
            )
        if request.messages and request.messages[-1].get("role") != "user":
            raise _invalid("The last of the messages must have the role user.")
        mode = request.parameters.get("flow_stream_mode")
        if mode and mode not in FLOW_STREAM_MODES:
            raise _invalid(f"flow_stream_mode must be one of {', '.join(FLOW_STREAM_MODES)}.")

    async def _stream(
        self,
        request: ReceivedRequest,
        session: Session,
        frames: AsyncIterator[Frame],
        reply: Reply,
    ) -> None:
        sent_ms = 0.0
        remembered = self._remembered(request, session, frames)
        async with aclosing(render(remembered, request.parameters)) as rendered:
            async for frame in rendered:
                await self._wait(frame.offset_ms - sent_ms)
                sent_ms = frame.offset_ms
                await reply.send_frame(frame)
                await asyncio.sleep(0)  # a replay at once takes turns with the other streams
        await reply.end_stream()

    async def _whole(
        self,
        request: ReceivedRequest,
        session: Session,
        frames: AsyncIterator[Frame],
        reply: Reply,
    ) -> None:
        told = [frame async for frame in frames]
        if not told:
            raise ValueError("no frame at all; yield at least one payload")
        whole = fold(told)
        await self._wait(whole.offset_ms)
        if whole.event == "result":
            self.sessions.keep(session)
            session.turns.append(Turn(request.prompt, join_text("", whole)))
        if request.parameters.get("has_thoughts") is not True:
            whole = without_thoughts(whole)
        await reply.send_json(whole.status, whole.payload)

    async def _remembered(
        self, request: ReceivedRequest, session: Session, frames: AsyncIterator[Frame]
    ) -> AsyncGenerator[Frame, None]:
        """Note the turn before its last frame is sent: whoever reads that frame finds it."""
        text = ""
        async for frame in frames:
            text = join_text(text, frame)
            if frame.event == "result":
                self.sessions.keep(session)
            if frame.finished:
                session.turns.append(Turn(request.prompt, text))
            yield frame

    async def _wait(self, recorded_ms: float) -> None:
        if self._pace and recorded_ms > 0:
            await self._sleep(recorded_ms / 1000 / self._pace)


def asgi_app(cloud: Cloud) -> Starlette:
    """Put the endpoint where the cloud has it."""
    path = f"{BASE_PATH}/apps/{{app_id}}/completion"

    async def not_here(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        message = f"{request.method} {request.url.path} is not served here; POST {path} is."
        body = {"code": "NotFound", "message": message, "request_id": str(uuid.uuid4())}
        return Response(encode_json(body), status, media_type=JSON_CONTENT_TYPE)

    return Starlette(
        routes=[Route(path, cloud, methods=["POST"])],
        exception_handlers={404: not_here, 405: not_here},
    )


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _parse(content: bytes) -> dict[str, object]:
    try:
        return as_object(json.loads(content)) or {}
    except ValueError:
        return {}


def _masked(headers: Mapping[str, str]) -> dict[str, str]:
    masked = dict(headers)
    if "authorization" in masked:
        masked["authorization"] = masked["authorization"].partition(" ")[0] + " ***"
    return masked


def _invalid(message: str) -> Failure:
    return Failure(status=400, code="InvalidParameter", message=message)
