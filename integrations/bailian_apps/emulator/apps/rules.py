"""Rules, which choose an answer by the call, and the model of an app in a YAML file."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias, cast, get_args

from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    ValidationInfo,
    model_validator,
)

from bailian_apps.emulator.apps.fields import (
    AgentText,
    Description,
    Milliseconds,
    When,
    check_one_of,
)
from bailian_apps.emulator.apps.recordings import Recording, load_recording, path_inside
from bailian_apps.emulator.apps.scenarios import Agent, ErrorAnswer, Workflow
from bailian_apps.emulator.models import AppFunction, Call, Failure
from bailian_apps.emulator.wire.frames import JsonObject

Messages: TypeAlias = Literal["refused", "ignored"]
"""What an app that takes only a prompt does with `messages`."""

# What the cloud answers an app call without a prompt; reported by users of its other clients.
_NO_PROMPT = "Required parameter(Prompt) missing or invalid, please check the request parameters."

AnswerSource: TypeAlias = Workflow | Agent | Recording | ErrorAnswer
"""What answers a call by itself."""


def _load(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str | Path):
        return value
    if info.context is None:
        return load_recording(value)
    context = cast("JsonObject", info.context)
    if context["folder"] is None:
        raise ValueError("only a file may name a recording; serve the recording itself")
    return load_recording(path_inside(value, context["folder"], context["root"]))


class Choice(Description):
    """An answer: exactly one of its kinds.

    Attributes:
        text: An agent's plain answer.
        agent: An agent.
        workflow: A workflow.
        recording: The path of a recording, in a YAML file relative to that file.
        error: An error.
        every_ms: Milliseconds between the frames of a recording, instead of the recorded times.
    """

    _kinds: ClassVar = ["text", "agent", "workflow", "recording", "error"]

    text: AgentText | None = None
    agent: Agent | None = None
    workflow: Workflow | None = None
    recording: Annotated[InstanceOf[Recording], BeforeValidator(_load)] | None = None
    error: ErrorAnswer | None = None
    every_ms: Milliseconds | None = None

    @model_validator(mode="after")
    def _check_answer(self) -> "Choice":
        check_one_of(self, self._kinds)
        if self.every_ms is not None and self.recording is None:
            raise ValueError("every_ms needs a `recording`; leave it out")
        return self

    @property
    def source(self) -> AnswerSource:
        """What answers."""
        if self.recording is not None and self.every_ms is not None:
            return self.recording.paced(self.every_ms)
        agent = None if self.text is None else Agent(text=self.text)
        source = agent or self.agent or self.workflow or self.recording or self.error
        assert source is not None  # noqa: S101  # _check_answer requires one
        return source


class Rule(Choice):
    """An answer and its condition.

    Attributes:
        when: The condition; None matches every call.
    """

    when: When | None = None


class Rules(Description):
    """An app whose answer depends on the call: the first matching rule answers.

    Attributes:
        rules: The rules. If none matches, the answer is an error.
    """

    rules: Annotated[list[Rule], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_reachable(self) -> "Rules":
        for index, rule in enumerate(self.rules[:-1]):
            if rule.when is None:
                raise ValueError(f"rules[{index}] matches every call; give it a `when`")
        return self

    def choose(self, call: Call) -> AnswerSource:
        """Return what answers a call; raise Failure if no rule matches."""
        for rule in self.rules:
            if rule.when is None or rule.when.matches_call(call):
                return rule.source
        message = f"None of the {len(self.rules)} rules of this app matches this call."
        raise Failure(status=400, code="InvalidParameter", message=message)


@dataclass(frozen=True, slots=True)
class Paced:
    """An app with its own pace.

    Attributes:
        source: The app, or the path of its file.
        pace: See `Emulator`: 1 is the recorded pace, 2 twice as fast, 0 does not wait.
    """

    source: AnswerSource | Rules | str | os.PathLike[str]
    pace: float

    def __post_init__(self) -> None:
        """Check the pace."""
        check_pace(self.pace)


@dataclass(frozen=True, slots=True)
class PromptOnly:
    """An app that takes only a `prompt`.

    Attributes:
        source: The app, or the path of its file.
        messages: What it does with `messages`. `refused`: without a prompt beside them, it answers
            HTTP 400 and asks for one, as an agent 2.0 app may. `ignored`: it reads the text of the
            last one, as a workflow app whose LLM node has no `historyList`.
    """

    source: "AnswerSource | Rules | Paced | AppFunction | str | os.PathLike[str]"
    messages: Messages = "refused"

    def __post_init__(self) -> None:
        """Check the kind."""
        if self.messages not in get_args(Messages):
            raise ValueError(f"messages={self.messages!r} must be 'refused' or 'ignored'")

    def call(self, call: Call) -> Call:
        """Return what the app sees of a call; raise Failure if it refuses the call."""
        received = call.request.input
        if not call.messages:
            return call
        if self.messages == "refused" and not received.get("prompt"):
            raise Failure(status=400, code="InvalidParameter", message=_NO_PROMPT)
        seen = {name: value for name, value in received.items() if name != "messages"}
        body = {**call.request.body, "input": {**seen, "prompt": call.prompt}}
        return replace(call, request=replace(call.request, body=body))


def check_pace(pace: float) -> None:
    """Raise ValueError if a pace is negative or not finite."""
    if not 0 <= pace < float("inf"):
        raise ValueError(f"pace={pace} must be 0 (do not wait) or more; 1 is the recorded pace")


class AppDescription(Choice):
    """One app in a YAML file.

    Attributes:
        rules: Answers that depend on the call.
        pace: Its own pace, see `Paced`.
        messages: For an app that takes only a prompt, see `PromptOnly`.
    """

    _kinds: ClassVar = [*Choice._kinds, "rules"]

    rules: Annotated[list[Rule], Field(min_length=1)] | None = None
    pace: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    messages: Messages | None = None

    @property
    def app(self) -> AnswerSource | Rules | Paced | PromptOnly:
        """The app."""
        source = self.source if self.rules is None else Rules(rules=self.rules)
        source = source if self.pace is None else Paced(source, self.pace)
        return source if self.messages is None else PromptOnly(source, self.messages)
