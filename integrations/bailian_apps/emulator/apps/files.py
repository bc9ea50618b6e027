"""Loads apps from recordings, YAML files and folders of them."""

import os
import re
from collections.abc import Hashable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, cast

import yaml
from pydantic import ValidationError

from bailian_apps.emulator.apps.fields import When
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
    Rule,
    Rules,
)
from bailian_apps.emulator.credentials import is_secret
from bailian_apps.emulator.models import ReceivedRequest
from bailian_apps.emulator.wire.frames import MAX_NESTING, as_object, to_json

DescribedApp: TypeAlias = AnswerSource | Rules | Paced | PromptOnly
"""An app that a file can define."""

_YAML = (".yaml", ".yml")
_MAX_ALIASED = 100_000


class ScenarioError(ValueError):
    """A file of apps is invalid; the message has the file and the field."""


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
    if not path.is_dir():
        if path.suffix in _YAML:
            return _load_yaml(path, None if root is None else Path(root))
        recording = load_recording(path)
        return {recording.request.app_id if recording.request else path.stem: recording}
    apps: dict[str, DescribedApp] = {}
    origin: dict[str, Path] = {}
    recorded: dict[str, list[tuple[Recording, ReceivedRequest]]] = {}
    for file in sorted(each for each in path.iterdir() if each.suffix in (*_YAML, *SUFFIXES)):
        for app_id, app in load_apps(file, root=root).items():
            request = app.request if isinstance(app, Recording) else None
            if app_id in apps and not (request and app_id in recorded):
                raise ScenarioError(
                    f"{file}: {origin[app_id]} has an app {app_id!r} too; rename one of them"
                )
            apps[app_id], origin[app_id] = app, file
            if isinstance(app, Recording) and request:
                recorded.setdefault(app_id, []).append((app, request))
    apps |= {app_id: _rules_of(several) for app_id, several in recorded.items() if several[1:]}
    if not apps:
        endings = ", ".join((*_YAML, *SUFFIXES))
        raise ScenarioError(f"{path}: no apps in this folder; it needs files that end in {endings}")
    return apps


def _rules_of(recorded: list[tuple[Recording, ReceivedRequest]]) -> Rules:
    """Return one app for all recordings of it; of two equal calls, the later recording counts."""
    rules: dict[tuple[str, str], Rule] = {}
    for recording, request in recorded:
        params = {k: item for k, item in request.biz_params.items() if not is_secret(k, item)}
        when = When(matches=rf"\A{re.escape(request.prompt)}\Z", biz_params=params)
        rules[request.prompt, to_json(params)] = Rule(when=when, recording=recording)
    # Rules with more biz_params come first: a rule without biz_params matches any.
    most_first = sorted(rules, key=lambda known: -len(known[1]))
    return Rules(rules=[rules[known] for known in most_first])


def load_app(path: Path) -> DescribedApp:
    """Load the only app of a file; see `load_apps` for the errors."""
    apps = load_apps(path)
    if len(apps) != 1:
        raise ScenarioError(
            f"{path}: has {len(apps)} apps, {', '.join(apps)}; pass load_apps(path) as apps"
        )
    return next(iter(apps.values()))


def _load_yaml(path: Path, root: Path | None) -> dict[str, DescribedApp]:
    try:
        value: object = yaml.load(read_text(path), _Loader)  # noqa: S506
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        raise ScenarioError(f"{where}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: such as a date 2025-13-01
        raise ScenarioError(f"{path}: not YAML: {error}") from error
    content = as_object(value)
    if not content:
        raise ScenarioError(f"{path}: defines no app; it needs `apps:` or the fields of one app")
    describe = partial(_describe, path, root)
    if "apps" not in content:
        return {path.stem: describe("", content)}
    if other := [str(name) for name in content if name != "apps"]:
        raise ScenarioError(
            f"{path}: {', '.join(other)}: not allowed beside `apps`; move it into an app"
        )
    apps: dict[Any, Any] | None = as_object(content["apps"])
    if not apps:
        raise ScenarioError(f"{path}: apps: must be a mapping of app ids to apps")
    for app_id in apps:
        if not isinstance(app_id, str):
            raise ScenarioError(f"{path}: apps.{app_id}: an app id must be a string; quote it")
    return {app_id: describe(f"apps.{app_id}", app) for app_id, app in apps.items()}


def _describe(path: Path, root: Path | None, where: str, value: object) -> DescribedApp:
    context = {"folder": path.parent, "root": root}
    try:
        return AppDescription.model_validate(value, context=context).app
    except ValidationError as error:
        problems = [_problem(where, each) for each in error.errors(include_url=False)]
        raise ScenarioError("\n".join(f"{path}: {problem}" for problem in problems)) from error


def _problem(where: str, error: Any) -> str:
    field = where
    for part in error["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] != "missing" and not isinstance(error["input"], dict):
        message += f" (got {type(error['input']).__name__} {str(error['input'])[:60]!r})"
        if error["type"] == "string_type" and isinstance(error["input"], (bool, int, float, date)):
            message += "; quote it"  # YAML reads `no` as false, and `1.10` as a number
    return f"{field}: {message}" if field else message


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, deep nesting, and aliases that stand for very many values.

    PyYAML's own loader ignores all but the last of duplicate keys. An alias is one object to it,
    but whatever checks or shows the values visits them as often as they are named.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open = 0
        # How many values each node stands for, itself included, and in how many levels.
        self._extents: dict[yaml.Node, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node of the document."""
        event = cast("yaml.Event", self.peek_event())  # pyright: ignore[reportUnknownMemberType]
        self._open += 1
        self._check_nesting(self._open, event.start_mark)
        node = super().compose_node(parent, index)
        self._open -= 1
        if node is None:
            return None
        if isinstance(event, yaml.AliasEvent):
            if node not in self._extents:
                _refuse("an alias stands for a value that contains it", event.start_mark)
            return node
        inner = [self._extents[each] for each in _nodes_in(node)]
        size = 1 + sum(each[0] for each in inner)
        levels = 1 + max((each[1] for each in inner), default=0)
        self._check_nesting(levels, node.start_mark)
        self._extents[node] = size, levels
        if size - len(self._extents) > _MAX_ALIASED:
            _refuse(f"aliases stand for more than {_MAX_ALIASED} values", node.start_mark)
        return node

    def _check_nesting(self, levels: int, mark: yaml.Mark) -> None:
        if levels > MAX_NESTING:
            _refuse(f"nested more than {MAX_NESTING} levels deep", mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping for a node."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"duplicate key {key!r}", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _nodes_in(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refuse(problem: str, mark: yaml.Mark) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
