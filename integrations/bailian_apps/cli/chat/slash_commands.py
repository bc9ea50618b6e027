"""What a user of a chat can write instead of a message: `/help` and the others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bailian_apps.cli.chat.conversation import Conversation
from bailian_apps.cli.chat.screen import print_reasoning, print_steps
from bailian_apps.cli.chat.storage import write_private
from bailian_apps.cli.run import bailian_app, media
from bailian_apps.cli.view import print_note, screen_text
from bailian_apps.core.attachments import is_fetchable
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_, _
from bailian_apps.core.redaction import redact_biz_params

if TYPE_CHECKING:
    from bailian_apps.cli.chat.chat import Chat


class Command(NamedTuple):
    """A slash command: its name, its argument, its help, and what it does."""

    name: str
    argument: str
    help: str
    run: Callable[[Chat, str], None]


KEYS_HELP = N_("""\
Enter sends. Alt+Enter (or Esc, Enter) begins a new line, and so does Enter after a \\ at the end.
What you paste is one message. Ctrl-R searches what you wrote before. Tab completes.
Ctrl-C stops an answer, or drops what you typed; on an empty line it leaves, as Ctrl-D does.
/image clear and /file clear take attachments off. To send a line that starts with /, write //.""")


def _help(chat: Chat, _argument: str) -> None:
    usages = {f"{each.name} {each.argument}".strip(): _(each.help) for each in COMMANDS.values()}
    width = max(map(len, usages))
    lines = [f"{usage:{width}}  {text}" for usage, text in usages.items()]
    chat.note("\n".join([*lines, _(KEYS_HELP)]))


def _new(chat: Chat, _argument: str) -> None:
    chat.start(Conversation())
    chat.note(_("A new conversation."))


def _session(chat: Chat, session_id: str) -> None:
    if session_id:
        chat.start(Conversation(session_id=session_id))
        chat.note(_("A new conversation, in the session {id}.").format(id=session_id))
    elif (marker := chat.conversation.marker) is None:
        waiting = chat.conversation.session_id
        if waiting:
            chat.note(_("Session {id}, from the next message on.").format(id=waiting))
        elif chat.conversation.turns:
            chat.note(_("The next message sends the whole history, and opens a session."))
        else:
            chat.note(_("The next message opens a session."))
    else:
        used = datetime.fromtimestamp(marker.used_at)
        text = _("Session {id}, round {round}, used at {time:%H:%M:%S}")
        chat.note(text.format(id=marker.session_id, round=marker.round, time=used))


def _retry(chat: Chat, _argument: str) -> None:
    """Ask the newest message again, and drop the answer that it has got."""
    conversation, unanswered = chat.conversation, chat.unanswered
    if unanswered is None and len(conversation.turns) < 2:
        chat.error(_("There is no message to ask again."))
        return
    chat.note(_("Asking again: this is another run of the app."))
    if unanswered is not None:
        chat.ask(unanswered)
        return
    kept, attached = list(conversation.turns), (conversation.images, conversation.files)
    conversation.turns = kept[:-2]
    if not chat.ask(kept[-2]):
        conversation.turns, chat.unanswered = kept, None
    conversation.images, conversation.files = attached


def _history(chat: Chat, _argument: str) -> None:
    if not chat.conversation.turns:
        chat.note(_("Nothing was said yet."))
    for turn in chat.conversation.turns:
        style = "" if turn.role == "user" else "dim"
        print_note(chat.console, f"{turn.role}: {screen_text(turn.text)}", style)


def _save(chat: Chat, name: str) -> None:
    path = _path(name)
    if path.suffix == ".md":
        text = chat.conversation.to_markdown(chat.settings.app_id)
    else:
        text = chat.conversation.to_json(chat.settings)
    _write(chat, path, text)
    text = _("Saved {count} messages in {path}")
    chat.note(text.format(count=len(chat.conversation.turns), path=path))


def _load(chat: Chat, name: str) -> None:
    chat.start(chat.read(_path(name)))
    chat.show_end()


def _image(chat: Chat, source: str) -> None:
    added: dict[str, Any] = {}
    if source not in ("", "clear"):
        is_address = is_fetchable(source) or source[:5].lower() == "data:"
        added = media([source if is_address else str(_path(source))], None)
    images = () if source == "clear" else chat.conversation.images
    chat.conversation.images = (*images, *added.get("image_list", ()))
    _note_attachments(chat)


