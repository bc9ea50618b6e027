"""Tests on other versions of Python and of the dependencies, and of what is published.

`make matrix` runs every session; `nox --list` names them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False


# What is published.

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
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
def cloud() -> Generator[dict[str, str], None, None]:
    """Yield the environment of a user, with the emulator in the place of the cloud."""
    from bailian_apps.emulator import Emulator  # of the .venv that nox runs in

    with Emulator(apps={"mine": RECORDED}, api_key="sk-mine") as emulator:
        yield {
            "DASHSCOPE_API_KEY": "sk-mine",
            "BAILIAN_APP_ID": "mine",
            "DASHSCOPE_HTTP_BASE_URL": emulator.base_url,
            "BAILIAN_LANG": "en",
        }


@nox.session(default=False, venv_backend="none")
def build(session: nox.Session) -> None:
    """Build dist/ from a clone of the last commit, and check it."""
    shutil.rmtree(DIST, ignore_errors=True)
    session.run(*TOOLS, "build", "--outdir", str(DIST), str(clone(session)))
    session.run(*TOOLS, "twine", "check", "--strict", *map(str, DIST.iterdir()))
    session.run(*TOOLS, "check_wheel_contents", str(built("*.whl")))


@nox.session(default=False)
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


@nox.session(default=False)
def sdist(session: nox.Session) -> None:
    """Unpack the source distribution into an empty folder, install it, and run its tests."""
    folder = Path(session.create_tmp()).resolve() / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.unpack_archive(built("*.tar.gz"), folder)
    (source,) = folder.iterdir()
    session.chdir(source)
    groups = [f"--group={each}" for each in ("dev", "stores", "docs", "build")]
    locked = ["--constraint=requirements/dev.lock", "--build-constraint=requirements/dev.lock"]
    session.install(*locked, ".[all,ray]", *groups)
    fast = ("-m", "not slow and not process")  # `-- -m "not slow"` runs the rest too
    session.run("python", "-m", "pytest", "--numprocesses=auto", *fast, *session.posargs)


@nox.session(default=False, python=PYTHONS, venv_backend="venv")
def readme(session: nox.Session) -> None:
    """In a clone, run what the README and the demo's page have a new user type."""
    # pip finds the wheel here, and what it requires where it always looks.
    links = [*os.environ.get("PIP_FIND_LINKS", "").split(), str(built("*.whl").parent)]
    environment = {"PIP_FIND_LINKS": " ".join(links)}
    session.chdir(clone(session))
    pages = ["README.md", "README.zh-CN.md", "docs/en/demo.md", "docs/zh/demo.md"]
    text = "\n".join(Path(page).read_text(encoding="utf-8") for page in pages)
    typed = r'pip install "bailian-apps\[\w+\]"|^make demo|^bailian-apps demo'
    for command in dict.fromkeys(re.findall(typed, text, re.M)):
        session.run("bash", "-ec", command, env=environment, external=True)


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Look for known vulnerabilities in what `[all,ray]` installs from the lock."""
    session.install("--constraint=requirements/dev.lock", ".[all,ray]")
    (packages,) = Path(session.virtualenv.location).glob("lib/python*/site-packages")
    command = [*TOOLS, "pip_audit", "--format=json", "--progress-spinner=off", "--path"]
    done = subprocess.run(  # noqa: S603 - nothing in it is foreign
        [*command, str(packages)], capture_output=True, text=True, check=False
    )
    # Where the database answers nothing, every package is skipped and the exit code is 0.
    found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"] if done.stdout else []
    audited = [each for each in found if "vulns" in each]
    if len(audited) < len(found) - 1 or not found:  # this version is not on PyPI yet
        reason = f"the database answered for {len(audited)} of {len(found)} packages"
        (session.error if "required" in session.posargs else session.skip)(reason)
    session.log(f"{len(audited)} packages: {done.stderr.strip()}")
    if done.returncode:
        session.error(json.dumps([each for each in audited if each["vulns"]], indent=2))
