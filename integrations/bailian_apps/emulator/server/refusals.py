"""Refuses requests before an endpoint sees them: of web pages, for other hosts, and too long ones.

A browser lets every page send requests to this machine. A page is recognised by its `Origin`, by
`Sec-Fetch-Site`, or by a host name that its owner made to lead here (DNS rebinding).
"""

import logging
import uuid
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bailian_apps.emulator.wire.frames import JSON_CONTENT_TYPE, encode_json

MAX_BODY_BYTES = 128 * 1024 * 1024
"""The longest request body; it holds a dozen images of the size that the cloud takes."""

# By these names, containers call the machine that runs them.
_CONTAINER_HOSTS = ("host.docker.internal", "host.containers.internal")

_NOT_A_PATH = "the request target must be a path such as /api/v1/…; this server is no forward proxy"
TOO_LONG = f"the request body has more than {MAX_BODY_BYTES // 1024**2} MiB"
_WEB_PAGE = (
    "not available to web pages: send no foreign Origin, and use localhost or an IP address as "
    "the host"
)


logger = logging.getLogger("bailian_apps.emulator")


def without_web_pages(app: ASGIApp, host: str) -> ASGIApp:
    """Wrap an app that listens on `host`, so that it gets the requests of programs only."""

    async def guarded_app(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope, host.lower())
        await (app if refusal is None else refusal)(scope, receive, send)

    return guarded_app


def error_response(status: int, code: str, message: str) -> Response:
    """Return an error answer in the form of the cloud's."""
    body = {"code": code, "message": message, "request_id": str(uuid.uuid4())}
    return Response(encode_json(body), status, media_type=JSON_CONTENT_TYPE)


async def read_body(http: Request) -> bytes | None:
    """Read the body of a request; return None if it is too long.

    Raises:
        ClientDisconnect: The client disconnected before its end.
    """
    parts: list[bytes] = []
    size = 0
    async for part in http.stream():  # to its end, because a client reads no answer before
        size += len(part)
        if size <= MAX_BODY_BYTES:
            parts.append(part)
        else:
            parts.clear()
    return b"".join(parts) if size <= MAX_BODY_BYTES else None


def _refusal(scope: Scope, host: str) -> Response | None:
    if not scope["raw_path"].startswith(b"/"):
        refusal = 400, "InvalidParameter", _NOT_A_PATH
    elif _is_from_web_page(scope, host):
        refusal = 403, "AccessDenied", _WEB_PAGE
    else:
        return None
    logger.warning("refused a request with %d: %s", refusal[0], refusal[2])
    return error_response(*refusal)


def _is_from_web_page(scope: Scope, host: str) -> bool:
    headers = Headers(scope=scope)
    server = (scope.get("server") or ("",))[0]
    if "host" in headers and _is_loopback(server):
        name = _host_of(f"//{headers['host']}")
        if name != host and not (_is_address(name) or _leads_here(name)):
            return True
    if origins := headers.getlist("origin"):
        return not all(_is_local_page(origin, host) for origin in origins)
    # A page's image or script has no Origin.
    return headers.get("sec-fetch-site") in ("cross-site", "same-site")


def _is_local_page(origin: str, host: str) -> bool:
    name = _host_of(origin)
    return bool(name) and (name == host or _is_loopback(name) or _leads_here(name))


def _leads_here(name: str) -> bool:
    # Browsers resolve localhost and its subdomains without asking the network.
    return name == "localhost" or name.endswith(".localhost") or name in _CONTAINER_HOSTS


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ip_address(name).is_loopback
