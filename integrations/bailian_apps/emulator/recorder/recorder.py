"""The public class `Recorder`: a proxy that records the calls of an app.

Requests are relayed to the real endpoint, and each byte of the response is relayed as soon as it
arrives. Each call becomes a recording for the emulator, without the key and user tokens.
"""

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import aiohttp
import yarl
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from bailian_apps.emulator.page.exchanges import Exchange as ShownExchange
from bailian_apps.emulator.page.exchanges import Exchanges
from bailian_apps.emulator.page.page import RenderRun, Shown, with_page
from bailian_apps.emulator.recorder.connecting import CA_VARIABLES, proxy_for, tls_context
from bailian_apps.emulator.recorder.exchange import Exchange, RecordingFolder
from bailian_apps.emulator.server.local_server import (
    LOOPBACK,
    LocalServer,
    Outcome,
    transport_of,
    wait_for_disconnect,
)
from bailian_apps.emulator.server.refusals import TOO_LONG, checked_hosts, error_response, read_body
from bailian_apps.emulator.wire.frames import JsonObject

PUBLIC_API = "https://dashscope.aliyuncs.com/api/v1"
"""The default upstream: the public endpoint of the Beijing region."""

_CONNECT_S = 10.0
_SHOWN_RECORDINGS = 500
_SHOWN_CODING_CHARS = 40

# Headers of a single connection (RFC 9110, 7.6.1).
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
# A compressed response could be neither read nor scrubbed; the other headers are set anew.
_NOT_RELAYED = _HOP_BY_HOP | {"accept-encoding", "content-length", "expect", "host"}

logger = logging.getLogger(__name__)


