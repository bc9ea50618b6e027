"""Apps from files that are read again when they change."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, get_args

from bailian_apps.emulator.apps.files import (
    DescribedApp,
    ScenarioError,
    files_of,
    load_file,
    merge_apps,
    only_app,
)
from bailian_apps.emulator.apps.recorded_app import Matching
from bailian_apps.emulator.apps.recordings import Recording
from bailian_apps.emulator.apps.rules import Paced, PromptOnly, Rules

_Signature: TypeAlias = tuple[tuple[int, int, int] | None, ...]

logger = logging.getLogger("bailian_apps.emulator")


@dataclass(slots=True)
class _File:
    """What was read of a file: its apps, the files that they are made of, and as of when."""

    apps: dict[str, DescribedApp] = field(default_factory=dict[str, DescribedApp])
    parts: list[Path] = field(default_factory=list[Path])
    signature: _Signature = ()


class AppFiles(Mapping[str, DescribedApp]):
    """The apps of files and folders, by their ids.

    An emulator with these apps looks at the files before each call and reads again what changed. A
    file that has become invalid keeps the apps that it had; the log says why.
    """

    def __init__(
        self,
        *paths: str | os.PathLike[str],
        named: Mapping[str, str | os.PathLike[str]] | None = None,
        matching: Matching | None = None,
        root: str | os.PathLike[str] | None = None,
        reload: bool = True,
    ) -> None:
        """Read the apps.

        Args:
            paths: Recordings, YAML files, and folders of them, as for `load_apps`. If two have an
                app of the same id, that of the first counts.
            named: The file of each further app; a file with several must have one of this id.
            matching: How a call finds its recording. `prompt` is by its prompt and `biz_params`,
                `exact` also by its messages and by what it asks for; with `nearest`, the recording
                of the most similar request answers what was not recorded. By default `prompt`; and
                an app with a single recording answers every call with it.
            root: A folder that the paths in YAML files may lead to, as for `load_apps`.
            reload: Whether to read changed files again.

        Raises:
            RecordingError: A recording cannot be read.
            ScenarioError: A YAML file is invalid, or two files of a folder have the same app.
            ValueError: `matching` is unknown.
        """
        if matching not in (None, *get_args(Matching)):
            raise ValueError(
                f"matching={matching!r} must be one of {', '.join(get_args(Matching))}"
            )
        self.reload = reload
        self._root = None if root is None else Path(root)
        self._paths = [Path(path) for path in paths]
        self._named = {app_id: Path(path) for app_id, path in (named or {}).items()}
        self._matching: Matching | None = matching
        self._files: dict[Path, _File] = {}
        self._problem = ""
        listed = self._list()
        for files in listed.values():
            for file in files:
                self._read(file)
        self._apps = self._merge(listed)

    def __getitem__(self, app_id: str) -> DescribedApp:
        """Return an app."""
        return self._apps[app_id]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids."""
        return iter(self._apps)

    def __len__(self) -> int:
        """Return the number of apps."""
        return len(self._apps)

    def update(self) -> bool:
        """Read what changed; return whether the apps are others now."""
        if not self.reload:
            return False
        try:
            listed = self._list()
        except OSError as error:
            self._complain(str(error))
            return False
        files = {file for each in listed.values() for file in each}
        changed = [file for file in files if self._has_changed(file)]
        gone = self._files.keys() - files
        for file in gone:
            del self._files[file]
        for file in sorted(changed):
            try:
                self._read(file)
            except ValueError as error:
                kept = self._files.setdefault(file, _File())
                kept.signature = self._signature_of(file)
                logger.warning("not reloaded: %s", error)
            else:
                logger.info("reloaded %s", file)
        if not changed and not gone:
            return False
        try:
            self._apps = self._merge(listed)
        except ScenarioError as error:
            self._complain(str(error))
            return False
        self._problem = ""
        return True

    def _complain(self, problem: str) -> None:
        """Log a problem once, although every call finds it."""
        if self._problem != problem:
            self._problem = problem
            logger.warning("not reloaded: %s", problem)

    def _list(self) -> dict[Path, list[Path]]:
        return {path: files_of(path) for path in [*self._named.values(), *self._paths]}

    def _has_changed(self, file: Path) -> bool:
        known = self._files.get(file)
        return known is None or known.signature != self._signature_of(file)

    def _signature_of(self, file: Path) -> _Signature:
        parts = self._files[file].parts if file in self._files else []
        return tuple(map(_signature, [file, *parts]))

    def _read(self, file: Path) -> None:
        before = _signature(file)  # a change while it is read is found the next time
        apps = load_file(file, self._root)
        parts = [part for app in apps.values() for part in _parts_of(app) if part != file]
        self._files[file] = _File(apps, parts, (before, *map(_signature, parts)))

    def _merge(self, listed: Mapping[Path, list[Path]]) -> dict[str, DescribedApp]:
        def apps_in(path: Path) -> dict[str, DescribedApp]:
            return merge_apps(
                {file: self._files[file].apps for file in listed[path]}, self._matching
            )

        apps: dict[str, DescribedApp] = {}
        for app_id, path in self._named.items():
            apps[app_id] = only_app(path, apps_in(path), app_id)
        for path in self._paths:
            apps = {**apps_in(path), **apps}
        return apps


def _signature(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)  # noqa: PTH116  # faster, and this is done before each call
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _parts_of(app: DescribedApp) -> Iterable[Path]:
    """Return the recordings that an app is made of."""
    if isinstance(app, Recording):
        return [app.path]
    if isinstance(app, Rules):
        return [rule.recording.path for rule in app.rules if rule.recording is not None]
    if isinstance(app, Paced | PromptOnly):
        source = app.source
        if isinstance(source, Recording | Rules | Paced):
            return _parts_of(source)
    return []
