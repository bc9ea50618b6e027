"""`Run`: one call of an app, with its attempts, until one is answered.

`BailianApp` and all adapters stand on it. Its two drivers differ in `for` against `async for`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from pydantic import SecretStr
from typing_extensions import Self

from bailian_apps.client import AppKey, Client, default_client
from bailian_apps.core.answer_text import AnswerFilter
from bailian_apps.core.decoder import Decoder
from bailian_apps.core.errors import BailianError, ConnectionLostError
from bailian_apps.core.events import AppEvent, RunFinished, coalesce_deltas
from bailian_apps.core.history import Plan
from bailian_apps.core.history_template import HistoryFormat
from bailian_apps.core.request import AppRequest
from bailian_apps.core.result import AppResult
from bailian_apps.core.retry import KeyReader, asks_for_prompt, did_not_start, retry_delay_s
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.tracebacks import hides_arguments
from bailian_apps.owned_stream import OwnedStream
from bailian_apps.transport.timeouts import Stopwatch, key_before

logger = logging.getLogger(__name__)


class EventStream(Iterator[AppEvent]):
    """The events of one run: an iterator, and a context manager that closes itself.

    It may be closed from another thread, and in a signal handler.
    """

    def __init__(self, events: Generator[AppEvent], run: Run) -> None:
        """Made by `Run.stream`."""
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
        """End the run; a thread that waits for its next event gets a `BailianError`."""
        self._run.close()
        with contextlib.suppress(ValueError):  # that thread is inside the generator, and ends it
            self._events.close()

    def __enter__(self) -> Self:
        """Return the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the stream."""
        self.close()


class _SessionForgottenError(BailianError):
    """The first frame names another session than the request; the run is repeated."""


class Run:
    """One call of an app, to be started once, by one of `stream`, `astream`, `invoke`, `ainvoke`.

    Attributes:
        closed: Set when the run was ended from outside.
    """

    @hides_arguments
    def __init__(
        self,
        settings: AppSettings,
        plan: Plan,
        options: Mapping[str, Any] | None = None,
        *,
        client: Client | None = None,
        on_frame: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> None:
        """Check the arguments. The request is sent when the first event is asked for.

        Args:
            settings: The settings of this call.
            plan: What of the conversation is sent.
            options: What only a call has (`image_list`, `file_list`, …), see `AppRequest`.
            client: The connections to use; None for the default client's.
            on_frame: Is called with each frame as parsed from the wire, before its events. Frames
                may share what they repeat: do not change them.

        Raises:
            InvalidInputError: An argument cannot be sent.
        """
        settings.require_secrets()
        self.closed = threading.Event()
        self._settings = settings
        self._client = client or default_client()
        self._plan = plan
        self._options = dict(options or {})
        self._on_frame = on_frame
        self._abort: Callable[[], object] | None = None
        self._deadline: float | None = None
        self._clock = Stopwatch()  # since the request of this attempt was sent
        self._attempt = 0
        self._uncounted = 0  # how many of the attempts do not count against `max_retries`
        self._asked_for_prompt = False
        self._keys = KeyReader(settings.api_key) if callable(settings.api_key) else None
        self._with_key = settings  # of this attempt, with what a callable `api_key` returned
        self._may_have_run = set[int]()  # which of the attempts
        self._app_key: AppKey = (settings.base_url, settings.app_id)
        self._reported_context_loss = False
        self._result = AppResult()
        self._prepare(plan)

    def invoke(self) -> AppResult:
        """Run the app and return the whole result: the fold of `stream`.

        Raises:
            BailianError: The call failed; `partial` holds what had arrived.
        """
        for _ in self._drive():
            pass
        return self._result

    async def ainvoke(self) -> AppResult:
        """As `invoke`, natively async."""
        async for _ in self.astream():
            pass
        return self._result

    def stream(self) -> EventStream:
        """Run the app and return its events; the last is `RunFinished`, with the whole result.

        Raises:
            BailianError: While iterating: the call failed; `partial` holds what had arrived.
        """
        return EventStream(self._drive(), self)

    async def astream(self) -> AsyncGenerator[AppEvent]:
        """As `stream`, natively async."""
        import asyncio  # costs 40 ms, which a program without a loop does not pay

        async with self._client.aslot(self._settings, deadline=self._total_deadline()):
            with self._session_lease():
                while True:
                    await self._aread_key()
                    frames: OwnedStream[list[Any]] | None = None
                    try:
                        frames = await self._client.aframes(
                            *self._next_call(), deadline=self._deadline, on_sent=self._on_sent
                        )
                        async for arrived in frames:
                            for event in self._feed(arrived):
                                yield event
                        yield self._finish()
                        return
                    except BailianError as error:
                        await asyncio.sleep(self._retry_delay_or_raise(error))
                    finally:
                        if frames is not None:
                            await frames.aclose()

    def _drive(self) -> Generator[AppEvent]:
        calls: Any = {"deadline": self._total_deadline(), "register_abort": self._register_abort}
        with self._client.slot(self._settings, **calls), self._session_lease():
            while True:
                self._read_key()
                frames: Generator[list[Any]] | None = None
                try:
                    frames = self._client.frames(*self._next_call(), on_sent=self._on_sent, **calls)
                    for arrived in frames:
                        yield from self._feed(arrived)
                    yield self._finish()
                    return
                except BailianError as error:
                    if self.closed.wait(self._retry_delay_or_raise(error)):
                        self._raise_final(error)
                finally:
                    if frames is not None:
                        frames.close()

    def close(self) -> None:
        """End the run from outside: from any thread, or in a signal handler."""
        self.closed.set()
        if self._abort is not None:
            self._abort()

    def _register_abort(self, abort: Callable[[], object]) -> None:
        self._abort = abort
        if self.closed.is_set():
            abort()

    def _total_deadline(self) -> float | None:
        """Start the clock of the whole call; return when it has to end."""
        total_s = self._settings.timeouts.total_s
        self._deadline = None if total_s is None else time.monotonic() + total_s
        return self._deadline

    @hides_arguments
    def _prepare(self, plan: Plan) -> None:
        """Make the request of a plan, in the form that the app takes."""
        request = plan.request(self._settings, self._options)
        takes_prompt = self._app_key in self._client.prompt_only_apps
        history_format = "prompt" if takes_prompt else self._settings.history_format
        self._use(request, None if request.messages is None else history_format)

    def _use(self, request: AppRequest, history_format: HistoryFormat | None) -> None:
        """Send this request, whose `messages` may be folded, and decode its answer."""
        if history_format == "prompt":
            turns = [(message.role, message.content) for message in request.messages or ()]
            prompt = self._settings.history_template.fold(turns)
            request = request.model_copy(update={"prompt": prompt, "messages": None})
        self._request = request
        self._decoder = Decoder(
            flow_stream_mode=request.sent("flow_stream_mode"),
            output_nodes=self._settings.output_nodes,
            asked_session=request.sent("session_id") or None,
            history_format=history_format,
            clock=self._clock,
        )
        marks, tags = self._settings.citation_marks, self._settings.think_tags
        self._answer = AnswerFilter(marks, tags, clock=self._clock)
        self._received = False

    @contextlib.contextmanager
    def _session_lease(self) -> Generator[None]:
        """Claim the next round of the plan's session; release it if the app certainly did not run.

        If another call has claimed it, the whole history is sent instead. A session that the caller
        names is always used; the caller is responsible for what it contains.
        """
        plan, rounds = self._plan, self._client.session_rounds
        if plan.session_id is None:
            yield
            return
        key = (self._settings.base_url, plan.app_id, plan.session_id)
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

    def _read_key(self) -> None:
        if self._keys is not None:
            try:
                self._use_key(self._keys.read())
            except BailianError as error:
                self._raise_final(error)

    async def _aread_key(self) -> None:
        if self._keys is not None:
            try:
                self._use_key(await key_before(self._deadline, self._keys.aread()))
            except BailianError as error:
                self._raise_final(error)

    def _use_key(self, key: SecretStr) -> None:
        self._with_key = self._settings.model_copy(update={"api_key": key})

    def _next_call(self) -> tuple[AppRequest, AppSettings]:
        """Return what the next attempt sends; once that was sent, it may have run."""
        self._attempt += 1
        sent, attempt, clock = self._may_have_run, self._attempt, self._clock
        self._on_sent = lambda: (sent.add(attempt), clock.restart())  # does not hold the run
        return self._request, self._with_key

    def _feed(self, frames: list[Mapping[str, Any]]) -> list[AppEvent]:
        """Decode frames that arrived together; deltas among them become one event."""
        if self._on_frame is not None:
            for frame in frames:
                self._on_frame(frame)
        if len(frames) > 1:
            events = coalesce_deltas(new for frame in frames for new in self._decoder.feed(frame))
            return self._answer.feed(events, last=self._decoder.finished)
        events = self._decoder.feed(frames[0])
        if not self._received:  # the first frame is always alone
            self._received = True
            self._may_have_run.add(self._attempt)
            if self._asked_for_prompt:  # an app that refuses the prompt too is not remembered
                self._client.prompt_only_apps.add(self._app_key)
            self._check_context(may_repeat=True)
        return self._answer.feed(events, last=self._decoder.finished)

    def _finish(self) -> RunFinished:
        """End the run; raises if no frame ended it."""
        self._result = replace(self._answer.result(self._decoder.finish()), attempts=self._attempt)
        self._check_context()
        self._warn_if_unread()
        return RunFinished(self._result)

    def _check_context(self, *, may_repeat: bool = False) -> None:
        """Report a session that the cloud has forgotten; repeat the run where that is allowed."""
        if not self._decoder.context_lost or self._reported_context_loss:
            return
        self._reported_context_loss = True
        repeats = may_repeat and self._settings.idempotent and self._plan.fallback is not None
        logger.warning(
            "app %s has lost the conversation: it answered in session %s instead of %s%s; "
            "request_id %s",
            self._settings.app_id,
            self._decoder.session_id,
            self._request.sent("session_id"),
            "; sending the whole history" if repeats else "",
            self._decoder.partial().request_id,
        )
        if repeats:
            raise _SessionForgottenError("the cloud has forgotten the session")

    def _warn_if_unread(self) -> None:
        """Warn once for each workflow that was sent a history which its model may not see."""
        sent = len(self._request.messages or ())
        if sent < 2 or self._app_key in self._client.warned_workflows:
            return
        if any(step.kind == "node" for step in self._result.steps):
            self._client.warned_workflows.add(self._app_key)
            logger.warning(
                "app %s is a workflow and was sent %d messages. Its model sees the last one only, "
                "unless the prompt of its LLM node contains the variable historyList and the app "
                'was published again; or pass history_format="prompt"',
                self._settings.app_id,
                sent,
            )

    def _retry_delay_or_raise(self, error: BailianError) -> float:
        """Return the seconds to wait before the next attempt, or raise the error, annotated.

        Its context and traceback are dropped: the frames and errors there hold the request with its
        key and its prompt. Also if waiting is cancelled, whose error has this one as its context.
        """
        error.__context__ = error.__traceback__ = None
        if not did_not_start(error):
            self._may_have_run.add(self._attempt)
        elif not self._received:
            self._may_have_run.discard(self._attempt)
        if isinstance(error, _SessionForgottenError) and self._plan.fallback is not None:
            if self.closed.is_set():
                self._raise_final(ConnectionLostError("the run was closed before it finished"))
            self._prepare(self._plan.fallback)
            return 0.0
        may_repeat = not (self._received or self.closed.is_set())
        if may_repeat and self._keys is not None and self._keys.asks_again_after(error):
            self._uncounted += 1
            return 0.0
        takes_prompt = asks_for_prompt(error) and self._request.messages is not None
        delay_s = 0.0 if takes_prompt and may_repeat else None
        if may_repeat and not takes_prompt:
            attempt = self._attempt - self._uncounted
            delay_s = retry_delay_s(error, attempt=attempt, settings=self._settings)
        if delay_s is None or (self._deadline and time.monotonic() + delay_s >= self._deadline):
            self._raise_final(error)
        if takes_prompt:
            logger.info("sending app %s a prompt: it takes no messages", self._settings.app_id)
            self._asked_for_prompt = True
            self._uncounted += 1
            self._use(self._request, "prompt")
            return delay_s
        logger.warning(
            "attempt %d of app %s failed with %s; retrying in %.1f s",
            self._attempt,
            self._settings.app_id,
            type(error).__name__,
            delay_s,
        )
        return delay_s

    def _raise_final(self, error: BailianError) -> NoReturn:
        """Raise an error with what is known about the call."""
        error.attempts, error.idempotent = self._attempt, self._settings.idempotent
        error.session_id = self._decoder.session_id or self._request.sent("session_id")
        if partial := self._decoder.partial() if self._decoder.started else error.partial:
            error.partial = replace(self._answer.result(partial), attempts=self._attempt)
            error.request_id = error.request_id or partial.request_id
        error.__context__ = None
        raise error.with_traceback(None)