class Recorder(LocalServer):
    """A proxy, on the loopback interface, that records each call of an app.

    A context manager, like the emulator. All recordings are written when its block is left.

    Attributes:
        upstream: The base address of the real API.
        mask: Names whose values are masked too.

    Example:
        ```python
        with Recorder("recordings") as proxy:
            BailianApp(app_id="…", base_url=proxy.base_url).invoke("Hello")
        with Emulator(apps={"mine": proxy.recordings[0]}) as cloud:
            ...
        ```
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        upstream: str = PUBLIC_API,
        host: str = LOOPBACK,
        port: int = 0,
        allowed_hosts: Sequence[str] = (),
        ca_bundle: str | os.PathLike[str] | None = None,
        render_run: RenderRun | None = None,
        mask: Iterable[str] = (),
    ) -> None:
        """Prepare the proxy; nothing listens before `start` or the `with` block.

        Args:
            out: The folder to write to; it is created if missing. No file in it is replaced.
            upstream: The base address of the real API.
            host: The address to listen on.
            port: The port to listen on; 0 takes a free one.
            allowed_hosts: Further names of the recorder, as those of `Emulator`.
            ca_bundle: A file or directory of certificates to trust; by default those that
                `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE` and `SSL_CERT_FILE` name, or else certifi's.
            render_run: Renders a run for the page at `page_url`, as for `Emulator`.
            mask: Names whose values are masked too, in requests and answers, at any depth and in
                any case: `["phone", "身份证"]`.

        Raises:
            ValueError: `upstream` is not an http(s) URL, or has a user name, password or query; or
                an allowed host is not a host name.
            OSError: The certificates cannot be read.
        """
        parts = _checked(upstream)
        base_path = parts.path.rstrip("/")
        self.mask = tuple(mask)
        self._exchanges = Exchanges(self.mask)
        self._page_numbers: dict[Path, int] = {}
        shown = Shown(
            kind="recorder",
            base_path=base_path,
            exchanges=lambda: self._exchanges,
            state=self._page_state,
            allowed_hosts=checked_hosts(allowed_hosts),
            render_run=render_run,
        )
        super().__init__(
            with_page(self._handle, shown),
            base_path,
            host=host,
            port=port,
            allowed_hosts=allowed_hosts,
            shows_pages=False,
        )
        self.upstream = upstream
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._folder = RecordingFolder(Path(out), self.mask)
        self._stopping = False
        self._tls = tls_context(ca_bundle)

    @property
    def recordings(self) -> list[Path]:
        """The recordings written so far, in the order of their requests."""
        return self._folder.written

    def start(self) -> None:
        """Start to listen; `base_url` can be used when this returns.

        Raises:
            RuntimeError: The recorder is already running.
            OSError: The folder cannot be created, the port is taken, or the address does not
                belong to this machine.
        """
        if self._running is None:
            self.open()
        super().start()

    def stop(self) -> None:
        """Abort open exchanges, write their recordings and stop; does nothing if not running."""
        self.close()
        super().stop()

    def _page_state(self) -> JsonObject:
        written = self._folder.written[: -_SHOWN_RECORDINGS - 1 : -1]
        return {"recordings": [self._page_recording(path) for path in written]}

    def _page_recording(self, path: Path) -> JsonObject:
        number = self._page_numbers.get(path, 0)
        is_kept = self._exchanges.get(number) is not None
        return {"file": path.name, **({"n": number} if is_kept else {})}

    def open(self) -> None:
        """Create the folder; for `relay` without a server of its own."""
        self._folder.open()
        self._stopping = False

    def close(self) -> None:
        """Attribute the end of open exchanges to the recorder from now on."""
        self._stopping = True

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay and record one exchange."""
        http = Request(scope, receive)
        try:
            content = await read_body(http)
        except ClientDisconnect:
            return
        if content is None:
            await _refuse(413, TOO_LONG)(scope, receive, send)
            return
        await self.relay(http, content, receive, send)

    async def relay(
        self,
        http: Request,
        content: bytes,
        receive: Receive,
        send: Send,
        shown: ShownExchange | None = None,
        base_path: str | None = None,
    ) -> Path | None:
        """Relay a request, record its answer, and return the recording.

        Args:
            http: The request.
            content: Its body, which has been read.
            receive: ASGI's, for the end of the connection.
            send: ASGI's.
            shown: The exchange on the page of the emulator that passes it on. Then answers that
                are errors or incomplete are not recorded.
            base_path: The path of the API in the request, if it is not the upstream's.
        """
        if base_path is not None:
            below = http.scope["raw_path"].removeprefix(base_path.encode())
            http = Request({**http.scope, "raw_path": self._base_path.encode() + below})
        scope = http.scope
        path = scope["raw_path"].decode("ascii")
        exchange = Exchange(self._folder.next_number(), path, http.headers, content)
        is_call = exchange.is_call and http.method == "POST"
        if is_call and exchange.problem:
            await _refuse(400, exchange.problem)(scope, receive, send)
            return None
        recording, own = None, None
        records_all = shown is None
        if is_call and shown is None:
            key = http.headers.get("authorization", "").split(" ")[-1]
            shown = own = self._exchanges.begin(exchange.received(content), Outcome(), key)
        send = send if shown is None else _observed(send, shown)
        relaying = asyncio.create_task(self._relay(http, content, exchange, send))
        disconnecting = asyncio.create_task(wait_for_disconnect(receive))
        try:
            await asyncio.wait({relaying, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
            if not relaying.done():
                ended_by = "recorder" if self._stopping else "client"
                relaying.cancel()
                await asyncio.wait({relaying})
                exchange.ended_by = None if exchange.finished else ended_by
            elif problem := relaying.result():
                await _unavailable(problem)(scope, receive, send)
                return None
            if is_call and (records_all or exchange.succeeded):
                recording = await self._record(exchange, own)
            if exchange.ended_by is None:
                await send({"type": "http.response.body", "body": b""})
            else:
                transport_of(scope).close()  # flushes what was written, but not the body's end
            await disconnecting
        finally:
            disconnecting.cancel()
            if own is not None:
                own.end()
        return recording

    async def _relay(self, http: Request, content: bytes, exchange: Exchange, send: Send) -> str:
        """Relay everything but the end of the response; return why nothing was sent, or ""."""
        target = http.scope["raw_path"] + (
            b"?" + query if (query := http.scope["query_string"]) else b""
        )
        url = self._origin + target.decode("ascii")
        async with aiohttp.ClientSession(
            # A new connection for each exchange: the upstream could have closed a kept one.
            connector=aiohttp.TCPConnector(ssl=self._tls, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        ) as session:
            try:
                response = await session.request(
                    http.method,
                    yarl.URL(url, encoded=True),
                    data=content,
                    headers=_relayed_headers(http),
                    skip_auto_headers=("Accept", "Content-Type", "User-Agent"),
                    allow_redirects=False,
                    proxy=proxy_for(url),
                )
            except (
                aiohttp.ClientConnectorError,
                aiohttp.ClientHttpProxyError,
                aiohttp.ConnectionTimeoutError,
            ) as error:
                is_certificate = isinstance(error, aiohttp.ClientConnectorCertificateError)
                hint = f"; set {' or '.join(CA_VARIABLES)} to trust another CA"
                hint = hint if is_certificate else ""
                return f"cannot connect to {self._origin}: {error}{hint}"
            except (aiohttp.ClientError, OSError):
                exchange.ended_by = "upstream"
                return ""
            async with response:
                await _relay_response(response, exchange, send)
        return ""

    async def _record(self, exchange: Exchange, shown: ShownExchange | None) -> Path | None:
        # Not `to_thread`, which a loop that shuts down would cancel before it has begun.
        saving = asyncio.get_running_loop().run_in_executor(None, self._save, exchange)
        recording = await asyncio.shield(saving)
        if shown is not None and recording is not None:
            self._page_numbers[recording] = shown.number
        return recording

    def _save(self, exchange: Exchange) -> Path | None:
        try:
            path = self._folder.save(exchange)
        except (OSError, ValueError, RecursionError) as error:  # the client has its response
            logger.error("exchange %d is not recorded: %s", exchange.number, error)
            return None
        logger.info("%s  %s", path.name, exchange.summary())
        return path


def _checked(upstream: str) -> SplitResult:
    """Return the parts of the address of an upstream.

    Raises:
        ValueError: It is not an http(s) URL, or has a user name, password or query.
    """
    parts = urlsplit(upstream)
    if parts.username or parts.password:
        raise ValueError("upstream must not contain a user name or password; remove them")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ValueError(f"upstream={upstream!r} must be an http(s) URL like {PUBLIC_API}")
    return parts


def _observed(send: Send, shown: ShownExchange) -> Send:
    """Wrap ASGI's `send` so that the page has the response too."""

    async def observed_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            shown.outcome.status = message["status"]
            coding = Headers(raw=message["headers"]).get("content-encoding", "").strip().lower()
            shown.coding = coding.replace("identity", "")[:_SHOWN_CODING_CHARS]
        if content := message.get("body"):
            shown.add(content)
        is_body = message["type"] == "http.response.body"
        shown.outcome.complete = is_body and not message.get("more_body")
        await send(message)

    return observed_send


def _unavailable(problem: str) -> Response:
    logger.error("%s", problem)
    # 503, because a client may retry what was certainly not sent.
    return error_response(503, "RecorderNotConnected", problem)


def _refuse(status: int, problem: str) -> Response:
    problem = f"{problem}; the recorder does not pass it on"
    logger.error("%s", problem)
    return error_response(status, "InvalidParameter", problem)


async def _relay_response(response: aiohttp.ClientResponse, exchange: Exchange, send: Send) -> None:
    coding = response.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        logger.warning(
            "the response is compressed (%s) without being requested; its body is not recorded",
            coding,
        )
    exchange.begin(response.status, response.headers)
    per_connection = _HOP_BY_HOP | _tokens(response.headers.get("Connection", ""))
    headers = [
        (name, value)
        for name, value in response.raw_headers
        if name.decode("latin-1").lower() not in per_connection
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    # Reading does not wait for a slow client: a lost connection would discard unread data.
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    sending = asyncio.create_task(_send_all(chunks, send))
    try:
        async for chunk in response.content.iter_any():
            if coding == "identity":
                exchange.feed(chunk)
            chunks.put_nowait(chunk)
    except (aiohttp.ClientError, OSError):
        exchange.ended_by = "upstream"
    finally:
        chunks.put_nowait(b"")
        await sending


async def _send_all(chunks: asyncio.Queue[bytes], send: Send) -> None:
    while chunk := await chunks.get():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})


def _relayed_headers(http: Request) -> list[tuple[str, str]]:
    left_out = _NOT_RELAYED | _tokens(http.headers.get("connection", ""))
    headers = [(name, value) for name, value in http.headers.items() if name not in left_out]
    return [*headers, ("accept-encoding", "identity")]


def _tokens(connection: str) -> set[str]:
    return {name.strip().lower() for name in connection.split(",")}
