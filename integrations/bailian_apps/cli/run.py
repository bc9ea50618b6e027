"""`bailian-apps run`: one prompt, one answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from bailian_apps.app import BailianApp
from bailian_apps.cli.view import as_json, show
from bailian_apps.core.attachments import Image, InlineImage, is_fetchable, read_file
from bailian_apps.core.errors import BailianError, InvalidInputError
from bailian_apps.core.history import Plan
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import AppSettings
from bailian_apps.run import Run


def run(
    app: BailianApp,
    prompt: str,
    console: Console,
    options: Mapping[str, Any],
    *,
    output: str,
    steps: bool,
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
    """
    text = read_prompt(prompt)
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
                _print_text(error.partial)
            raise
    if output == "json":
        print_json(as_json(result))
    elif output == "text":
        _print_text(result)


def bailian_app(
    app_id: str,
    biz: Sequence[str] | None,
    biz_json: str | None,
    settings: Sequence[str] | None,
    **options: Any,
) -> BailianApp:
    """Make the app that the arguments of a command describe.

    Args:
        app_id: Its id; `-` reads BAILIAN_APP_ID.
        biz: `biz_params`, as `name=text` or `name:=JSON`.
        biz_json: `biz_params` as a JSON object, or as `@` and the path of a JSON file.
        settings: Other settings, as `name=text` or `name:=JSON`.
        **options: Settings that have options of their own; None for those not used.

    Raises:
        InvalidInputError: An argument is not valid.
    """
    fields = _pairs(settings or (), "--set")
    if "api_key" in fields:
        raise InvalidInputError(
            "--set api_key",
            "would show the key in the list of processes of this machine",
            "Set DASHSCOPE_API_KEY instead",
        )
    given = {name: value for name, value in options.items() if value is not None}
    if params := _biz_object(biz_json) | _pairs(biz or (), "--biz"):
        given["biz_params"] = params
    if app_id != "-":
        given["app_id"] = app_id
    for name in fields.keys() & given.keys():
        raise InvalidInputError(f"--set {name}", "is given twice", "Leave it out")
    return BailianApp(AppSettings.of(fields | given))


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
                option, "must be NAME=VALUE", f"Write {option} city=Hangzhou or {option} days:=2"
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
                "--biz-json", f"cannot be read ({_describe_os_error(error)})", "Pass a UTF-8 file"
            ) from None
    value = _parse(text, "--biz-json")
    if not isinstance(value, dict):
        raise InvalidInputError(
            "--biz-json",
            f"must be a JSON object, not of type {type(value).__name__}",
            'Pass an object such as {"a": 1}',
        )
    return cast("dict[str, Any]", value)


def _parse(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        other = "pass a file as @FILE" if option == "--biz-json" else "use = for plain text"
        raise InvalidInputError(
            option, f"is not JSON{where}", f"Quote it for the shell, or {other}"
        ) from None


def _describe_os_error(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or "it is not UTF-8 text"


def read_prompt(prompt: str) -> str:
    """Return the prompt; for `-`, what standard input holds.

    Raises:
        InvalidInputError: Standard input is a terminal, or not UTF-8.
    """
    if prompt == "-" and sys.stdin.isatty():
        raise InvalidInputError(
            "PROMPT", "is missing", 'Write it after the app id ("-" for the one in BAILIAN_APP_ID)'
        )
    try:
        return sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
    except UnicodeDecodeError:
        raise InvalidInputError("PROMPT", "is not UTF-8 text", "Convert it with iconv") from None


def _error_as_json(error: BailianError) -> dict[str, Any]:
    fields = ("message", "code", "status_code", "request_id", "session_id", "attempts")
    return {
        "error": {"type": type(error).__name__} | {name: getattr(error, name) for name in fields},
        "partial": None if error.partial is None else as_json(error.partial),
    }


def print_json(value: Mapping[str, Any]) -> None:
    """Print a JSON object as one line of standard output."""
    print(json.dumps(value, ensure_ascii=False), flush=True)  # noqa: T201


def _print_text(result: AppResult) -> None:
    print(result.text, flush=True)  # noqa: T201
