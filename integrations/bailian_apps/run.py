"""One call of an app: its attempts, until one is answered. Adapters and `BailianApp` use it.

`stream` and `astream` are the only drivers, and they differ in `for` against `async for`; what
decides anything is in `_Run`. `invoke` is the fold of `stream`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn, TypeAlias

from pydantic import ValidationError
from typing_extensions import Self

from bailian_apps.client import Client, default_client
from bailian_apps.concurrency import ConcurrencySlot
from bailian_apps.core.decoder import Decoder
from bailian_apps.core.errors import BailianError
from bailian_apps.core.events import AppEvent, RunFinished, coalesce_deltas
from bailian_apps.core.history import Plan
from bailian_apps.core.request import AppRequest, WireOptions, raise_invalid_input
from bailian_apps.core.result import AppResult
from bailian_apps.core.retry import did_not_start, retry_delay_s
from bailian_apps.core.settings import CALL_NAMES, AppSettings

logger = logging.getLogger(__name__)

OnFrame: TypeAlias = Callable[[Mapping[str, Any]], object]


def stream(
    settings: AppSettings,
    plan: Plan,
    options: Mapping[str, Any] | None = None,
    *,
    client: Client | None = None,
    on_frame: OnFrame | None = None,
) -> EventStream:
    """Run an app and return its events.

    Arguments are checked at once; the request is sent at the first `next`.

    Args:
        settings: The settings of this call.
        plan: What of the conversation is sent.
        options: What only a call has (`image_list`, `file_list`, …), see `AppRequest`.
        client: The connections to use; None for the default client's.
        on_frame: Is called with each frame as parsed from the wire, before its events.

    Raises:
        InvalidInputError: An argument cannot be sent; nothing was.
        BailianError: While iterating: the call failed; `partial` holds what had arrived.
    """
    run = _Run(settings, plan, options, client, on_frame)
    return EventStream(_drive(run), run)


def astream(
    settings: AppSettings,
    plan: Plan,
    options: Mapping[str, Any] | None = None,
    *,
    client: Client | None = None,
    on_frame: OnFrame | None = None,
) -> AsyncGenerator[AppEvent]:
    """As `stream`, natively async."""
    return _adrive(_Run(settings, plan, options, client, on_frame))


def invoke(
    settings: AppSettings,
    plan: Plan,
    options: Mapping[str, Any] | None = None,
    *,
    client: Client | None = None,
) -> AppResult:
    """Run an app and return the whole result: the fold of `stream`."""
    run = _Run(settings, plan, options, client)
    for _ in _drive(run):
        pass
    return run.result


async def ainvoke(
    settings: AppSettings,
    plan: Plan,
    options: Mapping[str, Any] | None = None,
    *,
    client: Client | None = None,
) -> AppResult:
    """As `invoke`, natively async."""
    run = _Run(settings, plan, options, client)
    async for _ in _adrive(run):
        pass
    return run.result


class EventStream(Iterator[AppEvent]):
    """The events of one run: an iterator, and a context manager that closes itself.

    It may be closed from another thread, and in a signal handler.
    """

    def __init__(self, events: Generator[AppEvent], run: _Run) -> None:
        """Made by `stream`."""
        self._events = events
        self._run = run

    def __next__(self) -> AppEvent:
        """Return the next event."""
        try:
            return next(self._events)
        except ValueError as error:
            if self._run.closed.is_set() and not isinstance(error, BailianError):
                raise StopIteration from None  # another thread is closing the generator
            raise

    def close(self) -> None:
        """End the run and free its connection.

        A thread that is waiting for the next event then gets a `BailianError`.
        """
        self._run.close()
        with contextlib.suppress(ValueError):  # that thread is inside the generator, and ends it
            self._events.close()

    def __enter__(self) -> Self:
        """Return the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the stream."""
        self.close()


def _drive(run: _Run) -> Generator[AppEvent]:
    with run.slot(run.register_abort), run.session_lease():
        while True:
            frames: Generator[list[Any]] | None = None
            try:
                frames = run.client.frames(
                    run.next_request(),
                    run.settings,
                    deadline=run.deadline,
                    register_abort=run.register_abort,
                )
                for arrived in frames:
                    yield from run.feed(arrived)
                yield run.finish()
            except BailianError as error:
                if run.closed.wait(run.retry_delay_or_raise(error)):
                    run.raise_final(error)
            else:
                return
            finally:
                if frames is not None:
                    frames.close()


async def _adrive(run: _Run) -> AsyncGenerator[AppEvent]:
    async with run.slot():
        with run.session_lease():
            while True:
                frames: AsyncGenerator[list[Any]] | None = None
                try:
                    frames = await run.client.aframes(
                        run.next_request(), run.settings, deadline=run.deadline
                    )
                    async for arrived in frames:
                        for event in run.feed(arrived):
                            yield event
                    yield run.finish()
                except BailianError as error:
                    await _sleep(run.retry_delay_or_raise(error))
                else:
                    return
                finally:
                    if frames is not None:
                        await frames.aclose()


async def _sleep(seconds: float) -> None:
    import asyncio  # costs 40 ms, which a program without a loop does not pay

    await asyncio.sleep(seconds)


class _SessionForgottenError(BailianError):
    """The first frame names another session than the request; the run is repeated."""


class _Run:
    """The state of one call, and every decision about it. Shared by sync and async."""

    def __init__(
        self,
        settings: AppSettings,
        plan: Plan,
        options: Mapping[str, Any] | None,
        client: Client | None,
        on_frame: OnFrame | None = None,
    ) -> None:
        self.settings = settings
        self.client = client or default_client()
        self.closed = threading.Event()
        self._plan = plan
        self._options = dict(options or {}) | {
            name: getattr(settings, name) for name in WireOptions.model_fields
        }
        self._on_frame = on_frame
        self._abort: Callable[[], object] | None = None
        self._deadline: float | None = None
        self._attempt = 0
        self._may_have_run = 0  # how many of the attempts
        self._reported_context_loss = False
        self._result: AppResult | None = None
        self._prepare(plan)

    def _prepare(self, plan: Plan) -> None:
        """Make the request of a plan, and a decoder for its answer."""
        try:
            self.request = AppRequest.model_validate(plan.request_fields(self._options))
        except ValidationError as error:
            raise_invalid_input(error, names=CALL_NAMES)
        self._decoder = Decoder(
            flow_stream_mode=self.request.flow_stream_mode,
            asked_session=self.request.session_id,
            whole_history=self.request.messages is not None,
        )
        self._received = False

    @contextlib.contextmanager
    def session_lease(self) -> Generator[None]:
        """Claim the next round of the plan's session; release it if the app certainly did not run.

        If another call has claimed it, the whole history is sent instead. A session that the caller
        names is always used; the caller is responsible for what it contains.
        """
        plan, rounds = self._plan, self.client.session_rounds
        if plan.session_id is None:
            yield
            return
        key = (self.settings.base_url, plan.app_id, plan.session_id)
        claimed = rounds.claim(key, plan.round)
        if not claimed and plan.fallback is not None:
            logger.info(
                "sending the whole history to app %s: another call has continued session %s",
                plan.app_id,
                plan.session_id,
            )
            self._prepare(plan.fallback)
        try:
            yield
        finally:
            if claimed and not self._may_have_run:
                rounds.release(key, plan.round)

    def slot(
        self, register_abort: Callable[[Callable[[], object]], None] | None = None
    ) -> ConcurrencySlot | contextlib.nullcontext[None]:
        """Return a context in which the call holds a concurrency slot."""
        return self.client.slot(
            self.settings, deadline=self.deadline, register_abort=register_abort
        )

    def next_request(self) -> AppRequest:
        """Return what the next attempt sends. Until an error shows otherwise, it may have run."""
        self._attempt += 1
        self._may_have_run += 1
        return self.request

    def register_abort(self, abort: Callable[[], object]) -> None:
        """Take the function that ends what the call is waiting for."""
        self._abort = abort
        if self.closed.is_set():
            abort()

    def close(self) -> None:
        """End the call from outside."""
        self.closed.set()
        if self._abort is not None:
            self._abort()

    @property
    def deadline(self) -> float | None:
        """When the call has to end. It counts from the first attempt."""
        total_s = self.settings.timeouts.total_s
        if self._deadline is None and total_s is not None:
            self._deadline = time.monotonic() + total_s
        return self._deadline

    @property
    def result(self) -> AppResult:
        """The result of a run that finished."""
        assert self._result is not None, "the run has not finished"  # noqa: S101
        return self._result

    def feed(self, frames: list[Mapping[str, Any]]) -> list[AppEvent]:
        """Decode frames that arrived together; deltas among them become one event."""
        if self._on_frame is not None:
            for frame in frames:
                self._on_frame(frame)
        if len(frames) > 1:
            return coalesce_deltas(event for frame in frames for event in self._decoder.feed(frame))
        events = self._decoder.feed(frames[0])
        if not self._received:  # the first frame is always alone
            self._received = True
            self._check_context(may_repeat=True)
        return events

    def finish(self) -> RunFinished:
        """End the run; raises if no frame ended it."""
        self._result = replace(self._decoder.finish(), attempts=self._attempt)
        self._check_context()
        return RunFinished(self._result)

    def _check_context(self, *, may_repeat: bool = False) -> None:
        """Report a session that the cloud has forgotten; repeat the run where that is allowed."""
        if not self._decoder.context_lost or self._reported_context_loss:
            return
        self._reported_context_loss = True
        repeats = may_repeat and self.settings.idempotent and self._plan.fallback is not None
        logger.warning(
            "app %s has lost the conversation: it answered in session %s instead of %s%s; "
            "request_id %s",
            self.settings.app_id,
            self._decoder.session_id,
            self.request.session_id,
            "; sending the whole history" if repeats else "",
            self._decoder.partial().request_id,
        )
        if repeats:
            raise _SessionForgottenError("the cloud has forgotten the session")

    def retry_delay_or_raise(self, error: BailianError) -> float:
        """Return the seconds to wait before the next attempt, or raise the error, annotated."""
        if not self._received and did_not_start(error):
            self._may_have_run -= 1
        if isinstance(error, _SessionForgottenError) and self._plan.fallback is not None:
            self._prepare(self._plan.fallback)
            return 0.0
        delay_s = None
        if not (self._received or self.closed.is_set()):
            delay_s = retry_delay_s(error, attempt=self._attempt, settings=self.settings)
        if delay_s is None or (self._deadline and time.monotonic() + delay_s >= self._deadline):
            self.raise_final(error)
        logger.warning(
            "attempt %d of app %s failed with %s; retrying in %.1f s",
            self._attempt,
            self.settings.app_id,
            type(error).__name__,
            delay_s,
        )
        return delay_s

    def raise_final(self, error: BailianError) -> NoReturn:
        """Raise an error with what is known about the call.

        Its context and traceback are dropped: the variables of the transport's frames, and the
        libraries' errors, hold the request with its key and its prompt, for any error reporter to
        collect.
        """
        error.attempts = self._attempt
        error.session_id = self._decoder.session_id or self.request.session_id
        if self._decoder.started:
            error.partial = replace(self._decoder.partial(), attempts=self._attempt)
            error.request_id = error.request_id or error.partial.request_id
        error.__context__ = None
        raise error.with_traceback(None)
