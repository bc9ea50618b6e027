"""What stands behind an app id: a recording, a description, or a function.

An app knows nothing of HTTP and of how an answer is told. It yields the frames of its answer as
deltas, a workflow in the `full_thoughts` mode if it can; `rendering` makes of them what the request
asked for. Whoever adds another kind of app adds a class with the members of `App`.
"""

import inspect
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

from bailian_apps.emulator.apps.agent import agent_frames
from bailian_apps.emulator.apps.files import DescribedApp, load_app
from bailian_apps.emulator.apps.recordings import Recording, as_payload
from bailian_apps.emulator.apps.rules import Paced, Rules
from bailian_apps.emulator.apps.scenarios import Agent, Workflow
from bailian_apps.emulator.apps.worker_threads import Workers
from bailian_apps.emulator.apps.workflow import workflow_frames
from bailian_apps.emulator.models import AppFunction, Call, Failure
from bailian_apps.emulator.wire.frames import Frame, as_object, error_frame

AppSource: TypeAlias = str | os.PathLike[str] | DescribedApp | AppFunction
"""What an emulator can be given as an app."""

_DELTA_CHARS = 4
_END = object()

logger = logging.getLogger(__name__)


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

    @property
    def pace(self) -> float | None:
        """Its own pace; None is the emulator's."""
        ...

    def frames(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Yield the frames of one answer."""
        ...


def as_app(source: AppSource, workers: Workers) -> "FramedApp | CallableApp":
    """Make an app of what the emulator was given.

    Raises:
        RecordingError: It is a path, and no recording can be read there.
        ScenarioError: It is the path of a YAML file that does not describe one app.
        TypeError: It is neither a path, nor a recording, nor a description, nor callable.
    """
    if isinstance(source, Paced):
        return replace(as_app(source.source, workers), pace=source.pace)
    if isinstance(source, Recording | Workflow | Agent | Rules):
        return FramedApp(source)
    if callable(source):
        return CallableApp(source, workers)
    try:
        path = Path(source)
    except TypeError as error:
        raise TypeError(
            f"{source!r} is no app; give the path of a recording or of a YAML file, a Workflow, "
            "an Agent, Rules, or a function of one Call"
        ) from error
    return as_app(load_app(path), workers)


@dataclass(frozen=True, slots=True)
class FramedApp:
    """Gives what was recorded or described, under the ids of the call."""

    source: Recording | Workflow | Agent | Rules
    pace: float | None = None

    @property
    def session_id(self) -> str | None:
        """The session it was recorded in."""
        return self.source.session_id if isinstance(self.source, Recording) else None

    @property
    def request_id(self) -> str | None:
        """The request it answered."""
        return self.source.request_id if isinstance(self.source, Recording) else None

    async def frames(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Yield the frames of one answer.

        Raises:
            Failure: The description says so, or needs something that the call does not have.
        """
        source = self.source
        chosen = source.choose(call) if isinstance(source, Rules) else source
        if isinstance(chosen, Recording):
            if lack := chosen.lacks(call.request.parameters):
                logger.warning("%s: %s", chosen.path.name, lack)
            told = chosen.under(session_id=call.session_id, request_id=call.request_id)
        elif isinstance(chosen, Workflow):
            told = workflow_frames(chosen, call)
        else:
            told = agent_frames(chosen, call)
        for frame in told:
            yield frame


class UnknownApp:
    """Answers for every app id that the emulator does not have."""

    session_id = None
    request_id = None
    pace = None

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
    pace: float | None = None

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
