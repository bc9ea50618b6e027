"""The admin endpoints under `/__emulator__`, for tests in another process or language."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError, validate_call
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bailian_apps.emulator.apps.files import parse_app
from bailian_apps.emulator.errors import first_problem
from bailian_apps.emulator.faults.plan import FaultSpec
from bailian_apps.emulator.faults.table import FAULTS
from bailian_apps.emulator.models import ReceivedRequest
from bailian_apps.emulator.server.refusals import TOO_LONG, read_body
from bailian_apps.emulator.wire.frames import (
    JSON_CONTENT_TYPE,
    JsonObject,
    as_object,
    encode_json,
    parse_json,
)

if TYPE_CHECKING:
    from bailian_apps.emulator.server.endpoint import Cloud

ADMIN_PATH = "/__emulator__"


def admin_routes(cloud: "Cloud") -> list[BaseRoute]:
    """Return the admin endpoints of a cloud."""

    def read_requests() -> bytes:
        # One by one: parsed, all of them could take many times the memory of their bytes.
        shown = [encode_json(_as_json(request)) for request in cloud.requests]
        return b'{"requests":[' + b",".join(shown) + b"]}"

    def forget_requests() -> None:
        cloud.requests.clear()

    def read_sessions() -> JsonObject:
        return {"sessions": [asdict(each) for each in cloud.sessions.snapshot().values()]}

    def forget_sessions(session_id: str | None = None) -> None:
        cloud.sessions.forget(session_id)

    def read_faults() -> JsonObject:
        return {"faults": {name: fault.description for name, fault in FAULTS.items()}}

    def add_fault(**fields: Any) -> None:
        cloud.faults.add(FaultSpec.model_validate(fields))

    def advance(advance_s: float) -> None:
        cloud.advance(advance_s)

    def read_apps() -> JsonObject:
        return {"apps": [{"id": app_id, "kind": app.kind} for app_id, app in cloud.apps.items()]}

    def put_app(app_id: str, scenario: str) -> None:
        cloud.add_app(app_id, parse_app(scenario))

    return [
        _route("/apps", GET=read_apps),
        _route("/apps/{app_id}", PUT=put_app, DELETE=cloud.remove_app),
        _route("/requests", GET=read_requests, DELETE=forget_requests),
        _route("/sessions", GET=read_sessions, DELETE=forget_sessions),
        _route("/faults", GET=read_faults, POST=add_fault, DELETE=cloud.faults.clear),
        _route("/clock", POST=advance),
        _route("/reset", POST=cloud.reset),
    ]


def _route(path: str, **handlers: Callable[..., JsonObject | bytes | None]) -> Route:
    checked = {method: validate_call(handler) for method, handler in handlers.items()}

    async def endpoint(request: Request) -> Response:
        try:
            arguments = await _arguments(request)
            answer, status = checked[request.method](**arguments) or {}, 200
        except ValidationError as error:
            answer, status = _error(first_problem(error)), 400
        except (ValueError, KeyError) as error:
            answer, status = _error(str(error.args[0])), 400
        content = answer if isinstance(answer, bytes) else encode_json(answer)
        return Response(content, status, media_type=JSON_CONTENT_TYPE)

    return Route(ADMIN_PATH + path, endpoint, methods=list(checked))


async def _arguments(request: Request) -> dict[str, Any]:
    content = await read_body(request) if request.method in ("POST", "PUT") else b""
    if content is None:
        raise ValueError(TOO_LONG)
    if request.method == "PUT":
        return {**request.path_params, "scenario": _text(content)}
    if not content:
        return {**request.query_params, **request.path_params}
    arguments = as_object(parse_json(_text(content)))
    if arguments is None:
        raise ValueError("the body must be a JSON object of arguments")
    return arguments


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError("the body is not UTF-8") from None


def _error(message: str) -> JsonObject:
    return {"code": "InvalidParameter", "message": message}


def _as_json(request: ReceivedRequest) -> JsonObject:
    return {
        "app_id": request.app_id,
        "method": request.method,
        "path": request.path,
        "stream": request.stream,
        "fault": request.fault,
        "gone": request.disconnected.is_set(),
        "headers": request.headers,
        "body": request.redacted_body,
    }
