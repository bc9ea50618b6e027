"""Requests about background runs, sent with the official `openai` client. Only this module uses it.

The client builds the requests and owns the connections, over an HTTP client that is made here, with
this package's proxy and certificates. It repeats nothing (`max_retries=0`), follows no redirect,
and gets no key: a hook of the HTTP client sets the headers, so that nothing of the environment that
is meant for OpenAI (`OPENAI_ORG_ID`, `OPENAI_CUSTOM_HEADERS` …) leaves for another cloud. Its
answers are read here, as bytes: it would not know the cloud's own fields and statuses.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple, NoReturn
from urllib.parse import urlsplit

from pydantic import SecretStr
from typing_extensions import Self

from bailian_apps.core.errors import (
    BailianError,
    ConnectError,
    InvalidInputError,
    ProtocolError,
    RequestTimeoutError,
)
from bailian_apps.core.language import N_, import_error
from bailian_apps.core.request import AppRequest
from bailian_apps.core.settings import AppSettings
from bailian_apps.transport.doubles import refusal, refuse_unseen_call
from bailian_apps.transport.environment import Environment, tls_context
from bailian_apps.transport.http_answer import (
    asked_of,
    connect_error,
    connection_lost_error,
    environment_error,
    read_object,
    root_cause,
)
from bailian_apps.transport.request_builder import address_of, user_agent, with_extra_headers
from bailian_apps.transport.sse import Frame
from bailian_apps.transport.timeouts import within

_PATH = "/api/v1"
# What of the client's own headers is sent; all others are ours.
_CLIENT_HEADERS = (
    "host", "accept", "accept-encoding", "connection", "content-type", "content-length",
    "transfer-encoding", "x-stainless-raw-response",  # the client reads it off the sent request
)  # fmt: skip
# httpx's errors, by name: the client uses httpx or, since its version 3, httpx2.
_NOT_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"})
_LOGGER = "openai._base_client"
_GRACE_S = 0.5  # httpx's own timeouts come first: they show whether anything was sent

_sending: ContextVar[bool] = ContextVar("sending", default=False)


class RunCall(NamedTuple):
    """One request about a run: its action, and a new run's body or the id of an old one."""

    action: Literal["create", "retrieve", "cancel", "delete"]
    body: dict[str, Any] | None = None
    run_id: str = ""

    def __repr__(self) -> str:
        """Show no body: it holds the prompt and may hold secrets."""
        return f"RunCall({self.action!r}, run_id={self.run_id!r})"


class RunAnswer(NamedTuple):
    """The object that the cloud answered, and its id of the request."""

    content: Frame
    request_id: str | None


@dataclass(frozen=True, slots=True)
class RunEndpoint:
    """Where an app's runs are, and the headers of each request but the key."""

    url: str
    asked: str
    headers: dict[str, str] = field(repr=False)


def run_endpoint(settings: AppSettings, request: AppRequest | None = None) -> RunEndpoint:
    """Return where an app's runs are.

    Args:
        settings: Whose address, workspace and headers to use.
        request: What is submitted, if anything.

    Raises:
        InvalidInputError: The address is none from which that of the Responses API follows.
    """
    address = address_of(settings)
    if not address.endswith(_PATH):
        raise InvalidInputError(
            "base_url",
            "does not end with /api/v1, from which the address of background runs follows",
            "Pass the API's address up to /api/v1",
        )
    base = address[: -len(_PATH)]
    url = f"{base}/api/v2/apps/agent/{settings.app_id}/compatible-mode/v1"
    headers = {"user-agent": f"openai; {user_agent()}"}
    if settings.workspace:
        headers["X-DashScope-WorkSpace"] = settings.workspace
    if request is not None and request.has_oss_address:
        headers["X-DashScope-OssResourceResolve"] = "enable"
    headers = with_extra_headers(headers, settings)
    workspace = settings.workspace
    if headers.get("X-DashScope-WorkSpace") != workspace:
        workspace = None
    return RunEndpoint(url, asked_of(url, workspace), headers)


