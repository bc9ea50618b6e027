"""The cloud's stand-in as its users see it."""

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from bailian_apps.emulator.apps.app import AppSource, as_app
from bailian_apps.emulator.apps.rules import check_pace
from bailian_apps.emulator.apps.worker_threads import Workers
from bailian_apps.emulator.faults.table import FAULTS
from bailian_apps.emulator.models import ReceivedRequest
from bailian_apps.emulator.server.endpoint import BASE_PATH, Cloud, asgi_app
from bailian_apps.emulator.server.uvicorn_thread import LOOPBACK, PATIENCE_S, RunningServer, logged
from bailian_apps.emulator.sessions import Session, SessionRules, UnknownSession

if TYPE_CHECKING:
    from typing_extensions import Self


class Emulator:
    """A local stand-in for the Bailian application API, on the loopback interface.

    A context manager: the server runs in a thread of its own while the `with` block does, and
    leaving the block cuts the streams that are still open.

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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        session_ttl_s: float = 3600.0,
        session_max_rounds: int = 50,
        unknown_session: UnknownSession = "fresh",
        strict: bool = True,
    ) -> None:
        """Read the recordings; nothing listens before `start`, or before the `with` block.

        Args:
            apps: What stands behind each app id: the path of a recording (`.sse`, `.json`,
                `.jsonl`) or of a YAML file that describes an app, a `Workflow`, an `Agent` or
                `Rules`, one of these as `Paced`, or a function that gets a `Call` and returns a
                text, a payload, a list of payloads, or a generator of payloads; it may be async.
                It fails by returning or raising `Failure`.
            api_key: The only key that is let in. By default every key is, but no empty one.
            pace: How many times faster than recorded to answer: 1 is the recorded pace, 2 is twice
                as fast, 0 does not wait at all.
            host: The address to listen on; `0.0.0.0` lets every machine call it that can reach
                this one.
            port: The port to listen on; 0 takes a free one.
            sleep: How to wait for the next frame, in seconds; a test may give its own clock.
            session_ttl_s: After how many seconds without a request a session is forgotten;
                `advance` lets them pass.
            session_max_rounds: How many rounds a session takes; the next request gets what an
                unknown session gets.
            unknown_session: What a request gets that names no living session of its app: `fresh`
                opens one under another id, `error` answers with `InvalidParameter`.
            strict: Whether to refuse parameters that the API does not document, and values of the
                wrong type or range. Without it, only what cannot be answered is refused.

        Raises:
            RecordingError: A recording cannot be read.
            ValueError: The pace is negative or no number, or a session would never live.
            TypeError: An app is neither a path nor a function.
        """
        check_pace(pace)
        self._workers = Workers()
        ready_apps = {app_id: as_app(source, self._workers) for app_id, source in apps.items()}
        rules = SessionRules(
            ttl_s=session_ttl_s, max_rounds=session_max_rounds, unknown=unknown_session
        )
        self._cloud = Cloud(
            ready_apps,
            api_key=api_key,
            pace=pace,
            sleep=sleep,
            session_rules=rules,
            strict=strict,
        )
        self._host = host
        self._port = port
        self._running: RunningServer | None = None

    @property
    def base_url(self) -> str:
        """What to give a client as its base address.

        Raises:
            RuntimeError: The emulator is not running.
        """
        if self._running is None:
            raise RuntimeError(
                "the emulator is not running; use it as `with Emulator(…) as cloud:`"
            )
        return self._running.origin + BASE_PATH

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests to any app, the refused ones too, in the order of their arrival.

        Only the newest 10,000 are kept.
        """
        return self._cloud.requests

    @property
    def sessions(self) -> dict[str, Session]:
        """The sessions there are now, by their ids."""
        return self._cloud.sessions.snapshot()

    def forget(self, session_id: str | None = None) -> None:
        """Forget a session, as the cloud does after an hour; without an id, forget all.

        Raises:
            KeyError: There is no such session.
        """
        self._cloud.sessions.forget(session_id)

    def add_app(self, app_id: str, source: AppSource) -> None:
        """Put an app behind an id, in place of the one that may be there; `reset` takes it away.

        Args:
            app_id: The id.
            source: The app, as in the constructor.

        Raises:
            RecordingError: A recording cannot be read.
            ScenarioError: A YAML file does not describe one app.
            TypeError: It is no app.
        """
        self._cloud.apps[app_id] = as_app(source, self._workers)

    @property
    def faults(self) -> dict[str, str]:
        """The names of all faults that `fail` can stage, and what a client meets."""
        return {name: fault.about for name, fault in FAULTS.items()}

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
        """Stage a fault for the next call, or for others; it is then named in `requests`.

        `http_…` and what else is an answer of its own comes in place of the app's, which is not
        asked. All other faults spoil the app's answer, while it is on its way. What only a stream
        can meet waits for a call that streams. Of several faults the one staged first goes first.

        Args:
            fault: Its name; `faults` has them all.
            nth: Which call to hit, counted from now on; 1 is the next.
            times: How many calls to hit; one, or with `share` all of it.
            share: How much of all calls to hit, chosen at random: 0.1 is every tenth.
            seed: Makes that choice repeatable.
            app_id: Hit only calls of this app, and count only these.
            after_frames: How many frames come first, where a fault happens between or inside
                frames; 1 if not given. In a shorter answer it happens at the end.

        Raises:
            ValueError: There is no such fault, or an argument cannot mean anything.
        """
        self._cloud.faults.add(
            fault,
            nth=nth,
            times=times,
            share=share,
            seed=seed,
            app_id=app_id,
            after_frames=after_frames,
        )

    def heal(self) -> None:
        """Stage nothing any more."""
        self._cloud.faults.clear()

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once for the sessions; nothing waits.

        Raises:
            ValueError: They are negative, or not finite.
        """
        self._cloud.clock.advance(seconds)

    def reset(self) -> None:
        """Begin anew: without requests, sessions, faults and added apps, the clock set back.

        Answers that are under way go on, and leave nothing behind.
        """
        self._cloud.reset()

    def start(self) -> None:
        """Begin to listen; `base_url` is good when this returns.

        Raises:
            RuntimeError: The emulator is already running.
            OSError: The port is taken, or the address is none of this machine's.
        """
        if self._running is not None:
            raise RuntimeError(f"the emulator is already running at {self.base_url}")
        self._running = RunningServer(
            logged(asgi_app(self._cloud)), host=self._host, port=self._port
        )

    def stop(self) -> None:
        """Cut all open streams and end the server's thread; does nothing when it does not run.

        Warns:
            ResourceWarning: A function of an app still blocks. It should wait for `Call.gone`,
                or the test should release it before the emulator ends.
        """
        if self._running is None:
            return
        self._running.stop()
        self._running = None
        left = self._workers.join(PATIENCE_S)
        if left:
            warnings.warn(
                f"{len(left)} app function(s) of the emulator still run {PATIENCE_S:g} s after "
                f"its end: {', '.join(left)}; let them wait for `call.gone`, or release them first",
                ResourceWarning,
                stacklevel=2,
            )

    def __enter__(self) -> "Self":
        """Start, and return the emulator."""
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
