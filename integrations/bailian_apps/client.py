"""`Client`: the connections, concurrency slots and session rounds that calls share.

There is one default client. Make another one for a proxy or certificates that differ from the
environment's, for a limit of its own, or to close its connections.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias, cast

from typing_extensions import Self

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.json_values import kind_of
from bailian_apps.core.language import N_
from bailian_apps.core.request import AppRequest
from bailian_apps.core.settings import AppSettings
from bailian_apps.owned_stream import OwnedStream
from bailian_apps.transport.timeouts import TimeoutBudget

if TYPE_CHECKING:
    from bailian_apps.concurrency import ConcurrencySlot, WaitQueue
    from bailian_apps.transport.async_pool import AsyncConnections
    from bailian_apps.transport.environment import Environment
    from bailian_apps.transport.responses_api import AsyncRuns, RunEndpoint, SyncRuns
    from bailian_apps.transport.sse import Frame
    from bailian_apps.transport.sync_pool import SyncConnections

MAX_SESSIONS = 10_000
"""How many sessions' rounds are remembered; the one claimed longest ago is dropped first."""

AppKey: TypeAlias = tuple[str | None, str]
"""The API's address and the app."""

SessionKey: TypeAlias = tuple[str | None, str, str]
"""The API's address (emulators that replay one recording share its sessions), the app and the
session."""

RegisterAbort: TypeAlias = "Callable[[Callable[[], object]], None]"


class SessionRounds:
    """The newest claimed round of each session. Safe to use from any thread, and after a fork.

    A session of the cloud is one line of rounds. Two calls that continue from the same answer (a
    branch, a regenerated answer, two calls at once) would both write the next round, and each would
    find the other's prompt in the app's memory. So a call claims the next round first, and the call
    that comes second sends the whole history instead.
    """

    def __init__(self) -> None:
        """Start without claims."""
        self._rounds: OrderedDict[SessionKey, int] = OrderedDict()
        self.unlock()

    def claim(self, key: SessionKey, round_: int) -> bool:
        """Claim a round of a session; False if it, or a later one, was claimed before."""
        with self._lock:
            if self._rounds.get(key, 0) >= round_:
                return False
            self._rounds[key] = round_
            self._rounds.move_to_end(key)
            if len(self._rounds) > MAX_SESSIONS:
                self._rounds.popitem(last=False)
            return True

    def release(self, key: SessionKey, round_: int) -> None:
        """Undo a claim: its call certainly did not start."""
        with self._lock:
            if self._rounds.get(key) == round_:
                self._rounds[key] = round_ - 1

    def unlock(self) -> None:
        """Make a new lock: after a fork, the thread that held the old one may not exist."""
        self._lock = threading.RLock()  # a signal handler may make a call while one claims


