"""`bailian-apps run`: one question, one answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from bailian_apps.app import BailianApp
from bailian_apps.cli.view import as_json, show
from bailian_apps.core.errors import BailianError, InvalidInputError
from bailian_apps.core.history import Plan
from bailian_apps.core.result import AppResult
from bailian_apps.run import stream


def run(
    app: BailianApp,
    prompt: str,
    console: Console,
    *,
    session_id: str | None,
    output: str,
    steps: bool,
) -> None:
    """Ask once.

    Args:
        app: Whom to ask.
        prompt: The words; `-` reads standard input.
        console: Where the steps go.
        session_id: A session to go on in.
        output: What standard output gets: `"stream"`, `"text"` (the same, at the end), `"json"` or
            `"raw"`.
        steps: Whether the steps are shown.

    Raises:
        BailianError: The call failed. With `"json"`, standard output has it too.
    """
    words = _read_prompt(prompt)
    said = {"session_id": session_id} if session_id else {}
    if output == "raw":
        settings = app.settings.with_overrides({"max_retries": 0})
        plan = Plan.for_prompt(settings.app_id, words)
        with stream(settings, plan, said, client=app.client, on_frame=_print_json) as events:
            show(events, console, steps=steps, answer=False)
        return
    with app.stream(words, **said) as events:
        try:
            result = show(events, console, steps=steps, answer=output == "stream")
        except BailianError as error:
            if output == "json":
                _print_json(_failure(error))
            elif output == "text" and error.partial is not None:
                _print_text(error.partial)
            raise
    if output == "json":
        _print_json(as_json(result))
    elif output == "text":
        _print_text(result)


def bailian_app(
    app_id: str,
    *,
    biz: Sequence[str],
    biz_json: str | None,
    given: Sequence[str],
    **options: Any,
) -> BailianApp:
    """The app that a command line names.

    Args:
        app_id: Its id; `-` is that of BAILIAN_APP_ID.
        biz: Pairs for `biz_params`.
        biz_json: An object for `biz_params`, or `@` and the path of a file that holds one.
        given: Pairs of settings.
        **options: Settings that have options of their own; None for those not used.

    Raises:
        InvalidInputError: Something of it is not valid.
    """
    fields = _pairs(given, "--set")
    if "api_key" in fields:
        raise InvalidInputError(
            "--set api_key",
            "would show the key to whoever lists the processes of this machine",
            "Set DASHSCOPE_API_KEY instead",
        )
    fields |= {name: value for name, value in options.items() if value is not None}
    if params := _biz_object(biz_json) | _pairs(biz, "--biz"):
        fields["biz_params"] = params
    if app_id != "-":
        fields["app_id"] = app_id
    return BailianApp(**fields)


def _pairs(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """`name=text` and `name:=JSON`, as a dict. No message shows a value: it may be a secret."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        as_json = name.endswith(":")
        name = name.removesuffix(":")
        if not equals or not name:
            raise InvalidInputError(
                option, "is no name=value", f"Write {option} city=Hangzhou or {option} days:=2"
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
                "--biz-json", f"cannot be read ({_why(error)})", "Name a file of UTF-8 text"
            ) from None
    value = _parse(text, "--biz-json")
    if not isinstance(value, dict):
        raise InvalidInputError(
            "--biz-json", f"is JSON of type {type(value).__name__}", 'Pass an object like {"a": 1}'
        )
    return cast("dict[str, Any]", value)


def _parse(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        other = "name a file as @FILE" if option == "--biz-json" else "use = for plain text"
        raise InvalidInputError(
            option, f"is not JSON{where}", f"Quote it for the shell, or {other}"
        ) from None


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or "it is not UTF-8 text"


def _read_prompt(prompt: str) -> str:
    if prompt == "-" and sys.stdin.isatty():
        raise InvalidInputError(
            "PROMPT", "is missing", 'Write it after the app id ("-" for the one in BAILIAN_APP_ID)'
        )
    try:
        words = sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
        words.encode()
    except UnicodeError:
        raise InvalidInputError("PROMPT", "is no UTF-8 text", "Convert it with iconv") from None
    return words


def _failure(error: BailianError) -> dict[str, Any]:
    about = ("message", "code", "status_code", "request_id", "session_id", "attempts")
    return {
        "error": {"type": type(error).__name__} | {name: getattr(error, name) for name in about},
        "partial": None if error.partial is None else as_json(error.partial),
    }


def _print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)  # noqa: T201


def _print_text(result: AppResult) -> None:
    print(result.text, flush=True)  # noqa: T201
