"""Records an app of your own: a proxy that writes down what passes through it.

Whatever a client sends goes on to the real endpoint, and every byte of the answer comes back as
soon as it is there. Each call of an app becomes a recording that the emulator replays, without the
key and without the tokens of the app's users.
"""

import asyncio
import logging
import os
import ssl
import urllib.request
import uuid
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import certifi
import yarl
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from bailian_apps.emulator.recorder.exchange import Folder, Tape
from bailian_apps.emulator.server.uvicorn_thread import (
    LOOPBACK,
    RunningServer,
    hang_up,
    transport_of,
)
from bailian_apps.emulator.wire.frames import JSON_CONTENT_TYPE, encode_json

if TYPE_CHECKING:
    from typing_extensions import Self

PUBLIC_API = "https://dashscope.aliyuncs.com/api/v1"
"""Where the cloud is, if nothing else is said (the Beijing region)."""

_CONNECT_S = 10.0

# What concerns one connection only (RFC 9110, 7.6.1).
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
# A compressed answer could be neither read nor scrubbed; the others are written anew.
_NOT_SENT_ON = _HOP_BY_HOP | {"accept-encoding", "content-length", "expect", "host"}

logger = logging.getLogger(__name__)


class Recorder:
    """A proxy, on the loopback interface, that records each call of an app.

    A context manager, like the emulator. When its block is left, all recordings are written.

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
    ) -> None:
        """Prepare; nothing listens before `start`, or before the `with` block.

        Args:
            out: The folder to write to, made if it is not there. Nothing in it is replaced.
            upstream: The base address of the real API.
            host: The address to listen on.
            port: The port to listen on; 0 takes a free one.

        Raises:
            ValueError: `upstream` is no address of an API.
        """
        parts = urlsplit(upstream)
        if parts.username or parts.password:
            raise ValueError("upstream has a user name or password in it; leave them out")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"upstream={upstream!r} is no API address; give one like {PUBLIC_API}")
        self._base_path = parts.path.rstrip("/")
        self._host = host
        self._port = port
        self._folder = Folder(Path(out))
        self._relay = _Relay(f"{parts.scheme}://{parts.netloc}", self._folder)
        self._running: RunningServer | None = None

    @property
    def base_url(self) -> str:
        """What to give a client as its base address.

        Raises:
            RuntimeError: The recorder is not running.
        """
        if self._running is None:
            raise RuntimeError(
                "the recorder is not running; use it as `with Recorder(…) as proxy:`"
            )
        return self._running.origin + self._base_path

    @property
    def recordings(self) -> list[Path]:
        """The recordings written so far, in the order of their requests."""
        return self._folder.written

    def start(self) -> None:
        """Begin to listen; `base_url` is good when this returns.

        Raises:
            RuntimeError: The recorder is already running.
            OSError: The folder cannot be made, the port is taken, or the address is none of this
                machine's.
        """
        if self._running is not None:
            raise RuntimeError(f"the recorder is already running at {self.base_url}")
        self._folder.open()
        self._relay.stopping = False
        self._running = RunningServer(self._relay, host=self._host, port=self._port)

    def stop(self) -> None:
        """Cut what is open, write it down, and end; does nothing when it does not run."""
        if self._running is not None:
            self._relay.stopping = True
            self._running.stop()
            self._running = None

    def __enter__(self) -> "Self":
        """Start, and return the recorder."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()


class _NotConnectedError(Exception):
    """The real endpoint was not reached, so nothing was sent there."""


