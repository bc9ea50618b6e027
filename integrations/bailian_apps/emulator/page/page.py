"""Serves the page at `/`, in front of the app that answers everything else.

The page is for people at this machine only. What it changes, it changes by the admin endpoints,
which take the requests of the server's own pages.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bailian_apps.emulator.credentials import PLAYGROUND_KEY
from bailian_apps.emulator.page.exchanges import Exchange, Exchanges
from bailian_apps.emulator.page.reading import Answer, details_of, request_of, row_of, steps_of
from bailian_apps.emulator.page.texts import Language, language_of, texts_in
from bailian_apps.emulator.server.refusals import error_response, web_page_problem
from bailian_apps.emulator.wire.frames import JSON_CONTENT_TYPE, JsonObject, encode_json
from bailian_apps.emulator.wire.rendering import FLOW_MODES

if TYPE_CHECKING:
    import jinja2

PAGE_PATH = "/__emulator__/page"

TICK_S = 0.2
"""Seconds between two looks at what changed, while somebody looks at the page."""

_BATCH = 200
_FOLDER = Path(__file__).parent

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
# A run is one file, with its style and script inside. The sandbox gives it an origin of its own.
_RUN_POLICY = (
    "sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

logger = logging.getLogger("bailian_apps.emulator")


class RenderRun(Protocol):
    """Renders one exchange as an HTML document, as `bailian_apps.inspector.render_frames` does."""

    def __call__(
        self,
        frames: Sequence[tuple[float, Mapping[str, Any]]],
        *,
        request: Mapping[str, Any] | None = None,
        title: str | None = None,
    ) -> str:
        """Return the document.

        Args:
            frames: The JSON objects of the answer, each with the milliseconds since the request.
            request: The request: `app_id`, `headers` and `body`.
            title: The title.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a server shows on its page.

    Attributes:
        kind: Which server it is. Only an emulator has a playground, faults and sessions.
        base_path: The path of its base address.
        exchanges: Returns the store; another one after a reset.
        state: Returns what is beside the list: apps, faults, sessions, recordings.
        sessions: Returns the newest sessions.
        faults: All faults with what the client observes.
        allowed_hosts: Further names of the server.
        api_key: The key with which the playground calls apps; None for any.
        render_run: Renders an exchange; without it, the page lists the steps.
    """

    kind: Literal["emulator", "recorder"]
    base_path: str
    exchanges: Callable[[], Exchanges]
    state: Callable[[], JsonObject]
    sessions: Callable[[], list[JsonObject]] = list
    faults: Mapping[str, str] = field(default_factory=dict[str, str])
    allowed_hosts: Collection[str] = ()
    api_key: str | None = field(default=None, repr=False)
    render_run: RenderRun | None = None


def with_page(app: ASGIApp, shown: Shown) -> ASGIApp:
    """Wrap the app of a server, so that a browser on this machine finds the page at `/`."""
    routes = list(_views(shown))
    if shown.kind == "emulator":
        calls = f"{PAGE_PATH}/apps/{{app_id:path}}/completion"
        routes.append(Route(calls, _Playground(app, shown), methods=["POST"]))
    page = Starlette(routes=routes)

    async def app_with_page(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        is_root = path == "/" and scope["method"] in ("GET", "HEAD")
        if not (is_root or path.startswith(f"{PAGE_PATH}/")):
            await app(scope, receive, send)
        elif problem := _problem(scope, shown.allowed_hosts):
            await error_response(403, "AccessDenied", problem)(scope, receive, send)
        else:
            await page(scope, receive, send)

    return app_with_page


def _problem(scope: Scope, hosts: Collection[str]) -> str | None:
    """Return why a request may not have the page, or None."""
    ends = [(scope.get(end) or ("",))[0] for end in ("server", "client")]
    if not all(map(_is_loopback, ends)):
        return "the page is only available on the machine that serves it, by a loopback address"
    return web_page_problem(scope["method"], Headers(scope=scope), hosts, is_api=False)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _views(shown: Shown) -> Iterator[BaseRoute]:
    """Yield the routes that show something."""

    async def page(request: Request) -> Response:
        language = language_of(request.headers.get("accept-language", ""))
        context = {
            "shown": shown,
            "path": PAGE_PATH,
            "base_url": f"http://{request.url.netloc}{shown.base_path}",
            "language": language,
            "t": texts_in(language),
            "modes": list(FLOW_MODES),
        }
        return _document("page.html", context, _PAGE_POLICY)

    async def events(request: Request) -> Response:
        stream = _events(shown, request.headers.get("last-event-id", ""))
        return StreamingResponse(stream, media_type="text/event-stream", headers=_HEADERS)

    def details(request: Request) -> Response:  # in a thread, because answers may be long
        exchange = shown.exchanges().get(request.path_params["number"])
        if exchange is None:
            return error_response(404, "NotFound", "this request is kept no longer")
        path = f"{shown.base_path}/apps/{quote(exchange.request.app_id, safe='')}/completion"
        return _json(details_of(exchange, f"http://{request.url.netloc}{path}"))

    def run(request: Request) -> Response:
        exchange = shown.exchanges().get(request.path_params["number"])
        language = language_of(request.headers.get("accept-language", ""))
        return _run(exchange, shown.render_run, language)

    async def sessions(_: Request) -> Response:
        return _json({"sessions": shown.sessions()})

    async def clear(_: Request) -> Response:
        shown.exchanges().clear()
        return _json({})

    yield Route("/", page)
    for file in (_FOLDER / "static").iterdir():
        yield _file(file)
    yield Route(f"{PAGE_PATH}/events", events)
    yield Route(f"{PAGE_PATH}/sessions", sessions, methods=["GET"])
    yield Route(f"{PAGE_PATH}/requests", clear, methods=["DELETE"])
    yield Route(f"{PAGE_PATH}/requests/{{number:int}}", details)
    yield Route(f"{PAGE_PATH}/requests/{{number:int}}/run", run)


@dataclass(frozen=True)
class _Playground:
    """Passes a call of the page on to the app, with the server's own key."""

    app: ASGIApp
    shown: Shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passed = [
            (name, value)
            for name, value in scope["headers"]
            if name in (b"content-length", b"content-type", b"host", b"transfer-encoding")
            or name.startswith(b"x-dashscope-")
        ]
        key = self.shown.api_key or PLAYGROUND_KEY
        raw_path = scope["raw_path"].removeprefix(PAGE_PATH.encode())
        forwarded = {
            **scope,
            "path": self.shown.base_path + scope["path"].removeprefix(PAGE_PATH),
            "raw_path": self.shown.base_path.encode() + raw_path,
            "headers": [*passed, (b"authorization", f"Bearer {key}".encode())],
        }
        await self.app(forwarded, receive, send)