class SyncRuns:
    """A connection for requests about runs. A context manager, which closes it."""

    def __init__(self, environment: Environment, endpoint: RunEndpoint) -> None:
        """Connect at the first request.

        Raises:
            ImportError: `openai` is not installed.
            ConnectError: The proxy or the certificates cannot be used.
        """
        self._link = _Link(environment, endpoint)
        openai = load_openai()
        http = self._link.http_client(openai.DefaultHttpxClient, self._link.set_headers)
        self._client = self._link.client(openai.OpenAI, http)

    def send(
        self, call: RunCall, key: SecretStr, *, timeout_s: float, connect_s: float
    ) -> RunAnswer:
        """Send one request, once.

        Args:
            call: What is sent.
            key: The key to send it with.
            timeout_s: Seconds to wait for the answer; httpx starts them again with each read.
            connect_s: Seconds to wait for the connection.

        Raises:
            BailianError: What failed.
        """
        refuse_unseen_call(self._link.url, sender="httpx")
        with self._link.sending(call, key):
            raw = self._link.ask(self._client, call, timeout_s, connect_s)
        return self._link.read(raw.http_response)

    def __enter__(self) -> Self:
        """Return the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._client.close()


class AsyncRuns:
    """As `SyncRuns`, natively async."""

    def __init__(self, environment: Environment, endpoint: RunEndpoint) -> None:
        """As for `SyncRuns`."""
        self._link = _Link(environment, endpoint)
        openai = load_openai()

        async def set_headers(request: Any) -> None:
            self._link.set_headers(request)

        http = self._link.http_client(openai.DefaultAsyncHttpxClient, set_headers)
        self._client = self._link.client(openai.AsyncOpenAI, http)

    async def send(
        self, call: RunCall, key: SecretStr, *, timeout_s: float, connect_s: float
    ) -> RunAnswer:
        """As `SyncRuns.send`; a server that drips its answer does not prolong `timeout_s`."""
        import asyncio  # 40 ms, which a program without a loop does not pay

        refuse_unseen_call(self._link.url, sender="httpx, async")
        try:
            with self._link.sending(call, key):
                asked = self._link.ask(self._client, call, timeout_s, connect_s)
                raw = await within(timeout_s + _GRACE_S, asked)
        except asyncio.TimeoutError:
            raise _late_error() from None
        return self._link.read(raw.http_response)

    async def __aenter__(self) -> Self:
        """Return the connection."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self._client.close()


