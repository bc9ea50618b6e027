"""Decides which turns of a conversation to send, and in which session. Pure.

A conversation lives in the framework's own messages. The assistant's message carries a small marker
with the cloud's session; the next call finds it, sends only the turns after it, and names the
session. Whatever stores the messages stores the conversation.

The rule behind everything here: context is never lost silently. Unless the session certainly holds
all earlier turns, the whole history is sent. A plan has it as `messages`; the caller folds it into
one prompt where that is asked for (`history_format`), or where the app takes nothing else.

The cloud ignores a session named beside `messages`, and whether the session of such an answer holds
them is unknown, so a conversation that was sent this way once stays so (its marker has round 0). A
prompt is the first round of a session, which then holds all that was folded into it, the system
text included.

A history alone does not show whether another call has continued the same session (a branch, or two
calls at once). So a plan that continues a session also has a `fallback`; the caller, which
knows the other calls of this process, chooses between the two.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from typing_extensions import Self

from bailian_apps.core.attachments import Image, InlineImage, read_files, read_images
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.invalid_input import invalid_options
from bailian_apps.core.json_values import kind_of
from bailian_apps.core.language import N_
from bailian_apps.core.request import AppRequest, WireOptions
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import CALL_NAMES, AppSettings
from bailian_apps.core.text import repair_surrogates
from bailian_apps.core.turns import SessionMarker, Turn, put_system_first

logger = logging.getLogger(__name__)

_LISTS = {"image_list": read_images, "file_list": read_files}
_DIGEST_CHARS = 8
_CLOCK_SKEW_S = 5.0  # how far the clocks of two machines may differ
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one call sends, and how its answer is marked. Made by `plan_request`.

    Attributes:
        app_id: The app that is called.
        prompt: The new text, for a session (a new one if `session_id` is None).
        messages: The whole history, if that is sent instead.
        session_id: The session to continue.
        round: The number of this round in its session; 0 for the whole history.
        system: The digest of the conversation's system text.
        digest: The digest of the turns that are sent.
        images: The images in the new turns.
        files: URLs of files in the new turns.
        fallback: What to send if another call has continued the session, or the cloud has
            forgotten it: the whole history. None where no marker named the session.
    """

    app_id: str
    prompt: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    session_id: str | None = None
    round: int = 0
    system: str = ""
    digest: str = ""
    images: tuple[Image, ...] = ()
    files: tuple[str, ...] = ()
    fallback: Plan | None = None

    @classmethod
    def for_prompt(cls, app_id: str, prompt: str | None) -> Self:
        """Return a plan for a prompt outside any conversation of messages."""
        return cls(app_id=app_id, prompt=prompt)

    def request_fields(self, call_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the fields of the `AppRequest`.

        Args:
            call_options: What the caller passed for this call. Its `image_list` and `file_list`
                are added to those of the turns; all else replaces the planned value.

        Raises:
            InvalidInputError: An image or a file is not one.
        """
        planned: dict[str, Any] = {
            "prompt": self.prompt,
            "messages": self.messages,
            "session_id": self.session_id,
            "image_list": self.images,
            "file_list": self.files,
        }
        planned = {name: value for name, value in planned.items() if value or name == "prompt"}
        if planned["prompt"] is None:
            del planned["prompt"]
        fields = {**planned, **(call_options or {})}
        problems: list[InvalidInputError] = []
        for name in [each for each in _LISTS if each in fields]:
            # Read here, where the index that an error names is the caller's.
            more: Any = (call_options or {}).get(name)
            more = () if more is None or (type(more) in (str, dict) and not more) else more
            try:
                fields[name] = (*planned.get(name, ()), *_LISTS[name](more, name))
            except InvalidInputError as error:
                problems.append(error)
                del fields[name]
        if problems:
            raise InvalidInputError.of([*problems, *invalid_options(fields, names=CALL_NAMES)])
        return fields

    def request(self, settings: AppSettings, call_options: Mapping[str, Any]) -> AppRequest:
        """Return the request of a call with these settings; for the options see `request_fields`.

        Raises:
            InvalidInputError: A field cannot be sent.
        """
        shared = {name: getattr(settings, name) for name in WireOptions.model_fields}
        fields = self.request_fields({**call_options, **shared})
        try:
            return AppRequest.model_validate(fields)
        except ValidationError:
            raise InvalidInputError.of(invalid_options(fields, names=CALL_NAMES)) from None

    def marker(self, result: AppResult, *, now: float | None = None) -> SessionMarker | None:
        """Return the marker for the answer's message; None if the cloud named no session.

        Args:
            result: The answer.
            now: The time of the answer in Unix seconds; the clock's if None.
        """
        if not result.session_id:
            return None
        sent = (self.fallback or self) if result.whole_history else self
        folded = result.whole_history and result.history_format == "prompt"
        certain = folded or not (result.context_lost or result.whole_history)
        return SessionMarker(
            app_id=self.app_id,
            session_id=result.session_id,
            round=1 if folded else sent.round if certain else 0,
            used_at=time.time() if now is None else now,
            system=sent.system,
            digest=sent.digest + _digest(result.text) if certain and sent.digest else "",
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
        turns: The conversation, oldest first, ending with the user's new text. A system text that
            is not at the beginning, or is the last text, is sent as the user's.
        settings: Whose `app_id`, `history_mode`, `session_ttl_s` and `session_max_rounds` count.
        session_id: A session that the caller names; it takes precedence over any marker.
        now: The time in Unix seconds; the clock's if None.

    Returns:
        The plan.

    Raises:
        InvalidInputError: The conversation is empty, does not end with the user's text, or has
            what the named session cannot take.
    """
    if not isinstance(cast("object", session_id), str | None):
        raise InvalidInputError(
            "session_id", N_("must be a str, not {kind}").format(kind=kind_of(session_id))
        )
    turns = put_system_first(turns)
    if turns and turns[-1].role == "system":  # there is no other text to answer
        turns[-1] = replace(turns[-1], role="user")
    after_own = _after(turns, lambda turn: _is_own(turn, settings.app_id))
    marker = turns[after_own - 1].marker if after_own else None
    _check(turns, settings, session_id, marker)
    if settings.history_mode != "session":
        return _whole_history(settings, turns)
    if session_id and (marker is None or marker.session_id != session_id):
        return _in_named_session(settings, turns, session_id)
    new = turns[after_own:]
    if any(turn.role != "user" for turn in new):
        reason = "no session holds all of it"
    elif marker is None:
        return _in_session(settings, new, None, 1)
    elif session_id:
        return _in_session(settings, new, session_id, marker.round + 1, marker.system)
    else:
        now = time.time() if now is None else now
        reason = _reason_to_resend_history(marker, settings, turns, after_own, now)
        if reason is None:
            plan = _in_session(settings, new, marker.session_id, marker.round + 1, marker.system)
            return replace(plan, fallback=_whole_history(settings, turns))
    logger.info("sending app %s the whole conversation: %s", settings.app_id, reason)
    return _whole_history(settings, turns)


def system_digest(turns: Sequence[Turn]) -> str:
    """Return a short digest of the system text; `""` for none."""
    text = "\n".join(turn.text for turn in turns if turn.role == "system")
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12] if text else ""


