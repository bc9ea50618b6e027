"""What stands behind an app id: a recording, or a function.

An app knows nothing of HTTP and of how an answer is told. It yields the frames of its answer as
deltas, a workflow in the `full_thoughts` mode if it can; `rendering` makes of them what the request
asked for. Whoever adds another kind of app adds a class with the three members of `App`.
"""

import inspect
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

from bailian_apps.emulator.calls import AppFunction, Call, Failure
from bailian_apps.emulator.recordings import Recording, as_payload, load_recording
from bailian_apps.emulator.wire import Frame, as_object, error_frame
from bailian_apps.emulator.workers import Workers

AppSource: TypeAlias = str | os.PathLike[str] | Recording | AppFunction
"""What an emulator can be given as an app."""

_DELTA_CHARS = 4
_END = object()


class App(Protocol):
    """One app of the emulator."""

    @property
    def session_id(self) -> str | None:
        """The id that its first session should have."""
        ...

    @property
    def request_id(self) -> str | None:
        """The id that its first answer should have."""
        ...

    def frames(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Yield the frames of one answer."""
        ...


def as_app(source: AppSource, workers: Workers) -> App:
    """Make an app of what the emulator was given.

    Raises:
        RecordingError: It is a path, and no recording can be read there.
        TypeError: It is neither a path, nor a recording, nor callable.
    """
    if isinstance(source, Recording):
        return RecordedApp(source)
    if callable(source):
        return CallableApp(source, workers)
    try:
        path = Path(source)
    except TypeError as error:
        raise TypeError(
            f"{source!r} is no app; give the path of a recording, or a function of one Call"
        ) from error
    return RecordedApp(load_recording(path))


@dataclass(frozen=True, slots=True)
class RecordedApp:
    """Gives the same recorded answer to every call, under the ids of the call."""

    recording: Recording

    @property
    def session_id(self) -> str | None:
        """The session it was recorded in."""
        return self.recording.session_id

    @property
    def request_id(self) -> str | None:
        """The request it answered."""
        return self.recording.request_id

    async def frames(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Yield the recorded frames."""
        for frame in self.recording.frames:
            payload = {**frame.payload, "request_id": call.request_id}
            if frame.output:
                payload["output"] = {**frame.output, "session_id": call.session_id}
            yield replace(frame, payload=payload)


class UnknownApp:
    """Answers for every app id that the emulator does not have."""

    session_id = None
    request_id = None

    async def frames(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Yield the error; in a stream it is an event, and the HTTP status stays 200."""
        yield error_frame(
            status=400,
            code="InvalidParameter",
            message="Required parameter(AppId) missing or invalid, "
            "please check the request parameters.",
            request_id=call.request_id,
        )


@dataclass(frozen=True, slots=True)
class CallableApp:
    """Gives what a function answers.

    A text is told in deltas, as an agent app tells it. A payload goes out as it is; only ids that
    it does not name are added.
    """

    function: AppFunction
    workers: Workers
    session_id: None = None
    request_id: None = None

    async def frames(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Yield the frames of what the function answers.

        Raises:
            Failure: The function returned or raised it.
            TypeError: The function answered something else than an `Answer`.
        """
        answer: Any = await self.workers.run(self.function, call)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Failure):
            raise answer
        if isinstance(answer, str):
            answer = _deltas_of(answer)
        elif isinstance(answer, dict):
            answer = [answer]
        if isinstance(answer, list | Iterator):
            items = self._step_through(iter(cast("Iterable[Any]", answer)))
        elif isinstance(answer, AsyncIterator):
            items = _close_after(cast("AsyncIterator[Any]", answer))
        else:
            raise _not_an_answer(answer, "a text, a payload, a list of payloads or a generator")
        async with aclosing(items):
            async for item in items:
                yield _frame_of(item, call)

    async def _step_through(self, items: Iterator[Any]) -> AsyncGenerator[Any, None]:
        if not inspect.isgenerator(items):
            for item in items:
                yield item
            return
        try:
            while (item := await self.workers.run(next, items, _END)) is not _END:
                yield item
        finally:
            with suppress(ValueError):  # it still runs in its thread, and ends there
                items.close()


async def _close_after(items: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    try:
        async for item in items:
            yield item
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


def _deltas_of(text: str) -> list[Any]:
    pieces = [text[start : start + _DELTA_CHARS] for start in range(0, len(text), _DELTA_CHARS)]
    outputs = [{"finish_reason": "null", "text": piece} for piece in pieces]
    return [{"output": o, "usage": {}} for o in [*outputs, {"finish_reason": "stop", "text": ""}]]


def _frame_of(item: object, call: Call) -> Frame:
    if isinstance(item, Failure):
        return item.as_frame(call.request_id)
    payload = as_object(item)
    if payload is None:
        raise _not_an_answer(item, "a payload (a dict) or a Failure for each frame")
    payload = dict(as_payload(payload))
    payload.setdefault("request_id", call.request_id)
    output = as_object(payload.get("output"))
    if output is not None:
        payload["output"] = {"session_id": call.session_id, **output}
    return Frame(payload=payload)


def _not_an_answer(value: object, wanted: str) -> TypeError:
    return TypeError(f"an app answered {value!r}; it must answer {wanted}")
