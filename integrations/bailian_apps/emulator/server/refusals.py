"""Refuses requests before an endpoint sees them: of web pages, for other hosts, and too long ones.

A browser lets every page send requests to this machine. A page is recognised by its `Origin`, by
`Sec-Fetch-Site`, or by a host name that its owner made to lead here (DNS rebinding).
"""

import logging
import re
import uuid
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bailian_apps.emulator.wire.frames import JSON_CONTENT_TYPE, encode_json

MAX_BODY_BYTES = 128 * 1024 * 1024
"""The longest request body; it holds a dozen images of the size that the cloud takes."""

# Names of this machine: in its /etc/hosts, and by which containers call it. None is in public DNS.
_LOCAL_NAMES = {
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
    "gateway.docker.internal",
    "host.containers.internal",
    "host.docker.internal",
}
_SHOWN_CHARS = 60

_NOT_A_PATH = "the request target must be a path such as /api/v1/…; this server is no forward proxy"
MAX_APP_BYTES = 1024 * 1024
"""The longest text of an app: a MiB of YAML takes PyYAML half a minute."""

TOO_LONG = f"the request body has more than {MAX_BODY_BYTES // 1024**2} MiB"
APP_TOO_LONG = f"the text of the app has more than {MAX_APP_BYTES // 1024**2} MiB"
_ALLOW = "allow its host with allowed_hosts=[…] (serve and record: --allow-host)"

logger = logging.getLogger("bailian_apps.emulator")


def checked_hosts(allowed_hosts: Sequence[str]) -> frozenset[str]:
    """Return the names of `allowed_hosts`, see `Emulator`, in lower case.

    Raises:
        TypeError: It is not a sequence of str.
        ValueError: One is not a host name or an IP address.
    """
    if isinstance(allowed_hosts, str):
        raise TypeError("allowed_hosts must be a list of host names, not one str")
    for index, name in enumerate(allowed_hosts):
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"allowed_hosts[{index}] must be a str, not {type(name).__name__}")
        if not (_is_address(name) or re.fullmatch(r"[\w.-]+", name, re.ASCII)):
            raise ValueError(
                f"allowed_hosts[{index}] must be a host name or an IP address, without a scheme, "
                "port or wildcard: emulator.test"
            )
    return frozenset(name.lower().rstrip(".") for name in allowed_hosts)


def without_web_pages(app: ASGIApp, hosts: Collection[str], *, api_path: str) -> ASGIApp:
    """Wrap an app so that it gets no requests of foreign web pages.

    Args:
        app: The app. What it answers to GET outside of `api_path` must only show something.
        hosts: The names of the server, in lower case, beside those of this machine.
        api_path: The path below which programs call the API, see `web_page_problem`.
    """

    async def guarded_app(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope, hosts, api_path)
        await (app if refusal is None else refusal)(scope, receive, send)

    return guarded_app


def web_page_problem(
    method: str, headers: Headers, hosts: Collection[str], *, is_api: bool
) -> str | None:
    """Return why a request is refused because of the web page that sent it, or None.

    The rule; docs/en/emulator.md has it for users:

    - A program and a page of the server itself may do everything.
    - Another page of this machine, or of an allowed host, may call the API and read.
    - On any other page, a link may lead to what the server shows to people.

    Args:
        method: The method of the request.
        headers: Its headers. That their `Host` is the server's has been checked already.
        hosts: The names of the server, in lower case, beside those of this machine.
        is_api: Whether it is a request to the API, and not to the server's own pages and admin
            endpoints.
    """
    mode, to = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    if not is_api and (method, mode, to) == ("GET", "navigate", "document"):
        return None
    authority, site = headers.get("host", "").lower(), headers.get("sec-fetch-site")
    origins = [origin.lower() for origin in headers.getlist("origin")]
    for origin in origins:
        name = _host_of(origin)
        same_address = _is_address(name) and _authority_of(origin) == authority
        if not (name in hosts or _is_local(name) or same_address):
            return f"not available to web pages of the Origin {_shown(origin)}; {_ALLOW}"
    if not origins and site == "cross-site":  # such as an image of a page, which has no Origin
        return "not available to web pages of other sites (Sec-Fetch-Site: cross-site)"
    if is_api or method in ("GET", "HEAD"):
        return None
    is_own = all(_authority_of(origin) == authority for origin in origins)
    if is_own if site is None else site in ("same-origin", "none"):
        return None
    return "not available to web pages but those of this server itself; send no Origin"


def error_response(status: int, code: str, message: str) -> Response:
    """Return an error answer in the form of the cloud's."""
    body = {"code": code, "message": message, "request_id": str(uuid.uuid4())}
    return Response(encode_json(body), status, media_type=JSON_CONTENT_TYPE)


async def read_body(http: Request, max_bytes: int | None = None) -> bytes | None:
    """Read the body of a request; return None if it is longer than `MAX_BODY_BYTES` or `max_bytes`.

    Raises:
        ClientDisconnect: The client disconnected before its end.
    """
    limit = MAX_BODY_BYTES if max_bytes is None else max_bytes
    parts: list[bytes] = []
    size = 0
    async for part in http.stream():  # to its end, because a client reads no answer before
        size += len(part)
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
    return b"".join(parts) if size <= limit else None


def _refusal(scope: Scope, hosts: Collection[str], api_path: str) -> Response | None:
    path = scope["raw_path"]
    headers = Headers(scope=scope)
    if not path.startswith(b"/"):
        refusal = 400, "InvalidParameter", _NOT_A_PATH
    elif problem := _host_problem(scope, headers, hosts) or web_page_problem(
        scope["method"], headers, hosts, is_api=path.startswith(api_path.encode() + b"/")
    ):
        refusal = 403, "AccessDenied", problem
    else:
        return None
    logger.warning("refused a request with %d: %s", refusal[0], refusal[2])
    return error_response(*refusal)


def _host_problem(scope: Scope, headers: Headers, hosts: Collection[str]) -> str | None:
    """Return why the `Host` may be a name that the owner of a page made to lead here, or None."""
    if "host" not in headers or not _is_loopback((scope.get("server") or ("",))[0]):
        return None
    name = _host_of(f"//{headers['host'].lower()}")
    if name in hosts or _is_address(name) or _is_local(name):
        return None
    shown = _shown(headers["host"])
    return f"not available at the host {shown}: use localhost or an IP address, or {_ALLOW}"


def _is_local(name: str) -> bool:
    # Browsers resolve localhost and its subdomains without asking the network.
    return name in _LOCAL_NAMES or name.endswith(".localhost") or _is_loopback(name)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")


def _authority_of(url: str) -> str:
    return url.partition("//")[2]


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
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
