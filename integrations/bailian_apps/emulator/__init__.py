"""A local stand-in for the Bailian application API.

It answers `POST /api/v1/apps/{app_id}/completion` on the loopback interface with recorded answers,
or with those of a function, so that the official SDK cannot tell it from the cloud. It shares no
code with the library that it is there to test.
"""

from bailian_apps.emulator.calls import Answer, AppFunction, Call, Failure, ReceivedRequest
from bailian_apps.emulator.recordings import (
    RECORDINGS,
    Recording,
    RecordingError,
    load_recording,
)
from bailian_apps.emulator.sessions import Session, Turn

try:
    from bailian_apps.emulator.emulator import Emulator
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"starlette", "uvicorn"}:
        raise
    raise ImportError(
        "the emulator needs starlette and uvicorn; install them with: "
        'pip install "bailian-apps[emulator]"'
    ) from error

__all__ = [
    "RECORDINGS",
    "Answer",
    "AppFunction",
    "Call",
    "Emulator",
    "Failure",
    "ReceivedRequest",
    "Recording",
    "RecordingError",
    "Session",
    "Turn",
    "load_recording",
]