def _check(
    turns: Sequence[Turn],
    settings: AppSettings,
    session_id: str | None,
    marker: SessionMarker | None,
) -> None:
    """Refuse the first thing that cannot be sent."""
    new = turns[_after(turns, lambda turn: turn.role != "user") :]
    system = system_digest(turns)
    known = marker is not None and (marker.session_id, marker.system) == (session_id, system)
    refusals = (
        (not turns, "messages", N_("must not be empty"), N_("Pass at least one user message")),
        (
            not new,
            "messages",
            N_("must end with a user message, not one of role {role!r}").format(
                role=turns[-1].role if turns else ""
            ),
            N_("Put the user's text last"),
        ),
        (
            not any(turn.text.strip() for turn in new),
            "messages",
            N_("end with a user message without text"),
            N_("Add words that say what to do"),
        ),
        (
            session_id and settings.history_mode != "session",
            "session_id",
            N_("was given with history_mode={mode!r}, which uses no sessions").format(
                mode=settings.history_mode
            ),
            N_("Leave out one of the two"),
        ),
        (
            session_id and system and not known,
            "session_id",
            N_("was given with a system message, which a session cannot take"),
            N_("Leave out one of the two"),
        ),
    )
    for applies, field, problem, hint in refusals:
        if applies:
            raise InvalidInputError(field, problem, hint)


