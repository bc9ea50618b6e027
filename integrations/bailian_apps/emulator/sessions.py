"""The cloud's memory: which sessions there are, and what was said in them."""

import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

UnknownSession: TypeAlias = Literal["fresh", "error"]
"""What the id of no session gets: a fresh session under another id, or an error."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One round of a session: what the user said, and the whole answer."""

    user: str
    answer: str


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation with one app; `turns` grows as answers come to their end."""

    id: str
    app_id: str
    turns: list[Turn] = field(default_factory=list[Turn])


class UniqueIds:
    """Gives out every id once, a recorded one to whoever asks for it first.

    So the first replay of a recording is exact to the byte, and a second one cannot be taken for
    the same conversation. An id is never given again, not even after its session was forgotten.
    """

    def __init__(self) -> None:
        """Begin with every id free."""
        self._given: set[str] = set()

    def give(self, preferred: str | None, *, otherwise: str, never: str | None = None) -> str:
        """Return `preferred` if it is new and not `never`, else `otherwise`, which is random."""
        usable = preferred and preferred != never and preferred not in self._given
        if not preferred or not usable:
            return otherwise
        self._given.add(preferred)
        return preferred


class NoSuchSessionError(LookupError):
    """A request named a session that there is not, or that takes no more rounds."""


class Clock:
    """Seconds that pass by themselves, and faster when they are told to."""

    def __init__(self) -> None:
        """Begin with real time."""
        self._ahead_s = 0.0

    def now_s(self) -> float:
        """Return the time, in seconds since some moment."""
        return time.monotonic() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once.

        Raises:
            ValueError: They are negative, or not finite.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds={seconds} must be 0 or more; the clock only runs forward")
        self._ahead_s += seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """How long a session lives.

    Attributes:
        ttl_s: After how many seconds without a request it is forgotten.
        max_rounds: How many rounds it takes.
        unknown: What a request gets that names no living session.
    """

    ttl_s: float = 3600.0
    max_rounds: int = 50
    unknown: UnknownSession = "fresh"

    def __post_init__(self) -> None:
        """Check the rules."""
        if not self.ttl_s > 0:
            raise ValueError(f"session_ttl_s={self.ttl_s} is not positive; give seconds")
        if self.max_rounds < 1:
            raise ValueError(f"session_max_rounds={self.max_rounds} must be at least 1")
        if self.unknown not in ("fresh", "error"):
            raise ValueError(f"unknown_session={self.unknown!r} must be 'fresh' or 'error'")


class SessionStore:
    """All sessions of one emulator; asked by the server's thread and by the test's."""

    def __init__(self, rules: SessionRules, clock: Clock) -> None:
        """Begin without a session."""
        self._rules = rules
        self._clock = clock
        self._sessions: dict[str, tuple[Session, float]] = {}  # and its last use; oldest first
        self._ids = UniqueIds()
        self._lock = threading.Lock()

    def open_round(
        self, app_id: str, asked: str | None, *, resume: bool, recorded: str | None, prompt: str
    ) -> "Round":
        """Begin a round of the session that was asked for, or of a fresh one under another id.

        Args:
            app_id: The app; a session belongs to one.
            asked: The id that the client sent.
            resume: Whether that id counts; it does not beside `messages`.
            recorded: The id that a fresh session should have, if it may.
            prompt: What the user says.

        Raises:
            NoSuchSessionError: There is none under this id, and the rules say that this is an
                error.
        """
        with self._lock:
            self._forget_the_old()
            known, _ = self._sessions.get(asked if asked and resume else "", (None, 0))
            if known and known.app_id == app_id and len(known.turns) < self._rules.max_rounds:
                self._use(known)
                return Round(self, known, prompt)
            if asked and resume and self._rules.unknown == "error":
                raise NoSuchSessionError(asked)
            fresh_id = self._ids.give(recorded, otherwise=uuid.uuid4().hex, never=asked)
            return Round(self, Session(fresh_id, app_id), prompt)

    def keep(self, session: Session) -> None:
        """Let a session that has begun to answer be found again."""
        with self._lock:
            self._use(session)

    def forget(self, session_id: str | None) -> None:
        """Forget one session, or with None all.

        Raises:
            KeyError: There is no such session.
        """
        with self._lock:
            self._forget_the_old()
            if session_id is None:
                self._sessions.clear()
            elif self._sessions.pop(session_id, None) is None:
                known = ", ".join(self._sessions) or "none"
                raise KeyError(f"no session {session_id!r} to forget; there are: {known}")

    def snapshot(self) -> dict[str, Session]:
        """Return the sessions there are, by their ids; the one used last comes last."""
        with self._lock:
            self._forget_the_old()
            return {session.id: session for session, _ in self._sessions.values()}

    def _use(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        self._sessions[session.id] = (session, self._clock.now_s())

    def _forget_the_old(self) -> None:
        oldest_s = self._clock.now_s() - self._rules.ttl_s
        while self._sessions:
            session, used_s = next(iter(self._sessions.values()))
            if used_s > oldest_s:
                return
            del self._sessions[session.id]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a session: it is noted where it began, whatever has been reset since."""

    store: SessionStore
    session: Session
    prompt: str

    def begin(self) -> None:
        """Let a fresh session be found: it answers. A request that fails before leaves none."""
        self.store.keep(self.session)

    def end(self, answer: str) -> None:
        """Note the turn."""
        self.session.turns.append(Turn(self.prompt, answer))
