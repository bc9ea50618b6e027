"""The endpoints of the Responses API: create, retrieve, cancel and delete a response."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bailian_apps.emulator.models import Call, CutOff, Failure, ReceivedRequest
from bailian_apps.emulator.responses_api.bodies import read_body
from bailian_apps.emulator.responses_api.objects import EventStream, error_body
from bailian_apps.emulator.responses_api.runs import Run
from bailian_apps.emulator.server.local_server import Outcome
from bailian_apps.emulator.server.responses import ResponseWriter
from bailian_apps.emulator.server.validation import invalid
from bailian_apps.emulator.wire.frames import Frame, JsonObject

if TYPE_CHECKING:
    from bailian_apps.emulator.server.endpoint import Cloud

RESPONSES_PATH = "/api/v2/apps/agent/{app_id}/compatible-mode/v1/responses"

_NOT_ENDED = "Only a response that has ended can be deleted."
_ENDED = {"code": "InvalidParameter", "message": "The response has ended; it is not cancelled."}

Handler = Callable[[ReceivedRequest, ResponseWriter, str], Coroutine[Any, Any, JsonObject | None]]


def responses_routes(cloud: "Cloud") -> list[BaseRoute]:
    """Return the endpoints of a cloud."""
    api = ResponsesAPI(cloud)
    run = RESPONSES_PATH + "/{run_id}"
    return [
        Route(RESPONSES_PATH, api.endpoint(api.create), methods=["POST"]),
        Route(run, api.endpoint(api.retrieve), methods=["GET"]),
        Route(run, api.endpoint(api.delete), methods=["DELETE"]),
        Route(f"{run}/cancel", api.endpoint(api.cancel), methods=["POST"]),
    ]


class ResponsesAPI:
    """The Responses API of a cloud. A handler returns the object to answer with, or has answered.

    What the vendor's page leaves open is a guess: the form of errors (OpenAI's), the answers for
    runs that are not there, and those for runs that cannot be cancelled or deleted.
    """

    def __init__(self, cloud: "Cloud") -> None:
        """Serve the apps of a cloud."""
        self._cloud = cloud

    def endpoint(self, handler: Handler) -> ASGIApp:
        """Return the ASGI app of one operation."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            run_id = scope["path_params"].get("run_id", "")

            async def answer(
                request: ReceivedRequest,
                key: str,
                writer: ResponseWriter,
                _: Outcome,
                *,
                as_json: bool = False,
            ) -> bool:
                try:
                    self._cloud.check_key(key)
                    content = await handler(request, writer, run_id)
                except Failure as failure:
                    error = error_body(failure.code, failure.message, writer.request_id)
                    frame = Frame(payload=error, status=failure.status)
                    await writer.send_whole(frame, failure.headers)
                else:
                    if content is not None:
                        await writer.send_whole(Frame(payload=content))
                return False

            await self._cloud.serve(scope, receive, send, answer)

        return _ASGIApp(app)

    async def create(
        self, request: ReceivedRequest, writer: ResponseWriter, _: str
    ) -> JsonObject | None:
        """Answer a request: now, in a stream, or in the background."""
        body, read = read_body(request, strict=self._cloud.strict)
        if request.app_id not in self._cloud.apps:
            raise invalid("Required parameter(AppId) missing or invalid.")
        request_id = writer.request_id
        if body.background:

            async def answer(run: Run) -> None:
                try:
                    await self._answer(run, request_id)
                except Failure as failure:
                    run.failure = failure

            run = self._cloud.runs.submit(read, answer)
            return run.as_object("queued")
        run = Run(app_id=request.app_id, request=read, background=False, starts_s=0, ends_s=0)
        if not body.stream:
            await self._answer(run, request_id)
            return run.as_object("completed")
        await self._stream(run, writer)
        return None

    async def retrieve(
        self, request: ReceivedRequest, _: ResponseWriter, run_id: str
    ) -> JsonObject:
        """Return a run as it is."""
        run = self._find(request, run_id)
        return run.as_object(run.status(self._cloud.runs.now_s()))

    async def cancel(self, request: ReceivedRequest, _: ResponseWriter, run_id: str) -> JsonObject:
        """Cancel a run that is queued or running; for another one the answer says `failed`."""
        run = self._find(request, run_id)
        if self._cloud.runs.cancel(run):
            return run.as_object("cancelled")
        return {**run.as_object("failed"), "error": _ENDED}

    async def delete(self, request: ReceivedRequest, _: ResponseWriter, run_id: str) -> JsonObject:
        """Forget a run that has ended."""
        run = self._find(request, run_id)
        if not self._cloud.runs.delete(run):
            raise invalid(_NOT_ENDED)
        return {"id": run_id, "object": "response", "deleted": True}

    def _find(self, request: ReceivedRequest, run_id: str) -> Run:
        run = self._cloud.runs.get(request.app_id, run_id)
        if run is None:
            message = f"Response with id '{run_id}' not found."
            raise Failure(status=404, code="NotFound", message=message)
        return run

    async def _answer(self, run: Run, request_id: str) -> None:
        async for frame in self._frames(run.request, request_id):
            run.output.feed(frame)

    async def _stream(self, run: Run, writer: ResponseWriter) -> None:
        events = EventStream(run.as_object("in_progress"))
        begun = False
        try:
            async for frame in self._frames(run.request, writer.request_id):
                for event in [*(() if begun else events.begin()), *events.feed(frame)]:
                    await writer.send_frame(event)
                begun = True
            rest = [*(() if begun else events.begin()), *events.end()]
        except Failure as failure:
            if not begun:
                raise
            rest = list(events.fail(failure.code, failure.message))
        for event in rest:
            await writer.send_frame(event)
        await writer.end_stream()

    async def _frames(
        self, request: ReceivedRequest, request_id: str
    ) -> AsyncGenerator[Frame, None]:
        """Yield the frames of the app at the emulator's pace.

        Raises:
            Failure: The app failed, whenever it did.
        """
        app = self._cloud.apps[request.app_id]
        pace = self._cloud.pace if app.pace is None else app.pace
        call = Call(request=request, session_id=request_id, request_id=request_id)
        now_ms = 0.0
        try:
            async with aclosing(app.frames(call)) as frames:
                async for frame in frames:
                    if pace and frame.offset_ms > now_ms:
                        await self._cloud.sleep((frame.offset_ms - now_ms) / 1000 / pace)
                    now_ms = frame.offset_ms
                    if frame.event == "error":
                        code, message = (frame.payload.get(name) for name in ("code", "message"))
                        raise Failure(status=frame.status, code=str(code), message=str(message))
                    yield frame
        except CutOff:
            raise Failure(
                status=500, code="InternalError", message="The run was cut off."
            ) from None
        except Failure:
            raise
        except Exception as error:
            problem = f"the app {request.app_id!r} of the emulator raised {error!r}"
            raise Failure(status=500, code="InternalError", message=problem) from error


class _ASGIApp:
    """An ASGI app as an object: Starlette takes a function for a handler of its own kind."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
