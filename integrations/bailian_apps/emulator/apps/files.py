"""Loads apps from recordings, YAML files and folders of them."""

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from bailian_apps.emulator.apps.fields import UnknownFieldError
from bailian_apps.emulator.apps.recorded_app import Matching, RecordedApp
from bailian_apps.emulator.apps.recordings import (
    SUFFIXES,
    Recording,
    load_recording,
    read_text,
)
from bailian_apps.emulator.apps.rules import (
    AnswerSource,
    AppDescription,
    Paced,
    PromptOnly,
    Rules,
)
from bailian_apps.emulator.apps.yaml_text import YamlError, YamlText
from bailian_apps.emulator.wire.frames import as_list, as_object, parse_json

DescribedApp: TypeAlias = AnswerSource | Rules | RecordedApp | Paced | PromptOnly
"""An app that a file can define."""

_YAML = (".yaml", ".yml")


class ScenarioError(ValueError):
    """A file of apps is invalid; the message has the file, the line and the field."""


def load_apps(
    path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> dict[str, DescribedApp]:
    """Load the apps of a file, or of all files in a folder.

    A YAML file has apps by their ids under `apps`, or is one app; the id of that app, and of a
    recording, is the file name without its suffix. A file of the recorder has the recorded app id.
    If a folder has several recordings of one app, a call gets the one with its prompt and
    `biz_params`.

    Args:
        path: A `.yaml` or `.yml` file, a recording, or a folder of them.
        root: A folder that the paths in YAML files may lead to, beside the file's own. By default
            none: a file may come from someone else.

    Raises:
        ScenarioError: A file is missing or malformed, has a path that leads elsewhere, or two apps
            have the same id.
        RecordingError: A recording cannot be read.
    """
    path = Path(path)
    root = None if root is None else Path(root)
    apps = merge_apps({file: load_file(file, root) for file in files_of(path)})
    if not apps:
        endings = ", ".join((*_YAML, *SUFFIXES))
        raise ScenarioError(f"{path}: no apps in this folder; it needs files that end in {endings}")
    return apps


def files_of(path: Path) -> list[Path]:
    """Return the files of a folder that define apps, or the path of a file itself."""
    if not path.is_dir():
        return [path]
    # Before each call of some emulators, so names and not paths: ten times faster.
    names = sorted(name for name in os.listdir(path) if name.endswith((*_YAML, *SUFFIXES)))  # noqa: PTH208
    return [path / name for name in names]


def load_file(path: Path, root: Path | None) -> dict[str, DescribedApp]:
    """Load the apps of one file; see `load_apps` for the arguments and errors."""
    if path.suffix in _YAML:
        return _load_yaml(path, root)
    recording = load_recording(path)
    return {recording.request.app_id if recording.request else path.stem: recording}


def merge_apps(
    files: Mapping[Path, Mapping[str, DescribedApp]], matching: Matching | None = None
) -> dict[str, DescribedApp]:
    """Return the apps of several files.

    Args:
        files: The apps of each file.
        matching: How a call finds its recording; by default an app with one recording answers
            every call with it, and otherwise the prompt and `biz_params` count.

    Raises:
        ScenarioError: Two apps have the same id, and are not both recordings of the recorder.
    """
    apps: dict[str, DescribedApp] = {}
    origin: dict[str, Path] = {}
    recorded: dict[str, list[Recording]] = {}
    for file, found in files.items():
        for app_id, app in found.items():
            request = app.request if isinstance(app, Recording) else None
            if app_id in apps and not (request and app_id in recorded):
                raise ScenarioError(
                    f"{file}: {origin[app_id]} has an app {app_id!r} too; rename one of them"
                )
            apps[app_id], origin[app_id] = app, file
            if isinstance(app, Recording) and request:
                recorded.setdefault(app_id, []).append(app)
    for app_id, several in recorded.items():
        if matching or several[1:]:
            apps[app_id] = RecordedApp(several, matching or "prompt")
    return apps


def only_app(path: Path, apps: Mapping[str, DescribedApp], app_id: str = "") -> DescribedApp:
    """Return the only app of a file, or the one with an id.

    Raises:
        ScenarioError: There are several, and none has the id.
    """
    if app_id in apps:
        return apps[app_id]
    if len(apps) != 1:
        none = f", and none is {app_id!r}" if app_id else "; pass load_apps(path) as apps"
        raise ScenarioError(f"{path}: has {len(apps)} apps, {', '.join(apps)}{none}")
    return next(iter(apps.values()))


def load_app(path: Path) -> DescribedApp:
    """Load the only app of a file or folder; see `load_apps` for the errors."""
    return only_app(path, load_apps(path))


def parse_app(text: str) -> DescribedApp:
    """Return the app that a text in JSON or YAML describes; it may not refer to files.

    Raises:
        ScenarioError: It describes no app, or refers to a recording.
    """
    source = YamlText("")
    try:
        value = parse_json(text)
    except ValueError:
        source = _read_yaml(None, text)
        value = source.value
    if as_object(value) is None:
        raise ScenarioError("must be a mapping with the fields of one app")
    return _describe(None, None, source, (), value)


def _load_yaml(path: Path, root: Path | None) -> dict[str, DescribedApp]:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    source = _read_yaml(path, text)
    content = as_object(source.value)
    describe = partial(_describe, path, root, source)
    if items := as_list(source.value):
        return _load_list(path, source, (), items, describe)
    if not content:
        raise ScenarioError(f"{path}: defines no app; it needs `apps:` or the fields of one app")
    if "apps" not in content:
        return {path.stem: describe((), content)}
    if other := [str(name) for name in content if name != "apps"]:
        raise ScenarioError(
            f"{path}:{source.line_of(other[:1])}: {', '.join(other)}: not allowed beside `apps`; "
            "move it into an app"
        )
    if items := as_list(content["apps"]):
        return _load_list(path, source, ("apps",), items, describe)
    apps: dict[Any, Any] | None = as_object(content["apps"])
    where = f"{path}:{source.line_of(['apps'])}"
    if not apps:
        raise ScenarioError(f"{where}: apps: must be a mapping of app ids to apps, or a list")
    for app_id in apps:
        if not isinstance(app_id, str):
            raise ScenarioError(f"{where}: apps.{app_id}: an app id must be a string; quote it")
    return {app_id: describe(("apps", app_id), app) for app_id, app in apps.items()}


def _load_list(
    path: Path,
    source: YamlText,
    where: tuple[str, ...],
    items: list[Any],
    describe: Callable[[tuple[str | int, ...], object], DescribedApp],
) -> dict[str, DescribedApp]:
    """Load the apps of a list; each has its id as a field."""
    apps: dict[str, DescribedApp] = {}
    for index, item in enumerate(items):
        place = (*where, index)
        at = f"{path}:{source.line_of(place)}: {_name(place)}"
        fields = as_object(item)
        if fields is None:
            raise ScenarioError(f"{at}: must be a mapping with `id` and the fields of one app")
        app_id: object = fields.get("id")
        if not isinstance(app_id, str) or not app_id:
            raise ScenarioError(f"{at}.id: an app in a list needs its id, a string")
        if app_id in apps:
            raise ScenarioError(f"{at}.id: {app_id!r} is the id of another app too; rename one")
        rest = {name: value for name, value in fields.items() if name != "id"}
        apps[app_id] = describe(place, rest)
    return apps


def _read_yaml(path: Path | None, text: str) -> YamlText:
    try:
        return YamlText(text)
    except YamlError as error:
        raise ScenarioError(f"{_at(path, error.line)}not YAML: {error}") from error


def _describe(
    path: Path | None,
    root: Path | None,
    source: YamlText,
    where: tuple[str | int, ...],
    value: object,
) -> DescribedApp:
    context = {"folder": None if path is None else path.parent, "root": root}
    try:
        return AppDescription.model_validate(value, context=context).app
    except ValidationError as error:
        problems: list[str] = []
        for each in error.errors(include_url=False):
            place = (*where, *each["loc"])
            unknown = each.get("ctx", {}).get("error")
            key = [unknown.name] if isinstance(unknown, UnknownFieldError) else []
            line = source.line_of([*place, *key])
            problems.append(_at(path, line if source.value else None) + _problem(place, each))
        raise ScenarioError("\n".join(problems)) from error


def _at(path: Path | None, line: int | None) -> str:
    if path is None:
        return f"line {line}: " if line else ""
    return f"{path}:{line}: " if line else f"{path}: "


def _name(place: Iterable[str | int]) -> str:
    field = ""
    for part in place:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    return field


def _problem(place: tuple[str | int, ...], error: Any) -> str:
    field = _name(place)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] != "missing" and not isinstance(error["input"], dict):
        message += f" (got {type(error['input']).__name__} {str(error['input'])[:60]!r})"
        if error["type"] == "string_type" and isinstance(error["input"], (bool, int, float, date)):
            message += "; quote it"  # YAML reads `no` as false, and `1.10` as a number
    return f"{field}: {message}" if field else message
