"""The cloud's memory: which sessions there are, and what was said in them."""

import threading
import uuid
from dataclasses import dataclass, field


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
        """Return `preferred` if it is new and not `never`, else `otherwise`."""
        usable = preferred and preferred != never and preferred not in self._given
        given = preferred if preferred and usable else otherwise
        self._given.add(given)
        return given


class SessionStore:
    """All sessions of one emulator; asked by the server's thread and by the test's."""

    def __init__(self) -> None:
        """Begin without a session."""
        self._sessions: dict[str, Session] = {}
        self._ids = UniqueIds()
        self._lock = threading.Lock()

    def find_or_open(
        self, app_id: str, asked: str | None, *, resume: bool, recorded: str | None
    ) -> Session:
        """Return the session that was asked for, or a fresh one under another id.

        A fresh session is not in the store before `keep`: a request that fails leaves none.

        Args:
            app_id: The app; a session belongs to one.
            asked: The id that the client sent.
            resume: Whether that id counts; it does not beside `messages`.
            recorded: The id that a fresh session should have, if it may.
        """
        with self._lock:
            known = self._sessions.get(asked) if asked and resume else None
            if known is not None and known.app_id == app_id:
                return known
            fresh_id = self._ids.give(recorded, otherwise=uuid.uuid4().hex, never=asked)
            return Session(fresh_id, app_id)

    def keep(self, session: Session) -> None:
        """Let a session that has begun to answer be found again."""
        with self._lock:
            self._sessions[session.id] = session

    def forget(self, session_id: str | None) -> None:
        """Forget one session, or with None all.

        Raises:
            KeyError: There is no such session.
        """
        with self._lock:
            if session_id is None:
                self._sessions.clear()
            elif self._sessions.pop(session_id, None) is None:
                known = ", ".join(self._sessions) or "none"
                raise KeyError(f"no session {session_id!r} to forget; there are: {known}")

    def snapshot(self) -> dict[str, Session]:
        """Return the sessions there are, by their ids."""
        with self._lock:
            return dict(self._sessions)
