"""`BailianApp`: settings, transport and decoder, put together. Every adapter stands on it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from typing_extensions import Self

from bailian_apps.core.decoder import Decoder
from bailian_apps.core.errors import (
    AuthenticationError,
    BailianError,
    ConnectError,
    InvalidInputError,
)
from bailian_apps.core.events import AppEvent, RunFinished, coalesce_deltas
from bailian_apps.core.history import Plan
from bailian_apps.core.request import AppRequest, WireOptions, raise_invalid_input
from bailian_apps.core.result import AppResult
from bailian_apps.core.retry import wait_before_retry
from bailian_apps.core.settings import AppSettings
from bailian_apps.sessions import CLAIMS, SessionKey
from bailian_apps.transport.sdk import Frame, aopen_frames, open_frames

logger = logging.getLogger(__name__)


class BailianApp:
    """An app on Bailian (Model Studio), called from Python.

    It holds settings and no conversation, so one object serves any number of threads, tasks and
    users. A conversation goes on where the `session_id` of an earlier result is passed.

    Example:
        ```python
        app = BailianApp(app_id="…")  # the key is read from DASHSCOPE_API_KEY
        result = app.invoke("Plan a day in Hangzhou", biz_params={"city": "Hangzhou"})
        print(result.text)
        for event in app.stream("And a second day?", session_id=result.session_id):
            print(event)
        ```
    """

    def __init__(self, settings: AppSettings | None = None, /, **fields: Any) -> None:
        """Make an app of settings, or of their fields.

        Args:
            settings: Ready settings.
            **fields: The fields of `AppSettings`; with `settings`, those to replace.

        Raises:
            InvalidInputError: A field is unknown or not valid. It names the field and the mend.
        """
        try:
            self.settings = (
                AppSettings(**fields) if settings is None else settings.with_overrides(fields)
            )
        except ValidationError as error:
            raise_invalid_input(error)

    def __repr__(self) -> str:
        """The app's id; settings may hold secrets."""
        return f"BailianApp(app_id={self.settings.app_id!r})"

    def invoke(self, prompt: str | Plan | None = None, **overrides: Any) -> AppResult:
        """Run the app and wait for the whole answer.

        Args:
            prompt: The user's words; None when `messages` are passed; or the `Plan` of a
                conversation, which adapters make.
            **overrides: What only a call can say (`messages`, `session_id`, `image_list`,
                `file_list`, …, see `AppRequest`), and any field of `AppSettings` to replace.

        Returns:
            The fold of `stream`: there is one meaning of a response.

        Raises:
            InvalidInputError: An argument cannot be sent; nothing was.
            BailianError: The call failed; `partial` holds what had come.
        """
        run = _Run(self.settings, prompt, overrides)
        for _ in self._drive(run):
            pass
        return run.result

    async def ainvoke(self, prompt: str | Plan | None = None, **overrides: Any) -> AppResult:
        """As `invoke`, natively async."""
        run = _Run(self.settings, prompt, overrides)
        async for _ in self._adrive(run):
            pass
        return run.result

    def stream(self, prompt: str | Plan | None = None, **overrides: Any) -> EventStream:
        """Run the app and yield what happens, as it happens.

        What arrives together is told together: deltas of one step (or of the answer) that one read
        of the connection brought are one event. Whoever reads more slowly than the network gets
        fewer and longer pieces; joined, they are the same. Nothing waits for more to arrive.

        Arguments are checked at once; the request is sent at the first `next`. Closing the stream
        closes the connection.

        Args:
            prompt: As for `invoke`.
            **overrides: As for `invoke`.

        Returns:
            The events of the run; the last is `RunFinished`, with the whole result.

        Raises:
            InvalidInputError: An argument cannot be sent; nothing was.
            BailianError: The call failed; `partial` holds what had come.
        """
        run = _Run(self.settings, prompt, overrides)
        return EventStream(self._drive(run), run)

    def astream(
        self, prompt: str | Plan | None = None, **overrides: Any
    ) -> AsyncGenerator[AppEvent]:
        """As `stream`, natively async."""
        return self._adrive(_Run(self.settings, prompt, overrides))

    def _drive(self, run: _Run) -> Generator[AppEvent]:
        with run.place(attach=run.attach), run:
            while True:
                frames = open_frames(
                    run.next_request(), run.settings, deadline=run.deadline, attach=run.attach
                )
                try:
                    for arrived in frames:
                        yield from run.feed(arrived)
                    yield run.finish()
                except BailianError as error:
                    if run.closed.wait(run.wait_or_raise(error)):
                        run.complete(error)
                        raise
                else:
                    return
                finally:
                    frames.close()

    async def _adrive(self, run: _Run) -> AsyncGenerator[AppEvent]:
        async with run.place():
            with run:
                while True:
                    request = run.next_request()
                    frames = aopen_frames(request, run.settings, deadline=run.deadline)
                    try:
                        async for arrived in frames:
                            for event in run.feed(arrived):
                                yield event
                        yield run.finish()
                    except BailianError as error:
                        await _sleep(run.wait_or_raise(error))
                    else:
                        return
                    finally:
                        await frames.aclose()