def _reason_to_resend_history(
    marker: SessionMarker, settings: AppSettings, turns: Sequence[Turn], new: int, now: float
) -> str | None:
    """Why a session may not hold the conversation up to `turns[new]`, or None."""
    ttl_s, max_rounds = settings.session_ttl_s, settings.session_max_rounds
    reasons = (
        (marker.round < 1, "it was sent so before, or the cloud had forgotten its session"),
        (marker.round >= max_rounds, f"its session has session_max_rounds={max_rounds} rounds"),
        (
            now - marker.used_at >= ttl_s,
            f"its session was not used for session_ttl_s={ttl_s:g} seconds",
        ),
        (marker.used_at - now > _CLOCK_SKEW_S, "its time is in the future"),
        (marker.system != system_digest(turns), "its session began with another system text"),
        (not _matches_session(turns[:new], settings.app_id), "its session holds other turns"),
    )
    return next((reason for applies, reason in reasons if applies), None)


def _matches_session(turns: Sequence[Turn], app_id: str) -> bool:
    """Whether turns are the rounds of the newest session, one after the other, word for word.

    The first round covers all turns before its answer: a session may have begun with a whole
    history. The first rounds may be missing, and of the first that is there the question: the
    session still holds what was trimmed. A turn that was changed, added or removed does not match.
    """
    last: SessionMarker | None = None
    begin, matches = 0, True
    for index, turn in enumerate(turns):
        if not _is_own(turn, app_id) or turn.marker is None:
            continue
        marker = turn.marker
        if opens := marker.round == 1:
            begin, last = 0, None
        sent = [each for each in turns[begin:index] if each.role != "system"]
        trimmed = last is None and not sent
        question = marker.digest[:_DIGEST_CHARS] if trimmed else _turns_digest(sent)
        matches = (matches or opens) and marker.digest == question + _digest(turn.text)
        # Two answers of one round come from two calls at once; each call knew nothing of the other.
        if last and (marker.session_id, marker.round) != (last.session_id, last.round + 1):
            matches = False
        last, begin = marker, index + 1
    return matches


def _in_named_session(settings: AppSettings, turns: Sequence[Turn], session_id: str) -> Plan:
    """The caller is responsible for what the session holds up to the last answer."""
    new = turns[_after(turns, lambda turn: turn.role == "assistant") :]
    return _in_session(settings, new, session_id, 1)


def _in_session(
    settings: AppSettings,
    new: Sequence[Turn],
    session_id: str | None,
    round_: int,
    system: str = "",
) -> Plan:
    asked = [turn for turn in new if turn.role == "user"]
    return Plan(
        app_id=settings.app_id,
        prompt="\n\n".join(turn.text for turn in asked if turn.text),
        session_id=session_id,
        round=round_,
        system=system,
        digest=_turns_digest(asked),
        images=_join(turn.images for turn in asked),
        files=_join(turn.files for turn in asked),
    )


def _whole_history(settings: AppSettings, turns: Sequence[Turn]) -> Plan:
    # The API refuses a message without text.
    messages = [
        {"role": turn.role, "content": _text_for_wire(turn)} for turn in turns if turn.text.strip()
    ]
    return Plan(
        app_id=settings.app_id,
        messages=tuple(messages),
        system=system_digest(turns),
        digest=_turns_digest([turn for turn in turns if turn.role != "system"]),
        # The cloud has seen none of this, so the images and files of all turns are sent again.
        images=_join(turn.images for turn in turns),
        files=_join(turn.files for turn in turns),
    )


def _text_for_wire(turn: Turn) -> str:
    """Repair an answer that an app cut inside a character; the user's text is checked later."""
    return repair_surrogates(turn.text) if turn.role == "assistant" else turn.text


def _turns_digest(turns: Sequence[Turn]) -> str:
    parts = [
        [turn.text, turn.images, turn.files]
        if turn.role == "user"
        else [turn.role, turn.text.strip()]
        for turn in turns
    ]
    return _digest(json.dumps(parts, default=InlineImage.digest))


def _digest(text: str) -> str:
    # LlamaIndex's chat engines strip an answer before they store it: that is not an edit.
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]


def _is_own(turn: Turn, app_id: str) -> bool:
    return turn.role == "assistant" and turn.marker is not None and turn.marker.app_id == app_id


def _after(turns: Sequence[Turn], wanted: Callable[[Turn], bool]) -> int:
    """Return the index after the last turn for which `wanted` is true; 0 if there is none."""
    return next((i for i in range(len(turns), 0, -1) if wanted(turns[i - 1])), 0)


def _join(parts: Iterable[tuple[_T, ...]]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(item for part in parts for item in part))