def _file(chat: Chat, url: str) -> None:
    added = media(None, [url]) if url not in ("", "clear") else {}
    files = () if url == "clear" else chat.conversation.files
    chat.conversation.files = (*files, *added.get("file_list", ()))
    _note_attachments(chat)


def _note_attachments(chat: Chat) -> None:
    images, files = chat.conversation.images, chat.conversation.files
    listed = ", ".join(map(str, (*images, *files))) or _("no image and no file")
    chat.note(_("With the next message: {files}").format(files=listed))


def _biz(chat: Chat, pair: str) -> None:
    params = dict(chat.settings.biz_params or {})
    if pair:
        name, _equals, value = pair.partition("=")
        if value or name not in params:
            parsed = bailian_app(chat.settings.app_id, [pair], None, None).settings.biz_params
            params |= dict(parsed or {})
        else:
            del params[name]
        chat.settings = chat.settings.with_overrides({"biz_params": params or None})
    shown = redact_biz_params(params, chat.settings.secret_biz_params or ())
    chat.note(f"biz_params: {shown}" if params else _("biz_params: none"))


def _steps(chat: Chat, what: str) -> None:
    if what in ("on", "off"):
        chat.show_steps = what == "on"
        folded = _("Steps are folded into one line.")
        chat.note(_("Steps are shown.") if chat.show_steps else folded)
    elif what in ("", "last"):
        print_steps(chat.console, chat.result)
    else:
        raise InvalidInputError("/steps", "takes on, off or last")


def _reasoning(chat: Chat, what: str) -> None:
    if what in ("on", "off"):
        chat.show_reasoning = what == "on"
        folded = _("What the app thinks is folded into one line.")
        chat.note(_("What the app thinks is shown.") if chat.show_reasoning else folded)
    elif what in ("", "last"):
        print_reasoning(chat.console, chat.result)
    else:
        raise InvalidInputError("/reasoning", "takes on, off or last")


def _html(chat: Chat, name: str) -> None:
    if not (chat.result.text or chat.result.steps):
        chat.error(_("There is no run to draw yet."))
        return
    path = _path(name or f"chat-{datetime.now():%Y%m%d-%H%M%S}.html")
    _write(chat, path, chat.result.to_html())
    chat.note(_("Wrote {path}").format(path=path))


def _quit(chat: Chat, _argument: str) -> None:
    raise SystemExit


def _write(chat: Chat, path: Path, text: str) -> None:
    """Write a file that only its owner reads; it replaces only what this chat has written."""
    try:
        write_private(path, text, overwrite=path in chat.written)
    except FileExistsError:
        raise InvalidInputError(str(path), "already exists", "Choose another name") from None
    except OSError as error:
        problem = N_("cannot be written ({reason})").format(reason=error.strerror)
        raise InvalidInputError(str(path), problem, "Choose another name") from None
    chat.written.add(path)


def _path(name: str) -> Path:
    if not name:
        raise InvalidInputError("FILE", "is missing", "Write a file name after the command")
    try:
        return Path(_unquoted(name)).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a NUL
        raise InvalidInputError(
            name, N_("is not a valid file name ({error})").format(error=error)
        ) from None


def _unquoted(name: str) -> str:
    """A name as terminals write it for a file that is dropped on them, without its quotes."""
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
        return name[1:-1]
    return name if sys.platform == "win32" else name.replace("\\ ", " ")


COMMANDS = {
    command.name: command
    for command in (
        Command("/new", "", N_("start a new conversation"), _new),
        Command("/session", "[ID]", N_("show the session, or begin in another"), _session),
        Command("/retry", "", N_("ask the last message again: a second run"), _retry),
        Command("/history", "", N_("show this conversation"), _history),
        Command("/save", "FILE", N_("save it, as Markdown if FILE ends in .md"), _save),
        Command("/load", "FILE", N_("continue a saved chat"), _load),
        Command("/image", "FILE|URL", N_("attach an image to the next message"), _image),
        Command("/file", "URL", N_("attach a file to the next message"), _file),
        Command("/biz", "NAME=VALUE", N_("set a start variable (biz_params)"), _biz),
        Command(
            "/steps", "on|off|last", N_("show steps in lines or in one; or all of a run"), _steps
        ),
        Command(
            "/reasoning",
            "on|off|last",
            N_("show thoughts in lines or in one; or all of a run"),
            _reasoning,
        ),
        Command("/html", "[FILE]", N_("write a picture of the last run"), _html),
        Command("/help", "", N_("show this help"), _help),
        Command("/quit", "", N_("leave; Ctrl-D leaves, too"), _quit),
    )
}
"""All slash commands, by name."""
