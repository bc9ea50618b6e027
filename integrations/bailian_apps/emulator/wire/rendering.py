"""Renders an app's frames the way a request asks for.

Apps yield deltas. A request gets deltas or cumulative texts (`incremental_output`), with or without
`thoughts` (`has_thoughts`), in one of the workflow modes (`flow_stream_mode`), or one JSON answer.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from bailian_apps.emulator.wire.cumulative import Accumulator
from bailian_apps.emulator.wire.flow_modes import DEFAULT_MODE, encoder_for
from bailian_apps.emulator.wire.frames import Frame, JsonObject


async def render(
    frames: AsyncIterator[Frame], parameters: JsonObject
) -> AsyncGenerator[Frame, None]:
    """Yield the frames of a stream as the request's `parameters` ask."""
    encoder = encoder_for(parameters.get("flow_stream_mode") or DEFAULT_MODE)
    accumulator = None if parameters.get("incremental_output") is True else Accumulator()
    async for frame in frames:
        for encoded in encoder.feed(frame):
            yield select_thoughts(accumulator.feed(encoded) if accumulator else encoded, parameters)


def fold(frames: Sequence[Frame]) -> Frame:
    """Fold all frames of an answer into one.

    A later frame's field replaces an earlier one unless it is empty. An error frame replaces
    everything.
    """
    error = next((frame for frame in frames if frame.event == "error"), None)
    if error is not None or len(frames) == 1:
        return error or frames[0]
    accumulator = Accumulator()
    payload: JsonObject = {}
    output: JsonObject = {}
    for frame in map(accumulator.feed, frames):
        payload |= _updates(frame.payload, payload)
        output |= _updates(frame.output, output)
    output.pop("workflow_message", None)
    return Frame(payload={**payload, "output": output}, offset_ms=frames[-1].offset_ms)


def select_thoughts(frame: Frame, parameters: JsonObject) -> Frame:
    """Return the frame, without its `thoughts` unless the request asked for them."""
    if parameters.get("has_thoughts") is True or not frame.output.get("thoughts"):
        return frame
    return frame.with_output({key: item for key, item in frame.output.items() if key != "thoughts"})


def _updates(later: JsonObject, earlier: JsonObject) -> JsonObject:
    return {
        key: item for key, item in later.items() if key not in earlier or item not in (None, {}, [])
    }