class _Link:
    """What the sync and the async connection have in common."""

    def __init__(self, environment: Environment, endpoint: RunEndpoint) -> None:
        self.url = endpoint.url
        self._environment = environment
        self._endpoint = endpoint
        self._proxy = environment.proxy_for(endpoint.url)
        self._key = SecretStr("")

    def http_client(self, kind: Any, set_headers: Any) -> Any:
        verify = tls_context(self._environment.certificates())
        try:
            return kind(
                proxy=self._proxy,
                verify=verify,
                trust_env=False,
                follow_redirects=False,
                event_hooks={"request": [set_headers]},
            )
        except (ValueError, ImportError) as error:  # its text may quote the proxy's password
            scheme = urlsplit(self._proxy or "").scheme
            problem = N_("the openai client cannot use a proxy of the kind {scheme}")
            if isinstance(error, ImportError):
                problem = N_(
                    "the openai client cannot use a proxy of the kind {scheme}; install socksio"
                )
            raise environment_error(problem.format(scheme=scheme)) from None

    def client(self, kind: Any, http: Any) -> Any:
        # The key is set by the hook; the client wants one, and would take OpenAI's.
        return kind(api_key="-", base_url=self._endpoint.url, http_client=http, max_retries=0)

    def set_headers(self, request: Any) -> None:
        """Replace the client's headers; called with each request before it is sent."""
        own = {name: request.headers[name] for name in _CLIENT_HEADERS if name in request.headers}
        request.headers.clear()
        request.headers.update(own | {"accept": "application/json"} | self._endpoint.headers)
        request.headers["authorization"] = f"Bearer {self._key.get_secret_value()}"

    def ask(self, client: Any, call: RunCall, timeout_s: float, connect_s: float) -> Any:
        """Send a request: return the response, or for the async client an awaitable of it."""
        connect_s = min(connect_s, timeout_s)
        timeout = load_openai().Timeout(timeout_s, connect=connect_s)
        responses = client.responses.with_raw_response
        if call.body is None:
            return getattr(responses, call.action)(call.run_id, timeout=timeout)
        known = {name: call.body[name] for name in ("input", "background")}
        more = {name: value for name, value in call.body.items() if name not in known}
        return responses.create(**known, extra_body=more or None, timeout=timeout)

    def read(self, response: Any) -> RunAnswer:
        """Read a response.

        Raises:
            BailianError: It is an error, or not an answer of the API.
        """
        content = read_object(
            response.status_code, response.headers, response.content, asked=self._endpoint.asked
        )
        return RunAnswer(content, response.headers.get("x-request-id"))

    @contextlib.contextmanager
    def sending(self, call: RunCall, key: SecretStr) -> Generator[None]:
        """Send with a key, and raise the client's errors as ours."""
        openai = load_openai()
        self._key = key
        token = _sending.set(True)
        try:
            yield
        except openai.APIStatusError as error:
            response = error.response
        except openai.APIConnectionError as error:
            self._raise(error.__cause__ or error)
        except UnicodeError:  # of the client's own headers, which are not sent
            raise environment_error(
                "the openai client refuses a variable of the environment, such as "
                "OPENAI_CUSTOM_HEADERS, with a character that is not ASCII"
            ) from None
        except openai.OpenAIError as error:
            raise ProtocolError(
                N_("the openai client failed: {type}").format(type=type(error).__name__)
            ) from None
        else:
            return
        finally:
            _sending.reset(token)
            self._key = SecretStr("")
        self.read(response)
        raise ProtocolError(
            N_("the server answered {status} to {action}").format(
                status=response.status_code, action=call.action
            ),
            status_code=response.status_code,
        )

    def _raise(self, error: BaseException) -> NoReturn:
        """Raise our error for one of the HTTP client's, without its request and its frames."""
        raise self._typed(error) from None

    def _typed(self, error: BaseException) -> BailianError:
        cause = root_cause(error)
        if isinstance(cause, Exception) and (refused := refusal(cause)):
            return refused
        names = {kind.__name__ for kind in type(error).__mro__}
        if "ConnectTimeout" in names or "PoolTimeout" in names:
            return ConnectError("no connection was made in time; nothing was sent")
        if names & _NOT_SENT:
            return connect_error(self._endpoint.url, cause, proxy=self._proxy)
        if "TimeoutException" in names:
            return _late_error()
        if "DecodingError" in names or (
            "RemoteProtocolError" in names and "connect" not in str(error).lower()
        ):
            return ProtocolError("the server answered with something other than HTTP")
        return connection_lost_error(sent=True)


def _late_error() -> RequestTimeoutError:
    return RequestTimeoutError("no answer arrived in time; raise timeout if the cloud needs longer")


@cache
def load_openai() -> Any:
    """Import the client. Its log of requests is left out: it would show their bodies.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import openai

        # The client would import it at its first use: 600 modules, in an event loop.
        import openai.resources.responses  # pyright: ignore[reportUnusedImport]
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "openai":
            raise
        raise import_error(
            N_(
                "background runs need openai; install it with: "
                'pip install "bailian-apps[background]"'
            )
        ) from error
    logging.getLogger(_LOGGER).addFilter(lambda record: not _sending.get())
    return openai
