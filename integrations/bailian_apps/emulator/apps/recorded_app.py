"""Finds the recording that answers a call, and explains why none does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal, TypeAlias

from bailian_apps.emulator.apps.fields import agree
from bailian_apps.emulator.apps.recordings import Recording
from bailian_apps.emulator.credentials import is_secret
from bailian_apps.emulator.models import Call, Failure, ReceivedRequest
from bailian_apps.emulator.wire.frames import JsonObject, to_json

Matching: TypeAlias = Literal["prompt", "exact", "nearest"]
"""How a call finds its recording: by its prompt and `biz_params`; also by `messages` and by what it
asks for; or, where none fits, the recording of the most similar request."""

_SHOWN_PROMPTS = 5
_SHOWN_CHARS = 40
_COMPARED_CHARS = 500
_COMPARED_APART = {
    *("prompt", "messages", "biz_params", "session_id"),
    *("has_thoughts", "incremental_output", "flow_stream_mode", "stream"),
}
"""Fields that a replay can answer in another form, or that have a rule of their own."""


class NotRecorded(Failure):
    """No recording answers a call."""

    def __init__(self, message: str) -> None:
        """Create the failure."""
        super().__init__(status=400, code="InvalidParameter", message=message)


@dataclass(frozen=True, slots=True)
class RecordedApp:
    """An app that answers with its recordings.

    Attributes:
        recordings: What the recorder wrote, oldest first.
        matching: See `Matching`.
    """

    recordings: Sequence[Recording]
    matching: Matching = "prompt"

    def choose(self, call: Call) -> tuple[Recording, str]:
        """Return the recording for a call, and in what their requests differ, if they do.

        Of several, that with the most `biz_params` answers, then that with the same `messages`,
        then one that has what the call asks for, then the latest.

        Raises:
            NotRecorded: There is none.
        """
        known = [(each, each.request) for each in self.recordings if each.request is not None]
        found = [
            (recording, request)
            for recording, request in known
            if agree(request.prompt, call.prompt)
            and agree(_params(request), _same_keys(request, call.biz_params))
        ]
        if self.matching == "exact":
            found = [each for each in found if not list(_differences(*each, call.request))]
        if found:
            best = max(enumerate(found), key=lambda each: (*_fit(*each[1], call.request), each[0]))
            return best[1][0], ""
        nearest, request = max(known, key=lambda each: _similarity(*each, call.request))
        differ = ", ".join(_differences(nearest, request, call.request))
        if self.matching == "nearest":
            return nearest, differ
        raise NotRecorded(self._explain(call, nearest, request, differ))

    def _explain(
        self, call: Call, nearest: Recording, request: ReceivedRequest, differ: str
    ) -> str:
        prompts = list(
            dict.fromkeys(each.request.prompt for each in self.recordings if each.request)
        )
        if not any(agree(prompt, call.prompt) for prompt in prompts):
            shown = ", ".join(f"{_cut(prompt)!r}" for prompt in prompts[:_SHOWN_PROMPTS])
            more = len(prompts) - _SHOWN_PROMPTS
            problem = f"has this prompt; recorded are {shown}" + (
                f" and {more} more" if more > 0 else ""
            )
        else:
            problem = f"has this request; that of {nearest.path.name} differs in {differ}"
        count = len(self.recordings)
        which = "The only recording" if count == 1 else f"None of the {count} recordings"
        problem = problem.replace("has ", "does not have ", 1) if count == 1 else problem
        return (
            f"{which} of the app {request.app_id!r} {problem}. Record the call "
            "(bailian-apps serve --record-missing), or take the most similar one (--nearest)."
        )


def _params(request: ReceivedRequest) -> JsonObject:
    return {k: item for k, item in request.biz_params.items() if not is_secret(k, item)}


def _same_keys(request: ReceivedRequest, given: JsonObject) -> JsonObject:
    """Return what is given for the recorded names; a recording ignores other names."""
    return {name: given[name] for name in _params(request) if name in given}


def _differences(
    recording: Recording, request: ReceivedRequest, asked: ReceivedRequest
) -> Iterator[str]:
    """Yield the names of what differs between a recorded request and another one."""
    if not agree(request.prompt, asked.prompt):
        yield "prompt"
    recorded, given = _params(request), _params(asked)
    for name in {**recorded, **given}:
        if name not in given or name not in recorded or not agree(recorded[name], given[name]):
            yield f"biz_params.{name}"
    if not agree(request.messages[:-1], asked.messages[:-1]):
        yield "messages"
    for field in ("input", "parameters"):
        before, now = getattr(request, field), getattr(asked, field)
        for name in {**before, **now}.keys() - _COMPARED_APART:
            if not agree(before.get(name), now.get(name)):
                yield f"{field}.{name}"
    if recording.missing_features(asked.parameters):
        mode = asked.parameters.get("flow_stream_mode")
        yield "flow_stream_mode" if recording.other_mode(mode) else "has_thoughts"


def _fit(recording: Recording, request: ReceivedRequest, asked: ReceivedRequest) -> tuple[Any, ...]:
    return (
        len(to_json(_params(request))),
        agree(request.messages, asked.messages),
        not recording.missing_features(asked.parameters),
    )


def _similarity(
    recording: Recording, request: ReceivedRequest, asked: ReceivedRequest
) -> tuple[Any, ...]:
    prompts = request.prompt[:_COMPARED_CHARS], asked.prompt[:_COMPARED_CHARS]
    return (
        SequenceMatcher(None, *prompts, autojunk=False).ratio(),
        -len(list(_differences(recording, request, asked))),
    )


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
