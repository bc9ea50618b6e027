"""A local emulator of the Bailian application API.

It serves `POST /api/v1/apps/{app_id}/completion` on the loopback interface and answers from
recordings, scenarios or Python functions, in the cloud's wire format. It shares no code with the
library that it is there to test.
"""

from bailian_apps.emulator.apps.fields import When
from bailian_apps.emulator.apps.recordings import (
    RECORDINGS,
    Recording,
    RecordingError,
    load_recording,
)
from bailian_apps.emulator.apps.rules import Paced, PromptOnly, Rule, Rules
from bailian_apps.emulator.apps.scenarios import (
    Agent,
    ErrorAnswer,
    Node,
    Reference,
    Thought,
    TokenUsage,
    Workflow,
)
from bailian_apps.emulator.models import Answer, AppFunction, Call, Failure, ReceivedRequest
from bailian_apps.emulator.sessions import Session, Turn

try:
    from bailian_apps.emulator.apps.app_files import AppFiles
    from bailian_apps.emulator.apps.files import ScenarioError, load_apps
    from bailian_apps.emulator.emulator import Emulator
    from bailian_apps.emulator.recorder.recorder import Recorder
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"starlette", "uvicorn", "yaml"}:
        raise
    raise ImportError(
        "the emulator needs starlette, uvicorn and pyyaml; install them with: "
        'pip install "bailian-apps[emulator]"'
    ) from error

__all__ = [
    "RECORDINGS",
    "Agent",
    "Answer",
    "AppFiles",
    "AppFunction",
    "Call",
    "Emulator",
    "ErrorAnswer",
    "Failure",
    "Node",
    "Paced",
    "PromptOnly",
    "ReceivedRequest",
    "Recorder",
    "Recording",
    "RecordingError",
    "Reference",
    "Rule",
    "Rules",
    "ScenarioError",
    "Session",
    "Thought",
    "TokenUsage",
    "Turn",
    "When",
    "Workflow",
    "load_apps",
    "load_recording",
]
