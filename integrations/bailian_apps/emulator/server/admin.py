"""The emulator's own endpoints, for tests in another process or another language."""

import json
from collections.abc import Callable
from dataclasses import asdict
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

from pydantic import ValidationError, validate_call
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bailian_apps.emulator.faults.plan import FaultPlan
from bailian_apps.emulator.faults.table import FAULTS
from bailian_apps.emulator.models import ReceivedRequest
from bailian_apps.emulator.sessions import Clock, SessionStore
from bailian_apps.emulator.wire.frames import JSON_CONTENT_TYPE, JsonObject, as_object, encode_json

ADMIN_PATH = "/__emulator__"


class Administered(Protocol):
    """What can be looked at and changed."""

    requests: list[ReceivedRequest]
    sessions: SessionStore
    clock: Clock
    faults: FaultPlan

    def reset(self) -> None:
        """Forget everything."""
        ...


def admin_routes(cloud: Administered) -> list[BaseRoute]:
    """Return the endpoints that look at a cloud and change it."""

    def read_requests() -> JsonObject:
        return {"requests": [_shown(request) for request in cloud.requests]}

    def forget_requests() -> None:
        cloud.requests.clear()

    def read_sessions() -> JsonObject:
        return {"sessions": [asdict(each) for each in cloud.sessions.snapshot().values()]}

    def forget_sessions(session_id: str | None = None) -> None:
        cloud.sessions.forget(session_id)

    def read_faults() -> JsonObject:
        return {"faults": {name: fault.about for name, fault in FAULTS.items()}}

    def advance(advance_s: float) -> None:
        cloud.clock.advance(advance_s)

    return [
        _route("/requests", GET=read_requests, DELETE=forget_requests),
        _route("/sessions", GET=read_sessions, DELETE=forget_sessions),
        _route("/faults", GET=read_faults, POST=cloud.faults.add, DELETE=cloud.faults.clear),
        _route("/clock", POST=advance),
        _route("/reset", POST=cloud.reset),
    ]


def _route(path: str, **handlers: Callable[..., JsonObject | None]) -> Route:
    checked = {method: validate_call(handler) for method, handler in handlers.items()}

    async def endpoint(request: Request) -> Response:
        try:
            if _comes_from_a_page(request):
                answer, status = _refusal("not for web pages; ask localhost, without Origin"), 403
            else:
                arguments = await _arguments(request)
                answer, status = checked[request.method](**arguments) or {}, 200
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            answer, status = _refusal(f"{'.'.join(map(str, first['loc']))}: {first['msg']}"), 400
        except (ValueError, KeyError) as error:
            answer, status = _refusal(str(error.args[0])), 400
        return Response(encode_json(answer), status, media_type=JSON_CONTENT_TYPE)

    return Route(ADMIN_PATH + path, endpoint, methods=list(checked))


def _comes_from_a_page(request: Request) -> bool:
    """Whether a web page asks: a site's own, or one whose name was made to lead to loopback."""
    asked = request.headers.get("host", "")
    host = urlsplit(f"//{asked}").hostname or ""
    listens = (request.scope.get("server") or ("",))[0]
    led_here = _is_loopback(listens) and host != "localhost" and not _is_loopback(host)
    return "origin" in request.headers or led_here


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


async def _arguments(request: Request) -> dict[str, Any]:
    content = await request.body() if request.method == "POST" else b""
    if not content:
        return dict(request.query_params)
    arguments = as_object(json.loads(content))
    if arguments is None:
        raise ValueError("the body must be a JSON object of arguments")
    return arguments


def _refusal(message: str) -> JsonObject:
    return {"code": "InvalidParameter", "message": message}


def _shown(request: ReceivedRequest) -> JsonObject:
    return {
        "app_id": request.app_id,
        "stream": request.stream,
        "fault": request.fault,
        "gone": request.gone.is_set(),
        "headers": request.headers,
        "body": request.shown_body,
    }