class Client:
    """Owns what calls share: connections, concurrency slots and session rounds.

    One client serves any number of apps, threads and event loops. `max_concurrency` counts the
    calls of an app within a client.

    Example:
        ```python
        with Client(proxy="http://127.0.0.1:8080", ca_bundle="corporate.pem") as client:
            app = BailianApp(app_id="…", client=client)
            print(app.invoke("Plan a day in Hangzhou").text)
        ```
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ca_bundle: str | Path | None = None,
        max_idle_connections: int = 100,
    ) -> None:
        """Make a client. It connects at the first call.

        Args:
            proxy: The URL of the proxy to use; None for the one in the environment, if any.
            ca_bundle: A file or directory of certificates to trust; None for the environment's
                (`REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`), or else certifi's.
            max_idle_connections: How many sync connections a host may keep open for reuse; at
                least 1.

        Raises:
            InvalidInputError: An argument is not valid.
        """
        if type(max_idle_connections) is not int or max_idle_connections < 1:
            raise InvalidInputError("max_idle_connections", "must be a positive integer")
        if proxy is not None:
            from bailian_apps.transport.environment import proxy_url

            is_text = isinstance(cast("object", proxy), str) and proxy.isprintable()
            proxy = proxy_url(proxy) if is_text else None
            if proxy is None:
                raise InvalidInputError("proxy", "is not a URL such as http://127.0.0.1:8080")
        if not isinstance(cast("object", ca_bundle), str | Path | None):
            raise InvalidInputError(
                "ca_bundle", N_("must be a path, not {kind}").format(kind=kind_of(ca_bundle))
            )
        if ca_bundle is not None and not str(ca_bundle):
            raise InvalidInputError("ca_bundle", "is empty", "Pass a file or directory, or None")
        self.session_rounds = SessionRounds()
        self.queues: dict[AppKey, WaitQueue] = {}
        self.prompt_only_apps: set[AppKey] = set()  # those that refused `messages`
        self.warned_workflows: set[AppKey] = set()  # those whose model may not see the history
        self.warned_unsent: set[AppKey] = set()  # those with settings that no background run has
        self._proxy = proxy
        self._ca_bundle = None if ca_bundle is None else str(ca_bundle)
        self._max_idle = max_idle_connections
        self._closed = False
        self._sync: SyncConnections | None = None
        self._async: AsyncConnections | None = None
        self._lock = threading.RLock()  # a signal handler may make a call while one starts
        _clients.add(self)

    def slot(
        self,
        settings: AppSettings,
        *,
        deadline: float | None,
        register_abort: RegisterAbort | None = None,
    ) -> ConcurrencySlot | contextlib.nullcontext[None]:
        """Return a context in which a call holds one of its app's slots; see `frames`.

        Raises:
            InvalidInputError: The client is closed.
        """
        self._require_open()
        limit = settings.max_concurrency
        if limit is None:
            return contextlib.nullcontext()
        from bailian_apps.concurrency import ConcurrencySlot, WaitQueue  # it imports asyncio, 40 ms

        # A queue is kept: there are few apps, and nobody could know that no call will come.
        calls = self.queues.setdefault((settings.base_url, settings.app_id), WaitQueue())
        return ConcurrencySlot(
            calls, limit, settings.timeouts, deadline=deadline, register_abort=register_abort
        )

    def aslot(
        self, settings: AppSettings, *, deadline: float | None
    ) -> ConcurrencySlot | contextlib.nullcontext[None]:
        """As `slot`, for an async call.

        Raises:
            ConnectError: No event loop of asyncio is running.
        """
        from bailian_apps.concurrency import require_asyncio

        require_asyncio()
        return self.slot(settings, deadline=deadline)

    def frames(
        self,
        request: AppRequest,
        settings: AppSettings,
        *,
        deadline: float | None = None,
        register_abort: RegisterAbort | None = None,
        on_sent: Callable[[], object] = lambda: None,
    ) -> Generator[list[Frame]]:
        """Return the frames of one request, in lists of those that arrived together.

        Args:
            request: What to send, at the first `next`, once.
            settings: Whose key, address, workspace and timeout to use.
            deadline: When the call has to end, by `time.monotonic`; None for no limit.
            register_abort: Receives the function with which another thread may end the call.
            on_sent: Is called when the request is being sent.

        Raises:
            BailianError: What failed; where the request cannot be built, at once.
        """
        from bailian_apps.transport.request_builder import build_request
        from bailian_apps.transport.sync_http import SyncCall
        from bailian_apps.transport.sync_pool import SyncConnections

        if self._sync is None:
            made = SyncConnections(self._environment(), self._max_idle)
            with self._lock:
                self._sync = self._sync or made
        built = build_request(request, settings)  # before the clock starts: it imports the SDK
        call = SyncCall(self._sync, TimeoutBudget(settings.timeouts, deadline, on_sent))
        if register_abort is not None:
            register_abort(call.abort)
        return call.frames(built)

    async def aframes(
        self,
        request: AppRequest,
        settings: AppSettings,
        *,
        deadline: float | None = None,
        on_sent: Callable[[], object] = lambda: None,
    ) -> OwnedStream[list[Frame]]:
        """As `frames`, natively async; the caller closes it."""
        import asyncio  # 40 ms, which a program without a loop does not pay

        from bailian_apps.transport.request_builder import build_request, load_sdk

        if not load_sdk.cache_info().currsize:
            await asyncio.to_thread(load_sdk)  # importing the SDK would block the loop for a second
        from bailian_apps.transport.async_http import AsyncCall
        from bailian_apps.transport.async_pool import AsyncConnections

        if self._async is None:
            made = AsyncConnections(self._environment())
            with self._lock:
                self._async = self._async or made
        if request.has_inline_images:  # they are read, and megabytes of them encoded
            built = await asyncio.to_thread(build_request, request, settings)
        else:
            built = build_request(request, settings)
        call = AsyncCall(self._async, TimeoutBudget(settings.timeouts, deadline, on_sent))
        return OwnedStream(call.frames(built))

    def runs(self, endpoint: RunEndpoint) -> SyncRuns:
        """Return a connection for requests about background runs, which the caller closes.

        Raises:
            InvalidInputError: The client is closed.
            ConnectError: The proxy or the certificates cannot be used.
        """
        from bailian_apps.transport.responses_api import SyncRuns

        self._require_open()
        return SyncRuns(self._environment(), endpoint)

    def aruns(self, endpoint: RunEndpoint) -> AsyncRuns:
        """As `runs`, for async calls."""
        from bailian_apps.transport.responses_api import AsyncRuns

        self._require_open()
        return AsyncRuns(self._environment(), endpoint)

    def _require_open(self) -> None:
        if self._closed:
            raise InvalidInputError("client", "is closed", "Make a new Client")

    def close(self) -> None:
        """Close the idle sync connections. Calls that run end first; new ones are refused."""
        self._closed = True
        if self._sync is not None:
            self._sync.close()

    async def aclose(self) -> None:
        """As `close`, and close the async connections of the running event loop."""
        self.close()
        if self._async is not None:
            await self._async.aclose()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the client."""
        await self.aclose()

    def __deepcopy__(self, _: object) -> Self:
        """Return the client itself: copies of an adapter share their connections."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: connections belong to their process."""
        raise TypeError("a Client cannot be pickled; make one in the process that uses it")

    def _environment(self) -> Environment:
        from bailian_apps.transport.environment import Environment

        return Environment(self._proxy, self._ca_bundle)

    def reset_after_fork(self) -> None:
        """Drop what belongs to the parent process; called in a forked child.

        Parent and child would read each other's answers from one socket, and the calls that hold
        slots are the parent's.
        """
        self._sync, self._lock = None, threading.RLock()
        self.queues.clear()
        self.session_rounds.unlock()


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_default = Client()


def default_client() -> Client:
    """Return the client of all calls that are given no other."""
    return _default


def _reset_clients() -> None:
    for client in list(_clients):
        client.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_clients)
