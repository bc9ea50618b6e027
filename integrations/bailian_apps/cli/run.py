"""`bailian-apps run`: one prompt, one answer."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from bailian_apps.app import BailianApp
from bailian_apps.cli.keys import refuse_key_as_prompt
from bailian_apps.cli.options import instead_of
from bailian_apps.cli.profiles import find_profile
from bailian_apps.cli.view import as_json, print_answer, print_note, read_problem, show
from bailian_apps.core.attachments import Image, InlineImage, is_fetchable, read_file
from bailian_apps.core.errors import BailianError, InvalidInputError
from bailian_apps.core.history import Plan
from bailian_apps.core.language import N_, _
from bailian_apps.core.settings import SETTING_NAMES, AppSettings
from bailian_apps.run import Run

# Ids from the console; those of an emulator may be any word.
_CONSOLE_ID = re.compile(r"[0-9a-f]{32}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def run(
    app: BailianApp,
    prompt: str,
    console: Console,
    options: Mapping[str, Any],
    *,
    output: str,
    steps: bool,
    html: Path | None = None,
) -> None:
    """Call the app once and print the answer.

    Args:
        app: The app to call.
        prompt: The prompt; `-` reads standard input.
        console: Where the steps go.
        options: The options of the call: a session to continue, images, files.
        output: What to write to standard output: `"stream"`, `"text"` (the same, at the end),
            `"json"` (an error, too) or `"raw"`.
        steps: Whether to show the steps.
        html: Where to write the picture of the run, if anywhere; of one that failed, what arrived.
    """
    text = read_prompt(prompt)
    if html is not None:
        check_writable(html)
    settings, on_frame = app.settings, None
    if output == "raw":  # every frame of one attempt
        settings, on_frame = settings.with_overrides({"max_retries": 0}), print_json
    plan = Plan.for_prompt(settings.app_id, text)
    called = Run(settings, plan, options, client=app.client, on_frame=on_frame)
    with called.stream() as events:
        try:
            result = show(events, console, steps=steps, answer=output == "stream")
        except BailianError as error:
            if output == "json":
                print_json(_error_as_json(error))
            elif output == "text" and error.partial is not None:
                print_answer(error.partial.text, console)
            if html is not None and error.partial is not None:
                save_picture(error.partial.to_html(), html, console)
            raise
    if output == "json":
        print_json(as_json(result))
    elif output == "text":
        print_answer(result.text, console)
    if html is not None:
        save_picture(result.to_html(), html, console)


def app_and_prompt(first: str | None, second: str | None, profile: str | None) -> tuple[str, str]:
    """Return the app id and the prompt that the two arguments of `run` are; `-` for the default.

    One argument alone is the prompt if the app is known already, from a profile or from
    BAILIAN_APP_ID. An id of the console, or that of this very app, is an app id all the same, and
    the prompt is then on standard input.

    Raises:
        InvalidInputError: One argument alone could be either, or is a prompt while no app is known.
    """
    if first is None or second is not None:
        return first or "-", second or "-"
    known = (find_profile(profile).fields.get("app_id") if profile else None) or os.environ.get(
        "BAILIAN_APP_ID"
    )
    if not known and (len(first.split()) > 1 or not first.isascii()):  # 你好 is no id either
        raise InvalidInputError(
            "APP_ID",
            "is missing, for a prompt alone",
            "Write it before the prompt, or set BAILIAN_APP_ID",
        )
    if not known or first in ("-", known) or _CONSOLE_ID.fullmatch(first):
        return first, "-"
    if _WORD.fullmatch(first) and _has_input():
        raise InvalidInputError(
            N_("The only argument"),
            "can be an app id, with the prompt on standard input, or a prompt",
            N_(
                "Write `run {first} -` to call the app {first}, or `run - {first}` to send the word"
            ).format(first=first),
        )
    return "-", first


def _has_input() -> bool:
    """Whether a file or a pipe is the standard input, which may hold the prompt."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # it is closed, or replaced by an object of Python
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def bailian_app(
    app_id: str,
    biz: Sequence[str] | None,
    biz_json: str | None,
    settings: Sequence[str] | None,
    *,
    profile: str | None = None,
    with_key: bool = True,
    **options: Any,
) -> BailianApp:
    """Make the app that the arguments of a command describe.

    Args:
        app_id: Its id; `-` is that of the profile, else of BAILIAN_APP_ID.
        biz: `biz_params`, as `name=text` or `name:=JSON`.
        biz_json: `biz_params` as a JSON object, or as `@` and the path of a JSON file.
        settings: Other settings, as `name=text` or `name:=JSON`.
        profile: The name of a profile, whose settings the arguments replace.
        with_key: Whether a call follows, which needs the key that the profile names.
        **options: Settings that have options of their own; None for those not used.

    Raises:
        InvalidInputError: An argument, or the profile, is not valid.
    """
    fields = _pairs(settings or (), "--set")
    if "api_key" in fields:
        raise InvalidInputError(
            "--set api_key",
            "would show the key in the list of processes of this machine",
            "Set DASHSCOPE_API_KEY instead",
        )
    for name in fields.keys() - SETTING_NAMES:
        raise InvalidInputError(f"--set {name}", "is not a setting", _instead_of(name))
    given = {name: value for name, value in options.items() if value is not None}
    known: dict[str, Any] = {}
    if profile:
        with_address = "base_url" not in given | fields
        known = find_profile(profile).settings(with_address=with_address, with_key=with_key)
    if params := _biz_object(biz_json) | _pairs(biz or (), "--biz"):
        given["biz_params"] = {**known.get("biz_params", {}), **params}
    if app_id != "-":
        given["app_id"] = app_id
    for name in fields.keys() & given.keys():
        raise InvalidInputError(f"--set {name}", "is given twice", "Leave it out")
    try:
        return BailianApp(AppSettings.of(known | fields | given))
    except InvalidInputError as error:
        raise InvalidInputError.of([_with_set(each, fields) for each in error.each()]) from None


