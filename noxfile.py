"""Tests on other versions of Python and of the dependencies, and of what is published.

`make matrix` runs the sessions for the tests, `make package` the others; `nox --list` names them.
What follows `--` goes to pytest. uv installs, from the index that pip is configured for. Where uv
fails, `NOX_DEFAULT_VENV_BACKEND=virtualenv` has pip install.
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

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
# What runs on the locked versions only: databases, type checkers, the documentation and examples.
LOCKED = [
    "tests/memory",
    "tests/typing",
    "tests/test_docs_*.py",
    "tests/test_examples.py",
    "tests/test_package.py",
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
    install(session, "all,ray", "dev", "stores", "docs", "build", lock="requirements/dev.lock")
    pytest(session)


@nox.session(python=HERE[0])
def floor(session: nox.Session) -> None:
    """Run the tests on the oldest Python, with the oldest release of each dependency."""
    install(session, "all,ray", "test", "floor", lock="requirements/floor.lock")
    # The frameworks of that time use parts of pydantic and of Python that warn today.
    quiet = "--override-ini=filterwarnings=default"
    pytest(session, quiet, *(f"--ignore-glob={each}" for each in LOCKED))


@nox.session(python=HERE[-1])
def newest(session: nox.Session) -> None:
    """Run the tests on the newest Python, with the newest releases, whatever is locked."""
    install(session, "all,ray", "dev")
    pytest(session, *(f"--ignore-glob={each}" for each in LOCKED))


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


def built(session: nox.Session, kind: str) -> Path:
    """Return what `nox -s build` made."""
    found = next(DIST.glob(kind), None)
    if found is None:
        session.error("dist/ is empty: run `nox -s build` first")
    return found.resolve()


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
    # An unpacked source distribution has no commits.
    source = clone(session) if Path(".git").exists() else Path()
    locked = {"PIP_CONSTRAINT": "requirements/dev.lock"}  # for the environment that builds
    session.run(*TOOLS, "build", "--outdir", str(DIST), str(source), env=locked)
    session.run(*TOOLS, "twine", "check", "--strict", *map(str, DIST.iterdir()))
    session.run(*TOOLS, "check_wheel_contents", str(built(session, "*.whl")))


@nox.session(default=False)
@nox.parametrize("extra", ["none", *EXTRAS])
def wheel(session: nox.Session, extra: str) -> None:
    """Install the wheel with one extra into an empty environment, and use it."""
    extras = "" if extra == "none" else f"[{extra}]"
    session.install(f"bailian-apps{extras} @ {built(session, '*.whl').as_uri()}")
    pip = ["uv", "pip"] if session.venv_backend == "uv" else ["pip"]
    session.run(*pip, "check", external=True)
    if extra in ("emulator", "all"):
        session.install("pytest")  # for the README's test
    with cloud() as environment:
        session.run("python", "-I", "tests/try_installed.py", extra, env=environment)


@nox.session(default=False)
def sdist(session: nox.Session) -> None:
    """Unpack the source distribution into an empty folder, install it, and run its tests."""
    # Not in create_tmp(): it sets TMPDIR, and tests that run pytest would find this pyproject.toml.
    folder = Path(session.virtualenv.location).resolve() / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.unpack_archive(built(session, "*.tar.gz"), folder)
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
    links = [*os.environ.get("PIP_FIND_LINKS", "").split(), built(session, "*.whl").parent.as_uri()]
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
