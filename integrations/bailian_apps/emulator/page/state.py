"""What the page of an emulator shows beside the requests: apps, faults, sessions and the clock."""

from math import isfinite
from typing import TYPE_CHECKING

from bailian_apps.emulator.apps.app import App
from bailian_apps.emulator.apps.recorded_app import RecordedApp
from bailian_apps.emulator.apps.recordings import Recording
from bailian_apps.emulator.apps.rules import Paced, PromptOnly, Rules
from bailian_apps.emulator.apps.scenarios import Agent, ErrorAnswer, Workflow
from bailian_apps.emulator.faults.plan import FaultSpec
from bailian_apps.emulator.page.reading import scrubber_of
from bailian_apps.emulator.recorder.scrubbing import Scrubber
from bailian_apps.emulator.sessions import Session, Turn
from bailian_apps.emulator.wire.frames import JsonObject
from bailian_apps.emulator.wire.nodes import nodes_of
from bailian_apps.emulator.wire.rendering import DEFAULT_MODE, FLOW_MODES

if TYPE_CHECKING:
    from bailian_apps.emulator.server.endpoint import Cloud

_ALL_MODES = list(FLOW_MODES)
_SHOWN_SESSIONS = 200
_SHOWN_CHARS = 300
_SEARCHED_CHARS = 10_000  # for a secret that begins where what is shown ends


def describe(app_id: str, app: App) -> JsonObject:
    """Return the kind of an app, where it is from, the stream modes, and its recordings."""
    source, notes = app.source, ""
    while isinstance(source, PromptOnly | Paced):
        notes += " · prompt only" if isinstance(source, PromptOnly) else f" · pace {source.pace:g}"
        source = source.source
    known = _described(source)
    return {"id": app_id, "kind": app.kind + notes, "recordings": [], **known}


def _described(source: object) -> JsonObject:
    if isinstance(source, Recording):
        recorded = _recorded(source)
        modes = _modes_of(source)
        return {
            "source": source.path.name,
            "modes": modes,
            "recordings": [recorded],
        }
    if isinstance(source, Rules | RecordedApp):
        is_recorded = isinstance(source, RecordedApp)
        chosen = source.recordings if is_recorded else [rule.source for rule in source.rules]
        recordings = [each for each in chosen if isinstance(each, Recording)]
        modes = {mode: None for each in chosen for mode in _modes_of(each)}
        return {
            "source": f"{len(chosen)}",
            "modes": list(modes),
            "recordings": [_recorded(each) for each in recordings],
        }
    if isinstance(source, Workflow | Agent | ErrorAnswer):
        nodes = source.nodes if isinstance(source, Workflow) else ()
        names = ", ".join(node.name for node in nodes)
        return {"source": names, "modes": _modes_of(source)}
    name = getattr(source, "__qualname__", type(source).__qualname__)
    return {"source": str(name), "modes": _ALL_MODES}


def _modes_of(source: object) -> list[str]:
    if isinstance(source, Workflow):
        return _ALL_MODES
    if not isinstance(source, Recording):
        return []
    mode = source.flow_stream_mode
    if mode in (None, DEFAULT_MODE):
        has_nodes = any(True for frame in source.frames for _ in nodes_of(frame.output))
        return _ALL_MODES if has_nodes else []
    return [mode]


def _recorded(recording: Recording) -> JsonObject:
    request = recording.request
    return {
        "file": recording.path.name,
        "prompt": request.prompt[:_SHOWN_CHARS] if request else "",
        "biz_params": request.biz_params if request else {},
        "mode": recording.flow_stream_mode or "",
        "frames": len(recording.frames),
    }


class EmulatorState:
    """Reads the state of an emulator for its page."""

    def __init__(self, cloud: "Cloud") -> None:
        """Read the state of a cloud."""
        self._cloud = cloud
        self._described: dict[str, tuple[App, JsonObject]] = {}

    def read(self) -> JsonObject:
        """Return the state that the page is sent whenever it differs."""
        cloud = self._cloud
        sessions = cloud.sessions.snapshot()
        return {
            "apps": self._apps(),
            "faults": [_pending(spec, left) for spec, left in cloud.faults.pending()],
            "clock_s": cloud.sessions.ahead_s,
            "sessions": len(sessions),
            "rounds": sum(len(session.turns) for session in sessions.values()),
        }

    def sessions(self) -> list[JsonObject]:
        """Return the newest sessions, each with its last round."""
        newest = list(self._cloud.sessions.snapshot().values())[: -_SHOWN_SESSIONS - 1 : -1]
        exchanges = self._cloud.exchanges.of_sessions([session.id for session in newest])
        return [_session(each, scrubber_of(*exchanges[each.id])) for each in newest]

    def _apps(self) -> list[JsonObject]:
        known, self._described = self._described, {}
        for app_id, app in list(self._cloud.apps.items()):
            before, described = known.get(app_id) or (None, JsonObject())
            described = described if before is app else describe(app_id, app)
            self._described[app_id] = app, described
        return [described for _, described in self._described.values()]


def _pending(spec: FaultSpec, left: float) -> JsonObject:
    count = int(left) if isfinite(left) else None
    return {**spec.model_dump(exclude_none=True), "left": count}


def _session(session: Session, scrubber: Scrubber) -> JsonObject:
    last = session.turns[-1] if session.turns else Turn("", "")
    return {
        "id": session.id,
        "app": session.app_id,
        "rounds": len(session.turns),
        "user": scrubber.text(last.user[:_SEARCHED_CHARS])[:_SHOWN_CHARS],
        "answer": scrubber.text(last.answer[:_SEARCHED_CHARS])[:_SHOWN_CHARS],
    }
