"""Messages as turns: what both frameworks' messages become before anything is decided. Pure.

An adapter reads its framework's messages, hands every text, image and file to a `TurnBuilder`, and
`build_turns` makes the conversation of them. What an app can receive, and what is refused, is
decided here; which block is a text or an image is the adapter's to know.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

from bailian_apps.core.attachments import Image, read_file, read_image
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_

Role: TypeAlias = Literal["system", "user", "assistant"]

MARKER_KEY = "bailian"
"""Where an answer's message stores its `SessionMarker`: in LangChain's `response_metadata`, in
LlamaIndex's `additional_kwargs`."""

TOOL_RESULT_PREFIX = "Tool result: "
"""How the text of a tool's result begins. The API has no role for it, so it is a user's turn."""

_TOOL_ROLES = ("tool", "function")
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "tool": "user",
    "function": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMarker:
    """What an assistant message keeps of the call that made it.

    Attributes:
        app_id: The app that answered.
        session_id: The cloud's session of the answer.
        round: How many rounds the session holds, this one included; 0 if it may not hold the
            conversation. A conversation that opened it as one prompt is its first round.
        used_at: When it was last used, in Unix seconds.
        system: A digest of the system text the session began with; `""` for none.
        digest: Two digests: of what was sent in this round, and of the answer. They show whether a
            history is the one that the session holds. `""` in round 0.
    """

    app_id: str
    session_id: str
    round: int
    used_at: float
    system: str = ""
    digest: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, to be stored in a message."""
        return {
            "app_id": self.app_id,
            "session_id": self.session_id,
            "round": self.round,
            "used_at": int(self.used_at * 1000) / 1000,
            "system": self.system,
            "digest": self.digest,
        }

    @classmethod
    def from_dict(cls, value: object) -> SessionMarker | None:
        """Read a stored marker; return None for anything else."""
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
            # Messages that version 0.1.0 stored have it under `told`.
            digest=str(fields.get("digest") or fields.get("told") or ""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a conversation, whichever framework it is from.

    Attributes:
        role: Whose message it is.
        text: Its text.
        marker: The marker that an assistant's message carries.
        images: The images in a user's message.
        files: URLs of files in a user's message.
    """

    role: Role
    text: str
    marker: SessionMarker | None = None
    images: tuple[Image, ...] = ()
    files: tuple[str, ...] = ()


class TurnBuilder:
    """Collects the parts of one message.

    Attributes:
        role: The role of the turn.
        tool_calls: Whether the message calls tools. An assistant's message with nothing else is
            dropped; in the last message, and in another role, tool calls are refused.
    """

    def __init__(
        self, where: str, role: str, *, tool_calls: bool = False, marker: object = None
    ) -> None:
        """Begin a message.

        Args:
            where: The message in an error, such as `messages[2]`.
            role: The framework's name of the role: `"human"`, `"ai"`, `"tool"` …
            tool_calls: Whether the message calls tools.
            marker: What the message stores of its call; only an assistant's counts, and what is
                not a stored marker is ignored.

        Raises:
            InvalidInputError: An app knows no such role.
        """
        if role not in _ROLES:
            raise unsupported(where, N_("role {role!r}").format(role=role))
        self.where = where
        self.role: Role = _ROLES[role]
        self.tool_calls = tool_calls
        self._tool_result = role in _TOOL_ROLES
        self._marker = SessionMarker.from_dict(marker) if self.role == "assistant" else None
        self._texts: list[str] = []
        self._images: list[Image] = []
        self._files: list[str] = []

    def text(self, text: str) -> None:
        """Add text. Texts are joined by line breaks."""
        self._texts.append(text)

    def image(self, path: str, image: object) -> None:
        """Add an image.

        Args:
            path: The image's place in an error, such as `messages[2].content[0]`.
            image: What `read_image` takes: an address, a Data URL, bytes, a path.

        Raises:
            InvalidInputError: It is none of these, or not a user's.
        """
        self._require_user(path, N_("an image"))
        self._images.append(read_image(image, path))

    def file(self, path: str, url: object) -> None:
        """Add a file; as `image`, but only by its address."""
        self._require_user(path, N_("a file"))
        self._files.append(read_file(url, path))

    @property
    def calls_only(self) -> bool:
        """Whether it is an assistant's message with tool calls and nothing else."""
        return self.tool_calls and self.role == "assistant" and not any(self._texts)

    def build(self) -> Turn:
        """Return the turn."""
        prefix = TOOL_RESULT_PREFIX if self._tool_result else ""
        return Turn(
            role=self.role,
            text=prefix + "\n".join(self._texts),
            marker=self._marker,
            images=tuple(self._images),
            files=tuple(self._files),
        )

    def _require_user(self, path: str, what: str) -> None:
        if self.role != "user":
            raise InvalidInputError(
                path,
                N_("has {what} in the role {role!r}").format(what=what, role=self.role),
                "Put it into a user message",
            )


def build_turns(builders: Iterable[TurnBuilder]) -> list[Turn]:
    """Build a conversation.

    Args:
        builders: Its messages, oldest first.

    Returns:
        One turn for each message, except those with only tool calls.

    Raises:
        InvalidInputError: Tool calls stand in the last message, or in another than an assistant's.
    """
    messages = list(builders)
    for message in messages:
        if message.tool_calls and message.role != "assistant":
            raise unsupported(
                message.where, N_("tool calls in the role {role!r}").format(role=message.role)
            )
        if message.tool_calls and message is messages[-1]:
            raise InvalidInputError(
                message.where,
                "has tool calls and is the last message",
                "Put the results of the tools after it; an app calls only its own tools",
            )
    return [message.build() for message in messages if not message.calls_only]


def put_system_first(turns: Sequence[Turn]) -> list[Turn]:
    """Return a conversation whose system texts all come first: a later one is a user's turn.

    An app takes system text only before everything else. A blank one is left out.
    """
    turns = [turn for turn in turns if turn.role != "system" or turn.text.strip()]
    lead = len(list(itertools.takewhile(lambda turn: turn.role == "system", turns)))
    later = (replace(turn, role="user") if turn.role == "system" else turn for turn in turns[lead:])
    return [*turns[:lead], *later]


def unsupported(where: str, what: str) -> InvalidInputError:
    """Return the error for what an app cannot receive, such as `an AudioBlock`."""
    return InvalidInputError(
        where, N_("has {what}, which an app cannot receive").format(what=what), "Remove it"
    )
