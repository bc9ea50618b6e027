"""Tests on other versions of Python and of the dependencies, and of what is published.

`make matrix` runs every session; `nox --list` names them; what follows `--` goes to pytest. uv
installs, from the index that pip is configured for. Where uv fails,
`NOX_DEFAULT_VENV_BACKEND=virtualenv` has pip install.
"""

import os
import shutil
import subprocess
import sys

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
# What runs on the locked versions only: databases, type checkers, the documentation and examples.
LOCKED = [
    "tests/memory",
    "tests/typing",
    "tests/test_docs_*.py",
    "tests/test_examples.py",
    "tests/test_translations.py",
    "tests/test_tutorials.py",
]

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
# A Python that is neither here nor can be downloaded is skipped.
nox.options.error_on_missing_interpreters = False


def output(*command: str) -> str:
    """Return what a program prints, or nothing where it is not installed or fails."""
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


# Every Python that pyenv has, the newest first, and not only the one that it is set to.
if versions := output("pyenv", "versions", "--bare").split():
    numbers = [each for each in reversed(versions) if each.startswith("3.")]
    os.environ.setdefault("PYENV_VERSION", ":".join(numbers))
index = os.environ.get("PIP_INDEX_URL") or output(
    sys.executable, "-m", "pip", "config", "get", "global.index-url"
)
if index:
    os.environ.setdefault("UV_DEFAULT_INDEX", index)
HERE = [python for python in PYTHONS if shutil.which(f"python{python}")] or [None]


def install(session: nox.Session, extras: str, *groups: str, lock: str | None = None) -> None:
    """Install this package and what its tests need, in a lock file's versions if there is one."""
    locked = ["--constraint", lock, "--build-constraint", lock] if lock else []
    session.install(*locked, "--editable", f".[{extras}]", *(f"--group={each}" for each in groups))


def pytest(session: nox.Session, *arguments: str) -> None:
    """Run the tests that are not slow."""
    workers = os.environ.get("WORKERS", "auto")
    command = f"python -m pytest --numprocesses {workers} --dist worksteal".split()
    session.run(*command, "-m", "not slow", *arguments, *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on each Python, with the versions of dev.lock."""
    install(session, "all,ray", "dev", "stores", "docs", lock="requirements/dev.lock")
    pytest(session)


@nox.session(python=HERE[0])
def floor(session: nox.Session) -> None:
    """Run the tests on the oldest Python, with the oldest release of each dependency."""
    install(session, "all,ray", "test", "floor", lock="requirements/floor.lock")
    pytest(session, *(f"--ignore-glob={each}" for each in LOCKED))


@nox.session(python=HERE[-1])
def newest(session: nox.Session) -> None:
    """Run the tests on the newest Python, with the newest releases, whatever is locked."""
    install(session, "all,ray", "dev")
    pytest(session, *(f"--ignore-glob={each}" for each in LOCKED))
