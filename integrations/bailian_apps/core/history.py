"""Which turns to send, in which session. Pure: the one place that decides what the cloud is told.

A conversation lives in the framework's own messages. The assistant message carries a small marker
that names the cloud's session; the next call finds it, sends only what follows, and names the
session. Whatever stores the messages stores the conversation.

The rule that everything here serves: context is never lost silently. Unless it is certain that the
session holds all that came before, the whole history is sent as `messages`. The cloud ignores a
session named beside `messages`, and whether the session of such an answer holds them is unknown, so
a conversation that was sent so once stays so (its marker has round 0).

A history alone does not tell whether another call has gone on from the same answer (a branch, or
two calls at once). So a plan that goes on in a session also has what to send `otherwise`; which of
the two it is, is decided where the process's calls are known (`bailian_apps.sessions`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.values import whole_characters

Role: TypeAlias = Literal["system", "user", "assistant"]

logger = logging.getLogger(__name__)

_LISTS = {"image_list", "file_list"}
_DIGEST_CHARS = 8


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
        told: Two digests: of what the user said in this round, and of the answer. By them a
            history is noticed that is not the one that the session was told. `""` in round 0.
    """

    app_id: str
    session_id: str
    round: int
    used_at: float
    system: str = ""
    told: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, to be stored in a message."""
        return {
            "app_id": self.app_id,
            "session_id": self.session_id,
            "round": self.round,
            "used_at": int(self.used_at * 1000) / 1000,
            "system": self.system,
            "told": self.told,
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
            told=str(fields.get("told") or ""),
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
        told: The digest of the new words, when they go into a session.
        images: Addresses of images in the new turns.
        files: Addresses of files in the new turns.
        otherwise: What to send when another call has gone on in the session, or the cloud has
            forgotten it: the whole history. None where no marker named the session.
    """

    app_id: str
    prompt: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    session_id: str | None = None
    round: int = 0
    system: str = ""
    told: str = ""
    images: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    otherwise: Plan | None = None

    def call(self, said: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The call in the words of `AppRequest`.

        Args:
            said: What else the caller says for this call. Its `image_list` and `file_list` come
                after those of the turns; all else replaces.
        """
        given = {
            "prompt": self.prompt,
            "messages": self.messages,
            "session_id": self.session_id,
            "image_list": self.images,
            "file_list": self.files,
        }
        planned: dict[str, Any] = {name: value for name, value in given.items() if value}
        arguments = {**planned, **(said or {})}
        for name in _LISTS & arguments.keys():
            more: Any = (said or {}).get(name) or ()
            if isinstance(more, (list, tuple)):
                arguments[name] = (*planned.get(name, ()), *cast("Sequence[Any]", more))
        return arguments

    def marker(self, result: AppResult, *, now: float | None = None) -> SessionMarker | None:
        """The marker for the answer's message; None when the cloud named no session.

        Args:
            result: The answer.
            now: The time of the answer in Unix seconds; the clock's, if not given.
        """
        if not result.session_id:
            return None
        certain = not (result.context_lost or result.whole_history)
        return SessionMarker(
            app_id=self.app_id,
            session_id=result.session_id,
            round=self.round if certain else 0,
            used_at=time.time() if now is None else now,
            system=self.system,
            told=self.told + _digest(result.text) if certain and self.told else "",
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
    if not any(turn.text.strip() for turn in turns[_after(turns, lambda t: t.role != "user") :]):
        raise InvalidInputError(
            "messages", "end with a user message that has no words", "Say what to do, in words"
        )
    if settings.history_mode == "messages":
        if session_id:
            raise InvalidInputError(
                "session_id",
                "was given with history_mode='messages', where the cloud would ignore it",
                "Leave out one of the two",
            )
        return _as_messages(settings, turns)
    if session_id and system_digest(turns):
        raise InvalidInputError(
            "session_id",
            "was given with a system message, which cannot be told to a session",
            "Leave out one of the two, or pass history_mode='messages'",
        )
    after_own = _after(turns, lambda turn: _is_own(turn, settings.app_id))
    marker = turns[after_own - 1].marker if after_own else None
    if session_id and (marker is None or marker.session_id != session_id):
        return _in_named_session(settings, turns, session_id)
    new = turns[after_own:]
    if any(turn.role != "user" for turn in new):
        why = "no session was told all of it"
    elif marker is None:
        return _in_session(settings, new, None, 1)
    elif session_id:
        return _in_session(settings, new, session_id, marker.round + 1, marker.system)
    else:
        now = time.time() if now is None else now
        why = _what_speaks_against(marker, settings, turns, after_own, now)
        if why is None:
            plan = _in_session(settings, new, marker.session_id, marker.round + 1, marker.system)
            return replace(plan, otherwise=_as_messages(settings, turns))
    logger.info("app %s is told the whole conversation: %s", settings.app_id, why)
    return _as_messages(settings, turns)


def system_digest(turns: Sequence[Turn]) -> str:
    """A short digest of the system text; `""` for none."""
    text = "\n".join(turn.text for turn in turns if turn.role == "system")
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12] if text else ""


def _what_speaks_against(
    marker: SessionMarker, settings: AppSettings, turns: Sequence[Turn], new: int, now: float
) -> str | None:
    """Why a session may not hold the conversation up to `turns[new]`, or None."""
    if marker.round < 1:
        return "it was before, or its session had been forgotten"
    if marker.round >= settings.session_max_rounds:
        return f"session_max_rounds={settings.session_max_rounds} have been held in its session"
    if now - marker.used_at >= settings.session_ttl_s:
        return f"its session was not used for session_ttl_s={settings.session_ttl_s:g} seconds"
    if marker.system != system_digest(turns):
        return "there is another system text than when its session was begun"
    if not _is_as_told(turns[:new], settings.app_id):
        return "it is not what its session was told"
    return None


def _is_as_told(turns: Sequence[Turn], app_id: str) -> bool:
    """Whether turns are a session's own rounds, one after the other, word for word.

    The first rounds may be missing, and of the first that is there the question: a history that
    was trimmed is still remembered. What was changed, put in or taken out is not as it was told.
    """
    last: SessionMarker | None = None
    words: list[Turn] = []
    for turn in turns:
        if turn.role == "system":
            continue
        if not _is_own(turn, app_id) or turn.marker is None:
            words.append(turn)
            continue
        marker = turn.marker
        question = marker.told[:_DIGEST_CHARS] if last is None and not words else _told(words)
        if marker.told != question + _digest(turn.text):
            return False
        # A round that is there twice was two calls at once; neither was told what the other was.
        if last and (marker.session_id, marker.round) != (last.session_id, last.round + 1):
            return False
        last, words = marker, []
    return True


def _in_named_session(settings: AppSettings, turns: Sequence[Turn], session_id: str) -> Plan:
    """The caller vouches that the session holds the conversation up to the last answer."""
    new = turns[_after(turns, lambda turn: turn.role == "assistant") :]
    return _in_session(settings, new, session_id, 1)


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
        told=_told(said),
        images=_join(turn.images for turn in said),
        files=_join(turn.files for turn in said),
    )


def _as_messages(settings: AppSettings, turns: Sequence[Turn]) -> Plan:
    # The API takes one system message, first.
    system = "\n\n".join(turn.text for turn in turns if turn.role == "system" and turn.text)
    told = [{"role": "system", "content": system}] if system else []
    # A message must say something; the images and files of one without words are told below.
    said = (turn for turn in turns if turn.role != "system" and turn.text.strip())
    told += [{"role": turn.role, "content": _sendable(turn)} for turn in said]
    return Plan(
        app_id=settings.app_id,
        messages=tuple(told),
        system=system_digest(turns),
        # The cloud has seen none of this, so what earlier turns showed it goes along again.
        images=_join(turn.images for turn in turns),
        files=_join(turn.files for turn in turns),
    )


def _sendable(turn: Turn) -> str:
    """A turn's text. What an app once answered is mended; the user's words are refused later."""
    return whole_characters(turn.text) if turn.role == "assistant" else turn.text


def _told(turns: Sequence[Turn]) -> str:
    said = [[t.text, t.images, t.files] if t.role == "user" else t.role for t in turns]
    return _digest(json.dumps(said))


def _digest(text: str) -> str:
    # LlamaIndex's chat engines strip what they streamed before they keep it: that is no edit.
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]


def _is_own(turn: Turn, app_id: str) -> bool:
    return turn.role == "assistant" and turn.marker is not None and turn.marker.app_id == app_id


def _after(turns: Sequence[Turn], wanted: Callable[[Turn], bool]) -> int:
    """The index after the last turn that is wanted; 0 if none is."""
    return next((i for i in range(len(turns), 0, -1) if wanted(turns[i - 1])), 0)


def _join(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for part in parts for item in part))