async def _sleep(seconds: float) -> None:
    import asyncio  # costs 40 ms, which a program without a loop need not wait for

    await asyncio.sleep(seconds)


class EventStream(Iterator[AppEvent]):
    """The events of one run, as `BailianApp.stream` gives them.

    An iterator, and a context manager that closes itself. It may be closed from another thread, and
    in a signal handler.
    """

    def __init__(self, events: Generator[AppEvent], run: _Run) -> None:
        """Not for use; `BailianApp.stream` makes it."""
        self._events = events
        self._run = run

    def __next__(self) -> AppEvent:
        """The next event."""
        try:
            return next(self._events)
        except ValueError as error:
            if self._run.closed.is_set() and not isinstance(error, BailianError):
                raise StopIteration from None  # another thread is just closing the generator
            raise

    def close(self) -> None:
        """End the run here and free its connection.

        A thread that is waiting for the next event then gets a `BailianError`.
        """
        self._run.close()
        with contextlib.suppress(ValueError):  # that thread is inside the generator, and ends it
            self._events.close()

    def __enter__(self) -> Self:
        """Enter."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class _SessionForgottenError(BailianError):
    """The first frame names another session than was asked for; asked again, it is no failure."""


class _Run:
    """One call: everything about it that is the same for sync and async."""

    def __init__(
        self, settings: AppSettings, prompt: str | Plan | None, overrides: dict[str, Any]
    ) -> None:
        try:
            self.settings = settings.with_overrides(
                {k: v for k, v in overrides.items() if k in AppSettings.model_fields}
            )
            said = {k: v for k, v in overrides.items() if k not in AppSettings.model_fields}
            if isinstance(prompt, Plan):
                self._plan = prompt
            else:
                self._plan = Plan(app_id=self.settings.app_id)
                said |= {} if prompt is None else {"prompt": prompt}
            said |= {name: getattr(self.settings, name) for name in WireOptions.model_fields}
        except ValidationError as error:
            raise_invalid_input(error)
        self._said = said
        self._otherwise = self._plan.fallback
        self._claimed: SessionKey | None = None
        self._loss_was_told = False
        self._ask(self._plan)
        self._attempt = 0
        self._may_have_run = 0  # of the attempts
        self._result: AppResult | None = None
        self._until: float | None = None
        self._hang_up: Callable[[], object] | None = None
        self.closed = threading.Event()

    def _ask(self, plan: Plan) -> None:
        try:
            self.request = AppRequest.model_validate(plan.request_fields(self._said))
        except ValidationError as error:
            raise_invalid_input(error)
        self._decoder = Decoder(
            flow_stream_mode=self.request.flow_stream_mode,
            asked_session=self.request.session_id,
            whole_history=self.request.messages is not None,
        )
        self._received = False

    def __enter__(self) -> None:
        """Claim the session; where another call has gone on in it, send the whole history.

        Who names a session is not refused it: they vouch for what it holds.
        """
        plan = self._plan
        if plan.session_id is None:
            return
        key = (self.settings.base_url, plan.app_id, plan.session_id)
        if CLAIMS.claim(key, plan.round):
            self._claimed = key
            return
        if self._otherwise is None:
            return
        logger.info(
            "sending app %s the whole conversation: another call has continued session %s",
            plan.app_id,
            plan.session_id,
        )
        self._ask(self._otherwise)

    def __exit__(self, *_: object) -> None:
        """Give the session's claim back if no attempt can have run, however the call ended."""
        if self._claimed and not self._may_have_run:
            CLAIMS.release(self._claimed, self._plan.round)

    def next_request(self) -> AppRequest:
        """What the next attempt sends. Until an error says otherwise it may have run."""
        self._attempt += 1
        self._may_have_run += 1
        return self.request

    def place(self, attach: Callable[[Callable[[], object]], None] | None = None) -> Any:
        """A context in which the call has a place; entering may have to wait for it."""
        limit = self.settings.max_concurrency
        if limit is None:
            return contextlib.nullcontext()
        from bailian_apps.transport.places import Place

        return Place(self.settings, limit, deadline=self.deadline, attach=attach)

    def attach(self, hang_up: Callable[[], object]) -> None:
        self._hang_up = hang_up
        if self.closed.is_set():
            hang_up()

    def close(self) -> None:
        self.closed.set()
        if self._hang_up is not None:
            self._hang_up()

    @property
    def deadline(self) -> float | None:
        """When the call has to end. It counts from the first attempt."""
        total_s = self.settings.limits.total_s
        if self._until is None and total_s is not None:
            self._until = time.monotonic() + total_s
        return self._until

    @property
    def result(self) -> AppResult:
        assert self._result is not None, "the run has not finished"  # noqa: S101
        return self._result

    def feed(self, frames: list[Frame]) -> list[AppEvent]:
        """Read frames that arrived together; what they say in pieces is told at once."""
        if len(frames) > 1:
            return coalesce_deltas(event for frame in frames for event in self._decoder.feed(frame))
        events = self._decoder.feed(frames[0])
        if not self._received:  # the first frame always comes alone
            self._received = True
            self._notice_loss(may_ask_again=True)
        return events

    def finish(self) -> RunFinished:
        self._result = replace(self._decoder.finish(), attempts=self._attempt)
        self._notice_loss()
        return RunFinished(self._result)

    def _notice_loss(self, *, may_ask_again: bool = False) -> None:
        if not self._decoder.context_lost or self._loss_was_told:
            return
        self._loss_was_told = True
        ask_again = may_ask_again and self.settings.idempotent and self._otherwise is not None
        logger.warning(
            "app %s has forgotten the conversation: it answered in session %s, not in %s as asked"
            "%s; request_id %s",
            self.settings.app_id,
            self._decoder.session_id,
            self.request.session_id,
            "; asking again, with the whole history" if ask_again else "",
            self._decoder.partial().request_id,
        )
        if ask_again:
            raise _SessionForgottenError("the cloud has forgotten the session")

    def wait_or_raise(self, error: BailianError) -> float:
        """The seconds to wait before the request may be sent again, or the error, made whole."""
        if not self._received and (
            error.resend == "not_started"
            or isinstance(error, (AuthenticationError, ConnectError, InvalidInputError))
        ):
            self._may_have_run -= 1
        if isinstance(error, _SessionForgottenError) and self._otherwise is not None:
            self._ask(self._otherwise)
            return 0.0
        wait_s = wait_before_retry(
            error, attempt=self._attempt, started=self._received, settings=self.settings
        )
        if (
            wait_s is None
            or self.closed.is_set()
            or (self._until and time.monotonic() + wait_s >= self._until)
        ):
            self.complete(error)
            raise error
        logger.warning(
            "attempt %d of app %s failed with %s; sending it again in %.1f s",
            self._attempt,
            self.settings.app_id,
            type(error).__name__,
            wait_s,
        )
        return wait_s

    def complete(self, error: BailianError) -> None:
        """Fill in, for an error that is final, what is known of the call."""
        error.attempts = self._attempt
        error.session_id = self._decoder.session_id or self.request.session_id
        if self._decoder.started:
            error.partial = replace(self._decoder.partial(), attempts=self._attempt)
            error.request_id = error.request_id or error.partial.request_id
