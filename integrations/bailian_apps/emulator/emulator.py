"""The public class `Emulator`."""

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from pydantic import ValidationError

from bailian_apps.emulator.apps.app import AppSource, as_app
from bailian_apps.emulator.apps.rules import check_pace
from bailian_apps.emulator.apps.worker_threads import WorkerThreads
from bailian_apps.emulator.errors import first_problem
from bailian_apps.emulator.faults.plan import FaultSpec
from bailian_apps.emulator.faults.table import FAULTS
from bailian_apps.emulator.models import ReceivedRequest
from bailian_apps.emulator.page.page import RenderRun, Shown, with_page
from bailian_apps.emulator.page.state import EmulatorState
from bailian_apps.emulator.recorder.recorder import Recorder
from bailian_apps.emulator.responses_api.runs import RunStore
from bailian_apps.emulator.server.endpoint import BASE_PATH, Cloud, asgi_app
from bailian_apps.emulator.server.local_server import (
    LOOPBACK,
    SHUTDOWN_TIMEOUT_S,
    LocalServer,
    with_access_log,
)
from bailian_apps.emulator.server.refusals import checked_hosts
from bailian_apps.emulator.sessions import Session, SessionStore, UnknownSession


class Emulator(LocalServer):
    """A local server of the Bailian application API, on the loopback interface.

    A context manager: the server runs in its own thread during the `with` block, and leaving the
    block aborts the streams that are still open.

    Args:
        apps: The app for each app id: the path of a recording (`.sse`, `.json`, `.jsonl`) or of a
            YAML file, a `Workflow`, an `Agent` or `Rules`, one of these as `Paced`, or a function;
            any of these as `PromptOnly`. As `AppFiles`, files are read again when they change. The
            function gets a `Call` and returns a text, a payload, a list of payloads, or a generator
            of payloads; it may be async. To fail it returns or raises `Failure`.
        api_key: The only valid key. By default any key but an empty one is valid.
        pace: How many times faster than recorded to answer; 0, the default, does not wait.
        host: The address to listen on; `0.0.0.0` accepts connections from other machines.
        port: The port to listen on; 0 takes a free one.
        allowed_hosts: Further host names of the server; their web pages may call apps.
        sleep: Waits some seconds before a frame; for tests of the pace.
        session_ttl_s: Seconds without a request until a session is forgotten; see `advance`.
        session_max_rounds: How many rounds a session has; then it is unknown.
        unknown_session: The answer to an unknown session id: `fresh` opens a session with
            another id, `error` answers with `InvalidParameter`.
        strict: Whether to refuse unknown names, wrong types and values out of range, to find
            mistakes that the cloud ignores. By default, as on the cloud, only requests that
            cannot be answered are refused.
        render_run: Renders a run for the page at `page_url`, such as
            `bailian_apps.inspector.render_frames`; by default the page lists the steps.
        record_missing: Where a call goes that no recording answers, or whose app is missing:
            it is passed on to the upstream of this recorder, with the caller's key, and the answer
            is recorded unless it is an error. The recorder need not be started. A call goes
            nowhere if a fault hits it or if it continues a session of the emulator.
        background_queue_s: Seconds that a background run is queued; see `advance`.
        background_run_s: Seconds that a background run takes at least, after that.

    Example:
        ```python
        with Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}) as cloud:
            dashscope.Application.call(
                app_id="travel", prompt="杭州", api_key="any", base_address=cloud.base_url
            )
            print(cloud.requests[0].prompt)
        ```
    """

    def __init__(
        self,
        apps: Mapping[str, AppSource],
        *,
        api_key: str | None = None,
        pace: float = 0.0,
        host: str = LOOPBACK,
        port: int = 0,
        allowed_hosts: Sequence[str] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        session_ttl_s: float = 3600.0,
        session_max_rounds: int = 50,
        unknown_session: UnknownSession = "fresh",
        strict: bool = False,
        render_run: RenderRun | None = None,
        record_missing: Recorder | None = None,
        background_queue_s: float = 0.0,
        background_run_s: float = 0.0,
    ) -> None:
        """Load the apps; nothing listens before `start` or the `with` block.

        Raises:
            RecordingError: A recording cannot be read.
            ScenarioError: A YAML file is invalid or has several apps.
            ValueError: The pace, a setting of sessions or runs, or an allowed host is invalid.
            TypeError: An app is of no type that `apps` may have.
        """
        check_pace(pace)
        self._threads = WorkerThreads()
        self._cloud = Cloud(
            own_apps=apps,
            as_app=partial(as_app, workers=self._threads),
            api_key=api_key,
            pace=pace,
            sleep=sleep,
            new_sessions=partial(
                SessionStore,
                ttl_s=session_ttl_s,
                max_rounds=session_max_rounds,
                unknown=unknown_session,
            ),
            strict=strict,
            recorder=record_missing,
            new_runs=partial(RunStore, queue_s=background_queue_s, run_s=background_run_s),
        )
        shown = self._page(api_key, allowed_hosts, render_run)
        app = with_page(with_access_log(asgi_app(self._cloud)), shown)
        super().__init__(app, BASE_PATH, host=host, port=port, allowed_hosts=allowed_hosts)

    def _page(
        self, api_key: str | None, allowed_hosts: Sequence[str], render_run: RenderRun | None
    ) -> Shown:
        state = EmulatorState(self._cloud)
        return Shown(
            kind="emulator",
            base_path=BASE_PATH,
            exchanges=lambda: self._cloud.exchanges,
            state=state.read,
            sessions=state.sessions,
            faults=self.faults,
            api_key=api_key,
            allowed_hosts=checked_hosts(allowed_hosts),
            render_run=render_run,
        )

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The newest 10,000 requests to any app, including refused ones, oldest first."""
        return self._cloud.requests

    @property
    def sessions(self) -> dict[str, Session]:
        """The current sessions by their ids."""
        return self._cloud.sessions.snapshot()

    def forget(self, session_id: str | None = None) -> None:
        """Forget a session, as the cloud does after an hour; without an id, forget all.

        Raises:
            KeyError: The session does not exist.
        """
        self._cloud.sessions.forget(session_id)

    def add_app(self, app_id: str, source: AppSource) -> None:
        """Add or replace an app; `reset` undoes it.

        Args:
            app_id: The id.
            source: The app, as in the constructor.

        Raises:
            RecordingError: A recording cannot be read.
            ScenarioError: A YAML file is invalid or has several apps.
            TypeError: It is not an app.
        """
        self._cloud.add_app(app_id, source)

    def remove_app(self, app_id: str) -> None:
        """Remove an app; `reset` undoes it.

        Raises:
            KeyError: The app does not exist.
        """
        self._cloud.remove_app(app_id)

    @property
    def apps(self) -> list[str]:
        """The ids of all apps."""
        return list(self._cloud.apps)

    @property
    def faults(self) -> dict[str, str]:
        """All faults that `fail` can inject: the name and what the client observes."""
        return {name: fault.description for name, fault in FAULTS.items()}

    def fail(
        self,
        fault: str,
        *,
        nth: int = 1,
        times: int | None = None,
        share: float | None = None,
        seed: int | None = None,
        app_id: str | None = None,
        after_frames: int | None = None,
    ) -> None:
        """Inject a fault into the next call, or into others; `requests` has its name.

        Faults with their own response (`http_…`, `garbage` …) replace the app's answer, and the
        app is not called. All other faults change the app's answer as it is sent. A fault that
        needs a stream waits for a streaming call. If several faults hit a call, the first one
        added is injected.

        Args:
            fault: The name; see `faults`.
            nth: Which call to hit, counted from now; 1 is the next.
            times: How many calls to hit; by default 1, or all with `share`.
            share: The fraction of calls to hit at random: 0.1 is one in ten.
            seed: Makes the random choice repeatable.
            app_id: Hit and count only calls of this app.
            after_frames: How many frames are sent first, for a fault between or inside frames; by
                default 1. In a shorter answer the fault is at the end.

        Raises:
            ValueError: The fault is unknown, or an argument is invalid.
        """
        fields = {
            "name": fault,
            "nth": nth,
            "times": times,
            "share": share,
            "seed": seed,
            "app_id": app_id,
            "after_frames": after_frames,
        }
        try:
            spec = FaultSpec.model_validate(fields, strict=True)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from None
        self._cloud.faults.add(spec)

    def clear_faults(self) -> None:
        """Remove all faults that have not happened yet."""
        self._cloud.faults.clear()

    def advance(self, seconds: float) -> None:
        """Move the clock of the sessions and of the background runs forward, without waiting.

        Raises:
            ValueError: `seconds` is negative or not finite.
        """
        self._cloud.advance(seconds)

    def reset(self) -> None:
        """Remove requests, sessions, runs, faults and changes of the apps, and reset the clock.

        Answers in progress continue, but do not change the new state.
        """
        self._cloud.reset()

    def start(self) -> None:
        """Start to listen; see `LocalServer.start`."""
        if self._cloud.recorder is not None:
            self._cloud.recorder.open()
        super().start()

    def stop(self) -> None:
        """Abort all open streams and end the server's thread; does nothing if not running.

        Warns:
            ResourceWarning: A callable app still blocks. It should wait for `Call.disconnected`,
                or the test should release it before the emulator stops.
        """
        if self._running is None:
            return
        if self._cloud.recorder is not None:
            self._cloud.recorder.close()
        super().stop()
        left = self._threads.join(SHUTDOWN_TIMEOUT_S)
        if left:
            warnings.warn(
                f"{len(left)} app function(s) of the emulator still run {SHUTDOWN_TIMEOUT_S:g} s "
                f"after it stopped: {', '.join(left)}; let them wait for `call.disconnected`, or "
                "release them first",
                ResourceWarning,
                stacklevel=2,
            )
