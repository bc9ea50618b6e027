"""Which turns to send, in which session. Pure: the one place that decides what the cloud is told.

A conversation lives in the framework's own messages. The assistant message carries a small marker
that names the cloud's session; the next call finds it, sends only what follows, and names the
session. Whatever stores the messages stores the conversation.

The rule that everything here serves: context is never lost silently. Unless it is certain that the
session holds all that came before, the whole history is sent as `messages`. The cloud ignores a
session named beside `messages`, and whether the session of such an answer holds them is unknown, so
a conversation that was sent so once stays so (its marker has round 0).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import AppSettings

Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMarker:
    """What an assistant message remembers of the call that made it.

    Attributes:
        app_id: The app that answered.
        session_id: The cloud's session of the answer.
        round: How many rounds the session holds, this one included; 0 when it is not certain
            that it holds the conversation.
        used_at: When it was used last, in Unix seconds.
        system: A digest of the system text the session was begun with; `""` for none.
    """

    app_id: str
    session_id: str
    round: int
    used_at: float
    system: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, to be stored in a message."""
        return {
            "app_id": self.app_id,
            "session_id": self.session_id,
            "round": self.round,
            "used_at": round(self.used_at, 3),
            "system": self.system,
        }

    @classmethod
    def from_dict(cls, value: object) -> SessionMarker | None:
        """Read a stored marker; anything that is not one is None."""
        if not isinstance(value, Mapping):
            return None
        fields = cast("Mapping[str, object]", value)
        app_id, session_id = fields.get("app_id"), fields.get("session_id")
        round_, used_at = fields.get("round"), fields.get("used_at")
        if not (isinstance(app_id, str) and isinstance(session_id, str)):
            return None
        if not (isinstance(round_, int) and isinstance(used_at, (int, float))):
            return None
        return cls(
            app_id=app_id,
            session_id=session_id,
            round=round_,
            used_at=used_at,
            system=str(fields.get("system") or ""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a conversation, whichever framework it is from.

    Attributes:
        role: Who speaks.
        text: The words.
        marker: For an assistant turn, the marker that its message carries.
        images: Addresses of images in a user turn.
        files: Addresses of files in a user turn.
    """

    role: Role
    text: str
    marker: SessionMarker | None = None
    images: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send, and how to mark the answer. Made by `plan_request`.

    Attributes:
        app_id: The app that is asked.
        prompt: The new words, when they go into a session (a new one if `session_id` is None).
        messages: The whole history, when it is sent instead.
        session_id: The session to continue.
        round: The round that this call is in its session; 0 when sent as messages.
        system: The digest of the conversation's system text.
        images: Addresses of images in the new turns.
        files: Addresses of files in the new turns.
    """

    app_id: str
    prompt: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    session_id: str | None = None
    round: int = 0
    system: str = ""
    images: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def call(self) -> dict[str, Any]:
        """The arguments for `BailianApp.stream` and its kin."""
        given = {
            "prompt": self.prompt,
            "messages": self.messages,
            "session_id": self.session_id,
            "image_list": self.images,
            "file_list": self.files,
        }
        return {name: value for name, value in given.items() if value}

    def context_lost(self, result: AppResult) -> bool:
        """Whether the cloud answered in another session than the one it was asked to continue."""
        return bool(self.session_id and result.session_id and result.session_id != self.session_id)

    def marker(self, result: AppResult, *, now: float | None = None) -> SessionMarker | None:
        """The marker for the answer's message; None when the cloud named no session.

        Args:
            result: The answer.
            now: The time of the answer in Unix seconds; the clock's, if not given.
        """
        if not result.session_id:
            return None
        return SessionMarker(
            app_id=self.app_id,
            session_id=result.session_id,
            round=0 if self.context_lost(result) else self.round,
            used_at=time.time() if now is None else now,
            system=self.system,
        )


def plan_request(
    turns: Sequence[Turn],
    settings: AppSettings,
    *,
    session_id: str | None = None,
    now: float | None = None,
) -> Plan:
    """Decide what one call sends.

    Args:
        turns: The conversation, oldest first, ending with the user's new words.
        settings: Whose `app_id`, `history_mode`, `session_ttl_s` and `session_max_rounds` count.
        session_id: A session that the caller names; it goes before any marker.
        now: The time in Unix seconds; the clock's, if not given.

    Returns:
        The plan.

    Raises:
        InvalidInputError: The conversation is empty, does not end with the user's words, or holds
            what the named session cannot be told.
    """
    if not turns:
        raise InvalidInputError("messages", "are empty", "Pass at least one user message")
    if turns[-1].role != "user":
        raise InvalidInputError(
            "messages",
            f"end with a message of role {turns[-1].role!r}",
            "Put the user's words last",
        )
    own = _last_index(turns, lambda turn: _is_own(turn, settings.app_id))
    marker = turns[own].marker if own >= 0 else None
    last_answer = _last_index(turns, lambda turn: turn.role == "assistant")
    if session_id and settings.history_mode == "messages":
        raise InvalidInputError(
            "session_id",
            "was given with history_mode='messages', where the cloud would ignore it",
            "Leave out one of the two",
        )
    if settings.history_mode == "session":
        if session_id and (marker is None or marker.session_id != session_id):
            return _in_named_session(settings, turns, session_id, last_answer)
        new = turns[own + 1 :]
        if all(turn.role == "user" for turn in new):
            if marker is None:
                return _in_session(settings, new, None, 1)
            if session_id or _continues(
                marker, settings, turns, time.time() if now is None else now
            ):
                return _in_session(
                    settings, new, marker.session_id, marker.round + 1, marker.system
                )
    return _as_messages(settings, turns)


def system_digest(turns: Sequence[Turn]) -> str:
    """A short digest of the system text; `""` for none."""
    text = "\n".join(turn.text for turn in turns if turn.role == "system")
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12] if text else ""


def _continues(
    marker: SessionMarker, settings: AppSettings, turns: Sequence[Turn], now: float
) -> bool:
    sessions = {
        turn.marker.session_id for turn in turns if _is_own(turn, settings.app_id) and turn.marker
    }
    return (
        # Two sessions in one history (two calls at once): neither was told what the other was.
        len(sessions) == 1
        and 0 < marker.round < settings.session_max_rounds
        and now - marker.used_at < settings.session_ttl_s
        and marker.system == system_digest(turns)
    )


def _in_named_session(
    settings: AppSettings, turns: Sequence[Turn], session_id: str, last_answer: int
) -> Plan:
    """The caller vouches that the session holds the conversation up to the last answer."""
    if system_digest(turns):
        raise InvalidInputError(
            "session_id",
            "was given with a system message, which cannot be told to a session",
            "Leave out one of the two, or pass history_mode='messages'",
        )
    return _in_session(settings, turns[last_answer + 1 :], session_id, 1)


def _in_session(
    settings: AppSettings,
    new: Sequence[Turn],
    session_id: str | None,
    round_: int,
    system: str = "",
) -> Plan:
    said = [turn for turn in new if turn.role == "user"]
    return Plan(
        app_id=settings.app_id,
        prompt="\n\n".join(turn.text for turn in said if turn.text),
        session_id=session_id,
        round=round_,
        system=system,
        images=_join(turn.images for turn in said),
        files=_join(turn.files for turn in said),
    )


def _as_messages(settings: AppSettings, turns: Sequence[Turn]) -> Plan:
    # The API takes one system message, first.
    system = "\n\n".join(turn.text for turn in turns if turn.role == "system" and turn.text)
    told = [{"role": "system", "content": system}] if system else []
    told += [{"role": t.role, "content": t.text} for t in turns if t.role != "system"]
    return Plan(
        app_id=settings.app_id,
        messages=tuple(told),
        system=system_digest(turns),
        # The cloud has seen none of this, so what earlier turns showed it goes along again.
        images=_join(turn.images for turn in turns),
        files=_join(turn.files for turn in turns),
    )


def _is_own(turn: Turn, app_id: str) -> bool:
    return turn.role == "assistant" and turn.marker is not None and turn.marker.app_id == app_id


def _last_index(turns: Sequence[Turn], wanted: Callable[[Turn], bool]) -> int:
    return next((i for i in range(len(turns) - 1, -1, -1) if wanted(turns[i])), -1)


def _join(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for part in parts for item in part))
