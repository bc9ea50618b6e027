"""The sessions of one emulator and their turns, on a clock that tests can advance.

Nothing here knows of HTTP or of the kinds of apps.
"""

import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

MAX_CHARS = 128 * 1024 * 1024
"""How many characters the turns of all sessions may have together, see `_length_of`."""

_MAX_AHEAD_S = 1e12

_OVERHEAD = 512
"""What a session, and each of its turns, occupies beside its characters, about."""

UnknownSession: TypeAlias = Literal["fresh", "error"]
"""The answer to an unknown session id: a fresh session with another id, or an error."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One round of a session: the user's prompt and the whole answer."""

    user: str
    answer: str


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation with one app; `turns` grows with each completed answer."""

    id: str
    app_id: str
    turns: list[Turn] = field(default_factory=list[Turn])


def allocate(
    allocated: set[str], preferred: str | None, *, fallback: str, exclude: str | None = None
) -> str:
    """Return `preferred` if it was not allocated before and is not `exclude`, else `fallback`.

    Each recorded id is used at most once, even after its session has been forgotten. So the first
    replay of a recording is byte-identical, and a second one cannot be mistaken for the same
    conversation.
    """
    if not preferred or preferred == exclude or preferred in allocated:
        return fallback
    allocated.add(preferred)
    return preferred


class SessionStore:
    """All sessions of one emulator; used by the server's thread and by the test's."""

    def __init__(self, *, ttl_s: float, max_rounds: int, unknown: UnknownSession) -> None:
        """Create a store without sessions; see `Emulator` for the arguments and errors."""
        if not ttl_s > 0:
            raise ValueError(f"session_ttl_s={ttl_s} must be a positive number of seconds")
        if max_rounds < 1:
            raise ValueError(f"session_max_rounds={max_rounds} must be at least 1")
        if unknown not in ("fresh", "error"):
            raise ValueError(f"unknown_session={unknown!r} must be 'fresh' or 'error'")
        self._ttl_s = ttl_s
        self._max_rounds = max_rounds
        self._unknown = unknown
        self._ahead_s = 0.0
        # Each session with the time of its last use, least recently used first.
        self._sessions: dict[str, tuple[Session, float]] = {}
        self._allocated: set[str] = set()
        self._chars = 0
        self._lock = threading.Lock()

    def advance(self, seconds: float) -> None:
        """Move the clock forward; see `Emulator.advance`."""
        if not 0 <= seconds <= _MAX_AHEAD_S - self._ahead_s:  # which NaN is not either
            raise ValueError(
                f"seconds={seconds} must be 0 or more, "
                f"and must be at most {_MAX_AHEAD_S:.0f} in all"
            )
        self._ahead_s += seconds

    @property
    def ahead_s(self) -> float:
        """How far the clock was moved forward, in seconds."""
        return self._ahead_s

    def open(
        self, app_id: str, requested: str | None, *, resume: bool, recorded: str | None
    ) -> Session | None:
        """Return the requested session of an app, or a fresh one with another id.

        Args:
            app_id: The app; a session belongs to one app.
            requested: The id that the client sent.
            resume: Whether to use that id; the cloud ignores it beside `messages`.
            recorded: The preferred id of a fresh session.

        Returns:
            None if the session is unknown, or has all its rounds, and that is an error.
        """
        with self._lock:
            self._forget_expired()
            known, _ = self._sessions.get(requested if requested and resume else "", (None, 0))
            if known and known.app_id == app_id and len(known.turns) < self._max_rounds:
                self._touch(known)
                return known
            if requested and resume and self._unknown == "error":
                return None
            fresh_id = allocate(
                self._allocated, recorded, fallback=uuid.uuid4().hex, exclude=requested
            )
            return Session(fresh_id, app_id)

    def keep(self, session: Session) -> None:
        """Store a session at its first frame. A request that fails earlier leaves none."""
        with self._lock:
            if session.id not in self._sessions:
                self._chars += _length_of(session)
            self._touch(session)

    def add_turn(self, session: Session, turn: Turn) -> None:
        """Add a turn to a session that is kept.

        If all sessions together are too long then, the least recently used ones are forgotten.
        """
        with self._lock:
            session.turns.append(turn)
            if session.id in self._sessions:
                self._chars += _OVERHEAD + len(turn.user) + len(turn.answer)
            while self._chars > MAX_CHARS and len(self._sessions) > 1:
                self._drop(next(iter(self._sessions)))

    def forget(self, session_id: str | None) -> None:
        """Forget one session, or all with None; see `Emulator.forget`."""
        with self._lock:
            self._forget_expired()
            if session_id is None:
                self._sessions.clear()
                self._chars = 0
            elif session_id in self._sessions:
                self._drop(session_id)
            else:
                known = ", ".join(self._sessions) or "none"
                raise KeyError(f"no session {session_id!r} to forget; there are: {known}")

    def snapshot(self) -> dict[str, Session]:
        """Return the sessions by their ids, the most recently used one last."""
        with self._lock:
            self._forget_expired()
            return {session.id: session for session, _ in self._sessions.values()}

    def _now_s(self) -> float:
        return time.monotonic() + self._ahead_s

    def _touch(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        self._sessions[session.id] = (session, self._now_s())

    def _forget_expired(self) -> None:
        expired_s = self._now_s() - self._ttl_s
        while self._sessions:
            session, used_s = next(iter(self._sessions.values()))
            if used_s > expired_s:
                return
            self._drop(session.id)

    def _drop(self, session_id: str) -> None:
        session, _ = self._sessions.pop(session_id)
        self._chars -= _length_of(session)


def _length_of(session: Session) -> int:
    turns = sum(_OVERHEAD + len(turn.user) + len(turn.answer) for turn in session.turns)
    return _OVERHEAD + turns
