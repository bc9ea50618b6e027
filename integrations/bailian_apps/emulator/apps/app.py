"""The apps of an emulator: each answers a call with frames.

A new kind of app is a function that yields the frames of a call.
"""

import inspect
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast
from urllib.parse import quote

from bailian_apps.emulator.apps.agent import agent_frames
from bailian_apps.emulator.apps.files import DescribedApp, load_app
from bailian_apps.emulator.apps.recorded_app import RecordedApp
from bailian_apps.emulator.apps.recordings import Recording, as_payload
from bailian_apps.emulator.apps.rules import AnswerSource, Paced, PromptOnly, Rules
from bailian_apps.emulator.apps.scenarios import Agent, ErrorAnswer, Workflow
from bailian_apps.emulator.apps.worker_threads import WorkerThreads
from bailian_apps.emulator.apps.workflow import workflow_frames
from bailian_apps.emulator.errors import suggestion
from bailian_apps.emulator.models import AppFunction, Call, Failure
from bailian_apps.emulator.wire.frames import Frame, as_object

AppSource: TypeAlias = str | os.PathLike[str] | DescribedApp | AppFunction
"""What `Emulator(apps=…)` accepts as an app."""

NEAREST_HEADER = "x-emulator-nearest"
"""Names the recording that answers a call that was not recorded, and what differs."""

_KINDS = {Workflow: "workflow", Agent: "agent", Rules: "rules", ErrorAnswer: "error"}
_DELTA_CHARS = 4
_LISTED_APPS = 10
_END = object()

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class App:
    """One app of the emulator.

    Attributes:
        frames: Yields the frames of one answer. They are deltas, of a workflow in the
            `full_thoughts` mode if possible; `wire.rendering` turns them into what the request
            asked for. A `Failure` before the first frame is an HTTP error.
        session_id: The preferred id of its first session.
        request_id: The preferred id of its first answer.
        pace: Its own pace; None uses the emulator's.
        kind: What it is, for people.
        source: What it was made of: a description, a recording or a function.
    """

    frames: Callable[[Call], AsyncGenerator[Frame, None]]
    session_id: str | None = None
    request_id: str | None = None
    pace: float | None = None
    kind: str = "function"
    source: object = None


def as_app(source: AppSource, workers: WorkerThreads) -> App:
    """Return the app for a source; see `Emulator` for the errors."""
    if isinstance(source, PromptOnly):
        app = as_app(source.source, workers)
        return replace(app, frames=partial(_frames_of_prompt, source, app.frames), source=source)
    if isinstance(source, Paced):
        return replace(as_app(source.source, workers), pace=source.pace, source=source)
    if isinstance(source, Recording):
        frames = partial(_frames_of, source)
        first_ids = source.session_id, source.request_id
        return App(frames, *first_ids, kind="recording", source=source)
    if isinstance(source, RecordedApp):
        first = source.recordings[0]
        frames = partial(_frames_of, source)
        first_ids = first.session_id, first.request_id
        return App(frames, *first_ids, kind="recordings", source=source)
    if isinstance(source, Workflow | Agent | Rules | ErrorAnswer):
        return App(partial(_frames_of, source), kind=_KINDS[type(source)], source=source)
    if callable(source):
        return App(partial(_frames_of_function, source, workers), source=source)
    try:
        path = Path(source)
    except TypeError as error:
        raise TypeError(
            f"{source!r} is not an app; pass the path of a recording or of a YAML file, a "
            "Workflow, an Agent, Rules, or a function of one Call"
        ) from error
    return as_app(load_app(path), workers)


def unknown_app(app_id: str, served: Iterable[str]) -> App:
    """Return what answers for an app that does not exist."""
    ids = list(served)
    more = f" and {len(ids) - _LISTED_APPS} more" if len(ids) > _LISTED_APPS else ""
    listed = f"serves {', '.join(ids[:_LISTED_APPS])}{more}" if ids else "serves no app"
    # The first sentence is the cloud's.
    problem = (
        "Required parameter(AppId) missing or invalid, please check the request parameters. "
        f"The emulator {listed}{suggestion(app_id, ids) or '.'}"
    )

    async def frames(call: Call) -> AsyncGenerator[Frame, None]:
        """Yield the error; in a stream it is an event, and the HTTP status is 200.

        See tests/recordings/error-app-id-invalid-elided.sse.
        """
        failure = Failure(status=400, code="InvalidParameter", message=problem)
        yield failure.as_frame(call.request_id)

    return App(frames, kind="unknown")


async def _frames_of_prompt(
    source: PromptOnly, frames: Callable[[Call], AsyncGenerator[Frame, None]], call: Call
) -> AsyncGenerator[Frame, None]:
    async with aclosing(frames(source.call(call))) as answer:
        async for frame in answer:
            yield frame


async def _frames_of(
    source: AnswerSource | Rules | RecordedApp, call: Call
) -> AsyncGenerator[Frame, None]:
    headers: dict[str, str] = {}
    if isinstance(source, RecordedApp):
        chosen, differ = source.choose(call)
        if differ:
            headers[NEAREST_HEADER] = quote(f"{chosen.path.name}; differs: {differ}", safe="; :,")
    else:
        chosen = source.choose(call) if isinstance(source, Rules) else source
    if isinstance(chosen, ErrorAnswer):
        raise chosen.as_failure()
    if isinstance(chosen, Recording):
        if missing := chosen.missing_features(call.request.parameters):
            logger.warning("%s: %s", chosen.path.name, missing)
        ids = {"session_id": call.session_id, "request_id": call.request_id}
        frames = chosen.with_ids(**ids, headers=headers)
    elif isinstance(chosen, Workflow):
        frames = workflow_frames(chosen, call)
    else:
        frames = agent_frames(chosen, call)
    for frame in frames:
        yield frame


async def _frames_of_function(
    function: AppFunction, workers: WorkerThreads, call: Call
) -> AsyncGenerator[Frame, None]:
    """Yield the answer of a function; a text streams as an agent's deltas."""
    answer: Any = await workers.run(function, call)
    if inspect.isawaitable(answer):
        answer = await answer
    if isinstance(answer, Failure):
        raise answer
    if isinstance(answer, str):
        answer = _deltas_of(answer)
    elif isinstance(answer, dict):
        answer = [answer]
    if isinstance(answer, list | Iterator):
        items = _step_through(iter(cast("Iterable[Any]", answer)), workers)
    elif isinstance(answer, AsyncIterator):
        items = _close_after(cast("AsyncIterator[Any]", answer))
    else:
        raise _not_an_answer(answer, "a text, a payload, a list of payloads or a generator")
    async with aclosing(items):
        async for item in items:
            yield _frame_of(item, call)


async def _step_through(items: Iterator[Any], workers: WorkerThreads) -> AsyncGenerator[Any, None]:
    if not inspect.isgenerator(items):
        for item in items:
            yield item
        return
    try:
        while (item := await workers.run(next, items, _END)) is not _END:
            yield item
    finally:
        with suppress(ValueError):  # it is still running in its thread, and ends there
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
    return TypeError(f"an app returned {value!r}; it must return {wanted}")
