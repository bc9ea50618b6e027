"""`BailianApp`: settings, transport and decoder, put together. Every adapter stands on it."""

from __future__ import annotations

import asyncio
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
from bailian_apps.core.errors import BailianError
from bailian_apps.core.events import AppEvent, RunFinished
from bailian_apps.core.request import AppRequest, WireOptions, raise_invalid_input
from bailian_apps.core.result import AppResult
from bailian_apps.core.retry import wait_before_retry
from bailian_apps.core.settings import AppSettings
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

    def invoke(self, prompt: str | None = None, **overrides: Any) -> AppResult:
        """Run the app and wait for the whole answer.

        Args:
            prompt: The user's words; None when `messages` are passed.
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

    async def ainvoke(self, prompt: str | None = None, **overrides: Any) -> AppResult:
        """As `invoke`, natively async."""
        run = _Run(self.settings, prompt, overrides)
        async for _ in self._adrive(run):
            pass
        return run.result

    def stream(self, prompt: str | None = None, **overrides: Any) -> EventStream:
        """Run the app and yield what happens, as it happens.

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

    def astream(self, prompt: str | None = None, **overrides: Any) -> AsyncGenerator[AppEvent]:
        """As `stream`, natively async."""
        return self._adrive(_Run(self.settings, prompt, overrides))

    def _drive(self, run: _Run) -> Generator[AppEvent]:
        while True:
            frames = open_frames(
                run.request, run.settings, deadline=run.deadline, attach=run.attach
            )
            try:
                for frame in frames:
                    yield from run.feed(frame)
                yield run.finish()
            except BailianError as error:
                if run.closed.wait(run.wait_or_raise(error)):
                    raise
            else:
                return
            finally:
                frames.close()

    async def _adrive(self, run: _Run) -> AsyncGenerator[AppEvent]:
        while True:
            frames = aopen_frames(run.request, run.settings, deadline=run.deadline)
            try:
                async for frame in frames:
                    for event in run.feed(frame):
                        yield event
                yield run.finish()
            except BailianError as error:
                await asyncio.sleep(run.wait_or_raise(error))
            else:
                return
            finally:
                await frames.aclose()


class EventStream(Iterator[AppEvent]):
    """The events of one run, as `BailianApp.stream` gives them.

    An iterator, and a context manager that closes itself. It may be closed from another thread.
    """

    def __init__(self, events: Generator[AppEvent], run: _Run) -> None:
        """Not for use; `BailianApp.stream` makes it."""
        self._events = events
        self._run = run

    def __next__(self) -> AppEvent:
        """The next event."""
        return next(self._events)

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


class _Run:
    """One call: everything about it that is the same for sync and async."""

    def __init__(
        self, settings: AppSettings, prompt: str | None, overrides: dict[str, Any]
    ) -> None:
        try:
            self.settings = settings.with_overrides(
                {k: v for k, v in overrides.items() if k in AppSettings.model_fields}
            )
            said = {k: v for k, v in overrides.items() if k not in AppSettings.model_fields}
            if prompt is not None:
                said["prompt"] = prompt
            said |= {name: getattr(self.settings, name) for name in WireOptions.model_fields}
            self.request = AppRequest.model_validate(said)
        except ValidationError as error:
            raise_invalid_input(error)
        self._decoder = Decoder(flow_stream_mode=self.request.flow_stream_mode)
        self._attempt = 1
        self._received = False
        self._result: AppResult | None = None
        self._until: float | None = None
        self._hang_up: Callable[[], None] | None = None
        self.closed = threading.Event()

    def attach(self, hang_up: Callable[[], None]) -> None:
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

    def feed(self, frame: Frame) -> list[AppEvent]:
        self._received = True
        return self._decoder.feed(frame)

    def finish(self) -> RunFinished:
        self._result = replace(self._decoder.finish(), attempts=self._attempt)
        return RunFinished(self._result)

    def wait_or_raise(self, error: BailianError) -> float:
        """The seconds to wait before the request may be sent again, or the error, made whole."""
        wait_s = wait_before_retry(
            error, attempt=self._attempt, started=self._received, settings=self.settings
        )
        if wait_s is None or (self._until and time.monotonic() + wait_s >= self._until):
            error.attempts = self._attempt
            error.session_id = self._decoder.session_id or self.request.session_id
            if self._decoder.started:
                error.partial = replace(self._decoder.partial(), attempts=self._attempt)
                error.request_id = error.request_id or error.partial.request_id
            raise error
        logger.warning(
            "attempt %d of app %s failed with %s; sending it again in %.1f s",
            self._attempt,
            self.settings.app_id,
            type(error).__name__,
            wait_s,
        )
        self._attempt += 1
        return wait_s
