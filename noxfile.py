"""Tests on other versions of Python and of the dependencies, and of what is published.

`make matrix` runs every session; `nox --list` names them.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False


# What is published.

DIST = Path("dist")
RECORDED = "integrations/bailian_apps/emulator/recordings/travel-workflow.jsonl"
EXTRAS = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]
TOOLS = [sys.executable, "-m"]


def clone(session: nox.Session) -> Path:
    """Return a new clone of the last commit."""
    folder = Path(session.create_tmp()).resolve() / "clone"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("git", "clone", "--quiet", ".", str(folder), external=True)
    return folder


def built(kind: str) -> Path:
    """Return what `nox -s build` made."""
    (path,) = DIST.glob(kind)
    return path.resolve()


@contextmanager
def cloud() -> Iterator[dict[str, str]]:
    """Yield the environment of a user, with the emulator in the place of the cloud."""
    from bailian_apps.emulator import Emulator  # of the .venv that nox runs in

    with Emulator(apps={"mine": RECORDED}, api_key="sk-mine") as emulator:
        yield {
            "DASHSCOPE_API_KEY": "sk-mine",
            "BAILIAN_APP_ID": "mine",
            "DASHSCOPE_HTTP_BASE_URL": emulator.base_url,
            "BAILIAN_LANG": "en",
        }


@nox.session(venv_backend="none")
def build(session: nox.Session) -> None:
    """Build dist/ from a clone of the last commit, and check it."""
    shutil.rmtree(DIST, ignore_errors=True)
    session.run(*TOOLS, "build", "--outdir", str(DIST), str(clone(session)))
    session.run(*TOOLS, "twine", "check", "--strict", *map(str, DIST.iterdir()))
    session.run(*TOOLS, "check_wheel_contents", str(built("*.whl")))


@nox.session
@nox.parametrize("extra", ["none", *EXTRAS])
def wheel(session: nox.Session, extra: str) -> None:
    """Install the wheel with one extra into an empty environment, and use it."""
    extras = "" if extra == "none" else f"[{extra}]"
    session.install(f"bailian-apps{extras} @ {built('*.whl').as_uri()}")
    pip = ["uv", "pip"] if session.venv_backend == "uv" else ["pip"]
    session.run(*pip, "check", external=True)
    if extra in ("emulator", "all"):
        session.install("pytest")  # for the README's test
    with cloud() as environment:
        session.run("python", "-I", "tests/try_installed.py", extra, env=environment)