async def _events(shown: Shown, last_event_id: str) -> AsyncIterator[str]:
    """Yield the rows that changed and the state if it changed, as events of a stream.

    An event's id is the version of the store that it shows; so a page that connects again gets
    what changed since.
    """
    store = shown.exchanges()
    store_id, _, known = last_event_id.partition("-")
    version = int(known) if store_id == store.id and known.isdecimal() else -1
    sizes: dict[int, int] = {}
    state: JsonObject = {}
    while True:
        if (current := shown.exchanges()) is not store:
            store, version = current, -1
        if version < 0:
            version = 0
            yield _event("clear", {}, f"{store.id}-0")
        changed = [(each.version, each) for each in store.since(version)]
        for start in range(0, len(changed), _BATCH):
            batch = changed[start : start + _BATCH]
            version = batch[-1][0]
            yield _event("rows", [row_of(each) for _, each in batch], f"{store.id}-{version}")
            await asyncio.sleep(0)
        before, sizes = sizes, {each.number: each.answer_bytes for each in store.running()}
        grown = [each for each in store.running() if before.get(each.number) != sizes[each.number]]
        if grown:
            yield _event("rows", [row_of(each) for each in grown[:_BATCH]])
        now = {**shown.state(), "first": store.first_number, "dropped": store.dropped}
        if now != state:
            state = now
            yield _event("state", state)
        await asyncio.sleep(TICK_S)


def _event(name: str, data: object, event_id: str | None = None) -> str:
    head = f"event: {name}\n" if event_id is None else f"id: {event_id}\nevent: {name}\n"
    return f"{head}data: {encode_json(data).decode()}\n\n"


def _run(exchange: Exchange | None, render_run: RenderRun | None, language: Language) -> Response:
    """Return the picture of a run; the list of its steps where it cannot be rendered."""
    answer = None if exchange is None else Answer(exchange)
    problem = ""
    if exchange and answer and answer.frames and render_run:
        request = request_of(exchange)
        title = f"{exchange.request.app_id} #{exchange.number}"
        try:
            content = render_run(answer.frames, request=request, title=title)
        except Exception as error:
            logger.exception("request %d cannot be rendered", exchange.number)
            problem = f"{type(error).__name__}: {error}"
        else:
            return _response(content, "text/html", _RUN_POLICY)
    context = {
        "language": language,
        "t": texts_in(language),
        "problem": problem,
        "steps": steps_of(answer.frames) if answer else [],
    }
    return _document("steps.html", context, _RUN_POLICY)


@cache
def _templates() -> "jinja2.Environment":
    import jinja2  # only who looks at the page waits for its import

    loader = jinja2.FileSystemLoader(_FOLDER / "templates")
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )


def _document(template: str, context: Mapping[str, object], policy: str) -> Response:
    content = _templates().get_template(template).render(context)
    return _response(content, "text/html", policy)


def _file(path: Path) -> Route:
    kind = "text/css" if path.suffix == ".css" else "text/javascript"

    def file(_: Request) -> Response:
        return _response(path.read_bytes(), kind, _PAGE_POLICY)

    return Route(f"{PAGE_PATH}/{path.name}", file)


def _response(content: str | bytes, kind: str, policy: str) -> Response:
    headers = {**_HEADERS, "content-security-policy": policy, "vary": "accept-language"}
    return Response(content, media_type=kind, headers=headers)


def _json(value: JsonObject) -> Response:
    return Response(encode_json(value), media_type=JSON_CONTENT_TYPE, headers=_HEADERS)
