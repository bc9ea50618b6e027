"""A conversation that can be saved and reopened. No terminal, no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from bailian_apps.core.attachments import Image, InlineImage, read_file, read_image
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_, _
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.turns import MARKER_KEY, SessionMarker, Turn

_ROLES = ("system", "user", "assistant")


@dataclass
class Conversation:
    """A conversation with an app: empty, or ending with an answer.

    Attributes:
        turns: Its messages. An answer has the marker of its session, so that `plan_request` decides
            whether a conversation that was reopened still has one.
        session_id: A session of the cloud to continue, until the first answer.
        images: The images of the next message.
        files: The addresses of files of the next message.
    """

    turns: list[Turn] = field(default_factory=list[Turn])
    session_id: str | None = None
    images: tuple[Image, ...] = ()
    files: tuple[str, ...] = ()

    def question(self, text: str) -> Turn:
        """Return the next message, with what is attached to it."""
        return Turn(role="user", text=text, images=self.images, files=self.files)

    def keep(self, question: Turn, answer: Turn) -> None:
        """Add a message and its answer."""
        self.turns += [question, answer]
        self.session_id = None  # from now on the turns' markers name the session
        self.images, self.files = (), ()  # they are part of the conversation

    @property
    def marker(self) -> SessionMarker | None:
        """The marker of the newest answer."""
        return self.turns[-1].marker if self.turns else None

    def to_json(self, settings: AppSettings) -> str:
        """Return the conversation as a JSON text. It holds no settings but app and address."""
        saved = {
            "app_id": settings.app_id,
            "base_url": settings.base_url,
            "messages": [_to_dict(turn) for turn in self.turns],
        }
        return json.dumps(saved, ensure_ascii=False, indent=2) + "\n"

    def to_markdown(self, app_id: str) -> str:
        """Return the conversation as a text to read."""
        return "\n".join(
            f"**{_('You') if turn.role == 'user' else app_id}**\n\n{turn.text}\n"
            for turn in self.turns
        )


def read_conversation(path: Path, settings: AppSettings) -> Conversation:
    """Read what `Conversation.to_json` has written.

    A session belongs to one address, so a conversation of another address continues without it: the
    whole history is sent.

    Raises:
        InvalidInputError: The file cannot be read, or is not a saved chat.
    """
    saved = _read_json(path)
    messages = saved.get("messages")
    if not isinstance(messages, list):
        raise _not_a_chat(path, N_("it has no list of messages"))
    turns: list[Turn] = []
    for index, message in enumerate(cast("list[object]", messages)):
        try:
            turns.append(_from_dict(message, f"messages[{index}]"))
        except InvalidInputError as error:
            raise _not_a_chat(path, error) from None
    roles = [turn.role for turn in turns if turn.role != "system"]
    if roles and roles[-1] != "assistant":
        raise _not_a_chat(path, N_("it does not end with an answer"))
    if saved.get("base_url") != settings.base_url:
        turns = [replace(turn, marker=None) for turn in turns]
    return Conversation(turns)


def read_app(path: Path) -> tuple[str | None, str | None]:
    """Return the app id and the base URL that a saved chat names.

    Raises:
        InvalidInputError: The file cannot be read, or is not a saved chat.
    """
    saved = _read_json(path)
    app_id, base_url = saved.get("app_id"), saved.get("base_url")
    return (
        app_id if isinstance(app_id, str) else None,
        base_url if isinstance(base_url, str) else None,
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        saved: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = N_("cannot be read ({reason})").format(reason=error.strerror)
        raise InvalidInputError(str(path), problem, "Check the path") from None
    except (ValueError, RecursionError):
        raise _not_a_chat(path, N_("it is not JSON")) from None
    if not isinstance(saved, dict):
        raise _not_a_chat(path, N_("it is not a JSON object"))
    return cast("dict[str, Any]", saved)


def _not_a_chat(path: Path, reason: str | InvalidInputError) -> InvalidInputError:
    hint = N_("Pass a JSON file that /save of a chat has written")
    return InvalidInputError(
        str(path), N_("is not a saved chat: {reason}").format(reason=reason), hint
    )


def _to_dict(turn: Turn) -> dict[str, Any]:
    values: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.marker:
        values |= {"session_id": turn.marker.session_id, MARKER_KEY: turn.marker.to_dict()}
    if turn.images:
        values["images"] = [_image_to_json(image) for image in turn.images]
    if turn.files:
        values["files"] = list(turn.files)
    return values


def _image_to_json(image: Image) -> str | dict[str, str]:
    if isinstance(image, str):
        return image
    return {"path": str(image.path)} if image.path else image.data_url()


def _from_dict(message: object, where: str) -> Turn:
    if not isinstance(message, dict):
        raise InvalidInputError(where, "is not a JSON object")
    values = cast("dict[str, Any]", message)
    role, text = values.get("role"), values.get("content")
    if role not in _ROLES or not isinstance(text, str):
        raise InvalidInputError(where, "needs a role and a content of text")
    return Turn(
        role=role,
        text=text,
        marker=SessionMarker.from_dict(values.get(MARKER_KEY)) if role == "assistant" else None,
        images=tuple(
            _image_from_json(image, f"{where}.images") for image in _list(values, "images", where)
        ),
        files=tuple(read_file(url, f"{where}.files") for url in _list(values, "files", where)),
    )


def _list(values: Mapping[str, Any], name: str, where: str) -> Sequence[object]:
    value: object = values.get(name, [])
    if not isinstance(value, list):
        raise InvalidInputError(f"{where}.{name}", "is not a list")
    return cast("list[object]", value)


def _image_from_json(image: object, where: str) -> Image:
    if isinstance(image, dict):
        path = cast("dict[str, object]", image).get("path")
        return InlineImage(Path(str(path)), f"{where} {path}")
    return read_image(image, where)