class _Relay:
    """The proxy itself, an ASGI app."""

    def __init__(self, origin: str, folder: Folder) -> None:
        self._origin = origin
        self._folder = folder
        self.stopping = False
        self._tls = ssl.create_default_context(
            cafile=os.environ.get("SSL_CERT_FILE") or certifi.where()
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay one exchange, and write it down."""
        http = Request(scope, receive)
        try:
            content = await http.body()
        except ClientDisconnect:
            return
        path = scope["raw_path"].decode("ascii")
        tape = Tape(self._folder.next_number(), path, http.headers, content)
        relaying = asyncio.create_task(self._relay(http, content, tape, send))
        hanging_up = asyncio.create_task(hang_up(receive))
        try:
            await asyncio.wait({relaying, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
            if not relaying.done():
                who = "recorder" if self.stopping else "client"
                relaying.cancel()
                await asyncio.wait({relaying})
                tape.cut = None if tape.finished else who
            elif (error := relaying.exception()) is not None:
                await self._refuse(error, send)
                return
            if tape.is_call:
                await asyncio.to_thread(self._save, tape)
            if tape.cut is None:
                await send({"type": "http.response.body", "body": b""})
            else:
                transport_of(scope).close()  # what was written still goes out, and no end after it
            await hanging_up
        finally:
            hanging_up.cancel()

    async def _relay(self, http: Request, content: bytes, tape: Tape, send: Send) -> None:
        """Pass everything on but the end of the answer.

        Raises:
            _NotConnectedError: Nothing was sent.
        """
        target = http.scope["raw_path"] + (
            b"?" + query if (query := http.scope["query_string"]) else b""
        )
        url = self._origin + target.decode("ascii")
        async with aiohttp.ClientSession(
            # One connection for each exchange: a kept one could turn out to have been closed.
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
                    headers=_sent_on(http),
                    skip_auto_headers=("Accept", "Content-Type", "User-Agent"),
                    allow_redirects=False,
                    proxy=_proxy_for(url),
                )
            except (
                aiohttp.ClientConnectorError,
                aiohttp.ClientHttpProxyError,
                aiohttp.ConnectionTimeoutError,
            ) as error:
                trust = "; SSL_CERT_FILE names what else to trust"
                mend = trust if isinstance(error, aiohttp.ClientConnectorCertificateError) else ""
                raise _NotConnectedError(
                    f"cannot connect to {self._origin}: {error}{mend}"
                ) from error
            except (aiohttp.ClientError, OSError):
                tape.cut = "upstream"
                return
            async with response:
                await _pass_on(response, tape, send)

    def _save(self, tape: Tape) -> None:
        try:
            path = self._folder.save(tape)
        except OSError as error:  # the client is not to suffer for it
            logger.error("exchange %d is not recorded: %s", tape.number, error)
        else:
            logger.info("%s  %s", path.name, tape.summary())

    async def _refuse(self, error: BaseException, send: Send) -> None:
        if not isinstance(error, _NotConnectedError):
            raise error
        logger.error("%s", error)
        body = {
            "code": "RecorderNotConnected",
            "message": str(error),
            "request_id": str(uuid.uuid4()),
        }
        content = encode_json(body)
        headers = [
            (b"content-type", JSON_CONTENT_TYPE.encode()),
            (b"content-length", str(len(content)).encode()),
        ]
        # 503, because a client may send again what certainly did not start.
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": content})


async def _pass_on(response: aiohttp.ClientResponse, tape: Tape, send: Send) -> None:
    coding = response.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        logger.warning(
            "the answer is compressed (%s), unasked; it is recorded without body", coding
        )
    tape.begin(response.status, response.headers)
    per_connection = _HOP_BY_HOP | _tokens(response.headers.get("Connection", ""))
    headers = [
        (name, value)
        for name, value in response.raw_headers
        if name.decode("latin-1").lower() not in per_connection
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    # Reading does not wait for a slow client: a connection that breaks loses what is unread.
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    sending = asyncio.create_task(_send_all(chunks, send))
    try:
        async for chunk in response.content.iter_any():
            if coding == "identity":
                tape.feed(chunk)
            chunks.put_nowait(chunk)
    except (aiohttp.ClientError, OSError):
        tape.cut = "upstream"
    finally:
        chunks.put_nowait(b"")
        await sending


async def _send_all(chunks: asyncio.Queue[bytes], send: Send) -> None:
    while chunk := await chunks.get():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})


def _sent_on(http: Request) -> list[tuple[str, str]]:
    left_out = _NOT_SENT_ON | _tokens(http.headers.get("connection", ""))
    headers = [(name, value) for name, value in http.headers.items() if name not in left_out]
    return [*headers, ("accept-encoding", "identity")]


def _tokens(connection: str) -> set[str]:
    return {name.strip().lower() for name in connection.split(",")}


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for an address."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)