def _with_set(error: InvalidInputError, fields: Mapping[str, Any]) -> InvalidInputError:
    """Return an error of a setting with the option that set it."""
    if re.split(r"[.\[]", error.field)[0] not in fields:
        return error
    return error.renamed(f"--set {error.field}")


def _instead_of(name: str) -> str:
    """Return what to write instead of `--set` with a name that is not a setting."""
    return instead_of(name) or N_(
        "Write --biz {name}=… for a start variable of a workflow, or --set "
        """extra_body:='{{"parameters": {{"{name}": …}}}}' for another parameter of the API"""
    ).format(name=name)


def media(images: Sequence[str] | None, files: Sequence[str] | None) -> dict[str, Any]:
    """Return the options of a call for the images and files that a command names.

    Args:
        images: Addresses, Data URLs and paths.
        files: Addresses.

    Raises:
        InvalidInputError: An image cannot be sent, or a file is not an address.
    """
    options: dict[str, Any] = {}
    if images:
        options["image_list"] = [_image(image) for image in images]
    if files:
        options["file_list"] = [read_file(file, "--file") for file in files]
    return options


def _image(text: str) -> Image:
    if is_fetchable(text):
        return text
    if text[:5].lower() == "data:":
        image = InlineImage(text, "--image")
    else:
        image = InlineImage(Path(text), f"--image {text}")
    image.data_url()  # `chat` must not find out with each message that it cannot be sent
    return image


def _pairs(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """Parse `name=text` and `name:=JSON`. Errors do not show values: they may be secrets."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        as_json = name.endswith(":")
        name = name.removesuffix(":")
        if not equals or not name:
            raise InvalidInputError(
                option,
                "must be NAME=VALUE",
                N_("Write {option} city=Hangzhou or {option} days:=2").format(option=option),
            )
        values[name] = _parse(value, f"{option} {name}") if as_json else value
    return values


def _biz_object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(
                "--biz-json",
                N_("cannot be read ({reason})").format(reason=read_problem(error)),
                "Pass a UTF-8 file",
            ) from None
    value = _parse(text, "--biz-json")
    if not isinstance(value, dict):
        raise InvalidInputError(
            "--biz-json",
            N_("must be a JSON object, not of type {type}").format(type=type(value).__name__),
            'Pass an object such as {"a": 1}',
        )
    return cast("dict[str, Any]", value)


def _parse(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = ""
        if isinstance(error, json.JSONDecodeError):
            where = N_(" at column {column}").format(column=error.colno)
        other = N_("use = for plain text")
        if option == "--biz-json":
            other = N_("pass a file as @FILE")
        raise InvalidInputError(
            option,
            N_("is not JSON{where}").format(where=where),
            N_("Quote it for the shell, or {other}").format(other=other),
        ) from None


def read_prompt(prompt: str) -> str:
    """Return the prompt; `-` reads standard input.

    Raises:
        InvalidInputError: It is missing, cannot be read, or is an API key.
    """
    if prompt == "-" and sys.stdin.isatty():
        raise InvalidInputError(
            "PROMPT", "is missing", 'Write it after the app id ("-" for the one in BAILIAN_APP_ID)'
        )
    try:
        text = sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
    except UnicodeDecodeError:
        raise InvalidInputError("PROMPT", "is not UTF-8 text", "Convert it with iconv") from None
    refuse_key_as_prompt(text)
    return text


def check_writable(html: Path) -> None:
    """Refuse a file that cannot be written, before anything is sent."""
    if html.is_dir() or not html.absolute().parent.is_dir():
        problem = N_("is a folder") if html.is_dir() else N_("is in a folder that does not exist")
        raise InvalidInputError("--html", problem, "Pass the name of a file")


def save_picture(page: str, html: Path, console: Console, what: str = "") -> None:
    """Write a page to the file of `--html`, and say where it is.

    Args:
        page: The page.
        html: The file.
        console: Where to say it.
        what: What the page is, if not the picture of a run.

    Raises:
        SystemExit: The file cannot be written.
    """
    try:
        html.write_text(page, encoding="utf-8")
    except OSError as error:
        problem = _("{path} cannot be written: {reason}")
        print_note(console, problem.format(path=html, reason=error.strerror), "red")
        raise SystemExit(1) from None
    print_note(console, f"{what or _('Picture of the run')}{_(': ')}{html.absolute()}")


def _error_as_json(error: BailianError) -> dict[str, Any]:
    fields = ("message", "code", "status_code", "request_id", "session_id", "attempts")
    return {
        "error": {"type": type(error).__name__} | {name: getattr(error, name) for name in fields},
        "partial": None if error.partial is None else as_json(error.partial),
    }


def print_json(value: Mapping[str, Any]) -> None:
    """Print a JSON object as one line of standard output."""
    print(json.dumps(value, ensure_ascii=False), flush=True)  # noqa: T201
