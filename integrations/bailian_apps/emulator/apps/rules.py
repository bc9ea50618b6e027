"""Rules, which choose an answer by the call, and the model of an app in a YAML file."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias, cast

from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bailian_apps.emulator.apps.recordings import Recording, load_recording
from bailian_apps.emulator.apps.scenarios import (
    Agent,
    AgentText,
    Description,
    ErrorAnswer,
    Milliseconds,
    Workflow,
    check_one_of,
)
from bailian_apps.emulator.credentials import MASK, redacted
from bailian_apps.emulator.models import Call, Failure
from bailian_apps.emulator.wire.frames import as_object

AnswerSource: TypeAlias = Workflow | Agent | Recording | ErrorAnswer
"""What answers a call by itself."""


class When(Description):
    """The condition of a rule; all fields that are given must match.

    Attributes:
        prompt: A substring of the prompt.
        matches: A regular expression to search in the prompt.
        biz_params: Values that the call's `biz_params` must have.
        round: The round of the session; the first is 1.
    """

    prompt: str | None = None
    matches: str | None = None
    biz_params: dict[str, Any] = Field(default_factory=dict)
    round: Annotated[int, Field(ge=1)] | None = None

    @field_validator("matches")
    @classmethod
    def _check_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return value

    def matches_call(self, call: Call) -> bool:
        """Return whether a call meets the condition."""
        if self.prompt is not None and self.prompt not in call.prompt:
            return False
        if self.matches is not None and not re.search(self.matches, call.prompt):
            return False
        if self.round not in (None, len(call.turns) + 1):
            return False
        missing = object()
        params = call.biz_params
        return all(_agree(item, params.get(key, missing)) for key, item in self.biz_params.items())


def _agree(wanted: Any, given: Any) -> bool:
    """Return whether two JSON values are equal; what a recording has masked, any agrees with."""
    if isinstance(wanted, dict) and isinstance(given, dict):
        fields, others = cast("dict[str, Any]", wanted), cast("dict[str, Any]", given)
        return fields.keys() == others.keys() and all(_agree(fields[k], others[k]) for k in fields)
    if isinstance(wanted, list) and isinstance(given, list):
        items, others = cast("list[Any]", wanted), cast("list[Any]", given)
        return len(items) == len(others) and all(map(_agree, items, others))
    return wanted in (given, MASK, redacted(given))


def _load(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str | Path):
        return load_recording(Path((as_object(info.context) or {}).get("folder", ".")) / value)
    return value


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


def check_pace(pace: float) -> None:
    """Raise ValueError if a pace is negative or not finite."""
    if not 0 <= pace < float("inf"):
        raise ValueError(f"pace={pace} must be 0 (do not wait) or more; 1 is the recorded pace")


class AppDescription(Choice):
    """One app in a YAML file.

    Attributes:
        rules: Answers that depend on the call.
        pace: Its own pace, see `Paced`.
    """

    _kinds: ClassVar = [*Choice._kinds, "rules"]

    rules: Annotated[list[Rule], Field(min_length=1)] | None = None
    pace: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    @property
    def app(self) -> AnswerSource | Rules | Paced:
        """The app."""
        source = self.source if self.rules is None else Rules(rules=self.rules)
        return source if self.pace is None else Paced(source, self.pace)
